// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package dirfs

import (
	"context"
	"path/filepath"

	"github.com/hanwen/go-fuse/v2/fs"
	"golang.org/x/sys/unix"
)

var (
	_ = (fs.NodeGetxattrer)((*node)(nil))
	_ = (fs.NodeSetxattrer)((*node)(nil))
	_ = (fs.NodeRemovexattrer)((*node)(nil))
	_ = (fs.NodeListxattrer)((*node)(nil))
)

// xattr calls byPath with the file's path in this process's root, or byFD with
// the kept descriptor of a file without a name.
//
// Linux before 6.13 can name a symbolic link's or a FIFO's attributes by path
// only. Such a path can be led astray through a symbolic link, but only by the
// directory's owner on the host, during the call, and no further than this
// process's root, which holds nothing else.
func (n *node) xattr(byPath func(path string) error, byFD func(fd int) error) unix.Errno {
	if rel, ok := n.rel(); ok {
		return toErrno(byPath(filepath.Join(n.tree.path, rel)))
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.kept <= 0 {
		return unix.ENOENT
	}
	err := byFD(n.kept)
	if err == unix.EBADF {
		err = unix.EOPNOTSUPP // O_PATH
	}
	return toErrno(err)
}

// sized completes the result of a call that may not have had room: FUSE wants
// the size that is needed together with ERANGE.
func sized(size *int, dest []byte, call func(dest []byte) (int, error)) error {
	n, err := call(dest)
	if err == unix.ERANGE {
		if need, err := call(nil); err == nil {
			*size = need
		}
		return err
	}
	*size = max(n, 0)
	return err
}

// Getxattr implements fs.NodeGetxattrer.
func (n *node) Getxattr(ctx context.Context, attr string, dest []byte) (uint32, unix.Errno) {
	size := 0
	no := n.xattr(func(p string) error {
		return sized(&size, dest, func(b []byte) (int, error) { return unix.Lgetxattr(p, attr, b) })
	}, func(fd int) error {
		return sized(&size, dest, func(b []byte) (int, error) { return unix.Fgetxattr(fd, attr, b) })
	})
	return uint32(size), no
}

// Listxattr implements fs.NodeListxattrer.
func (n *node) Listxattr(ctx context.Context, dest []byte) (uint32, unix.Errno) {
	size := 0
	no := n.xattr(func(p string) error {
		return sized(&size, dest, func(b []byte) (int, error) { return unix.Llistxattr(p, b) })
	}, func(fd int) error {
		return sized(&size, dest, func(b []byte) (int, error) { return unix.Flistxattr(fd, b) })
	})
	return uint32(size), no
}

// Setxattr implements fs.NodeSetxattrer.
func (n *node) Setxattr(ctx context.Context, attr string, data []byte, flags uint32) unix.Errno {
	return n.xattr(
		func(p string) error { return unix.Lsetxattr(p, attr, data, int(flags)) },
		func(fd int) error { return unix.Fsetxattr(fd, attr, data, int(flags)) })
}

// Removexattr implements fs.NodeRemovexattrer.
func (n *node) Removexattr(ctx context.Context, attr string) unix.Errno {
	return n.xattr(
		func(p string) error { return unix.Lremovexattr(p, attr) },
		func(fd int) error { return unix.Fremovexattr(fd, attr) })
}
