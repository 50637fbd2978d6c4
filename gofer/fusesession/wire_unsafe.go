// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package fusesession

import "unsafe"

// bytesOf returns the memory of a wire structure. T must be a structure without
// pointers and implicit padding; those of the fuse package are.
func bytesOf[T any](p *T) []byte {
	return unsafe.Slice((*byte)(unsafe.Pointer(p)), unsafe.Sizeof(*p))
}

// aligned reports whether b can be read as structures of 64-bit words.
func aligned(b []byte) bool { return uintptr(unsafe.Pointer(unsafe.SliceData(b)))&7 == 0 }

// arg returns the message as a request structure, which begins with its header,
// and what follows it. ok is false if the message is too short.
//
// Precondition: b is aligned and private to us.
func arg[T any](b []byte) (in *T, rest []byte, ok bool) {
	var zero T
	n := int(unsafe.Sizeof(zero))
	if len(b) < n {
		return nil, nil, false
	}
	return (*T)(unsafe.Pointer(&b[0])), b[n:], true
}

// within reports whether b begins where a does.
func within(b, a []byte) bool {
	return len(a) > 0 && len(b) > 0 && unsafe.SliceData(b) == unsafe.SliceData(a)
}
