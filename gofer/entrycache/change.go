// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package entrycache

import (
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
)

// change runs an operation that may change the nodes with the given IDs: what
// is cached of them is invalid from its start, and replies to requests that
// overlap with it are not kept. after, if not nil, runs with mu held once the
// change is over; it gets the nodes, nil for those the cache does not know.
func (f *FS) change(do func() fuse.Status, after func(fuse.Status, []*node) fuse.Status, ids ...uint64) fuse.Status {
	nodes := make([]*node, len(ids))
	f.mu.Lock()
	for i, id := range ids {
		nodes[i] = f.table.nodes[id]
	}
	f.table.begin(nodes...)
	f.mu.Unlock()

	status := do()

	f.mu.Lock()
	defer f.unlock()
	f.table.end(nodes...)
	if after != nil {
		status = after(status, nodes)
	}
	return status
}

// created keeps the entry a creation returns, which must not have been sent yet.
// nodes[0] is the directory.
func (f *FS) created(dir uint64, name string, out *fuse.EntryOut) func(fuse.Status, []*node) fuse.Status {
	f.mu.Lock()
	sent := f.table.changes
	absent := f.table.absent(f.table.nodes[dir], name, time.Time{})
	f.table.naming(f.table.nodes[dir], name)
	f.mu.Unlock()
	return func(status fuse.Status, nodes []*node) fuse.Status {
		if !status.Ok() {
			// EEXIST, say, contradicts a negative entry.
			f.table.drop(nodes[0], name)
			if status == fuse.Status(syscall.EEXIST) && absent {
				f.table.unmake(nodes[0])
			}
			return status
		}
		m := f.table.markOf(nodes[0])
		m.all = sent
		if !f.learn(m, name, out, true) {
			f.ungive(out.NodeId)
			return fuse.EIO
		}
		return fuse.OK
	}
}

// Mknod implements fuse.RawFileSystem.
func (f *FS) Mknod(cancel <-chan struct{}, in *fuse.MknodIn, name string, out *fuse.EntryOut) fuse.Status {
	return f.change(func() fuse.Status { return f.RawFileSystem.Mknod(cancel, in, name, out) },
		f.created(in.NodeId, name, out), in.NodeId)
}

// Mkdir implements fuse.RawFileSystem.
func (f *FS) Mkdir(cancel <-chan struct{}, in *fuse.MkdirIn, name string, out *fuse.EntryOut) fuse.Status {
	f.mu.Lock()
	sent := mark{all: f.table.changes}
	f.mu.Unlock()
	keep := f.created(in.NodeId, name, out)
	return f.change(func() fuse.Status { return f.RawFileSystem.Mkdir(cancel, in, name, out) },
		func(status fuse.Status, nodes []*node) fuse.Status {
			status = keep(status, nodes)
			// If somebody has found it meanwhile there may be names in it already.
			if n := f.table.nodes[out.NodeId]; f.opts.Exclusive && status.Ok() && n != nil && sent.unchangedAttr(n) {
				f.table.justMade(n)
			}
			return status
		}, in.NodeId)
}

// Symlink implements fuse.RawFileSystem.
func (f *FS) Symlink(cancel <-chan struct{}, header *fuse.InHeader, target, name string, out *fuse.EntryOut) fuse.Status {
	return f.change(func() fuse.Status { return f.RawFileSystem.Symlink(cancel, header, target, name, out) },
		f.created(header.NodeId, name, out), header.NodeId)
}

// Link implements fuse.RawFileSystem.
func (f *FS) Link(cancel <-chan struct{}, in *fuse.LinkIn, name string, out *fuse.EntryOut) fuse.Status {
	return f.change(func() fuse.Status { return f.RawFileSystem.Link(cancel, in, name, out) },
		f.created(in.NodeId, name, out), in.NodeId, in.Oldnodeid)
}

// Create implements fuse.RawFileSystem.
func (f *FS) Create(cancel <-chan struct{}, in *fuse.CreateIn, name string, out *fuse.CreateOut) fuse.Status {
	keep := f.created(in.NodeId, name, &out.EntryOut)
	status := f.change(func() fuse.Status { return f.RawFileSystem.Create(cancel, in, name, out) },
		func(status fuse.Status, nodes []*node) fuse.Status {
			created := status.Ok()
			if status = keep(status, nodes); created && !status.Ok() {
				return statusUnusable
			}
			return status
		}, in.NodeId)
	if status == statusUnusable {
		// The file was opened too; nobody else will release it.
		f.RawFileSystem.Release(nil, &fuse.ReleaseIn{InHeader: fuse.InHeader{NodeId: out.NodeId}, Fh: out.Fh, Flags: in.Flags})
		return fuse.EIO
	}
	return status
}

// statusUnusable marks, inside Create only, an entry that learn refused.
const statusUnusable = fuse.Status(-1)

// Tmpfile implements fuse.RawFileSystem. The file has no name to cache.
func (f *FS) Tmpfile(cancel <-chan struct{}, in *fuse.CreateIn, out *fuse.CreateOut) fuse.Status {
	status := f.RawFileSystem.Tmpfile(cancel, in, out)
	if status.Ok() {
		f.mu.Lock()
		defer f.unlock()
		f.learn(mark{}, "", &out.EntryOut, true)
	}
	return status
}

// Unlink implements fuse.RawFileSystem.
func (f *FS) Unlink(cancel <-chan struct{}, header *fuse.InHeader, name string) fuse.Status {
	return f.remove(header.NodeId, name, func() fuse.Status { return f.RawFileSystem.Unlink(cancel, header, name) })
}

// Rmdir implements fuse.RawFileSystem.
func (f *FS) Rmdir(cancel <-chan struct{}, header *fuse.InHeader, name string) fuse.Status {
	return f.remove(header.NodeId, name, func() fuse.Status { return f.RawFileSystem.Rmdir(cancel, header, name) })
}

func (f *FS) remove(dir uint64, name string, do func() fuse.Status) fuse.Status {
	return f.change(do, func(status fuse.Status, nodes []*node) fuse.Status {
		// Dropped after failures too: ENOENT and ENOTEMPTY say that the cache was
		// wrong, and after an interrupted request nobody knows.
		f.dropChanged(nodes[0], name)
		return status
	}, dir)
}

// dropChanged removes the entry for name and what is cached of the file it
// named, whose link count and change time may differ now.
func (f *FS) dropChanged(dir *node, name string) {
	if e := f.table.entryOf(dir, name); e != nil {
		if e.child != nil {
			f.table.touch(e.child)
		}
		f.table.drop(dir, name)
	}
}

// Rename implements fuse.RawFileSystem. Both names are looked up again
// afterwards: with RENAME_EXCHANGE they are swapped, and a server is free to
// give the file another node.
func (f *FS) Rename(cancel <-chan struct{}, in *fuse.RenameIn, oldName, newName string) fuse.Status {
	f.mu.Lock()
	f.table.naming(f.table.nodes[in.Newdir], newName)
	e := f.table.entryOf(f.table.nodes[in.NodeId], oldName)
	// A directory may be moved, perhaps into the place and the node of another.
	moves := in.Flags != 0 || e == nil || e.child == nil || e.child.typ == syscall.S_IFDIR
	f.mu.Unlock()
	return f.change(func() fuse.Status { return f.RawFileSystem.Rename(cancel, in, oldName, newName) },
		func(status fuse.Status, nodes []*node) fuse.Status {
			f.dropChanged(nodes[0], oldName)
			f.dropChanged(nodes[1], newName)
			if moves {
				f.table.evictMade(0)
			}
			return status
		}, in.NodeId, in.Newdir)
}

// SetAttr implements fuse.RawFileSystem.
func (f *FS) SetAttr(cancel <-chan struct{}, in *fuse.SetAttrIn, out *fuse.AttrOut) fuse.Status {
	f.mu.Lock()
	n := f.table.nodes[in.NodeId]
	f.table.begin(n)
	before := f.table.markOf(n)
	f.mu.Unlock()

	status := f.RawFileSystem.SetAttr(cancel, in, out)

	f.mu.Lock()
	defer f.unlock()
	// The reply has the attributes after this change, but perhaps before another
	// one that was made meanwhile.
	alone := n != nil && n.changing == 1 && n.changes == before.changes
	f.table.end(n)
	if status.Ok() && alone {
		f.keepAttr(f.table.markOf(n), status, out)
	}
	return status
}

// SetXAttr implements fuse.RawFileSystem. It changes ctime, and setting an ACL
// changes the mode.
func (f *FS) SetXAttr(cancel <-chan struct{}, in *fuse.SetXAttrIn, attr string, data []byte) fuse.Status {
	return f.change(func() fuse.Status { return f.RawFileSystem.SetXAttr(cancel, in, attr, data) }, nil, in.NodeId)
}

// RemoveXAttr implements fuse.RawFileSystem.
func (f *FS) RemoveXAttr(cancel <-chan struct{}, header *fuse.InHeader, attr string) fuse.Status {
	return f.change(func() fuse.Status { return f.RawFileSystem.RemoveXAttr(cancel, header, attr) }, nil, header.NodeId)
}

// Open implements fuse.RawFileSystem.
func (f *FS) Open(cancel <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	do := func() fuse.Status { return f.RawFileSystem.Open(cancel, in, out) }
	if in.Flags&syscall.O_TRUNC == 0 {
		return do()
	}
	return f.change(do, nil, in.NodeId)
}

// Read implements fuse.RawFileSystem. It changes the access time.
func (f *FS) Read(cancel <-chan struct{}, in *fuse.ReadIn, buf []byte) (fuse.ReadResult, fuse.Status) {
	result, status := f.RawFileSystem.Read(cancel, in, buf)
	if !f.opts.ReadOnly {
		f.mu.Lock()
		if n := f.table.nodes[in.NodeId]; n != nil {
			n.attrExpires = time.Time{}
		}
		f.mu.Unlock()
	}
	return result, status
}

// Write implements fuse.RawFileSystem.
func (f *FS) Write(cancel <-chan struct{}, in *fuse.WriteIn, data []byte) (written uint32, status fuse.Status) {
	status = f.change(func() (s fuse.Status) {
		written, s = f.RawFileSystem.Write(cancel, in, data)
		return s
	}, nil, in.NodeId)
	return written, status
}

// Writev implements fuse.RawFileSystem.
func (f *FS) Writev(cancel <-chan struct{}, in *fuse.WriteIn, data [][]byte) (written uint32, status fuse.Status) {
	status = f.change(func() (s fuse.Status) {
		written, s = f.RawFileSystem.Writev(cancel, in, data)
		return s
	}, nil, in.NodeId)
	return written, status
}

// CopyFileRange implements fuse.RawFileSystem.
func (f *FS) CopyFileRange(cancel <-chan struct{}, in *fuse.CopyFileRangeIn) (written uint32, status fuse.Status) {
	status = f.change(func() (s fuse.Status) {
		written, s = f.RawFileSystem.CopyFileRange(cancel, in)
		return s
	}, nil, in.NodeIdOut)
	return written, status
}

// Fallocate implements fuse.RawFileSystem.
func (f *FS) Fallocate(cancel <-chan struct{}, in *fuse.FallocateIn) fuse.Status {
	return f.change(func() fuse.Status { return f.RawFileSystem.Fallocate(cancel, in) }, nil, in.NodeId)
}
