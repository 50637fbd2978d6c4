// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package regions

import (
	"encoding/binary"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// Write implements fuse.RawFileSystem.
func (w *Writable) Write(cancel <-chan struct{}, in *fuse.WriteIn, data []byte) (uint32, fuse.Status) {
	return w.write(cancel, in, [][]byte{data}, len(data), func(in *fuse.WriteIn) (uint32, fuse.Status) {
		return w.RawFileSystem.Write(cancel, in, data)
	})
}

// Writev implements fuse.RawFileSystem.
func (w *Writable) Writev(cancel <-chan struct{}, in *fuse.WriteIn, data [][]byte) (uint32, fuse.Status) {
	length := 0
	for _, d := range data {
		length += len(d)
	}
	return w.write(cancel, in, data, length, func(in *fuse.WriteIn) (uint32, fuse.Status) {
		return w.RawFileSystem.Writev(cancel, in, data)
	})
}

// write writes data, of the given length, with below to the file system below, or
// keeps it to be written back.
func (w *Writable) write(cancel <-chan struct{}, in *fuse.WriteIn, data [][]byte, length int, below func(*fuse.WriteIn) (uint32, fuse.Status)) (uint32, fuse.Status) {
	h := w.borrow(in.NodeId, in.Fh)
	if h == nil {
		return 0, fuse.EBADF
	}
	defer w.unref(h)
	if in.Offset > maxSize || length > maxSize-int(in.Offset) {
		return 0, fuse.Status(unix.EFBIG)
	}
	if s := w.takeError(h); !s.Ok() {
		return 0, s
	}
	n := h.inode
	back := w.o.WriteBack && !h.direct && length > 0 && writes(h.flags) && w.reserve(n, int64(length))
	if back {
		defer w.unreserve(int64(length))
	}
	n.data.Lock()
	defer n.data.Unlock()
	if back {
		if stored := w.keep(h, in, data, length); stored > 0 {
			return uint32(stored), fuse.OK
		}
	}

	off := int64(in.Offset)
	if s := w.room(n, off, length); !s.Ok() {
		return 0, s
	}
	req := *in
	req.Fh = h.fh
	written, s := below(&req)
	if s == fuse.ENOSYS { // no WRITEV: the caller tries WRITE
		return 0, s
	}
	if !s.Ok() || int(written) > length || h.flags&unix.O_APPEND != 0 {
		w.unknown(n, extent{off, off + int64(length)})
		return written, s
	}
	w.store(n, off, data, int(written), false)
	return written, s
}

// change performs an operation on the file's data. apply repeats it in the region
// after it has succeeded; e is what it can have changed if it has not. What is
// dirty is written back before, as far as that is possible.
func (w *Writable) change(nodeID uint64, e extent, do func() fuse.Status, apply func(*inode)) fuse.Status {
	n := w.use(nodeID)
	defer w.put(n)
	n.data.Lock()
	defer n.data.Unlock()
	w.flushLocked(n) // what fails is in the file's error
	s := do()
	if s.Ok() {
		apply(n)
	} else if s != fuse.ENOSYS {
		w.unknown(n, e)
	}
	return s
}

// SetAttr implements fuse.RawFileSystem.
func (w *Writable) SetAttr(cancel <-chan struct{}, in *fuse.SetAttrIn, out *fuse.AttrOut) fuse.Status {
	req := *in
	if in.Valid&fuse.FATTR_FH != 0 {
		fh, done, ok := w.server(in.NodeId, in.Fh)
		defer done()
		if req.Fh = fh; !ok {
			req.Valid &^= fuse.FATTR_FH
		}
	}
	do := func() fuse.Status { return w.RawFileSystem.SetAttr(cancel, &req, out) }
	size, resized := in.GetSize()
	if resized && size > maxSize {
		return fuse.Status(unix.EFBIG)
	}
	unsure := extent{}
	if resized {
		unsure = extent{int64(size), maxSize}
	} else {
		n := w.peek(in.NodeId)
		if n == nil {
			return do()
		}
		defer w.put(n)
	}
	s := w.change(in.NodeId, unsure, do, func(n *inode) {
		if resized {
			w.resize(n, int64(size))
			return
		}
		w.mu.Lock()
		n.seen = stamp{} // it may have set the modification time
		w.mu.Unlock()
	})
	if s.Ok() {
		w.patch(in.NodeId, &out.Attr.Size, false)
	}
	return s
}

// Fallocate implements fuse.RawFileSystem.
func (w *Writable) Fallocate(cancel <-chan struct{}, in *fuse.FallocateIn) fuse.Status {
	h := w.borrow(in.NodeId, in.Fh)
	if h == nil {
		return fuse.EBADF
	}
	defer w.unref(h)
	if in.Offset > maxSize || in.Length > maxSize-in.Offset {
		return fuse.Status(unix.EFBIG)
	}
	req := *in
	req.Fh = h.fh
	e := extent{int64(in.Offset), int64(in.Offset + in.Length)}
	return w.change(in.NodeId, extent{0, maxSize}, func() fuse.Status { return w.RawFileSystem.Fallocate(cancel, &req) }, func(n *inode) {
		switch in.Mode &^ unix.FALLOC_FL_KEEP_SIZE {
		case 0:
		case unix.FALLOC_FL_PUNCH_HOLE, unix.FALLOC_FL_ZERO_RANGE:
			w.zero(n, e)
		default: // it moves data
			w.unknown(n, extent{0, maxSize})
			return
		}
		w.mu.Lock()
		size := n.size
		n.seen = stamp{}
		w.mu.Unlock()
		if in.Mode&unix.FALLOC_FL_KEEP_SIZE == 0 && e.end > size {
			w.resize(n, e.end)
		}
	})
}

// zero makes the bytes of e zeros, as far as the file goes.
//
// Preconditions: data is held for writing.
func (w *Writable) zero(n *inode, e extent) {
	w.mu.Lock()
	defer w.mu.Unlock()
	e.end = min(e.end, n.size)
	if n.small != nil {
		w.spoilLocked(n, e)
	}
	if n.rw < 0 || e.empty() {
		return
	}
	if err := unix.Fallocate(n.rw, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, e.start, e.end-e.start); err != nil {
		w.log.Warn("punch a hole into a region", "err", err)
		w.spoilLocked(n, e)
		if n.donated > 0 {
			w.broken[n] = struct{}{}
			w.kick()
		}
		return
	}
	n.valid.add(e)
	w.chargeLocked(n)
}

// CopyFileRange implements fuse.RawFileSystem.
func (w *Writable) CopyFileRange(cancel <-chan struct{}, in *fuse.CopyFileRangeIn) (written uint32, s fuse.Status) {
	from, to := w.borrow(in.NodeId, in.FhIn), w.borrow(in.NodeIdOut, in.FhOut)
	for _, h := range []*fileHandle{from, to} {
		if h != nil {
			defer w.unref(h)
		}
	}
	if from == nil || to == nil {
		return 0, fuse.EBADF
	}
	if in.OffOut > maxSize || in.Len > maxSize-in.OffOut {
		return 0, fuse.Status(unix.EFBIG)
	}
	if s := w.flush(from.inode); !s.Ok() {
		return 0, s
	}
	req := *in
	req.FhIn, req.FhOut = from.fh, to.fh
	e := extent{int64(in.OffOut), int64(in.OffOut + in.Len)}
	s = w.change(in.NodeIdOut, e, func() (s fuse.Status) {
		written, s = w.RawFileSystem.CopyFileRange(cancel, &req)
		return s
	}, func(n *inode) { w.unknown(n, e) })
	return written, s
}

// Lookup implements fuse.RawFileSystem.
func (w *Writable) Lookup(cancel <-chan struct{}, header *fuse.InHeader, name string, out *fuse.EntryOut) fuse.Status {
	s := w.RawFileSystem.Lookup(cancel, header, name, out)
	if s.Ok() {
		w.patch(out.NodeId, &out.Attr.Size, false)
	}
	return s
}

// Link implements fuse.RawFileSystem.
func (w *Writable) Link(cancel <-chan struct{}, in *fuse.LinkIn, name string, out *fuse.EntryOut) fuse.Status {
	s := w.RawFileSystem.Link(cancel, in, name, out)
	if s.Ok() {
		w.patch(out.NodeId, &out.Attr.Size, false)
	}
	return s
}

// patch puts the size that a file with dirty data will have into its attributes.
// dirty says that there was such data before they were asked for: it may have been
// written back meanwhile, but after the answer.
func (w *Writable) patch(nodeID uint64, size *uint64, dirty bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if n := w.inodes[nodeID]; n != nil && (dirty || len(n.dirty) > 0) {
		*size = uint64(n.size)
	}
}

const (
	entryOutSize = 128 // struct fuse_entry_out
	entrySizeOff = 48  // its attr.size
	direntSize   = 24  // struct fuse_dirent without the name
)

// ReadDirPlus implements fuse.RawFileSystem.
func (w *Writable) ReadDirPlus(cancel <-chan struct{}, in *fuse.ReadIn, list *fuse.DirEntryList) fuse.Status {
	start := len(list.Bytes())
	s := w.RawFileSystem.ReadDirPlus(cancel, in, list)
	w.mu.Lock()
	clean := len(w.unclean) == 0
	w.mu.Unlock()
	if clean {
		return s
	}
	order := binary.NativeEndian
	for b := list.Bytes()[start:]; len(b) >= entryOutSize+direntSize; {
		nodeID, size := order.Uint64(b), order.Uint64(b[entrySizeOff:])
		w.patch(nodeID, &size, false)
		order.PutUint64(b[entrySizeOff:], size)
		whole := uint64(entryOutSize+direntSize) + (uint64(order.Uint32(b[entryOutSize+16:]))+7)&^7
		b = b[min(whole, uint64(len(b))):]
	}
	return s
}

// Unlink implements fuse.RawFileSystem.
func (w *Writable) Unlink(cancel <-chan struct{}, header *fuse.InHeader, name string) fuse.Status {
	id := w.childOf(header.NodeId, name)
	s := w.RawFileSystem.Unlink(cancel, header, name)
	if s.Ok() {
		w.bury(id)
	}
	return s
}

// Rename implements fuse.RawFileSystem.
func (w *Writable) Rename(cancel <-chan struct{}, in *fuse.RenameIn, oldName, newName string) fuse.Status {
	var id uint64
	if in.Flags&unix.RENAME_EXCHANGE == 0 {
		id = w.childOf(in.Newdir, newName)
	}
	s := w.RawFileSystem.Rename(cancel, in, oldName, newName)
	if s.Ok() && id != w.childOf(in.Newdir, newName) {
		w.bury(id)
	}
	return s
}

// childOf returns a guess which node a name has, or 0.
func (w *Writable) childOf(parent uint64, name string) uint64 {
	if w.child == nil {
		return 0
	}
	id, _ := w.child(parent, name)
	return id
}

// bury gives up the data of a file whose name is gone, when nobody has it open
// any more: as long as there is data the server is not told to forget the file,
// and it may keep its blocks until then. If it has another name, or the guess was
// wrong, the data is read again.
func (w *Writable) bury(nodeID uint64) {
	w.mu.Lock()
	n := w.inodes[nodeID]
	if n == nil {
		w.mu.Unlock()
		return
	}
	n.dead = true
	gone := w.tidyLocked(n)
	w.mu.Unlock()
	w.forget(gone)
}
