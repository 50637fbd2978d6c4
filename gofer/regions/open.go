// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package regions

import (
	"syscall"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// Open implements fuse.RawFileSystem. A file up to Options.FillLimit is complete
// when it returns, and a larger one if that does not take too long (see
// patience); one that is complete already costs no request.
func (f *FS) Open(cancel <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	if writes(in.Flags) {
		return readOnly
	}
	var attr fuse.AttrOut
	if s := f.GetAttr(cancel, &fuse.GetAttrIn{InHeader: in.InHeader}, &attr); !s.Ok() {
		return s
	}
	h := &handle{nodeID: in.NodeId, flags: in.Flags, refs: 1}
	if attr.Mode&syscall.S_IFMT != syscall.S_IFREG || attr.Size == 0 || attr.Size > 1<<62 {
		if s := f.openBackend(cancel, in, out, h); !s.Ok() {
			return s
		}
		f.register(h, out)
		return fuse.OK
	}

	size := int64(attr.Size)
	f.mu.Lock()
	fl := f.files[in.NodeId]
	var gone []forgotten
	if fl != nil && fl.size != size {
		held := fl.held
		fl.held = 0
		gone = f.detachLocked(fl)
		fl = f.newFileLocked(in.NodeId, size)
		fl.held = held
	}
	if fl == nil {
		fl = f.newFileLocked(in.NodeId, size)
	}
	fl.handles++
	h.file = fl
	complete := fl.sealed
	fl.used = true
	budget := f.budget
	f.mu.Unlock()
	f.forget(gone)
	if complete {
		*out = fuse.OpenOut{OpenFlags: fuse.FOPEN_KEEP_CACHE}
		f.register(h, out)
		return fuse.OK
	}
	if s := f.openBackend(cancel, in, out, h); !s.Ok() {
		f.unref(h)
		return s
	}
	if out.OpenFlags&(fuse.FOPEN_DIRECT_IO|fuse.FOPEN_NONSEEKABLE|fuse.FOPEN_STREAM) != 0 {
		f.leave(h)
		f.register(h, out)
		return fuse.OK
	}
	switch { // An error is for the read that meets it again.
	case size <= f.opts.FillLimit && size <= budget:
		if _, s := f.ensure(cancel, h, fl.whole()); s.Ok() {
			f.done(fl)
		}
	case size <= budget/2:
		f.fillPatiently(cancel, h)
	}
	f.register(h, out)
	return fuse.OK
}

func (f *FS) newFileLocked(id uint64, size int64) *file {
	fl := &file{id: id, size: size, fd: -1}
	f.files[id] = fl
	return fl
}

// openBackend opens the server's file for h.
func (f *FS) openBackend(cancel <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut, h *handle) fuse.Status {
	s := f.RawFileSystem.Open(cancel, in, out)
	if s == fuse.ENOSYS {
		// No OPEN and no RELEASE: handle 0 stands for every file.
		*out, s = fuse.OpenOut{OpenFlags: fuse.FOPEN_KEEP_CACHE}, fuse.OK
	}
	if s.Ok() {
		h.backend.mu.Lock()
		h.backend.open, h.backend.fh = true, out.Fh
		h.backend.mu.Unlock()
	}
	return s
}

// register gives h a number, which goes to out.
func (f *FS) register(h *handle, out *fuse.OpenOut) {
	f.mu.Lock()
	f.next++
	out.Fh = f.next
	f.handles[out.Fh] = h
	f.mu.Unlock()
}

// leave makes h a direct handle.
func (f *FS) leave(h *handle) {
	f.mu.Lock()
	fl := h.file
	h.file = nil
	fl.handles--
	gone := f.tidyLocked(fl)
	f.mu.Unlock()
	f.forget(gone)
}

// unref drops a ref on h and, with the last one, closes the server's file.
func (f *FS) unref(h *handle) {
	f.mu.Lock()
	h.refs--
	if h.refs > 0 {
		f.mu.Unlock()
		return
	}
	var gone []forgotten
	if fl := h.file; fl != nil {
		fl.handles--
		if h.donated {
			if fl.donated--; fl.donated == 0 {
				f.lent--
				f.donated -= fl.cost
			}
		}
		if f.files[fl.id] != fl && fl.handles == 0 {
			gone = f.detachLocked(fl)
		} else {
			gone = f.tidyLocked(fl)
		}
		gone = append(gone, f.evictLocked()...)
	}
	f.mu.Unlock()
	h.backend.mu.Lock()
	open, fh := h.backend.open, h.backend.fh
	h.backend.open = false
	h.backend.mu.Unlock()
	if open {
		f.RawFileSystem.Release(nil, &fuse.ReleaseIn{InHeader: fuse.InHeader{NodeId: h.nodeID}, Fh: fh, Flags: h.flags})
	}
	f.forget(gone)
}

// Release implements fuse.RawFileSystem.
func (f *FS) Release(cancel <-chan struct{}, in *fuse.ReleaseIn) {
	f.mu.Lock()
	h := f.handles[in.Fh]
	delete(f.handles, in.Fh)
	f.mu.Unlock()
	if h != nil {
		f.unref(h)
	}
}

// borrow returns the handle with a ref for the caller, or nil.
func (f *FS) borrow(fh uint64) *handle {
	f.mu.Lock()
	defer f.mu.Unlock()
	h := f.handles[fh]
	if h != nil {
		h.refs++
	}
	return h
}

// Donate returns a descriptor of the region of the file open as fh, which the
// caller owns, if the file is complete. It counts as the client's until fh is
// released. The descriptor and all made from it refuse writes.
func (f *FS) Donate(nodeID, fh uint64) (fd int, ok bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	h := f.handles[fh]
	if h == nil || h.file == nil || h.donated || !h.file.sealed {
		return -1, false
	}
	// What clients hold cannot be evicted: they must not hold more than there is.
	if h.file.donated == 0 && (f.donated+h.file.cost > f.budget || f.lent >= f.opts.MaxFiles*3/4) {
		return -1, false
	}
	fd, err := unix.FcntlInt(uintptr(h.file.fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return -1, false // out of descriptors: the client reads by request
	}
	h.donated = true
	if h.file.donated == 0 {
		f.lent++
		f.donated += h.file.cost // which is final: the file is sealed
	}
	h.file.donated++
	f.stats.donations.Add(1)
	return fd, true
}

// Return is nothing here: a donation ends with the release of its handle.
func (f *FS) Return(nodeID uint64) {}
