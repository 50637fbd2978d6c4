// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package fusesession

import (
	"encoding/binary"

	"github.com/hanwen/go-fuse/v2/fuse"

	"fsva/gofer/fusewire"
)

// readDir carries out READDIR and READDIRPLUS.
func (s *Session) readDir(r *request) fuse.Status {
	in, rest, ok := arg[fuse.ReadIn](r.msg)
	if !ok || len(rest) > 0 || int64(in.Size) > int64(s.opts.MaxIO) || fusewire.OutHeaderSize+int(in.Size) > r.room {
		return s.bad()
	}
	h, st := s.borrow(r, 0, in.Fh, r.NodeId, true)
	if st != fuse.OK {
		return st
	}
	call := fuse.ReadIn{InHeader: r.InHeader, Fh: h.fh, Offset: in.Offset, Size: in.Size, Flags: h.flags}
	list := fuse.NewDirEntryList(s.buf(r, int(in.Size)), in.Offset)
	if r.Opcode == fusewire.OpReadDir {
		st = s.fs.ReadDir(r.cancel, &call, list)
	} else {
		st = s.fs.ReadDirPlus(r.cancel, &call, list)
	}
	r.payload = list.Bytes()
	if r.Opcode == fusewire.OpReadDirPlus {
		// Entries were looked up even if an error came after them.
		s.granted(r.payload, st == fuse.OK)
	}
	return st
}

// granted takes note of the lookups in the entries of a READDIRPLUS and makes them
// ones for the client. Those that the client does not get are forgotten.
func (s *Session) granted(b []byte, sent bool) {
	var refused []uint64
	s.mu.Lock()
	for len(b) >= fusewire.EntryOutSize+fusewire.DirentSize {
		out, dirent, _ := arg[fuse.EntryOut](b)
		name := int(binary.NativeEndian.Uint32(dirent[16:]))
		size := fusewire.EntryOutSize + (fusewire.DirentSize+name+7)&^7
		if size > len(b) {
			break
		}
		dots := name == 1 && dirent[fusewire.DirentSize] == '.' || name == 2 && string(dirent[fusewire.DirentSize:fusewire.DirentSize+2]) == ".."
		switch id := out.NodeId; {
		case id == 0:
		case dots || id == fuse.FUSE_ROOT_ID: // not counted, neither by us nor by the client
			out.NodeId = 0
		case !sent || s.tab.nodes[id] == nil && len(s.tab.nodes) >= s.opts.MaxNodes:
			out.NodeId = 0
			refused = append(refused, id)
		default:
			s.tab.granted(id, out.Mode)
		}
		s.fixEntry(out)
		b = b[size:]
	}
	s.mu.Unlock()
	for _, id := range refused {
		s.fs.Forget(id, 1)
	}
}
