// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package hardlinks

import (
	"fmt"
	"sync"
	"syscall"
	"testing"

	"github.com/hanwen/go-fuse/v2/fuse"
)

// created returns a client with the file a, created and open, which has the name b
// as well.
func created(t *testing.T, s *server) (c *client, id, fh uint64) {
	t.Helper()
	c = newClient(t, s)
	var out fuse.CreateOut
	in := &fuse.CreateIn{InHeader: root, Flags: syscall.O_RDWR | syscall.O_CREAT | syscall.O_EXCL | syscall.O_TRUNC}
	in.Uid = 1000
	if st := c.Create(nil, in, "a", &out); !st.Ok() {
		t.Fatal(st)
	}
	c.given[out.NodeId]++
	id, fh = out.NodeId, out.Fh
	c.write(id, fh, "data")
	c.link(id, "b")
	return c, id, fh
}

// What git does with each object.
func TestOpenFileMovesToTheNameThatStays(t *testing.T) {
	remove := map[string]func(*client) fuse.Status{
		"unlink": func(c *client) fuse.Status { return c.Unlink(nil, &root, "a") },
		"rename over": func(c *client) fuse.Status {
			c.s.add("c", 77)
			return c.Rename(nil, &fuse.RenameIn{InHeader: root, Newdir: fuse.FUSE_ROOT_ID}, "c", "a")
		},
	}
	for name, remove := range remove {
		t.Run(name, func(t *testing.T) {
			s := newServer(t)
			var openings []fuse.OpenIn
			s.openStatus = func(in *fuse.OpenIn) fuse.Status { openings = append(openings, *in); return fuse.OK }
			c, id, fh := created(t, s)
			reading := c.open(id, syscall.O_RDONLY) // by the name seen last: b
			openings = nil
			if st := remove(c); !st.Ok() {
				t.Fatal(st)
			}
			if s.hidden() {
				t.Error("the server had to hide the name")
			}
			if got := c.nlink(id); got != 1 {
				t.Errorf("%d links", got)
			}
			if len(openings) != 1 || openings[0].Flags != syscall.O_RDWR || openings[0].Uid != 1000 || s.names[openings[0].NodeId] != "b" {
				t.Errorf("opened again as %+v", openings)
			}
			c.write(id, fh, "more data")
			for _, fh := range []uint64{fh, reading} {
				if got := c.read(id, fh); got != "more data" {
					t.Errorf("read %q", got)
				}
			}
			set := &fuse.SetAttrIn{SetAttrInCommon: fuse.SetAttrInCommon{
				InHeader: fuse.InHeader{NodeId: id}, Valid: fuse.FATTR_SIZE | fuse.FATTR_FH, Fh: fh, Size: 4}}
			var attr fuse.AttrOut
			get := &fuse.GetAttrIn{InHeader: fuse.InHeader{NodeId: id}, Flags_: fuse.FUSE_GETATTR_FH, Fh_: fh}
			if st := c.SetAttr(nil, set, &attr); !st.Ok() {
				t.Errorf("setattr: %v", st)
			}
			if st := c.GetAttr(nil, get, &attr); !st.Ok() || attr.Size != 4 {
				t.Errorf("getattr: %v, size %d", st, attr.Size)
			}
			c.close(id, fh)
			c.close(id, reading)
			if _, st := c.Read(nil, &fuse.ReadIn{InHeader: fuse.InHeader{NodeId: id}, Fh: fh}, nil); st != fuse.EBADF {
				t.Errorf("read of a closed file: %v", st)
			}
		})
	}
}

func TestHandlesOfAServerThatHasOneNumber(t *testing.T) {
	s := newServer(t)
	s.oneHandle = true
	s.add("a", 12)
	c := newClient(t, s)
	id := c.lookup("a")
	first := c.open(id, syscall.O_RDONLY)
	c.link(id, "b")
	second := c.open(id, syscall.O_RDONLY)
	if first == second {
		t.Error("two handles have one number")
	}
	c.unlink("a")
	if s.hidden() {
		t.Error("the server had to hide the name")
	}
	c.close(id, first)
	c.close(id, second)
	for node, n := range s.open {
		if n != 0 {
			t.Errorf("node %d is open %d times", node, n)
		}
	}
}

func TestRenameThatReplacesNothingMovesNothing(t *testing.T) {
	for _, flags := range []uint32{0x1 /* NOREPLACE */, 0x2 /* EXCHANGE */} {
		s := newServer(t)
		c, id, fh := created(t, s)
		s.add("c", 77)
		before := s.calls["open"]
		if st := c.Rename(nil, &fuse.RenameIn{InHeader: root, Newdir: fuse.FUSE_ROOT_ID, Flags: flags}, "c", "d"); !st.Ok() {
			t.Fatal(st)
		}
		if s.calls["open"] != before || s.calls["lookup"] != 0 {
			t.Errorf("flags %d: %v", flags, s.calls)
		}
		c.close(id, fh)
	}
}

// A handle follows its name, and moves when the name that it has by then goes.
func TestRenamedNameOfAnOpenFile(t *testing.T) {
	s := newServer(t)
	c, id, fh := created(t, s)
	if st := c.Rename(nil, &fuse.RenameIn{InHeader: root, Newdir: fuse.FUSE_ROOT_ID}, "a", "c"); !st.Ok() {
		t.Fatal(st)
	}
	c.unlink("c")
	if s.hidden() || c.read(id, fh) != "data" {
		t.Error("not moved")
	}
	c.close(id, fh)
}

// If the file cannot be opened by another name, all stays as it was.
func TestOpenFileThatCannotMove(t *testing.T) {
	fail := map[string]func(*server){
		"open fails": func(s *server) {
			s.openStatus = func(*fuse.OpenIn) fuse.Status { return fuse.EIO }
		},
		"the other name was removed":     func(s *server) { delete(s.inodes, "b") },
		"the other name is another file": func(s *server) { s.add("b", 99) },
	}
	for name, fail := range fail {
		t.Run(name, func(t *testing.T) {
			s := newServer(t)
			c, id, fh := created(t, s)
			fail(s)
			c.unlink("a")
			if !s.hidden() {
				t.Error("the server did not hide the name of an open file")
			}
			c.write(id, fh, "new")
			if got := c.read(id, fh); got != "new" {
				t.Errorf("read %q", got)
			}
			c.close(id, fh)
			if s.hidden() {
				t.Error("hidden after it was closed")
			}
		})
	}
}

func TestLastNameOfAnOpenFile(t *testing.T) {
	s := newServer(t)
	c, id, fh := created(t, s)
	c.unlink("a")
	c.unlink("b")
	if got := c.read(id, fh); got != "data" {
		t.Errorf("read %q", got)
	}
	if !s.hidden() {
		t.Error("the server did not hide the name of an open file")
	}
	c.close(id, fh)
	if s.hidden() {
		t.Error("hidden after it was closed")
	}
}

// Its owner may not open a file of mode 0444 for writing again.
func TestModeDoesNotKeepAFileFromMoving(t *testing.T) {
	s := newServer(t)
	s.openStatus = func(in *fuse.OpenIn) fuse.Status {
		if in.Uid != 0 {
			return fuse.EACCES
		}
		return fuse.OK
	}
	c, id, fh := created(t, s)
	c.unlink("a")
	if s.hidden() {
		t.Error("not moved")
	}
	c.close(id, fh)
}

func TestErrorOfAFlushIsReportedOnce(t *testing.T) {
	report := map[string]func(c *client, id, fh uint64) fuse.Status{
		"flush": func(c *client, id, fh uint64) fuse.Status {
			return c.Flush(nil, &fuse.FlushIn{InHeader: fuse.InHeader{NodeId: id}, Fh: fh})
		},
		"fsync": func(c *client, id, fh uint64) fuse.Status {
			return c.Fsync(nil, &fuse.FsyncIn{InHeader: fuse.InHeader{NodeId: id}, Fh: fh})
		},
	}
	for name, report := range report {
		t.Run(name, func(t *testing.T) {
			s := newServer(t)
			c, id, fh := created(t, s)
			s.flushStatus = fuse.Status(syscall.ENOSPC)
			c.unlink("a")
			if st := report(c, id, fh); st != fuse.Status(syscall.ENOSPC) {
				t.Errorf("%v, want the error of the flush", st)
			}
			if st := report(c, id, fh); !st.Ok() {
				t.Errorf("%v the second time", st)
			}
			c.close(id, fh)
		})
	}
}

func TestFilesWithOneNameCostNothing(t *testing.T) {
	s := newServer(t)
	s.add("a", 12)
	s.add("b", 13)
	c := newClient(t, s)
	id := c.lookup("a")
	fh := c.open(id, syscall.O_RDWR)
	lookups := s.calls["lookup"]
	c.unlink("b")
	c.unlink("a")
	if s.calls["lookup"] != lookups || s.calls["open"] != 1 {
		t.Errorf("calls: %v", s.calls)
	}
	c.close(id, fh)
}

// A read under way ends before its handle is closed at the server.
func TestReadUnderWayWhileMoving(t *testing.T) {
	s := newServer(t)
	c, id, fh := created(t, s)
	reading, goOn := make(chan struct{}), make(chan struct{})
	s.onRead = func() {
		close(reading)
		<-goOn
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		if got := c.read(id, fh); got != "data" {
			t.Errorf("read %q", got)
		}
	})
	<-reading
	wg.Go(func() { c.unlink("a") })
	close(goOn)
	wg.Wait()
	if s.hidden() {
		t.Error("not moved")
	}
	c.close(id, fh)
}

// Run with -race: everything at once, on files that lose and get names.
func TestConcurrentMoves(t *testing.T) {
	s := newServer(t)
	c, id, fh := created(t, s)
	other := c.open(id, syscall.O_RDWR)
	var mu sync.Mutex // of c.given
	stop := make(chan struct{})
	var users, movers sync.WaitGroup
	for _, in := range []fuse.CopyFileRangeIn{{FhIn: fh, FhOut: other}, {FhIn: other, FhOut: fh}, {FhIn: fh, FhOut: fh}} {
		users.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				c.CopyFileRange(nil, &in)
				if got := c.read(id, fh); got != "data" {
					t.Errorf("read %q", got)
				}
				c.write(id, other, "data")
				c.nlink(id)
				short := c.open(id, syscall.O_RDONLY)
				c.read(id, short)
				c.close(id, short)
			}
		})
	}
	for m := range 2 {
		movers.Go(func() {
			for i := range 300 {
				name := fmt.Sprintf("%d.%d", m, i)
				var out fuse.EntryOut
				if st := c.Link(nil, &fuse.LinkIn{InHeader: root, Oldnodeid: id}, name, &out); !st.Ok() || out.NodeId != id {
					t.Errorf("link: %v, file %d", st, out.NodeId)
					return
				}
				mu.Lock()
				c.given[id]++
				mu.Unlock()
				if st := c.Unlink(nil, &root, name); !st.Ok() {
					t.Errorf("unlink: %v", st)
				}
			}
		})
	}
	movers.Wait()
	close(stop)
	users.Wait()
	if s.hidden() {
		t.Error("the server had to hide a name")
	}
	if got := c.nlink(id); got != 2 {
		t.Errorf("%d links, want 2", got)
	}
	c.close(id, fh)
	c.close(id, other)
}
