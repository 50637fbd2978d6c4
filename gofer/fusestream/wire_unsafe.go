// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package fusestream

import "unsafe"

// bytesOf returns the memory of a wire structure. T must be a structure without
// pointers and implicit padding; those of the fuse package are.
func bytesOf[T any](p *T) []byte {
	return unsafe.Slice((*byte)(unsafe.Pointer(p)), unsafe.Sizeof(*p))
}
