// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

// Package hardlinks makes one node of all names of a file, for FS servers that
// have a node for each name: those on libfuse's path-based interface, such as
// fuse2fs, bindfs and ntfs-3g.
//
// Linux takes two such nodes for two inodes that happen to have the same number.
// A sentry would do worse: it gives files of one identity one node, and the node
// is dead once its own name is removed, though another name remains. An FS wraps
// such a server, shows each file under an ID of its own, and sends requests to a
// node whose name is still there.
//
// Two nodes are taken for one file only if LINK has just said so, or if they have
// more than one link and the same attributes, change time included: a number
// alone proves nothing (a directory may hold several file systems). A name that
// is looked up and has another inode number is another file from then on. When
// in doubt, names of one file are shown as several files, as they are without
// this package.
//
// libfuse does not remove the name that an open file was opened by: it renames it
// to .fuse_hiddenXXXX until the file is closed. A sentry keeps a file open for as
// long as it remembers any name of it, so that with all names being one file the
// hidden name would stay. Before a name is removed or replaced, the handles that
// were opened by it are therefore moved to another name of the file (move.go).
//
// The server below is not trusted: what it says can at worst mix up files of its
// own. Callers are our own frontends: they balance lookups and forgets, and know
// files from directories. POSIX locks are not passed on, because they would not
// move with a handle.
//
// Reference model: a file lives while its caller holds lookups of it (given). It
// holds its nodes, and a node holds the lookups that the server has granted for it
// (owed). Requests and handles hold the node they use: the server is told to
// forget it only when it is out of its file and nobody uses it.
//
// Lock order:
//
//	file.opening  held for reading over OPEN, for writing while a name is removed
//	  handle.mu   held for reading over each operation on the handle, for writing
//	              while it is moved
//	    FS.mu     a leaf; no request is sent while it is held
package hardlinks

import (
	"slices"
	"sync"
	"sync/atomic"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fuse"
)

const (
	// maxNames bounds the nodes kept of one file. More names work, as files of their
	// own.
	maxNames = 64
	// firstID is the first ID of a file. Below it are the server's own, under which
	// directories are known: libfuse counts up from 2, in 32 bits.
	firstID = 1 << 48
)

// Server is the file system below.
type Server interface {
	fuse.RawFileSystem
	// ReleaseAndWait is Release that returns when the server has closed the file.
	ReleaseAndWait(in *fuse.ReleaseIn)
}

// FS is a fuse.RawFileSystem in which all names of a file are one node. It is
// safe for concurrent use.
type FS struct {
	Server // the file system below

	handles sync.Map      // *handle by the number that the caller knows (uint64)
	number  atomic.Uint64 // the number given out last

	mu     sync.Mutex
	lastID uint64             // guarded by mu
	files  map[uint64]*file   // by ID; guarded by mu
	byNode map[uint64]*node   // by the server's node ID; guarded by mu
	byIno  map[uint64]*file   // the latest with several links; guarded by mu
	busy   map[*file]struct{} // those that are open and have several nodes; guarded by mu
	gone   []*node            // to be forgotten by unlock; guarded by mu
}

// file is what is not a directory.
type file struct {
	id uint64 // what the caller knows it by; immutable

	opening sync.RWMutex

	// Guarded by FS.mu.
	ino   uint64
	given uint64  // lookups the caller holds
	nodes []*node // the one whose name was seen last comes first; never empty while the file lives
	open  map[*handle]struct{}
}

// node is a name's node of the server. Its fields are guarded by FS.mu, but id.
type node struct {
	id   uint64 // immutable
	owed uint64 // lookups to forget at the server
	uses int    // requests and handles
	file *file  // nil: the file has dropped it
}

// New wraps below.
func New(below Server) *FS {
	return &FS{
		Server: below, lastID: firstID - 1,
		files: make(map[uint64]*file), byNode: make(map[uint64]*node), byIno: make(map[uint64]*file), busy: make(map[*file]struct{}),
	}
}

// String implements fuse.RawFileSystem.
func (f *FS) String() string { return "hardlinks(" + f.Server.String() + ")" }

// Shown returns the ID under which the caller knows a node of the server.
func (f *FS) Shown(nodeID uint64) uint64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	if n := f.byNode[nodeID]; n != nil {
		return n.file.id
	}
	return nodeID
}

// unlock releases mu and forgets what has become unused.
func (f *FS) unlock() {
	gone := f.gone
	f.gone = nil
	f.mu.Unlock()
	for _, n := range gone {
		f.Server.Forget(n.id, n.owed)
	}
}

// Forget implements fuse.RawFileSystem.
func (f *FS) Forget(nodeID, nlookup uint64) {
	f.mu.Lock()
	fl := f.files[nodeID]
	if fl == nil {
		f.mu.Unlock()
		if nodeID < firstID {
			f.Server.Forget(nodeID, nlookup)
		}
		return
	}
	defer f.unlock()
	if fl.given -= min(fl.given, nlookup); fl.given > 0 {
		return
	}
	for len(fl.nodes) > 0 {
		f.dropLocked(fl.nodes[0])
	}
	delete(f.files, fl.id)
	if f.byIno[fl.ino] == fl {
		delete(f.byIno, fl.ino)
	}
}

// dropLocked takes a node out of its file.
func (f *FS) dropLocked(n *node) {
	fl := n.file
	fl.nodes = slices.DeleteFunc(fl.nodes, func(o *node) bool { return o == n })
	n.file = nil
	delete(f.byNode, n.id)
	if n.uses == 0 {
		f.gone = append(f.gone, n)
	}
	f.noteLocked(fl)
}

// letGo ends a use of a node.
func (f *FS) letGo(n *node) {
	f.mu.Lock()
	f.letGoLocked(n)
	f.unlock()
}

func (f *FS) letGoLocked(n *node) {
	if n.uses--; n.uses == 0 && n.file == nil {
		f.gone = append(f.gone, n)
	}
}

// noteLocked keeps busy up to date.
func (f *FS) noteLocked(fl *file) {
	if len(fl.nodes) > 1 && len(fl.open) > 0 {
		f.busy[fl] = struct{}{}
	} else {
		delete(f.busy, fl)
	}
}

// same reports whether two nodes' attributes are those of one file.
func same(a, b *fuse.Attr) bool {
	return a.Nlink > 1 && a.Ino != 0 && a.Ino != fuse.FUSE_UNKNOWN_INO &&
		a.Ino == b.Ino && a.Nlink == b.Nlink && a.Mode == b.Mode && a.Size == b.Size && a.Owner == b.Owner &&
		a.Mtime == b.Mtime && a.Mtimensec == b.Mtimensec && a.Ctime == b.Ctime && a.Ctimensec == b.Ctimensec
}

// entered takes over an entry that the server returned and puts in the ID for the
// caller. known, if not 0, is the ID of a file that it is known to be a name of.
// It returns the node, in use by the caller, or nil if it is no file. An entry that
// cannot be is forgotten, and is EIO.
func (f *FS) entered(out *fuse.EntryOut, known uint64) (*node, fuse.Status) {
	if out.NodeId == 0 {
		return nil, fuse.OK
	}
	if out.Attr.Mode&syscall.S_IFMT == syscall.S_IFDIR {
		if out.NodeId >= firstID {
			f.Server.Forget(out.NodeId, 1)
			out.NodeId = 0
			return nil, fuse.EIO
		}
		return nil, fuse.OK
	}
	if known == 0 {
		known = f.match(out)
	}
	f.mu.Lock()
	defer f.unlock()
	n := f.byNode[out.NodeId]
	if n != nil && n.file.ino != out.Attr.Ino {
		// Somebody else has replaced the file. A file with one name follows it.
		if len(n.file.nodes) > 1 {
			f.dropLocked(n)
			n = nil
		} else {
			if f.byIno[n.file.ino] == n.file {
				delete(f.byIno, n.file.ino)
			}
			n.file.ino = out.Attr.Ino
		}
	}
	if n == nil {
		fl := f.files[known]
		if fl == nil || fl.ino != out.Attr.Ino || len(fl.nodes) >= maxNames {
			f.lastID++
			fl = &file{id: f.lastID, ino: out.Attr.Ino, open: make(map[*handle]struct{})}
			f.files[fl.id] = fl
		}
		n = &node{id: out.NodeId, file: fl}
		f.byNode[n.id] = n
		fl.nodes = append(fl.nodes, n)
		f.noteLocked(fl)
	}
	fl := n.file
	n.owed++
	n.uses++
	fl.prefer(n)
	fl.given++
	if out.Attr.Nlink > 1 {
		f.byIno[fl.ino] = fl
	}
	out.NodeId = fl.id
	return n, fuse.OK
}

// entry is entered for callers who do not use the node.
func (f *FS) entry(out *fuse.EntryOut, known uint64) fuse.Status {
	n, s := f.entered(out, known)
	if n != nil {
		f.letGo(n)
	}
	return s
}

// match returns the ID of the file that an entry is another name of, or 0.
func (f *FS) match(out *fuse.EntryOut) uint64 {
	if out.Attr.Nlink < 2 {
		return 0
	}
	f.mu.Lock()
	fl, is := f.byIno[out.Attr.Ino], f.byNode[out.NodeId]
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

// prefer makes a node the first to be tried.
func (fl *file) prefer(n *node) {
	i := slices.Index(fl.nodes, n)
	copy(fl.nodes[1:i+1], fl.nodes[:i])
	fl.nodes[0] = n
}

// nameGone reports whether a status may mean that a node has lost its name.
func nameGone(s fuse.Status) bool { return s == fuse.ENOENT || s == fuse.Status(syscall.ESTALE) }

// use performs a request through the nodes of a file until one has a name. The
// node is in the caller's use if it succeeds; it is nil for a directory.
func (f *FS) use(id uint64, do func(node uint64) fuse.Status) (*node, fuse.Status) {
	if id < firstID {
		return nil, do(id)
	}
	var nameless []*node
	status := fuse.Status(syscall.ESTALE)
	for {
		f.mu.Lock()
		n := f.nextLocked(id, nameless)
		f.mu.Unlock()
		if n == nil {
			return nil, status
		}
		status = do(n.id)
		if nameGone(status) {
			nameless = append(nameless, n)
			f.letGo(n)
			continue
		}
		f.mu.Lock()
		for _, o := range nameless {
			if status.Ok() && o.file != nil && o.file == n.file {
				f.dropLocked(o)
			}
		}
		if !status.Ok() {
			f.letGoLocked(n)
		}
		f.unlock()
		return n, status
	}
}

// nextLocked returns a node of a file that is not among those tried, in the
// caller's use, or nil.
func (f *FS) nextLocked(id uint64, tried []*node) *node {
	if fl := f.files[id]; fl != nil {
		for _, n := range fl.nodes {
			if !slices.Contains(tried, n) {
				n.uses++
				return n
			}
		}
	}
	return nil
}

// try is use for callers who are done with the node then.
func (f *FS) try(id uint64, do func(node uint64) fuse.Status) fuse.Status {
	n, status := f.use(id, do)
	if n != nil && status.Ok() {
		f.letGo(n)
	}
	return status
}
