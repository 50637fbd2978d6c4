// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package window

import (
	"errors"
	"fmt"
	"sync"

	"golang.org/x/sys/unix"
)

// MaxWindows bounds the windows of one volume.
const MaxWindows = 64

// Reasons why a window is not lent.
var (
	ErrUnknown = errors.New("no such window")
	ErrInUse   = errors.New("the window is in use by another connection")
)

// Set is the windows that a gofer has mapped. The zero value is an empty set. It
// is safe for concurrent use.
//
// Reference model: a mapping exists while its window is in the set or claimed.
// Whoever ends the second of these unmaps it.
type Set struct {
	mu      sync.Mutex
	windows map[ID]*mapping // guarded by mu
}

// mapping is one window in the gofer's memory.
type mapping struct {
	mem     []byte // immutable
	claimed bool   // guarded by Set.mu
	removed bool   // guarded by Set.mu
}

// Add maps the window fd, which it borrows.
func (s *Set) Add(fd int, id ID, size int64) error {
	if id.IsZero() {
		return errors.New("a window without an ID")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.windows[id] != nil {
		return errors.New("a window that is there already")
	}
	if len(s.windows) >= MaxWindows {
		return fmt.Errorf("there are %d windows already", MaxWindows)
	}
	mem, err := mapFD(fd, size)
	if err != nil {
		return fmt.Errorf("map a window: %w", err)
	}
	if s.windows == nil {
		s.windows = make(map[ID]*mapping)
	}
	s.windows[id] = &mapping{mem: mem}
	return nil
}

// Remove takes a window out of the set. Who has claimed it may use it until
// Release.
func (s *Set) Remove(id ID) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	m := s.windows[id]
	if m == nil {
		return ErrUnknown
	}
	delete(s.windows, id)
	m.removed = true
	if m.claimed {
		return nil
	}
	return unix.Munmap(m.mem)
}

// Len returns how many windows are in the set, and how many of them are claimed.
func (s *Set) Len() (all, claimed int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, m := range s.windows {
		if m.claimed {
			claimed++
		}
	}
	return len(s.windows), claimed
}

// Claim lends a window to one connection. It returns ErrUnknown for an ID that is
// none's, and ErrInUse while another connection has the window.
func (s *Set) Claim(id ID) (*Window, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	m := s.windows[id]
	if m == nil {
		return nil, ErrUnknown
	}
	if m.claimed {
		return nil, ErrInUse
	}
	m.claimed = true
	return &Window{Memory: Memory{m.mem}, set: s, mapping: m, leases: newLeases(int64(len(m.mem)))}, nil
}

// Window is a window lent to one connection. It is safe for concurrent use.
type Window struct {
	Memory
	set     *Set
	mapping *mapping
	leases  *Leases
}

// Lease reserves n bytes for a reply and returns where they are: their offset,
// which the guest is told, and the bytes, which it may read and write at any time.
// ok is false when there is no room now.
func (w *Window) Lease(n int) (off int64, buf []byte, ok bool) {
	if off, ok = w.leases.Lease(n); !ok {
		return 0, nil, false
	}
	return off, w.mem[off : off+int64(n) : off+int64(n)], true
}

// Release ends the lease at off and reports whether there was one. Off may come
// from the guest.
func (w *Window) Release(off int64) bool { return w.leases.Release(off) }

// Leased returns how many leases there are.
func (w *Window) Leased() int { return w.leases.Leased() }

// Close gives the window back, all leases included. Nothing of it may be used
// afterwards.
func (w *Window) Close() error {
	w.set.mu.Lock()
	defer w.set.mu.Unlock()
	w.mapping.claimed = false
	if w.mapping.removed {
		return unix.Munmap(w.mapping.mem)
	}
	return nil
}

// Memory is a window's bytes, on either side.
type Memory struct{ mem []byte }

// Size returns the size of the window in bytes, the header included.
func (m Memory) Size() int64 { return int64(len(m.mem)) }

// Data returns the n bytes at off, and nil unless all of them are data of the
// window. Both numbers may come from the peer, which may also change the bytes at
// any time: copy them before they are looked at.
func (m Memory) Data(off int64, n int) []byte {
	if off < HeaderSize || n < 0 || off > int64(len(m.mem)) || int64(n) > int64(len(m.mem))-off {
		return nil
	}
	return m.mem[off : off+int64(n) : off+int64(n)]
}
