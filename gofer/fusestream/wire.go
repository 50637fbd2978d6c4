// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package fusestream

import (
	"encoding/binary"

	"fsva/gofer/fusewire"
)

// Sizes and offsets in messages.
const (
	openOutSize = 16

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
func hasArgs(msg []byte, size int) bool { return len(msg) >= fusewire.InHeaderSize+size }

// prompt reports whether an operation never blocks.
func prompt(opcode uint32) bool {
	return opcode == fusewire.OpForget || opcode == fusewire.OpBatchForget || opcode == fusewire.OpInterrupt
}

// replyRoom returns the most bytes that the reply to a request takes. The request may
// be malformed.
func replyRoom(msg []byte) int {
	// The largest structure is STATX's; a symbolic link has at most 4095 bytes.
	const small = fusewire.OutHeaderSize + 4096
	size := 0
	switch opcodeOf(msg) {
	case fusewire.OpRead, fusewire.OpReadDir, fusewire.OpReadDirPlus:
		if hasArgs(msg, 40) {
			size = int(min(u32(msg, atIOSize), maxMessage-fusewire.OutHeaderSize))
		}
		return fusewire.OutHeaderSize + size
	case fusewire.OpGetXAttr, fusewire.OpListXAttr:
		if hasArgs(msg, 8) {
			size = int(min(u32(msg, atArg), 64<<10))
		}
		return fusewire.OutHeaderSize + max(size, 8)
	case fusewire.OpOpen, fusewire.OpOpenDir, fusewire.OpSetLk, fusewire.OpSetLkw, fusewire.OpWrite, fusewire.OpFlush, fusewire.OpRelease, fusewire.OpReleaseDir, fusewire.OpFsync:
		return fusewire.OutHeaderSize + 64
	}
	return small
}
