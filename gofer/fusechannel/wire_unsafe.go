// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package fusechannel

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// bytesOf returns the memory of a wire structure. T must be a structure without pointers and implicit padding; the
// fuse package's request and reply structures are.
func bytesOf[T any](p *T) []byte {
	return unsafe.Slice((*byte)(unsafe.Pointer(p)), unsafe.Sizeof(*p))
}

// sendmsg sends the segments of iov as one message. It does not allocate: the call's own structures are used.
func sendmsg(fd int, m *unix.Msghdr, iov []unix.Iovec, flags int) unix.Errno {
	*m = unix.Msghdr{Iov: &iov[0]}
	m.SetIovlen(len(iov))
	for {
		_, _, e := unix.Syscall(unix.SYS_SENDMSG, uintptr(fd), uintptr(unsafe.Pointer(m)), uintptr(flags|unix.MSG_NOSIGNAL))
		if e != unix.EINTR {
			return e
		}
	}
}

// recvmsg receives one message into the segments of iov. truncated reports that the message was longer; what it had
// beyond, and descriptors that came with it, are dropped by the kernel.
func recvmsg(fd int, m *unix.Msghdr, iov []unix.Iovec, flags int) (n int, truncated bool, err unix.Errno) {
	*m = unix.Msghdr{Iov: &iov[0]}
	m.SetIovlen(len(iov))
	for {
		r, _, e := unix.Syscall(unix.SYS_RECVMSG, uintptr(fd), uintptr(unsafe.Pointer(m)), uintptr(flags))
		if e == unix.EINTR {
			continue
		}
		if e != 0 {
			return 0, false, e
		}
		return int(r), m.Flags&unix.MSG_TRUNC != 0, 0
	}
}

// iovec returns the iovec for b, which must not be empty.
func iovec(b []byte) unix.Iovec {
	v := unix.Iovec{Base: &b[0]}
	v.SetLen(len(b))
	return v
}
