// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package fusesession

import "github.com/hanwen/go-fuse/v2/fuse"

const (
	// initIn35Size is struct fuse_init_in up to 7.35.
	initIn35Size   = 16
	initOutSize    = 64
	setXAttrInSize = 8 // without SETXATTR_EXT
	forgetOneSize  = 16

	releaseFlockUnlock = 1 << 1 // FUSE_RELEASE_FLOCK_UNLOCK
	fsyncDataSync      = 1 << 0 // FUSE_FSYNC_FDATASYNC
	fmodeExec          = 0x20   // FMODE_EXEC, which Linux sends with the open(2) of execve
	// fattrAll are the bits of SETATTR that are passed on. KILL_SUIDGID is not negotiated.
	fattrAll = fuse.FATTR_MODE | fuse.FATTR_UID | fuse.FATTR_GID | fuse.FATTR_SIZE | fuse.FATTR_ATIME | fuse.FATTR_MTIME |
		fuse.FATTR_FH | fuse.FATTR_ATIME_NOW | fuse.FATTR_MTIME_NOW | fuse.FATTR_LOCKOWNER | fuse.FATTR_CTIME
)

const (
	protoMajor    = 7
	protoMinorMin = 23 // the first whose structures have today's sizes
	protoMinorMax = 41

	pageSize      = 4096
	nameMax       = 1024 // FUSE_NAME_MAX; the file system may allow less
	symlinkMax    = 4095 // PATH_MAX without its NUL
	xattrNameMax  = 255
	xattrValueMax = 64 << 10
	nanosPerSec   = 1e9
)

// batchForgetIn is struct fuse_batch_forget_in, after the header.
type batchForgetIn struct {
	fuse.InHeader
	Count uint32
	Dummy uint32
}

// setXAttrIn is struct fuse_setxattr_in without SETXATTR_EXT, after the header.
type setXAttrIn struct {
	fuse.InHeader
	Size  uint32
	Flags uint32
}

// renameIn is struct fuse_rename_in, after the header.
type renameIn struct {
	fuse.InHeader
	Newdir uint64
}
