// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package fusechannel

import (
	"bytes"
	"errors"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"fsva/gofer/fusewire"
)

// TestHostileReplies has a server answer one request wrongly: the request must fail with EIO and be counted, and the
// channel must go on.
func TestHostileReplies(t *testing.T) {
	const reg = unix.S_IFREG | 0o644
	long := bytes.Repeat([]byte("x"), 5000)
	lookup := func(c *Channel) fuse.Status {
		var e fuse.EntryOut
		return c.Lookup(nil, root(), "x", &e)
	}
	get := func(c *Channel) fuse.Status {
		_, st := getattr(c, 2)
		return st
	}
	read := func(c *Channel) fuse.Status {
		_, st := c.Read(nil, &fuse.ReadIn{InHeader: *node(2), Size: 10}, make([]byte, 10))
		return st
	}
	readdir := func(c *Channel) fuse.Status {
		return c.ReadDir(nil, &fuse.ReadIn{InHeader: *root()}, fuse.NewDirEntryList(make([]byte, 4096), 0))
	}
	readdirplus := func(c *Channel) fuse.Status {
		return c.ReadDirPlus(nil, &fuse.ReadIn{InHeader: *root()}, fuse.NewDirEntryList(make([]byte, 4096), 0))
	}
	readlink := func(c *Channel) fuse.Status {
		_, st := c.Readlink(nil, node(2))
		return st
	}
	mkdir := func(c *Channel) fuse.Status {
		var e fuse.EntryOut
		return c.Mkdir(nil, &fuse.MkdirIn{InHeader: *root()}, "x", &e)
	}
	create := func(c *Channel) fuse.Status {
		var e fuse.CreateOut
		return c.Create(nil, &fuse.CreateIn{InHeader: *root()}, "x", &e)
	}
	listx := func(c *Channel) fuse.Status {
		_, st := c.ListXAttr(nil, node(2), make([]byte, 100))
		return st
	}
	badEntry := func(change func(*fuse.EntryOut)) []byte {
		e := goodEntry(3, reg)
		change(&e)
		return enc(e)
	}
	badAttr := func(change func(*fuse.AttrOut)) []byte {
		a := goodAttr(reg)
		change(&a)
		return enc(a)
	}
	for _, tc := range []struct {
		name    string
		op      func(*Channel) fuse.Status
		status  int32
		payload []byte
	}{
		{"error above the range", get, 1, nil},
		{"error below the range", get, -512, nil},
		{"error with the smallest number", get, math.MinInt32, nil},
		{"error with a payload", get, -int32(unix.ENOENT), []byte("x")},
		{"no payload", get, 0, nil},
		{"short payload", get, 0, make([]byte, attrOutSize-1)},
		{"long payload", get, 0, append(enc(goodAttr(reg)), 0)},
		{"attr without a type", get, 0, badAttr(func(a *fuse.AttrOut) { a.Mode = 0o644 })},
		{"attr with an odd type", get, 0, badAttr(func(a *fuse.AttrOut) { a.Mode = 0o170000 })},
		{"attr with a negative size", get, 0, badAttr(func(a *fuse.AttrOut) { a.Size = 1 << 63 })},
		{"entry that is the root", lookup, 0, badEntry(func(e *fuse.EntryOut) { e.NodeId = fuse.FUSE_ROOT_ID })},
		{"entry without a type", lookup, 0, badEntry(func(e *fuse.EntryOut) { e.Mode = 0 })},
		{"entry with a negative size", lookup, 0, badEntry(func(e *fuse.EntryOut) { e.Size = math.MaxUint64 })},
		{"short entry", lookup, 0, badEntry(func(*fuse.EntryOut) {})[:entryOut8Size]},
		{"new directory is a file", mkdir, 0, enc(goodEntry(3, reg))},
		{"new directory has no node", mkdir, 0, enc(goodEntry(0, unix.S_IFDIR))},
		{"new file is a directory", create, 0, append(enc(goodEntry(3, unix.S_IFDIR)), make([]byte, openOutSize)...)},
		{"new file has no node", create, 0, append(enc(goodEntry(0, reg)), make([]byte, openOutSize)...)},
		{"more data than asked for", read, 0, make([]byte, 11)},
		{"write of more than was sent", func(c *Channel) fuse.Status {
			_, st := c.Write(nil, &fuse.WriteIn{InHeader: *node(2)}, []byte("abc"))
			return st
		}, 0, enc(fuse.WriteOut{Size: 4})},
		{"copy of more than was asked", func(c *Channel) fuse.Status {
			_, st := c.CopyFileRange(nil, &fuse.CopyFileRangeIn{InHeader: *node(2), Len: 10})
			return st
		}, 0, enc(fuse.WriteOut{Size: 11})},
		{"lseek to a negative offset", func(c *Channel) fuse.Status {
			return c.Lseek(nil, &fuse.LseekIn{InHeader: *node(2), Whence: unix.SEEK_DATA}, &fuse.LseekOut{})
		}, 0, enc(fuse.LseekOut{Offset: 1 << 63})},
		{"statx with an odd type", func(c *Channel) fuse.Status {
			return c.Statx(nil, &fuse.StatxIn{InHeader: *node(2)}, &fuse.StatxOut{})
		}, 0, enc(fuse.StatxOut{Statx: fuse.Statx{Mask: unix.STATX_TYPE, Mode: 0}})},
		{"ioctl retry", func(c *Channel) fuse.Status {
			return c.Ioctl(nil, &fuse.IoctlIn{InHeader: *node(2)}, nil, &fuse.IoctlOut{}, nil)
		}, 0, enc(fuse.IoctlOut{Flags: fuse.IOCTL_RETRY})},
		{"link with NUL", readlink, 0, []byte("a\x00b")},
		{"link longer than a path", readlink, 0, long},
		{"dirent without a name", readdir, 0, dirent(nil, 1, 1, 0, "")},
		{"dirent with a slash", readdir, 0, dirent(nil, 1, 1, 0, "a/b")},
		{"dirent with NUL", readdir, 0, dirent(nil, 1, 1, 0, "a\x00")},
		{"dirent name longer than FUSE's", readdir, 0, dirent(nil, 1, 1, 0, string(long[:1025]))},
		{"bad dirent after a good one", readdir, 0, append(dirent(nil, 1, 1, 0, "a"), dirent(nil, 1, 1, 0, "../x")...)},
		{"readdir of more than asked for", readdir, 0, long},
		{"direntplus with a slash", readdirplus, 0, dirent(&fuse.EntryOut{}, 1, 1, 0, "/")},
		{"xattr list without NUL", listx, 0, []byte("user.a")},
		{"xattr list with an empty name", listx, 0, []byte("user.a\x00\x00")},
	} {
		t.Run(tc.name, func(t *testing.T) {
			bad := true
			c := serveWith(t, func(s *script, r request) {
				switch r.opcode {
				case fusewire.OpForget, fusewire.OpBatchForget:
				case fusewire.OpRelease:
					s.ok(r)
				default:
					if bad {
						bad = false
						s.raw(message(r.unique, tc.status, tc.payload))
						return
					}
					s.ok(r, enc(goodAttr(reg)))
				}
			})
			if st := tc.op(c); st != fuse.EIO {
				t.Errorf("status %v, want EIO", st)
			}
			if st := get(c); st != fuse.OK {
				t.Errorf("GETATTR afterwards: %v", st)
			}
			if s := c.Stats(); s.Malformed != 1 {
				t.Errorf("malformed = %d, want 1", s.Malformed)
			}
		})
	}
}

// TestHostileMessages has a server send messages that belong to no request, before each answer.
func TestHostileMessages(t *testing.T) {
	for _, tc := range []struct {
		name string
		msg  func(r request) []byte
	}{
		{"shorter than a header", func(request) []byte { return make([]byte, 15) }},
		{"length too small", func(r request) []byte { m := message(r.unique+2, 0, []byte("abc")); m[0]--; return m }},
		{"length too large", func(r request) []byte { m := message(r.unique+2, 0, []byte("abc")); m[1]++; return m }},
		{"longer than the buffer", func(r request) []byte { return message(r.unique+2, 0, make([]byte, 2<<20)) }},
		{"unknown unique", func(r request) []byte { return message(r.unique+1<<40, 0) }},
		{"unique of a free slot", func(r request) []byte { return message(r.unique+2, 0) }},
		{"interrupt reply with payload", func(r request) []byte { return message(r.unique|1, 0, []byte("x")) }},
		{"unknown notification", func(request) []byte { return message(0, 77) }},
		{"negative notification", func(request) []byte { return message(0, -2) }},
		{"notification 0", func(request) []byte { return message(0, 0) }},
		{"short inval_inode", func(request) []byte { return message(0, fusewire.NoteInvalInode, make([]byte, 23)) }},
		{"inval_entry with a wrong length", func(request) []byte {
			return message(0, fusewire.NoteInvalEntry, enc(fuse.NotifyInvalEntryOut{Parent: 1, NameLen: 9}), []byte("abc\x00"))
		}},
		{"inval_entry with a slash", func(request) []byte {
			return message(0, fusewire.NoteInvalEntry, enc(fuse.NotifyInvalEntryOut{Parent: 1, NameLen: 3}), []byte("a/c\x00"))
		}},
		{"delete with ..", func(request) []byte {
			return message(0, fusewire.NoteDelete, enc(fuse.NotifyInvalDeleteOut{Parent: 1, NameLen: 2}), []byte("..\x00"))
		}},
		{"store at a negative offset", func(request) []byte {
			return message(0, fusewire.NoteStore, enc(fuse.NotifyStoreOut{Nodeid: 2, Offset: 1 << 63, Size: 1}), []byte("x"))
		}},
		{"store beyond the largest file", func(request) []byte {
			return message(0, fusewire.NoteStore, enc(fuse.NotifyStoreOut{Nodeid: 2, Offset: math.MaxInt64, Size: 1}), []byte("x"))
		}},
		{"store with a wrong size", func(request) []byte {
			return message(0, fusewire.NoteStore, enc(fuse.NotifyStoreOut{Nodeid: 2, Size: 2}), []byte("x"))
		}},
		{"prune with a wrong count", func(request) []byte {
			return message(0, fusewire.NotePrune, enc(fuse.NotifyPruneOut{Count: 1 << 31}), make([]byte, 8))
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c := serveWith(t, func(s *script, r request) {
				s.raw(tc.msg(r))
				s.ok(r, enc(goodAttr(unix.S_IFREG)))
			})
			for i := uint64(1); i <= 3; i++ {
				if _, st := getattr(c, 2); st != fuse.OK {
					t.Errorf("GETATTR: %v", st)
				}
				if s := c.Stats(); s.Malformed != i {
					t.Errorf("malformed = %d, want %d", s.Malformed, i)
				}
			}
		})
	}
}

// TestBadLength: a reply that says it has another length is the end of its request, or of the channel when more of it
// may follow.
func TestBadLength(t *testing.T) {
	for _, tc := range []struct {
		name string
		msg  func(r request) []byte
		want fuse.Status
	}{
		{"too small", func(r request) []byte { m := message(r.unique, 0, make([]byte, attrOutSize)); m[0]--; return m }, fuse.EIO},
		{"longer than the buffer", func(r request) []byte { return message(r.unique, 0, make([]byte, 2<<20)) }, fuse.EIO},
		{"split", func(r request) []byte { return message(r.unique, 0, make([]byte, attrOutSize))[:100] }, enotconn},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c := serveWith(t, func(s *script, r request) { s.raw(tc.msg(r)) })
			_, st := getattr(c, 2)
			want(t, "GETATTR", st, tc.want)
			if err := c.Err(); (err == errSplit) != (tc.want == enotconn) {
				t.Errorf("Err: %v", err)
			}
		})
	}
}

func TestHostileServerIsStopped(t *testing.T) {
	c := serveWith(t, func(s *script, r request) {
		for range maxMalformed {
			s.raw(message(r.unique+1<<40, 0))
		}
	})
	if _, st := getattr(c, 2); st != enotconn {
		t.Errorf("GETATTR: %v, want ENOTCONN", st)
	}
	<-c.Done()
	if err := c.Err(); err == nil || !strings.Contains(err.Error(), "100 malformed") || strings.Contains(err.Error(), "\n") {
		t.Errorf("Err: %v", err)
	}
}

// TestGuessedUnique has the server answer a request before it was sent.
func TestGuessedUnique(t *testing.T) {
	c := serveWith(t, func(s *script, r request) {
		s.ok(r, enc(goodAttr(unix.S_IFREG)))
		// The next request's id: one sequence number further in the same slot.
		s.raw(message(r.unique+maxInFlight<<1, 0, enc(goodAttr(unix.S_IFDIR))))
	})
	for range 20 {
		if _, st := getattr(c, 2); st != fuse.OK {
			t.Fatalf("GETATTR: %v", st)
		}
	}
}

func TestTimesAreClamped(t *testing.T) {
	e := goodEntry(3, unix.S_IFREG)
	e.EntryValid, e.EntryValidNsec = math.MaxUint64, math.MaxUint32
	e.AttrValid, e.AttrValidNsec = 1, 2e9
	e.Mtimensec = math.MaxUint32
	c := serveWith(t, func(s *script, r request) {
		if r.opcode == fusewire.OpLookup {
			s.ok(r, enc(e))
		}
	})
	var out fuse.EntryOut
	must(t, "lookup", c.Lookup(nil, root(), "x", &out))
	if out.EntryTimeout() < 100*365*24*time.Hour || out.AttrTimeout() >= 2*time.Second || out.Mtimensec != 999_999_999 {
		t.Errorf("timeouts %v and %v, mtime ns %d", out.EntryTimeout(), out.AttrTimeout(), out.Mtimensec)
	}
}

func TestNegativeEntry(t *testing.T) {
	c := serveWith(t, func(s *script, r request) {
		// Everything but the timeout is to be ignored.
		s.ok(r, enc(fuse.EntryOut{EntryValid: 5, Generation: 3, Attr: fuse.Attr{Mode: 0o777, Size: math.MaxUint64}}))
	})
	var out fuse.EntryOut
	must(t, "lookup", c.Lookup(nil, root(), "x", &out))
	if out != (fuse.EntryOut{EntryValid: 5}) {
		t.Errorf("negative entry: %+v", out)
	}
}

// TestReadDirPlusCounts checks who gets which lookup count back.
func TestReadDirPlusCounts(t *testing.T) {
	long := strings.Repeat("n", 256)
	e := func(id uint64, mode uint32) *fuse.EntryOut { v := goodEntry(id, mode); return &v }
	payload := bytes.Join([][]byte{
		dirent(e(1, unix.S_IFDIR), 1, 1, 4, "."),
		dirent(e(77, unix.S_IFDIR), 1, 2, 4, ".."), // not counted by servers, so not given back
		dirent(e(10, unix.S_IFREG), 10, 3, 0, "file"),
		dirent(e(11, unix.S_IFREG), 11, 4, 0, long), // left out, given back
		dirent(e(12, 0), 12, 5, 8, "badattr"),       // shown without entry, given back
		dirent(e(1, unix.S_IFDIR), 13, 6, 4, "root"),
		dirent(&fuse.EntryOut{}, 14, 7, 15, "unknown"),
		dirent(e(15, unix.S_IFDIR), 15, 8, 4, "cut")[:fusewire.EntryOutSize+20],
	}, nil)
	forgotten := make(chan request, 10)
	s := &script{serve: func(s *script, r request) {
		switch r.opcode {
		case fusewire.OpReadDirPlus:
			s.ok(r, payload)
		case fusewire.OpBatchForget, fusewire.OpForget:
			forgotten <- r
		}
	}}
	c := s.open(t, Options{})
	l := fuse.NewDirEntryList(make([]byte, 8192), 0)
	must(t, "readdirplus", c.ReadDirPlus(nil, &fuse.ReadIn{InHeader: *root(), Size: 8192}, l))
	es, outs, err := fuse.ParseDirLookupEntries(l.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	type row struct {
		name string
		node uint64
		mode uint32
		off  uint64
	}
	wantRows := []row{{".", 0, unix.S_IFDIR, 1}, {"..", 0, unix.S_IFDIR, 2}, {"file", 10, unix.S_IFREG, 3},
		{"badattr", 0, unix.S_IFREG, 5}, {"root", 0, unix.S_IFDIR, 6}, {"unknown", 0, 0, 7}}
	if len(es) != len(wantRows) {
		t.Fatalf("%d entries: %v", len(es), es)
	}
	for i, w := range wantRows {
		if got := (row{es[i].Name, outs[i].NodeId, es[i].Mode, es[i].Off}); got != w {
			t.Errorf("entry %d: %+v, want %+v", i, got, w)
		}
	}
	r := <-forgotten
	if r.opcode != fusewire.OpBatchForget || len(r.body) != 8+2*16 {
		t.Fatalf("forgot with %s, %d bytes", fusewire.OpNames[r.opcode], len(r.body))
	}
	ids := map[byte]bool{r.body[8]: true, r.body[24]: true}
	if !ids[11] || !ids[12] {
		t.Errorf("forgot %v, want 11 and 12", ids)
	}
}

func TestServerDies(t *testing.T) {
	for _, how := range []string{"closes", "closes with requests unread", "sends an empty message"} {
		t.Run(how, func(t *testing.T) {
			s := &script{serve: func(s *script, r request) {
				switch how {
				case "closes":
					unix.Shutdown(s.fd, unix.SHUT_RDWR)
				case "sends an empty message":
					s.raw(nil)
				default:
					if r.opcode == fusewire.OpMkdir {
						unix.Shutdown(s.fd, unix.SHUT_RDWR)
					}
				}
			}}
			c := s.open(t, Options{})
			results := make(chan fuse.Status)
			cancel := make(chan struct{})
			for i := range 8 {
				go func() {
					var out fuse.AttrOut
					cn := cancel
					if i%2 == 0 {
						cn = nil
					}
					results <- c.GetAttr(cn, &fuse.GetAttrIn{InHeader: *root()}, &out)
				}()
			}
			go func() {
				var e fuse.EntryOut
				results <- c.Mkdir(nil, &fuse.MkdirIn{InHeader: *root()}, "x", &e)
			}()
			for range 9 {
				if st := <-results; st != enotconn {
					t.Errorf("%v, want ENOTCONN", st)
				}
			}
			<-c.Done()
			if err := c.Err(); !errors.Is(err, errGone) {
				t.Errorf("Err: %v", err)
			}
			c.Release(nil, &fuse.ReleaseIn{InHeader: *root()})
			c.Forget(5, 1)
			if _, st := getattr(c, 1); st != enotconn {
				t.Errorf("GETATTR afterwards: %v", st)
			}
		})
	}
}

func TestCloseAborts(t *testing.T) {
	arrived := make(chan struct{}, 10)
	c := serveWith(t, func(s *script, r request) { arrived <- struct{}{} })
	results := make(chan fuse.Status)
	cancel := make(chan struct{})
	for _, cn := range []chan struct{}{nil, nil, cancel, cancel} {
		go func() {
			var out fuse.AttrOut
			results <- c.GetAttr(cn, &fuse.GetAttrIn{InHeader: *root()}, &out)
		}()
	}
	c.Release(nil, &fuse.ReleaseIn{InHeader: *node(5)}) // never answered
	for range 5 {
		<-arrived
	}
	go c.Close()
	c.Close()
	for range 4 {
		if st := <-results; st != enotconn {
			t.Errorf("%v, want ENOTCONN", st)
		}
	}
	if !errors.Is(c.Err(), ErrClosed) {
		t.Errorf("Err: %v", c.Err())
	}
	c.Close()
	if err := unix.Fstat(c.fd, new(unix.Stat_t)); err != unix.EBADF {
		t.Errorf("descriptor after Close: %v, want EBADF", err)
	}
}
