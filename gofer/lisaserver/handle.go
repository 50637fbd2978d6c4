// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package lisaserver

import (
	"slices"
	"sync/atomic"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"fsva/gofer/errno"
)

// handle is a file or directory that the file system has open for a client. See
// the package doc for its reference model.
type handle struct {
	// Immutable after creation.
	srv   *Server
	n     *node // holds a ref
	c     *conn
	fh    uint64
	flags uint32 // of OPEN, without O_TRUNC
	fopen uint32 // FOPEN_* from the file system
	owner uint64 // lock owner
	// virtual says that the file system has no OPEN: there is nothing to release.
	virtual bool
	// renames is Server.renames from before a directory was opened.
	renames uint64

	refs atomic.Int32
	// dirty says that something was written since the last FLUSH.
	dirty atomic.Bool
	// lostError is the errno of a sync that the client did not get to see; 0: none.
	lostError atomic.Int32
}

// takeLostError returns the error of an earlier sync that is still to be
// reported, once.
func (h *handle) takeLostError() error {
	if h.lostError.Load() == 0 {
		return nil
	}
	if e := h.lostError.Swap(0); e != 0 {
		return unix.Errno(e)
	}
	return nil
}

// openNode opens n with flags. The caller gets the only ref on the handle.
//
// Like the kernel, it truncates with a SETATTR after OPEN where the file system
// does not do it itself.
func (c *conn) openNode(n *node, flags uint32) (*handle, error) {
	s := c.srv
	trunc := flags&unix.O_TRUNC != 0
	flags &= unix.O_ACCMODE
	in := fuse.OpenIn{InHeader: n.header(), Flags: flags}
	var out fuse.OpenOut
	var status fuse.Status
	renames := s.renames.Load()
	if n.isDir() {
		in.Flags |= unix.O_DIRECTORY
		status = s.fs.OpenDir(nil, &in, &out)
	} else {
		if trunc && s.atomicTrunc {
			in.Flags |= unix.O_TRUNC
		}
		status = s.fs.Open(nil, &in, &out)
	}
	virtual := status == fuse.ENOSYS
	if virtual {
		out = fuse.OpenOut{}
	} else if err := errno.FromStatus(status); err != nil {
		return nil, err
	}
	h := c.newHandle(n, &out, flags, virtual)
	h.renames = renames
	if trunc && (virtual || !s.atomicTrunc) {
		in := fuse.SetAttrIn{SetAttrInCommon: fuse.SetAttrInCommon{InHeader: n.header(), Valid: fuse.FATTR_SIZE}}
		var out fuse.AttrOut
		if err := errno.FromStatus(s.fs.SetAttr(nil, &in, &out)); err != nil {
			h.close()
			return nil, err
		}
	}
	return h, nil
}

// newHandle makes a handle from a successful OPEN, OPENDIR or CREATE on n.
func (c *conn) newHandle(n *node, out *fuse.OpenOut, flags uint32, virtual bool) *handle {
	n.incRef()
	h := &handle{
		srv: c.srv, n: n, c: c,
		fh: out.Fh, flags: flags, fopen: out.OpenFlags,
		owner:   c.srv.lockOwner.Add(1),
		virtual: virtual,
	}
	h.refs.Store(1)
	if !n.isDir() && !virtual {
		n.mu.Lock()
		n.handles = append(n.handles, h)
		n.mu.Unlock()
	}
	return h
}

func (h *handle) writable() bool { return h.flags&unix.O_ACCMODE != unix.O_RDONLY }

// borrow returns an open handle of c on n with a ref for the caller, a writable
// one if there is one, or nil. With mustWrite only a writable one will do.
func (n *node) borrow(c *conn, mustWrite bool) *handle {
	n.mu.Lock()
	defer n.mu.Unlock()
	var found *handle
	for _, h := range n.handles {
		if h.c != c {
			continue
		}
		if h.writable() {
			found = h
			break
		}
		if found == nil && !mustWrite {
			found = h
		}
	}
	if found != nil {
		// A handle is in the list only while its OpenFD's ref is there.
		found.refs.Add(1)
	}
	return found
}

// close gives up the first ref: written data is flushed, nobody new can borrow
// the handle, and it is released when the last borrower is done.
func (h *handle) close() {
	if h.dirty.Load() {
		if err := h.flush(); err != nil {
			h.srv.log.Warn("data of a file closed without flush may be lost",
				"container", h.c.opts.Container, "node", h.n.id, "error", err)
		}
	}
	h.n.mu.Lock()
	if i := slices.Index(h.n.handles, h); i >= 0 {
		h.n.handles = slices.Delete(h.n.handles, i, i+1)
	}
	h.n.mu.Unlock()
	h.decRef()
}

func (h *handle) decRef() {
	if h.refs.Add(-1) > 0 {
		return
	}
	if !h.virtual {
		in := fuse.ReleaseIn{InHeader: h.n.header(), Fh: h.fh, Flags: h.flags, LockOwner: h.owner}
		if h.n.isDir() {
			h.srv.fs.ReleaseDir(&in)
		} else {
			h.srv.fs.Release(nil, &in)
		}
	}
	h.n.decRef()
}

// flush reports what close(2) would: errors of writes that were put off. A file
// system without FLUSH has nothing to report.
func (h *handle) flush() error {
	h.dirty.Store(false)
	if h.fopen&fuse.FOPEN_NOFLUSH != 0 {
		return nil
	}
	in := fuse.FlushIn{InHeader: h.n.header(), Fh: h.fh, LockOwner: h.owner}
	status := h.srv.fs.Flush(nil, &in)
	if status == fuse.ENOSYS {
		return nil
	}
	return errno.FromStatus(status)
}

// sync makes the file durable. A file system without FSYNC is taken at its word
// that there is nothing to do, as the kernel does.
func (h *handle) sync() error {
	in := fuse.FsyncIn{InHeader: h.n.header(), Fh: h.fh}
	var status fuse.Status
	if h.n.isDir() {
		status = h.srv.fs.FsyncDir(nil, &in)
	} else {
		status = h.srv.fs.Fsync(nil, &in)
	}
	if status == fuse.ENOSYS {
		return nil
	}
	return errno.FromStatus(status)
}
