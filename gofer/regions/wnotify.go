// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package regions

import (
	"math"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// The notifications of a server must not wait for requests to it: their replies
// may be behind them.

// InvalInode takes the server's word that data of a file has changed: length
// bytes from off on, or all from off on if length is not positive.
func (w *Writable) InvalInode(nodeID uint64, off, length int64) {
	end := int64(math.MaxInt64)
	if length > 0 && length < end-off {
		end = off + length
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	n := w.inodes[nodeID]
	if n == nil {
		return
	}
	w.spoilLocked(n, extent{off, end})
	if n.donated > 0 {
		w.broken[n] = struct{}{} // the size may have changed, too
		w.kick()
	}
}

// Retrieve returns data that is cached of a file, from off on up to the first byte
// that is not; none if the file is in use for something else.
func (w *Writable) Retrieve(nodeID, off uint64, size uint32) ([]byte, fuse.Status) {
	n := w.peek(nodeID)
	if n == nil {
		return nil, fuse.OK
	}
	defer w.put(n)
	if off > maxSize || !n.data.TryRLock() {
		return nil, fuse.OK
	}
	defer n.data.RUnlock()
	w.mu.Lock()
	fd, err := n.rw, error(nil)
	if n.small != nil {
		fd, err = w.regionLocked(n)
	}
	have := n.valid.first(extent{int64(off), int64(off) + int64(size)})
	w.mu.Unlock()
	if err != nil || have.empty() || have.start != int64(off) {
		return nil, fuse.OK
	}
	buf := make([]byte, have.end-have.start)
	count, err := preadFull(fd, buf, int64(off))
	if err != nil {
		return nil, fuse.EIO
	}
	return buf[:count], fuse.OK
}

// repairAll makes the regions that clients hold complete again.
func (w *Writable) repairAll() {
	w.mu.Lock()
	var broken []*inode
	for n := range w.broken {
		delete(w.broken, n)
		n.refs++
		broken = append(broken, n)
	}
	w.mu.Unlock()
	for _, n := range broken {
		w.repair(n)
		w.put(n)
	}
}

// repair compares a file with the server's and reads again what was said to have
// changed.
func (w *Writable) repair(n *inode) {
	n.data.Lock()
	defer n.data.Unlock()
	if a, s := w.attr(nil, n.id); s.Ok() && a.Size <= maxSize {
		w.adopt(n, &a)
	}
	w.restore(n)
}

// reader returns an open file to read from, with a ref for the caller, or nil.
func (w *Writable) reader(n *inode) *fileHandle {
	w.mu.Lock()
	for _, h := range w.handles {
		if h.inode == n && h.flags&unix.O_ACCMODE != unix.O_WRONLY {
			h.refs++
			w.mu.Unlock()
			return h
		}
	}
	n.refs++ // passes to the handle
	w.mu.Unlock()
	var out fuse.OpenOut
	s := w.RawFileSystem.Open(nil, &fuse.OpenIn{InHeader: fuse.InHeader{NodeId: n.id}}, &out)
	if !s.Ok() && s != fuse.ENOSYS {
		w.put(n)
		return nil
	}
	return w.opened(n, unix.O_RDONLY, &out, s == fuse.ENOSYS)
}
