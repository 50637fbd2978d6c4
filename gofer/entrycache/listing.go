// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package entrycache

import (
	"container/list"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
)

// DefaultMaxListed is how many names of directory listings an FS keeps unless
// told otherwise, in all directories together; one directory may have a quarter of
// them. A name costs about 120 bytes and its length.
const DefaultMaxListed = 128 << 10

// listing is the content of a directory, as far as it has been read.
type listing struct {
	dir *node
	in  *listings
	el  *list.Element // in in.lru

	fh       uint64 // whose reading it is; other handles wait until it is complete
	complete bool
	mtime    time.Time // of the directory when reading began; see Options.AutoInvalData
	entries  []fuse.DirEntry
	after    map[uint64]int // an entry's Off: the index of the entry that follows
	next     uint64         // Off of the last entry
}

// listings holds the listings of a table, within a budget. A listing costs one
// name more than it has, so that empty ones are bounded, too.
type listings struct {
	lru  list.List // of *listing, most recently used first
	size int
}

// handles are the open files of a directory that have one number: servers are
// free to use one number for all.
type handles struct {
	open  int
	plain bool // the server said of one of them that its listing is not to be kept
}

// start begins the listing of dir, in place of the one there is.
func (ls *listings) start(dir *node, fh uint64, mtime time.Time) *listing {
	dir.listing.remove()
	l := &listing{dir: dir, in: ls, fh: fh, mtime: mtime, after: map[uint64]int{0: 0}}
	l.el = ls.lru.PushFront(l)
	ls.size++
	dir.listing = l
	return l
}

// remove gives up a listing; nil is allowed.
func (l *listing) remove() {
	if l == nil || l.dir.listing != l {
		return
	}
	l.in.lru.Remove(l.el)
	l.in.size -= 1 + len(l.entries)
	l.dir.listing = nil
}

// add appends what was read at l.next, or notes the end if that is nothing. It
// gives the listing up if it has more than limit names, or if it does not say
// clearly where to go on after each.
func (l *listing) add(entries []fuse.DirEntry, limit int) {
	l.complete = len(entries) == 0
	for _, e := range entries {
		if _, twice := l.after[e.Off]; twice || len(l.entries) >= limit {
			l.remove()
			return
		}
		l.entries = append(l.entries, e)
		l.after[e.Off] = len(l.entries)
		l.next = e.Off
		l.in.size++
	}
}

// evict gives up the least recently used listings until limit holds.
func (ls *listings) evict(limit int) {
	for ls.size > limit {
		ls.lru.Back().Value.(*listing).remove()
	}
}

// unlist gives up n's listing, and that of those who are reading it.
func (n *node) unlist() {
	n.listing.remove()
	n.unlisted++
}

// OpenDir implements fuse.RawFileSystem. As in Linux (fuse_dir_open), it is the
// end of a listing unless the server says KEEP_CACHE.
func (f *FS) OpenDir(cancel <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	if f.opts.Unchanging {
		return f.openUnchanging(cancel, in, out)
	}
	status := f.RawFileSystem.OpenDir(cancel, in, out)
	if !status.Ok() {
		return status
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	n := f.table.nodes[in.NodeId]
	if n == nil {
		return status
	}
	if out.OpenFlags&fuse.FOPEN_KEEP_CACHE == 0 {
		n.unlist()
	}
	h := n.handles[out.Fh]
	h.open++
	h.plain = h.plain || out.OpenFlags&fuse.FOPEN_CACHE_DIR == 0
	if n.handles == nil {
		n.handles = make(map[uint64]handles)
	}
	n.handles[out.Fh] = h
	return status
}

// ReleaseDir implements fuse.RawFileSystem.
func (f *FS) ReleaseDir(in *fuse.ReleaseIn) {
	if f.opts.Unchanging {
		f.releaseUnchanging(in)
		return
	}
	f.mu.Lock()
	if n := f.table.nodes[in.NodeId]; n != nil {
		h := n.handles[in.Fh]
		if h.open--; h.open > 0 {
			n.handles[in.Fh] = h
		} else {
			delete(n.handles, in.Fh)
		}
	}
	f.mu.Unlock()
	f.RawFileSystem.ReleaseDir(in)
}

// reading is the state of a directory before it is read from.
type reading struct {
	n        *node // nil: its listing is not kept
	unlisted uint64
	mtime    time.Time
}

// readListing answers a READDIR, or a READDIRPLUS, from the directory's listing
// if it can; all else is for the server. It follows fuse_readdir_cached of
// fs/fuse/readdir.c in when a listing may be used.
func (f *FS) readListing(cancel <-chan struct{}, in *fuse.ReadIn, list *fuse.DirEntryList, plus bool) (r reading, answered bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	n := f.listed(in)
	if n == nil {
		return reading{}, false
	}
	if in.Offset == 0 && f.opts.AutoInvalData && !f.opts.Unchanging {
		f.mu.Unlock()
		var out fuse.AttrOut
		status := f.GetAttr(cancel, &fuse.GetAttrIn{InHeader: in.InHeader}, &out)
		f.mu.Lock()
		if n = f.listed(in); n == nil || !status.Ok() {
			return reading{}, false
		}
		r.mtime = out.ModTime()
		if n.listing != nil && !n.listing.mtime.Equal(r.mtime) {
			n.unlist()
		}
	}
	r.n, r.unlisted = n, n.unlisted
	l := n.listing
	if l == nil || !l.complete {
		return r, false
	}
	at, ok := l.after[in.Offset]
	if !ok {
		return r, false
	}
	l.in.lru.MoveToFront(l.el)
	if plus {
		answered = f.listPlus(n, l.entries[at:], list, false /* all */)
	} else {
		listPlain(l.entries[at:], list)
		answered = true
	}
	if answered {
		f.listHits.Add(1)
	}
	return r, answered
}

// listPlain answers a READDIR with entries.
func listPlain(entries []fuse.DirEntry, list *fuse.DirEntryList) {
	for _, e := range entries {
		if !list.AddDirEntry(e) {
			return
		}
	}
}

// listed returns the directory of a request if its handle may use listings.
func (f *FS) listed(in *fuse.ReadIn) *node {
	n := f.table.nodes[in.NodeId]
	if n == nil || f.opts.Unchanging {
		return n
	}
	if h := n.handles[in.Fh]; h.open == 0 || h.plain {
		return nil
	}
	return n
}

// listPlus answers a READDIRPLUS with entries of dir, up to the first that is not
// cached. It reports false if that is the very first: the server is then asked to
// go on from there, and its reply is cached again. With all it does not stop there:
// such an entry is one that was not looked up.
func (f *FS) listPlus(dir *node, entries []fuse.DirEntry, list *fuse.DirEntryList, all bool) bool {
	now := time.Now()
	for i, e := range entries {
		c := f.table.entryOf(dir, e.Name)
		cached := c != nil && c.child != nil && now.Before(c.expires) && now.Before(c.child.attrExpires)
		if e.Name == "." || e.Name == ".." || all && !cached {
			if list.AddDirLookupEntry(e) == nil {
				return true
			}
			continue
		}
		if !cached {
			return i > 0
		}
		e.Mode = c.child.typ
		out := list.AddDirLookupEntry(e)
		if out == nil {
			return true
		}
		f.table.lru.MoveToFront(dir.children[e.Name])
		c.child.given++
		fillEntry(out, c, now)
	}
	return true
}

// maxDirent is more than the longest entry of a READDIRPLUS reply.
const maxDirent = 512

// keepListing adds to the directory's listing what the server has answered to in,
// having had so many bytes for it.
//
// Preconditions: r is from before the request was sent.
func (f *FS) keepListing(r reading, in *fuse.ReadIn, entries []fuse.DirEntry, room int) {
	if len(entries) == 0 && room < maxDirent {
		return // it need not be the end
	}
	// A change unlists the directory when it begins and when it is over.
	if r.n == nil || r.n.unlisted != r.unlisted || f.table.nodes[r.n.id] != r.n {
		return
	}
	l := r.n.listing
	switch {
	case l != nil && l.complete:
		return
	case in.Offset == 0:
		l = f.table.listings.start(r.n, in.Fh, r.mtime)
	case l == nil || l.fh != in.Fh || l.next != in.Offset:
		return
	}
	l.add(entries, f.opts.MaxListed/4)
	f.table.listings.evict(f.opts.MaxListed)
}

// room returns where in the list the answer to a request will be, and how many
// bytes it has.
func room(in *fuse.ReadIn, list *fuse.DirEntryList) (start, size int) {
	b := list.Bytes()
	start, size = len(b), cap(b)-len(b)
	if in.Size != 0 {
		size = min(size, int(in.Size))
	}
	return start, size
}

// ReadDir implements fuse.RawFileSystem.
func (f *FS) ReadDir(cancel <-chan struct{}, in *fuse.ReadIn, list *fuse.DirEntryList) fuse.Status {
	request := *in
	if f.opts.Unchanging {
		if status, answered := f.readUnchanging(&request, list, false /* plus */); answered {
			return status
		}
	}
	r, answered := f.readListing(cancel, in, list, false /* plus */)
	if answered {
		return fuse.OK
	}
	start, room := room(in, list)
	status := f.RawFileSystem.ReadDir(cancel, &request, list)
	f.mu.Lock()
	n := f.table.nodes[in.NodeId]
	judge := n != nil && n.made != nil
	f.mu.Unlock()
	if !status.Ok() || r.n == nil && !judge {
		return status
	}
	entries, err := fuse.ParseDirEntries(list.Bytes()[start:])
	if err != nil {
		return fuse.EIO // the file system below wrote a list that go-fuse cannot read
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, e := range entries {
		f.table.met(f.table.nodes[in.NodeId], e.Name)
	}
	f.keepListing(r, in, entries, room)
	return status
}

// ReadDirPlus implements fuse.RawFileSystem. The entries it returns are also
// cached, so that looking them up costs nothing while they are valid. When it
// fails the caller owes no FORGET for what the list may hold.
func (f *FS) ReadDirPlus(cancel <-chan struct{}, in *fuse.ReadIn, list *fuse.DirEntryList) fuse.Status {
	request := *in
	if f.opts.Unchanging {
		if status, answered := f.readUnchanging(&request, list, true /* plus */); answered {
			return status
		}
	}
	r, answered := f.readListing(cancel, in, list, true /* plus */)
	if answered {
		return fuse.OK
	}
	f.mu.Lock()
	before := f.table.markOf(f.table.nodes[in.NodeId])
	f.mu.Unlock()
	start, room := room(in, list)
	status := f.RawFileSystem.ReadDirPlus(cancel, &request, list)
	entries, outs, err := fuse.ParseDirLookupEntries(list.Bytes()[start:])
	if err != nil {
		return fuse.EIO // the file system below wrote a list that go-fuse cannot read
	}
	f.mu.Lock()
	defer f.unlock()
	for i := range entries {
		if outs[i].NodeId == 0 {
			continue // "." and "..", and entries without attributes, are not looked up
		}
		f.learn(before, entries[i].Name, &outs[i], status.Ok())
	}
	if status.Ok() {
		f.keepListing(r, in, entries, room)
	}
	return status
}
