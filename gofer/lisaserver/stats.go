// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package lisaserver

import (
	"sync/atomic"
	"time"

	"gvisor.dev/gvisor/pkg/lisafs"

	"fsva/gofer/latency"
)

// Stats is a snapshot of a Server's counters.
type Stats struct {
	Connections  int64  `json:"connections"`
	ControlFDs   int64  `json:"controlFDs"`
	OpenFDs      int64  `json:"openFDs"`
	Nodes        int64  `json:"nodes"` // besides the root
	BytesRead    uint64 `json:"bytesRead"`
	BytesWritten uint64 `json:"bytesWritten"`
	// RPCs are the requests of clients by name, as lisafs spells it ("WalkStat").
	// Kinds without requests are left out.
	RPCs map[string]latency.Op `json:"rpcs"`
}

// rpcNames name supportedMessages.
var rpcNames = [...]string{
	lisafs.Mount: "Mount", lisafs.Channel: "Channel", lisafs.FStat: "FStat", lisafs.SetStat: "SetStat",
	lisafs.Walk: "Walk", lisafs.WalkStat: "WalkStat", lisafs.OpenAt: "OpenAt", lisafs.OpenCreateAt: "OpenCreateAt",
	lisafs.Close: "Close", lisafs.FSync: "FSync", lisafs.PWrite: "PWrite", lisafs.PRead: "PRead",
	lisafs.MkdirAt: "MkdirAt", lisafs.MknodAt: "MknodAt", lisafs.SymlinkAt: "SymlinkAt", lisafs.LinkAt: "LinkAt",
	lisafs.FStatFS: "FStatFS", lisafs.FAllocate: "FAllocate", lisafs.ReadLinkAt: "ReadLinkAt", lisafs.Flush: "Flush",
	lisafs.UnlinkAt: "UnlinkAt", lisafs.RenameAt: "RenameAt", lisafs.RenameAt2: "RenameAt2",
	lisafs.Getdents64: "Getdents64", lisafs.FGetXattr: "FGetXattr", lisafs.FSetXattr: "FSetXattr",
	lisafs.FListXattr: "FListXattr", lisafs.FRemoveXattr: "FRemoveXattr", lisafs.BindAt: "BindAt",
}

// rpcCounter counts one kind of request. It is on the path of each, so it is made
// of atomics only.
type rpcCounter struct {
	latency latency.Histogram
	errors  atomic.Uint64
}

func (c *rpcCounter) observe(d time.Duration, err error) {
	c.latency.Observe(d)
	if err != nil {
		c.errors.Add(1)
	}
}

// counters are the live values behind Stats; all are atomic.
type counters struct {
	connections  atomic.Int64
	controlFDs   atomic.Int64
	openFDs      atomic.Int64
	bytesRead    atomic.Uint64
	bytesWritten atomic.Uint64
	rpcs         [len(rpcNames)]rpcCounter // by message id
}

// Stats returns the counters. They are read one by one, so they need not add up
// while requests are running.
func (s *Server) Stats() Stats {
	st := Stats{
		Connections:  s.stats.connections.Load(),
		ControlFDs:   s.stats.controlFDs.Load(),
		OpenFDs:      s.stats.openFDs.Load(),
		Nodes:        s.nodes.live(),
		BytesRead:    s.stats.bytesRead.Load(),
		BytesWritten: s.stats.bytesWritten.Load(),
		RPCs:         make(map[string]latency.Op),
	}
	for m, name := range rpcNames {
		c := &s.stats.rpcs[m]
		if l := c.latency.Summary(); l.Count > 0 {
			st.RPCs[name] = latency.Op{Requests: l.Count, Errors: c.errors.Load(), Latency: l}
		}
	}
	return st
}
