// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package supervisor

import (
	"context"
	"fmt"
	"maps"
	"os"
	"slices"
	"time"

	"fsva/gofer/bytesize"
	"fsva/gofer/latency"
	"fsva/gofer/supervisor/goferproto"
)

// Status is what is known of a volume; the reply of GET /v1/stat.
type Status struct {
	Name        string `json:"name"`
	Appliance   string `json:"appliance"`
	Source      string `json:"source,omitempty"`
	State       State  `json:"state"`
	Reason      string `json:"reason,omitempty"` // why State is Failed, or what of a volume that is ready does not work
	Coherence   string `json:"coherence"`
	Isolation   string `json:"isolation"`
	HostNetwork bool   `json:"hostNetwork,omitempty"`
	ReadOnly    bool   `json:"readOnly,omitempty"`
	StrictFsync bool   `json:"strictFsync,omitempty"`
	Directory   string `json:"directory"` // what containers mount
	// Listen is where guests come from, and Window how their hypervisors get
	// windows, if they do.
	Listen []string `json:"listen,omitempty"`
	Window string   `json:"window,omitempty"`
	// Cgroups are the directories of the cgroup that the volume's limits are in.
	Cgroups []string `json:"cgroups,omitempty"`
	// Restarts counts the gofers that were started in place of dead ones.
	Restarts int `json:"restarts,omitempty"`
	// VsockDevices are those of guests whose hypervisors have none of their own.
	VsockDevices []VsockDevice `json:"vsockDevices,omitempty"`

	Started   time.Time `json:"started"`
	PID       int       `json:"pid"`
	GoferPID  int       `json:"goferPid,omitempty"`
	ServerPID int       `json:"serverPid,omitempty"`

	Ready *goferproto.Ready `json:"ready,omitempty"`
	// Gofer is absent when the gofer is not running or does not answer;
	// GoferError then says why.
	Gofer      *goferproto.Stat `json:"gofer,omitempty"`
	GoferError string           `json:"goferError,omitempty"`
	// CacheLimit is absent when the volume has no cache.
	CacheLimit *CacheLimit `json:"cacheLimit,omitempty"`
	// RPCs are the requests of sandboxes, by lisafs' names, GuestRequests those of
	// virtual machines and FUSE those to the FS server, by FUSE's.
	RPCs          map[string]latency.Op `json:"rpcs,omitempty"`
	GuestRequests map[string]latency.Op `json:"guestRequests,omitempty"`
	FUSE          map[string]latency.Op `json:"fuse,omitempty"`
}

// StateText is State with its reason, one line.
func (s Status) StateText() string {
	if s.Reason == "" {
		return string(s.State)
	}
	return string(s.State) + ": " + s.Reason
}

// goferStatTimeout bounds how long stat waits for the gofer.
const goferStatTimeout = 2 * time.Second

// status describes the volume.
func (v *volume) status(ctx context.Context) Status {
	s := Status{
		Name: v.cfg.Info.Name, Appliance: v.cfg.Info.Appliance, Source: v.cfg.Source,
		Coherence: v.cfg.Info.Coherence, Isolation: v.cfg.Isolation,
		HostNetwork: v.cfg.Server != nil && v.cfg.Server.HostNetwork,
		ReadOnly:    v.cfg.Info.ReadOnly, StrictFsync: v.cfg.Info.StrictFsync,
		Directory: v.cfg.Dirs.Volume(v.cfg.Info.Name),
		Started:   v.started.Truncate(time.Second), PID: os.Getpid(),
	}
	s.Cgroups = v.cgroups
	for _, l := range v.cfg.Listen {
		s.Listen = append(s.Listen, l.String())
	}
	if w := v.cfg.Window; w.Path != "" {
		s.Window = fmt.Sprintf("%s of %s", w.Path, bytesize.Format(w.Size))
	}
	v.mu.Lock()
	s.State, s.Reason, s.Ready, s.Restarts = v.state, v.reason, v.ready, len(v.restarts)
	g, srv := v.gofer, v.server
	v.mu.Unlock()
	for _, d := range v.devices {
		device := d.status()
		s.VsockDevices = append(s.VsockDevices, device)
		if s.Reason == "" && device.Reason != "" {
			s.Reason = "no guests on " + device.Listen + ": " + device.Reason
		}
	}
	if s.Ready != nil && s.Ready.Cache {
		l := v.cache.get()
		s.CacheLimit = &l
	}
	if srv != nil && !srv.exited() {
		s.ServerPID = srv.pid()
	}
	if g == nil || g.exited() {
		return s
	}
	s.GoferPID = g.pid()
	if s.State == Serving || s.State == Failed {
		ctx, cancel := context.WithTimeout(ctx, goferStatTimeout)
		defer cancel()
		var err error
		if s.Gofer, err = g.stat(ctx); err == nil {
			s.RPCs, err = g.ops(ctx, goferproto.OpRPCs)
		}
		if err == nil && len(v.cfg.Listen) > 0 {
			s.GuestRequests, err = g.ops(ctx, goferproto.OpGuests)
		}
		if err == nil {
			s.FUSE, err = g.ops(ctx, goferproto.OpFUSE)
		}
		if err != nil {
			s.GoferError = err.Error()
		}
	}
	return s
}

func sortedKeys(m map[string]bool) []string { return slices.Sorted(maps.Keys(m)) }
