// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package serving

import (
	"errors"
	"runtime"

	"fsva/gofer/latency"
	"fsva/gofer/supervisor/goferproto"
)

// account describes a cache to the supervisor.
func account(c cache) *goferproto.Cache {
	s := c.Stats()
	return &goferproto.Cache{
		Limit: s.Budget, Resident: s.Resident, Donated: s.Donated, Dirty: s.Dirty, Files: s.Files, DonatedFiles: s.DonatedFiles,
		Hits: s.Hits, Misses: s.Misses, Fills: s.Fills, BytesFilled: s.BytesFilled,
		Evictions: s.Evictions, Donations: s.Donations,
	}
}

// stat adds the account of the cache and of the channel.
func (b *backend) stat(s *goferproto.Stat) {
	if c := b.cache; c != nil {
		s.Cache = account(c)
	}
	if b.channel == nil {
		return
	}
	c := b.channel.Stats()
	for _, n := range c.Ops {
		s.Requests += n
	}
	for _, n := range c.Notifications {
		s.Notifies += n
	}
	s.BadReplies, s.InFlight = c.Malformed, uint64(c.InFlight)
	s.Replies = s.Requests - min(s.Requests, s.InFlight)
	s.BytesRead, s.BytesWrite = c.BytesRead, c.BytesWritten
}

// requests describes what was sent to the FS server, nil if there is none.
func (b *backend) requests() map[string]latency.Op {
	if b.channel == nil {
		return nil
	}
	c := b.channel.Stats()
	ops := make(map[string]latency.Op, len(c.Ops))
	for name, n := range c.Ops {
		ops[name] = latency.Op{Requests: n, Errors: c.Errors[name], Latency: c.Latency[name]}
	}
	return ops
}

// setCacheLimit changes the budget and then tells the supervisor what became of
// the cache. It does not wait: what is evicted is forgotten at the FS server, and
// one that hangs must not keep other requests, such as to stop, from being
// answered. There is one change at a time, so that none overtakes another.
func (p *process) setCacheLimit(r goferproto.Request) error {
	c := p.backend.cache
	if c == nil {
		return errors.New("the volume has no cache")
	}
	if !p.limiting.TryLock() {
		return errors.New("the last change of the limit is still under way: the FS server does not answer")
	}
	p.background.Go(func() {
		c.SetBudget(r.Bytes)
		p.limiting.Unlock()
		if err := p.send(goferproto.Reply{ID: r.ID, Cache: account(c)}); err != nil {
			p.log.Debug("the supervisor is gone", "err", err)
		}
	})
	return nil
}

func (p *process) stat() *goferproto.Stat {
	c := p.clients.Stats()
	s := &goferproto.Stat{
		Clients: len(c.Clients), Attaches: c.Attaches, Refused: c.Refused,
		Goroutines: runtime.NumGoroutine(),
	}
	s.Windows, s.WindowsUsed = p.windows.Len()
	for _, cl := range c.Clients {
		if cl.Guest != "" {
			s.Guests++
		}
		s.Attached = append(s.Attached, goferproto.Client{
			Container: cl.Container, Destination: cl.Destination, Guest: cl.Guest, Via: cl.Via,
			ReadOnly: cl.ReadOnly, Since: cl.Since.Unix(),
		})
	}
	p.backend.stat(s)
	return s
}
