// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package fusesession

import (
	"context"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// memDir is a directory in memory, of go-fuse's node tree.
type memDir struct{ fs.Inode }

var (
	_ fs.NodeCreater   = (*memDir)(nil)
	_ fs.NodeMkdirer   = (*memDir)(nil)
	_ fs.NodeSymlinker = (*memDir)(nil)
	_ fs.NodeLinker    = (*memDir)(nil)
	_ fs.NodeUnlinker  = (*memDir)(nil)
	_ fs.NodeRmdirer   = (*memDir)(nil)
	_ fs.NodeRenamer   = (*memDir)(nil)
)

func (d *memDir) Create(ctx context.Context, name string, _ uint32, mode uint32, _ *fuse.EntryOut) (*fs.Inode, fs.FileHandle, uint32, unix.Errno) {
	if d.GetChild(name) != nil {
		return nil, nil, 0, unix.EEXIST
	}
	f := &memFile{MemRegularFile: fs.MemRegularFile{Attr: fuse.Attr{Mode: mode & 0o777}}}
	return d.NewInode(ctx, f, fs.StableAttr{Mode: unix.S_IFREG}), nil, 0, 0
}

func (d *memDir) Mkdir(ctx context.Context, name string, _ uint32, _ *fuse.EntryOut) (*fs.Inode, unix.Errno) {
	if d.GetChild(name) != nil {
		return nil, unix.EEXIST
	}
	return d.NewInode(ctx, &memDir{}, fs.StableAttr{Mode: unix.S_IFDIR}), 0
}

func (d *memDir) Symlink(ctx context.Context, target, name string, _ *fuse.EntryOut) (*fs.Inode, unix.Errno) {
	if d.GetChild(name) != nil {
		return nil, unix.EEXIST
	}
	return d.NewInode(ctx, &fs.MemSymlink{Data: []byte(target)}, fs.StableAttr{Mode: unix.S_IFLNK}), 0
}

func (d *memDir) Link(_ context.Context, target fs.InodeEmbedder, name string, _ *fuse.EntryOut) (*fs.Inode, unix.Errno) {
	if d.GetChild(name) != nil {
		return nil, unix.EEXIST
	}
	return target.EmbeddedInode(), 0
}

func (d *memDir) Unlink(_ context.Context, name string) unix.Errno {
	if c := d.GetChild(name); c == nil || c.IsDir() {
		return unix.ENOENT
	}
	return 0
}

func (d *memDir) Rmdir(_ context.Context, name string) unix.Errno {
	if c := d.GetChild(name); c == nil || !c.IsDir() || len(c.Children()) > 0 {
		return unix.ENOTEMPTY
	}
	return 0
}

func (d *memDir) Rename(_ context.Context, name string, to fs.InodeEmbedder, newName string, flags uint32) unix.Errno {
	c := d.GetChild(name)
	switch {
	case c == nil || flags != 0:
		return unix.EINVAL
	case to.EmbeddedInode().GetChild(newName) != nil:
		return unix.EEXIST
	}
	for n := to.EmbeddedInode(); n != nil; _, n = n.Parent() {
		if n == c {
			return unix.EINVAL // into itself
		}
	}
	return 0
}

// memFile is a file of at most maxMemFile bytes.
type memFile struct{ fs.MemRegularFile }

const maxMemFile = 1 << 20

func (f *memFile) Write(ctx context.Context, h fs.FileHandle, data []byte, off int64) (uint32, unix.Errno) {
	if off > maxMemFile {
		return 0, unix.EFBIG
	}
	return f.MemRegularFile.Write(ctx, h, data, off)
}

func (f *memFile) Setattr(ctx context.Context, h fs.FileHandle, in *fuse.SetAttrIn, out *fuse.AttrOut) unix.Errno {
	if size, ok := in.GetSize(); ok && size > maxMemFile {
		return unix.EFBIG
	}
	return f.MemRegularFile.Setattr(ctx, h, in, out)
}

func (f *memFile) Allocate(ctx context.Context, h fs.FileHandle, off, size uint64, mode uint32) unix.Errno {
	if off+size > maxMemFile {
		return unix.EFBIG
	}
	return f.MemRegularFile.Allocate(ctx, h, off, size, mode)
}
