// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package vhostuser

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// These are called for each kick and each interrupt, and never block: the descriptors are non-blocking eventfds, pipes
// or sockets. So the scheduler need not know of them.

// readCount reads up to 8 bytes, and returns how many there were.
func readCount(fd int) (int, unix.Errno) {
	var b [8]byte
	n, _, err := unix.RawSyscall(unix.SYS_READ, uintptr(fd), uintptr(unsafe.Pointer(&b)), unsafe.Sizeof(b))
	return int(n), err
}

// writeCount writes the 8-byte number 1.
func writeCount(fd int) unix.Errno {
	one := uint64(1)
	_, _, err := unix.RawSyscall(unix.SYS_WRITE, uintptr(fd), uintptr(unsafe.Pointer(&one)), unsafe.Sizeof(one))
	return err
}
