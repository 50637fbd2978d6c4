// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package regions

import (
	"syscall"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// fileHandle is an open file of a Writable.
type fileHandle struct {
	// Immutable.
	inode   *inode
	fh      uint64 // the server's
	flags   uint32
	virtual bool // the server has no OPEN: there is nothing to release
	noFlush bool // the server wants no FLUSH

	// direct says that reads are not answered from the region. It is set before
	// anybody else knows the handle.
	direct bool

	// Guarded by Writable.mu.
	refs   int    // the caller's, one for each request and fill, and inode.writer's
	seen   uint64 // number of the failure reported last
	stream stream
}

// directFlags are those FOPEN_* flags with which Linux does not use its page
// cache, either.
const directFlags = fuse.FOPEN_DIRECT_IO | fuse.FOPEN_NONSEEKABLE | fuse.FOPEN_STREAM

// borrow returns an open file of the node with a ref for the caller, or nil.
func (w *Writable) borrow(nodeID, fh uint64) *fileHandle {
	w.mu.Lock()
	defer w.mu.Unlock()
	h := w.handles[fh]
	if h == nil || h.inode.id != nodeID {
		return nil
	}
	h.refs++
	return h
}

// unref drops a ref on h and, with the last one, closes the server's file.
func (w *Writable) unref(h *fileHandle) {
	w.mu.Lock()
	h.refs--
	last := h.refs == 0
	var gone []forgotten
	if !last {
		gone = w.evictLocked()
	}
	w.mu.Unlock()
	w.forget(gone)
	if !last {
		return
	}
	if !h.virtual {
		w.RawFileSystem.Release(nil, &fuse.ReleaseIn{InHeader: fuse.InHeader{NodeId: h.inode.id}, Fh: h.fh, Flags: h.flags})
	}
	w.put(h.inode)
}

// unrefWriter is unref for what noteDirtyLocked returns.
func (w *Writable) unrefWriter(h *fileHandle) {
	if h != nil {
		w.unref(h)
	}
}

// opened makes a handle of what the server has opened, and gives it the number
// that goes to out. The caller's hold on n passes to the handle.
func (w *Writable) opened(n *inode, flags uint32, out *fuse.OpenOut, virtual bool) *fileHandle {
	h := &fileHandle{
		inode: n, fh: out.Fh, flags: flags &^ (unix.O_TRUNC | unix.O_CREAT | unix.O_EXCL), virtual: virtual,
		noFlush: out.OpenFlags&fuse.FOPEN_NOFLUSH != 0,
		direct:  out.OpenFlags&directFlags != 0,
		refs:    1,
	}
	if w.o.WriteBack {
		out.OpenFlags &^= fuse.FOPEN_NOFLUSH // we do want one
	}
	return h
}

// register makes h known under a number, which goes to out.
func (w *Writable) register(h *fileHandle, out *fuse.OpenOut) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.next++
	out.Fh = w.next
	w.handles[w.next] = h
	n := h.inode
	// An error that nobody has been told is for the next one who might care.
	if h.seen = n.failures; h.seen > 0 && !n.reported {
		h.seen--
	}
}

// serverFlags are the flags with which to open a file at the server.
func (w *Writable) serverFlags(flags uint32) uint32 {
	if w.o.WriteBack {
		// Data is written back in the order of the file.
		flags &^= unix.O_APPEND
	}
	return flags
}

// Open implements fuse.RawFileSystem.
func (w *Writable) Open(cancel <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	n := w.use(in.NodeId)
	req := *in
	req.Flags = w.serverFlags(req.Flags)
	virtual := false
	open := func() fuse.Status {
		s := w.RawFileSystem.Open(cancel, &req, out)
		if s != fuse.ENOSYS {
			return s
		}
		virtual = true
		*out = fuse.OpenOut{OpenFlags: fuse.FOPEN_KEEP_CACHE}
		if in.Flags&unix.O_TRUNC == 0 {
			return fuse.OK
		}
		set := fuse.SetAttrIn{SetAttrInCommon: fuse.SetAttrInCommon{InHeader: in.InHeader, Valid: fuse.FATTR_SIZE}}
		return w.RawFileSystem.SetAttr(cancel, &set, new(fuse.AttrOut))
	}
	var s fuse.Status
	if in.Flags&unix.O_TRUNC != 0 {
		n.data.Lock()
		if s = open(); s.Ok() {
			w.resize(n, 0)
		} else {
			w.unknown(n, extent{0, maxSize})
		}
		n.data.Unlock()
	} else {
		s = open()
	}
	if !s.Ok() {
		w.put(n)
		return s
	}
	h := w.opened(n, req.Flags, out, virtual)
	if !h.direct {
		w.prepare(cancel, h, out.OpenFlags&fuse.FOPEN_KEEP_CACHE != 0)
	}
	w.register(h, out)
	return fuse.OK
}

// prepare makes sure that what is cached of a file that has just been opened is
// what the server has, and fills the region if the file is small.
func (w *Writable) prepare(cancel <-chan struct{}, h *fileHandle, keep bool) {
	n := h.inode
	w.mu.Lock()
	sure := n.known && (len(n.dirty) > 0 || keep && !w.autoInval)
	w.mu.Unlock()
	var mode uint32
	if !sure {
		n.data.RLock() // no change of ours is under way
		a, s := w.attr(cancel, n.id)
		w.mu.Lock()
		sure = s.Ok() && n.known && n.seen == stampOf(&a)
		w.mu.Unlock()
		n.data.RUnlock()
		if !sure {
			n.data.Lock()
			if a, s = w.attr(cancel, n.id); s.Ok() && a.Mode&syscall.S_IFMT == syscall.S_IFREG && a.Size <= maxSize {
				w.adopt(n, &a)
			} else {
				w.mu.Lock()
				h.direct = !n.known
				w.mu.Unlock()
			}
			n.data.Unlock()
		}
		mode = a.Mode
	}
	if h.direct || writes(h.flags) {
		return
	}
	limit := w.o.FillLimit
	if mode&0o111 != 0 {
		limit = w.o.ExecFillLimit
	}
	n.data.RLock()
	w.mu.Lock()
	n.used = true
	size, budget, complete, lent := n.size, w.budget, n.valid.contains(n.whole()), n.donated > 0
	w.mu.Unlock()
	if small := lent || size <= min(limit, budget); complete || small {
		if !complete {
			// An error is for the read that meets it again.
			w.ensure(cancel, h, extent{0, size})
		}
		n.data.RUnlock()
		return
	}
	n.data.RUnlock()
	if size <= budget/2 {
		w.patience.fill(w.o.OpenWait, size, func(off int64) (end int64, ok bool) {
			n.data.RLock()
			defer n.data.RUnlock()
			end = min(off+int64(w.o.MaxRead), n.size) // which may have changed
			if off >= end {
				return 0, false
			}
			w.fillAhead(h, extent{off, min(off+maxWindow, n.size)})
			_, _, s := w.ensure(cancel, h, extent{off, end})
			return end, s.Ok()
		})
	}
	if size <= min(w.o.BackgroundLimit, budget) {
		w.fillLater(h)
	}
}

// Create implements fuse.RawFileSystem.
func (w *Writable) Create(cancel <-chan struct{}, in *fuse.CreateIn, name string, out *fuse.CreateOut) fuse.Status {
	req := *in
	req.Flags = w.serverFlags(req.Flags)
	s := w.RawFileSystem.Create(cancel, &req, name, out)
	if s.Ok() {
		w.created(req.Flags, out)
	}
	return s
}

// Tmpfile implements fuse.RawFileSystem.
func (w *Writable) Tmpfile(cancel <-chan struct{}, in *fuse.CreateIn, out *fuse.CreateOut) fuse.Status {
	req := *in
	req.Flags = w.serverFlags(req.Flags)
	s := w.RawFileSystem.Tmpfile(cancel, &req, out)
	if s.Ok() {
		w.created(req.Flags, out)
	}
	return s
}

// created makes the handle of a file that was created, or found there and opened.
func (w *Writable) created(flags uint32, out *fuse.CreateOut) {
	n := w.use(out.NodeId)
	h := w.opened(n, flags, &out.OpenOut, false)
	n.data.Lock()
	if flags&unix.O_TRUNC != 0 {
		w.resize(n, 0)
	}
	if out.Attr.Mode&syscall.S_IFMT == syscall.S_IFREG && out.Attr.Size <= maxSize {
		w.adopt(n, &out.Attr)
		w.restore(n)
	} else {
		h.direct = true
	}
	n.data.Unlock()
	w.register(h, &out.OpenOut)
}

// Release implements fuse.RawFileSystem. The server's file stays open as long as
// there is data to be written with it.
func (w *Writable) Release(cancel <-chan struct{}, in *fuse.ReleaseIn) {
	w.mu.Lock()
	h := w.handles[in.Fh]
	delete(w.handles, in.Fh)
	w.mu.Unlock()
	if h == nil {
		return
	}
	if writes(h.flags) {
		w.flush(h.inode) // what fails stays dirty
	}
	w.unref(h)
}

// server returns the server's number for one of our own handles, and a function
// that the caller calls when it is done with it.
func (w *Writable) server(nodeID, fh uint64) (number uint64, done func(), ok bool) {
	h := w.borrow(nodeID, fh)
	if h == nil {
		return 0, func() {}, false
	}
	return h.fh, func() { w.unref(h) }, true
}

// GetAttr implements fuse.RawFileSystem.
func (w *Writable) GetAttr(cancel <-chan struct{}, in *fuse.GetAttrIn, out *fuse.AttrOut) fuse.Status {
	dirty := false
	if n := w.peek(in.NodeId); n != nil {
		dirty = !w.flush(n).Ok() // what fails is in the file's error
		defer w.put(n)
	}
	req := *in
	if in.Flags_&fuse.FUSE_GETATTR_FH != 0 {
		fh, done, ok := w.server(in.NodeId, in.Fh_)
		defer done()
		if req.Fh_ = fh; !ok {
			req.Flags_ &^= fuse.FUSE_GETATTR_FH
		}
	}
	s := w.RawFileSystem.GetAttr(cancel, &req, out)
	if s.Ok() {
		w.patch(in.NodeId, &out.Attr.Size, dirty)
	}
	return s
}

// Statx implements fuse.RawFileSystem.
func (w *Writable) Statx(cancel <-chan struct{}, in *fuse.StatxIn, out *fuse.StatxOut) fuse.Status {
	dirty := false
	if n := w.peek(in.NodeId); n != nil {
		dirty = !w.flush(n).Ok()
		defer w.put(n)
	}
	req := *in
	if in.GetattrFlags&fuse.FUSE_GETATTR_FH != 0 {
		fh, done, ok := w.server(in.NodeId, in.Fh)
		defer done()
		if req.Fh = fh; !ok {
			req.GetattrFlags &^= fuse.FUSE_GETATTR_FH
		}
	}
	s := w.RawFileSystem.Statx(cancel, &req, out)
	if s.Ok() {
		w.patch(in.NodeId, &out.Size, dirty)
	}
	return s
}

// Lseek implements fuse.RawFileSystem.
func (w *Writable) Lseek(cancel <-chan struct{}, in *fuse.LseekIn, out *fuse.LseekOut) fuse.Status {
	h := w.borrow(in.NodeId, in.Fh)
	if h == nil {
		return fuse.EBADF
	}
	defer w.unref(h)
	if s := w.flush(h.inode); !s.Ok() {
		return s
	}
	req := *in
	req.Fh = h.fh
	return w.RawFileSystem.Lseek(cancel, &req, out)
}

// GetLk implements fuse.RawFileSystem.
func (w *Writable) GetLk(cancel <-chan struct{}, in *fuse.LkIn, out *fuse.LkOut) fuse.Status {
	return w.lock(in, func(in *fuse.LkIn) fuse.Status { return w.RawFileSystem.GetLk(cancel, in, out) })
}

// SetLk implements fuse.RawFileSystem.
func (w *Writable) SetLk(cancel <-chan struct{}, in *fuse.LkIn) fuse.Status {
	return w.lock(in, func(in *fuse.LkIn) fuse.Status { return w.RawFileSystem.SetLk(cancel, in) })
}

// SetLkw implements fuse.RawFileSystem.
func (w *Writable) SetLkw(cancel <-chan struct{}, in *fuse.LkIn) fuse.Status {
	return w.lock(in, func(in *fuse.LkIn) fuse.Status { return w.RawFileSystem.SetLkw(cancel, in) })
}

func (w *Writable) lock(in *fuse.LkIn, do func(*fuse.LkIn) fuse.Status) fuse.Status {
	fh, done, ok := w.server(in.NodeId, in.Fh)
	defer done()
	if !ok {
		return fuse.EBADF
	}
	req := *in
	req.Fh = fh
	return do(&req)
}

// Ioctl implements fuse.RawFileSystem. The handle numbers are ours, and no
// frontend passes ioctls on.
func (w *Writable) Ioctl(<-chan struct{}, *fuse.IoctlIn, []byte, *fuse.IoctlOut, []byte) fuse.Status {
	return fuse.Status(unix.ENOTTY)
}
