// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package regions

import (
	"bytes"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"fsva/gofer/errno"
)

// Read implements fuse.RawFileSystem.
func (w *Writable) Read(cancel <-chan struct{}, in *fuse.ReadIn, buf []byte) (fuse.ReadResult, fuse.Status) {
	h := w.borrow(in.NodeId, in.Fh)
	if h == nil {
		return nil, fuse.EBADF
	}
	defer w.unref(h)
	if h.direct {
		return w.readDirect(cancel, h, in, buf)
	}
	n := h.inode
	n.data.RLock()
	if in.Offset >= uint64(n.size) {
		n.data.RUnlock()
		return fuse.ReadResultData(nil), fuse.OK
	}
	want := extent{int64(in.Offset), min(int64(in.Offset)+int64(len(buf)), n.size)}
	now, ahead := w.plan(h, want)
	fd, hit, s := w.ensure(cancel, h, now)
	if !s.Ok() {
		n.data.RUnlock()
		// A fill reads more than was asked for, and the region may be full.
		return w.readDirect(cancel, h, in, buf)
	}
	if !ahead.empty() {
		w.fillAhead(h, ahead)
	}
	if hit {
		w.stats.hits.Add(1)
	} else {
		w.stats.misses.Add(1)
	}
	count, err := preadFull(fd, buf[:want.end-want.start], want.start)
	n.data.RUnlock()
	if err != nil {
		return nil, errno.Status(err)
	}
	w.cool(n)
	return fuse.ReadResultData(buf[:count]), fuse.OK
}

// cool makes a file that was read by request the first to be given up: the client
// has a copy of its own now. (A client that was handed the region reads that.)
func (w *Writable) cool(n *inode) {
	w.mu.Lock()
	defer w.mu.Unlock()
	n.used = false
	if n.el != nil {
		w.lru.MoveToBack(n.el)
	}
}

// readDirect asks the file system below.
func (w *Writable) readDirect(cancel <-chan struct{}, h *fileHandle, in *fuse.ReadIn, buf []byte) (fuse.ReadResult, fuse.Status) {
	if s := w.flush(h.inode); !s.Ok() {
		return nil, s
	}
	req := *in
	req.Fh = h.fh
	return w.RawFileSystem.Read(cancel, &req, buf)
}

// plan is stream.plan.
//
// Preconditions: data is held for reading.
func (w *Writable) plan(h *fileHandle, want extent) (now, ahead extent) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return h.stream.plan(want, h.inode.size, h.inode.valid)
}

// ensure makes the bytes of e valid, sharing requests with other readers, and
// returns the descriptor of the region.
//
// Preconditions: data is held.
func (w *Writable) ensure(cancel <-chan struct{}, h *fileHandle, e extent) (fd int, hit bool, s fuse.Status) {
	n := h.inode
	hit = true
	w.mu.Lock()
	for {
		missing := n.valid.missing(e)
		if len(missing) == 0 && n.rw >= 0 {
			fd = n.rw
			w.mu.Unlock()
			return fd, hit, fuse.OK
		}
		if _, err := w.regionLocked(n); err != nil {
			w.mu.Unlock()
			return -1, false, errno.Status(err)
		}
		if len(missing) == 0 {
			continue
		}
		hit = false
		if other := n.fills.at(missing[0].start); other != nil {
			w.mu.Unlock()
			<-other.done
			if !other.status.Ok() {
				return -1, false, other.status
			}
			w.mu.Lock()
			continue
		}
		own := n.fills.start(extent{missing[0].start, missing[len(missing)-1].end}, w.o.MaxRead)
		w.mu.Unlock()
		w.fill(cancel, h, own)
		if !own.status.Ok() {
			return -1, false, own.status
		}
		w.mu.Lock()
	}
}

// fill performs a registered fill.
//
// Preconditions: data is held until it returns, so that the file does not change
// and the region stays.
func (w *Writable) fill(cancel <-chan struct{}, h *fileHandle, own *fill) {
	n := h.inode
	parts, s := w.transfer(cancel, h, own.extent)
	w.mu.Lock()
	n.fills.remove(own)
	if s.Ok() && !own.spoiled {
		for _, p := range parts {
			n.valid.add(p)
		}
	}
	w.chargeLocked(n)
	own.status = s
	w.mu.Unlock()
	close(own.done)
}

// transfer reads e from the server and puts it where the region has nothing: what
// is valid there may be newer. It returns those parts.
func (w *Writable) transfer(cancel <-chan struct{}, h *fileHandle, e extent) (parts extents, s fuse.Status) {
	n := h.inode
	bp := w.buffers.Get().(*[]byte)
	defer w.buffers.Put(bp)
	buf := (*bp)[:e.end-e.start]
	in := fuse.ReadIn{
		InHeader: fuse.InHeader{NodeId: n.id}, Fh: h.fh, Flags: h.flags,
		Offset: uint64(e.start), Size: uint32(len(buf)),
	}
	result, s := w.RawFileSystem.Read(cancel, &in, buf)
	if !s.Ok() {
		return nil, s
	}
	var data []byte
	if result != nil {
		defer result.Done()
		if data, s = result.Bytes(buf); !s.Ok() {
			return nil, s
		}
	}
	data = data[:min(len(data), len(buf))]
	w.stats.fills.Add(1)
	w.stats.bytesFilled.Add(uint64(len(data)))
	w.mu.Lock()
	fd := n.rw
	parts = n.valid.missing(e)
	w.mu.Unlock()
	for _, p := range parts {
		// A short reply is the end of the data: the rest of the file reads as zeros
		// (fs/fuse/file.c, fuse_short_read).
		have := data[min(p.start-e.start, int64(len(data))):min(p.end-e.start, int64(len(data)))]
		if len(bytes.TrimLeft(have, "\x00")) == 0 {
			have = nil // a hole costs nothing
		}
		if _, err := pwriteFull(fd, have, p.start); err != nil {
			return nil, errno.Status(err)
		}
		if zeros := p.start + int64(len(have)); zeros < p.end {
			if err := unix.Fallocate(fd, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, zeros, p.end-zeros); err != nil {
				return nil, errno.Status(err)
			}
		}
	}
	return parts, fuse.OK
}

// fillAhead fills e in the background, piece by piece, unless too much of that
// is going on, or somebody waits to change the file.
//
// Preconditions: data is held for reading, and the caller has a ref on h.
func (w *Writable) fillAhead(h *fileHandle, e extent) {
	n := h.inode
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, m := range n.valid.missing(e) {
		for m.start < m.end && !w.closed {
			if other := n.fills.at(m.start); other != nil {
				m.start = other.end
				continue
			}
			select {
			case w.fillers <- struct{}{}:
			default:
				return
			}
			// It is given back by the goroutine. Waiting for it here could be for ever,
			// since we have it already.
			if !n.data.TryRLock() {
				<-w.fillers
				return
			}
			own := n.fills.start(m, w.o.MaxRead)
			m.start = own.end
			h.refs++
			w.wg.Go(func() {
				// Nobody waits for the status of a fill ahead but readers that
				// want these bytes, and they look at it.
				w.fill(nil, h, own)
				n.data.RUnlock()
				<-w.fillers
				w.unref(h)
			})
		}
	}
}

// fillLater fills the whole file in the background, so that the next open gets
// it, unless that is being done for another file.
//
// Preconditions: the caller has a ref on h.
func (w *Writable) fillLater(h *fileHandle) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		return
	}
	select {
	case w.background <- struct{}{}:
	default:
		return
	}
	h.refs++
	w.wg.Go(func() {
		for w.fillSome(h) {
		}
		<-w.background
		w.unref(h)
	})
}

// fillSome fills the next piece of a file and reports whether there is more to be
// done.
func (w *Writable) fillSome(h *fileHandle) bool {
	n := h.inode
	n.data.RLock()
	defer n.data.RUnlock()
	w.mu.Lock()
	missing := n.valid.missing(n.whole())
	// Not at the cost of other files, and not for nobody.
	stop := w.closed || len(missing) == 0 || w.resident+missing.bytes() > w.budget || h.refs < 2
	w.mu.Unlock()
	if stop {
		return false
	}
	e := missing[0]
	e.end = min(e.end, e.start+int64(w.o.MaxRead))
	_, _, s := w.ensure(nil, h, e)
	return s.Ok()
}
