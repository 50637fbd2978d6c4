// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package fusechannel

// Sizes of wire structures that depend on the minor version, or that go-fuse does not export. Requests are given
// without their header.
const (
	initInSize       = 64  // since 7.36; older servers ignore what they don't know
	initOutSize      = 64  // since 7.23
	initOut22Size    = 24  // FUSE_COMPAT_22_INIT_OUT_SIZE: up to 7.22
	initOut5Size     = 8   // FUSE_COMPAT_INIT_OUT_SIZE
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
