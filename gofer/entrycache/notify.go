// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package entrycache

import "github.com/hanwen/go-fuse/v2/fuse"

// The methods of this file take the notifications a FUSE server sends to its
// kernel (fuse_lowlevel.h, "fuse_lowlevel_notify_*").

// InvalInode drops what is cached of a node itself. Offset and length speak of
// file data, which is not kept here.
func (f *FS) InvalInode(nodeID uint64, off, length int64) {
	f.mu.Lock()
	defer f.unlock()
	f.invalidations.Add(1)
	if n := f.table.nodes[nodeID]; n != nil {
		f.table.touch(n)
		f.table.unmake(n)
	}
}

// InvalEntry drops a name. expireOnly asks no more than that the name be looked
// up again before it is used, which dropping it does as well.
func (f *FS) InvalEntry(parent uint64, name string, expireOnly bool) {
	f.mu.Lock()
	defer f.unlock()
	f.invalidations.Add(1)
	if dir := f.table.nodes[parent]; dir != nil {
		f.table.touch(dir)
		f.table.unmake(dir)
		f.table.drop(dir, name)
	}
}

// Delete drops a name because the file is gone. The child is left alone if the
// name has come to mean another node since.
func (f *FS) Delete(parent, child uint64, name string) {
	f.mu.Lock()
	defer f.unlock()
	f.invalidations.Add(1)
	dir := f.table.nodes[parent]
	if dir == nil {
		return
	}
	f.table.touch(dir)
	f.table.unmake(dir)
	if e := f.table.entryOf(dir, name); e != nil && (e.child == nil || e.child.id == child) {
		f.dropChanged(dir, name)
	}
}

// IncEpoch drops every name, and with them all listings and attributes.
func (f *FS) IncEpoch() {
	f.mu.Lock()
	defer f.unlock()
	f.invalidations.Add(1)
	for _, n := range f.table.nodes {
		f.table.touch(n)
	}
	f.table.evict(0)
	f.table.evictMade(0)
}

// Store accepts file data that the server offers for caching and drops it: no
// file data is kept here, so that every read asks the server anyway. The node's
// attributes are asked for again, since storing may extend the file.
func (f *FS) Store(nodeID, off uint64, data []byte) fuse.Status {
	f.InvalInode(nodeID, int64(off), int64(len(data)))
	return fuse.OK
}

// Retrieve returns the file data cached from off on: none.
func (f *FS) Retrieve(nodeID, off uint64, size uint32) ([]byte, fuse.Status) {
	return nil, fuse.OK
}
