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
	"golang.org/x/sys/unix"
)

const (
	dirID   = 2
	firstID = 100
)

// server has one directory with files f0, f1, and so on, whose node IDs are
// firstID and up. It counts what it is asked for.
type server struct {
	fuse.RawFileSystem
	valid time.Duration
	sizes []uint64

	mu      sync.Mutex
	lookups map[uint64]int // outstanding, by node ID
	asked   map[string]int // by operation and file
	open    int
	block   chan struct{} // requests for files wait for it, unless nil
}

func newServer(sizes ...uint64) *server {
	return &server{
		RawFileSystem: fuse.NewDefaultRawFileSystem(), valid: time.Hour, sizes: sizes,
		lookups: map[uint64]int{dirID: 1}, asked: map[string]int{},
	}
}

func equal(n int, size uint64) []uint64 {
	sizes := make([]uint64, n)
	for i := range sizes {
		sizes[i] = size
	}
	return sizes
}

func name(i int) string { return fmt.Sprint("f", i) }

func (s *server) note(op string, i int) {
	s.mu.Lock()
	s.asked[fmt.Sprint(op, " ", i)]++
	block := s.block
	s.mu.Unlock()
	if block != nil {
		<-block
	}
}

// count returns how many files an operation was asked for, and the most often
// for one file.
func (s *server) count(op string) (files, most int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range s.sizes {
		if n := s.asked[fmt.Sprint(op, " ", i)]; n > 0 {
			files++
			most = max(most, n)
		}
	}
	return files, most
}

func (s *server) Lookup(_ <-chan struct{}, h *fuse.InHeader, file string, out *fuse.EntryOut) fuse.Status {
	var i int
	if _, err := fmt.Sscanf(file, "f%d", &i); err != nil || h.NodeId != dirID || i >= len(s.sizes) {
		return fuse.ENOENT
	}
	s.note("lookup", i)
	*out = fuse.EntryOut{NodeId: uint64(firstID + i), Attr: fuse.Attr{Mode: syscall.S_IFREG | 0o644, Size: s.sizes[i], Nlink: 1}}
	out.SetEntryTimeout(s.valid)
	out.SetAttrTimeout(s.valid)
	s.mu.Lock()
	s.lookups[out.NodeId]++
	s.mu.Unlock()
	return fuse.OK
}

func (s *server) Forget(id, n uint64) {
	s.mu.Lock()
	s.lookups[id] -= int(n)
	s.mu.Unlock()
}

func (s *server) ReadDir(_ <-chan struct{}, in *fuse.ReadIn, list *fuse.DirEntryList) fuse.Status {
	for i := int(in.Offset); i < len(s.sizes); i++ {
		if !list.AddDirEntry(fuse.DirEntry{Name: name(i), Mode: syscall.S_IFREG, Ino: uint64(firstID + i), Off: uint64(i + 1)}) {
			break
		}
	}
	return fuse.OK
}

func (s *server) Open(_ <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	s.note("open", int(in.NodeId-firstID))
	s.mu.Lock()
	s.open++
	s.mu.Unlock()
	out.Fh = in.NodeId
	return fuse.OK
}

func (s *server) Release(<-chan struct{}, *fuse.ReleaseIn) {
	s.mu.Lock()
	s.open--
	s.mu.Unlock()
}

func (s *server) ListXAttr(_ <-chan struct{}, h *fuse.InHeader, _ []byte) (uint32, fuse.Status) {
	s.note("xattr", int(h.NodeId-firstID))
	return 0, fuse.OK
}

// checkHeld fails the test unless the server's lookups are what is wanted: those
// of the directory, and one for each file the caller looked up.
func (s *server) checkHeld(t *testing.T, dir, files int) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	held := 0
	for id, n := range s.lookups {
		if n < 0 {
			t.Errorf("node %d was forgotten %d times too often", id, -n)
		}
		if id != dirID {
			held += n
		}
	}
	if held != files || s.lookups[dirID] != dir {
		t.Errorf("the server holds %d lookups of files and %d of the directory, want %d and %d", held, s.lookups[dirID], files, dir)
	}
	if s.open != 0 {
		t.Errorf("%d files are open", s.open)
	}
}

// listAll reads the whole directory.
func listAll(t *testing.T, f *FS) {
	t.Helper()
	for off := uint64(0); ; {
		l := fuse.NewDirEntryList(make([]byte, 8<<10), off)
		if s := f.ReadDir(nil, &fuse.ReadIn{InHeader: fuse.InHeader{NodeId: dirID}, Offset: off, Size: 8 << 10}, l); !s.Ok() {
			t.Fatal(s)
		}
		entries, err := fuse.ParseDirEntries(l.Bytes())
		if err != nil {
			t.Fatal(err)
		}
		if len(entries) == 0 {
			return
		}
		off = entries[len(entries)-1].Off
	}
}

func lookup(t *testing.T, f *FS, i int) {
	t.Helper()
	var out fuse.EntryOut
	if s := f.Lookup(nil, &fuse.InHeader{NodeId: dirID}, name(i), &out); !s.Ok() || out.NodeId != uint64(firstID+i) {
		t.Fatalf("lookup of %s: node %d, %v", name(i), out.NodeId, s)
	}
}

func openFile(t *testing.T, f *FS, i int) {
	t.Helper()
	var out fuse.OpenOut
	h := fuse.InHeader{NodeId: uint64(firstID + i)}
	if s := f.Open(nil, &fuse.OpenIn{InHeader: h}, &out); !s.Ok() {
		t.Fatal(s)
	}
	f.Release(nil, &fuse.ReleaseIn{InHeader: h, Fh: out.Fh})
}

func TestLookupsInOrderAreFetchedAhead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer(equal(1000, 10)...)
		f := New(s, Options{Entries: true})
		listAll(t, f)
		for i := range minStreak {
			lookup(t, f, i)
		}
		synctest.Wait()
		if n, _ := s.count("lookup"); n != minStreak {
			t.Errorf("%d files were looked up after %d steps", n, minStreak)
		}
		lookup(t, f, minStreak)
		synctest.Wait()
		if n, most := s.count("lookup"); n != minStreak+1+minWindow || most != 1 {
			t.Errorf("%d files were looked up, up to %d times, want %d", n, most, minStreak+1+minWindow)
		}
		f.OnUnmount()
		s.checkHeld(t, 1, minStreak+1)
	})
}

func TestOtherOrdersAreLeftAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer(equal(1000, 10)...)
		f := New(s, Options{Entries: true, Data: true})
		listAll(t, f)
		asked := []int{500, 3, 900, 2, 1, 0, 77, 83, 90}
		for _, i := range asked {
			lookup(t, f, i)
			openFile(t, f, i)
		}
		synctest.Wait()
		if n, _ := s.count("lookup"); n != len(asked) {
			t.Errorf("%d files were looked up, want %d", n, len(asked))
		}
		f.OnUnmount()
		s.checkHeld(t, 1, len(asked))
	})
}

func TestSmallFilesAreOpenedAhead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sizes := equal(40, 10)
		sizes[10], sizes[11] = maxFile+1, 0
		s := newServer(sizes...)
		f := New(s, Options{Entries: true, Xattrs: true, Data: true})
		listAll(t, f)
		for i := range sizes {
			lookup(t, f, i)
			openFile(t, f, i)
			synctest.Wait()
		}
		f.OnUnmount()
		if n := s.asked["open 10"] + s.asked["open 11"]; n != 2 {
			t.Errorf("a large and an empty file were opened %d times, want once each", n)
		}
		if n := s.asked["open 20"]; n != 2 {
			t.Errorf("a small file was opened %d times, want once ahead and once by its reader", n)
		}
		if n, _ := s.count("xattr"); n != 0 {
			t.Errorf("attributes of %d files were listed though nobody asked", n)
		}
		s.checkHeld(t, 1, len(sizes))
	})
}

func TestXattrsAreListedAhead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer(equal(100, 10)...)
		f := New(s, Options{Xattrs: true})
		listAll(t, f)
		for i := range 3 {
			lookup(t, f, i)
			f.GetXAttr(nil, &fuse.InHeader{NodeId: uint64(firstID + i)}, "user.a", nil)
			f.GetXAttr(nil, &fuse.InHeader{NodeId: uint64(firstID + i)}, "user.b", nil)
		}
		synctest.Wait()
		if n, most := s.count("xattr"); n != minWindow || most != 1 {
			t.Errorf("attributes of %d files were listed, up to %d times, want %d and once", n, most, minWindow)
		}
		f.OnUnmount()
		s.checkHeld(t, 1, 3)
	})
}

// A reader that comes to a file under way waits for it instead of asking again.
func TestReaderWaitsForFetch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer(equal(100, 10)...)
		f := New(s, Options{Entries: true})
		listAll(t, f)
		for i := range minStreak {
			lookup(t, f, i)
		}
		block := make(chan struct{})
		s.mu.Lock()
		s.block = block
		s.mu.Unlock()
		go func() {
			var out fuse.EntryOut
			f.Lookup(nil, &fuse.InHeader{NodeId: dirID}, name(minStreak), &out)
		}()
		synctest.Wait()

		cancel := make(chan struct{})
		done := make(chan struct{})
		go func() {
			defer close(done)
			var out fuse.EntryOut
			f.Lookup(cancel, &fuse.InHeader{NodeId: dirID}, name(minStreak+1), &out)
		}()
		synctest.Wait()
		key := fmt.Sprint("lookup ", minStreak+1)
		if n := s.asked[key]; n != 1 {
			t.Fatalf("%d lookups of a file under way, want 1", n)
		}
		close(cancel) // the reader now asks by itself: the server decides what to do
		synctest.Wait()
		if n := s.asked[key]; n != 2 {
			t.Errorf("%d lookups after the reader gave up waiting, want 2", n)
		}
		close(block)
		<-done
		f.OnUnmount()
		s.checkHeld(t, 1, minStreak+2)
	})
}

func TestNoUseWithoutValidity(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer(equal(1000, 10)...)
		s.valid = 0
		f := New(s, Options{Entries: true})
		listAll(t, f)
		for i := range 500 {
			lookup(t, f, i)
			synctest.Wait()
		}
		if n, _ := s.count("lookup"); n > 500+minWindow {
			t.Errorf("%d files were looked up for 500 that were wanted", n)
		}
		f.OnUnmount()
		s.checkHeld(t, 1, 500)
	})
}

// The directory's node must not be reused while its listing is kept.
func TestForgetIsHeldBack(t *testing.T) {
	s := newServer(equal(10, 10)...)
	f := New(s, Options{Entries: true})
	listAll(t, f)
	f.Forget(dirID, 1)
	s.checkHeld(t, 1, 0)
	f.OnUnmount()
	s.checkHeld(t, 0, 0)
}

func TestListingsAreBounded(t *testing.T) {
	s := newServer(equal(maxEntries, 0)...)
	f := New(s, Options{Entries: true})
	listAll(t, f)
	listAll(t, f) // again: it replaces the first
	if f.size > maxEntries || f.size < maxEntries/2 {
		t.Errorf("%d entries are kept, at most %d are allowed", f.size, maxEntries)
	}
	// Directories that are empty but for one name.
	for id := uint64(1000); id < 1000+2*maxEntries; id++ {
		f.learn(&fuse.ReadIn{InHeader: fuse.InHeader{NodeId: id}}, []fuse.DirEntry{{Name: "x", Off: 1}}, nil)
	}
	if f.size > maxEntries || len(f.dirs) != f.lru.Len() {
		t.Errorf("%d entries in %d directories are kept, %d in the list", f.size, len(f.dirs), f.lru.Len())
	}
	f.OnUnmount()
	if f.size != 0 || len(f.places) != 0 {
		t.Errorf("%d entries and %d places are left", f.size, len(f.places))
	}
}

// Readers, writers of listings and forgets at once; for the race detector.
func TestConcurrentReaders(t *testing.T) {
	s := newServer(equal(300, 10)...)
	f := New(s, Options{Entries: true, Xattrs: true, Data: true})
	var wg sync.WaitGroup
	const readers = 4
	for range readers {
		wg.Go(func() {
			for range 3 {
				listAll(t, f)
				for i := range s.sizes {
					var out fuse.EntryOut
					if st := f.Lookup(nil, &fuse.InHeader{NodeId: dirID}, name(i), &out); !st.Ok() {
						t.Error(st)
						return
					}
					f.GetXAttr(nil, &fuse.InHeader{NodeId: out.NodeId}, "user.a", nil)
					openFile(t, f, i)
					f.Forget(out.NodeId, 1)
				}
			}
		})
	}
	wg.Wait()
	var in fuse.OpenIn
	in.Flags = unix.O_WRONLY
	in.NodeId = firstID
	var out fuse.OpenOut
	f.Open(nil, &in, &out)
	f.Release(nil, &fuse.ReleaseIn{})
	f.OnUnmount()
	s.checkHeld(t, 1, 0)
}
