// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package fusechannel

import (
	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"fsva/gofer/fusewire"
)

const eopnotsupp = fuse.Status(unix.EOPNOTSUPP)

// enosysMeans lists the operations for which one ENOSYS tells that the server will never have them: they are not sent
// again, and the caller gets the status given here. It follows Linux:
//
//	fs/fuse/file.c    no_flush, no_fsync, no_open, no_fallocate, no_copy_file_range, no_lseek
//	fs/fuse/dir.c     no_access, no_create, no_fsyncdir, no_rename2, no_statx, no_tmpfile
//	fs/fuse/xattr.c   no_setxattr, no_getxattr, no_listxattr, no_removexattr
//	fs/fuse/ioctl.c   no_ioctl
//
// CREATE, LSEEK, OPEN, OPENDIR and STATX stand for ENOSYS here because their methods go on with something else then.
// An operation that is not in the list is sent every time and its ENOSYS is the caller's.
var enosysMeans = map[uint32]fuse.Status{
	fusewire.OpFlush:         fuse.OK,
	fusewire.OpFsync:         fuse.OK,
	fusewire.OpFsyncDir:      fuse.OK,
	fusewire.OpAccess:        fuse.OK,
	fusewire.OpSetXAttr:      eopnotsupp,
	fusewire.OpGetXAttr:      eopnotsupp,
	fusewire.OpListXAttr:     eopnotsupp,
	fusewire.OpRemoveXAttr:   eopnotsupp,
	fusewire.OpFallocate:     eopnotsupp,
	fusewire.OpCopyFileRange: eopnotsupp,
	fusewire.OpTmpfile:       eopnotsupp,
	fusewire.OpRename2:       fuse.EINVAL,
	fusewire.OpIoctl:         fuse.Status(unix.ENOTTY),
	fusewire.OpCreate:        fuse.ENOSYS,
	fusewire.OpLseek:         fuse.ENOSYS,
	fusewire.OpOpen:          fuse.ENOSYS,
	fusewire.OpOpenDir:       fuse.ENOSYS,
	fusewire.OpStatx:         fuse.ENOSYS,
}

// missing reports whether the server is known not to have the operation.
func (c *Channel) missing(opcode uint32) bool { return c.enosys[opcode].Load() }

// remember takes note of an ENOSYS and returns what the caller gets.
func (c *Channel) remember(opcode uint32, st fuse.Status) fuse.Status {
	if st != fuse.ENOSYS {
		return st
	}
	means, ok := enosysMeans[opcode]
	if !ok {
		return st
	}
	c.enosys[opcode].Store(true)
	return means
}

// plainOnce is plain for an operation in enosysMeans.
func (c *Channel) plainOnce(cancel <-chan struct{}, opcode uint32, h *fuse.InHeader, in []byte, n int) fuse.Status {
	if c.missing(opcode) {
		return enosysMeans[opcode]
	}
	return c.remember(opcode, c.plain(cancel, opcode, h, in, n))
}
