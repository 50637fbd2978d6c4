// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package fusestream

import "sync"

// budget bounds what one client's requests in flight take: their number and bytes.
type budget struct {
	mu       sync.Mutex
	changed  sync.Cond
	requests int  // that may begin; guarded by mu
	bytes    int  // that they may take; guarded by mu
	closed   bool // guarded by mu
}

func newBudget(requests, bytes int) *budget {
	b := &budget{requests: requests, bytes: bytes}
	b.changed.L = &b.mu
	return b
}

// take waits for room for a request of n bytes, which is at most the whole budget. It
// reports false once the budget is closed.
func (b *budget) take(n int) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	for (b.requests == 0 || b.bytes < n) && !b.closed {
		b.changed.Wait()
	}
	if b.closed {
		return false
	}
	b.requests--
	b.bytes -= n
	return true
}

func (b *budget) giveBack(n int) {
	b.mu.Lock()
	b.requests++
	b.bytes += n
	b.mu.Unlock()
	b.changed.Broadcast()
}

func (b *budget) close() {
	b.mu.Lock()
	b.closed = true
	b.mu.Unlock()
	b.changed.Broadcast()
}
