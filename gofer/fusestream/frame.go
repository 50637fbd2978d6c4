// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package fusestream

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// kind says what a frame carries.
type kind uint8

const (
	kindRequest kind = 1 + iota
	kindReply
	kindNotification
	kindRelease
	kindCompound
)

// flagWindow: the frame's body begins with a reference to the window.
const flagWindow = 1

const (
	headerSize    = 8
	referenceSize = 16
	// overhead is what may precede a FUSE message.
	overhead = headerSize + referenceSize
	// maxReleases bounds the offsets in one frame.
	maxReleases = 512

	// maxMessage bounds a FUSE message without the data in the window.
	maxMessage = 1<<20 + 4096

	// windowMin is the least data, in bytes, that goes through the window: less is
	// faster in the frame, because nothing has to be released.
	windowMin = 16 << 10
)

var errFrame = errors.New("malformed frame")

// header is a frame's.
type header struct {
	length int // of the body
	kind   kind
	window bool
}

// put writes the header to the first 8 bytes of b.
func (h header) put(b []byte) {
	binary.LittleEndian.PutUint32(b, uint32(h.length))
	b[4], b[5], b[6], b[7] = byte(h.kind), 0, 0, 0
	if h.window {
		b[5] = flagWindow
	}
}

// readHeader reads the next frame's header and checks it. io.EOF is the end of the
// stream, between frames.
func readHeader(r io.Reader) (header, error) {
	var b [headerSize]byte
	if _, err := io.ReadFull(r, b[:]); err != nil {
		return header{}, err
	}
	h := header{
		length: int(binary.LittleEndian.Uint32(b[:])),
		kind:   kind(b[4]),
		window: b[5] == flagWindow,
	}
	if b[5]&^flagWindow != 0 || b[6] != 0 || b[7] != 0 {
		return h, fmt.Errorf("%w: flags %#x", errFrame, b[5:])
	}
	limit := maxMessage
	switch h.kind {
	case kindRequest, kindReply:
		if h.window {
			limit += referenceSize
		}
	case kindNotification, kindCompound:
		if h.window {
			limit = -1
		}
	case kindRelease:
		limit = maxReleases * 8
		if h.window || h.length%8 != 0 {
			limit = -1
		}
	default:
		limit = -1
	}
	if h.length > limit {
		return h, fmt.Errorf("%w: kind %d with %d bytes", errFrame, h.kind, h.length)
	}
	return h, nil
}

// reference is a part of the window.
type reference struct {
	off    int64
	length int
}

// put writes the reference to the first 16 bytes of b.
func (r reference) put(b []byte) {
	binary.LittleEndian.PutUint64(b, uint64(r.off))
	binary.LittleEndian.PutUint64(b[8:], uint64(uint32(r.length)))
}

// takeReference splits a frame's body into its reference and the FUSE message.
func takeReference(b []byte) (reference, []byte, error) {
	if len(b) < referenceSize || binary.LittleEndian.Uint32(b[12:]) != 0 {
		return reference{}, nil, fmt.Errorf("%w: reference to the window", errFrame)
	}
	r := reference{off: int64(binary.LittleEndian.Uint64(b)), length: int(binary.LittleEndian.Uint32(b[8:]))}
	return r, b[referenceSize:], nil
}
