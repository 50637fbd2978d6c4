// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package fusesession

import (
	"bytes"
	"encoding/binary"
	"strings"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"fsva/gofer/fusewire"
)

// maxFixed is the largest structure of a reply, that of STATX.
const maxFixed = 288

// request is one message with its reply.
type request struct {
	fuse.InHeader          // a copy
	msg           []byte   // all of it, private to us and aligned
	out           [][]byte // the client's room for the reply; never read
	room          int

	cancel chan struct{} // closed by INTERRUPT and at the end of the session

	// What the request uses, given back at its end. Guarded by Session.mu.
	nodes    [2]*node
	handles  [2]*handle
	canceled bool

	ftypes [2]uint32 // of nodes, when the request was admitted

	fixedBuf [maxFixed / 8]uint64
	fixed    []byte // the reply's structure, in fixedBuf
	payload  []byte // what follows it
	inPlace  bool   // payload is already where it belongs, in out
	bufs     [2]*[]byte

	replied, failed bool // whether there is a reply, and an errno in it
}

// reply returns the zeroed structure of the reply.
func reply[T any](r *request) *T {
	clear(r.fixedBuf[:])
	p, _, _ := arg[T](bytesOf(&r.fixedBuf))
	r.fixed = bytesOf(p)
	return p
}

// payloadRoom returns the room for n bytes of payload right behind the header,
// if it is in one piece.
func (r *request) payloadRoom(n int) []byte {
	off := fusewire.OutHeaderSize
	for _, b := range r.out {
		if off < len(b) {
			if off+n <= len(b) {
				return b[off : off+n : off+n]
			}
			return nil
		}
		off -= len(b)
	}
	return nil
}

// send writes the reply to out and returns its length.
func (r *request) send(st fuse.Status) (int, error) {
	if st != fuse.OK {
		r.fixed, r.payload, r.inPlace = nil, nil, false
	}
	n := fusewire.OutHeaderSize + len(r.fixed) + len(r.payload)
	if n > r.room {
		st = fuse.EIO
		r.fixed, r.payload, r.inPlace = nil, nil, false
		if n = fusewire.OutHeaderSize; n > r.room {
			return 0, errNoRoom
		}
	}
	r.replied, r.failed = true, st != fuse.OK
	var header [fusewire.OutHeaderSize]byte
	binary.NativeEndian.PutUint32(header[0:], uint32(n))
	binary.NativeEndian.PutUint32(header[4:], uint32(-int32(st)))
	binary.NativeEndian.PutUint64(header[8:], r.Unique)
	if r.inPlace {
		scatter(r.out, header[:])
	} else {
		scatter(r.out, header[:], r.fixed, r.payload)
	}
	return n, nil
}

// scatter copies src, piece by piece, to the beginning of dst, which has room.
func scatter(dst [][]byte, src ...[]byte) {
	i, off := 0, 0
	for _, s := range src {
		for len(s) > 0 {
			n := copy(dst[i][off:], s)
			s, off = s[n:], off+n
			if off == len(dst[i]) {
				i, off = i+1, 0
			}
		}
	}
}

// gather copies src to dst and returns the number of bytes.
func gather(dst []byte, src [][]byte) int {
	n := 0
	for _, s := range src {
		n += copy(dst[n:], s)
	}
	return n
}

func total(iov [][]byte) int {
	n := 0
	for _, b := range iov {
		n += len(b)
	}
	return n
}

// names splits b into exactly len(into) strings, each with its NUL.
func names(b []byte, into ...*string) bool {
	for _, s := range into {
		i := bytes.IndexByte(b, 0)
		if i < 0 {
			return false
		}
		*s = string(b[:i])
		b = b[i+1:]
	}
	return len(b) == 0
}

// checkName judges the name of a directory entry. "." and ".." are only looked
// up by kernels that were offered EXPORT_SUPPORT.
func checkName(name string) fuse.Status {
	switch {
	case name == "" || name == "." || name == ".." || strings.IndexByte(name, '/') >= 0:
		return fuse.EINVAL
	case len(name) > nameMax:
		return fuse.Status(unix.ENAMETOOLONG)
	}
	return fuse.OK
}

// entryName returns the one name in b.
func entryName(b []byte) (string, fuse.Status) {
	var name string
	if !names(b, &name) {
		return "", fuse.EINVAL
	}
	return name, checkName(name)
}

// xattrName returns the one name of an extended attribute in b.
func xattrName(b []byte) (string, fuse.Status) {
	var name string
	switch {
	case !names(b, &name):
		return "", fuse.EINVAL
	case name == "" || len(name) > xattrNameMax:
		return "", fuse.ERANGE // as the system calls
	}
	return name, fuse.OK
}
