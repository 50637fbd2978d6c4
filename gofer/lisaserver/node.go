// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package lisaserver

import (
	"sync"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// node is a FUSE node that this server holds lookup counts for. See the package
// doc for its reference model.
type node struct {
	// Immutable after creation.
	nodeKey
	table *nodeTable

	// refs, nlookup and parent are guarded by table.mu.
	refs    int
	nlookup uint64
	parent  *node // directories only; nil for the root

	// ns is this directory's lock: held for reading by lookups, for writing by
	// whatever changes the directory. Two at a time go through lockDirs.
	ns sync.RWMutex

	mu      sync.Mutex
	handles []*handle // open regular files; guarded by mu
}

// nodeKey is what tells nodes apart. The type belongs to it because a server may
// use a node id for a file of another type later while a client still holds on
// to the first: they are not the same file.
type nodeKey struct {
	id    uint64
	ftype uint32 // S_IFMT bits
}

func (n *node) isDir() bool { return n.ftype == unix.S_IFDIR }

// nodeTable holds the nodes of a Server.
type nodeTable struct {
	fs fuse.RawFileSystem // immutable

	mu    sync.Mutex
	nodes map[nodeKey]*node // guarded by mu; without the root
}

// init makes the table ready and returns the root, which lives as long as it.
func (t *nodeTable) init(fs fuse.RawFileSystem) *node {
	t.fs = fs
	t.nodes = make(map[nodeKey]*node)
	return &node{
		nodeKey: nodeKey{id: fuse.FUSE_ROOT_ID, ftype: unix.S_IFDIR},
		table:   t,
		refs:    1,
	}
}

func (t *nodeTable) live() int64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	return int64(len(t.nodes))
}

// acquire returns the node for a lookup count that the file system just granted,
// with a ref for the caller. The count is the node's from then on, or given back
// in case of an error: ELOOP if the directory parent lies below k itself.
func (t *nodeTable) acquire(k nodeKey, parent *node) (*node, error) {
	t.mu.Lock()
	n := t.nodes[k]
	if n == nil {
		n = &node{nodeKey: k, table: t}
		if k.ftype == unix.S_IFDIR {
			n.parent = parent
			parent.refs++
		}
		t.nodes[k] = n
	}
	n.refs++
	n.nlookup++
	var err error
	var old *node
	if n.isDir() && n.parent != parent {
		old, err = n.moveLocked(parent)
	}
	t.mu.Unlock()
	if old != nil {
		old.decRef()
	}
	if err != nil {
		n.decRef()
		return nil, err
	}
	return n, nil
}

// moveLocked makes parent the parent of directory n and returns the old one,
// whose ref passes to the caller, or ELOOP if that would tie a loop.
//
// Preconditions: table.mu is locked.
func (n *node) moveLocked(parent *node) (*node, error) {
	if n.parent == nil || parent.belowLocked(n) {
		return nil, unix.ELOOP
	}
	old := n.parent
	parent.refs++
	n.parent = parent
	return old, nil
}

// belowLocked reports whether n is dir or lies below it.
//
// Preconditions: table.mu is locked.
func (n *node) belowLocked(dir *node) bool {
	for ; n != nil; n = n.parent {
		if n == dir {
			return true
		}
	}
	return false
}

// below is belowLocked for callers that do not hold the table's lock. The answer
// for directories lasts while Server.renameMu is held.
func (n *node) below(dir *node) bool {
	n.table.mu.Lock()
	defer n.table.mu.Unlock()
	return n.belowLocked(dir)
}

// move tells that directory n was renamed into parent.
func (n *node) move(parent *node) {
	n.table.mu.Lock()
	var old *node
	if n.parent != parent {
		old, _ = n.moveLocked(parent)
	}
	n.table.mu.Unlock()
	if old != nil {
		old.decRef()
	}
}

// absorb disposes of one lookup count for k that nobody wants: a live node takes
// it along, which saves a message; otherwise it is forgotten at once.
func (t *nodeTable) absorb(k nodeKey) {
	t.mu.Lock()
	n := t.nodes[k]
	if n != nil {
		n.nlookup++
	}
	t.mu.Unlock()
	if n == nil {
		t.fs.Forget(k.id, 1)
	}
}

func (n *node) incRef() {
	n.table.mu.Lock()
	n.refs++
	n.table.mu.Unlock()
}

// decRef drops a ref. The last one forgets the node and drops the one on the
// parent. It does not wait for the file system.
func (n *node) decRef() {
	t := n.table
	for n != nil {
		t.mu.Lock()
		n.refs--
		if n.refs > 0 {
			t.mu.Unlock()
			return
		}
		// The root's first ref is never dropped, so n is in the table.
		delete(t.nodes, n.nodeKey)
		nlookup, parent := n.nlookup, n.parent
		t.mu.Unlock()
		t.fs.Forget(n.id, nlookup)
		n = parent
	}
}

// lockDirs locks the namespaces of two directories, which may be the same, and
// returns what unlocks them.
func lockDirs(a, b *node) (unlock func()) {
	if a == b {
		a.ns.Lock()
		return a.ns.Unlock
	}
	if a.id > b.id {
		a, b = b, a
	}
	a.ns.Lock()
	b.ns.Lock()
	return func() {
		b.ns.Unlock()
		a.ns.Unlock()
	}
}
