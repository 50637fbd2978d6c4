// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package hardlinks

import (
	"encoding/binary"
	"unsafe"

	"github.com/hanwen/go-fuse/v2/fuse"
)

// Operations that return an entry.

// Lookup implements fuse.RawFileSystem.
func (f *FS) Lookup(cancel <-chan struct{}, header *fuse.InHeader, name string, out *fuse.EntryOut) fuse.Status {
	s := f.RawFileSystem.Lookup(cancel, header, name, out)
	if s.Ok() {
		f.entered(out, 0)
	}
	return s
}

// Mknod implements fuse.RawFileSystem.
func (f *FS) Mknod(cancel <-chan struct{}, in *fuse.MknodIn, name string, out *fuse.EntryOut) fuse.Status {
	s := f.RawFileSystem.Mknod(cancel, in, name, out)
	if s.Ok() {
		f.entered(out, 0)
	}
	return s
}

// Symlink implements fuse.RawFileSystem.
func (f *FS) Symlink(cancel <-chan struct{}, header *fuse.InHeader, target, name string, out *fuse.EntryOut) fuse.Status {
	s := f.RawFileSystem.Symlink(cancel, header, target, name, out)
	if s.Ok() {
		f.entered(out, 0)
	}
	return s
}

// Link implements fuse.RawFileSystem. The new name is one of the same file.
func (f *FS) Link(cancel <-chan struct{}, in *fuse.LinkIn, name string, out *fuse.EntryOut) fuse.Status {
	s := f.try(in.Oldnodeid, func(node uint64) fuse.Status {
		to := *in
		to.Oldnodeid = node
		return f.RawFileSystem.Link(cancel, &to, name, out)
	})
	if s.Ok() {
		f.entered(out, in.Oldnodeid)
	}
	return s
}

// Create implements fuse.RawFileSystem.
func (f *FS) Create(cancel <-chan struct{}, in *fuse.CreateIn, name string, out *fuse.CreateOut) fuse.Status {
	s := f.RawFileSystem.Create(cancel, in, name, out)
	if s.Ok() {
		out.Fh = f.opened(out.NodeId, out.Fh)
		f.entered(&out.EntryOut, 0)
	}
	return s
}

// Tmpfile implements fuse.RawFileSystem.
func (f *FS) Tmpfile(cancel <-chan struct{}, in *fuse.CreateIn, out *fuse.CreateOut) fuse.Status {
	s := f.RawFileSystem.Tmpfile(cancel, in, out)
	if s.Ok() {
		out.Fh = f.opened(out.NodeId, out.Fh)
		f.entered(&out.EntryOut, 0)
	}
	return s
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
	s := f.RawFileSystem.ReadDirPlus(cancel, in, list)
	if !s.Ok() {
		return s
	}
	buf := list.Bytes()[start:]
	entries, outs, err := fuse.ParseDirLookupEntries(buf)
	if err != nil {
		return fuse.EIO
	}
	for i := range entries {
		f.entered(&outs[i], 0)
		binary.NativeEndian.PutUint64(buf, outs[i].NodeId) // the first field
		buf = buf[entryOutSize+(direntSize+len(entries[i].Name)+7)&^7:]
	}
	return s
}

// Operations on a file by its node.

// GetAttr implements fuse.RawFileSystem.
func (f *FS) GetAttr(cancel <-chan struct{}, in *fuse.GetAttrIn, out *fuse.AttrOut) fuse.Status {
	to := *in
	if in.Flags()&fuse.FUSE_GETATTR_FH != 0 {
		to.NodeId, to.Fh_ = f.behind(in.NodeId, in.Fh())
		return f.RawFileSystem.GetAttr(cancel, &to, out)
	}
	return f.try(in.NodeId, func(node uint64) fuse.Status {
		to.NodeId = node
		return f.RawFileSystem.GetAttr(cancel, &to, out)
	})
}

// Statx implements fuse.RawFileSystem.
func (f *FS) Statx(cancel <-chan struct{}, in *fuse.StatxIn, out *fuse.StatxOut) fuse.Status {
	to := *in
	if in.GetattrFlags&fuse.FUSE_GETATTR_FH != 0 {
		to.NodeId, to.Fh = f.behind(in.NodeId, in.Fh)
		return f.RawFileSystem.Statx(cancel, &to, out)
	}
	return f.try(in.NodeId, func(node uint64) fuse.Status {
		to.NodeId = node
		return f.RawFileSystem.Statx(cancel, &to, out)
	})
}

// SetAttr implements fuse.RawFileSystem.
func (f *FS) SetAttr(cancel <-chan struct{}, in *fuse.SetAttrIn, out *fuse.AttrOut) fuse.Status {
	to := *in
	if fh, ok := in.GetFh(); ok {
		to.NodeId, to.Fh = f.behind(in.NodeId, fh)
		return f.RawFileSystem.SetAttr(cancel, &to, out)
	}
	return f.try(in.NodeId, func(node uint64) fuse.Status {
		to.NodeId = node
		return f.RawFileSystem.SetAttr(cancel, &to, out)
	})
}

// Open implements fuse.RawFileSystem.
func (f *FS) Open(cancel <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	to := *in
	s := f.try(in.NodeId, func(node uint64) fuse.Status {
		to.NodeId = node
		return f.RawFileSystem.Open(cancel, &to, out)
	})
	if s.Ok() {
		out.Fh = f.opened(to.NodeId, out.Fh)
	}
	return s
}

// Readlink implements fuse.RawFileSystem.
func (f *FS) Readlink(cancel <-chan struct{}, header *fuse.InHeader) (target []byte, s fuse.Status) {
	to := *header
	s = f.try(header.NodeId, func(node uint64) (s fuse.Status) {
		to.NodeId = node
		target, s = f.RawFileSystem.Readlink(cancel, &to)
		return s
	})
	return target, s
}

// Access implements fuse.RawFileSystem.
func (f *FS) Access(cancel <-chan struct{}, in *fuse.AccessIn) fuse.Status {
	to := *in
	return f.try(in.NodeId, func(node uint64) fuse.Status {
		to.NodeId = node
		return f.RawFileSystem.Access(cancel, &to)
	})
}

// GetXAttr implements fuse.RawFileSystem.
func (f *FS) GetXAttr(cancel <-chan struct{}, header *fuse.InHeader, attr string, dest []byte) (n uint32, s fuse.Status) {
	to := *header
	s = f.try(header.NodeId, func(node uint64) (s fuse.Status) {
		to.NodeId = node
		n, s = f.RawFileSystem.GetXAttr(cancel, &to, attr, dest)
		return s
	})
	return n, s
}

// ListXAttr implements fuse.RawFileSystem.
func (f *FS) ListXAttr(cancel <-chan struct{}, header *fuse.InHeader, dest []byte) (n uint32, s fuse.Status) {
	to := *header
	s = f.try(header.NodeId, func(node uint64) (s fuse.Status) {
		to.NodeId = node
		n, s = f.RawFileSystem.ListXAttr(cancel, &to, dest)
		return s
	})
	return n, s
}

// SetXAttr implements fuse.RawFileSystem.
func (f *FS) SetXAttr(cancel <-chan struct{}, in *fuse.SetXAttrIn, attr string, data []byte) fuse.Status {
	to := *in
	return f.try(in.NodeId, func(node uint64) fuse.Status {
		to.NodeId = node
		return f.RawFileSystem.SetXAttr(cancel, &to, attr, data)
	})
}

// RemoveXAttr implements fuse.RawFileSystem.
func (f *FS) RemoveXAttr(cancel <-chan struct{}, header *fuse.InHeader, attr string) fuse.Status {
	to := *header
	return f.try(header.NodeId, func(node uint64) fuse.Status {
		to.NodeId = node
		return f.RawFileSystem.RemoveXAttr(cancel, &to, attr)
	})
}

// Operations on an open file: they go through the node it was opened by, which
// the server keeps for as long as the file is open.

// Read implements fuse.RawFileSystem.
func (f *FS) Read(cancel <-chan struct{}, in *fuse.ReadIn, buf []byte) (fuse.ReadResult, fuse.Status) {
	to := *in
	to.NodeId, to.Fh = f.behind(in.NodeId, in.Fh)
	return f.RawFileSystem.Read(cancel, &to, buf)
}

// Write implements fuse.RawFileSystem.
func (f *FS) Write(cancel <-chan struct{}, in *fuse.WriteIn, data []byte) (uint32, fuse.Status) {
	to := *in
	to.NodeId, to.Fh = f.behind(in.NodeId, in.Fh)
	return f.RawFileSystem.Write(cancel, &to, data)
}

// Writev implements fuse.RawFileSystem.
func (f *FS) Writev(cancel <-chan struct{}, in *fuse.WriteIn, data [][]byte) (uint32, fuse.Status) {
	to := *in
	to.NodeId, to.Fh = f.behind(in.NodeId, in.Fh)
	return f.RawFileSystem.Writev(cancel, &to, data)
}

// CopyFileRange implements fuse.RawFileSystem.
func (f *FS) CopyFileRange(cancel <-chan struct{}, in *fuse.CopyFileRangeIn) (uint32, fuse.Status) {
	to := *in
	to.NodeId, to.FhIn = f.behind(in.NodeId, in.FhIn)
	to.NodeIdOut, to.FhOut = f.behind(in.NodeIdOut, in.FhOut)
	return f.RawFileSystem.CopyFileRange(cancel, &to)
}

// Lseek implements fuse.RawFileSystem.
func (f *FS) Lseek(cancel <-chan struct{}, in *fuse.LseekIn, out *fuse.LseekOut) fuse.Status {
	to := *in
	to.NodeId, to.Fh = f.behind(in.NodeId, in.Fh)
	return f.RawFileSystem.Lseek(cancel, &to, out)
}

// Fallocate implements fuse.RawFileSystem.
func (f *FS) Fallocate(cancel <-chan struct{}, in *fuse.FallocateIn) fuse.Status {
	to := *in
	to.NodeId, to.Fh = f.behind(in.NodeId, in.Fh)
	return f.RawFileSystem.Fallocate(cancel, &to)
}

// Flush implements fuse.RawFileSystem.
func (f *FS) Flush(cancel <-chan struct{}, in *fuse.FlushIn) fuse.Status {
	to := *in
	to.NodeId, to.Fh = f.behind(in.NodeId, in.Fh)
	return f.RawFileSystem.Flush(cancel, &to)
}

// Fsync implements fuse.RawFileSystem.
func (f *FS) Fsync(cancel <-chan struct{}, in *fuse.FsyncIn) fuse.Status {
	to := *in
	to.NodeId, to.Fh = f.behind(in.NodeId, in.Fh)
	return f.RawFileSystem.Fsync(cancel, &to)
}

// Release implements fuse.RawFileSystem.
func (f *FS) Release(cancel <-chan struct{}, in *fuse.ReleaseIn) {
	to := *in
	to.NodeId, to.Fh = f.closed(in.NodeId, in.Fh)
	f.RawFileSystem.Release(cancel, &to)
}
