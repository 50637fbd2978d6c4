// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package fusestream

import "golang.org/x/sys/unix"

const rootID = 1 // FUSE_ROOT_ID

// node is what the shim knows of a node that its kernel has. The kernel's ID is the
// shim's own; the gofer's is of one connection. Guarded by Relay.mu.
type node struct {
	id      uint64
	lookups uint64 // of the kernel's

	server  uint64 // the gofer's ID
	epoch   uint64 // the connection that it belongs to
	granted uint64 // lookups that the gofer counts in that connection

	// Where the node was found last, to find it again; parent is nil for the root
	// and for what has no name any more.
	parent *node
	name   string
	kids   int // nodes whose parent it is: it is kept for them

	listing *listing // of a directory; nil: none
	misses  int      // LOOKUPs that a listing would have answered

	ino      uint64
	ftype    uint32
	writes   uint64 // so far
	unsynced bool   // no FSYNC has followed the last of them
}

// openFile is an open file or directory of the kernel's. Guarded by Relay.mu.
type openFile struct {
	id     uint64
	node   *node
	dir    bool
	flags  uint32
	server uint64
	epoch  uint64 // the connection that it is open on; 0: it was not opened yet
	locked bool   // it may hold locks, which a new connection does not have
	lost   bool   // it cannot be opened again
	// Of a directory that was not opened yet: the entries from the offset namesFrom on, as
	// READDIRPLUS has them, that its reader did not get. namesEnd: there are no others.
	// fresh: they were listed for the request that waits. direct: it takes the gofer.
	names                   []byte
	namesFrom               uint64
	fresh, namesEnd, direct bool
	// suspect: acknowledged writes may be lost, which its next FSYNC or FLUSH reports.
	suspect bool
}

// place is a name in a directory.
type place struct {
	parent uint64
	name   string
}

// nodeTable is all that the kernel has. Guarded by Relay.mu.
type nodeTable struct {
	nextID   uint64
	nodes    map[uint64]*node
	byServer map[uint64]*node // of the current connection
	byPlace  map[place]*node
	files    map[uint64]*openFile
	nextFile uint64
	gone     []forgotten // nodes that the gofer is to be told of
	epoch    uint64      // of the connection, or of the last one
	ahead    ahead
}

func newNodeTable() nodeTable {
	root := &node{id: rootID, server: rootID, ftype: unix.S_IFDIR}
	return nodeTable{
		nextID:   rootID,
		nodes:    map[uint64]*node{rootID: root},
		byServer: map[uint64]*node{},
		byPlace:  map[place]*node{},
		files:    map[uint64]*openFile{},
		ahead:    newAhead(),
	}
}

// entry takes note of a lookup that the gofer has counted: the node it calls server is
// name in parent. The kernel's count grows with it.
func (t *nodeTable) entry(parent *node, name string, server, ino uint64, mode uint32, epoch uint64, stable bool) *node {
	ftype := mode & unix.S_IFMT
	n := t.byServer[server]
	if n == nil {
		// A node of an earlier connection that was found in the same place.
		if old := t.byPlace[place{parent.id, name}]; old != nil && old.epoch != epoch && old.same(ino, ftype, stable) {
			n = old
		}
	}
	if n == nil {
		t.nextID++
		n = &node{id: t.nextID}
		t.nodes[n.id] = n
	}
	n.lookups++
	t.bind(n, server, epoch)
	n.ino, n.ftype = ino, ftype
	t.move(n, parent, name)
	return n
}

// same reports whether what was found may be the node.
func (n *node) same(ino uint64, ftype uint32, stable bool) bool {
	return n.ftype == ftype && (!stable || n.ino == ino)
}

// bind makes server the gofer's name of the node and counts a lookup.
func (t *nodeTable) bind(n *node, server, epoch uint64) {
	if n.epoch != epoch || n.server != server {
		n.server, n.epoch, n.granted = server, epoch, 0
	}
	n.granted++
	if t.byServer[server] == nil {
		t.byServer[server] = n
	}
}

// move sets where the node is. parent nil: nowhere.
func (t *nodeTable) move(n, parent *node, name string) {
	if n.parent == parent && n.name == name || n.id == rootID {
		return
	}
	old := n.parent
	if old != nil {
		if p := (place{old.id, n.name}); t.byPlace[p] == n {
			delete(t.byPlace, p)
		}
	}
	n.parent, n.name = parent, name
	if parent != nil {
		parent.kids++
		p := place{parent.id, name}
		if other := t.byPlace[p]; other != nil && other != n {
			t.move(other, nil, "")
		}
		t.byPlace[p] = n
	}
	if old != nil {
		old.kids--
		t.drop(old)
	}
}

// removed says that a name is gone.
func (t *nodeTable) removed(parent *node, name string) {
	if n := t.byPlace[place{parent.id, name}]; n != nil {
		t.move(n, nil, "")
		t.drop(n)
	}
}

// renamed says that a name has moved, or changed places with another.
func (t *nodeTable) renamed(from *node, name string, to *node, newName string, exchange bool) {
	n := t.byPlace[place{from.id, name}]
	other := t.byPlace[place{to.id, newName}]
	if n == other {
		return
	}
	if other != nil {
		t.move(other, nil, "")
	}
	if n != nil {
		t.move(n, to, newName)
	}
	if other != nil && exchange {
		t.move(other, from, name)
	}
}

// forget takes lookups of the kernel's away.
func (t *nodeTable) forget(id, lookups uint64) {
	if n := t.nodes[id]; n != nil && id != rootID {
		n.lookups -= min(lookups, n.lookups)
		t.drop(n)
	}
}

// drop removes a node that neither the kernel nor a child needs.
func (t *nodeTable) drop(n *node) {
	if n.lookups > 0 || n.kids > 0 || n.id == rootID || t.nodes[n.id] != n {
		return
	}
	delete(t.nodes, n.id)
	if t.byServer[n.server] == n {
		delete(t.byServer, n.server)
		t.ahead.dropData(n.server)
	}
	if n.listing != nil {
		t.dropListing(n.listing)
	}
	if n.granted > 0 {
		t.gone = append(t.gone, forgotten{n.server, n.granted, n.epoch})
	}
	t.move(n, nil, "")
}

// forgotten is a node that the shim needs no more.
type forgotten struct{ server, lookups, epoch uint64 }

// newEpoch says that what the gofer gave is of no use any more. keeps: but for the data
// of acknowledged writes.
func (t *nodeTable) newEpoch(keeps bool) {
	t.byServer = map[uint64]*node{}
	t.gone = nil
	for _, f := range t.files {
		f.lost = f.lost || f.locked
		if f.node.unsynced && !keeps && f.flags&unix.O_ACCMODE != unix.O_RDONLY {
			f.suspect = true
		}
	}
	for _, f := range t.files {
		f.node.unsynced = false
	}
}
