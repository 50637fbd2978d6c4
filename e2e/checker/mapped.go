// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import "runtime/debug"

// catchFaults makes a page of a mapping that cannot be read (SIGBUS) an error of
// the calling goroutine only; see copyMapped.
func catchFaults() { debug.SetPanicOnFault(true) }

// copyMapped copies from a mapping, from byte off on, as far as its pages can be
// read.
//
// Preconditions: the goroutine has called catchFaults.
func copyMapped(to, m []byte, off int) (n int) {
	for n < len(to) {
		end := min(len(to), (off+n)&^(pageSize-1)+pageSize-off)
		if !try(func() { copy(to[n:end], m[off+n:]) }) {
			return n
		}
		n = end
	}
	return n
}

// storeMapped is the reverse.
func storeMapped(m []byte, off int, from []byte) (ok bool) {
	return try(func() { copy(m[off:], from) })
}

// try reports whether f got at the memory it wanted.
func try(f func()) (ok bool) {
	defer func() {
		if e := recover(); e != nil {
			if _, fault := e.(interface{ Addr() uintptr }); !fault {
				panic(e)
			}
			ok = false
		}
	}()
	f()
	return true
}
