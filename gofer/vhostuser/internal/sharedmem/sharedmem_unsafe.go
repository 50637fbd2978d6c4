// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

// Package sharedmem has ordered accesses to memory that another process or a guest's CPUs use at the same time.
//
// The virtio rings have 16-bit fields that need them, but sync/atomic has no 16-bit operations. So they are done on the
// aligned 32-bit word around the field. The memory must be mapped: mappings start at a page and end with one, so that
// word is always inside.
package sharedmem

import (
	"math/bits"
	"sync/atomic"
	"unsafe"
)

// BigEndian is the byte order of this machine. Virtio 1 is little-endian everywhere.
var BigEndian = func() bool {
	x := uint16(1)
	return *(*byte)(unsafe.Pointer(&x)) == 0
}()

// word returns the aligned word that has the 16 bits at b[off], and by how much to shift it right to have them lowest.
// off must be even relative to a page-aligned start, and b[off:off+2] in bounds.
func word(b []byte, off int) (*uint32, uint) {
	p := unsafe.Pointer(&b[off])
	_ = b[off+1]
	high := uintptr(p)&2 != 0
	if high {
		p = unsafe.Add(p, -2)
	}
	if high != BigEndian {
		return (*uint32)(p), 16
	}
	return (*uint32)(p), 0
}

func le16(v uint16) uint16 {
	if BigEndian {
		return bits.ReverseBytes16(v)
	}
	return v
}

// Load16 reads a little-endian field; later reads are not done before it.
func Load16(b []byte, off int) uint16 {
	p, shift := word(b, off)
	return le16(uint16(atomic.LoadUint32(p) >> shift))
}

// Store16 writes a little-endian field after all earlier writes, and before all later atomic reads. It leaves the other
// half of the word alone, and reports false if the guest has kept changing that half: no driver does.
func Store16(b []byte, off int, v uint16) bool {
	p, shift := word(b, off)
	for range 1000 {
		old := atomic.LoadUint32(p)
		if atomic.CompareAndSwapUint32(p, old, old&^(0xffff<<shift)|uint32(le16(v))<<shift) {
			return true
		}
	}
	return false
}

// Address is where b begins. b must not be empty.
func Address(b []byte) uintptr { return uintptr(unsafe.Pointer(&b[0])) }

// Join returns a and b as one slice if b begins where a ends. Both must be of one mapping, and not empty.
func Join(a, b []byte) ([]byte, bool) {
	if Address(a)+uintptr(len(a)) != Address(b) {
		return nil, false
	}
	return unsafe.Slice(&a[0], len(a)+len(b)), true
}
