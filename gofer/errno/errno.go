// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

// Package errno is the one place where a Go error becomes a number for a peer.
//
// Inside the gofer errors are wrapped with what was done to what; at the edge (a lisafs reply, a FUSE reply) they are
// converted once, here. The libraries' own converters disagree with each other and lose wrapped errors, see the table
// in errno_test.go.
//
// Numbers that came from a peer (a fuse.Status in a reply) are not trusted: FromStatus lets nothing through that
// Linux could not have returned from a system call.
package errno

import (
	"errors"
	"io/fs"
	"os"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// max is the largest error number that Linux system calls can return (MAX_ERRNO in include/linux/err.h).
const max = 4095

// Errno returns the error number for err: 0 for nil, the first unix.Errno or syscall.Errno in err's tree, else the
// number that belongs to an os.Err* sentinel in that tree, else EIO. A fuse.Status is no error and cannot be in the
// tree; FromStatus makes it one.
//
// An error that is not nil never becomes 0: errno 0 returned as an error is EIO.
func Errno(err error) unix.Errno {
	if err == nil {
		return 0
	}
	// unix.Errno is an alias of syscall.Errno: one target finds both.
	var no syscall.Errno
	if errors.As(err, &no) {
		return sane(int64(no))
	}
	for _, s := range sentinels {
		if errors.Is(err, s.err) {
			return s.no
		}
	}
	return unix.EIO
}

var sentinels = []struct {
	err error
	no  unix.Errno
}{
	{fs.ErrNotExist, unix.ENOENT},
	{fs.ErrExist, unix.EEXIST},
	{fs.ErrPermission, unix.EPERM},
	{fs.ErrInvalid, unix.EINVAL},
	{fs.ErrClosed, unix.EBADF},
	{os.ErrDeadlineExceeded, unix.ETIMEDOUT},
}

// Status returns the status to send to a FUSE client for err; it follows Errno.
func Status(err error) fuse.Status {
	return fuse.Status(Errno(err))
}

// FromStatus returns st as an error: nil for OK, else a bare unix.Errno, which is what lisafs.ExtractErrno needs (it
// turns anything wrapped into EIO). A status outside 1..4095 becomes EIO.
func FromStatus(st fuse.Status) error {
	if st == fuse.OK {
		return nil
	}
	return sane(int64(st))
}

// sane maps everything but a plausible error number to EIO.
func sane(n int64) unix.Errno {
	if n <= 0 || n > max {
		return unix.EIO
	}
	return unix.Errno(n)
}
