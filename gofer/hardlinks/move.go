// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package hardlinks

import (
	"syscall"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// Unlink implements fuse.RawFileSystem.
func (f *FS) Unlink(cancel <-chan struct{}, header *fuse.InHeader, name string) fuse.Status {
	done := f.vacate(cancel, header, name)
	s := f.Server.Unlink(cancel, header, name)
	done(s)
	return s
}

// Rename implements fuse.RawFileSystem.
func (f *FS) Rename(cancel <-chan struct{}, in *fuse.RenameIn, oldName, newName string) fuse.Status {
	if in.Flags&(unix.RENAME_NOREPLACE|unix.RENAME_EXCHANGE) != 0 {
		return f.Server.Rename(cancel, in, oldName, newName)
	}
	header := in.InHeader
	header.NodeId = in.Newdir
	done := f.vacate(cancel, &header, newName)
	s := f.Server.Rename(cancel, in, oldName, newName)
	done(s)
	return s
}

// vacate prepares for the removal of a name: handles that were opened by it are
// moved to another name of the file, if there is one. Until done, which gets the
// result of the removal, the file is not opened. A name that does not exist, or
// whose handles cannot be moved, is left to the server.
func (f *FS) vacate(cancel <-chan struct{}, dir *fuse.InHeader, name string) (done func(fuse.Status)) {
	f.mu.Lock()
	idle := len(f.busy) == 0
	f.mu.Unlock()
	if idle {
		return func(fuse.Status) {}
	}
	var out fuse.EntryOut
	if s := f.Server.Lookup(cancel, dir, name, &out); !s.Ok() {
		return func(fuse.Status) {}
	}
	n, s := f.entered(&out, 0)
	if n == nil {
		if s.Ok() && out.NodeId != 0 {
			f.Forget(out.NodeId, 1)
		}
		return func(fuse.Status) {}
	}
	f.mu.Lock()
	fl := f.files[out.NodeId] // there is a lookup of it
	f.mu.Unlock()

	fl.opening.Lock()
	if out.Attr.Nlink > 1 {
		f.move(fl, n)
	}
	return func(s fuse.Status) {
		f.mu.Lock()
		if s.Ok() && n.file == fl && len(fl.nodes) > 1 && !fl.openedBy(n) {
			f.dropLocked(n) // it has no name any more
		}
		f.letGoLocked(n)
		f.unlock()
		fl.opening.Unlock()
		f.Forget(fl.id, 1)
	}
}

// openedBy reports whether a handle uses the node.
//
// Preconditions: fl.opening is locked for writing, and FS.mu.
func (fl *file) openedBy(n *node) bool {
	for h := range fl.open {
		if h.node == n {
			return true
		}
	}
	return false
}

// move moves the handles of a file that use a node to others.
//
// Preconditions: fl.opening is locked for writing.
func (f *FS) move(fl *file, from *node) {
	f.mu.Lock()
	var moving []*handle
	for h := range fl.open {
		if h.node == from {
			moving = append(moving, h)
		}
	}
	var others []*node
	for _, n := range fl.nodes {
		if n != from && len(moving) > 0 {
			n.uses++
			others = append(others, n)
		}
	}
	f.mu.Unlock()
	for _, h := range moving {
		for _, to := range others {
			if f.moveTo(h, to) {
				break
			}
		}
	}
	for _, n := range others {
		f.letGo(n)
	}
}

// moveTo moves a handle to another node: the file is opened there, operations
// under way on the handle come to their end, and what it was is flushed and
// closed. It reports whether nothing is left to do; if not, all is as it was.
//
// Preconditions: h.file.opening is locked for writing.
func (f *FS) moveTo(h *handle, to *node) bool {
	fh, s := f.openAgain(h, to)
	if !s.Ok() {
		return false
	}
	close := func(n *node, fh uint64) {
		f.Server.ReleaseAndWait(&fuse.ReleaseIn{InHeader: fuse.InHeader{NodeId: n.id, Caller: h.caller}, Fh: fh, Flags: h.flags})
	}
	h.mu.Lock()
	if h.closed || !f.sameOpen(h, to, fh) {
		closed := h.closed
		h.mu.Unlock()
		close(to, fh)
		return closed
	}
	if h.flags&syscall.O_ACCMODE != syscall.O_RDONLY {
		in := fuse.FlushIn{InHeader: fuse.InHeader{NodeId: h.node.id, Caller: h.caller}, Fh: h.fh}
		if s := f.Server.Flush(nil, &in); !s.Ok() && s != fuse.ENOSYS {
			h.err.Store(int32(s))
		}
	}
	from, fromFh := h.node, h.fh
	f.mu.Lock()
	to.uses++
	h.node, h.fh = to, fh
	f.mu.Unlock()
	h.mu.Unlock()
	close(from, fromFh) // waits: libfuse hides the name while it has the file open
	f.letGo(from)
	return true
}

// openAgain opens the file of a handle by another node. Whoever opened a file may
// use it, whatever has become of its mode since: root opens it, if they may not.
func (f *FS) openAgain(h *handle, to *node) (fh uint64, s fuse.Status) {
	for _, caller := range []fuse.Caller{h.caller, {}} {
		in := fuse.OpenIn{InHeader: fuse.InHeader{NodeId: to.id, Caller: caller}, Flags: h.flags}
		var out fuse.OpenOut
		if s = f.Server.Open(nil, &in, &out); s != fuse.EACCES && s != fuse.EPERM {
			return out.Fh, s
		}
	}
	return 0, s
}

// sameOpen reports whether what was opened through another node is the file of the
// handle: a name may have been replaced at the server. Both are open, so neither
// number can be in use again.
//
// Preconditions: h.mu is locked.
func (f *FS) sameOpen(h *handle, to *node, fh uint64) bool {
	var was, is fuse.AttrOut
	attr := func(n *node, fh uint64, out *fuse.AttrOut) bool {
		in := fuse.GetAttrIn{InHeader: fuse.InHeader{NodeId: n.id, Caller: h.caller}, Flags_: fuse.FUSE_GETATTR_FH, Fh_: fh}
		return f.Server.GetAttr(nil, &in, out).Ok()
	}
	return attr(h.node, h.fh, &was) && attr(to, fh, &is) && was.Ino == is.Ino
}
