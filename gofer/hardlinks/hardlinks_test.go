// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package hardlinks

import (
	"syscall"
	"testing"

	"github.com/hanwen/go-fuse/v2/fuse"
)

// server has a node for each name, as libfuse's path-based interface has.
type server struct {
	fuse.RawFileSystem
	next    uint64
	inodes  map[string]*fuse.Attr // by name
	ids     map[string]uint64
	names   map[uint64]string
	lookups map[uint64]uint64
	open    map[uint64]int // by node

	lastOpen uint64
}

func newServer() *server {
	return &server{
		RawFileSystem: fuse.NewDefaultRawFileSystem(), next: 100,
		inodes: map[string]*fuse.Attr{}, ids: map[string]uint64{}, names: map[uint64]string{}, lookups: map[uint64]uint64{}, open: map[uint64]int{},
	}
}

func (s *server) add(name string, ino uint64) {
	s.inodes[name] = &fuse.Attr{Ino: ino, Mode: syscall.S_IFREG | 0o644, Nlink: 1}
}

func (s *server) entry(name string, out *fuse.EntryOut) {
	id, ok := s.ids[name]
	if !ok {
		s.next++
		id = s.next
		s.ids[name], s.names[id] = id, name
	}
	s.lookups[id]++
	*out = fuse.EntryOut{NodeId: id, Attr: *s.inodes[name]}
}

func (s *server) Lookup(_ <-chan struct{}, _ *fuse.InHeader, name string, out *fuse.EntryOut) fuse.Status {
	if s.inodes[name] == nil {
		return fuse.ENOENT
	}
	s.entry(name, out)
	return fuse.OK
}

func (s *server) Link(_ <-chan struct{}, in *fuse.LinkIn, name string, out *fuse.EntryOut) fuse.Status {
	from := s.inodes[s.names[in.Oldnodeid]]
	if from == nil {
		return fuse.ENOENT
	}
	from.Nlink++
	s.inodes[name] = from
	s.entry(name, out)
	return fuse.OK
}

func (s *server) Unlink(_ <-chan struct{}, _ *fuse.InHeader, name string) fuse.Status {
	s.inodes[name].Nlink--
	delete(s.inodes, name)
	delete(s.names, s.ids[name])
	delete(s.ids, name)
	return fuse.OK
}

func (s *server) GetAttr(_ <-chan struct{}, in *fuse.GetAttrIn, out *fuse.AttrOut) fuse.Status {
	a := s.inodes[s.names[in.NodeId]]
	if a == nil {
		return fuse.ENOENT
	}
	out.Attr = *a
	return fuse.OK
}

func (s *server) Open(_ <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	if s.inodes[s.names[in.NodeId]] == nil {
		return fuse.ENOENT
	}
	s.open[in.NodeId]++
	s.lastOpen = in.NodeId
	out.Fh = 0 // as ntfs-3g
	return fuse.OK
}

func (s *server) Release(_ <-chan struct{}, in *fuse.ReleaseIn) { s.open[in.NodeId]-- }

func (s *server) ReadDirPlus(_ <-chan struct{}, _ *fuse.ReadIn, list *fuse.DirEntryList) fuse.Status {
	for _, name := range []string{"a", "longer name", "b", "c"} {
		if s.inodes[name] != nil {
			s.entry(name, list.AddDirLookupEntry(fuse.DirEntry{Name: name, Ino: s.inodes[name].Ino, Mode: syscall.S_IFREG}))
		}
	}
	return fuse.OK
}

func (s *server) Forget(id, n uint64) {
	if s.lookups[id] < n {
		panic("forgotten too often")
	}
	if s.lookups[id] -= n; s.lookups[id] == 0 {
		delete(s.lookups, id)
	}
}

var root = fuse.InHeader{NodeId: fuse.FUSE_ROOT_ID}

func lookup(t *testing.T, f *FS, name string) uint64 {
	t.Helper()
	var out fuse.EntryOut
	if s := f.Lookup(nil, &root, name, &out); !s.Ok() {
		t.Fatalf("lookup %s: %v", name, s)
	}
	return out.NodeId
}

func nlink(t *testing.T, f *FS, id uint64) uint32 {
	t.Helper()
	var out fuse.AttrOut
	if s := f.GetAttr(nil, &fuse.GetAttrIn{InHeader: fuse.InHeader{NodeId: id}}, &out); !s.Ok() {
		t.Fatalf("getattr %d: %v", id, s)
	}
	return out.Nlink
}

func TestFileOutlivesTheNameItWasFoundBy(t *testing.T) {
	s := newServer()
	s.add("a", 12)
	f := New(s)
	id := lookup(t, f, "a")
	var out fuse.EntryOut
	if st := f.Link(nil, &fuse.LinkIn{InHeader: root, Oldnodeid: id}, "b", &out); !st.Ok() {
		t.Fatal(st)
	}
	if out.NodeId != id || lookup(t, f, "b") != id || nlink(t, f, id) != 2 {
		t.Errorf("the second name is node %d, the first %d", out.NodeId, id)
	}
	open := func() uint64 {
		t.Helper()
		var out fuse.OpenOut
		if st := f.Open(nil, &fuse.OpenIn{InHeader: fuse.InHeader{NodeId: id}}, &out); !st.Ok() {
			t.Fatal(st)
		}
		return out.Fh
	}
	before := open()
	f.Unlink(nil, &root, s.names[s.lastOpen])
	if got := nlink(t, f, id); got != 1 {
		t.Errorf("%d links after one of two was removed", got)
	}
	// Opening goes through the name that is left, closing through the one that the
	// file was opened by, though the server's handles are the same.
	after := open()
	for _, fh := range []uint64{before, after} {
		f.Release(nil, &fuse.ReleaseIn{InHeader: fuse.InHeader{NodeId: id}, Fh: fh})
	}
	for node, n := range s.open {
		if n != 0 {
			t.Errorf("node %d is open %d times", node, n)
		}
	}
	f.Forget(id, 2)
	if len(s.lookups) == 0 {
		t.Error("forgotten while the caller holds a lookup")
	}
	f.Forget(id, 1)
	if len(s.lookups) != 0 || len(f.byID) != 0 || len(f.byIno) != 0 || len(f.handles) != 0 {
		t.Errorf("left: %v, %d files, %d numbers, %d handles", s.lookups, len(f.byID), len(f.byIno), len(f.handles))
	}
}

func TestLinksThatWereThereBefore(t *testing.T) {
	s := newServer()
	s.add("a", 12)
	s.inodes["a"].Nlink = 2
	s.inodes["b"] = s.inodes["a"]
	s.inodes["longer name"] = s.inodes["a"]
	s.add("c", 13)
	f := New(s)
	a, b := lookup(t, f, "a"), lookup(t, f, "b")
	if a != b {
		t.Errorf("two names of a file are nodes %d and %d", a, b)
	}
	list := fuse.NewDirEntryList(make([]byte, 4096), 0)
	if st := f.ReadDirPlus(nil, &fuse.ReadIn{InHeader: root}, list); !st.Ok() {
		t.Fatal(st)
	}
	entries, outs, err := fuse.ParseDirLookupEntries(list.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	for i, e := range entries {
		if (outs[i].NodeId == a) != (e.Name != "c") {
			t.Errorf("%s is node %d, want %v as the others", e.Name, outs[i].NodeId, e.Name != "c")
		}
		f.Forget(outs[i].NodeId, 1)
	}
	f.Forget(a, 2)
	if len(s.lookups) != 0 {
		t.Errorf("not forgotten: %v", s.lookups)
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
		s := newServer()
		s.add("a", 12)
		s.add("b", 12)
		if name != "one link each" {
			s.inodes["a"].Nlink = 2
		}
		change(s.inodes["b"])
		f := New(s)
		if lookup(t, f, "a") == lookup(t, f, "b") {
			t.Errorf("%s: taken for one file", name)
		}
	}
}
