// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

// Package hardlinks makes one node of all names of a file, for FS servers that
// have a node for each name: those on libfuse's path-based interface, such as
// fuse2fs, bindfs and ntfs-3g.
//
// Linux takes two such nodes for two inodes that happen to have the same number.
// A sentry would do worse: it gives files of one identity one node, and the node
// is dead once its own name is removed, though another name remains. An FS wraps
// such a server, shows each file under the ID of the first node seen, and sends
// requests to a node whose name is still there.
//
// Two nodes are taken for one file only if LINK has just said so, or if they have
// more than one link and the same attributes, change time included: a number
// alone proves nothing (a directory may hold several file systems).
//
// The server below is not trusted: what it says can at worst mix up files of its
// own. Callers are our own frontends and balance lookups and forgets.
//
// Reference model: a file lives while its caller holds lookups of it, and keeps
// the lookups of all its nodes until then, so that no ID of theirs is reused.
//
// Lock order: FS.mu is a leaf; no request is sent while it is held.
package hardlinks

import (
	"slices"
	"sync"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fuse"
)

// maxNames bounds the nodes kept of one file. More names work, as files of their
// own.
const maxNames = 64

// FS is a fuse.RawFileSystem in which all names of a file are one node. It is
// safe for concurrent use.
type FS struct {
	fuse.RawFileSystem // the file system below

	mu      sync.Mutex
	byID    map[uint64]*file    // by the IDs of all their nodes; guarded by mu
	byIno   map[uint64]*file    // the latest with several links; guarded by mu
	handles map[uint64]openFile // by the numbers that the caller knows; guarded by mu
	next    uint64              // the number given out last; guarded by mu
}

// file is what is not a directory. Its fields are guarded by FS.mu, but id.
type file struct {
	id    uint64 // what the caller knows it by; immutable
	ino   uint64
	given uint64 // lookups the caller holds
	nodes []node // the one that worked last comes first
}

// node is a name's node of the server.
type node struct {
	id, owed uint64 // owed: lookups to forget at the server
}

// openFile is what a handle stands for. The caller gets numbers of ours: the
// server's own may be the same for each file (ntfs-3g says 0).
type openFile struct{ node, fh uint64 }

// New wraps below.
func New(below fuse.RawFileSystem) *FS {
	return &FS{
		RawFileSystem: below,
		byID:          make(map[uint64]*file), byIno: make(map[uint64]*file), handles: make(map[uint64]openFile),
	}
}

// String implements fuse.RawFileSystem.
func (f *FS) String() string { return "hardlinks(" + f.RawFileSystem.String() + ")" }

// Shown returns the ID under which the caller knows a node of the server.
func (f *FS) Shown(nodeID uint64) uint64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	if fl := f.byID[nodeID]; fl != nil {
		return fl.id
	}
	return nodeID
}

// Forget implements fuse.RawFileSystem.
func (f *FS) Forget(nodeID, nlookup uint64) {
	f.mu.Lock()
	fl := f.byID[nodeID]
	if fl == nil {
		f.mu.Unlock()
		f.RawFileSystem.Forget(nodeID, nlookup)
		return
	}
	fl.given -= min(fl.given, nlookup)
	var gone []node
	if fl.given == 0 {
		gone = fl.nodes
		for _, n := range gone {
			delete(f.byID, n.id)
		}
		if f.byIno[fl.ino] == fl {
			delete(f.byIno, fl.ino)
		}
	}
	f.mu.Unlock()
	for _, n := range gone {
		f.RawFileSystem.Forget(n.id, n.owed)
	}
}

// same reports whether two nodes' attributes are those of one file.
func same(a, b *fuse.Attr) bool {
	return a.Nlink > 1 && a.Ino != 0 && a.Ino != fuse.FUSE_UNKNOWN_INO &&
		a.Ino == b.Ino && a.Nlink == b.Nlink && a.Mode == b.Mode && a.Size == b.Size && a.Owner == b.Owner &&
		a.Mtime == b.Mtime && a.Mtimensec == b.Mtimensec && a.Ctime == b.Ctime && a.Ctimensec == b.Ctimensec
}

// entered takes over an entry that the server returned. known, if not 0, is the
// ID of a file that it is known to be a name of.
func (f *FS) entered(out *fuse.EntryOut, known uint64) {
	if out.NodeId == 0 || out.Attr.Mode&syscall.S_IFMT == syscall.S_IFDIR {
		return
	}
	if known == 0 {
		known = f.match(out)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	fl := f.byID[out.NodeId]
	if fl == nil && known != 0 {
		if fl = f.byID[known]; fl != nil && len(fl.nodes) >= maxNames {
			fl = nil
		}
	}
	if fl == nil {
		fl = &file{id: out.NodeId, ino: out.Attr.Ino}
	}
	i := slices.IndexFunc(fl.nodes, func(n node) bool { return n.id == out.NodeId })
	if i < 0 {
		i = len(fl.nodes)
		fl.nodes = append(fl.nodes, node{id: out.NodeId})
		f.byID[out.NodeId] = fl
	}
	fl.nodes[i].owed++
	fl.prefer(i) // its name is there
	fl.given++
	if out.Attr.Nlink > 1 {
		f.byIno[out.Attr.Ino] = fl
	}
	out.NodeId = fl.id
}

// match returns the ID of the file that an entry is another name of, or 0.
func (f *FS) match(out *fuse.EntryOut) uint64 {
	if out.Attr.Nlink < 2 {
		return 0
	}
	f.mu.Lock()
	fl := f.byIno[out.Attr.Ino]
	is := f.byID[out.NodeId]
	f.mu.Unlock()
	if fl == nil || is != nil {
		return 0
	}
	var now fuse.AttrOut
	if s := f.GetAttr(nil, &fuse.GetAttrIn{InHeader: fuse.InHeader{NodeId: fl.id}}, &now); !s.Ok() || !same(&now.Attr, &out.Attr) {
		return 0
	}
	return fl.id
}

// prefer makes node i the first to be tried.
func (fl *file) prefer(i int) {
	n := fl.nodes[i]
	copy(fl.nodes[1:i+1], fl.nodes[:i])
	fl.nodes[0] = n
}

// candidates returns the nodes that requests about the caller's ID may go to,
// the best first.
func (f *FS) candidates(id uint64) []uint64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	fl := f.byID[id]
	if fl == nil || len(fl.nodes) == 1 {
		if fl != nil {
			id = fl.nodes[0].id
		}
		return []uint64{id}
	}
	ids := make([]uint64, len(fl.nodes))
	for i, n := range fl.nodes {
		ids[i] = n.id
	}
	return ids
}

// nameGone reports whether a status may mean that a node has lost its name.
func nameGone(s fuse.Status) bool { return s == fuse.ENOENT || s == fuse.Status(syscall.ESTALE) }

// try performs a request through the nodes of a file until one has a name.
func (f *FS) try(id uint64, do func(node uint64) fuse.Status) fuse.Status {
	ids := f.candidates(id)
	status := do(ids[0])
	for i := 1; i < len(ids) && nameGone(status); i++ {
		if status = do(ids[i]); !nameGone(status) {
			f.mu.Lock()
			if fl := f.byID[ids[i]]; fl != nil {
				if at := slices.IndexFunc(fl.nodes, func(n node) bool { return n.id == ids[i] }); at > 0 {
					fl.prefer(at)
				}
			}
			f.mu.Unlock()
		}
	}
	return status
}

// opened gives a number to a file that the server has opened as fh.
func (f *FS) opened(node, fh uint64) uint64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.next++
	f.handles[f.next] = openFile{node, fh}
	return f.next
}

// behind returns what a handle stands for. One that is not known belongs to a
// server without OPEN.
func (f *FS) behind(id, number uint64) (node, fh uint64) {
	f.mu.Lock()
	o, ok := f.handles[number]
	f.mu.Unlock()
	if !ok {
		return f.candidates(id)[0], number
	}
	return o.node, o.fh
}

// closed is behind for the last use of a handle.
func (f *FS) closed(id, number uint64) (node, fh uint64) {
	node, fh = f.behind(id, number)
	f.mu.Lock()
	delete(f.handles, number)
	f.mu.Unlock()
	return node, fh
}
