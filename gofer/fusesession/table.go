// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package fusesession

import (
	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// node is what the client holds of one node of the file system. Guarded by
// Session.mu.
type node struct {
	id      uint64
	ftype   uint32 // S_IFMT of the mode it had when it was looked up last
	lookups uint64 // that the client has not forgotten; 0: it may not use the node
	held    uint64 // that the file system counts for this client
	pins    int    // requests and handles that use it
}

// handle is an open file or directory of the client.
type handle struct {
	// Immutable.
	id      uint64 // the session's own number
	fh      uint64 // the file system's
	node    *node  // pinned
	dir     bool
	virtual bool // the file system has no OPEN: there is nothing to release
	flags   uint32

	// Guarded by Session.mu.
	refs     int // requests that use it, and one until RELEASE
	released bool
	dirty    bool                // written since the last FLUSH
	owners   map[uint64]struct{} // of POSIX locks, as the file system knows them
	flocked  bool
	flocker  uint64 // the owner of the flock
	lockPid  uint32
	freed    fuse.ReleaseIn // what RELEASE said
}

// table is what one client holds. Guarded by Session.mu.
type table struct {
	nodes    map[uint64]*node
	handles  map[uint64]*handle
	nextFh   uint64
	reserved int // handles that are being opened
	owners   int // sum of handle.owners
}

func newTable() table {
	return table{nodes: make(map[uint64]*node), handles: make(map[uint64]*handle)}
}

// pin returns a node the client may use, pinned, or nil.
func (t *table) pin(id uint64) *node {
	n := t.nodes[id]
	if n == nil {
		if id != fuse.FUSE_ROOT_ID {
			return nil
		}
		// The root is there without a LOOKUP.
		n = &node{id: id, ftype: unix.S_IFDIR}
		t.nodes[id] = n
	}
	if n.lookups == 0 && id != fuse.FUSE_ROOT_ID {
		return nil
	}
	n.pins++
	return n
}

// granted counts a lookup that the file system has counted. The root has none.
func (t *table) granted(id uint64, mode uint32) {
	n := t.nodes[id]
	if n == nil {
		n = &node{id: id}
		t.nodes[id] = n
	}
	n.ftype = mode & unix.S_IFMT
	n.lookups++
	n.held++
}

// forget takes away lookups of the client's; more than it has is all of them.
func (t *table) forget(id, lookups uint64, g *garbage) {
	n := t.nodes[id]
	if n == nil {
		return
	}
	n.lookups -= min(lookups, n.lookups)
	t.collect(n, g)
}

// unpin is the end of a use.
func (t *table) unpin(n *node, g *garbage) {
	n.pins--
	t.collect(n, g)
}

// collect drops a node that nobody uses.
func (t *table) collect(n *node, g *garbage) {
	if n.lookups > 0 || n.pins > 0 {
		return
	}
	delete(t.nodes, n.id)
	if n.held > 0 {
		g.forgets = append(g.forgets, *n)
	}
}

// open adds a handle. It takes over the caller's pin of h.node.
func (t *table) open(h *handle) {
	t.nextFh++
	h.id = t.nextFh
	h.refs = 1
	t.handles[h.id] = h
}

// typeError returns what Linux's system calls return for a file of a wrong type.
// Operations that Linux never sends for such a file may do the wrong thing below
// us, for example follow a symbolic link.
func typeError(ftype, want uint32) fuse.Status {
	switch {
	case want == 0 || ftype == want:
		return fuse.OK
	case want == unix.S_IFDIR:
		return fuse.ENOTDIR
	case want == unix.S_IFLNK:
		return fuse.EINVAL
	case ftype == unix.S_IFDIR:
		return fuse.Status(unix.EISDIR)
	case ftype == unix.S_IFLNK:
		return fuse.Status(unix.ELOOP)
	}
	return fuse.Status(unix.ENXIO)
}

// borrow returns the client's handle with the given number, with a reference
// for the caller; nil if there is none on that node.
func (t *table) borrow(id, nodeID uint64, dir bool) *handle {
	h := t.handles[id]
	if h == nil || h.node.id != nodeID || h.dir != dir {
		return nil
	}
	h.refs++
	return h
}

// release closes a handle for the client.
func (t *table) release(h *handle, in *fuse.ReleaseIn, g *garbage) {
	delete(t.handles, h.id)
	h.released = true
	h.freed = *in
	t.giveBack(h, g)
}

// giveBack drops a reference.
func (t *table) giveBack(h *handle, g *garbage) {
	h.refs--
	if h.refs > 0 {
		return
	}
	t.owners -= len(h.owners)
	g.handles = append(g.handles, h)
}

// garbage is what is to be given back to the file system, without a lock.
type garbage struct {
	forgets []node // copies
	handles []*handle
}

func (g *garbage) empty() bool { return len(g.forgets) == 0 && len(g.handles) == 0 }
