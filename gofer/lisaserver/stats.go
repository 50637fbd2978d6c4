// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package lisaserver

import "sync/atomic"

// Stats is a snapshot of a Server's counters.
type Stats struct {
	Connections  int64  `json:"connections"`
	ControlFDs   int64  `json:"controlFDs"`
	OpenFDs      int64  `json:"openFDs"`
	Nodes        int64  `json:"nodes"` // besides the root
	RPCs         uint64 `json:"rpcs"`
	BytesRead    uint64 `json:"bytesRead"`
	BytesWritten uint64 `json:"bytesWritten"`
}

// counters are the live values behind Stats; all are atomic.
type counters struct {
	connections  atomic.Int64
	controlFDs   atomic.Int64
	openFDs      atomic.Int64
	rpcs         atomic.Uint64
	bytesRead    atomic.Uint64
	bytesWritten atomic.Uint64
}

// Stats returns the counters. They are read one by one, so they need not add up
// while requests are running.
func (s *Server) Stats() Stats {
	return Stats{
		Connections:  s.stats.connections.Load(),
		ControlFDs:   s.stats.controlFDs.Load(),
		OpenFDs:      s.stats.openFDs.Load(),
		Nodes:        s.nodes.live(),
		RPCs:         s.stats.rpcs.Load(),
		BytesRead:    s.stats.bytesRead.Load(),
		BytesWritten: s.stats.bytesWritten.Load(),
	}
}
