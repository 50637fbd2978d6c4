// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package fusestream

import "encoding/binary"

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
	opBatchForget     = 42
	opFallocate       = 43
	opReadDirPlus     = 44
	opRename2         = 45
	opLseek           = 46
	opCopyFileRange   = 47
	opTmpfile         = 51
	opStatx           = 52
	opCopyFileRange64 = 53
)

// Sizes and offsets in messages.
const (
	inHeaderSize  = 40
	outHeaderSize = 16
	entryOutSize  = 128
	openOutSize   = 16
	direntSize    = 24

	atOpcode  = 4
	atUnique  = 8
	atNode    = 16
	atArg     = 40 // the first field after the header
	atArg2    = 48
	atIOSize  = 56 // of READ, READDIR and WRITE
	writeHead = 80 // header and structure of WRITE
)

func u32(b []byte, at int) uint32       { return binary.NativeEndian.Uint32(b[at:]) }
func u64(b []byte, at int) uint64       { return binary.NativeEndian.Uint64(b[at:]) }
func put64(b []byte, at int, v uint64)  { binary.NativeEndian.PutUint64(b[at:], v) }
func opcodeOf(msg []byte) uint32        { return u32(msg, atOpcode) }
func uniqueOf(msg []byte) uint64        { return u64(msg, atUnique) }
func nodeOf(msg []byte) uint64          { return u64(msg, atNode) }
func replyUnique(msg []byte) uint64     { return u64(msg, 8) }
func replyError(msg []byte) int32       { return int32(u32(msg, 4)) }
func hasArgs(msg []byte, size int) bool { return len(msg) >= inHeaderSize+size }

// prompt reports whether an operation never blocks.
func prompt(opcode uint32) bool {
	return opcode == opForget || opcode == opBatchForget || opcode == opInterrupt
}

// replyRoom returns the most bytes that the reply to a request takes. The request may
// be malformed.
func replyRoom(msg []byte) int {
	// The largest structure is STATX's; a symbolic link has at most 4095 bytes.
	const small = outHeaderSize + 4096
	size := 0
	switch opcodeOf(msg) {
	case opRead, opReadDir, opReadDirPlus:
		if hasArgs(msg, 40) {
			size = int(min(u32(msg, atIOSize), maxMessage-outHeaderSize))
		}
		return outHeaderSize + size
	case opGetXAttr, opListXAttr:
		if hasArgs(msg, 8) {
			size = int(min(u32(msg, atArg), 64<<10))
		}
		return outHeaderSize + max(size, 8)
	case opSetLk, opSetLkw, opWrite, opFlush, opRelease, opReleaseDir, opFsync:
		return outHeaderSize + 64
	}
	return small
}
