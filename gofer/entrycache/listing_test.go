// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package entrycache

import (
	"fmt"
	"math/rand"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
)

// lister is a server whose directories can be listed: the root has the files, in
// order; all others are empty. Offsets are not consecutive.
type lister struct {
	*server
	flags  uint32 // of replies to OPENDIR
	oneFh  bool   // all handles have one number
	nextFh uint64
	mtime  uint64
	off    func(i int) uint64 // offset after entry i
}

const keep = fuse.FOPEN_KEEP_CACHE | fuse.FOPEN_CACHE_DIR

func newLister(names ...string) *lister {
	s := &lister{server: newServer(), flags: keep, off: func(i int) uint64 { return uint64(i)*1000 + 7 }}
	for _, name := range names {
		s.add(name, syscall.S_IFREG|0o644)
	}
	return s
}

func (s *lister) OpenDir(_ <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	s.mu.Lock()
	if !s.oneFh {
		s.nextFh++
	}
	out.Fh, out.OpenFlags = s.nextFh, s.flags
	s.mu.Unlock()
	s.count("opendir")
	return fuse.OK
}

func (s *lister) ReleaseDir(*fuse.ReleaseIn) { s.count("releasedir") }

func (s *lister) GetAttr(_ <-chan struct{}, in *fuse.GetAttrIn, out *fuse.AttrOut) fuse.Status {
	s.mu.Lock()
	out.Attr = s.attr(in.NodeId)
	out.Mtime = s.mtime
	s.mu.Unlock()
	s.count("getattr")
	return fuse.OK
}

// read calls add for each entry from in.Offset on until it reports false.
func (s *lister) read(in *fuse.ReadIn, add func(fuse.DirEntry) bool) {
	if in.NodeId != fuse.FUSE_ROOT_ID {
		return
	}
	names := []string{"."}
	for name := range s.files {
		names = append(names, name)
	}
	slices.Sort(names)
	at := 0
	for i := range names {
		if s.off(i) == in.Offset {
			at = i + 1
		}
	}
	for i, name := range names[at:] {
		if !add(fuse.DirEntry{Name: name, Ino: s.files[name], Mode: s.mode[s.files[name]], Off: s.off(at + i)}) {
			return
		}
	}
}

func (s *lister) ReadDir(_ <-chan struct{}, in *fuse.ReadIn, list *fuse.DirEntryList) fuse.Status {
	s.mu.Lock()
	s.read(in, list.AddDirEntry)
	s.mu.Unlock()
	s.count("readdir")
	return fuse.OK
}

func (s *lister) ReadDirPlus(_ <-chan struct{}, in *fuse.ReadIn, list *fuse.DirEntryList) fuse.Status {
	s.mu.Lock()
	s.read(in, func(e fuse.DirEntry) bool {
		out := list.AddDirLookupEntry(e)
		if out != nil && e.Name != "." {
			s.entry(e.Ino, out)
		}
		return out != nil
	})
	s.mu.Unlock()
	s.count("readdirplus")
	return fuse.OK
}

// took returns how many requests of a kind the server has had since it was last asked.
func (s *lister) took(op string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := s.calls[op]
	s.calls[op] = 0
	return n
}

// dirHandle is an open directory.
type dirHandle struct {
	t      testing.TB
	f      *FS
	id, fh uint64
}

func openDir(t testing.TB, f *FS, id uint64) dirHandle {
	t.Helper()
	var out fuse.OpenOut
	if s := f.OpenDir(nil, &fuse.OpenIn{InHeader: fuse.InHeader{NodeId: id}}, &out); !s.Ok() {
		t.Fatalf("OPENDIR: %v", s)
	}
	return dirHandle{t, f, id, out.Fh}
}

func (d dirHandle) close() {
	d.f.ReleaseDir(&fuse.ReleaseIn{InHeader: fuse.InHeader{NodeId: d.id}, Fh: d.fh})
}

// chunk does one READDIR, or READDIRPLUS, whose lookups it forgets.
func (d dirHandle) chunk(off uint64, plus bool) []fuse.DirEntry {
	d.t.Helper()
	in := &fuse.ReadIn{InHeader: fuse.InHeader{NodeId: d.id}, Fh: d.fh, Offset: off, Size: 1024}
	list := fuse.NewDirEntryList(make([]byte, in.Size), off)
	if !plus {
		if s := d.f.ReadDir(nil, in, list); !s.Ok() {
			d.t.Fatalf("READDIR: %v", s)
		}
		entries, err := fuse.ParseDirEntries(list.Bytes())
		if err != nil {
			d.t.Fatal(err)
		}
		return entries
	}
	if s := d.f.ReadDirPlus(nil, in, list); !s.Ok() {
		d.t.Fatalf("READDIRPLUS: %v", s)
	}
	entries, outs, err := fuse.ParseDirLookupEntries(list.Bytes())
	if err != nil {
		d.t.Fatal(err)
	}
	for i, out := range outs {
		switch {
		case entries[i].Name == ".":
			if out.NodeId != 0 {
				d.t.Errorf("%q is a lookup", entries[i].Name)
			}
		case out.NodeId != entries[i].Ino || out.Attr.Mode&syscall.S_IFMT != entries[i].Mode:
			d.t.Errorf("%+v is %+v", entries[i], out)
		default:
			d.f.Forget(out.NodeId, 1)
		}
	}
	return entries
}

// list reads all, without ".".
func (d dirHandle) list(plus bool) string {
	d.t.Helper()
	var names []string
	for off := uint64(0); ; {
		entries := d.chunk(off, plus)
		if len(entries) == 0 {
			return strings.Join(names, " ")
		}
		for _, e := range entries {
			off = e.Off
			if e.Name != "." {
				names = append(names, e.Name)
			}
		}
	}
}

func many(n int) (names []string) {
	for i := range n {
		names = append(names, fmt.Sprintf("name-%04d", i))
	}
	return names
}

func wantList(t *testing.T, d dirHandle, plus bool, want []string) {
	t.Helper()
	if got := d.list(plus); got != strings.Join(want, " ") {
		t.Errorf("listing: %q, want %q", got, want)
	}
}

func TestListingIsKept(t *testing.T) {
	names := many(100)
	for _, c := range []struct {
		name           string
		flags          uint32
		oneFh          bool
		again, another bool // whether the same handle, and another, are answered from the listing
	}{
		{name: "as the server says", flags: keep, again: true, another: true},
		{name: "no OPENDIR", flags: keep, oneFh: true, again: true, another: true},
		{name: "dropped at open", flags: fuse.FOPEN_CACHE_DIR, again: true},
		{name: "only KEEP_CACHE", flags: fuse.FOPEN_KEEP_CACHE},
		{name: "neither"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newLister(names...)
			s.flags, s.oneFh = c.flags, c.oneFh
			f := New(s, Options{})
			check := func(d dirHandle, cached bool) {
				t.Helper()
				s.took("readdir")
				wantList(t, d, false, names)
				if n := s.took("readdir"); (n == 0) != cached {
					t.Errorf("%d requests, want it cached: %v", n, cached)
				}
			}
			a := openDir(t, f, 1)
			check(a, false)
			check(a, c.again)
			b := openDir(t, f, 1)
			check(b, c.another)
			if got := b.chunk(s.off(90), false); len(got) == 0 || got[0].Name != names[90] || got[0].Off != s.off(91) {
				t.Errorf("from the middle: %+v", got)
			}
			a.close()
			b.close()
			s.want(t, "opendir", 2)
			s.want(t, "releasedir", 2)
			if n := len(f.table.nodes[1].handles); n != 0 {
				t.Errorf("%d handles are left", n)
			}
		})
	}
}

// A handle whose OPENDIR said nothing is not answered from what others have read, even if it has their number.
func TestListingIsForItsHandles(t *testing.T) {
	for _, oneFh := range []bool{false, true} {
		s := newLister(many(3)...)
		s.oneFh = oneFh
		f := New(s, Options{})
		a := openDir(t, f, 1)
		a.list(false)
		s.flags = fuse.FOPEN_KEEP_CACHE
		b := openDir(t, f, 1)
		s.took("readdir")
		b.list(false)
		if s.took("readdir") == 0 {
			t.Error("answered from the listing")
		}
		b.close()
		if a.list(false); !oneFh && s.took("readdir") != 0 {
			t.Error("the other handle is not answered from the listing any more")
		}
	}
}

func TestChangesDropListing(t *testing.T) {
	for name, change := range map[string]func(*FS){
		"mkdir":  func(f *FS) { f.Mkdir(nil, &fuse.MkdirIn{InHeader: *root()}, "new", new(fuse.EntryOut)) },
		"unlink": func(f *FS) { f.Unlink(nil, root(), "name-0001") },
		"failed": func(f *FS) { f.Unlink(nil, root(), "missing") },
		"rename": func(f *FS) { f.Rename(nil, &fuse.RenameIn{InHeader: *root(), Newdir: 1}, "name-0001", "other") },
		"inode":  func(f *FS) { f.InvalInode(1, 0, 0) },
		"entry":  func(f *FS) { f.InvalEntry(1, "name-0001", false) },
		"expire": func(f *FS) { f.InvalEntry(1, "name-0001", true) },
		"delete": func(f *FS) { f.Delete(1, 3, "name-0001") },
	} {
		t.Run(name, func(t *testing.T) {
			s := newLister(many(100)...)
			f := New(s, Options{})
			truth := func() string { return openDir(t, New(s, Options{}), 1).list(false) }
			d := openDir(t, f, 1)
			d.list(false)
			if f.Stats().Listed != 102 {
				t.Errorf("%d names are listed", f.Stats().Listed)
			}
			change(f)
			if f.Stats().Listed != 0 {
				t.Errorf("%d names are still listed", f.Stats().Listed)
			}
			if got, want := d.list(false), truth(); got != want {
				t.Errorf("got %q, want %q", got, want)
			}
			// Between two reads of one listing, and while one is under way.
			for _, during := range []bool{false, true} {
				f.InvalInode(1, 0, 0)
				first := d.chunk(0, false)
				if during {
					s.mu.Lock()
					s.hook = func(op string) {
						if op != "readdir" {
							return
						}
						s.mu.Lock()
						s.hook = nil
						s.mu.Unlock()
						change(f)
					}
					s.mu.Unlock()
				} else {
					change(f)
				}
				for off := first[len(first)-1].Off; ; {
					got := d.chunk(off, false)
					if len(got) == 0 {
						break
					}
					off = got[len(got)-1].Off
				}
				if f.Stats().Listed != 0 {
					t.Errorf("during %v: a listing overtaken by a change is kept", during)
				}
			}
		})
	}
}

// An open that drops the listing also drops that which is being read.
func TestOpenDropsReading(t *testing.T) {
	s := newLister("a")
	s.flags = fuse.FOPEN_CACHE_DIR
	f := New(s, Options{})
	d := openDir(t, f, 1)
	s.hook = func(op string) {
		if op == "readdir" {
			s.hook = nil
			openDir(t, f, 1)
		}
	}
	d.chunk(0, false)
	if n := f.Stats().Listed; n != 0 {
		t.Errorf("%d names are kept", n)
	}
}

func TestAutoInvalData(t *testing.T) {
	names := many(40)
	s := newLister(names...)
	f := New(s, Options{AutoInvalData: true})
	d := openDir(t, f, 1)
	wantList(t, d, false, names)
	s.took("readdir")
	wantList(t, d, false, names)
	if n := s.took("readdir"); n != 0 {
		t.Errorf("%d requests for a directory that has not changed", n)
	}
	names = append(names, "z")
	s.add("z", syscall.S_IFREG)
	s.mtime++
	wantList(t, d, false, names)
	s.took("readdir")
	wantList(t, d, false, names)
	if n := s.took("readdir"); n != 0 {
		t.Errorf("%d requests after the change", n)
	}
}

func TestReadDirPlusFromListing(t *testing.T) {
	names := many(100)
	s := newLister(names...)
	f := New(s, Options{})
	d := openDir(t, f, 1)
	wantList(t, d, true, names)
	s.took("readdirplus")
	wantList(t, d, true, names)
	wantList(t, d, false, names)
	if p, r := s.took("readdirplus"), s.took("readdir"); p+r != 0 {
		t.Errorf("%d requests READDIRPLUS and %d READDIR for what is cached", p, r)
	}
	// One entry is not valid any more: the server is asked once, from there on.
	f.mu.Lock()
	f.table.entryOf(f.table.nodes[1], names[50]).expires = time.Time{}
	f.mu.Unlock()
	wantList(t, d, true, names)
	if n := s.took("readdirplus"); n != 1 {
		t.Errorf("%d requests, want 1", n)
	}
	// Nor are attributes, after a write.
	var out fuse.EntryOut
	if st := f.Lookup(nil, root(), names[0], &out); !st.Ok() {
		t.Fatal(st)
	}
	f.Write(nil, &fuse.WriteIn{InHeader: fuse.InHeader{NodeId: out.NodeId}}, []byte("data"))
	f.Forget(out.NodeId, 1)
	wantList(t, d, true, names)
	if n := s.took("readdirplus"); n != 1 {
		t.Errorf("%d requests, want 1", n)
	}
	// What it gets from the listing the caller holds until it forgets it.
	in := &fuse.ReadIn{InHeader: *root(), Fh: d.fh}
	list := fuse.NewDirEntryList(make([]byte, 64<<10), 0)
	hits := f.Stats().ListHits
	if st := f.ReadDirPlus(nil, in, list); !st.Ok() || f.Stats().ListHits != hits+1 {
		t.Fatalf("%v, %+v", st, f.Stats())
	}
	for _, name := range names {
		f.InvalEntry(1, name, false)
	}
	if len(s.lookups) != len(names) {
		t.Errorf("%d nodes are held, want %d", len(s.lookups), len(names))
	}
	for _, id := range s.files {
		f.Forget(id, 1)
	}
	if len(s.lookups) != 0 {
		t.Errorf("lookups not forgotten: %v", s.lookups)
	}
}

func TestListingBounds(t *testing.T) {
	s := newLister()
	f := New(s, Options{MaxListed: 40})
	var ids []uint64
	for i := range 50 {
		var out fuse.EntryOut
		if st := f.Mkdir(nil, &fuse.MkdirIn{InHeader: *root()}, fmt.Sprint(i), &out); !st.Ok() {
			t.Fatal(st)
		}
		ids = append(ids, out.NodeId)
		openDir(t, f, out.NodeId).list(false)
		openDir(t, f, ids[0]).list(false)
		if n := f.Stats().Listed; n != min(i+1, 40) {
			t.Fatalf("%d listed", n)
		}
	}
	if n := f.Stats().ListHits; n != 50 {
		t.Errorf("the directory that is always in use was answered for %d times of 50", n)
	}
	if d := openDir(t, f, 1); len(d.list(false)) == 0 || f.table.nodes[1].listing != nil {
		t.Error("the listing of a directory that is too large is kept")
	}
	for i, kept := range map[int]bool{0: true, 1: false, 10: false, 11: true, 49: true} {
		if got := f.table.nodes[ids[i]].listing != nil; got != kept {
			t.Errorf("directory %d, used in that order, but for 0: kept %v", i, got)
		}
	}
	// One of them is forgotten while it is being read.
	f.InvalInode(ids[0], 0, 0)
	s.hook = func(op string) {
		s.hook = nil
		f.InvalEntry(1, "0", false)
		f.Forget(ids[0], 1)
	}
	dirHandle{t, f, ids[0], 2}.list(false)
	for i, id := range ids {
		f.InvalEntry(1, fmt.Sprint(i), false)
		f.Forget(id, 1)
	}
	if st := f.Stats(); st.Listed != 0 || st.Nodes != 1 {
		t.Errorf("%+v when all directories are forgotten", st)
	}
}

// Offsets by which one cannot go on are the server's affair.
func TestListingWithBadOffsets(t *testing.T) {
	s := newLister(many(5)...)
	s.off = func(i int) uint64 { return uint64(1 + min(i, 2)) }
	f := New(s, Options{})
	d := openDir(t, f, 1)
	d.chunk(0, false)
	d.chunk(3, false)
	if n := f.Stats().Listed; n != 0 {
		t.Errorf("%d names are kept", n)
	}
}

// An answer without entries is not the end if nothing fits.
func TestSmallReadIsNotTheEnd(t *testing.T) {
	s := newLister("a", "b")
	f := New(s, Options{})
	d := openDir(t, f, 1)
	in := &fuse.ReadIn{InHeader: *root(), Fh: d.fh, Size: 16}
	if st := f.ReadDir(nil, in, fuse.NewDirEntryList(make([]byte, 16), 0)); !st.Ok() {
		t.Fatal(st)
	}
	wantList(t, d, false, []string{"a", "b"})
}

// What was created before a listing began is in it, and lookups are balanced,
// whatever happens at the same time.
func TestListingsConcurrent(t *testing.T) {
	const files = 300
	s := newLister()
	f := New(s, Options{MaxEntries: 200})
	var created atomic.Int64
	name := func(i int64) string { return fmt.Sprintf("%04d", i) }
	var wg sync.WaitGroup
	wg.Go(func() {
		for i := range int64(files) {
			var out fuse.EntryOut
			if f.Mkdir(nil, &fuse.MkdirIn{InHeader: *root()}, name(i), &out).Ok() {
				f.Forget(out.NodeId, 1)
			}
			created.Store(i + 1)
		}
	})
	for g := range 4 {
		wg.Go(func() {
			r := rand.New(rand.NewSource(int64(g)))
			for done := false; !done; {
				before := created.Load()
				done = before == files
				d := openDir(t, f, 1)
				got := strings.Fields(d.list(r.Intn(2) == 0))
				d.close()
				for i := range before {
					if !slices.Contains(got, name(i)) {
						t.Errorf("%s was created before the listing %q", name(i), got)
						return
					}
				}
				if before > 0 && r.Intn(4) == 0 {
					f.InvalEntry(1, name(r.Int63n(before)), false)
				}
			}
		})
	}
	wg.Wait()
	d := openDir(t, f, 1)
	d.list(false)
	s.took("readdir")
	if d.list(false); s.took("readdir") != 0 || f.Stats().ListHits == 0 {
		t.Error("the listing is not kept in the end")
	}
	for i := range int64(files) {
		f.InvalEntry(1, name(i), false)
	}
	if len(s.lookups) != 0 {
		t.Errorf("lookups not forgotten: %v", s.lookups)
	}
	if st := f.Stats(); st.Entries != 0 || st.Nodes != 1 || st.Listed != 0 {
		t.Errorf("got %+v, want an empty cache", st)
	}
}
