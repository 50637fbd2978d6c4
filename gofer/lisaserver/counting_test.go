// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package lisaserver

import (
	"fmt"
	"sync"
	"testing"

	"github.com/hanwen/go-fuse/v2/fuse"
)

// countingFS keeps the books of a file system: which lookups were granted and
// forgotten, which handles opened and released. Breaches are kept as errors,
// because they happen on other goroutines than the test's.
type countingFS struct {
	fuse.RawFileSystem

	mu      sync.Mutex
	lookups map[uint64]uint64
	handles map[countedHandle]int
	errs    []error
	calls   map[string]int
}

// countedHandle tells files and directories apart, as their handles need not be.
type countedHandle struct {
	dir bool
	fh  uint64
}

func newCountingFS(fs fuse.RawFileSystem) *countingFS {
	return &countingFS{
		RawFileSystem: fs,
		lookups:       make(map[uint64]uint64),
		handles:       make(map[countedHandle]int),
		calls:         make(map[string]int),
	}
}

func (c *countingFS) note(call string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.calls[call]++
}

func (c *countingFS) count(call string) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.calls[call]
}

func (c *countingFS) granted(st fuse.Status, out *fuse.EntryOut) fuse.Status {
	if st == fuse.OK && out.NodeId != 0 {
		c.mu.Lock()
		c.lookups[out.NodeId]++
		c.mu.Unlock()
	}
	return st
}

func (c *countingFS) opened(st fuse.Status, dir bool, fh uint64) fuse.Status {
	if st == fuse.OK {
		c.mu.Lock()
		c.handles[countedHandle{dir, fh}]++
		c.mu.Unlock()
	}
	return st
}

func (c *countingFS) released(dir bool, fh uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	h := countedHandle{dir, fh}
	if c.handles[h] == 0 {
		c.errs = append(c.errs, fmt.Errorf("release of handle %+v, which is not open", h))
		return
	}
	if c.handles[h]--; c.handles[h] == 0 {
		delete(c.handles, h)
	}
}

// alive complains about requests on nodes that nobody has looked up.
func (c *countingFS) alive(call string, id uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if id != fuse.FUSE_ROOT_ID && c.lookups[id] == 0 {
		c.errs = append(c.errs, fmt.Errorf("%s on node %d, which is forgotten", call, id))
	}
}

// check fails the test if something was held too long or let go too early.
func (c *countingFS) check(t *testing.T) {
	t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, err := range c.errs {
		t.Error(err)
	}
	for id, n := range c.lookups {
		t.Errorf("node %d: %d lookups not forgotten", id, n)
	}
	for h, n := range c.handles {
		t.Errorf("handle %+v: %d times not released", h, n)
	}
}

func (c *countingFS) Lookup(cancel <-chan struct{}, h *fuse.InHeader, name string, out *fuse.EntryOut) fuse.Status {
	c.note("LOOKUP")
	c.alive("LOOKUP", h.NodeId)
	return c.granted(c.RawFileSystem.Lookup(cancel, h, name, out), out)
}

func (c *countingFS) Mknod(cancel <-chan struct{}, in *fuse.MknodIn, name string, out *fuse.EntryOut) fuse.Status {
	c.alive("MKNOD", in.NodeId)
	return c.granted(c.RawFileSystem.Mknod(cancel, in, name, out), out)
}

func (c *countingFS) Mkdir(cancel <-chan struct{}, in *fuse.MkdirIn, name string, out *fuse.EntryOut) fuse.Status {
	c.alive("MKDIR", in.NodeId)
	return c.granted(c.RawFileSystem.Mkdir(cancel, in, name, out), out)
}

func (c *countingFS) Symlink(cancel <-chan struct{}, h *fuse.InHeader, target, name string, out *fuse.EntryOut) fuse.Status {
	c.alive("SYMLINK", h.NodeId)
	return c.granted(c.RawFileSystem.Symlink(cancel, h, target, name, out), out)
}

func (c *countingFS) Link(cancel <-chan struct{}, in *fuse.LinkIn, name string, out *fuse.EntryOut) fuse.Status {
	c.alive("LINK", in.NodeId)
	c.alive("LINK", in.Oldnodeid)
	return c.granted(c.RawFileSystem.Link(cancel, in, name, out), out)
}

func (c *countingFS) Create(cancel <-chan struct{}, in *fuse.CreateIn, name string, out *fuse.CreateOut) fuse.Status {
	c.alive("CREATE", in.NodeId)
	st := c.granted(c.RawFileSystem.Create(cancel, in, name, out), &out.EntryOut)
	return c.opened(st, false, out.Fh)
}

func (c *countingFS) ReadDirPlus(cancel <-chan struct{}, in *fuse.ReadIn, list *fuse.DirEntryList) fuse.Status {
	c.note("READDIRPLUS")
	c.alive("READDIRPLUS", in.NodeId)
	st := c.RawFileSystem.ReadDirPlus(cancel, in, list)
	entries, outs, err := fuse.ParseDirLookupEntries(list.Bytes())
	if err != nil {
		panic(err)
	}
	for i := range entries {
		if name := entries[i].Name; name != "." && name != ".." {
			c.granted(fuse.OK, &outs[i])
		}
	}
	return st
}

func (c *countingFS) Rename(cancel <-chan struct{}, in *fuse.RenameIn, from, to string) fuse.Status {
	c.note("RENAME")
	c.alive("RENAME", in.NodeId)
	c.alive("RENAME", in.Newdir)
	return c.RawFileSystem.Rename(cancel, in, from, to)
}

func (c *countingFS) Forget(id, n uint64) {
	c.note("FORGET")
	c.mu.Lock()
	if n == 0 || n > c.lookups[id] {
		c.errs = append(c.errs, fmt.Errorf("node %d: forget of %d lookups, has %d", id, n, c.lookups[id]))
		c.mu.Unlock()
		return
	}
	if c.lookups[id] -= n; c.lookups[id] == 0 {
		delete(c.lookups, id)
	}
	c.mu.Unlock()
	c.RawFileSystem.Forget(id, n)
}

func (c *countingFS) GetAttr(cancel <-chan struct{}, in *fuse.GetAttrIn, out *fuse.AttrOut) fuse.Status {
	c.alive("GETATTR", in.NodeId)
	return c.RawFileSystem.GetAttr(cancel, in, out)
}

func (c *countingFS) SetAttr(cancel <-chan struct{}, in *fuse.SetAttrIn, out *fuse.AttrOut) fuse.Status {
	c.note("SETATTR")
	c.alive("SETATTR", in.NodeId)
	return c.RawFileSystem.SetAttr(cancel, in, out)
}

func (c *countingFS) Open(cancel <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	c.alive("OPEN", in.NodeId)
	return c.opened(c.RawFileSystem.Open(cancel, in, out), false, out.Fh)
}

func (c *countingFS) OpenDir(cancel <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	c.note("OPENDIR")
	c.alive("OPENDIR", in.NodeId)
	return c.opened(c.RawFileSystem.OpenDir(cancel, in, out), true, out.Fh)
}

func (c *countingFS) Flush(cancel <-chan struct{}, in *fuse.FlushIn) fuse.Status {
	c.note("FLUSH")
	c.alive("FLUSH", in.NodeId)
	return c.RawFileSystem.Flush(cancel, in)
}

func (c *countingFS) Release(cancel <-chan struct{}, in *fuse.ReleaseIn) {
	c.alive("RELEASE", in.NodeId)
	c.released(false, in.Fh)
	c.RawFileSystem.Release(cancel, in)
}

func (c *countingFS) ReleaseDir(in *fuse.ReleaseIn) {
	c.alive("RELEASEDIR", in.NodeId)
	c.released(true, in.Fh)
	c.RawFileSystem.ReleaseDir(in)
}
