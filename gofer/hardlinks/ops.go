// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package hardlinks

import (
	"encoding/binary"
	"syscall"
	"unsafe"

	"github.com/hanwen/go-fuse/v2/fuse"
)

// Operations that return an entry.

// Lookup implements fuse.RawFileSystem.
func (f *FS) Lookup(cancel <-chan struct{}, header *fuse.InHeader, name string, out *fuse.EntryOut) fuse.Status {
	s := f.Server.Lookup(cancel, header, name, out)
	if s.Ok() {
		s = f.entry(out, 0)
	}
	return s
}

// Mknod implements fuse.RawFileSystem.
func (f *FS) Mknod(cancel <-chan struct{}, in *fuse.MknodIn, name string, out *fuse.EntryOut) fuse.Status {
	s := f.Server.Mknod(cancel, in, name, out)
	if s.Ok() {
		s = f.entry(out, 0)
	}
	return s
}

// Symlink implements fuse.RawFileSystem.
func (f *FS) Symlink(cancel <-chan struct{}, header *fuse.InHeader, target, name string, out *fuse.EntryOut) fuse.Status {
	s := f.Server.Symlink(cancel, header, target, name, out)
	if s.Ok() {
		s = f.entry(out, 0)
	}
	return s
}

// Link implements fuse.RawFileSystem. The new name is one of the same file.
func (f *FS) Link(cancel <-chan struct{}, in *fuse.LinkIn, name string, out *fuse.EntryOut) fuse.Status {
	s := f.try(in.Oldnodeid, func(node uint64) fuse.Status {
		to := *in
		to.Oldnodeid = node
		return f.Server.Link(cancel, &to, name, out)
	})
	if s.Ok() {
		s = f.entry(out, in.Oldnodeid)
	}
	return s
}

// Create implements fuse.RawFileSystem.
func (f *FS) Create(cancel <-chan struct{}, in *fuse.CreateIn, name string, out *fuse.CreateOut) fuse.Status {
	s := f.Server.Create(cancel, in, name, out)
	if s.Ok() {
		s = f.created(in, out)
	}
	return s
}

// Tmpfile implements fuse.RawFileSystem.
func (f *FS) Tmpfile(cancel <-chan struct{}, in *fuse.CreateIn, out *fuse.CreateOut) fuse.Status {
	s := f.Server.Tmpfile(cancel, in, out)
	if s.Ok() {
		s = f.created(in, out)
	}
	return s
}

// created takes over the entry and the open file of a creation.
func (f *FS) created(in *fuse.CreateIn, out *fuse.CreateOut) fuse.Status {
	id := out.NodeId
	n, s := f.entered(&out.EntryOut, 0)
	if n == nil { // not a file: nothing that could be created
		f.Server.Release(nil, &fuse.ReleaseIn{InHeader: fuse.InHeader{NodeId: id}, Fh: out.Fh, Flags: in.Flags})
		if s.Ok() {
			f.Forget(id, 1)
		}
		return fuse.EIO
	}
	out.Fh = f.opened(out.NodeId, n, out.Fh, in.Caller, in.Flags)
	return fuse.OK
}

// Sizes of struct fuse_entry_out and struct fuse_dirent in a READDIRPLUS reply;
// each record is padded to 8 bytes (linux/fuse.h, FUSE_DIRENTPLUS_SIZE).
const (
	entryOutSize = int(unsafe.Sizeof(fuse.EntryOut{}))
	direntSize   = 24
)

// ReadDirPlus implements fuse.RawFileSystem.
func (f *FS) ReadDirPlus(cancel <-chan struct{}, in *fuse.ReadIn, list *fuse.DirEntryList) fuse.Status {
	start := len(list.Bytes())
	s := f.Server.ReadDirPlus(cancel, in, list)
	if !s.Ok() {
		return s
	}
	buf := list.Bytes()[start:]
	entries, outs, err := fuse.ParseDirLookupEntries(buf)
	if err != nil {
		return fuse.EIO
	}
	for i := range entries {
		f.entry(&outs[i], 0)                               // puts in 0, "not looked up", if it cannot be
		binary.NativeEndian.PutUint64(buf, outs[i].NodeId) // the first field
		buf = buf[entryOutSize+(direntSize+len(entries[i].Name)+7)&^7:]
	}
	return s
}

// Operations on a file by its node.

// GetAttr implements fuse.RawFileSystem.
func (f *FS) GetAttr(cancel <-chan struct{}, in *fuse.GetAttrIn, out *fuse.AttrOut) fuse.Status {
	to := *in
	if in.NodeId >= firstID && in.Flags()&fuse.FUSE_GETATTR_FH != 0 {
		return f.byHandle(in.Fh(), &to.NodeId, &to.Fh_, func(*handle) fuse.Status { return f.Server.GetAttr(cancel, &to, out) })
	}
	return f.try(in.NodeId, func(node uint64) fuse.Status {
		to.NodeId = node
		return f.Server.GetAttr(cancel, &to, out)
	})
}

// Statx implements fuse.RawFileSystem.
func (f *FS) Statx(cancel <-chan struct{}, in *fuse.StatxIn, out *fuse.StatxOut) fuse.Status {
	to := *in
	if in.NodeId >= firstID && in.GetattrFlags&fuse.FUSE_GETATTR_FH != 0 {
		return f.byHandle(in.Fh, &to.NodeId, &to.Fh, func(*handle) fuse.Status { return f.Server.Statx(cancel, &to, out) })
	}
	return f.try(in.NodeId, func(node uint64) fuse.Status {
		to.NodeId = node
		return f.Server.Statx(cancel, &to, out)
	})
}

// SetAttr implements fuse.RawFileSystem.
func (f *FS) SetAttr(cancel <-chan struct{}, in *fuse.SetAttrIn, out *fuse.AttrOut) fuse.Status {
	to := *in
	if fh, ok := in.GetFh(); ok && in.NodeId >= firstID {
		return f.byHandle(fh, &to.NodeId, &to.Fh, func(*handle) fuse.Status { return f.Server.SetAttr(cancel, &to, out) })
	}
	return f.try(in.NodeId, func(node uint64) fuse.Status {
		to.NodeId = node
		return f.Server.SetAttr(cancel, &to, out)
	})
}

// Open implements fuse.RawFileSystem.
func (f *FS) Open(cancel <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	f.mu.Lock()
	fl := f.files[in.NodeId]
	f.mu.Unlock()
	if fl == nil {
		return fuse.Status(syscall.ESTALE)
	}
	fl.opening.RLock()
	defer fl.opening.RUnlock()
	to := *in
	n, s := f.use(in.NodeId, func(node uint64) fuse.Status {
		to.NodeId = node
		return f.Server.Open(cancel, &to, out)
	})
	if s.Ok() {
		out.Fh = f.opened(in.NodeId, n, out.Fh, in.Caller, in.Flags)
	}
	return s
}

// StatFs implements fuse.RawFileSystem.
func (f *FS) StatFs(cancel <-chan struct{}, header *fuse.InHeader, out *fuse.StatfsOut) fuse.Status {
	to := *header
	return f.try(header.NodeId, func(node uint64) fuse.Status {
		to.NodeId = node
		return f.Server.StatFs(cancel, &to, out)
	})
}

// Readlink implements fuse.RawFileSystem.
func (f *FS) Readlink(cancel <-chan struct{}, header *fuse.InHeader) (target []byte, s fuse.Status) {
	to := *header
	s = f.try(header.NodeId, func(node uint64) (s fuse.Status) {
		to.NodeId = node
		target, s = f.Server.Readlink(cancel, &to)
		return s
	})
	return target, s
}

// Access implements fuse.RawFileSystem.
func (f *FS) Access(cancel <-chan struct{}, in *fuse.AccessIn) fuse.Status {
	to := *in
	return f.try(in.NodeId, func(node uint64) fuse.Status {
		to.NodeId = node
		return f.Server.Access(cancel, &to)
	})
}

// GetXAttr implements fuse.RawFileSystem.
func (f *FS) GetXAttr(cancel <-chan struct{}, header *fuse.InHeader, attr string, dest []byte) (n uint32, s fuse.Status) {
	to := *header
	s = f.try(header.NodeId, func(node uint64) (s fuse.Status) {
		to.NodeId = node
		n, s = f.Server.GetXAttr(cancel, &to, attr, dest)
		return s
	})
	return n, s
}

// ListXAttr implements fuse.RawFileSystem.
func (f *FS) ListXAttr(cancel <-chan struct{}, header *fuse.InHeader, dest []byte) (n uint32, s fuse.Status) {
	to := *header
	s = f.try(header.NodeId, func(node uint64) (s fuse.Status) {
		to.NodeId = node
		n, s = f.Server.ListXAttr(cancel, &to, dest)
		return s
	})
	return n, s
}

// SetXAttr implements fuse.RawFileSystem.
func (f *FS) SetXAttr(cancel <-chan struct{}, in *fuse.SetXAttrIn, attr string, data []byte) fuse.Status {
	to := *in
	return f.try(in.NodeId, func(node uint64) fuse.Status {
		to.NodeId = node
		return f.Server.SetXAttr(cancel, &to, attr, data)
	})
}

// RemoveXAttr implements fuse.RawFileSystem.
func (f *FS) RemoveXAttr(cancel <-chan struct{}, header *fuse.InHeader, attr string) fuse.Status {
	to := *header
	return f.try(header.NodeId, func(node uint64) fuse.Status {
		to.NodeId = node
		return f.Server.RemoveXAttr(cancel, &to, attr)
	})
}

// Operations on an open file: they go through the node that it is open by now,
// which the server keeps for as long as the file is open.

// Read implements fuse.RawFileSystem.
func (f *FS) Read(cancel <-chan struct{}, in *fuse.ReadIn, buf []byte) (fuse.ReadResult, fuse.Status) {
	h := f.borrow(in.Fh)
	if h == nil {
		return nil, fuse.EBADF
	}
	defer h.mu.RUnlock()
	to := *in
	to.NodeId, to.Fh = h.node.id, h.fh
	return f.Server.Read(cancel, &to, buf)
}

// Write implements fuse.RawFileSystem.
func (f *FS) Write(cancel <-chan struct{}, in *fuse.WriteIn, data []byte) (uint32, fuse.Status) {
	h := f.borrow(in.Fh)
	if h == nil {
		return 0, fuse.EBADF
	}
	defer h.mu.RUnlock()
	to := *in
	to.NodeId, to.Fh = h.node.id, h.fh
	return f.Server.Write(cancel, &to, data)
}

// Writev implements fuse.RawFileSystem.
func (f *FS) Writev(cancel <-chan struct{}, in *fuse.WriteIn, data [][]byte) (uint32, fuse.Status) {
	h := f.borrow(in.Fh)
	if h == nil {
		return 0, fuse.EBADF
	}
	defer h.mu.RUnlock()
	to := *in
	to.NodeId, to.Fh = h.node.id, h.fh
	return f.Server.Writev(cancel, &to, data)
}

// CopyFileRange implements fuse.RawFileSystem.
func (f *FS) CopyFileRange(cancel <-chan struct{}, in *fuse.CopyFileRangeIn) (uint32, fuse.Status) {
	// In the order of their numbers, and one handle once: a handle that is about to
	// be moved lets no more readers in.
	first := f.borrow(min(in.FhIn, in.FhOut))
	if first == nil {
		return 0, fuse.EBADF
	}
	defer first.mu.RUnlock()
	second := first
	if in.FhIn != in.FhOut {
		if second = f.borrow(max(in.FhIn, in.FhOut)); second == nil {
			return 0, fuse.EBADF
		}
		defer second.mu.RUnlock()
	}
	if in.FhIn > in.FhOut {
		first, second = second, first
	}
	to := *in
	to.NodeId, to.FhIn = first.node.id, first.fh
	to.NodeIdOut, to.FhOut = second.node.id, second.fh
	return f.Server.CopyFileRange(cancel, &to)
}

// Lseek implements fuse.RawFileSystem.
func (f *FS) Lseek(cancel <-chan struct{}, in *fuse.LseekIn, out *fuse.LseekOut) fuse.Status {
	to := *in
	return f.byHandle(in.Fh, &to.NodeId, &to.Fh, func(*handle) fuse.Status { return f.Server.Lseek(cancel, &to, out) })
}

// Fallocate implements fuse.RawFileSystem.
func (f *FS) Fallocate(cancel <-chan struct{}, in *fuse.FallocateIn) fuse.Status {
	to := *in
	return f.byHandle(in.Fh, &to.NodeId, &to.Fh, func(*handle) fuse.Status { return f.Server.Fallocate(cancel, &to) })
}

// Flush implements fuse.RawFileSystem.
func (f *FS) Flush(cancel <-chan struct{}, in *fuse.FlushIn) fuse.Status {
	to := *in
	return f.byHandle(in.Fh, &to.NodeId, &to.Fh, func(h *handle) fuse.Status { return h.takeError(f.Server.Flush(cancel, &to)) })
}

// Fsync implements fuse.RawFileSystem.
func (f *FS) Fsync(cancel <-chan struct{}, in *fuse.FsyncIn) fuse.Status {
	to := *in
	return f.byHandle(in.Fh, &to.NodeId, &to.Fh, func(h *handle) fuse.Status { return h.takeError(f.Server.Fsync(cancel, &to)) })
}

// Ioctl implements fuse.RawFileSystem, for files; those of directories have no
// number of ours.
func (f *FS) Ioctl(cancel <-chan struct{}, in *fuse.IoctlIn, inbuf []byte, out *fuse.IoctlOut, outbuf []byte) fuse.Status {
	if in.NodeId < firstID {
		return f.Server.Ioctl(cancel, in, inbuf, out, outbuf)
	}
	to := *in
	return f.byHandle(in.Fh, &to.NodeId, &to.Fh, func(*handle) fuse.Status { return f.Server.Ioctl(cancel, &to, inbuf, out, outbuf) })
}

// GetLk implements fuse.RawFileSystem: locks are the caller's own.
func (f *FS) GetLk(<-chan struct{}, *fuse.LkIn, *fuse.LkOut) fuse.Status { return fuse.ENOSYS }

// SetLk implements fuse.RawFileSystem; see GetLk.
func (f *FS) SetLk(<-chan struct{}, *fuse.LkIn) fuse.Status { return fuse.ENOSYS }

// SetLkw implements fuse.RawFileSystem; see GetLk.
func (f *FS) SetLkw(<-chan struct{}, *fuse.LkIn) fuse.Status { return fuse.ENOSYS }
