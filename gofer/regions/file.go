// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package regions

import (
	"container/list"
	"fmt"

	"golang.org/x/sys/unix"
)

// file is the cached data of one node. Its fields are guarded by FS.mu, but for
// the immutable id and size.
type file struct {
	id   uint64
	size int64

	fd      int     // memfd of size bytes, -1: no data
	valid   extents // bytes of fd that are the file's
	fills   fills
	sealed  bool   // complete, and nobody can write to fd
	io      int    // goroutines that use fd; it stays open for them
	handles int    // open handles
	donated int    // handles whose client got a descriptor
	held    uint64 // lookups that the caller has forgotten and the server not
	cost    int64  // what the file adds to FS.resident
	used    bool   // since the eviction last looked
	el      *list.Element
}

// handle is an open file as the caller knows it.
type handle struct {
	file   *file // nil: direct
	nodeID uint64
	flags  uint32

	// Guarded by FS.mu.
	refs    int // the caller's, and one for each read-ahead
	donated bool
	stream  stream

	// backend is the server's own handle, opened when it is first needed: a file
	// that is complete needs none.
	backend backendHandle
}

// newRegion makes the memfd of a file.
func newRegion(size int64) (int, error) {
	fd, err := unix.MemfdCreate("fsva-region", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING|unix.MFD_NOEXEC_SEAL)
	if err == unix.EINVAL { // before Linux 6.3
		fd, err = unix.MemfdCreate("fsva-region", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	}
	if err != nil {
		return -1, fmt.Errorf("memfd_create: %w", err)
	}
	if err := unix.Ftruncate(fd, size); err != nil {
		unix.Close(fd)
		return -1, fmt.Errorf("ftruncate: %w", err)
	}
	return fd, nil
}

// sealLocked makes a complete region immutable. A region that cannot be sealed
// is still good for reads, only not for donation.
//
// Preconditions: no write to fd is under way or will follow.
func (fl *file) sealLocked() error {
	_, err := unix.FcntlInt(uintptr(fl.fd), unix.F_ADD_SEALS,
		unix.F_SEAL_SHRINK|unix.F_SEAL_GROW|unix.F_SEAL_WRITE|unix.F_SEAL_SEAL)
	fl.sealed = err == nil
	return err
}

// whole is the extent of all of the file.
func (fl *file) whole() extent { return extent{0, fl.size} }

// chargeLocked updates what the file costs.
func (f *FS) chargeLocked(fl *file) {
	var cost int64
	if fl.fd >= 0 {
		cost = max(minFileCost, (fl.valid.bytes()+4095)&^4095)
	}
	f.resident += cost - fl.cost
	fl.cost = cost
}

// ensureRegionLocked makes sure that the file has a memfd.
func (f *FS) ensureRegionLocked(fl *file) error {
	if fl.fd >= 0 {
		return nil
	}
	fd, err := newRegion(fl.size)
	if err != nil {
		return err
	}
	fl.fd = fd
	fl.el = f.lru.PushFront(fl)
	f.chargeLocked(fl)
	return nil
}

// dropDataLocked gives the region up.
//
// Preconditions: io is 0 and no fill is under way.
func (f *FS) dropDataLocked(fl *file) {
	if fl.fd < 0 {
		return
	}
	unix.Close(fl.fd)
	fl.fd, fl.valid, fl.sealed = -1, nil, false
	f.lru.Remove(fl.el)
	fl.el = nil
	f.chargeLocked(fl)
}

// tidyLocked removes a file that has neither data nor handles from the table
// and returns what is to be forgotten.
func (f *FS) tidyLocked(fl *file) []forgotten {
	if fl.fd >= 0 || fl.handles > 0 || fl.io > 0 || len(fl.fills) > 0 {
		return nil
	}
	if f.files[fl.id] == fl {
		delete(f.files, fl.id)
	}
	g := forgotten{fl.id, fl.held}
	fl.held = 0
	return []forgotten{g}
}

// detachLocked takes a file out of the table, so that the next open starts
// afresh. Handles keep it.
func (f *FS) detachLocked(fl *file) []forgotten {
	if f.files[fl.id] == fl {
		delete(f.files, fl.id)
	}
	if fl.evictable() {
		f.dropDataLocked(fl)
	}
	return f.tidyLocked(fl)
}

// evictable reports whether the data may go: nobody uses it or holds it.
func (fl *file) evictable() bool {
	return fl.fd >= 0 && fl.io == 0 && len(fl.fills) == 0 && fl.donated == 0
}

// evictLocked drops data until the budget holds, least recently used files
// first, those used since the last look spared once.
func (f *FS) evictLocked() (gone []forgotten) {
	for n := 2 * f.lru.Len(); n > 0 && (f.resident > f.budget || f.lru.Len() > f.opts.MaxFiles); n-- {
		el := f.lru.Back()
		if el == nil {
			break
		}
		fl := el.Value.(*file)
		if fl.used || !fl.evictable() {
			fl.used = false
			f.lru.MoveToFront(el)
			continue
		}
		f.dropDataLocked(fl)
		f.stats.evictions.Add(1)
		gone = append(gone, f.tidyLocked(fl)...)
	}
	return gone
}
