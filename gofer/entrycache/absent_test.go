// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package entrycache

import (
	"fmt"
	"math/rand"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// tree is a file system of directories and files that takes names for the same as
// the worst of them do: upper and lower case, also of letters that are not ASCII, and
// whatever dots and blanks there are at the end.
type tree struct {
	fuse.RawFileSystem

	mu    sync.Mutex
	dirs  map[uint64]map[string]uint64 // by node: node by folded name
	last  uint64
	asked int          // LOOKUPs
	hook  func(string) // called with the name, before the reply of MKDIR
}

func newTree() *tree {
	return &tree{RawFileSystem: fuse.NewDefaultRawFileSystem(), last: 1, dirs: map[uint64]map[string]uint64{1: {}}}
}

func foldName(name string) string {
	// 'ſ' and the Kelvin sign are 's' and 'k'.
	return strings.ToLower(strings.ToUpper(strings.NewReplacer("\u212a", "k").Replace(strings.TrimRight(name, ". "))))
}

func (s *tree) fill(id uint64, out *fuse.EntryOut) {
	*out = fuse.EntryOut{NodeId: id, Attr: fuse.Attr{Ino: id, Mode: syscall.S_IFREG | 0o644, Nlink: 1}}
	if s.dirs[id] != nil {
		out.Attr.Mode = syscall.S_IFDIR | 0o755
	}
	out.SetEntryTimeout(time.Nanosecond) // known, but always to be asked for again
}

func (s *tree) Lookup(_ <-chan struct{}, h *fuse.InHeader, name string, out *fuse.EntryOut) fuse.Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asked++
	id, ok := s.dirs[h.NodeId][foldName(name)]
	if !ok {
		return fuse.ENOENT
	}
	s.fill(id, out)
	return fuse.OK
}

func (s *tree) make(dir uint64, name string, isDir bool, out *fuse.EntryOut) fuse.Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.dirs[dir] == nil {
		return fuse.ENOENT
	}
	if s.dirs[dir][foldName(name)] != 0 {
		return fuse.Status(unix.EEXIST)
	}
	s.last++
	s.dirs[dir][foldName(name)] = s.last
	if isDir {
		s.dirs[s.last] = map[string]uint64{}
	}
	s.fill(s.last, out)
	return fuse.OK
}

func (s *tree) Mkdir(_ <-chan struct{}, in *fuse.MkdirIn, name string, out *fuse.EntryOut) fuse.Status {
	status := s.make(in.NodeId, name, true, out)
	if s.hook != nil {
		s.hook(name)
	}
	return status
}

func (s *tree) Mknod(_ <-chan struct{}, in *fuse.MknodIn, name string, out *fuse.EntryOut) fuse.Status {
	return s.make(in.NodeId, name, false, out)
}

func (s *tree) Create(_ <-chan struct{}, in *fuse.CreateIn, name string, out *fuse.CreateOut) fuse.Status {
	return s.make(in.NodeId, name, false, &out.EntryOut)
}

func (s *tree) Symlink(_ <-chan struct{}, h *fuse.InHeader, target, name string, out *fuse.EntryOut) fuse.Status {
	return s.make(h.NodeId, name, false, out)
}

func (s *tree) Link(_ <-chan struct{}, in *fuse.LinkIn, name string, out *fuse.EntryOut) fuse.Status {
	return s.make(in.NodeId, name, false, out) // near enough
}

func (s *tree) Unlink(_ <-chan struct{}, h *fuse.InHeader, name string) fuse.Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.dirs[h.NodeId][foldName(name)] == 0 {
		return fuse.ENOENT
	}
	delete(s.dirs[h.NodeId], foldName(name))
	return fuse.OK
}

func (s *tree) Rename(_ <-chan struct{}, in *fuse.RenameIn, from, to string) fuse.Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	id := s.dirs[in.NodeId][foldName(from)]
	if id == 0 || s.dirs[in.Newdir] == nil {
		return fuse.ENOENT
	}
	if there := s.dirs[in.Newdir][foldName(to)]; s.dirs[there] != nil && s.dirs[id] != nil && there != id {
		// A server may keep the node that the place of a directory had.
		s.dirs[there] = s.dirs[id]
		s.dirs[id] = map[string]uint64{}
		id = there
	}
	delete(s.dirs[in.NodeId], foldName(from))
	s.dirs[in.Newdir][foldName(to)] = id
	return fuse.OK
}

func (s *tree) ReadDir(_ <-chan struct{}, in *fuse.ReadIn, list *fuse.DirEntryList) fuse.Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	for name, id := range s.dirs[in.NodeId] {
		list.AddDirEntry(fuse.DirEntry{Name: name, Ino: id, Mode: syscall.S_IFREG})
	}
	return fuse.OK
}

func (s *tree) ReadDirPlus(_ <-chan struct{}, in *fuse.ReadIn, list *fuse.DirEntryList) fuse.Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	for name, id := range s.dirs[in.NodeId] {
		if out := list.AddDirLookupEntry(fuse.DirEntry{Name: name, Ino: id, Mode: syscall.S_IFREG}); out != nil {
			s.fill(id, out)
		}
	}
	return fuse.OK
}

// mkdirIn makes a directory, which the caller holds, and returns its node.
func mkdirIn(t *testing.T, f *FS, dir uint64, name string) uint64 {
	t.Helper()
	var out fuse.EntryOut
	if s := f.Mkdir(nil, &fuse.MkdirIn{InHeader: fuse.InHeader{NodeId: dir}}, name, &out); !s.Ok() {
		t.Fatalf("mkdir %q: %v", name, s)
	}
	return out.NodeId
}

func mknodIn(t *testing.T, f *FS, dir uint64, name string) {
	t.Helper()
	var out fuse.EntryOut
	if s := f.Mknod(nil, &fuse.MknodIn{InHeader: fuse.InHeader{NodeId: dir}}, name, &out); !s.Ok() {
		t.Fatalf("mknod %q: %v", name, s)
	}
}

// asks reports whether a lookup of name in dir reaches the server.
func (s *tree) asks(f *FS, dir uint64, name string) bool {
	before := s.asked
	var out fuse.EntryOut
	f.Lookup(nil, &fuse.InHeader{NodeId: dir}, name, &out)
	return s.asked != before
}

func TestNewDirectoryHasNoNames(t *testing.T) {
	s := newTree()
	f := New(s, Options{Exclusive: true})
	d := mkdirIn(t, f, 1, "d")
	if s.asks(f, d, "file") {
		t.Error("a lookup in a new directory reached the server")
	}
	mknodIn(t, f, d, "File-1.txt")
	for _, name := range []string{"File-1.txt", "file-1.TXT"} {
		if !s.asks(f, d, name) {
			t.Errorf("lookup of %q after File-1.txt was created: the server was not asked", name)
		}
	}
	if s.asks(f, d, "File-2.txt") {
		t.Error("a lookup of another name reached the server")
	}
	if !s.asks(f, 1, "file") {
		t.Error("a lookup in a directory of unknown origin did not reach the server")
	}
	for _, name := range []string{".hidden", "a.", "a ", " a", "a:b", "FOO~1", "ä", "\x01", strings.Repeat("a", maxPlainName+1)} {
		if !s.asks(f, d, name) {
			t.Errorf("lookup of %q: the server was not asked", name)
		}
	}
}

func TestNewDirectoryOfOthers(t *testing.T) {
	s := newTree()
	f := New(s, Options{})
	if d := mkdirIn(t, f, 1, "d"); !s.asks(f, d, "file") {
		t.Error("others may have put names into the directory, but the server was not asked")
	}
}

// TestNewDirectoryGetsNames puts a name into a directory in all ways there are.
func TestNewDirectoryGetsNames(t *testing.T) {
	header := func(id uint64) fuse.InHeader { return fuse.InHeader{NodeId: id} }
	for what, put := range map[string]func(f *FS, d uint64) fuse.Status{
		"mkdir": func(f *FS, d uint64) fuse.Status {
			return f.Mkdir(nil, &fuse.MkdirIn{InHeader: header(d)}, "new", new(fuse.EntryOut))
		},
		"mknod": func(f *FS, d uint64) fuse.Status {
			return f.Mknod(nil, &fuse.MknodIn{InHeader: header(d)}, "new", new(fuse.EntryOut))
		},
		"create": func(f *FS, d uint64) fuse.Status {
			return f.Create(nil, &fuse.CreateIn{InHeader: header(d)}, "new", new(fuse.CreateOut))
		},
		"symlink": func(f *FS, d uint64) fuse.Status {
			h := header(d)
			return f.Symlink(nil, &h, "target", "new", new(fuse.EntryOut))
		},
		"link": func(f *FS, d uint64) fuse.Status {
			return f.Link(nil, &fuse.LinkIn{InHeader: header(d), Oldnodeid: 1}, "new", new(fuse.EntryOut))
		},
		"rename": func(f *FS, d uint64) fuse.Status {
			return f.Rename(nil, &fuse.RenameIn{InHeader: header(1), Newdir: d}, "old", "new")
		},
	} {
		t.Run(what, func(t *testing.T) {
			s := newTree()
			f := New(s, Options{Exclusive: true})
			mknodIn(t, f, 1, "old")
			d := mkdirIn(t, f, 1, "d")
			if status := put(f, d); !status.Ok() {
				t.Fatal(status)
			}
			if !s.asks(f, d, "NEW") {
				t.Error("the server was not asked")
			}
			if s.asks(f, d, "other") {
				t.Error("the server was asked for a name that was not put there")
			}
		})
	}
}

// TestNewDirectoryIsUnknown lists what ends the knowledge of a directory's names.
func TestNewDirectoryIsUnknown(t *testing.T) {
	type dir struct {
		s *tree
		f *FS
		d uint64
	}
	behind := func(d dir) { d.s.make(d.d, "surprise", false, new(fuse.EntryOut)) }
	for what, end := range map[string]func(t *testing.T, d dir){
		"InvalInode": func(t *testing.T, d dir) { d.f.InvalInode(d.d, 0, 0) },
		"InvalEntry": func(t *testing.T, d dir) { d.f.InvalEntry(d.d, "x", false) },
		"Delete":     func(t *testing.T, d dir) { d.f.Delete(d.d, 99, "x") },
		"IncEpoch":   func(t *testing.T, d dir) { d.f.IncEpoch() },
		"time":       func(t *testing.T, d dir) { d.f.table.nodes[d.d].made.until = time.Now().Add(-time.Nanosecond) },
		"non-ASCII":  func(t *testing.T, d dir) { mknodIn(t, d.f, d.d, "\u212a") },
		"dot at end": func(t *testing.T, d dir) { mknodIn(t, d.f, d.d, "a.") },
		"hidden, dot at end": func(t *testing.T, d dir) {
			mknodIn(t, d.f, d.d, ".a.")
		},
		"name exists": func(t *testing.T, d dir) {
			behind(d)
			if s := d.f.Mknod(nil, &fuse.MknodIn{InHeader: fuse.InHeader{NodeId: d.d}}, "surprise", new(fuse.EntryOut)); s != fuse.Status(unix.EEXIST) {
				t.Fatal(s)
			}
		},
		"name listed": func(t *testing.T, d dir) {
			behind(d)
			d.f.ReadDir(nil, &fuse.ReadIn{InHeader: fuse.InHeader{NodeId: d.d}}, fuse.NewDirEntryList(make([]byte, 4096), 0))
		},
		"name listed with attributes": func(t *testing.T, d dir) {
			behind(d)
			d.f.ReadDirPlus(nil, &fuse.ReadIn{InHeader: fuse.InHeader{NodeId: d.d}}, fuse.NewDirEntryList(make([]byte, 4096), 0))
		},
		"directory moved": func(t *testing.T, d dir) {
			mkdirIn(t, d.f, 1, "full")
			if s := d.f.Rename(nil, &fuse.RenameIn{InHeader: *root(), Newdir: 1}, "full", "d"); !s.Ok() {
				t.Fatal(s)
			}
		},
	} {
		t.Run(what, func(t *testing.T) {
			s := newTree()
			d := dir{s: s, f: New(s, Options{Exclusive: true})}
			d.d = mkdirIn(t, d.f, 1, "d")
			if s.asks(d.f, d.d, "other") {
				t.Fatal("the server was asked before")
			}
			end(t, d)
			if !s.asks(d.f, d.d, "other") {
				t.Error("the server was not asked")
			}
		})
	}
}

func TestHiddenNamesAreNoSurprise(t *testing.T) {
	s := newTree()
	f := New(s, Options{Exclusive: true})
	d := mkdirIn(t, f, 1, "d")
	mknodIn(t, f, d, ".gitignore")
	if s.asks(f, d, "other") {
		t.Error("a lookup of another name reached the server")
	}
	if !s.asks(f, d, ".gitignore") {
		t.Error("the lookup of a hidden name did not reach the server")
	}
}

// TestDirectoryFoundWhileItIsMade fills a directory before the reply of its MKDIR has
// arrived.
func TestDirectoryFoundWhileItIsMade(t *testing.T) {
	s := newTree()
	f := New(s, Options{Exclusive: true})
	s.hook = func(string) {
		s.hook = nil
		mknodIn(t, f, lookup(t, f, "d", fuse.OK).NodeId, "early")
	}
	d := mkdirIn(t, f, 1, "d")
	if !s.asks(f, d, "early") {
		t.Error("the server was not asked")
	}
}

func TestNamesOfNewDirectoriesAreBounded(t *testing.T) {
	s := newTree()
	f := New(s, Options{Exclusive: true})
	first, second := mkdirIn(t, f, 1, "first"), mkdirIn(t, f, 1, "second")
	f.mu.Lock()
	for i := range maxMadeNames {
		f.table.naming(f.table.nodes[second], fmt.Sprint("name", i))
	}
	if f.table.madeDirs.size > maxMadeNames {
		t.Errorf("%d names kept, at most %d allowed", f.table.madeDirs.size, maxMadeNames)
	}
	f.unlock()
	for _, d := range []uint64{first, second} {
		if !s.asks(f, d, "other") {
			t.Error("a directory beyond the bound: the server was not asked")
		}
		f.Forget(d, 1)
	}
	third := mkdirIn(t, f, 1, "third")
	if s.asks(f, third, "other") {
		t.Error("the server was asked for a name in a new directory")
	}
	f.Forget(third, 1)
	f.mu.Lock()
	f.table.evict(0)
	f.unlock()
	if n := f.table.madeDirs.size; n != 0 {
		t.Errorf("%d names kept of directories that are forgotten", n)
	}
}

// TestAbsentNamesAreAbsent compares lookups with what the server has while names come
// and go at random.
func TestAbsentNamesAreAbsent(t *testing.T) {
	s := newTree()
	f := New(s, Options{Exclusive: true})
	r := rand.New(rand.NewSource(1))
	names := []string{"a", "A", "b.c", "B.C", "b.c.", "k", "\u212a", "s", "ſ", ".x", ".X", "x", "d e", "D E ", "sub", "SUB"}
	dirs := []uint64{1}
	answered := 0
	for range 20000 {
		dir, name := dirs[r.Intn(len(dirs))], names[r.Intn(len(names))]
		header := fuse.InHeader{NodeId: dir}
		switch r.Intn(12) {
		case 0:
			var out fuse.EntryOut
			if f.Mkdir(nil, &fuse.MkdirIn{InHeader: header}, name, &out).Ok() {
				dirs = append(dirs, out.NodeId)
			}
			if len(dirs) > 8 {
				dirs = append([]uint64{1}, dirs[4:]...)
			}
		case 1:
			f.Mknod(nil, &fuse.MknodIn{InHeader: header}, name, new(fuse.EntryOut))
		case 2:
			f.Unlink(nil, &header, name)
		case 3:
			to := dirs[r.Intn(len(dirs))]
			f.Rename(nil, &fuse.RenameIn{InHeader: header, Newdir: to}, name, names[r.Intn(len(names))])
		default:
			before := s.asked
			got := f.Lookup(nil, &header, name, new(fuse.EntryOut))
			if s.asked == before {
				answered++
			}
			want := fuse.OK
			if s.dirs[dir][foldName(name)] == 0 {
				want = fuse.ENOENT
			}
			if got != want {
				t.Fatalf("lookup of %q in node %d: got %v, the server says %v", name, dir, got, want)
			}
		}
	}
	if answered == 0 {
		t.Error("the server was asked each time: nothing was tested")
	}
}
