// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package errno

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

func TestErrno(t *testing.T) {
	_, openErr := os.Open(filepath.Join(t.TempDir(), "none"))
	for _, tc := range []struct {
		name string
		err  error
		want unix.Errno
	}{
		{"nil", nil, 0},
		// The rows on which lisafs.ExtractErrno, fuse.ToStatus and p9's converter disagree.
		{"wrapped errno", fmt.Errorf("write %q: %w", "f", unix.ENOSPC), unix.ENOSPC},
		{"wrapped os.ErrNotExist", fmt.Errorf("open: %w", os.ErrNotExist), unix.ENOENT},
		{"EPERM", unix.EPERM, unix.EPERM},
		{"ENOTEMPTY", unix.ENOTEMPTY, unix.ENOTEMPTY},
		{"os.ErrPermission", os.ErrPermission, unix.EPERM},
		{"anything else", errors.New("odd"), unix.EIO},

		{"EACCES is not EPERM", fmt.Errorf("x: %w", unix.EACCES), unix.EACCES},
		{"syscall.Errno", syscall.ENAMETOOLONG, unix.ENAMETOOLONG},
		{"path error", openErr, unix.ENOENT},
		{"wrapped twice", fmt.Errorf("a: %w", &fs.PathError{Op: "x", Path: "y", Err: unix.EXDEV}), unix.EXDEV},
		{"errno wins over a sentinel", fmt.Errorf("%w: %w", fs.ErrNotExist, unix.ESTALE), unix.ESTALE},
		{"joined", errors.Join(io.EOF, unix.ENODEV), unix.ENODEV},
		{"os.ErrExist", fmt.Errorf("x: %w", fs.ErrExist), unix.EEXIST},
		{"os.ErrInvalid", fs.ErrInvalid, unix.EINVAL},
		{"os.ErrClosed", os.ErrClosed, unix.EBADF},
		{"os.ErrDeadlineExceeded", fmt.Errorf("x: %w", os.ErrDeadlineExceeded), unix.ETIMEDOUT},
		{"io.EOF", io.EOF, unix.EIO},
		{"errno 0", unix.Errno(0), unix.EIO},
		{"errno out of range", unix.Errno(4096), unix.EIO},
		{"negative errno", unix.Errno(math.MaxUint), unix.EIO},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if got := Errno(tc.err); got != tc.want {
				t.Errorf("Errno(%v) = %v, want %v", tc.err, got, tc.want)
			}
			if got, want := Status(tc.err), fuse.Status(tc.want); got != want {
				t.Errorf("Status(%v) = %v, want %v", tc.err, got, want)
			}
		})
	}
}

func TestFromStatus(t *testing.T) {
	for _, tc := range []struct {
		st   fuse.Status
		want error
	}{
		{fuse.OK, nil},
		{fuse.ENOENT, unix.ENOENT},
		{fuse.ENOSYS, unix.ENOSYS},
		{4095, unix.Errno(4095)},
		{4096, unix.EIO},
		{-1, unix.EIO},
		{-int32Max - 1, unix.EIO},
		{int32Max, unix.EIO},
	} {
		got := FromStatus(tc.st)
		// Comparison with ==, not errors.Is: the contract is a bare errno.
		if got != tc.want {
			t.Errorf("FromStatus(%d) = %v (%T), want %v", int32(tc.st), got, got, tc.want)
		}
		if got != nil && Status(got) != fuse.Status(tc.want.(unix.Errno)) {
			t.Errorf("Status(FromStatus(%d)) = %v", int32(tc.st), Status(got))
		}
	}
}

const int32Max = math.MaxInt32
