// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

// Package pressure says how much memory a cache may take: what the machine and
// the process's cgroup allow to begin with (Available), when memory is short
// (Trigger), and what a limit becomes then and afterwards (Limiter).
//
// It reads files of the kernel that describe this very process. They are trusted;
// reads are bounded all the same.
package pressure

import "time"

const (
	// Floor is what pressure leaves of a limit at least, in bytes, unless it was
	// less before.
	Floor = 16 << 20
	// GrowAfter is the time without pressure after which a limit that was reduced
	// takes a step back up, and the time between two steps.
	GrowAfter = 10 * time.Second
)

// Limiter is the limit of a cache over time. Pressure reduces it to three
// quarters of what the cache holds; when that is over it grows back in steps of a
// quarter, to what was configured. It has no clock and no lock of its own.
type Limiter struct {
	configured int64
	effective  int64
	growAt     time.Time // of the next step; meaningful while effective < configured
	reductions uint64
}

// NewLimiter returns a Limiter for a limit of so many bytes.
func NewLimiter(bytes int64) *Limiter { return &Limiter{configured: bytes, effective: bytes} }

// Configured is the limit without pressure, in bytes.
func (l *Limiter) Configured() int64 { return l.configured }

// Effective is the limit now, in bytes.
func (l *Limiter) Effective() int64 { return l.effective }

// Reductions counts the times that pressure was answered.
func (l *Limiter) Reductions() uint64 { return l.reductions }

// Set changes the configured limit. An effective limit that pressure has reduced
// stays reduced.
func (l *Limiter) Set(bytes int64) {
	if l.effective == l.configured {
		l.effective = bytes
	}
	l.configured = bytes
	l.effective = min(l.effective, bytes)
}

// Reduce answers pressure at a time when the cache holds so many bytes.
func (l *Limiter) Reduce(now time.Time, resident int64) {
	held := min(resident, l.effective)
	l.effective = min(max(held-held/4, Floor), l.effective)
	l.growAt = now.Add(GrowAfter)
	l.reductions++
}

// GrowAt returns when Grow is to be called next; ok is false when there is no
// need to.
func (l *Limiter) GrowAt() (at time.Time, ok bool) { return l.growAt, l.effective < l.configured }

// Grow takes one step back up if it is due.
func (l *Limiter) Grow(now time.Time) {
	if l.effective >= l.configured || now.Before(l.growAt) {
		return
	}
	step := max(l.effective/4, 1)
	l.effective += min(step, l.configured-l.effective)
	l.growAt = now.Add(GrowAfter)
}
