// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package hardlinks

import (
	"testing"

	"github.com/hanwen/go-fuse/v2/fuse"
)

var root = fuse.InHeader{NodeId: fuse.FUSE_ROOT_ID}

// client is a caller of an FS that gives back all that it got.
type client struct {
	*FS
	t     *testing.T
	s     *server
	given map[uint64]uint64
}

// newClient returns a client of an FS on s, and has the test fail if something is
// left in either when the client has let go of everything.
func newClient(t *testing.T, s *server) *client {
	c := &client{FS: New(s), t: t, s: s, given: map[uint64]uint64{}}
	t.Cleanup(func() {
		for id, n := range c.given {
			c.Forget(id, n)
		}
		if len(s.lookups) != 0 || len(s.files) != 0 {
			t.Errorf("left at the server: lookups %v, files %v", s.lookups, s.files)
		}
		if len(c.byNode) != 0 || len(c.byIno) != 0 || len(c.files) != 0 || len(c.busy) != 0 {
			t.Errorf("left: nodes %v, numbers %v, files %v, busy %v", c.byNode, c.byIno, c.files, c.busy)
		}
		c.handles.Range(func(number, _ any) bool { t.Errorf("handle %v is left", number); return true })
	})
	return c
}

func (c *client) lookup(name string) uint64 {
	c.t.Helper()
	var out fuse.EntryOut
	if s := c.Lookup(nil, &root, name, &out); !s.Ok() {
		c.t.Fatalf("lookup %s: %v", name, s)
	}
	c.given[out.NodeId]++
	return out.NodeId
}

func (c *client) link(id uint64, name string) uint64 {
	c.t.Helper()
	var out fuse.EntryOut
	if s := c.Link(nil, &fuse.LinkIn{InHeader: root, Oldnodeid: id}, name, &out); !s.Ok() {
		c.t.Fatalf("link to %s: %v", name, s)
	}
	c.given[out.NodeId]++
	return out.NodeId
}

func (c *client) unlink(name string) {
	c.t.Helper()
	if s := c.Unlink(nil, &root, name); !s.Ok() {
		c.t.Fatalf("unlink %s: %v", name, s)
	}
}

func (c *client) open(id uint64, flags uint32) uint64 {
	c.t.Helper()
	var out fuse.OpenOut
	if s := c.Open(nil, &fuse.OpenIn{InHeader: fuse.InHeader{NodeId: id}, Flags: flags}, &out); !s.Ok() {
		c.t.Fatalf("open %d: %v", id, s)
	}
	return out.Fh
}

func (c *client) close(id, fh uint64) {
	c.Release(nil, &fuse.ReleaseIn{InHeader: fuse.InHeader{NodeId: id}, Fh: fh})
}

func (c *client) nlink(id uint64) uint32 {
	c.t.Helper()
	var out fuse.AttrOut
	if s := c.GetAttr(nil, &fuse.GetAttrIn{InHeader: fuse.InHeader{NodeId: id}}, &out); !s.Ok() {
		c.t.Fatalf("getattr %d: %v", id, s)
	}
	return out.Nlink
}

func (c *client) read(id, fh uint64) string {
	c.t.Helper()
	buf := make([]byte, 100)
	r, s := c.Read(nil, &fuse.ReadIn{InHeader: fuse.InHeader{NodeId: id}, Fh: fh, Size: uint32(len(buf))}, buf)
	if !s.Ok() {
		c.t.Errorf("read: %v", s)
		return ""
	}
	data, _ := r.Bytes(buf)
	return string(data)
}

func (c *client) write(id, fh uint64, data string) {
	c.t.Helper()
	if _, s := c.Write(nil, &fuse.WriteIn{InHeader: fuse.InHeader{NodeId: id}, Fh: fh}, []byte(data)); !s.Ok() {
		c.t.Errorf("write: %v", s)
	}
}

func TestFileOutlivesTheNameItWasFoundBy(t *testing.T) {
	s := newServer(t)
	s.add("a", 12)
	c := newClient(t, s)
	id := c.lookup("a")
	if other := c.link(id, "b"); other != id || c.lookup("b") != id || c.lookup("a") != id || c.nlink(id) != 2 {
		t.Errorf("the second name is file %d, the first %d", other, id)
	}
	c.unlink("a")
	if got := c.nlink(id); got != 1 {
		t.Errorf("%d links after one of two was removed", got)
	}
	if len(s.lookups) != 1 {
		t.Errorf("the server still has to know the node that has no name: %v", s.lookups)
	}
	c.Forget(id, 1)
	c.given[id]--
	if c.nlink(id) != 1 {
		t.Error("forgotten while the caller holds lookups")
	}
}

func TestLinksThatWereThereBefore(t *testing.T) {
	s := newServer(t)
	s.add("a", 12).Nlink = 3
	s.inodes["b"] = s.inodes["a"]
	s.inodes["longer name"] = s.inodes["a"]
	s.add("c", 13)
	c := newClient(t, s)
	a, b := c.lookup("a"), c.lookup("b")
	if a != b {
		t.Errorf("two names of a file are files %d and %d", a, b)
	}
	list := fuse.NewDirEntryList(make([]byte, 4096), 0)
	if st := c.ReadDirPlus(nil, &fuse.ReadIn{InHeader: root}, list); !st.Ok() {
		t.Fatal(st)
	}
	entries, outs, err := fuse.ParseDirLookupEntries(list.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	if len(entries) != 4 {
		t.Fatalf("%d names", len(entries))
	}
	for i, e := range entries {
		if (outs[i].NodeId == a) != (e.Name != "c") {
			t.Errorf("%s is file %d, want %v as the others", e.Name, outs[i].NodeId, e.Name != "c")
		}
		c.given[outs[i].NodeId]++
	}
	if got := c.Shown(s.ids["b"]); got != a {
		t.Errorf("node %d is shown as %d, want %d", s.ids["b"], got, a)
	}
}

// Equal numbers alone are no proof: two file systems below one directory.
func TestSameNumberIsNotTheSameFile(t *testing.T) {
	for name, change := range map[string]func(*fuse.Attr){
		"one link each":    func(a *fuse.Attr) {},
		"other size":       func(a *fuse.Attr) { a.Nlink, a.Size = 2, 9 },
		"other ctime":      func(a *fuse.Attr) { a.Nlink, a.Ctimensec = 2, 1 },
		"other link count": func(a *fuse.Attr) { a.Nlink = 3 },
	} {
		s := newServer(t)
		s.add("a", 12)
		if name != "one link each" {
			s.inodes["a"].Nlink = 2
		}
		change(&s.add("b", 12).Attr)
		c := newClient(t, s)
		if c.lookup("a") == c.lookup("b") {
			t.Errorf("%s: taken for one file", name)
		}
	}
}

// The server's node for a name stays the same when somebody else replaces the
// file; it must not be taken for a name of the old one any more.
func TestNameReplacedAtTheServer(t *testing.T) {
	s := newServer(t)
	s.add("a", 12)
	c := newClient(t, s)
	id := c.lookup("a")
	c.link(id, "b")
	was := s.inodes["b"]
	was.Nlink = 1
	s.add("b", 13)
	if c.lookup("b") == id {
		t.Error("the new file is still the old one")
	}
	if c.lookup("a") != id || c.nlink(id) != 1 {
		t.Error("the old file is another")
	}

	only := c.lookup("a")
	s.add("a", 14)
	if c.lookup("a") != only {
		t.Error("a file with one name does not follow it")
	}
}
