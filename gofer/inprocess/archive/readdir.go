// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package archive

import (
	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// OpenDir implements fuse.RawFileSystem. There is no handle: an offset is a
// place in the index, good for ever.
func (fs *FS) OpenDir(cancel <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	_, n := fs.node(in.NodeId)
	switch {
	case n == nil:
		return fuse.ENOENT
	case !n.isDir():
		return fuse.ENOTDIR
	}
	out.OpenFlags = fuse.FOPEN_KEEP_CACHE | fuse.FOPEN_CACHE_DIR
	return fuse.OK
}

// ReadDir implements fuse.RawFileSystem.
func (fs *FS) ReadDir(cancel <-chan struct{}, in *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	return fs.list(in, func(id uint32, e fuse.DirEntry) bool { return out.AddDirEntry(e) })
}

// ReadDirPlus implements fuse.RawFileSystem.
func (fs *FS) ReadDirPlus(cancel <-chan struct{}, in *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	return fs.list(in, func(id uint32, e fuse.DirEntry) bool {
		entry := out.AddDirLookupEntry(e)
		if entry == nil {
			return false
		}
		if e.Name != "." && e.Name != ".." { // those two are not looked up
			fs.entry(id, entry)
		}
		return true
	})
}

// list offers the entries from an offset on until add refuses one. Offset 0 is
// ".", 1 is "..", and entry i is i+2.
func (fs *FS) list(in *fuse.ReadIn, add func(id uint32, e fuse.DirEntry) bool) fuse.Status {
	id, n := fs.node(in.NodeId)
	switch {
	case n == nil:
		return fuse.ENOENT
	case !n.isDir():
		return fuse.ENOTDIR
	}
	for off := in.Offset; off < uint64(n.count)+2; off++ {
		child, e := id, fuse.DirEntry{Name: ".", Mode: unix.S_IFDIR}
		switch off {
		case 0:
		case 1:
			child, e.Name = n.parent, ".."
		default:
			d := &fs.index.dirents[uint64(n.first)+off-2]
			child, e.Name, e.Mode = d.node, d.name, fs.index.nodes[d.node].mode
		}
		e.Ino, e.Off = uint64(child)+1, off+1
		if !add(child, e) {
			break
		}
	}
	return fuse.OK
}
