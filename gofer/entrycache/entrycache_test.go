// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package entrycache

import (
	"fmt"
	"math/rand"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
)

// server is a small file system with one level of names. It counts requests and
// keeps the lookup count of each node as a real server does.
type server struct {
	fuse.RawFileSystem
	mu      sync.Mutex
	next    uint64
	files   map[string]uint64 // name -> node ID
	mode    map[uint64]uint32
	size    map[uint64]uint64
	lookups map[uint64]uint64 // outstanding
	calls   map[string]int

	valid    time.Duration // entry and attribute timeout of replies
	negative time.Duration // of replies for names that do not exist; 0: ENOENT
	hook     func(op string)
}

func newServer() *server {
	return &server{
		RawFileSystem: fuse.NewDefaultRawFileSystem(), next: 2,
		files: map[string]uint64{}, mode: map[uint64]uint32{1: syscall.S_IFDIR | 0o755}, size: map[uint64]uint64{},
		lookups: map[uint64]uint64{}, calls: map[string]int{}, valid: time.Hour,
	}
}

func (s *server) count(op string) {
	s.mu.Lock()
	s.calls[op]++
	hook := s.hook
	s.mu.Unlock()
	if hook != nil {
		hook(op)
	}
}

func (s *server) add(name string, mode uint32) uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	id := s.next
	s.next++
	s.files[name], s.mode[id] = id, mode
	return id
}

func (s *server) attr(id uint64) fuse.Attr {
	return fuse.Attr{Ino: id, Mode: s.mode[id], Size: s.size[id], Nlink: 1}
}

func (s *server) entry(id uint64, out *fuse.EntryOut) {
	*out = fuse.EntryOut{NodeId: id, Attr: s.attr(id)}
	out.SetEntryTimeout(s.valid)
	out.SetAttrTimeout(s.valid)
	s.lookups[id]++
}

func (s *server) Lookup(_ <-chan struct{}, h *fuse.InHeader, name string, out *fuse.EntryOut) fuse.Status {
	s.mu.Lock()
	id, ok := s.files[name]
	if ok {
		s.entry(id, out)
	}
	s.mu.Unlock()
	s.count("lookup")
	if ok {
		return fuse.OK
	}
	if s.negative > 0 {
		*out = fuse.EntryOut{}
		out.SetEntryTimeout(s.negative)
		return fuse.OK
	}
	return fuse.ENOENT
}

func (s *server) GetAttr(_ <-chan struct{}, in *fuse.GetAttrIn, out *fuse.AttrOut) fuse.Status {
	s.mu.Lock()
	out.Attr = s.attr(in.NodeId)
	s.mu.Unlock()
	out.SetTimeout(s.valid)
	s.count("getattr")
	return fuse.OK
}

func (s *server) Write(_ <-chan struct{}, in *fuse.WriteIn, data []byte) (uint32, fuse.Status) {
	s.mu.Lock()
	s.size[in.NodeId] = max(s.size[in.NodeId], in.Offset+uint64(len(data)))
	s.mu.Unlock()
	s.count("write")
	return uint32(len(data)), fuse.OK
}

func (s *server) SetAttr(_ <-chan struct{}, in *fuse.SetAttrIn, out *fuse.AttrOut) fuse.Status {
	s.mu.Lock()
	out.Attr = s.attr(in.NodeId)
	s.mu.Unlock()
	out.SetTimeout(s.valid)
	s.count("setattr")
	return fuse.OK
}

func (s *server) Mkdir(_ <-chan struct{}, in *fuse.MkdirIn, name string, out *fuse.EntryOut) fuse.Status {
	id := s.add(name, syscall.S_IFDIR|in.Mode)
	s.mu.Lock()
	s.entry(id, out)
	s.mu.Unlock()
	s.count("mkdir")
	return fuse.OK
}

func (s *server) Unlink(_ <-chan struct{}, h *fuse.InHeader, name string) fuse.Status {
	s.mu.Lock()
	_, ok := s.files[name]
	delete(s.files, name)
	s.mu.Unlock()
	s.count("unlink")
	if !ok {
		return fuse.ENOENT
	}
	return fuse.OK
}

func (s *server) Rename(_ <-chan struct{}, in *fuse.RenameIn, from, to string) fuse.Status {
	s.mu.Lock()
	s.files[to] = s.files[from]
	delete(s.files, from)
	s.mu.Unlock()
	s.count("rename")
	return fuse.OK
}

func (s *server) Readlink(_ <-chan struct{}, h *fuse.InHeader) ([]byte, fuse.Status) {
	s.count("readlink")
	return []byte("target"), fuse.OK
}

func (s *server) ReadDirPlus(_ <-chan struct{}, in *fuse.ReadIn, list *fuse.DirEntryList) fuse.Status {
	defer s.count("readdirplus")
	s.mu.Lock()
	defer s.mu.Unlock()
	for name, id := range s.files {
		out := list.AddDirLookupEntry(fuse.DirEntry{Name: name, Ino: id, Mode: s.mode[id]})
		if out == nil {
			break
		}
		s.entry(id, out)
	}
	return fuse.OK
}

func (s *server) Forget(id, n uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.lookups[id] < n {
		panic(fmt.Sprintf("node %d forgotten %d times, looked up %d times", id, n, s.lookups[id]))
	}
	s.lookups[id] -= n
	if s.lookups[id] == 0 {
		delete(s.lookups, id)
	}
	s.calls["forget"]++
}

func (s *server) want(t *testing.T, op string, n int) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.calls[op] != n {
		t.Errorf("the server saw %d %s requests, want %d", s.calls[op], op, n)
	}
}

func root() *fuse.InHeader { return &fuse.InHeader{NodeId: fuse.FUSE_ROOT_ID} }

func lookup(t *testing.T, f *FS, name string, want fuse.Status) fuse.EntryOut {
	t.Helper()
	var out fuse.EntryOut
	if got := f.Lookup(nil, root(), name, &out); got != want {
		t.Fatalf("lookup %q: got %v, want %v", name, got, want)
	}
	return out
}

func getattr(t *testing.T, f *FS, id uint64) fuse.AttrOut {
	t.Helper()
	var out fuse.AttrOut
	if s := f.GetAttr(nil, &fuse.GetAttrIn{InHeader: fuse.InHeader{NodeId: id}}, &out); !s.Ok() {
		t.Fatalf("getattr %d: %v", id, s)
	}
	return out
}

func TestLookupIsAnsweredWhileValid(t *testing.T) {
	s := newServer()
	s.add("a", syscall.S_IFREG|0o644)
	f := New(s, Options{})
	first := lookup(t, f, "a", fuse.OK)
	second := lookup(t, f, "a", fuse.OK)
	if first.NodeId != second.NodeId || second.Mode != syscall.S_IFREG|0o644 {
		t.Errorf("cached reply %+v differs from the server's %+v", second, first)
	}
	getattr(t, f, first.NodeId)
	s.want(t, "lookup", 1)
	s.want(t, "getattr", 0)

	// Two were given out; the entry keeps the node until it is dropped.
	f.Forget(first.NodeId, 2)
	s.want(t, "forget", 0)
	f.InvalEntry(fuse.FUSE_ROOT_ID, "a", false)
	s.want(t, "forget", 1)
	if len(s.lookups) != 0 {
		t.Errorf("lookups not forgotten: %v", s.lookups)
	}
}

// After the server has said that all names are stale, each is looked up again.
func TestIncEpoch(t *testing.T) {
	s := newServer()
	s.add("a", syscall.S_IFREG)
	f := New(s, Options{})
	a := lookup(t, f, "a", fuse.OK).NodeId
	lookup(t, f, "b", fuse.ENOENT)
	f.IncEpoch()
	s.add("b", syscall.S_IFREG)
	lookup(t, f, "a", fuse.OK)
	lookup(t, f, "b", fuse.OK)
	s.want(t, "lookup", 4)
	getattr(t, f, a) // what was given out is still known

	// A reply that was under way meanwhile is not kept.
	f.IncEpoch()
	s.hook = func(which string) {
		if which == "lookup" {
			s.hook = nil
			f.IncEpoch()
		}
	}
	lookup(t, f, "a", fuse.OK)
	lookup(t, f, "a", fuse.OK)
	s.want(t, "lookup", 6)
}

func TestZeroTimeoutIsNotCached(t *testing.T) {
	s := newServer()
	s.valid = 0
	s.add("a", syscall.S_IFREG)
	f := New(s, Options{})
	id := lookup(t, f, "a", fuse.OK).NodeId
	lookup(t, f, "a", fuse.OK)
	getattr(t, f, id)
	getattr(t, f, id)
	s.want(t, "lookup", 2)
	s.want(t, "getattr", 2)
	f.Forget(id, 2)
	if len(s.lookups) != 0 {
		t.Errorf("lookups not forgotten: %v", s.lookups)
	}
}

func TestNegativeEntry(t *testing.T) {
	s := newServer()
	s.negative = time.Hour
	f := New(s, Options{})
	lookup(t, f, "a", fuse.ENOENT)
	lookup(t, f, "a", fuse.ENOENT)
	s.want(t, "lookup", 1)
	var out fuse.EntryOut
	if st := f.Mkdir(nil, &fuse.MkdirIn{InHeader: *root()}, "a", &out); !st.Ok() {
		t.Fatal(st)
	}
	lookup(t, f, "a", fuse.OK)
	s.want(t, "lookup", 1)
}

func TestPlainENOENTIsNotCached(t *testing.T) {
	s := newServer()
	f := New(s, Options{})
	lookup(t, f, "a", fuse.ENOENT)
	s.add("a", syscall.S_IFREG)
	lookup(t, f, "a", fuse.OK)
}

func TestChangesInvalidate(t *testing.T) {
	s := newServer()
	s.add("a", syscall.S_IFREG)
	f := New(s, Options{})
	id := lookup(t, f, "a", fuse.OK).NodeId
	if n, st := f.Write(nil, &fuse.WriteIn{InHeader: fuse.InHeader{NodeId: id}, Offset: 10}, []byte("abc")); n != 3 || !st.Ok() {
		t.Fatal(n, st)
	}
	if got := getattr(t, f, id).Size; got != 13 {
		t.Errorf("size after a write: got %d, want 13", got)
	}
	if st := f.Rename(nil, &fuse.RenameIn{InHeader: *root(), Newdir: fuse.FUSE_ROOT_ID}, "a", "b"); !st.Ok() {
		t.Fatal(st)
	}
	lookup(t, f, "a", fuse.ENOENT)
	if got := lookup(t, f, "b", fuse.OK).NodeId; got != id {
		t.Errorf("renamed file is node %d, want %d", got, id)
	}
	if st := f.Unlink(nil, root(), "b"); !st.Ok() {
		t.Fatal(st)
	}
	lookup(t, f, "b", fuse.ENOENT)
}

func TestReadDirPlusPrefetches(t *testing.T) {
	s := newServer()
	for i := range 20 {
		s.add(fmt.Sprint(i), syscall.S_IFREG)
	}
	f := New(s, Options{})
	list := fuse.NewDirEntryList(make([]byte, 64<<10), 0)
	if st := f.ReadDirPlus(nil, &fuse.ReadIn{InHeader: *root()}, list); !st.Ok() {
		t.Fatal(st)
	}
	_, outs, err := fuse.ParseDirLookupEntries(list.Bytes())
	if err != nil || len(outs) != 20 {
		t.Fatal(len(outs), err)
	}
	for _, o := range outs {
		f.Forget(o.NodeId, 1)
	}
	for i := range 20 {
		lookup(t, f, fmt.Sprint(i), fuse.OK)
	}
	s.want(t, "lookup", 0)
	s.want(t, "forget", 0)
}

// A reply that was under way while the name changed must not be kept.
func TestOverlappingReplyIsNotKept(t *testing.T) {
	s := newServer()
	s.add("a", syscall.S_IFREG)
	f := New(s, Options{})
	s.hook = func(op string) {
		if op == "lookup" {
			s.hook = nil
			f.Unlink(nil, root(), "a")
		}
	}
	id := lookup(t, f, "a", fuse.OK).NodeId // answered before the unlink
	lookup(t, f, "a", fuse.ENOENT)
	f.Forget(id, 1)
	if len(s.lookups) != 0 {
		t.Errorf("lookups not forgotten: %v", s.lookups)
	}
}

// A lookup that was under way while another client wrote to the file, whose node
// was known by then, must not bring the attributes of before back: O_APPEND would
// write over data. The same goes for SETATTR.
func TestAttributesOfBeforeAWriteAreNotKept(t *testing.T) {
	in := fuse.InHeader{}
	for op, do := range map[string]func(*FS){
		"lookup": func(f *FS) { lookup(t, f, "a", fuse.OK) },
		"setattr": func(f *FS) {
			f.SetAttr(nil, &fuse.SetAttrIn{SetAttrInCommon: fuse.SetAttrInCommon{InHeader: in}}, &fuse.AttrOut{})
		},
		"readdirplus": func(f *FS) {
			f.ReadDirPlus(nil, &fuse.ReadIn{InHeader: *root(), Size: 4096}, fuse.NewDirEntryList(make([]byte, 4096), 0))
		},
	} {
		t.Run(op, func(t *testing.T) {
			s := newServer()
			s.add("a", syscall.S_IFREG)
			f := New(s, Options{})
			in.NodeId = lookup(t, f, "a", fuse.OK).NodeId
			f.InvalEntry(fuse.FUSE_ROOT_ID, "a", false)
			s.hook = func(which string) {
				if which == op {
					s.hook = nil
					if _, st := f.Write(nil, &fuse.WriteIn{InHeader: in}, make([]byte, 100)); !st.Ok() {
						t.Errorf("write: %v", st)
					}
				}
			}
			do(f) // answered before the write
			if size := getattr(t, f, in.NodeId).Size; size != 100 {
				t.Errorf("size %d after a write of 100 bytes", size)
			}
			if size := lookup(t, f, "a", fuse.OK).Size; size != 100 {
				t.Errorf("size %d by name", size)
			}
		})
	}
}

// The same if the node left the cache before the reply came.
func TestAttributesOfBeforeAForgottenWriteAreNotKept(t *testing.T) {
	s := newServer()
	s.add("a", syscall.S_IFREG)
	f := New(s, Options{})
	in := fuse.InHeader{NodeId: lookup(t, f, "a", fuse.OK).NodeId}
	f.InvalEntry(fuse.FUSE_ROOT_ID, "a", false)
	s.hook = func(which string) {
		if which == "lookup" {
			s.hook = nil
			if _, st := f.Write(nil, &fuse.WriteIn{InHeader: in}, make([]byte, 100)); !st.Ok() {
				t.Errorf("write: %v", st)
			}
			f.Forget(in.NodeId, 1)
		}
	}
	lookup(t, f, "a", fuse.OK) // answered before the write
	if size := getattr(t, f, in.NodeId).Size; size != 100 {
		t.Errorf("size %d after a write of 100 bytes", size)
	}
}

func TestNotifications(t *testing.T) {
	s := newServer()
	s.add("a", syscall.S_IFLNK)
	f := New(s, Options{CacheSymlinks: true})
	id := lookup(t, f, "a", fuse.OK).NodeId
	readlink := func() {
		t.Helper()
		if b, st := f.Readlink(nil, &fuse.InHeader{NodeId: id}); string(b) != "target" || !st.Ok() {
			t.Fatalf("%q, %v", b, st)
		}
	}
	readlink()
	readlink()
	s.want(t, "readlink", 1)
	f.InvalInode(id, 0, 0)
	readlink()
	s.want(t, "readlink", 2)
	getattr(t, f, id)
	s.want(t, "getattr", 1)
	f.Delete(fuse.FUSE_ROOT_ID, id+1, "a") // the name means another file by now
	lookup(t, f, "a", fuse.OK)
	s.want(t, "lookup", 1)
	f.Delete(fuse.FUSE_ROOT_ID, id, "a")
	lookup(t, f, "a", fuse.OK)
	s.want(t, "lookup", 2)
	if got := f.Stats().Invalidations; got != 3 {
		t.Errorf("%d invalidations counted, want 3", got)
	}
}

func TestNodeThatChangedItsKindIsRefused(t *testing.T) {
	s := newServer()
	id := s.add("a", syscall.S_IFREG)
	f := New(s, Options{})
	lookup(t, f, "a", fuse.OK)
	f.InvalEntry(fuse.FUSE_ROOT_ID, "a", true)
	s.mode[id] = syscall.S_IFDIR
	lookup(t, f, "a", fuse.EIO)
	f.Forget(id, 1)
	if len(s.lookups) != 0 {
		t.Errorf("lookups not forgotten: %v", s.lookups)
	}
	lookup(t, f, "a", fuse.OK) // nobody holds the regular file any more
}

func TestEviction(t *testing.T) {
	s := newServer()
	f := New(s, Options{MaxEntries: 10})
	for i := range 100 {
		s.add(fmt.Sprint(i), syscall.S_IFREG)
		f.Forget(lookup(t, f, fmt.Sprint(i), fuse.OK).NodeId, 1)
	}
	if st := f.Stats(); st.Entries != 10 || st.Nodes != 11 || st.Evictions != 90 {
		t.Errorf("got %+v, want 10 entries, 11 nodes, 90 evictions", st)
	}
	s.want(t, "forget", 90)
}

// Many clients on few names, with everything that can invalidate; at the end
// every lookup must be forgotten and the server panics on one too many.
func TestConcurrentBalance(t *testing.T) {
	s := newServer()
	f := New(s, Options{MaxEntries: 4, Exclusive: true})
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			r := rand.New(rand.NewSource(int64(g)))
			for range 2000 {
				name := fmt.Sprint(r.Intn(8))
				var out fuse.EntryOut
				switch r.Intn(8) {
				case 0:
					if f.Mkdir(nil, &fuse.MkdirIn{InHeader: *root()}, name, &out).Ok() {
						f.Forget(out.NodeId, 1)
					}
				case 1:
					f.Unlink(nil, root(), name)
				case 2:
					list := fuse.NewDirEntryList(make([]byte, 4096), 0)
					if f.ReadDirPlus(nil, &fuse.ReadIn{InHeader: *root()}, list).Ok() {
						_, outs, _ := fuse.ParseDirLookupEntries(list.Bytes())
						for _, o := range outs {
							f.Forget(o.NodeId, 1)
						}
					}
				case 3:
					f.InvalEntry(fuse.FUSE_ROOT_ID, name, false)
				default:
					if f.Lookup(nil, root(), name, &out).Ok() {
						f.GetAttr(nil, &fuse.GetAttrIn{InHeader: fuse.InHeader{NodeId: out.NodeId}}, new(fuse.AttrOut))
						f.Forget(out.NodeId, 1)
					}
				}
			}
		})
	}
	wg.Wait()
	for i := range 8 {
		f.InvalEntry(fuse.FUSE_ROOT_ID, fmt.Sprint(i), false)
	}
	if len(s.lookups) != 0 {
		t.Errorf("lookups not forgotten: %v", s.lookups)
	}
	if st := f.Stats(); st.Entries != 0 || st.Nodes != 1 {
		t.Errorf("got %+v, want an empty cache", st)
	}
}

func TestHugeTimeoutsDoNotOverflow(t *testing.T) {
	if got := validity(1<<64-1, 1<<32-1); got != maxValid {
		t.Errorf("got %v, want %v", got, maxValid)
	}
}

func BenchmarkLookupHit(b *testing.B) {
	s := newServer()
	s.add("a", syscall.S_IFREG)
	f := New(s, Options{})
	var out fuse.EntryOut
	b.ReportAllocs()
	for b.Loop() {
		f.Lookup(nil, root(), "a", &out)
	}
}

func TestChildIsAGuess(t *testing.T) {
	s := newServer()
	f := New(s, Options{})
	id := s.add("name", syscall.S_IFREG)
	if _, ok := f.Child(1, "name"); ok {
		t.Error("a name that was never looked up has a node")
	}
	var out fuse.EntryOut
	if st := f.Lookup(nil, &fuse.InHeader{NodeId: 1}, "name", &out); !st.Ok() {
		t.Fatal(st)
	}
	lookups := s.calls["lookup"]
	if got, ok := f.Child(1, "name"); got != id || !ok || s.calls["lookup"] != lookups {
		t.Errorf("got node %d, %v, with %d requests", got, ok, s.calls["lookup"]-lookups)
	}
	for _, dir := range []uint64{1, 99} {
		if _, ok := f.Child(dir, "other"); ok {
			t.Error("a name that does not exist has a node")
		}
	}
}
