// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package vhostuser

import (
	"errors"
	"fmt"
	"runtime/debug"
	"slices"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"fsva/gofer/vhostuser/internal/sharedmem"
)

const (
	// maxRegions bounds a memory table: what VHOST_USER_GET_MAX_MEM_SLOTS answers.
	maxRegions = 32
	// maxMapped bounds what one connection can map, files from their beginnings, so that it can't use up the address
	// space: 16 TiB of 128.
	maxMapped = 1 << 44
)

// ErrFault is the error of an access to guest memory that the VMM has taken away under us.
var ErrFault = errors.New("guest memory has gone away")

// mapping is one mapped memory file.
//
// Reference Model: each memory that has it in its table holds one.
type mapping struct {
	refs atomic.Int32
	data []byte
	// unmap is nil for memory that isn't mapped (tests of the pure code).
	unmap func([]byte) error
}

func (m *mapping) decRef() {
	if m.refs.Add(-1) == 0 && m.unmap != nil {
		// Only fails for arguments that are not a mapping.
		if err := m.unmap(m.data); err != nil {
			panic(fmt.Sprintf("vhostuser: munmap: %v", err))
		}
	}
}

// region is one part of the guest's physical memory. Immutable.
type region struct {
	guest uint64 // guest physical address
	user  uint64 // address in the VMM, which ring addresses are given in
	// data is the region's part of m.
	data []byte
	m    *mapping
	// sealed: the memory can't go away.
	sealed bool
}

func (r *region) size() uint64 { return uint64(len(r.data)) }

// memory is a memory table. Immutable.
//
// Reference Model: the connection holds one on its current table, each running queue one, each chain one.
type memory struct {
	refs    atomic.Int64
	regions []region
	// sealed: all regions are.
	sealed bool
}

// newMemory takes over one reference on each region's mapping, and returns a table with one reference.
func newMemory(regions []region) *memory {
	m := &memory{regions: regions, sealed: true}
	m.refs.Store(1)
	for i := range regions {
		m.sealed = m.sealed && regions[i].sealed
	}
	return m
}

func (m *memory) incRef() *memory {
	m.refs.Add(1)
	return m
}

func (m *memory) decRef() {
	if m.refs.Add(-1) == 0 {
		for i := range m.regions {
			m.regions[i].m.decRef()
		}
	}
}

// with returns a table that has r as well. It takes over r's reference, also if it fails.
func (m *memory) with(r region) (*memory, error) {
	if err := m.fits(r); err != nil {
		r.m.decRef()
		return nil, err
	}
	for i := range m.regions {
		m.regions[i].m.refs.Add(1)
	}
	return newMemory(append(slices.Clone(m.regions), r)), nil
}

// fits reports why r can't be in one table with m's regions.
func (m *memory) fits(r region) error {
	if len(m.regions) >= maxRegions {
		return fmt.Errorf("more than %d memory regions", maxRegions)
	}
	total := uint64(len(r.m.data))
	for i := range m.regions {
		o := &m.regions[i]
		total += uint64(len(o.m.data))
		if overlap(r.guest, r.size(), o.guest, o.size()) || overlap(r.user, r.size(), o.user, o.size()) {
			return fmt.Errorf("memory region at %#x overlaps another", r.guest)
		}
	}
	if total > maxMapped {
		return fmt.Errorf("memory regions take more than %d bytes of address space", uint64(maxMapped))
	}
	return nil
}

// overlap reports whether two ranges that don't wrap have a byte in common.
func overlap(a, an, b, bn uint64) bool { return a < b+bn && b < a+an }

// without returns a table that lacks the region that is exactly this one.
func (m *memory) without(guest, user, size uint64) (*memory, error) {
	for i := range m.regions {
		r := &m.regions[i]
		if r.guest != guest || r.user != user || r.size() != size {
			continue
		}
		rest := slices.Delete(slices.Clone(m.regions), i, i+1)
		for j := range rest {
			rest[j].m.refs.Add(1)
		}
		return newMemory(rest), nil
	}
	return nil, fmt.Errorf("no memory region at %#x", guest)
}

// find returns the memory from a guest physical address to the end of its region, or nil.
func (m *memory) find(guest uint64) []byte {
	for i := range m.regions {
		r := &m.regions[i]
		if guest-r.guest < r.size() {
			return r.data[guest-r.guest:]
		}
	}
	return nil
}

// findUser returns n bytes at an address of the VMM. They must be in one region.
func (m *memory) findUser(user, n uint64) ([]byte, error) {
	for i := range m.regions {
		r := &m.regions[i]
		if off := user - r.user; off < r.size() && n <= r.size()-off {
			return r.data[off : off+n : off+n], nil
		}
	}
	return nil, fmt.Errorf("%d bytes at the VMM's address %#x are in no memory region", n, user)
}

// contains reports whether addr, an address of this process, is in the table's memory.
func (m *memory) contains(addr uintptr) bool {
	for i := range m.regions {
		d := m.regions[i].data
		if addr-sharedmem.Address(d) < uintptr(len(d)) {
			return true
		}
	}
	return false
}

// recoverFault is deferred, by itself, around accesses to m, after accessing. It turns a fault in m into ErrFault.
func (m *memory) recoverFault(was bool, err *error) {
	debug.SetPanicOnFault(was)
	r := recover()
	if r == nil {
		return
	}
	if f, ok := r.(interface{ Addr() uintptr }); ok && m.contains(f.Addr()) {
		*err = ErrFault
		return
	}
	panic(r)
}

// accessing makes faults of this goroutine panics, until recoverFault has got its result.
func accessing() (was bool) { return debug.SetPanicOnFault(true) }

// mapRegion maps a memory file. It borrows fd. The region has one reference on its mapping.
func mapRegion(fd int, guest, user, size, offset uint64) (region, error) {
	if size == 0 || size > maxMapped || offset > maxMapped || guest+size < guest || user+size < user {
		return region{}, fmt.Errorf("memory region at %#x: bad size %#x or offset %#x", guest, size, offset)
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return region{}, fmt.Errorf("memory region at %#x: fstat: %w", guest, err)
	}
	var fs unix.Statfs_t
	if err := unix.Fstatfs(fd, &fs); err != nil {
		return region{}, fmt.Errorf("memory region at %#x: fstatfs: %w", guest, err)
	}
	tmpfs := uint64(uint32(fs.Type)) == unix.TMPFS_MAGIC
	if !tmpfs && uint64(uint32(fs.Type)) != unix.HUGETLBFS_MAGIC {
		return region{}, fmt.Errorf("memory region at %#x: neither a memfd nor a file on tmpfs or hugetlbfs", guest)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG || uint64(st.Size) < offset+size {
		return region{}, fmt.Errorf("memory region at %#x: %#x bytes at %#x of a file that has %#x", guest, size, offset, st.Size)
	}
	// A file on hugetlbfs is mapped and unmapped in its own pages: from its beginning, and to the end of a page.
	page := uint64(unix.Getpagesize())
	if !tmpfs {
		page = uint64(fs.Bsize)
	}
	length := (offset + size + page - 1) / page * page
	data, err := unix.Mmap(fd, 0, int(length), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return region{}, fmt.Errorf("memory region at %#x: mmap of %#x bytes: %w", guest, length, err)
	}
	// The seal can't be removed, so the size that was seen after it was set stays. Pages of hugetlbfs may be missing at
	// a fault, sealed or not.
	sealed := false
	if seals, err := unix.FcntlInt(uintptr(fd), unix.F_GET_SEALS, 0); err == nil && tmpfs && seals&unix.F_SEAL_SHRINK != 0 {
		if err := unix.Fstat(fd, &st); err == nil {
			sealed = uint64(st.Size) >= offset+size
		}
	}
	m := &mapping{data: data, unmap: unix.Munmap}
	m.refs.Store(1)
	return region{guest: guest, user: user, data: data[offset : offset+size : offset+size], m: m, sealed: sealed}, nil
}
