// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package regions

import (
	"sync"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"fsva/gofer/errno"
)

// backendHandle is a file of the server that is opened when it is needed.
type backendHandle struct {
	mu     sync.Mutex
	open   bool // guarded by mu
	fh     uint64
	status fuse.Status // of the failed OPEN; guarded by mu
}

// backendOf returns the server's handle, opening it first if need be.
func (f *FS) backendOf(cancel <-chan struct{}, h *handle) (uint64, fuse.Status) {
	h.backend.mu.Lock()
	defer h.backend.mu.Unlock()
	if h.backend.open {
		return h.backend.fh, fuse.OK
	}
	var out fuse.OpenOut
	in := fuse.OpenIn{InHeader: fuse.InHeader{NodeId: h.nodeID}, Flags: h.flags}
	if status := f.RawFileSystem.Open(cancel, &in, &out); !status.Ok() {
		return 0, status
	}
	h.backend.open, h.backend.fh = true, out.Fh
	return out.Fh, fuse.OK
}

// ensure makes the bytes of e valid, sharing requests with other readers. With
// OK the caller has file.io and must give it back with done.
func (f *FS) ensure(cancel <-chan struct{}, h *handle, e extent) (hit bool, status fuse.Status) {
	fl := h.file
	hit = true
	f.mu.Lock()
	for {
		if err := f.ensureRegionLocked(fl); err != nil {
			f.mu.Unlock()
			f.log.Warn("no memory for a region", "size", fl.size, "err", err)
			return false, errno.Status(err)
		}
		missing := fl.valid.missing(e)
		if len(missing) == 0 {
			fl.io++
			fl.used = true
			f.mu.Unlock()
			return hit, fuse.OK
		}
		hit = false
		want := missing[0]
		if other := fl.fills.at(want.start); other != nil {
			f.mu.Unlock()
			<-other.done
			if !other.status.Ok() {
				return false, other.status
			}
			f.mu.Lock()
			continue
		}
		own := fl.fills.start(want, f.opts.MaxRead)
		f.mu.Unlock()
		f.run(cancel, h, own)
		if !own.status.Ok() {
			return false, own.status
		}
		f.mu.Lock()
	}
}

// run performs a registered fill.
func (f *FS) run(cancel <-chan struct{}, h *handle, own *fill) {
	fl := h.file
	own.status = f.transfer(cancel, h, own.extent)
	f.mu.Lock()
	fl.fills.remove(own)
	if own.status.Ok() {
		fl.valid.add(own.extent)
		f.chargeLocked(fl)
		if fl.valid.contains(fl.whole()) && len(fl.fills) == 0 {
			if err := fl.sealLocked(); err != nil {
				f.log.Warn("seal a region", "err", err)
			}
		}
	}
	// The caller's own region is in use, so it is not what goes.
	fl.io++
	gone := f.evictLocked()
	fl.io--
	f.mu.Unlock()
	close(own.done)
	f.forget(gone)
}

// transfer reads e from the server into the region.
//
// Preconditions: a registered fill covers e, so the region stays and nobody
// else writes there.
func (f *FS) transfer(cancel <-chan struct{}, h *handle, e extent) fuse.Status {
	fh, status := f.backendOf(cancel, h)
	if !status.Ok() {
		return status
	}
	buffers := &f.buffers
	if e.end-e.start <= randomFill {
		buffers = &f.smallBuffers
	}
	bp := buffers.Get().(*[]byte)
	defer buffers.Put(bp)
	buf := (*bp)[:e.end-e.start]
	in := fuse.ReadIn{
		InHeader: fuse.InHeader{NodeId: h.nodeID}, Fh: fh, Flags: h.flags,
		Offset: uint64(e.start), Size: uint32(len(buf)),
	}
	result, status := f.RawFileSystem.Read(cancel, &in, buf)
	if !status.Ok() {
		return status
	}
	data := []byte(nil)
	if result != nil {
		defer result.Done()
		if data, status = result.Bytes(buf); !status.Ok() {
			return status
		}
	}
	f.stats.fills.Add(1)
	f.stats.bytesFilled.Add(uint64(len(data)))
	// A short reply is the end of the data: the rest of the file reads as zeros
	// (fs/fuse/file.c, fuse_short_read), which a new memfd holds.
	data = data[:min(len(data), len(buf))]
	for off := e.start; len(data) > 0; {
		n, err := unix.Pwrite(h.file.fd, data, off)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return errno.Status(err)
		}
		data, off = data[n:], off+int64(n)
	}
	return fuse.OK
}

// fillPatiently makes the file of h complete if that is soon done. What it gives
// up is for read-ahead.
func (f *FS) fillPatiently(cancel <-chan struct{}, h *handle) {
	fl := h.file
	f.patience.fill(f.opts.OpenWait, fl.size, func(off int64) (end int64, ok bool) {
		piece := extent{off, min(off+int64(f.opts.MaxRead), fl.size)}
		f.fillAhead(h, extent{off, min(off+maxWindow, fl.size)})
		if _, s := f.ensure(cancel, h, piece); !s.Ok() {
			return 0, false
		}
		f.done(fl)
		return piece.end, true
	})
}

// done gives back what ensure took.
func (f *FS) done(fl *file) {
	f.mu.Lock()
	fl.io--
	var gone []forgotten
	if f.files[fl.id] != fl && fl.evictable() && fl.handles == 0 {
		gone = f.detachLocked(fl)
	} else if f.resident > f.budget {
		gone = f.evictLocked()
	}
	f.mu.Unlock()
	f.forget(gone)
}

// fillAhead fills e in the background, piece by piece, unless too much of that
// is going on.
//
// Preconditions: the caller holds a ref on h.
func (f *FS) fillAhead(h *handle, e extent) {
	f.mu.Lock()
	defer f.mu.Unlock()
	fl := h.file
	for _, m := range fl.valid.missing(e) {
		for m.start < m.end && !f.closed {
			if other := fl.fills.at(m.start); other != nil {
				m.start = other.end
				continue
			}
			select {
			case f.fillers <- struct{}{}:
			default:
				return
			}
			if f.ensureRegionLocked(fl) != nil {
				<-f.fillers
				return
			}
			own := fl.fills.start(m, f.opts.MaxRead)
			m.start = own.end
			h.refs++
			f.wg.Go(func() {
				// Nobody waits for the status of a fill ahead but readers that
				// want these bytes, and they look at it.
				f.run(nil, h, own)
				<-f.fillers
				f.unref(h)
			})
		}
	}
}
