// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package entrycache

import (
	"container/list"
	"hash/maphash"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
)

// node is a file the server has told us about and that somebody still holds.
type node struct {
	id, generation uint64
	typ            uint32 // S_IFMT bits

	owed    uint64 // lookups to forget at the server
	given   uint64 // lookups the caller will forget
	entries int    // entries in the cache that name this node

	// changes is the number, in table.changes, of the last start or end of an
	// operation that may change what is cached of this node: its attributes, its
	// target, the entries below it. A reply is kept only if it did not move while
	// the reply was under way.
	changes  uint64
	changing int // such operations under way

	attr        fuse.Attr
	attrExpires time.Time // zero: attr is not valid
	target      []byte    // of a symbolic link; nil: not known
	xattrs      *[]string // names of the extended attributes; nil: not known

	listing  *listing           // of a directory; nil: not known
	unlisted uint64             // how often it ceased to be
	handles  map[uint64]handles // open files of a directory, by number

	children map[string]*list.Element // of *entry, by name
	made     *made                    // of a directory; nil: it may have any names
}

// entry is a name in a directory.
type entry struct {
	parent  *node
	name    string
	child   *node // nil: the name does not exist
	expires time.Time
}

// table holds nodes and entries. Its methods need FS.mu.
type table struct {
	nodes map[uint64]*node
	lru   *list.List // of *entry, most recently used first
	gone  forgets    // to be sent by FS.unlock

	changes uint64 // counts starts and ends of changes of all nodes
	left    uint64 // the last change of a node that has left the table

	listings listings
	madeDirs madeDirs
}

func (t *table) init() {
	t.nodes = make(map[uint64]*node)
	t.lru = list.New()
	t.madeDirs.seed = maphash.MakeSeed()
	// The root is held for ever: nobody looks it up, nobody forgets it.
	t.nodes[fuse.FUSE_ROOT_ID] = &node{id: fuse.FUSE_ROOT_ID, typ: fuse.S_IFDIR, given: 1}
}

// entryOf returns the entry for name in the directory, if it is cached.
func (t *table) entryOf(dir *node, name string) *entry {
	if dir == nil {
		return nil
	}
	el := dir.children[name]
	if el == nil {
		return nil
	}
	return el.Value.(*entry)
}

// drop removes the entry for name, if any.
func (t *table) drop(dir *node, name string) {
	if dir == nil {
		return
	}
	el := dir.children[name]
	if el == nil {
		return
	}
	e := t.lru.Remove(el).(*entry)
	delete(dir.children, name)
	if e.child != nil {
		e.child.entries--
		t.release(e.child)
	}
}

// release forgets n if nobody holds it any more, with everything below it.
func (t *table) release(n *node) {
	for pending := []*node{n}; len(pending) > 0; {
		n = pending[len(pending)-1]
		pending = pending[:len(pending)-1]
		if n.given > 0 || n.entries > 0 || t.nodes[n.id] != n {
			continue
		}
		delete(t.nodes, n.id)
		t.left = max(t.left, n.changes)
		n.listing.remove()
		t.unmake(n)
		if n.owed > 0 {
			t.gone = append(t.gone, struct{ nodeID, n uint64 }{n.id, n.owed})
		}
		for _, el := range n.children {
			e := t.lru.Remove(el).(*entry)
			if e.child != nil {
				e.child.entries--
				pending = append(pending, e.child)
			}
		}
		n.children = nil
	}
}

// put caches that name in dir is child (nil: does not exist) until expires.
func (t *table) put(dir *node, name string, child *node, expires time.Time) {
	if child != nil {
		child.entries++ // before drop: it may be the entry's child already
	}
	t.drop(dir, name)
	if t.nodes[dir.id] != dir { // dir is no longer held
		if child != nil {
			child.entries--
			t.release(child)
		}
		return
	}
	if dir.children == nil {
		dir.children = make(map[string]*list.Element)
	}
	dir.children[name] = t.lru.PushFront(&entry{parent: dir, name: name, child: child, expires: expires})
}

// evict drops the least recently used entries beyond limit and returns how
// many it dropped.
func (t *table) evict(limit int) (n uint64) {
	for t.lru.Len() > limit {
		e := t.lru.Back().Value.(*entry)
		t.drop(e.parent, e.name)
		n++
	}
	return n
}

// invalidate forgets what is cached of n itself.
func (n *node) invalidate() {
	n.attrExpires = time.Time{}
	n.target = nil
	n.xattrs = nil
	n.unlist()
}

// touch notes that n has changed and forgets what is cached of it.
func (t *table) touch(n *node) {
	t.changes++
	n.changes = t.changes
	n.invalidate()
}

// begin notes that an operation which may change the nodes starts. nil nodes
// are allowed: a file the cache does not know has nothing to invalidate.
func (t *table) begin(nodes ...*node) {
	for _, n := range nodes {
		if n != nil {
			n.changing++
			t.touch(n)
		}
	}
}

// end notes that it is over.
func (t *table) end(nodes ...*node) {
	for _, n := range nodes {
		if n != nil {
			n.changing--
			t.touch(n)
		}
	}
}

// mark is the state of a node before a request is sent.
type mark struct {
	n       *node
	changes uint64 // of the node
	all     uint64 // table.changes
}

// markOf returns the mark of n, which may be nil.
func (t *table) markOf(n *node) mark {
	m := mark{n: n, all: t.changes}
	if n != nil {
		m.changes = n.changes
	}
	return m
}

// unchanged reports whether a reply to a request sent at m may be kept.
func (m mark) unchanged() bool {
	return m.n != nil && m.n.changing == 0 && m.n.changes == m.changes
}

// unchangedAttr is unchanged for the attributes, in the reply, of a node that
// was not known when the request was sent: the child that a name turned out to
// be. Somebody else may have changed it meanwhile (Linux: fuse_conn.attr_version).
func (m mark) unchangedAttr(child *node) bool {
	return child.changing == 0 && child.changes <= m.all
}

// maxValid bounds how far in the future a validity ends, so that the sum with
// the present time cannot overflow whatever the server says.
const maxValid = 100 * 365 * 24 * time.Hour

// validity converts a FUSE timeout.
func validity(sec uint64, nsec uint32) time.Duration {
	if sec >= uint64(maxValid/time.Second) {
		return maxValid
	}
	return time.Duration(sec)*time.Second + min(time.Duration(nsec), time.Second)
}
