// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package dirfs

import (
	"context"
	"math"
	"sync"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// file is an open regular file.
type file struct {
	readOnly bool // immutable

	// mu is held shared while fd is used, so that Release cannot close it, and
	// the number mean another file, under a request that is under way.
	mu sync.RWMutex
	fd int // guarded by mu; -1 once released
}

var (
	_ = (fs.FileReader)((*file)(nil))
	_ = (fs.FileWriter)((*file)(nil))
	_ = (fs.FileWritever)((*file)(nil))
	_ = (fs.FileFlusher)((*file)(nil))
	_ = (fs.FileFsyncer)((*file)(nil))
	_ = (fs.FileLseeker)((*file)(nil))
	_ = (fs.FileAllocater)((*file)(nil))
	_ = (fs.FileReleaser)((*file)(nil))
)

// do calls fn with the descriptor.
func (f *file) do(fn func(fd int) error) unix.Errno {
	f.mu.RLock()
	defer f.mu.RUnlock()
	if f.fd < 0 {
		return unix.EBADF
	}
	return toErrno(fn(f.fd))
}

// Read implements fs.FileReader. The bytes are in dest when it returns.
func (f *file) Read(ctx context.Context, dest []byte, off int64) (fuse.ReadResult, unix.Errno) {
	n := 0
	no := f.do(func(fd int) (err error) {
		n, err = pread(fd, dest, off)
		return err
	})
	if no != 0 {
		return nil, no
	}
	return fuse.ReadResultData(dest[:n]), 0
}

// pread fills buf unless the file ends before.
func pread(fd int, buf []byte, off int64) (int, error) {
	done := 0
	for done < len(buf) {
		n, err := unix.Pread(fd, buf[done:], off+int64(done))
		switch {
		case err == unix.EINTR:
		case err != nil && done == 0:
			return 0, err
		case err != nil || n == 0:
			return done, nil
		default:
			done += n
		}
	}
	return done, nil
}

// Write implements fs.FileWriter.
func (f *file) Write(ctx context.Context, data []byte, off int64) (uint32, unix.Errno) {
	done := 0
	no := f.do(func(fd int) error {
		for done < len(data) {
			n, err := unix.Pwrite(fd, data[done:], off+int64(done))
			switch {
			case err == unix.EINTR:
			case err != nil && done == 0:
				return err
			case err != nil || n == 0:
				return nil // a short write; the next one gets the error
			default:
				done += n
			}
		}
		return nil
	})
	return uint32(done), no
}

// Writev implements fs.FileWritever.
func (f *file) Writev(ctx context.Context, data [][]byte, off int64) (uint32, unix.Errno) {
	n := 0
	no := f.do(func(fd int) (err error) {
		n, err = unix.Pwritev(fd, data, off)
		return err
	})
	return uint32(max(n, 0)), no
}

// Flush implements fs.FileFlusher: closing a duplicate makes file systems that
// report errors at close(2), such as NFS, report them now. Reading has none.
func (f *file) Flush(ctx context.Context) unix.Errno {
	if f.readOnly {
		return 0
	}
	return f.do(func(fd int) error {
		dup, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			return err
		}
		return unix.Close(dup)
	})
}

// fsyncDatasync is FUSE_FSYNC_FDATASYNC.
const fsyncDatasync = 1

// Fsync implements fs.FileFsyncer.
func (f *file) Fsync(ctx context.Context, flags uint32) unix.Errno {
	return f.do(func(fd int) error {
		if flags&fsyncDatasync != 0 {
			return unix.Fdatasync(fd)
		}
		return unix.Fsync(fd)
	})
}

// Lseek implements fs.FileLseeker. The descriptor's own offset is not used by
// anything else.
func (f *file) Lseek(ctx context.Context, off uint64, whence uint32) (uint64, unix.Errno) {
	if off > math.MaxInt64 {
		return 0, unix.EINVAL
	}
	var n int64
	no := f.do(func(fd int) (err error) {
		n, err = unix.Seek(fd, int64(off), int(whence))
		return err
	})
	return uint64(n), no
}

// Allocate implements fs.FileAllocater.
func (f *file) Allocate(ctx context.Context, off, size uint64, mode uint32) unix.Errno {
	if off > math.MaxInt64 || size > math.MaxInt64 {
		return unix.EFBIG
	}
	return f.do(func(fd int) error {
		for {
			if err := unix.Fallocate(fd, mode, int64(off), int64(size)); err != unix.EINTR {
				return err
			}
		}
	})
}

// Release implements fs.FileReleaser.
func (f *file) Release(ctx context.Context) unix.Errno {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.fd < 0 {
		return unix.EBADF
	}
	err := unix.Close(f.fd)
	f.fd = -1
	return toErrno(err)
}
