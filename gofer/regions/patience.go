// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package regions

import (
	"sync"
	"time"
)

const (
	// maxWait is Options.OpenWait when it is 0.
	maxWait = 3 * time.Second
	// probe is how long a fill runs before it is judged by its speed.
	probe = 100 * time.Millisecond
	// maxPatience is what may be spent in a row; it comes back at a quarter of the
	// pace of time, so that opens wait no more than a quarter of the time at most.
	maxPatience      = 10 * time.Second
	patienceRecovers = 4
)

// patience rations the time that opens wait for files to become complete. A
// client gets a region with the open or never, as long as it remembers the file,
// and without one each of its reads costs a request; but a program that opens
// many large files to read a little of each must not wait for all of each.
//
// It is safe for concurrent use. The zero value is full.
type patience struct {
	mu    sync.Mutex
	spent time.Duration // at the time of last; guarded by mu
	last  time.Time     // guarded by mu
}

// fill has next fill a file of size bytes, from off to the end it returns, as
// long as that will soon be over and it reports success. limit bounds the wait.
func (p *patience) fill(limit time.Duration, size int64, next func(off int64) (end int64, ok bool)) {
	start := time.Now()
	limit = p.left(start, limit)
	for off, ok := int64(0), true; off < size && limit > 0; {
		if off, ok = next(off); !ok || !worthIt(time.Since(start), limit, off, size) {
			break
		}
	}
	now := time.Now()
	p.spend(now, now.Sub(start))
}

// left returns how long an open may wait, not more than limit.
func (p *patience) left(now time.Time, limit time.Duration) time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.recover(now)
	return max(0, min(limit, maxPatience-p.spent))
}

// spend takes what an open has waited.
func (p *patience) spend(now time.Time, waited time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.recover(now)
	p.spent += waited
}

// recover gives back what time has healed.
//
// Preconditions: p.mu is locked.
func (p *patience) recover(now time.Time) {
	if since := now.Sub(p.last); since > 0 {
		p.spent = max(0, p.spent-since/patienceRecovers)
		p.last = now
	}
}

// worthIt reports whether a fill that has done part of size bytes in elapsed
// will be over within limit. One that is half done may take twice as long: the
// time already spent must not be for nothing.
func worthIt(elapsed, limit time.Duration, done, size int64) bool {
	if elapsed < min(probe, limit) {
		return true
	}
	if done >= size/2 {
		limit *= 2
	}
	return float64(elapsed)*float64(size) <= float64(limit)*float64(done)
}
