// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package fusestream

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// briefly is how long pollBriefly waits: garbage collection may have to wait as long.
const briefly = 4_000_000 // ns

// pollBriefly is a short poll(2) that the scheduler does not know of.
func pollBriefly(fds []unix.PollFd) (int, unix.Errno) {
	timeout := unix.Timespec{Nsec: briefly}
	n, _, err := unix.RawSyscall6(unix.SYS_PPOLL, uintptr(unsafe.Pointer(&fds[0])), uintptr(len(fds)), uintptr(unsafe.Pointer(&timeout)), 0, 0, 0)
	return int(n), err
}
