// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package entrycache

import (
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
)

// Lookup implements fuse.RawFileSystem. A name known not to exist is ENOENT.
func (f *FS) Lookup(cancel <-chan struct{}, header *fuse.InHeader, name string, out *fuse.EntryOut) fuse.Status {
	now := time.Now()
	f.mu.Lock()
	dir := f.table.nodes[header.NodeId]
	if e := f.table.entryOf(dir, name); e != nil && now.Before(e.expires) {
		if e.child == nil {
			f.table.lru.MoveToFront(dir.children[name])
			f.mu.Unlock()
			f.entryHits.Add(1)
			return fuse.ENOENT
		}
		if now.Before(e.child.attrExpires) {
			f.table.lru.MoveToFront(dir.children[name])
			e.child.given++
			fillEntry(out, e, now)
			f.mu.Unlock()
			f.entryHits.Add(1)
			return fuse.OK
		}
	}
	if f.table.absent(dir, name, now) {
		f.mu.Unlock()
		f.entryHits.Add(1)
		return fuse.ENOENT
	}
	before := f.table.markOf(dir)
	f.mu.Unlock()
	f.entryMisses.Add(1)

	status := f.RawFileSystem.Lookup(cancel, header, name, out)

	f.mu.Lock()
	defer f.unlock()
	switch {
	case status.Ok() && out.NodeId != 0:
		if !f.learn(before, name, out, true) {
			f.ungive(out.NodeId)
			return fuse.EIO
		}
		return fuse.OK
	case status.Ok():
		// FUSE: node ID 0 is a cacheable ENOENT.
		if d := validity(out.EntryValid, out.EntryValidNsec); d > 0 && before.unchanged() {
			f.table.put(before.n, name, nil, time.Now().Add(d))
			f.evictions.Add(f.table.evict(f.opts.MaxEntries))
		}
		return fuse.ENOENT
	case before.unchanged():
		f.table.drop(before.n, name)
	}
	return status
}

// fillEntry answers a lookup from the cache.
func fillEntry(out *fuse.EntryOut, e *entry, now time.Time) {
	*out = fuse.EntryOut{NodeId: e.child.id, Generation: e.child.generation, Attr: e.child.attr}
	out.SetEntryTimeout(e.expires.Sub(now))
	out.SetAttrTimeout(e.child.attrExpires.Sub(now))
}

// learn takes over an entry the server returned: the lookup count, and, if
// nothing changed since before, what it says: of the name if before.n did not, of
// the attributes if the child did not. given says that the caller gets
// the entry and will forget it.
//
// It reports whether the entry makes sense: false if the node turned into
// another kind of file while the caller holds it. Linux makes such an inode bad
// (fuse_stale_inode); we only refuse to take one file for the other.
func (f *FS) learn(before mark, name string, out *fuse.EntryOut, given bool) bool {
	now := time.Now()
	t := &f.table
	n := t.nodes[out.NodeId]
	if n == nil {
		// It may have been here, changed and left while the request was under way.
		n = &node{id: out.NodeId, generation: out.Generation, typ: out.Attr.Mode & syscall.S_IFMT, changes: t.left}
		t.nodes[n.id] = n
	}
	n.owed++
	t.met(before.n, name)
	same := n.typ == out.Attr.Mode&syscall.S_IFMT
	if !same && n.given == 0 {
		n.typ, same = out.Attr.Mode&syscall.S_IFMT, true
		n.invalidate()
		t.unmake(n)
	}
	if given {
		n.given++
	}
	if !same {
		t.drop(before.n, name)
		t.release(n)
		return false
	}
	if n.generation != out.Generation {
		n.generation = out.Generation
		n.invalidate()
		t.unmake(n)
	}
	if before.unchangedAttr(n) {
		if d := validity(out.AttrValid, out.AttrValidNsec); d > 0 {
			n.attr, n.attrExpires = out.Attr, now.Add(d)
		} else {
			n.attrExpires = time.Time{}
		}
	}
	if before.unchanged() {
		if d := validity(out.EntryValid, out.EntryValidNsec); d > 0 {
			t.put(before.n, name, n, now.Add(d))
			f.evictions.Add(t.evict(f.opts.MaxEntries))
		} else {
			t.drop(before.n, name)
		}
	}
	t.release(n)
	return true
}

// ungive takes back an entry that the caller does not get after all.
func (f *FS) ungive(nodeID uint64) {
	if n := f.table.nodes[nodeID]; n != nil && n.id != fuse.FUSE_ROOT_ID {
		n.given -= min(n.given, 1)
		f.table.release(n)
	}
}

// Forget implements fuse.RawFileSystem.
func (f *FS) Forget(nodeID, nlookup uint64) {
	f.mu.Lock()
	defer f.unlock()
	n := f.table.nodes[nodeID]
	if n == nil || n.id == fuse.FUSE_ROOT_ID {
		return
	}
	n.given -= min(n.given, nlookup)
	f.table.release(n)
}

// GetAttr implements fuse.RawFileSystem.
func (f *FS) GetAttr(cancel <-chan struct{}, in *fuse.GetAttrIn, out *fuse.AttrOut) fuse.Status {
	now := time.Now()
	f.mu.Lock()
	n := f.table.nodes[in.NodeId]
	if n != nil && now.Before(n.attrExpires) {
		out.Attr = n.attr
		out.SetTimeout(n.attrExpires.Sub(now))
		f.mu.Unlock()
		f.attrHits.Add(1)
		return fuse.OK
	}
	before := f.table.markOf(n)
	f.mu.Unlock()
	f.attrMisses.Add(1)

	status := f.RawFileSystem.GetAttr(cancel, in, out)
	f.mu.Lock()
	defer f.unlock()
	f.keepAttr(before, status, out)
	return status
}

// keepAttr caches the reply to a request about before.n.
func (f *FS) keepAttr(before mark, status fuse.Status, out *fuse.AttrOut) {
	if !before.unchanged() {
		return
	}
	if d := validity(out.AttrValid, out.AttrValidNsec); status.Ok() && d > 0 {
		before.n.attr, before.n.attrExpires = out.Attr, time.Now().Add(d)
	} else {
		before.n.attrExpires = time.Time{}
	}
}

// Readlink implements fuse.RawFileSystem.
func (f *FS) Readlink(cancel <-chan struct{}, header *fuse.InHeader) ([]byte, fuse.Status) {
	if !f.opts.CacheSymlinks {
		return f.RawFileSystem.Readlink(cancel, header)
	}
	f.mu.Lock()
	n := f.table.nodes[header.NodeId]
	if n != nil && n.target != nil {
		target := n.target
		f.mu.Unlock()
		return target, fuse.OK
	}
	before := f.table.markOf(n)
	f.mu.Unlock()

	target, status := f.RawFileSystem.Readlink(cancel, header)
	f.mu.Lock()
	defer f.unlock()
	if status.Ok() && before.unchanged() {
		before.n.target = append([]byte(nil), target...)
	}
	return target, status
}
