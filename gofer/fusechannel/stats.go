// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package fusechannel

import (
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"

	"fsva/gofer/fusewire"
	"fsva/gofer/latency"
)

// Stats is a snapshot of a channel's counters. They are read one by one, so they need not add up.
type Stats struct {
	// Ops and Errors count requests sent, and those that ended with an error, by operation name as in the kernel's
	// header ("GETATTR"). Operations without requests are left out.
	Ops, Errors map[string]uint64
	// Latency is how long requests took, by name, from the time they could be sent to their reply. Those whose reply
	// nobody waits for, such as RELEASE and FORGET, have none.
	Latency map[string]latency.Summary
	// BytesIn is what was received, BytesRead and BytesWritten the file data among it and sent.
	BytesIn, BytesRead, BytesWritten uint64
	// InFlight is the number of requests that wait for a reply now.
	InFlight int
	// Malformed counts messages that a correct server does not send; Unknown those among them that answer no request.
	Malformed, Unknown uint64
	// Notifications counts notifications by name ("INVAL_ENTRY"), Refused those that were not passed on, because they
	// were malformed or because there is no use for their kind.
	Notifications map[string]uint64
	Refused       uint64
	// Forgets counts the nodes in FORGET and BATCH_FORGET requests.
	Forgets uint64
	// SkippedNames counts directory entries with names longer than NAME_MAX, which were left out.
	SkippedNames uint64
}

// counters are the atomics behind Stats.
type counters struct {
	ops, errs                        [fusewire.OpCount]atomic.Uint64
	notes                            [fusewire.NoteCount]atomic.Uint64
	bytesIn, bytesRead, bytesWritten atomic.Uint64
	malformed, unknown, refused      atomic.Uint64
	forgets, skipped                 atomic.Uint64
	latency                          [fusewire.OpCount]latency.Histogram
}

// begin counts a request that is about to be sent. It and finish are on the path of each, so they take neither a lock
// nor memory (BenchmarkObserve of package latency is most of their cost).
func (s *counters) begin(opcode uint32, ca *call) {
	s.ops[opcode].Add(1)
	ca.began = latency.Now()
}

// finish counts the end of a request that somebody waited for.
func (s *counters) finish(opcode uint32, ca *call) {
	s.latency[opcode].Observe(latency.Now() - ca.began)
	if ca.status != fuse.OK {
		s.errs[opcode].Add(1)
	}
}

// Stats returns the counters.
func (c *Channel) Stats() Stats {
	c.mu.Lock()
	flying := c.flying
	c.mu.Unlock()
	s := Stats{
		Ops:           make(map[string]uint64),
		Errors:        make(map[string]uint64),
		Latency:       make(map[string]latency.Summary),
		Notifications: make(map[string]uint64),
		BytesIn:       c.stats.bytesIn.Load(),
		BytesRead:     c.stats.bytesRead.Load(),
		BytesWritten:  c.stats.bytesWritten.Load(),
		InFlight:      flying,
		Malformed:     c.stats.malformed.Load(),
		Unknown:       c.stats.unknown.Load(),
		Refused:       c.stats.refused.Load(),
		Forgets:       c.stats.forgets.Load(),
		SkippedNames:  c.stats.skipped.Load(),
	}
	for op, name := range fusewire.OpNames {
		if n := c.stats.ops[op].Load(); n > 0 {
			s.Ops[name] = n
		}
		if n := c.stats.errs[op].Load(); n > 0 {
			s.Errors[name] = n
		}
		if l := c.stats.latency[op].Summary(); l.Count > 0 {
			s.Latency[name] = l
		}
	}
	for code, name := range fusewire.NoteNames {
		if n := c.stats.notes[code].Load(); n > 0 {
			s.Notifications[name] = n
		}
	}
	return s
}

// logPeriod is the least time between two lines that the server can cause.
const logPeriod = time.Second

// limitedLog writes at most one line per logPeriod and says how many it left out.
type limitedLog struct {
	log *slog.Logger

	mu      sync.Mutex
	last    time.Time
	dropped int
}

func (l *limitedLog) warn(msg string, detail func() string) {
	l.mu.Lock()
	now := time.Now()
	if !l.last.IsZero() && now.Sub(l.last) < logPeriod {
		l.dropped++
		l.mu.Unlock()
		return
	}
	dropped := l.dropped
	l.last, l.dropped = now, 0
	l.mu.Unlock()
	l.log.Warn(msg, "detail", detail(), "unlogged", dropped)
}
