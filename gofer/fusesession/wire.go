// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package fusesession

import "github.com/hanwen/go-fuse/v2/fuse"

// Opcodes, as in include/uapi/linux/fuse.h. go-fuse keeps its own unexported.
const (
	opLookup          = 1
	opForget          = 2
	opGetAttr         = 3
	opSetAttr         = 4
	opReadlink        = 5
	opSymlink         = 6
	opMknod           = 8
	opMkdir           = 9
	opUnlink          = 10
	opRmdir           = 11
	opRename          = 12
	opLink            = 13
	opOpen            = 14
	opRead            = 15
	opWrite           = 16
	opStatfs          = 17
	opRelease         = 18
	opFsync           = 20
	opSetXAttr        = 21
	opGetXAttr        = 22
	opListXAttr       = 23
	opRemoveXAttr     = 24
	opFlush           = 25
	opInit            = 26
	opOpenDir         = 27
	opReadDir         = 28
	opReleaseDir      = 29
	opFsyncDir        = 30
	opGetLk           = 31
	opSetLk           = 32
	opSetLkw          = 33
	opAccess          = 34
	opCreate          = 35
	opInterrupt       = 36
	opDestroy         = 38
	opIoctl           = 39
	opNotifyReply     = 41
	opBatchForget     = 42
	opFallocate       = 43
	opReadDirPlus     = 44
	opRename2         = 45
	opLseek           = 46
	opCopyFileRange   = 47
	opTmpfile         = 51
	opStatx           = 52
	opCopyFileRange64 = 53

	opCount = 64
)

// Notification codes, as they go in the header's error field.
const (
	noteInvalInode = 2
	noteInvalEntry = 3
	noteDelete     = 6
)

const (
	inHeaderSize  = 40
	outHeaderSize = 16

	// initIn35Size is struct fuse_init_in up to 7.35.
	initIn35Size   = 16
	initOutSize    = 64
	setXAttrInSize = 8 // without SETXATTR_EXT
	forgetOneSize  = 16
	entryOutSize   = 128
	direntSize     = 24

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
