// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package fusesession

import (
	"fmt"
	"sync"
	"testing"

	"github.com/hanwen/go-fuse/v2/fuse"
)

// books keeps count of what a file system has granted: lookups and handles.
// Breaches are kept, because they may happen on other goroutines than the test's.
type books struct {
	fuse.RawFileSystem

	mu      sync.Mutex
	lookups map[uint64]uint64
	handles map[[2]uint64]int // by node and fh
	errs    []error
}

func newBooks(fs fuse.RawFileSystem) *books {
	return &books{RawFileSystem: fs, lookups: make(map[uint64]uint64), handles: make(map[[2]uint64]int)}
}

// check fails the test if something was held too long or let go too early.
func (b *books) check(t testing.TB) {
	t.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, err := range b.errs {
		t.Error(err)
	}
	for id, n := range b.lookups {
		t.Errorf("node %d: %d lookups not forgotten", id, n)
	}
	for h, n := range b.handles {
		t.Errorf("node %d, handle %d: %d times not released", h[0], h[1], n)
	}
}

func (b *books) granted(st fuse.Status, out *fuse.EntryOut) fuse.Status {
	if st == fuse.OK && out.NodeId != 0 {
		b.mu.Lock()
		b.lookups[out.NodeId]++
		b.mu.Unlock()
	}
	return st
}

func (b *books) opened(st fuse.Status, node, fh uint64) fuse.Status {
	if st == fuse.OK {
		b.mu.Lock()
		b.handles[[2]uint64{node, fh}]++
		b.mu.Unlock()
	}
	return st
}

func (b *books) released(node, fh uint64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	k := [2]uint64{node, fh}
	if b.handles[k] == 0 {
		b.errs = append(b.errs, fmt.Errorf("release of handle %d of node %d, which is not open", fh, node))
		return
	}
	if b.handles[k]--; b.handles[k] == 0 {
		delete(b.handles, k)
	}
}

func (b *books) Forget(id, n uint64) {
	b.mu.Lock()
	if b.lookups[id] < n {
		b.errs = append(b.errs, fmt.Errorf("node %d: %d lookups forgotten of %d", id, n, b.lookups[id]))
	}
	for k := range b.handles {
		if k[0] == id && b.lookups[id] == n {
			b.errs = append(b.errs, fmt.Errorf("node %d forgotten while it is open", id))
		}
	}
	if b.lookups[id] -= min(n, b.lookups[id]); b.lookups[id] == 0 {
		delete(b.lookups, id)
	}
	b.mu.Unlock()
	b.RawFileSystem.Forget(id, n)
}

func (b *books) Lookup(c <-chan struct{}, h *fuse.InHeader, name string, out *fuse.EntryOut) fuse.Status {
	return b.granted(b.RawFileSystem.Lookup(c, h, name, out), out)
}

func (b *books) Mknod(c <-chan struct{}, in *fuse.MknodIn, name string, out *fuse.EntryOut) fuse.Status {
	return b.granted(b.RawFileSystem.Mknod(c, in, name, out), out)
}

func (b *books) Mkdir(c <-chan struct{}, in *fuse.MkdirIn, name string, out *fuse.EntryOut) fuse.Status {
	return b.granted(b.RawFileSystem.Mkdir(c, in, name, out), out)
}

func (b *books) Symlink(c <-chan struct{}, h *fuse.InHeader, target, name string, out *fuse.EntryOut) fuse.Status {
	return b.granted(b.RawFileSystem.Symlink(c, h, target, name, out), out)
}

func (b *books) Link(c <-chan struct{}, in *fuse.LinkIn, name string, out *fuse.EntryOut) fuse.Status {
	return b.granted(b.RawFileSystem.Link(c, in, name, out), out)
}

func (b *books) Create(c <-chan struct{}, in *fuse.CreateIn, name string, out *fuse.CreateOut) fuse.Status {
	st := b.granted(b.RawFileSystem.Create(c, in, name, out), &out.EntryOut)
	return b.opened(st, out.NodeId, out.Fh)
}

func (b *books) Tmpfile(c <-chan struct{}, in *fuse.CreateIn, out *fuse.CreateOut) fuse.Status {
	st := b.granted(b.RawFileSystem.Tmpfile(c, in, out), &out.EntryOut)
	return b.opened(st, out.NodeId, out.Fh)
}

func (b *books) Open(c <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	return b.opened(b.RawFileSystem.Open(c, in, out), in.NodeId, out.Fh)
}

func (b *books) OpenDir(c <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	return b.opened(b.RawFileSystem.OpenDir(c, in, out), in.NodeId, out.Fh)
}

func (b *books) Release(c <-chan struct{}, in *fuse.ReleaseIn) {
	b.released(in.NodeId, in.Fh)
	b.RawFileSystem.Release(c, in)
}

func (b *books) ReleaseDir(in *fuse.ReleaseIn) {
	b.released(in.NodeId, in.Fh)
	b.RawFileSystem.ReleaseDir(in)
}

func (b *books) ReadDirPlus(c <-chan struct{}, in *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	st := b.RawFileSystem.ReadDirPlus(c, in, out)
	entries, outs, err := fuse.ParseDirLookupEntries(out.Bytes())
	if err != nil {
		b.errs = append(b.errs, err)
	}
	for i := range entries {
		if entries[i].Name != "." && entries[i].Name != ".." {
			b.granted(fuse.OK, &outs[i])
		}
	}
	return st
}
