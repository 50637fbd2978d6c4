// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package window

import (
	"cmp"
	"math"
	"slices"
	"sync"
)

// page is the unit of leases.
const page = 4096

// Leases lends parts of a window's data to requests. Its knowledge is in private
// memory, so it holds whatever a guest does. It is safe for concurrent use.
type Leases struct {
	mu     sync.Mutex
	free   []extent        // guarded by mu; ascending, with gaps between them
	leased map[int64]int64 // guarded by mu; the length, in whole pages, of each lease by its offset
}

// extent is the bytes from off to end.
type extent struct{ off, end int64 }

// newLeases lends the data of a window of size bytes.
func newLeases(size int64) *Leases {
	return &Leases{free: []extent{{HeaderSize, size}}, leased: make(map[int64]int64)}
}

// Lease reserves n bytes, n > 0, and returns their offset in the window, a
// multiple of 4096. It does not wait: ok is false when there is no room for them
// in one piece.
func (l *Leases) Lease(n int) (off int64, ok bool) {
	if n <= 0 || n > math.MaxInt-page {
		return 0, false
	}
	size := (int64(n) + page - 1) &^ (page - 1)
	l.mu.Lock()
	defer l.mu.Unlock()
	for i := range l.free {
		e := &l.free[i]
		if e.end-e.off < size {
			continue
		}
		off = e.off
		if e.off += size; e.off == e.end {
			l.free = slices.Delete(l.free, i, i+1)
		}
		l.leased[off] = size
		return off, true
	}
	return 0, false
}

// Release ends the lease at off and reports whether there was one. Off may come
// from a guest.
func (l *Leases) Release(off int64) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	size, ok := l.leased[off]
	if !ok {
		return false
	}
	delete(l.leased, off)
	i, _ := slices.BinarySearchFunc(l.free, off, func(e extent, off int64) int { return cmp.Compare(e.off, off) })
	l.free = slices.Insert(l.free, i, extent{off, off + size})
	if i+1 < len(l.free) && l.free[i].end == l.free[i+1].off {
		l.free[i].end = l.free[i+1].end
		l.free = slices.Delete(l.free, i+1, i+2)
	}
	if i > 0 && l.free[i-1].end == l.free[i].off {
		l.free[i-1].end = l.free[i].end
		l.free = slices.Delete(l.free, i, i+1)
	}
	return true
}

// Leased returns how many leases there are.
func (l *Leases) Leased() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.leased)
}
