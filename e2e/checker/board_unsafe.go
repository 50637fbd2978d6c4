// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"sync/atomic"
	"unsafe"
)

// wordsOf returns memory that other processes map, too, as words.
//
// Preconditions: mem begins at a page.
func wordsOf(mem []byte) []atomic.Uint64 {
	return unsafe.Slice((*atomic.Uint64)(unsafe.Pointer(&mem[0])), len(mem)/8)
}
