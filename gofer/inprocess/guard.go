// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package inprocess

import (
	"strings"
	"sync"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// guard stands before an in-process file system. It
//
//   - refuses changes of a read-only volume with EROFS, also where the host
//     would allow them;
//   - refuses names that are no file names, on which go-fuse's bridge panics;
//   - orders changes of the name space. go-fuse updates its tree of names after
//     the operation that changed the directory, relying on the Linux kernel's
//     directory locks. Several sandboxes have several kernels: without an order,
//     an unlink in one and a create of the same name in another could leave
//     the tree without the new file.
//
// Requests that use only an open file take no lock, so slow I/O delays nobody.
type guard struct {
	fuse.RawFileSystem // immutable
	readOnly           bool
	// exclusive says that the file system needs names held still.
	exclusive bool

	// names is held shared by what resolves a node's name, exclusively by what
	// changes names. No lock is taken before it.
	names sync.RWMutex
}

var _ fuse.RawFileSystem = (*guard)(nil)

// String implements fuse.RawFileSystem.
func (g *guard) String() string { return g.RawFileSystem.String() }

const (
	nameMax = 255  // NAME_MAX
	pathMax = 4095 // PATH_MAX without the NUL
)

// checkName returns OK for what can be the name of a directory entry.
func checkName(name string) fuse.Status {
	switch {
	case len(name) > nameMax:
		return fuse.Status(unix.ENAMETOOLONG)
	case name == "" || name == "." || name == ".." || strings.ContainsAny(name, "/\x00"):
		return fuse.EINVAL
	}
	return fuse.OK
}

// resolve holds names still; the caller calls what it returns when done.
func (g *guard) resolve() (done func()) {
	if !g.exclusive {
		return func() {}
	}
	g.names.RLock()
	return g.names.RUnlock
}

// change is for operations that add or remove the given names: it checks that
// they may, and takes the lock. done is nil unless the status is OK.
func (g *guard) change(names ...string) (done func(), status fuse.Status) {
	for _, n := range names {
		if st := checkName(n); !st.Ok() {
			return nil, st
		}
	}
	if g.readOnly {
		return nil, fuse.EROFS
	}
	g.names.Lock()
	return g.names.Unlock, fuse.OK
}

// Lookup implements fuse.RawFileSystem.
func (g *guard) Lookup(cancel <-chan struct{}, header *fuse.InHeader, name string, out *fuse.EntryOut) fuse.Status {
	if st := checkName(name); !st.Ok() {
		return st
	}
	defer g.resolve()()
	return g.RawFileSystem.Lookup(cancel, header, name, out)
}

// GetAttr implements fuse.RawFileSystem.
func (g *guard) GetAttr(cancel <-chan struct{}, in *fuse.GetAttrIn, out *fuse.AttrOut) fuse.Status {
	defer g.resolve()()
	return g.RawFileSystem.GetAttr(cancel, in, out)
}

// Statx implements fuse.RawFileSystem.
func (g *guard) Statx(cancel <-chan struct{}, in *fuse.StatxIn, out *fuse.StatxOut) fuse.Status {
	defer g.resolve()()
	return g.RawFileSystem.Statx(cancel, in, out)
}

// SetAttr implements fuse.RawFileSystem.
func (g *guard) SetAttr(cancel <-chan struct{}, in *fuse.SetAttrIn, out *fuse.AttrOut) fuse.Status {
	if g.readOnly {
		return fuse.EROFS
	}
	defer g.resolve()()
	return g.RawFileSystem.SetAttr(cancel, in, out)
}

// Readlink implements fuse.RawFileSystem.
func (g *guard) Readlink(cancel <-chan struct{}, header *fuse.InHeader) ([]byte, fuse.Status) {
	defer g.resolve()()
	return g.RawFileSystem.Readlink(cancel, header)
}

// Access implements fuse.RawFileSystem. Our frontends check permissions
// themselves, as a kernel mount does with default_permissions.
func (g *guard) Access(cancel <-chan struct{}, in *fuse.AccessIn) fuse.Status {
	if g.readOnly && in.Mask&unix.W_OK != 0 {
		return fuse.EROFS
	}
	return fuse.OK
}

// Open implements fuse.RawFileSystem.
func (g *guard) Open(cancel <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	if g.readOnly && (in.Flags&unix.O_ACCMODE != unix.O_RDONLY || in.Flags&unix.O_TRUNC != 0) {
		return fuse.EROFS
	}
	defer g.resolve()()
	return g.RawFileSystem.Open(cancel, in, out)
}

// OpenDir implements fuse.RawFileSystem.
func (g *guard) OpenDir(cancel <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	defer g.resolve()()
	return g.RawFileSystem.OpenDir(cancel, in, out)
}

// ReadDirPlus implements fuse.RawFileSystem.
func (g *guard) ReadDirPlus(cancel <-chan struct{}, in *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	defer g.resolve()()
	return g.RawFileSystem.ReadDirPlus(cancel, in, out)
}

// StatFs implements fuse.RawFileSystem.
func (g *guard) StatFs(cancel <-chan struct{}, header *fuse.InHeader, out *fuse.StatfsOut) fuse.Status {
	defer g.resolve()()
	return g.RawFileSystem.StatFs(cancel, header, out)
}

// GetXAttr implements fuse.RawFileSystem.
func (g *guard) GetXAttr(cancel <-chan struct{}, header *fuse.InHeader, attr string, dest []byte) (uint32, fuse.Status) {
	defer g.resolve()()
	return g.RawFileSystem.GetXAttr(cancel, header, attr, dest)
}

// ListXAttr implements fuse.RawFileSystem.
func (g *guard) ListXAttr(cancel <-chan struct{}, header *fuse.InHeader, dest []byte) (uint32, fuse.Status) {
	defer g.resolve()()
	return g.RawFileSystem.ListXAttr(cancel, header, dest)
}

// SetXAttr implements fuse.RawFileSystem.
func (g *guard) SetXAttr(cancel <-chan struct{}, in *fuse.SetXAttrIn, attr string, data []byte) fuse.Status {
	if g.readOnly {
		return fuse.EROFS
	}
	defer g.resolve()()
	return g.RawFileSystem.SetXAttr(cancel, in, attr, data)
}

// RemoveXAttr implements fuse.RawFileSystem.
func (g *guard) RemoveXAttr(cancel <-chan struct{}, header *fuse.InHeader, attr string) fuse.Status {
	if g.readOnly {
		return fuse.EROFS
	}
	defer g.resolve()()
	return g.RawFileSystem.RemoveXAttr(cancel, header, attr)
}

// Mknod implements fuse.RawFileSystem.
func (g *guard) Mknod(cancel <-chan struct{}, in *fuse.MknodIn, name string, out *fuse.EntryOut) fuse.Status {
	done, st := g.change(name)
	if !st.Ok() {
		return st
	}
	defer done()
	return g.RawFileSystem.Mknod(cancel, in, name, out)
}

// Mkdir implements fuse.RawFileSystem.
func (g *guard) Mkdir(cancel <-chan struct{}, in *fuse.MkdirIn, name string, out *fuse.EntryOut) fuse.Status {
	done, st := g.change(name)
	if !st.Ok() {
		return st
	}
	defer done()
	return g.RawFileSystem.Mkdir(cancel, in, name, out)
}

// Unlink implements fuse.RawFileSystem.
func (g *guard) Unlink(cancel <-chan struct{}, header *fuse.InHeader, name string) fuse.Status {
	done, st := g.change(name)
	if !st.Ok() {
		return st
	}
	defer done()
	return g.RawFileSystem.Unlink(cancel, header, name)
}

// Rmdir implements fuse.RawFileSystem.
func (g *guard) Rmdir(cancel <-chan struct{}, header *fuse.InHeader, name string) fuse.Status {
	done, st := g.change(name)
	if !st.Ok() {
		return st
	}
	defer done()
	return g.RawFileSystem.Rmdir(cancel, header, name)
}

// Rename implements fuse.RawFileSystem.
func (g *guard) Rename(cancel <-chan struct{}, in *fuse.RenameIn, oldName, newName string) fuse.Status {
	done, st := g.change(oldName, newName)
	if !st.Ok() {
		return st
	}
	defer done()
	return g.RawFileSystem.Rename(cancel, in, oldName, newName)
}

// Link implements fuse.RawFileSystem.
func (g *guard) Link(cancel <-chan struct{}, in *fuse.LinkIn, name string, out *fuse.EntryOut) fuse.Status {
	done, st := g.change(name)
	if !st.Ok() {
		return st
	}
	defer done()
	return g.RawFileSystem.Link(cancel, in, name, out)
}

// Symlink implements fuse.RawFileSystem.
func (g *guard) Symlink(cancel <-chan struct{}, header *fuse.InHeader, target, name string, out *fuse.EntryOut) fuse.Status {
	switch {
	case target == "":
		return fuse.ENOENT // symlink(2)
	case len(target) > pathMax:
		return fuse.Status(unix.ENAMETOOLONG)
	case strings.Contains(target, "\x00"):
		return fuse.EINVAL
	}
	done, st := g.change(name)
	if !st.Ok() {
		return st
	}
	defer done()
	return g.RawFileSystem.Symlink(cancel, header, target, name, out)
}

// Create implements fuse.RawFileSystem.
func (g *guard) Create(cancel <-chan struct{}, in *fuse.CreateIn, name string, out *fuse.CreateOut) fuse.Status {
	done, st := g.change(name)
	if !st.Ok() {
		return st
	}
	defer done()
	return g.RawFileSystem.Create(cancel, in, name, out)
}

// Tmpfile implements fuse.RawFileSystem.
func (g *guard) Tmpfile(cancel <-chan struct{}, in *fuse.CreateIn, out *fuse.CreateOut) fuse.Status {
	done, st := g.change()
	if !st.Ok() {
		return st
	}
	defer done()
	return g.RawFileSystem.Tmpfile(cancel, in, out)
}

// Ioctl implements fuse.RawFileSystem: no ioctl reaches the host.
func (g *guard) Ioctl(cancel <-chan struct{}, in *fuse.IoctlIn, inbuf []byte, out *fuse.IoctlOut, outbuf []byte) fuse.Status {
	return fuse.Status(unix.ENOTTY)
}

// Write implements fuse.RawFileSystem.
func (g *guard) Write(cancel <-chan struct{}, in *fuse.WriteIn, data []byte) (uint32, fuse.Status) {
	if g.readOnly {
		return 0, fuse.EROFS
	}
	return g.RawFileSystem.Write(cancel, in, data)
}

// Writev implements fuse.RawFileSystem.
func (g *guard) Writev(cancel <-chan struct{}, in *fuse.WriteIn, data [][]byte) (uint32, fuse.Status) {
	if g.readOnly {
		return 0, fuse.EROFS
	}
	return g.RawFileSystem.Writev(cancel, in, data)
}

// Fallocate implements fuse.RawFileSystem.
func (g *guard) Fallocate(cancel <-chan struct{}, in *fuse.FallocateIn) fuse.Status {
	if g.readOnly {
		return fuse.EROFS
	}
	return g.RawFileSystem.Fallocate(cancel, in)
}

// CopyFileRange implements fuse.RawFileSystem.
func (g *guard) CopyFileRange(cancel <-chan struct{}, in *fuse.CopyFileRangeIn) (uint32, fuse.Status) {
	if g.readOnly {
		return 0, fuse.EROFS
	}
	return g.RawFileSystem.CopyFileRange(cancel, in)
}
