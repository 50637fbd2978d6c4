// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package virtiofs

import (
	"sync"
	"sync/atomic"
	"time"

	"fsva/gofer/vhostuser"
)

const (
	// slow is how long a request may take, beside copying its data at bytesPerTime, that is better done by the
	// goroutine that has taken it. To wake another thread for it costs about a third of that.
	slow         = 100 * time.Microsecond
	bytesPerTime = 4 // per nanosecond

	// A slow request counts slowWeight, one that is not slow takes one off, down to none and up to weightMax; from
	// weightParallel on the queue is parallel. So it is if one in five requests is slow. That fewer are says little: the
	// thread may have had to wait for a processor.
	slowWeight     = 4
	weightParallel = 8
	weightMax      = 24

	// takeover is how long requests may wait for one that was not expected to be slow.
	takeover = 4 * time.Millisecond
)

// pace decides how the requests of one queue are worked on. If the file system has what is asked for in memory, one
// after the other in the queue's own goroutine is fastest: a request then costs no switch between threads, which are most
// of the time of a small one. If it has to ask somebody, many at a time are. So slow requests make the queue parallel,
// and others make it serial again. A request that turns out to be slow while others wait behind it doesn't hold them up
// for long: another goroutine takes the queue over.
type pace struct {
	// weight is that of recent slow requests.
	weight atomic.Int32

	mu sync.Mutex
	// turn is the number of the last request that the queue's goroutine has begun; busy: it works on it. Guarded by
	// mu.
	turn uint64
	busy bool
	// seen is turn as of the last tick. Guarded by mu.
	seen uint64
	// ticking: tick will be called. Guarded by mu.
	ticking bool
	timer   *time.Timer
}

// serial reports whether the next request is for the queue's goroutine.
func (p *pace) serial() bool { return p.weight.Load() < weightParallel }

// took takes note of how long a request of size bytes took.
func (p *pace) took(d time.Duration, size int) {
	// Several goroutines may change it at a time, and one of the changes be lost: it is a guess anyway.
	if w := p.weight.Load(); d > slow+time.Duration(size/bytesPerTime) {
		p.weight.Store(min(w+slowWeight, weightMax))
	} else if w > 0 {
		p.weight.Store(w - 1)
	}
}

// begin is called before the goroutine of q works on a request. It returns the request's number for end.
func (p *pace) begin(q *vhostuser.Queue) uint64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.turn++
	p.busy = true
	if !p.ticking {
		p.ticking = true
		p.seen = p.turn
		if p.timer == nil {
			p.timer = time.AfterFunc(takeover, func() { p.tick(q) })
		} else {
			p.timer.Reset(takeover)
		}
	}
	return p.turn
}

// end is called after it. It reports whether the queue is still that goroutine's.
func (p *pace) end(turn uint64) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.turn != turn {
		return false
	}
	p.busy = false
	return true
}

// tick looks for a request that was there at the last tick. It costs nothing while a queue is idle, and a timer every
// 4 ms while it is not.
func (p *pace) tick(q *vhostuser.Queue) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.busy && p.seen == p.turn {
		p.ticking = false
		return
	}
	if p.busy && p.seen == p.turn && q.Detach() {
		p.weight.Store(weightMax)
		p.turn++
		p.busy = false
	}
	p.seen = p.turn
	p.timer.Reset(takeover)
}
