// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

// Package prefetch asks for files before their reader does. Programs like ls,
// tar and grep take the files of a directory in the order in which the directory
// lists them, one after the other, and wait for each. Where that is seen, what
// they will ask of the files that come next is fetched, several files at a time:
// names are looked up (for servers without READDIRPLUS), extended attributes are
// listed, and small files are opened and closed again. Programs that walk a tree
// take its directories in order, too: those that come next are read.
//
// An FS goes on top of caches (see regions and entrycache) and leaves it to them
// to keep what comes of it. What it knows of directories is a hint: a name is
// looked up before it is used.
//
// Reference model: a directory whose listing is kept holds back the lookups that
// the caller forgets meanwhile, so that its node ID stays its own. A file is held
// by a lookup of its own while it is fetched.
//
// Lock order: FS.mu is a leaf; no request is sent while it is held.
package prefetch

import (
	"container/list"
	"slices"
	"sync"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fuse"
)

const (
	// maxFile is the largest file whose data is fetched, in bytes: a larger one
	// is worth its own read-ahead.
	maxFile = 128 << 10
	// minWindow and maxWindow bound how many files a reader is led by.
	minWindow, maxWindow = 32, 128
	// minDirWindow and maxDirWindow bound how many directories a reader is led by,
	// and maxListing how many names of each are read: together no more than half of
	// the listings that entrycache keeps.
	minDirWindow, maxDirWindow = 8, 32
	maxListing                 = 2048
	// minStreak is how many steps in a row are taken for an order.
	minStreak = 2
	// slack is how many entries a step may skip and still be in order.
	slack = 4
	// maxFetchers bounds the fetches of one kind under way.
	maxFetchers = 32
	// maxEntries bounds the entries kept, of all directories together. One costs
	// some 200 bytes.
	maxEntries = 64 << 10
)

// kind is what a reader wants of the files of a directory.
type kind int

const (
	entries kind = iota
	xattrs
	data
	listings // of the directories among them
	kinds
)

// windows bounds how many files, or directories, a reader is led by.
func (k kind) windows() (least, most int) {
	if k == listings {
		return minDirWindow, maxDirWindow
	}
	return minWindow, maxWindow
}

// Options say what the file system below keeps, so that it is of use to fetch it
// early.
type Options struct {
	Entries bool // names that were looked up; looking up in parallel is allowed
	Xattrs  bool // the names of extended attributes
	Data    bool // the data of a file that was open
	// Listings: the listing of a directory that was read. It does not change.
	Listings bool
	// Plus says that directories are read with READDIRPLUS.
	Plus bool
}

// FS is a fuse.RawFileSystem that fetches ahead. It is safe for concurrent use.
type FS struct {
	fuse.RawFileSystem      // the file system below
	plus               bool // see Options
	wants              [kinds]bool
	wg                 sync.WaitGroup
	bufs               sync.Pool // *[]byte of readdirSize

	mu       sync.Mutex
	closed   bool                    // guarded by mu, as all that follows
	dirs     map[uint64]*directory   // by node ID
	lru      *list.List              // of *directory, most recently used first
	size     int                     // of all dirs
	places   map[uint64]place        // where a file was seen last, by node ID
	unlisted map[uint64]int          // lookups in directories that nobody has read, by node ID
	fetching map[fetch]chan struct{} // closed when over
	fetchers [kinds]int
}

// place is a file's place in a directory.
type place struct {
	dir   *directory
	index int
}

// fetch is one thing to fetch.
type fetch struct {
	place
	kind kind
}

// directory is a listing, as far as it was read. Its fields are guarded by FS.mu.
type directory struct {
	id      uint64 // immutable
	held    uint64 // lookups that the caller has forgotten and the server not
	busy    int    // goroutines that fetch from it
	next    uint64 // offset at which the listing goes on
	names   []string
	ids     []uint64       // of names, 0: not known
	index   map[string]int // into names
	subdirs []int          // indexes of those names that are directories, ascending
	whole   bool           // it was read to the end
	readers [kinds]reader
	el      *list.Element // in FS.lru
}

// A reader of listings counts subdirectories, all others count names.

// steps returns how many steps there are for a reader.
func (d *directory) steps(k kind) int {
	if k == listings {
		return len(d.subdirs)
	}
	return len(d.names)
}

// step returns which step of a reader an index is.
func (d *directory) step(k kind, index int) (step int, ok bool) {
	if k == listings {
		return slices.BinarySearch(d.subdirs, index)
	}
	return index, true
}

// at returns the index of a step.
func (d *directory) at(k kind, step int) int {
	if k == listings {
		return d.subdirs[step]
	}
	return step
}

// New wraps below.
func New(below fuse.RawFileSystem, o Options) *FS {
	return &FS{
		RawFileSystem: below, plus: o.Plus,
		wants: [kinds]bool{entries: o.Entries, xattrs: o.Xattrs, data: o.Data, listings: o.Listings},
		bufs:  sync.Pool{New: func() any { b := make([]byte, readdirSize); return &b }},
		dirs:  make(map[uint64]*directory), lru: list.New(),
		places: make(map[uint64]place), unlisted: make(map[uint64]int), fetching: make(map[fetch]chan struct{}),
	}
}

// String implements fuse.RawFileSystem.
func (f *FS) String() string { return "prefetch(" + f.RawFileSystem.String() + ")" }

// OnUnmount implements fuse.RawFileSystem. It is called once, when the clients
// are gone.
func (f *FS) OnUnmount() {
	f.mu.Lock()
	f.closed = true
	f.mu.Unlock()
	f.wg.Wait()
	f.mu.Lock()
	gone := f.evictLocked(0)
	f.mu.Unlock()
	f.forget(gone)
	f.RawFileSystem.OnUnmount()
}

// Forget implements fuse.RawFileSystem.
func (f *FS) Forget(nodeID, nlookup uint64) {
	f.mu.Lock()
	if d := f.dirs[nodeID]; d != nil {
		d.held += nlookup
		f.mu.Unlock()
		return
	}
	f.mu.Unlock()
	f.RawFileSystem.Forget(nodeID, nlookup)
}

// forgotten is a node whose lookups are passed on once FS.mu is released.
type forgotten struct{ nodeID, n uint64 }

func (f *FS) forget(gone []forgotten) {
	for _, g := range gone {
		if g.n > 0 {
			f.RawFileSystem.Forget(g.nodeID, g.n)
		}
	}
}

// evictLocked drops the listings used least recently until limit holds, and
// returns what is to be forgotten.
func (f *FS) evictLocked(limit int) (gone []forgotten) {
	for el := f.lru.Back(); el != nil && f.size > limit; {
		d := el.Value.(*directory)
		el = el.Prev()
		if d.busy > 0 {
			continue
		}
		f.clearLocked(d)
		f.size--
		f.lru.Remove(d.el)
		delete(f.dirs, d.id)
		gone = append(gone, forgotten{d.id, d.held})
	}
	return gone
}

// clearLocked empties a listing.
func (f *FS) clearLocked(d *directory) {
	for _, id := range d.ids {
		if f.places[id].dir == d {
			delete(f.places, id)
		}
	}
	f.size -= len(d.names)
	d.names, d.ids, d.subdirs, d.next, d.whole, d.readers = nil, nil, nil, 0, false, [kinds]reader{}
	d.index = make(map[string]int)
}

// ReadDirPlus implements fuse.RawFileSystem.
func (f *FS) ReadDirPlus(cancel <-chan struct{}, in *fuse.ReadIn, list *fuse.DirEntryList) fuse.Status {
	start := len(list.Bytes())
	status := f.RawFileSystem.ReadDirPlus(cancel, in, list)
	if status.Ok() {
		// A list that makes no sense is for the caller to find out.
		if found, outs, err := fuse.ParseDirLookupEntries(list.Bytes()[start:]); err == nil {
			f.learn(in, found, outs)
		}
	}
	return status
}

// ReadDir implements fuse.RawFileSystem.
func (f *FS) ReadDir(cancel <-chan struct{}, in *fuse.ReadIn, list *fuse.DirEntryList) fuse.Status {
	start := len(list.Bytes())
	status := f.RawFileSystem.ReadDir(cancel, in, list)
	if status.Ok() {
		if found, err := fuse.ParseDirEntries(list.Bytes()[start:]); err == nil {
			f.learn(in, found, nil)
		}
	}
	return status
}

// learn adds what was read to the listing of a directory. outs may be nil.
func (f *FS) learn(in *fuse.ReadIn, found []fuse.DirEntry, outs []fuse.EntryOut) {
	f.mu.Lock()
	d := f.dirs[in.NodeId]
	switch {
	case f.closed:
	case len(found) == 0:
		if d != nil && in.Offset == d.next {
			d.whole = true
		}
		d = nil
	case in.Offset == 0 && d != nil && d.whole && f.wants[listings]:
		d = nil // it does not change
	case in.Offset == 0 && d == nil:
		d = f.newDirectoryLocked(in.NodeId)
	case in.Offset == 0 && d.busy == 0:
		f.clearLocked(d)
	case d != nil && in.Offset != d.next:
		d = nil // one reader of the directory is enough
	}
	if d == nil || f.closed {
		f.mu.Unlock()
		return
	}
	f.lru.MoveToFront(d.el)
	for i := range found {
		name := found[i].Name
		d.next = found[i].Off
		if name == "." || name == ".." || len(d.names) >= maxEntries/2 {
			continue
		}
		d.index[name] = len(d.names)
		d.names = append(d.names, name)
		d.ids = append(d.ids, 0)
		if found[i].Mode&syscall.S_IFMT == syscall.S_IFDIR {
			d.subdirs = append(d.subdirs, len(d.names)-1)
		}
		f.size++
		if outs != nil && outs[i].NodeId != 0 {
			f.placeLocked(d, len(d.names)-1, outs[i].NodeId)
		}
	}
	gone := f.evictLocked(maxEntries)
	f.mu.Unlock()
	f.forget(gone)
}

// newDirectoryLocked begins a listing.
func (f *FS) newDirectoryLocked(id uint64) *directory {
	d := &directory{id: id, index: make(map[string]int)}
	d.el = f.lru.PushFront(d)
	f.dirs[id] = d
	f.size++ // even an empty one costs something
	return d
}

// placeLocked notes which node an entry is.
func (f *FS) placeLocked(d *directory, index int, id uint64) {
	if old := d.ids[index]; old != id && f.places[old] == (place{d, index}) {
		delete(f.places, old)
	}
	d.ids[index] = id
	f.places[id] = place{d, index}
}
