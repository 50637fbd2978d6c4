// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package lisaserver

import (
	"sync"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/lisafs"
	"gvisor.dev/gvisor/pkg/marshal/primitive"

	"fsva/gofer/errno"
)

const (
	// readdirSize is how much of a directory is asked for at once. It holds some
	// 300 READDIRPLUS entries, and all file systems can answer that much.
	readdirSize = 64 << 10
	// getdentsSlack is what lisafs' Getdents64 handler takes of a message besides
	// the entries, and more than the largest entry (it grows its buffer by 2800).
	getdentsSlack = 4096
)

// dirStream is an open directory: a FUSE handle, the position in it, and what
// was read from it but not asked for yet.
type dirStream struct {
	mu sync.Mutex
	// All fields are guarded by mu.
	h       *handle // first ref
	off     uint64  // where the next READDIR goes on
	touched bool    // whether anything was read through h
	eof     bool
	pending []lisafs.Dirent64
	err     error // comes after pending
	noPlus  bool  // the file system has no READDIRPLUS
}

func newDirStream(h *handle) *dirStream { return &dirStream{h: h} }

func (d *dirStream) close() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.h.close()
}

func (d *dirStream) sync() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.h.sync()
}

// rewind goes back to the start. Many file systems fix the content of a directory
// at OPENDIR, so to see what changed it is opened again. Others keep the path it
// had then and list nothing once it has another (mergerfs), so it is opened again
// after a rename too: the client may keep it open for longer than an application.
//
// Preconditions: d.mu is locked.
func (d *dirStream) rewind() error {
	if !d.touched && d.h.renames == d.h.srv.renames.Load() {
		return nil
	}
	h, err := d.h.c.openNode(d.h.n, 0)
	if err != nil {
		return err
	}
	d.h.close()
	d.h, d.off, d.touched, d.eof, d.pending, d.err = h, 0, false, false, nil, nil
	return nil
}

// fill reads on until there is an entry, the end, or an error.
//
// Preconditions: d.mu is locked.
func (d *dirStream) fill() {
	for len(d.pending) == 0 && d.err == nil && !d.eof {
		d.touched = true
		d.err = d.read()
	}
}

var dirBufs = sync.Pool{New: func() any { return new([readdirSize]byte) }}

// read does one READDIRPLUS, or READDIR where there is none.
func (d *dirStream) read() error {
	buf := dirBufs.Get().(*[readdirSize]byte)
	defer dirBufs.Put(buf)
	s, n := d.h.srv, d.h.n
	in := fuse.ReadIn{InHeader: n.header(), Fh: d.h.fh, Offset: d.off, Size: readdirSize, Flags: d.h.flags}
	list := fuse.NewDirEntryList(buf[:], d.off)
	plus := !d.noPlus && s.readdirplus()
	var status fuse.Status
	if s.parallelDirops {
		n.ns.RLock()
	} else {
		n.ns.Lock()
	}
	if plus {
		status = s.fs.ReadDirPlus(nil, &in, list)
		if status == fuse.ENOSYS {
			d.noPlus, plus = true, false
			list = fuse.NewDirEntryList(buf[:], d.off)
		}
	}
	if !plus {
		status = s.fs.ReadDir(nil, &in, list)
	}
	if s.parallelDirops {
		n.ns.RUnlock()
	} else {
		n.ns.Unlock()
	}
	// Even beside an error there may be entries, whose lookups count.
	var entries []fuse.DirEntry
	var outs []fuse.EntryOut
	var err error
	if plus {
		entries, outs, err = fuse.ParseDirLookupEntries(list.Bytes())
	} else {
		entries, err = fuse.ParseDirEntries(list.Bytes())
	}
	if err != nil {
		return unix.EIO
	}
	err = errno.FromStatus(status)
	if len(entries) == 0 {
		d.eof = err == nil
		return err
	}
	for i := range entries {
		var out *fuse.EntryOut
		if plus {
			out = &outs[i]
		}
		if !d.add(&entries[i], out) && err == nil {
			err = unix.EIO
		}
	}
	if off := entries[len(entries)-1].Off; off != d.off {
		d.off = off
	} else if err == nil {
		err = unix.EIO // The listing would never end.
	}
	return err
}

// add queues an entry and gives back the lookup that came with it. It reports
// whether the entry is one that a directory can have.
func (d *dirStream) add(e *fuse.DirEntry, out *fuse.EntryOut) bool {
	if e.Name == "." || e.Name == ".." {
		return true // These carry no lookup.
	}
	s := d.h.srv
	var id uint64
	ino, ftype := e.Ino, e.Mode&unix.S_IFMT
	if out != nil && out.NodeId != 0 {
		key := nodeKey{id: out.NodeId, ftype: out.Attr.Mode & unix.S_IFMT}
		s.nodes.absorb(key)
		if checkAttr(&out.Attr) == nil {
			id, ino, ftype = key.id, out.Attr.Ino, key.ftype
		}
	}
	if !okDirentName(e.Name) {
		return false
	}
	who := s.identityOf(id, ino, ftype)
	d.pending = append(d.pending, lisafs.Dirent64{
		Ino:      primitive.Uint64(who.ino),
		DevMajor: primitive.Uint32(who.major),
		DevMinor: primitive.Uint32(who.minor),
		Off:      primitive.Uint64(e.Off),
		Type:     primitive.Uint8(ftype >> 12),
		Name:     lisafs.SizedString(e.Name),
	})
	return true
}

// readdirplus reports whether to try READDIRPLUS.
func (s *Server) readdirplus() bool {
	if c, ok := s.fs.(capabilities); ok {
		return c.Has(fuse.CAP_READDIRPLUS)
	}
	return true
}

// Getdent64 implements lisafs.OpenFDImpl.Getdent64. It leaves "." and ".." out:
// the client ignores them, and takes an answer without entries for the end.
func (fd *openFD) Getdent64(count uint32, seek0 bool, record func(lisafs.Dirent64)) error {
	if fd.d == nil {
		return unix.ENOTDIR
	}
	d := fd.d
	d.mu.Lock()
	defer d.mu.Unlock()
	if seek0 {
		if err := d.rewind(); err != nil {
			return err
		}
	}
	room := int(min(count, fd.c.MaxMessageSize()-getdentsSlack))
	sent := 0
	for {
		d.fill()
		if len(d.pending) == 0 {
			if sent > 0 || d.err == nil {
				return nil
			}
			err := d.err
			d.err = nil
			return err
		}
		e := d.pending[0]
		size := e.SizeBytes()
		if size > room {
			if sent == 0 {
				return unix.EINVAL
			}
			return nil
		}
		record(e)
		d.pending = d.pending[1:]
		room -= size
		sent++
	}
}
