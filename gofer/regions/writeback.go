// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package regions

import (
	"slices"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"fsva/gofer/errno"
)

// maxDirtyLocked is how many bytes may be dirty.
func (w *Writable) maxDirtyLocked() int64 {
	if w.o.MaxDirty > 0 {
		return w.o.MaxDirty
	}
	return min(DefaultMaxDirty, w.budget/8)
}

// reserve makes room for so many dirty bytes, by writing back others if need be.
// It reports false if there is no room, or if the file's data cannot be written
// back: writes then go to the file system below, whose error the application gets
// at once.
//
// Preconditions: the caller holds no lock.
func (w *Writable) reserve(n *inode, bytes int64) bool {
	var failed map[*inode]bool
	w.mu.Lock()
	defer w.mu.Unlock()
	for !n.failed && !w.closed && bytes <= w.maxDirtyLocked() {
		if w.dirty+w.reserved+bytes <= w.maxDirtyLocked() {
			w.reserved += bytes
			return true
		}
		old := w.oldestLocked(failed)
		if old == nil {
			return false
		}
		old.refs++
		w.mu.Unlock()
		s := w.flush(old)
		w.put(old)
		w.mu.Lock()
		if !s.Ok() {
			if failed == nil {
				failed = make(map[*inode]bool)
			}
			failed[old] = true
		}
	}
	return false
}

func (w *Writable) unreserve(bytes int64) {
	w.mu.Lock()
	w.reserved -= bytes
	wake := w.dirty+w.reserved > w.maxDirtyLocked()/2
	w.mu.Unlock()
	if wake {
		w.kick()
	}
}

// oldestLocked returns the file whose data waits longest to be written back, but
// for those in except.
func (w *Writable) oldestLocked(except map[*inode]bool) (oldest *inode) {
	for n := range w.unclean {
		if !except[n] && (oldest == nil || n.since.Before(oldest.since)) {
			oldest = n
		}
	}
	return oldest
}

// keep puts a write into the region, to be written back with h. It returns how
// many bytes it took: fewer than there are, or none, if there is no memory.
//
// Preconditions: data is held for writing, and the bytes are reserved.
func (w *Writable) keep(h *fileHandle, in *fuse.WriteIn, data [][]byte, length int) int {
	n := h.inode
	if len(n.dirty) >= maxExtents && !w.flushLocked(n).Ok() {
		return 0
	}
	stored := w.store(n, int64(in.Offset), data, length, true)
	if stored == 0 {
		return 0
	}
	w.mu.Lock()
	if n.unwritten == 0 {
		n.since = time.Now()
	}
	w.noteDirtyLocked(n)
	old := n.writer
	if n.writer = h; old == h {
		old = nil
	} else {
		h.refs++
	}
	n.header = in.InHeader
	w.mu.Unlock()
	w.unrefWriter(old)
	return stored
}

// flush writes back what is dirty when it is called. What cannot be written stays
// dirty; the failure becomes the file's error.
//
// Preconditions: the caller holds the inode, and no lock.
func (w *Writable) flush(n *inode) fuse.Status {
	w.mu.Lock()
	clean := len(n.dirty) == 0
	w.mu.Unlock()
	if clean {
		return fuse.OK
	}
	n.flushing.Lock()
	defer n.flushing.Unlock()
	w.mu.Lock()
	todo := slices.Clone(n.dirty)
	w.mu.Unlock()
	for _, e := range todo {
		for !e.empty() {
			// Writers may come in between.
			n.data.RLock()
			end, s := w.writeOut(n, e)
			n.data.RUnlock()
			if !s.Ok() {
				return s
			}
			e.start = end
		}
	}
	return fuse.OK
}

// flushLocked is flush for a caller who holds data for writing.
func (w *Writable) flushLocked(n *inode) fuse.Status {
	for len(n.dirty) > 0 {
		if _, s := w.writeOut(n, extent{n.dirty[0].start, maxSize}); !s.Ok() {
			return s
		}
	}
	return fuse.OK
}

// writeOut writes back the first dirty bytes of e, as many as one request takes,
// and returns up to where e is clean.
//
// Preconditions: data is held; if for reading, flushing is, too.
func (w *Writable) writeOut(n *inode, e extent) (end int64, s fuse.Status) {
	w.mu.Lock()
	part := n.dirty.first(e)
	if part.empty() {
		w.mu.Unlock()
		return e.end, fuse.OK
	}
	part.end = min(part.end, part.start+int64(w.o.MaxWrite))
	fd, h := n.rw, n.writer // which is there as long as something is dirty
	in := fuse.WriteIn{InHeader: n.header, Fh: h.fh, Offset: uint64(part.start), Flags: h.flags}
	h.refs++
	w.mu.Unlock()
	defer w.unref(h)

	bp := w.buffers.Get().(*[]byte)
	defer w.buffers.Put(bp)
	buf := (*bp)[:part.end-part.start]
	var written uint32
	_, err := preadFull(fd, buf, part.start)
	if s = errno.Status(err); s.Ok() {
		in.Size = uint32(len(buf))
		written, s = w.RawFileSystem.Write(nil, &in, buf)
		if s.Ok() && (written == 0 || int(written) > len(buf)) {
			s = fuse.EIO
		}
	}
	w.mu.Lock()
	n.seen = stamp{}
	var done *fileHandle
	if s.Ok() {
		part.end = part.start + int64(written)
		n.dirty.remove(part)
		done = w.noteDirtyLocked(n)
	} else {
		n.failed = true
		n.since = time.Now() // when to try again
		n.failLocked(s)
	}
	w.mu.Unlock()
	w.unrefWriter(done)
	return part.end, s
}

// failLocked makes s the file's error, in the place of an earlier one.
func (n *inode) failLocked(s fuse.Status) {
	n.failures++
	n.reported = false
	n.err = s
}

// takeError returns the file's error if it was not reported through this handle.
func (w *Writable) takeError(h *fileHandle) fuse.Status {
	w.mu.Lock()
	defer w.mu.Unlock()
	n := h.inode
	if h.seen == n.failures {
		return fuse.OK
	}
	h.seen, n.reported = n.failures, true
	return n.err
}

// Flush implements fuse.RawFileSystem: it is close(2), where the application gets
// the error of a write-back.
func (w *Writable) Flush(cancel <-chan struct{}, in *fuse.FlushIn) fuse.Status {
	h := w.borrow(in.NodeId, in.Fh)
	if h == nil {
		return fuse.EBADF
	}
	defer w.unref(h)
	w.flush(h.inode)
	failed := w.takeError(h)
	if h.noFlush {
		return failed
	}
	req := *in
	req.Fh = h.fh
	s := w.RawFileSystem.Flush(cancel, &req)
	if !failed.Ok() {
		return failed
	}
	return s
}

// Fsync implements fuse.RawFileSystem.
func (w *Writable) Fsync(cancel <-chan struct{}, in *fuse.FsyncIn) fuse.Status {
	h := w.borrow(in.NodeId, in.Fh)
	if h == nil {
		return fuse.EBADF
	}
	defer w.unref(h)
	w.flush(h.inode)
	if s := w.takeError(h); !s.Ok() {
		return s
	}
	req := *in
	req.Fh = h.fh
	s := w.RawFileSystem.Fsync(cancel, &req)
	switch s {
	case fuse.OK, fuse.ENOSYS, fuse.EINVAL, fuse.Status(unix.EOPNOTSUPP), fuse.EINTR:
		// Done, or nothing that could be: no data is lost.
		return s
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	h.inode.failLocked(s)
	h.seen, h.inode.reported = h.inode.failures, true
	return s
}

// work is the goroutine that writes back what is old or too much, and repairs
// regions in clients' hands.
func (w *Writable) work() {
	tick := time.NewTicker(max(w.o.MaxAge/4, time.Millisecond))
	defer tick.Stop()
	for {
		select {
		case <-w.stop:
			return
		case <-tick.C:
			w.flushAll(time.Now().Add(-w.o.MaxAge))
		case <-w.wake:
			w.flushHalf()
			w.repairAll()
		}
	}
}

// flushAll writes back what has been dirty since before then; the zero time means
// everything.
func (w *Writable) flushAll(then time.Time) {
	w.mu.Lock()
	var old []*inode
	for n := range w.unclean {
		if then.IsZero() || n.since.Before(then) {
			n.refs++
			old = append(old, n)
		}
	}
	w.mu.Unlock()
	for _, n := range old {
		w.flush(n)
		w.mu.Lock()
		if n.unwritten > 0 && !n.failed {
			n.since = time.Now() // what was written meanwhile
		}
		w.mu.Unlock()
		w.put(n)
	}
}

// flushHalf makes room before writers have to wait for it.
func (w *Writable) flushHalf() {
	tried := make(map[*inode]bool)
	for {
		w.mu.Lock()
		var n *inode
		if w.dirty > w.maxDirtyLocked()/2 {
			if n = w.oldestLocked(tried); n != nil {
				n.refs++
			}
		}
		w.mu.Unlock()
		if n == nil {
			return
		}
		tried[n] = true
		w.flush(n)
		w.put(n)
	}
}
