// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package regions

import (
	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"fsva/gofer/errno"
)

// Read implements fuse.RawFileSystem.
func (f *FS) Read(cancel <-chan struct{}, in *fuse.ReadIn, buf []byte) (fuse.ReadResult, fuse.Status) {
	h := f.borrow(in.Fh)
	if h == nil {
		return nil, fuse.EBADF
	}
	defer f.unref(h)
	fl := h.file
	if fl == nil {
		fh, status := f.backendOf(cancel, h)
		if !status.Ok() {
			return nil, status
		}
		direct := *in
		direct.Fh = fh
		return f.RawFileSystem.Read(cancel, &direct, buf)
	}
	if in.Offset >= uint64(fl.size) {
		return fuse.ReadResultData(nil), fuse.OK
	}
	want := extent{int64(in.Offset), min(int64(in.Offset)+int64(len(buf)), fl.size)}
	now, ahead := f.plan(h, want)
	hit, status := f.ensure(cancel, h, now)
	if !status.Ok() {
		return nil, status
	}
	if !ahead.empty() {
		f.fillAhead(h, ahead)
	}
	if hit {
		f.stats.hits.Add(1)
	} else {
		f.stats.misses.Add(1)
	}
	n, err := preadFull(fl.fd, buf[:want.end-want.start], want.start)
	f.done(fl)
	if err != nil {
		return nil, errno.Status(err)
	}
	return fuse.ReadResultData(buf[:n]), fuse.OK
}

// plan is stream.plan. A sealed file has all.
func (f *FS) plan(h *handle, want extent) (now, ahead extent) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if h.file.sealed {
		return want, extent{}
	}
	return h.stream.plan(want, h.file.size, h.file.valid)
}

// preadFull reads len(buf) bytes unless the file ends before.
func preadFull(fd int, buf []byte, off int64) (n int, err error) {
	for n < len(buf) {
		m, err := unix.Pread(fd, buf[n:], off+int64(n))
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return n, err
		}
		if m == 0 {
			break
		}
		n += m
	}
	return n, nil
}

// GetAttr implements fuse.RawFileSystem. The handle numbers are ours, and files
// that do not change have the same attributes with and without one.
func (f *FS) GetAttr(cancel <-chan struct{}, in *fuse.GetAttrIn, out *fuse.AttrOut) fuse.Status {
	plain := *in
	plain.Flags_ &^= fuse.FUSE_GETATTR_FH
	plain.Fh_ = 0
	return f.RawFileSystem.GetAttr(cancel, &plain, out)
}

// Flush implements fuse.RawFileSystem: there is nothing to write back.
func (f *FS) Flush(cancel <-chan struct{}, in *fuse.FlushIn) fuse.Status { return fuse.OK }

// Fsync implements fuse.RawFileSystem: there is nothing to write back.
func (f *FS) Fsync(cancel <-chan struct{}, in *fuse.FsyncIn) fuse.Status { return fuse.OK }

// Lseek implements fuse.RawFileSystem.
func (f *FS) Lseek(cancel <-chan struct{}, in *fuse.LseekIn, out *fuse.LseekOut) fuse.Status {
	h := f.borrow(in.Fh)
	if h == nil {
		return fuse.EBADF
	}
	defer f.unref(h)
	fh, status := f.backendOf(cancel, h)
	if !status.Ok() {
		return status
	}
	translated := *in
	translated.Fh = fh
	return f.RawFileSystem.Lseek(cancel, &translated, out)
}

// The operations that would change a file are refused here, whatever the file
// system below thinks of them: a region that was handed out must stay true.

func (f *FS) SetAttr(<-chan struct{}, *fuse.SetAttrIn, *fuse.AttrOut) fuse.Status { return readOnly }
func (f *FS) Create(<-chan struct{}, *fuse.CreateIn, string, *fuse.CreateOut) fuse.Status {
	return readOnly
}
func (f *FS) Tmpfile(<-chan struct{}, *fuse.CreateIn, *fuse.CreateOut) fuse.Status { return readOnly }
func (f *FS) Write(<-chan struct{}, *fuse.WriteIn, []byte) (uint32, fuse.Status)   { return 0, readOnly }
func (f *FS) Writev(<-chan struct{}, *fuse.WriteIn, [][]byte) (uint32, fuse.Status) {
	return 0, readOnly
}
func (f *FS) CopyFileRange(<-chan struct{}, *fuse.CopyFileRangeIn) (uint32, fuse.Status) {
	return 0, readOnly
}
func (f *FS) Fallocate(<-chan struct{}, *fuse.FallocateIn) fuse.Status { return readOnly }
func (f *FS) Unlink(<-chan struct{}, *fuse.InHeader, string) fuse.Status {
	return readOnly
}
func (f *FS) Rename(<-chan struct{}, *fuse.RenameIn, string, string) fuse.Status { return readOnly }
func (f *FS) Link(<-chan struct{}, *fuse.LinkIn, string, *fuse.EntryOut) fuse.Status {
	return readOnly
}

// Ioctl implements fuse.RawFileSystem. The handle numbers are ours, and no
// frontend passes ioctls on.
func (f *FS) Ioctl(<-chan struct{}, *fuse.IoctlIn, []byte, *fuse.IoctlOut, []byte) fuse.Status {
	return fuse.Status(unix.ENOTTY)
}
