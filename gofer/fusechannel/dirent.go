// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package fusechannel

import (
	"bytes"
	"encoding/binary"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"fsva/gofer/fusewire"
)

// direntReader walks the payload of a READDIR or READDIRPLUS reply, following parse_dirfile and parse_dirplusfile of
// fs/fuse/readdir.c: an incomplete entry at the end is ignored, a bad one fails the whole reply.
type direntReader struct {
	buf  []byte
	plus bool

	// What next found. name points into buf; entry is set for plus only.
	name  []byte
	ino   uint64
	off   uint64
	mode  uint32 // file type bits, 0 when the server did not say or said nonsense
	entry fuse.EntryOut
}

// next advances to the next entry. ok is false at the end; bad is true when the payload is malformed there.
func (r *direntReader) next() (ok, bad bool) {
	head := fusewire.DirentSize
	if r.plus {
		head += fusewire.EntryOutSize
	}
	if len(r.buf) < head {
		return false, false
	}
	d := r.buf[head-fusewire.DirentSize:]
	namelen := binary.NativeEndian.Uint32(d[16:])
	if namelen == 0 || namelen > nameMax {
		return false, true
	}
	size := (head + int(namelen) + 7) &^ 7
	if size > len(r.buf) {
		return false, false
	}
	r.name = d[fusewire.DirentSize : fusewire.DirentSize+int(namelen)]
	if bytes.IndexByte(r.name, '/') >= 0 || bytes.IndexByte(r.name, 0) >= 0 {
		return false, true
	}
	r.ino = binary.NativeEndian.Uint64(d)
	r.off = binary.NativeEndian.Uint64(d[8:])
	r.mode = direntMode(binary.NativeEndian.Uint32(d[20:]))
	if r.plus {
		copy(bytesOf(&r.entry), r.buf[:fusewire.EntryOutSize])
	}
	r.buf = r.buf[size:]
	return true, false
}

// direntMode returns the file type bits for a d_type, 0 when it is none of the seven types.
func direntMode(typ uint32) uint32 {
	if typ > unix.S_IFMT>>12 {
		return 0
	}
	if mode := typ << 12; goodMode(mode) {
		return mode
	}
	return 0
}

// isDot reports whether name is "." or "..".
func isDot(name []byte) bool {
	return string(name) == "." || string(name) == ".."
}

// wellFormed reports whether all entries of a payload can be taken, before any is.
func wellFormed(payload []byte, plus bool) bool {
	r := direntReader{buf: payload, plus: plus}
	for {
		if more, bad := r.next(); !more {
			return !bad
		}
	}
}

// fillDir copies a READDIR payload into out; ok is false, and out untouched, when it is malformed. Names that no
// application could be given (longer than NAME_MAX) are left out and counted in skipped.
func fillDir(payload []byte, out *fuse.DirEntryList) (skipped int, ok bool) {
	if !wellFormed(payload, false /* plus */) {
		return 0, false
	}
	r := direntReader{buf: payload}
	for {
		if more, _ := r.next(); !more {
			return skipped, true
		}
		if len(r.name) > direntNameMax {
			skipped++
			continue
		}
		if !out.AddDirEntry(fuse.DirEntry{Name: string(r.name), Mode: r.mode, Ino: r.ino, Off: r.off}) {
			return skipped, true
		}
	}
}

// fillDirPlus is fillDir for READDIRPLUS. Every entry with a node id is a lookup that the server counted, except "."
// and "..": those of them that do not reach out, in a good payload or a bad one, are passed to forget.
//
// An entry whose node id or attributes are unusable is given without them (node id 0), which tells the reader to look
// it up; badEntries counts them.
func fillDirPlus(payload []byte, out *fuse.DirEntryList, forget func(nodeID uint64)) (skipped, badEntries int, ok bool) {
	ok = wellFormed(payload, true /* plus */)
	full := !ok
	for r := (direntReader{buf: payload, plus: true}); ; {
		if more, _ := r.next(); !more {
			return skipped, badEntries, ok
		}
		e := r.entry
		if isDot(r.name) || e.NodeId == 0 {
			e = fuse.EntryOut{}
		} else if !fixEntry(&e) {
			badEntries++
			if e.NodeId != fuse.FUSE_ROOT_ID {
				forget(e.NodeId)
			}
			e = fuse.EntryOut{}
		} else {
			r.mode = e.Attr.Mode & unix.S_IFMT
		}
		var dst *fuse.EntryOut
		if len(r.name) > direntNameMax {
			skipped++
		} else if !full {
			dst = out.AddDirLookupEntry(fuse.DirEntry{Name: string(r.name), Mode: r.mode, Ino: r.ino, Off: r.off})
			full = dst == nil
		}
		if dst != nil {
			*dst = e
		} else if e.NodeId != 0 {
			forget(e.NodeId)
		}
	}
}
