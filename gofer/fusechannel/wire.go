// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package fusechannel

// Opcodes, as in include/uapi/linux/fuse.h. go-fuse keeps its own unexported.
const (
	opLookup        = 1
	opForget        = 2
	opGetAttr       = 3
	opSetAttr       = 4
	opReadlink      = 5
	opSymlink       = 6
	opMknod         = 8
	opMkdir         = 9
	opUnlink        = 10
	opRmdir         = 11
	opRename        = 12
	opLink          = 13
	opOpen          = 14
	opRead          = 15
	opWrite         = 16
	opStatfs        = 17
	opRelease       = 18
	opFsync         = 20
	opSetXAttr      = 21
	opGetXAttr      = 22
	opListXAttr     = 23
	opRemoveXAttr   = 24
	opFlush         = 25
	opInit          = 26
	opOpenDir       = 27
	opReadDir       = 28
	opReleaseDir    = 29
	opFsyncDir      = 30
	opGetLk         = 31
	opSetLk         = 32
	opSetLkw        = 33
	opAccess        = 34
	opCreate        = 35
	opInterrupt     = 36
	opDestroy       = 38
	opIoctl         = 39
	opNotifyReply   = 41
	opBatchForget   = 42
	opFallocate     = 43
	opReadDirPlus   = 44
	opRename2       = 45
	opLseek         = 46
	opCopyFileRange = 47
	opTmpfile       = 51
	opStatx         = 52

	opCount = 64
)

var opNames = [opCount]string{
	opLookup: "LOOKUP", opForget: "FORGET", opGetAttr: "GETATTR", opSetAttr: "SETATTR", opReadlink: "READLINK",
	opSymlink: "SYMLINK", opMknod: "MKNOD", opMkdir: "MKDIR", opUnlink: "UNLINK", opRmdir: "RMDIR",
	opRename: "RENAME", opLink: "LINK", opOpen: "OPEN", opRead: "READ", opWrite: "WRITE", opStatfs: "STATFS",
	opRelease: "RELEASE", opFsync: "FSYNC", opSetXAttr: "SETXATTR", opGetXAttr: "GETXATTR",
	opListXAttr: "LISTXATTR", opRemoveXAttr: "REMOVEXATTR", opFlush: "FLUSH", opInit: "INIT",
	opOpenDir: "OPENDIR", opReadDir: "READDIR", opReleaseDir: "RELEASEDIR", opFsyncDir: "FSYNCDIR",
	opGetLk: "GETLK", opSetLk: "SETLK", opSetLkw: "SETLKW", opAccess: "ACCESS", opCreate: "CREATE",
	opInterrupt: "INTERRUPT", opDestroy: "DESTROY", opIoctl: "IOCTL", opNotifyReply: "NOTIFY_REPLY",
	opBatchForget: "BATCH_FORGET", opFallocate: "FALLOCATE", opReadDirPlus: "READDIRPLUS", opRename2: "RENAME2",
	opLseek: "LSEEK", opCopyFileRange: "COPY_FILE_RANGE", opTmpfile: "TMPFILE", opStatx: "STATX",
}

// Sizes of wire structures that depend on the minor version, or that go-fuse does not export. Requests are given
// without their header.
const (
	inHeaderSize  = 40
	outHeaderSize = 16

	initInSize       = 64 // since 7.36; older servers ignore what they don't know
	initOutSize      = 64 // since 7.23
	initOut22Size    = 24 // FUSE_COMPAT_22_INIT_OUT_SIZE: up to 7.22
	initOut5Size     = 8  // FUSE_COMPAT_INIT_OUT_SIZE
	entryOutSize     = 128
	entryOut8Size    = 120 // FUSE_COMPAT_ENTRY_OUT_SIZE: up to 7.8, no blksize and flags
	attrOutSize      = 104
	attrOut8Size     = 96 // FUSE_COMPAT_ATTR_OUT_SIZE: up to 7.8
	openOutSize      = 16
	writeOutSize     = 8
	statfsOutSize    = 80
	getXAttrOutSize  = 8
	lseekOutSize     = 8
	lkOutSize        = 24
	ioctlOutSize     = 16
	statxOutSize     = 288
	maxFixedOut      = statxOutSize
	rwInSize         = 40
	rwIn8Size        = 24 // FUSE_COMPAT_WRITE_IN_SIZE: up to 7.8, no lock owner and flags; READ was alike
	mknodInSize      = 16
	mknodIn11Size    = 8 // FUSE_COMPAT_MKNOD_IN_SIZE: up to 7.11, no umask; CREATE was alike
	setXAttrInSize   = 16
	setXAttrInCompat = 8 // FUSE_COMPAT_SETXATTR_IN_SIZE: unless SETXATTR_EXT
	lkInSize         = 48
	lkIn8Size        = 40 // up to 7.8, no lk_flags
	direntSize       = 24 // struct fuse_dirent without its name
)

// Protocol versions.
const (
	protoMajor    = 7
	protoMinorMin = 8  // FUSE 2.7 and later; nothing older is in any distribution
	protoMinorMax = 45 // newest whose structures and notifications go-fuse v2.12 has (NOTIFY_PRUNE)
)

// Limits of Linux that both sides are held to.
const (
	pageSize = 4096
	// nameMax is FUSE_NAME_MAX: what a server may have in a dirent or take in a request.
	nameMax = 1024
	// direntNameMax is NAME_MAX: what an application can have in a dirent. Longer ones are left out.
	direntNameMax  = 255
	symlinkMax     = 4095 // PATH_MAX without its NUL
	xattrNameMax   = 255
	xattrValueMax  = 65536
	xattrListMax   = 65536
	maxErrno       = 511 // fs/fuse/dev.c refuses errors <= -512
	maxMaxWrite    = 1 << 20
	minMaxWrite    = 4096
	defaultPages   = 32 // FUSE_DEFAULT_MAX_PAGES_PER_REQ: pages per request without MAX_PAGES
	defaultRahead  = 128 << 10
	interruptBit   = 1 // FUSE_INT_REQ_BIT
	nanosPerSecond = 1e9
)
