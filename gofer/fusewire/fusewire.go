// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

// Package fusewire has what all sides of the FUSE protocol need and go-fuse keeps
// to itself: opcodes, notifications and the sizes of structures, as in
// include/uapi/linux/fuse.h.
package fusewire

// Opcodes.
const (
	OpLookup          = 1
	OpForget          = 2
	OpGetAttr         = 3
	OpSetAttr         = 4
	OpReadlink        = 5
	OpSymlink         = 6
	OpMknod           = 8
	OpMkdir           = 9
	OpUnlink          = 10
	OpRmdir           = 11
	OpRename          = 12
	OpLink            = 13
	OpOpen            = 14
	OpRead            = 15
	OpWrite           = 16
	OpStatfs          = 17
	OpRelease         = 18
	OpFsync           = 20
	OpSetXAttr        = 21
	OpGetXAttr        = 22
	OpListXAttr       = 23
	OpRemoveXAttr     = 24
	OpFlush           = 25
	OpInit            = 26
	OpOpenDir         = 27
	OpReadDir         = 28
	OpReleaseDir      = 29
	OpFsyncDir        = 30
	OpGetLk           = 31
	OpSetLk           = 32
	OpSetLkw          = 33
	OpAccess          = 34
	OpCreate          = 35
	OpInterrupt       = 36
	OpDestroy         = 38
	OpIoctl           = 39
	OpNotifyReply     = 41
	OpBatchForget     = 42
	OpFallocate       = 43
	OpReadDirPlus     = 44
	OpRename2         = 45
	OpLseek           = 46
	OpCopyFileRange   = 47
	OpTmpfile         = 51
	OpStatx           = 52
	OpCopyFileRange64 = 53

	// OpCount is more than any opcode.
	OpCount = 64
)

// OpNames are the operations' names in the kernel header, without FUSE_; "" where
// there is none.
var OpNames = [OpCount]string{
	OpLookup:          "LOOKUP",
	OpForget:          "FORGET",
	OpGetAttr:         "GETATTR",
	OpSetAttr:         "SETATTR",
	OpReadlink:        "READLINK",
	OpSymlink:         "SYMLINK",
	OpMknod:           "MKNOD",
	OpMkdir:           "MKDIR",
	OpUnlink:          "UNLINK",
	OpRmdir:           "RMDIR",
	OpRename:          "RENAME",
	OpLink:            "LINK",
	OpOpen:            "OPEN",
	OpRead:            "READ",
	OpWrite:           "WRITE",
	OpStatfs:          "STATFS",
	OpRelease:         "RELEASE",
	OpFsync:           "FSYNC",
	OpSetXAttr:        "SETXATTR",
	OpGetXAttr:        "GETXATTR",
	OpListXAttr:       "LISTXATTR",
	OpRemoveXAttr:     "REMOVEXATTR",
	OpFlush:           "FLUSH",
	OpInit:            "INIT",
	OpOpenDir:         "OPENDIR",
	OpReadDir:         "READDIR",
	OpReleaseDir:      "RELEASEDIR",
	OpFsyncDir:        "FSYNCDIR",
	OpGetLk:           "GETLK",
	OpSetLk:           "SETLK",
	OpSetLkw:          "SETLKW",
	OpAccess:          "ACCESS",
	OpCreate:          "CREATE",
	OpInterrupt:       "INTERRUPT",
	OpDestroy:         "DESTROY",
	OpIoctl:           "IOCTL",
	OpNotifyReply:     "NOTIFY_REPLY",
	OpBatchForget:     "BATCH_FORGET",
	OpFallocate:       "FALLOCATE",
	OpReadDirPlus:     "READDIRPLUS",
	OpRename2:         "RENAME2",
	OpLseek:           "LSEEK",
	OpCopyFileRange:   "COPY_FILE_RANGE",
	OpTmpfile:         "TMPFILE",
	OpStatx:           "STATX",
	OpCopyFileRange64: "COPY_FILE_RANGE_64",
}

// Codes of notifications, as they go in the error field of the header.
const (
	NotePoll       = 1
	NoteInvalInode = 2
	NoteInvalEntry = 3
	NoteStore      = 4
	NoteRetrieve   = 5
	NoteDelete     = 6
	NoteResend     = 7
	NoteIncEpoch   = 8
	NotePrune      = 9

	// NoteCount is more than any code.
	NoteCount = 10
)

// NoteNames are the notifications' names in the kernel header, without FUSE_NOTIFY_.
var NoteNames = [NoteCount]string{
	NotePoll: "POLL", NoteInvalInode: "INVAL_INODE", NoteInvalEntry: "INVAL_ENTRY", NoteStore: "STORE",
	NoteRetrieve: "RETRIEVE", NoteDelete: "DELETE", NoteResend: "RESEND", NoteIncEpoch: "INC_EPOCH",
	NotePrune: "PRUNE",
}

// Sizes of structures, in bytes.
const (
	InHeaderSize  = 40
	OutHeaderSize = 16
	EntryOutSize  = 128 // since 7.9
	DirentSize    = 24  // struct fuse_dirent without its name
)
