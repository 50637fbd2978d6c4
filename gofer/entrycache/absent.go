// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package entrycache

import (
	"container/list"
	"hash/maphash"
	"strings"
	"time"
)

// Where nobody else changes directories, one that was made through this FS has
// the names that were put into it since, and no others: what creates many files in
// a new directory looks each of them up first, and need not ask the server.
//
// File systems differ in which names they take for the same, or treat in a special
// way: upper and lower case, composed letters, a dot or blank at the end, streams,
// hidden control files. So a name is called absent only if it has nothing but
// printable ASCII characters without a special meaning anywhere, and if nothing like it
// was ever put into the directory; all others are the server's to judge. At worst,
// on a server that goes beyond that, a name that an application did not create is
// not found: creations always ask the server.

const (
	// maxMadeNames bounds the names remembered of directories made here, in one and in
	// all together. A name costs about 16 bytes.
	maxMadeNames = 128 << 10
	// madeFor is for how long a directory is taken to have no other names, from the
	// latest that was put into it: a server that is wrong about nobody else changing
	// it is so for a moment only.
	madeFor = 10 * time.Second
	// maxPlainName bounds the length of names that are judged here: some file systems
	// cut longer ones off.
	maxPlainName = 100
)

// made is a directory that was made through this FS.
type made struct {
	names map[uint64]struct{} // hashes of all names that were ever put into it
	until time.Time
	el    *list.Element // of *node, in in.lru
}

// madeDirs are the directories of a table that were made through this FS.
type madeDirs struct {
	seed maphash.Seed
	lru  list.List // of *node, the one that was changed last first
	size int       // a directory counts as one name, too
}

// justMade notes that the server has made the directory n, which is empty.
func (t *table) justMade(n *node) {
	t.unmake(n)
	n.made = &made{names: make(map[uint64]struct{}), until: time.Now().Add(madeFor)}
	n.made.el = t.madeDirs.lru.PushFront(n)
	t.madeDirs.size++
	t.evictMade(maxMadeNames)
}

// unmake gives up what is known of n's names; nil is allowed.
func (t *table) unmake(n *node) {
	if n == nil || n.made == nil {
		return
	}
	t.madeDirs.lru.Remove(n.made.el)
	t.madeDirs.size -= 1 + len(n.made.names)
	n.made = nil
}

// evictMade gives up the directories that were changed longest ago until limit
// holds.
func (t *table) evictMade(limit int) {
	for t.madeDirs.size > limit {
		t.unmake(t.madeDirs.lru.Back().Value.(*node))
	}
}

// naming notes that name is going to be put into directory n; nil is allowed. It
// must be called before the request is sent.
func (t *table) naming(n *node, name string) {
	if n == nil || n.made == nil {
		return
	}
	// The name of a hidden file is not judged, but must be a plain one otherwise.
	key, ok := t.madeDirs.key(strings.TrimPrefix(name, "."))
	if !ok {
		t.unmake(n) // it may be found under a name that does not look like it
		return
	}
	m := n.made
	m.until = time.Now().Add(madeFor)
	t.madeDirs.lru.MoveToFront(m.el)
	if _, twice := m.names[key]; !twice {
		m.names[key] = struct{}{}
		t.madeDirs.size++
		t.evictMade(maxMadeNames)
	}
}

// met notes that the server has name in directory n, which may be nil. If it was
// not put there through this FS, others may have been, too.
func (t *table) met(n *node, name string) {
	if t.absent(n, name, time.Time{}) {
		t.unmake(n)
	}
}

// absent reports whether name is known not to be in directory n, which may be nil.
func (t *table) absent(n *node, name string, now time.Time) bool {
	if n == nil || n.made == nil || now.After(n.made.until) {
		return false
	}
	key, ok := t.madeDirs.key(name)
	if !ok {
		return false
	}
	_, there := n.made.names[key]
	return !there
}

// key returns a number that a name has in common with those that a file system may
// take for the same, or false if it is not for us to say which these are.
func (d *madeDirs) key(name string) (key uint64, ok bool) {
	if name == "" || len(name) > maxPlainName {
		return 0, false
	}
	var folded [maxPlainName]byte
	for i := range len(name) {
		c := name[i]
		switch {
		case 'A' <= c && c <= 'Z':
			c += 'a' - 'A'
		case 'a' <= c && c <= 'z', '0' <= c && c <= '9', c == '_', c == '-', c == '+', c == ',', c == '=', c == '@', c == '%':
		case c == '.' || c == ' ':
			if i == 0 || i == len(name)-1 {
				return 0, false
			}
		default:
			return 0, false
		}
		folded[i] = c
	}
	return maphash.Bytes(d.seed, folded[:len(name)]), true
}
