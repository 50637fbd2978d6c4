// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package hardlinks

import (
	"sync"
	"sync/atomic"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fuse"
)

// handle is a file that the server has open. The caller gets a number of ours:
// the server's own may be the same for each file (ntfs-3g says 0), and it changes
// when the handle is moved.
type handle struct {
	file   *file       // immutable
	caller fuse.Caller // who opened it; immutable
	flags  uint32      // to open it with again; immutable

	// err is the status of a FLUSH that the caller is still to see; 0: none.
	err atomic.Int32

	mu sync.RWMutex
	// node and fh are guarded by mu; they are written with file.opening locked, too.
	// The handle uses the node.
	node   *node
	fh     uint64
	closed bool // guarded by mu
}

// opened makes a handle of what the server has opened as fh and returns its
// number. The caller's use of the node passes to it.
func (f *FS) opened(id uint64, n *node, fh uint64, caller fuse.Caller, flags uint32) uint64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	// The caller holds a lookup of the file, and n may have been dropped since.
	h := &handle{file: f.files[id], caller: caller, node: n, fh: fh}
	h.flags = flags &^ (syscall.O_CREAT | syscall.O_EXCL | syscall.O_TRUNC | syscall.O_NOCTTY)
	if h.file != nil {
		h.file.open[h] = struct{}{}
		f.noteLocked(h.file)
	}
	number := f.number.Add(1)
	f.handles.Store(number, h)
	return number
}

// borrow returns the handle with that number, locked for reading, or nil.
func (f *FS) borrow(number uint64) *handle {
	v, ok := f.handles.Load(number)
	if !ok {
		return nil
	}
	h := v.(*handle)
	h.mu.RLock()
	if h.closed {
		h.mu.RUnlock()
		return nil
	}
	return h
}

// byHandle performs a request on an open file: node and fh, which are fields of the
// request, become what the server knows it by. It is not moved meanwhile.
func (f *FS) byHandle(number uint64, node, fh *uint64, do func(h *handle) fuse.Status) fuse.Status {
	h := f.borrow(number)
	if h == nil {
		return fuse.EBADF
	}
	defer h.mu.RUnlock()
	*node, *fh = h.node.id, h.fh
	return do(h)
}

// Release implements fuse.RawFileSystem.
func (f *FS) Release(cancel <-chan struct{}, in *fuse.ReleaseIn) {
	v, ok := f.handles.LoadAndDelete(in.Fh)
	if !ok {
		return
	}
	h := v.(*handle)
	h.mu.Lock() // it may be being moved
	h.closed = true
	n := h.node
	h.mu.Unlock()
	to := *in
	to.NodeId, to.Fh = n.id, h.fh
	f.Server.Release(cancel, &to)

	f.mu.Lock()
	if h.file != nil {
		delete(h.file.open, h)
		f.noteLocked(h.file)
	}
	f.letGoLocked(n)
	f.unlock()
}

// takeError returns the error of a FLUSH that was made when the handle was moved,
// once, or s.
func (h *handle) takeError(s fuse.Status) fuse.Status {
	if (s.Ok() || s == fuse.ENOSYS) && h.err.Load() != 0 {
		return fuse.Status(h.err.Swap(0))
	}
	return s
}
