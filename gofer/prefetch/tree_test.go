// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package prefetch

import (
	"fmt"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
)

// tree is a server with directories in the root, each with directories or files:
// an ID is 1 for the root, 1001 and up in the root, and of those a thousand times
// as much and more below it.
type tree struct {
	fuse.RawFileSystem
	dirs, below int
	deep        bool // what is below are directories, with nothing in them

	mu      sync.Mutex
	lookups map[uint64]int // outstanding, by node ID
	asked   map[string]int // by operation and node
	open    int            // directories
}

func newTree(dirs, below int) *tree {
	return &tree{
		RawFileSystem: fuse.NewDefaultRawFileSystem(), dirs: dirs, below: below,
		lookups: map[uint64]int{}, asked: map[string]int{},
	}
}

func childID(dir uint64, i int) uint64 { return dir*1000 + 1 + uint64(i) }

// children returns how many there are, and their type.
func (s *tree) children(id uint64) (n int, typ uint32) {
	switch {
	case id == fuse.FUSE_ROOT_ID:
		return s.dirs, syscall.S_IFDIR
	case id > 1000*1000:
		return 0, 0
	case s.deep:
		return s.below, syscall.S_IFDIR
	}
	return s.below, syscall.S_IFREG
}

func (s *tree) note(op string, id uint64) {
	s.mu.Lock()
	s.asked[fmt.Sprint(op, " ", id)]++
	s.mu.Unlock()
}

// times returns how often an operation was asked for.
func (s *tree) times(op string, id uint64) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.asked[fmt.Sprint(op, " ", id)]
}

func (s *tree) entry(id uint64, typ uint32, out *fuse.EntryOut) {
	*out = fuse.EntryOut{NodeId: id, Attr: fuse.Attr{Mode: typ | 0o755, Nlink: 1, Size: 10}}
	out.SetEntryTimeout(time.Hour)
	out.SetAttrTimeout(time.Hour)
	s.mu.Lock()
	s.lookups[id]++
	s.mu.Unlock()
}

func (s *tree) Lookup(_ <-chan struct{}, h *fuse.InHeader, name string, out *fuse.EntryOut) fuse.Status {
	var i int
	n, typ := s.children(h.NodeId)
	if _, err := fmt.Sscanf(name, "n%d", &i); err != nil || i >= n {
		return fuse.ENOENT
	}
	s.note("lookup", childID(h.NodeId, i))
	s.entry(childID(h.NodeId, i), typ, out)
	return fuse.OK
}

func (s *tree) Forget(id, n uint64) {
	s.mu.Lock()
	s.lookups[id] -= int(n)
	s.mu.Unlock()
}

func (s *tree) OpenDir(_ <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	s.note("opendir", in.NodeId)
	s.mu.Lock()
	s.open++
	s.mu.Unlock()
	out.Fh = in.NodeId
	return fuse.OK
}

func (s *tree) ReleaseDir(*fuse.ReleaseIn) {
	s.mu.Lock()
	s.open--
	s.mu.Unlock()
}

func (s *tree) read(in *fuse.ReadIn, add func(fuse.DirEntry) bool) {
	s.note("readdir", in.NodeId)
	n, typ := s.children(in.NodeId)
	for i := int(in.Offset); i < n; i++ {
		if !add(fuse.DirEntry{Name: fmt.Sprint("n", i), Mode: typ, Ino: childID(in.NodeId, i), Off: uint64(i + 1)}) {
			return
		}
	}
}

func (s *tree) ReadDir(_ <-chan struct{}, in *fuse.ReadIn, list *fuse.DirEntryList) fuse.Status {
	s.read(in, list.AddDirEntry)
	return fuse.OK
}

func (s *tree) ReadDirPlus(_ <-chan struct{}, in *fuse.ReadIn, list *fuse.DirEntryList) fuse.Status {
	s.read(in, func(e fuse.DirEntry) bool {
		out := list.AddDirLookupEntry(e)
		if out != nil {
			s.entry(e.Ino, e.Mode, out)
		}
		return out != nil
	})
	return fuse.OK
}

// walker is a client of a tree. It keeps what it has looked up.
type walker struct {
	t    *testing.T
	f    *FS
	held map[uint64]int
}

func (w walker) lookup(dir uint64, i int) {
	w.t.Helper()
	var out fuse.EntryOut
	if s := w.f.Lookup(nil, &fuse.InHeader{NodeId: dir}, fmt.Sprint("n", i), &out); !s.Ok() || out.NodeId != childID(dir, i) {
		w.t.Fatalf("lookup of %d in %d: node %d, %v", i, dir, out.NodeId, s)
	}
	w.held[out.NodeId]++
}

// list reads a directory.
func (w walker) list(dir uint64) {
	w.t.Helper()
	h := fuse.InHeader{NodeId: dir}
	var open fuse.OpenOut
	if s := w.f.OpenDir(nil, &fuse.OpenIn{InHeader: h}, &open); !s.Ok() {
		w.t.Fatal(s)
	}
	for off := uint64(0); ; {
		l := fuse.NewDirEntryList(make([]byte, 1024), off)
		if s := w.f.ReadDir(nil, &fuse.ReadIn{InHeader: h, Fh: open.Fh, Offset: off, Size: 1024}, l); !s.Ok() {
			w.t.Fatal(s)
		}
		found, err := fuse.ParseDirEntries(l.Bytes())
		if err != nil {
			w.t.Fatal(err)
		}
		if len(found) == 0 {
			break
		}
		off = found[len(found)-1].Off
	}
	w.f.ReleaseDir(&fuse.ReleaseIn{InHeader: h, Fh: open.Fh})
}

// walkTree runs a test with a tree and checks that nothing is held in the end but what
// the walker holds.
func walkTree(t *testing.T, s *tree, o Options, walk func(walker)) {
	synctest.Test(t, func(t *testing.T) {
		w := walker{t, New(s, o), map[uint64]int{}}
		walk(w)
		w.f.OnUnmount()
		if s.open != 0 {
			t.Errorf("%d directories are open", s.open)
		}
		for id, n := range s.lookups {
			if n != w.held[id] {
				t.Errorf("the server holds %d lookups of node %d, want %d", n, id, w.held[id])
			}
		}
		if w.f.size != 0 || len(w.f.places) != 0 || w.f.fetchers != [kinds]int{} {
			t.Errorf("%d entries, %d places and fetchers %v are left", w.f.size, len(w.f.places), w.f.fetchers)
		}
	})
}

func TestDirectoriesInOrderAreReadAhead(t *testing.T) {
	for _, o := range []Options{{Listings: true}, {Listings: true, Plus: true}, {Entries: true}} {
		s := newTree(100, 20)
		walkTree(t, s, o, func(w walker) {
			const steps = minStreak + 1
			w.list(fuse.FUSE_ROOT_ID)
			for i := range steps {
				w.lookup(fuse.FUSE_ROOT_ID, i)
				w.list(childID(fuse.FUSE_ROOT_ID, i))
				synctest.Wait()
			}
			for i := range s.dirs {
				want := 0
				if i < steps || o.Listings && i < steps+minDirWindow {
					want = 1
				}
				id := childID(fuse.FUSE_ROOT_ID, i)
				if n := s.times("opendir", id); n != want {
					t.Errorf("%+v: directory %d was opened %d times, want %d", o, i, n, want)
				}
				if n := s.times("readdir", id); n > 2*want {
					t.Errorf("%+v: directory %d was read %d times", o, i, n)
				}
			}
		})
	}
}

func TestDirectoriesInDirectoriesAreReadAhead(t *testing.T) {
	s := newTree(5, 5)
	s.deep = true
	walkTree(t, s, Options{Listings: true}, func(w walker) {
		w.list(fuse.FUSE_ROOT_ID)
		for i := range 4 {
			w.lookup(fuse.FUSE_ROOT_ID, i)
			w.list(childID(fuse.FUSE_ROOT_ID, i))
			synctest.Wait()
		}
		for i := range 5 {
			// That it goes on into the subdirectories is known of the last one.
			want := 0
			if i == 3 {
				want = 1
			}
			for j := range 5 {
				if n := s.times("opendir", childID(childID(fuse.FUSE_ROOT_ID, i), j)); n != want {
					t.Errorf("directory %d of directory %d was opened %d times, want %d", j, i, n, want)
				}
			}
		}
	})
}

// Who comes to the end of a directory goes on with the one that follows.
func TestFilesOfTheNextDirectoryAreFetched(t *testing.T) {
	const files = 100
	s := newTree(3, files)
	walkTree(t, s, Options{Entries: true, Listings: true}, func(w walker) {
		w.list(fuse.FUSE_ROOT_ID)
		w.lookup(fuse.FUSE_ROOT_ID, 0)
		first, second := childID(fuse.FUSE_ROOT_ID, 0), childID(fuse.FUSE_ROOT_ID, 1)
		w.list(first)
		for i := range files {
			w.lookup(first, i)
			synctest.Wait()
		}
		for i := range minWindow {
			if n := s.times("lookup", childID(second, i)); n != 1 {
				t.Errorf("file %d of the second directory was looked up %d times, want once", i, n)
			}
		}
		if n := s.times("opendir", childID(fuse.FUSE_ROOT_ID, 2)); n != 0 {
			t.Error("the third directory was opened")
		}
		w.lookup(fuse.FUSE_ROOT_ID, 1)
		w.list(second)
		for i := range files {
			w.lookup(second, i)
			synctest.Wait()
		}
		if n := s.times("opendir", childID(fuse.FUSE_ROOT_ID, 2)); n != 1 {
			t.Errorf("the third directory was opened %d times, want once", n)
		}
	})
}

// Who has names from elsewhere asks for them without reading the directory.
func TestUnlistedDirectoryIsRead(t *testing.T) {
	s := newTree(3, 100)
	walkTree(t, s, Options{Entries: true, Listings: true}, func(w walker) {
		w.lookup(fuse.FUSE_ROOT_ID, 1)
		dir := childID(fuse.FUSE_ROOT_ID, 1)
		for i := range minStreak {
			w.lookup(dir, i)
		}
		var out fuse.EntryOut
		for range 10 {
			w.f.Lookup(nil, &fuse.InHeader{NodeId: dir}, "missing", &out)
		}
		synctest.Wait()
		if n := s.times("opendir", dir); n != 0 {
			t.Fatalf("it was opened after %d files", minStreak)
		}
		for i := range 2 * minStreak {
			w.lookup(dir, minStreak+i)
			synctest.Wait()
		}
		if n := s.times("opendir", dir); n != 1 {
			t.Errorf("it was opened %d times, want once", n)
		}
		w.lookup(dir, 3*minStreak)
		synctest.Wait()
		if n := s.times("lookup", childID(dir, 3*minStreak+1)); n != 1 {
			t.Errorf("the next file was looked up %d times, want once", n)
		}
		// The node stays while its listing is kept.
		w.f.Forget(dir, 1)
		w.held[dir]--
		if n := s.lookups[dir]; n != 1 {
			t.Errorf("the server holds %d lookups of the directory, want 1", n)
		}
	})
}

func TestLongListingIsNotReadAhead(t *testing.T) {
	s := newTree(10, 3*maxListing)
	walkTree(t, s, Options{Listings: true}, func(w walker) {
		w.list(fuse.FUSE_ROOT_ID)
		for i := range minStreak + 1 {
			w.lookup(fuse.FUSE_ROOT_ID, i)
			w.list(childID(fuse.FUSE_ROOT_ID, i))
		}
		synctest.Wait()
		d := w.f.dirs[childID(fuse.FUSE_ROOT_ID, minStreak+1)]
		if d == nil || d.whole || len(d.names) < maxListing || len(d.names) > 2*maxListing+1000 {
			t.Errorf("got %+v, want the beginning", d)
		}
	})
}
