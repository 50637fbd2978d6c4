// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

// Package entrycache keeps what an FS server said about names and attributes
// for as long as the server allowed: directory entries (also that a name does
// not exist), attributes, symbolic link targets, the whole of a READDIRPLUS
// reply, so that the lookups that follow a listing cost no request, and the
// listings of directories where the server says FOPEN_CACHE_DIR, or all of them
// where nothing changes.
//
// An FS wraps another fuse.RawFileSystem. The one below is not trusted with
// memory: the number of entries and of listed names kept is bounded. Callers above
// (frontends) are our own code and must balance lookups and forgets, as with any
// RawFileSystem.
//
// The rules are those of the Linux FUSE client (fs/fuse/dir.c): a reply is valid
// for its entry_valid and attr_valid times, a change made through this FS
// invalidates what it may have changed, and a reply that was under way while a
// change was made is used but not kept. Beyond these, where nobody else changes
// directories, the names of one that was made through this FS are known (absent.go).
//
// Lookup counts: the FS owes the server one FORGET for each entry the server
// returned (node.owed), and is owed one by its caller for each entry it passed
// on (node.given). An entry in the cache holds its node. A node that nobody
// holds is forgotten and leaves the table together with the entries below it.
//
// Lock order: FS.mu is a leaf; no request is sent while it is held.
package entrycache

import (
	"sync"
	"sync/atomic"

	"github.com/hanwen/go-fuse/v2/fuse"
)

// DefaultMaxEntries is how many directory entries an FS keeps unless told
// otherwise. An entry costs about 500 bytes with its node.
const DefaultMaxEntries = 128 << 10

// Options configure an FS.
type Options struct {
	// MaxEntries bounds the directory entries kept; 0 is DefaultMaxEntries.
	MaxEntries int
	// MaxListed bounds the names in the directory listings kept; 0 is
	// DefaultMaxListed.
	MaxListed int
	// AutoInvalData says that the server agreed to FUSE_AUTO_INVAL_DATA: a listing
	// is used only while the directory has the modification time that it had when
	// the listing was read.
	AutoInvalData bool
	// ReadOnly says that nobody reads access times back: reading a file does
	// not invalidate its attributes.
	ReadOnly bool
	// Unchanging says that directories do not change, but by the server's
	// notifications: listings are kept whatever OPENDIR's flags are, and a directory
	// whose listing is known is opened without asking.
	Unchanging bool
	// Exclusive says that nobody else than the callers of this FS puts names into
	// directories: one that was made through it has those that were put there since.
	Exclusive bool
	// CacheSymlinks says that the server agreed to FUSE_CACHE_SYMLINKS.
	CacheSymlinks bool
	// ListsXattrs says that LISTXATTR names every extended attribute that
	// GETXATTR finds, and that attributes change through this FS only. The names
	// of a file are then kept: one LISTXATTR answers for all that it does not have.
	ListsXattrs bool
}

// Stats counts what the cache did. All values only grow, but for the last line's.
type Stats struct {
	EntryHits, EntryMisses uint64 // lookups answered from the cache, or not
	AttrHits, AttrMisses   uint64 // the same for GETATTR
	ListHits               uint64 // directory reads answered from a listing
	Invalidations          uint64 // by the server's notifications
	Evictions              uint64 // entries dropped to stay within MaxEntries
	Entries, Nodes, Listed int    // now
}

// FS is a caching fuse.RawFileSystem. It is safe for concurrent use.
type FS struct {
	fuse.RawFileSystem // the file system below; methods not defined here pass through
	opts               Options

	entryHits, entryMisses, attrHits, attrMisses, listHits, invalidations, evictions atomic.Uint64

	mu     sync.Mutex
	table  table                // guarded by mu
	dirs   map[uint64]openedDir // by our own number; guarded by mu; see Options.Unchanging
	lastFh uint64               // number given out last; guarded by mu
}

var _ fuse.RawFileSystem = (*FS)(nil)

// New wraps below.
func New(below fuse.RawFileSystem, o Options) *FS {
	if o.MaxEntries <= 0 {
		o.MaxEntries = DefaultMaxEntries
	}
	if o.MaxListed <= 0 {
		o.MaxListed = DefaultMaxListed
	}
	f := &FS{RawFileSystem: below, opts: o, dirs: make(map[uint64]openedDir)}
	f.table.init()
	return f
}

// String implements fuse.RawFileSystem.
func (f *FS) String() string { return "entrycache(" + f.RawFileSystem.String() + ")" }

// Stats returns a snapshot.
func (f *FS) Stats() Stats {
	f.mu.Lock()
	entries, nodes, listed := f.table.lru.Len(), len(f.table.nodes), f.table.listings.size
	f.mu.Unlock()
	return Stats{
		EntryHits: f.entryHits.Load(), EntryMisses: f.entryMisses.Load(),
		AttrHits: f.attrHits.Load(), AttrMisses: f.attrMisses.Load(),
		ListHits: f.listHits.Load(), Invalidations: f.invalidations.Load(), Evictions: f.evictions.Load(),
		Entries: entries, Nodes: nodes, Listed: listed,
	}
}

// forgets collects nodes to forget once mu is released.
type forgets []struct{ nodeID, n uint64 }

// unlock releases mu and sends what has become unreferenced.
func (f *FS) unlock() {
	gone := f.table.gone
	f.table.gone = nil
	f.mu.Unlock()
	for _, g := range gone {
		f.RawFileSystem.Forget(g.nodeID, g.n)
	}
}
