// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package fusesession

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"fsva/gofer/fusewire"
)

func TestMain(m *testing.M) {
	unix.Umask(0)
	os.Exit(m.Run())
}

// newLoopback returns a file system of dir with books. At the end of the test it must
// have everything back.
func newLoopback(t testing.TB, dir string) *books {
	t.Helper()
	root, err := fs.NewLoopbackRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	b := newBooks(fs.NewNodeFS(root, &fs.Options{}))
	t.Cleanup(func() { b.check(t) })
	return b
}

// client sends requests as a kernel would.
type client struct {
	t      testing.TB
	s      *Session
	mu     sync.Mutex
	unique uint64
	split  int // pieces of requests and replies; 0: one
}

// newClient returns a client that has sent INIT.
func newClient(t testing.TB, b *books, o Options) *client {
	t.Helper()
	c := &client{t: t, s: New(b, o)}
	t.Cleanup(func() {
		c.s.Close()
		if st := c.s.Stats(); st.Nodes != 0 || st.Handles != 0 || st.InFlight != 0 {
			t.Errorf("after Close: %+v", st)
		}
	})
	if _, st := c.init(^uint64(0)); st != fuse.OK {
		t.Fatalf("INIT: %v", st)
	}
	return c
}

func (c *client) init(flags uint64) (out fuse.InitOut, st fuse.Status) {
	in := fuse.InitIn{Major: 7, Minor: 45, MaxReadAhead: 128 << 10, Flags: uint32(flags), Flags2: uint32(flags >> 32)}
	body, st := c.call(fusewire.OpInit, 0, &in)
	copy(bytesOf(&out), body)
	return out, st
}

// message makes a request: in is a pointer to its structure or nil.
func message[T any](opcode uint32, unique, node uint64, in *T, parts ...any) []byte {
	b := make([]byte, fusewire.InHeaderSize)
	if in != nil {
		b = append([]byte(nil), bytesOf(in)...)
	}
	for _, p := range parts {
		switch p := p.(type) {
		case string:
			b = append(append(b, p...), 0)
		case []byte:
			b = append(b, p...)
		default:
			panic(fmt.Sprintf("a part of type %T", p))
		}
	}
	binary.NativeEndian.PutUint32(b[0:], uint32(len(b)))
	binary.NativeEndian.PutUint32(b[4:], opcode)
	binary.NativeEndian.PutUint64(b[8:], unique)
	binary.NativeEndian.PutUint64(b[16:], node)
	return b
}

// pieces splits b into n or more pieces.
func pieces(b []byte, n int) [][]byte {
	if n <= 1 {
		return [][]byte{b}
	}
	size := max(len(b)/n, 1)
	out := [][]byte{nil}
	for len(b) > 0 {
		k := min(size, len(b))
		out = append(out, b[:k:k])
		b = b[k:]
	}
	return out
}

func (c *client) next() uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.unique += 2
	return c.unique
}

func (c *client) raw(msg []byte) ([]byte, fuse.Status) {
	out := make([]byte, c.s.MaxMessage())
	n, err := c.s.Handle(pieces(msg, c.split), pieces(out, c.split))
	if err != nil {
		c.t.Errorf("Handle: %v", err)
		return nil, fuse.EIO
	}
	if n == 0 {
		return nil, fuse.OK
	}
	if got := binary.NativeEndian.Uint32(out); int(got) != n {
		c.t.Errorf("reply says %d bytes, Handle %d", got, n)
	}
	if u := binary.NativeEndian.Uint64(out[8:]); u != binary.NativeEndian.Uint64(msg[8:]) {
		c.t.Errorf("reply to request %d", u)
	}
	return out[fusewire.OutHeaderSize:n], fuse.Status(-int32(binary.NativeEndian.Uint32(out[4:])))
}

func call[T any](c *client, opcode uint32, node uint64, in *T, parts ...any) ([]byte, fuse.Status) {
	return c.raw(message(opcode, c.next(), node, in, parts...))
}

func (c *client) call(opcode uint32, node uint64, in *fuse.InitIn, parts ...any) ([]byte, fuse.Status) {
	return call(c, opcode, node, in, parts...)
}

var none *fuse.InHeader

// ok fails the test if the request does, and copies the reply to out.
func ok[T any](t testing.TB, body []byte, st fuse.Status) T {
	t.Helper()
	var out T
	if st != fuse.OK {
		t.Fatalf("status %v", st)
	}
	if len(body) != len(bytesOf(&out)) {
		t.Fatalf("%d bytes for a %T", len(body), out)
	}
	copy(bytesOf(&out), body)
	return out
}

func (c *client) lookup(parent uint64, name string) fuse.EntryOut {
	c.t.Helper()
	body, st := call(c, fusewire.OpLookup, parent, none, name)
	return ok[fuse.EntryOut](c.t, body, st)
}

func (c *client) create(name string) fuse.CreateOut {
	c.t.Helper()
	body, st := call(c, fusewire.OpCreate, 1, &fuse.CreateIn{Flags: unix.O_RDWR | unix.O_CREAT, Mode: 0o644 | unix.S_IFREG}, name)
	return ok[fuse.CreateOut](c.t, body, st)
}

func (c *client) want(st, want fuse.Status) {
	c.t.Helper()
	if st != want {
		c.t.Errorf("status %v, want %v", st, want)
	}
}

// TestFiles goes through the life of a file, with messages in one piece, in
// several, and in memory that only the session sees.
func TestFiles(t *testing.T) {
	for _, tc := range []struct {
		name  string
		split int
		o     Options
	}{
		{"one piece", 0, Options{}},
		{"pieces", 7, Options{}},
		{"private", 0, Options{PrivateInput: true}},
		{"exclusive", 3, Options{Exclusive: true, WriteBack: true}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			dir := t.TempDir()
			tc.o.Locks = true
			c := newClient(t, newLoopback(t, dir), tc.o)
			c.split = tc.split

			f := c.create("file")
			data := bytes.Repeat([]byte("0123456789abcdef"), 8192)
			body, st := call(c, fusewire.OpWrite, f.NodeId, &fuse.WriteIn{Fh: f.Fh, Offset: 100, Size: uint32(len(data))}, data)
			if w := ok[fuse.WriteOut](t, body, st); int(w.Size) != len(data) {
				t.Errorf("%d bytes written", w.Size)
			}
			_, st = call(c, fusewire.OpFlush, f.NodeId, &fuse.FlushIn{Fh: f.Fh})
			c.want(st, fuse.OK)
			_, st = call(c, fusewire.OpFsync, f.NodeId, &fuse.FsyncIn{Fh: f.Fh})
			c.want(st, fuse.OK)
			got, st := call(c, fusewire.OpRead, f.NodeId, &fuse.ReadIn{Fh: f.Fh, Offset: 100, Size: 1 << 20})
			c.want(st, fuse.OK)
			if !bytes.Equal(got, data) {
				t.Errorf("read %d bytes, which differ", len(got))
			}
			body, st = call(c, fusewire.OpGetAttr, f.NodeId, &fuse.GetAttrIn{Flags_: fuse.FUSE_GETATTR_FH, Fh_: f.Fh})
			if a := ok[fuse.AttrOut](t, body, st); a.Size != uint64(len(data)+100) {
				t.Errorf("size %d", a.Size)
			}
			set := fuse.SetAttrIn{}
			set.Valid, set.Size = fuse.FATTR_SIZE, 50
			body, st = call(c, fusewire.OpSetAttr, f.NodeId, &set)
			if a := ok[fuse.AttrOut](t, body, st); a.Size != 50 {
				t.Errorf("size %d after truncation", a.Size)
			}
			body, st = call(c, fusewire.OpLseek, f.NodeId, &fuse.LseekIn{Fh: f.Fh, Whence: unix.SEEK_HOLE})
			if l := ok[fuse.LseekOut](t, body, st); l.Offset > 50 {
				t.Errorf("hole at %d", l.Offset)
			}
			_, st = call(c, fusewire.OpFallocate, f.NodeId, &fuse.FallocateIn{Fh: f.Fh, Length: 4096})
			c.want(st, fuse.OK)

			g := c.create("copy")
			body, st = call(c, fusewire.OpCopyFileRange, f.NodeId, &fuse.CopyFileRangeIn{FhIn: f.Fh, NodeIdOut: g.NodeId, FhOut: g.Fh, Len: 1 << 40})
			if w := ok[fuse.WriteOut](t, body, st); w.Size != 4096 {
				t.Errorf("%d bytes copied", w.Size)
			}
			body, st = call(c, fusewire.OpCopyFileRange64, f.NodeId, &fuse.CopyFileRangeIn{FhIn: f.Fh, NodeIdOut: g.NodeId, FhOut: g.Fh, Len: 100})
			if w := ok[fuse.CopyFileRangeOut](t, body, st); w.BytesCopied != 100 {
				t.Errorf("%d bytes copied", w.BytesCopied)
			}

			_, st = call(c, fusewire.OpSetXAttr, f.NodeId, &setXAttrIn{Size: 5}, "user.a", []byte("value"))
			if st == fuse.OK {
				got, st = call(c, fusewire.OpGetXAttr, f.NodeId, &fuse.GetXAttrIn{Size: 100}, "user.a")
				c.want(st, fuse.OK)
				if string(got) != "value" {
					t.Errorf("xattr %q", got)
				}
				body, st = call(c, fusewire.OpGetXAttr, f.NodeId, &fuse.GetXAttrIn{}, "user.a")
				if x := ok[fuse.GetXAttrOut](t, body, st); x.Size != 5 {
					t.Errorf("xattr of %d bytes", x.Size)
				}
				_, st = call(c, fusewire.OpGetXAttr, f.NodeId, &fuse.GetXAttrIn{Size: 2}, "user.a")
				c.want(st, fuse.ERANGE)
				got, st = call(c, fusewire.OpListXAttr, f.NodeId, &fuse.GetXAttrIn{Size: 1000})
				c.want(st, fuse.OK)
				if !strings.Contains(string(got), "user.a\x00") {
					t.Errorf("xattrs %q", got)
				}
				_, st = call(c, fusewire.OpRemoveXAttr, f.NodeId, none, "user.a")
				c.want(st, fuse.OK)
			} else {
				c.want(st, fuse.ENOTSUP)
			}
			_, st = call(c, fusewire.OpRelease, f.NodeId, &fuse.ReleaseIn{Fh: f.Fh})
			c.want(st, fuse.OK)
			_, st = call(c, fusewire.OpRead, f.NodeId, &fuse.ReadIn{Fh: f.Fh, Size: 1})
			c.want(st, fuse.EBADF)

			body, st = call(c, fusewire.OpMkdir, 1, &fuse.MkdirIn{Mode: 0o755}, "dir")
			d := ok[fuse.EntryOut](t, body, st)
			body, st = call(c, fusewire.OpSymlink, d.NodeId, none, "link", "../file")
			l := ok[fuse.EntryOut](t, body, st)
			got, st = call(c, fusewire.OpReadlink, l.NodeId, none)
			c.want(st, fuse.OK)
			if string(got) != "../file" {
				t.Errorf("link to %q", got)
			}
			body, st = call(c, fusewire.OpMknod, d.NodeId, &fuse.MknodIn{Mode: unix.S_IFIFO | 0o600}, "fifo")
			ok[fuse.EntryOut](t, body, st)
			body, st = call(c, fusewire.OpLink, d.NodeId, &fuse.LinkIn{Oldnodeid: f.NodeId}, "hard")
			if e := ok[fuse.EntryOut](t, body, st); e.NodeId != f.NodeId {
				t.Errorf("link is node %d, file %d", e.NodeId, f.NodeId)
			}
			_, st = call(c, fusewire.OpRename, 1, &renameIn{Newdir: d.NodeId}, "copy", "copied")
			c.want(st, fuse.OK)
			_, st = call(c, fusewire.OpRename2, d.NodeId, &fuse.RenameIn{Newdir: d.NodeId, Flags: unix.RENAME_NOREPLACE}, "copied", "hard")
			c.want(st, fuse.Status(unix.EEXIST))
			_, st = call(c, fusewire.OpUnlink, d.NodeId, none, "hard")
			c.want(st, fuse.OK)
			_, st = call(c, fusewire.OpRmdir, 1, none, "dir")
			c.want(st, fuse.Status(unix.ENOTEMPTY))
			if c.s.opts.Exclusive {
				if e := c.lookup(1, "hard"); e.NodeId != 0 || e.EntryValid != keepTime {
					t.Errorf("an absent name: %+v", e)
				}
			} else {
				_, st = call(c, fusewire.OpLookup, 1, none, "hard")
				c.want(st, fuse.ENOENT)
			}
			body, st = call(c, fusewire.OpStatfs, 1, none)
			ok[fuse.StatfsOut](t, body, st)
			_, st = call(c, fusewire.OpAccess, 1, &fuse.AccessIn{Mask: unix.R_OK})
			c.want(st, fuse.OK)

			for _, op := range []uint32{fusewire.OpReadDir, fusewire.OpReadDirPlus} {
				body, st = call(c, fusewire.OpOpenDir, d.NodeId, &fuse.OpenIn{})
				o := ok[fuse.OpenOut](t, body, st)
				body, st = call(c, op, d.NodeId, &fuse.ReadIn{Fh: o.Fh, Size: 4096})
				c.want(st, fuse.OK)
				for _, name := range []string{"fifo", "link", "copied"} {
					if !bytes.Contains(body, []byte(name)) {
						t.Errorf("%s: no %q", operations[op].name, name)
					}
				}
				_, st = call(c, fusewire.OpFsyncDir, d.NodeId, &fuse.FsyncIn{Fh: o.Fh})
				c.want(st, fuse.OK)
				_, st = call(c, fusewire.OpReleaseDir, d.NodeId, &fuse.ReleaseIn{Fh: o.Fh})
				c.want(st, fuse.OK)
			}
			if st := c.s.Stats(); st.Handles != 1 || st.Malformed != 0 {
				t.Errorf("%+v", st)
			}
		})
	}
}

// TestStrangers uses nodes and handles that the client does not have, or not so.
func TestStrangers(t *testing.T) {
	dir := t.TempDir()
	if err := os.Symlink("/etc/passwd", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	b := newLoopback(t, dir)
	c, other := newClient(t, b, Options{}), newClient(t, b, Options{})
	f := other.create("theirs")
	mine := c.create("mine")
	body, st := call(c, fusewire.OpOpen, mine.NodeId, &fuse.OpenIn{Flags: unix.O_RDONLY})
	ro := ok[fuse.OpenOut](t, body, st)
	link := c.lookup(1, "link")
	estale := fuse.Status(unix.ESTALE)
	for opcode := range uint32(fusewire.OpCount) {
		op := operations[opcode]
		if !op.node {
			continue
		}
		_, st := c.raw(message(opcode, c.next(), f.NodeId, none, make([]byte, 200)))
		if st != estale {
			t.Errorf("%s on a node that another client has: %v", op.name, st)
		}
	}
	for name, st := range map[string]fuse.Status{
		"handle of another": second(call(c, fusewire.OpRead, mine.NodeId, &fuse.ReadIn{Fh: mine.Fh + 1000, Size: 1})),
		"other node's":      second(call(c, fusewire.OpRead, link.NodeId, &fuse.ReadIn{Fh: mine.Fh, Size: 1})),
		"file as directory": second(call(c, fusewire.OpReadDir, 1, &fuse.ReadIn{Fh: mine.Fh, Size: 100})),
		"write to a reader": second(call(c, fusewire.OpWrite, mine.NodeId, &fuse.WriteIn{Fh: ro.Fh, Size: 1}, []byte("x"))),
		"release of none":   second(call(c, fusewire.OpRelease, mine.NodeId, &fuse.ReleaseIn{Fh: 77})),
	} {
		if st != fuse.EBADF {
			t.Errorf("%s: %v", name, st)
		}
	}
	size := fuse.SetAttrIn{}
	size.Valid = fuse.FATTR_SIZE
	for _, tc := range []struct {
		name string
		got  fuse.Status
		want unix.Errno
	}{
		{"open of a link", second(call(c, fusewire.OpOpen, link.NodeId, &fuse.OpenIn{})), unix.ELOOP},
		{"truncation of a link", second(call(c, fusewire.OpSetAttr, link.NodeId, &size)), unix.ELOOP},
		{"truncation of a directory", second(call(c, fusewire.OpSetAttr, 1, &size)), unix.EISDIR},
		{"open of a directory", second(call(c, fusewire.OpOpen, 1, &fuse.OpenIn{})), unix.EISDIR},
		{"lookup in a file", second(call(c, fusewire.OpLookup, mine.NodeId, none, "x")), unix.ENOTDIR},
		{"readlink of a file", second(call(c, fusewire.OpReadlink, mine.NodeId, none)), unix.EINVAL},
		{"rename to another's node", second(call(c, fusewire.OpRename2, 1, &fuse.RenameIn{Newdir: f.NodeId}, "a", "b")), unix.ESTALE},
		{"link of a directory", second(call(c, fusewire.OpLink, 1, &fuse.LinkIn{Oldnodeid: 1}, "d")), unix.EPERM},
		{"device", second(call(c, fusewire.OpMknod, 1, &fuse.MknodIn{Mode: unix.S_IFBLK | 0o600, Rdev: 0x801}, "sda1")), unix.EPERM},
		{"ioctl", second(call(c, fusewire.OpIoctl, 1, &fuse.IoctlIn{})), unix.ENOTTY},
		{"unknown operation", second(call(c, 63, 1, none)), unix.ENOSYS},
		{"opcode out of range", second(call(c, 1<<31, 1, none)), unix.ENOSYS},
		{"second INIT", second(c.init(0)), unix.EINVAL},
	} {
		if tc.got != fuse.Status(tc.want) {
			t.Errorf("%s: %v, want %v", tc.name, tc.got, tc.want)
		}
	}
	for _, name := range []string{"", ".", "..", "a/b", "/", strings.Repeat("x", 1025)} {
		for _, st := range []fuse.Status{
			second(call(c, fusewire.OpLookup, 1, none, name)),
			second(call(c, fusewire.OpUnlink, 1, none, name)),
			second(call(c, fusewire.OpMkdir, 1, &fuse.MkdirIn{Mode: 0o755}, name)),
			second(call(c, fusewire.OpCreate, 1, &fuse.CreateIn{Flags: unix.O_RDWR}, name)),
			second(call(c, fusewire.OpRename2, 1, &fuse.RenameIn{Newdir: 1}, "mine", name)),
		} {
			if st != fuse.EINVAL && st != fuse.Status(unix.ENAMETOOLONG) {
				t.Errorf("name %.10q: %v", name, st)
			}
		}
	}
}

func second[T any](_ T, st fuse.Status) fuse.Status { return st }

// TestMessages sends what is no request, or has no room for a reply.
func TestMessages(t *testing.T) {
	c := newClient(t, newLoopback(t, t.TempDir()), Options{MaxIO: 8192})
	good := message(fusewire.OpGetAttr, 1, 1, &fuse.GetAttrIn{})
	out := make([]byte, 100000)
	for name, msg := range map[string][]byte{
		"empty":     {},
		"short":     good[:39],
		"cut off":   good[:len(good)-1],
		"more":      append(bytes.Clone(good), 0),
		"too large": make([]byte, c.s.MaxMessage()+1),
	} {
		if n, err := c.s.Handle([][]byte{msg}, [][]byte{out}); err == nil || n != 0 {
			t.Errorf("%s: %d, %v", name, n, err)
		}
	}
	if n, err := c.s.Handle([][]byte{good}, [][]byte{out[:8]}); err == nil || n != 0 {
		t.Errorf("no room: %d, %v", n, err)
	}
	if n, err := c.s.Handle([][]byte{good}, nil); err == nil || n != 0 {
		t.Errorf("no reply buffer: %d, %v", n, err)
	}
	n, err := c.s.Handle([][]byte{good}, [][]byte{out[:20]})
	if err != nil || n != fusewire.OutHeaderSize || int32(binary.NativeEndian.Uint32(out[4:])) != -int32(unix.EIO) {
		t.Errorf("room for an error: %d, %v", n, err)
	}
	f := c.create("f")
	n, err = c.s.Handle([][]byte{message(fusewire.OpRead, 1, f.NodeId, &fuse.ReadIn{Fh: f.Fh, Size: 100})}, [][]byte{out[:100]})
	if err != nil || n != fusewire.OutHeaderSize || int32(binary.NativeEndian.Uint32(out[4:])) != -int32(unix.EINVAL) {
		t.Errorf("READ without room: %d, %v", n, err)
	}
	for opcode := range uint32(fusewire.OpCount) {
		if op := operations[opcode]; op.run == nil || opcode == fusewire.OpIoctl {
			continue
		}
		msg := message(opcode, c.next(), 1, none, make([]byte, 3))
		if _, st := c.raw(msg); st == fuse.OK {
			t.Errorf("%s with three bytes succeeds", operations[opcode].name)
		}
		msg = message(opcode, c.next(), 1, none, make([]byte, 16))
		binary.NativeEndian.PutUint16(msg[36:], 2)
		if _, st := c.raw(msg); st != fuse.EINVAL {
			t.Errorf("%s with an extension: %v", operations[opcode].name, st)
		}
	}
}

func TestInit(t *testing.T) {
	b := newLoopback(t, t.TempDir())
	for _, tc := range []struct {
		name     string
		o        Options
		set, not uint64
	}{
		{"shared", Options{WriteBack: true}, fuse.CAP_AUTO_INVAL_DATA | fuse.CAP_READDIRPLUS, fuse.CAP_WRITEBACK_CACHE | fuse.CAP_CACHE_SYMLINKS | fuse.CAP_POSIX_LOCKS},
		{"exclusive", Options{Exclusive: true}, fuse.CAP_CACHE_SYMLINKS, fuse.CAP_AUTO_INVAL_DATA | fuse.CAP_WRITEBACK_CACHE},
		{"write-back", Options{Exclusive: true, WriteBack: true}, fuse.CAP_WRITEBACK_CACHE, 0},
		{"read-only", Options{Exclusive: true, WriteBack: true, ReadOnly: true}, 0, fuse.CAP_WRITEBACK_CACHE},
		{"locks", Options{Locks: true}, fuse.CAP_POSIX_LOCKS | fuse.CAP_FLOCK_LOCKS, 0},
	} {
		s := New(b, tc.o)
		c := &client{t: t, s: s}
		if _, st := call(c, fusewire.OpLookup, 1, none, "x"); st != fuse.Status(unix.EPROTO) {
			t.Errorf("%s: LOOKUP before INIT: %v", tc.name, st)
		}
		if _, st := call(c, fusewire.OpInit, 0, &fuse.InitIn{Major: 7, Minor: 22}); st != fuse.Status(unix.EPROTO) {
			t.Errorf("%s: INIT of 7.22: %v", tc.name, st)
		}
		out, st := call(c, fusewire.OpInit, 0, &fuse.InitIn{Major: 8, Minor: 1})
		if st != fuse.OK || binary.NativeEndian.Uint32(out) != 7 {
			t.Errorf("%s: INIT of 8.1: %v", tc.name, st)
		}
		for range 2 { // a client may mount again
			got, st := c.init(^uint64(0))
			if st != fuse.OK || got.Major != 7 || got.Minor != 41 || got.MaxWrite != 1<<20 || got.MaxPages != 256 {
				t.Errorf("%s: INIT: %v %+v", tc.name, st, got)
			}
			if f := got.Flags64(); f&tc.set != tc.set || f&tc.not != 0 {
				t.Errorf("%s: flags %#x", tc.name, f)
			}
			c2 := &client{t: t, s: s}
			if !tc.o.ReadOnly {
				c2.create(strings.ReplaceAll(tc.name, " ", ""))
			}
			if _, st := call(c, fusewire.OpDestroy, 0, none); st != fuse.OK {
				t.Errorf("%s: DESTROY: %v", tc.name, st)
			}
			b.check(t)
		}
		s.Close()
		s.Close()
		if _, st := call(c, fusewire.OpLookup, 1, none, "x"); st != fuse.Status(unix.ENOTCONN) {
			t.Errorf("%s: LOOKUP after Close: %v", tc.name, st)
		}
	}
}

func TestReadOnly(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "f"), []byte("data"), 0o644); err != nil {
		t.Fatal(err)
	}
	c := newClient(t, newLoopback(t, dir), Options{ReadOnly: true})
	f := c.lookup(1, "f")
	for opcode := range uint32(fusewire.OpCount) {
		if op := operations[opcode]; op.changes {
			if _, st := c.raw(message(opcode, c.next(), f.NodeId, none, make([]byte, 100))); st != fuse.EROFS {
				t.Errorf("%s: %v", op.name, st)
			}
		}
	}
	for _, flags := range []uint32{unix.O_WRONLY, unix.O_RDWR, unix.O_TRUNC} {
		_, st := call(c, fusewire.OpOpen, f.NodeId, &fuse.OpenIn{Flags: flags})
		c.want(st, fuse.EROFS)
	}
	_, st := call(c, fusewire.OpAccess, f.NodeId, &fuse.AccessIn{Mask: unix.W_OK})
	c.want(st, fuse.EROFS)
	body, st := call(c, fusewire.OpOpen, f.NodeId, &fuse.OpenIn{Flags: unix.O_RDONLY})
	o := ok[fuse.OpenOut](t, body, st)
	got, st := call(c, fusewire.OpRead, f.NodeId, &fuse.ReadIn{Fh: o.Fh, Size: 100})
	c.want(st, fuse.OK)
	if string(got) != "data" {
		t.Errorf("%q", got)
	}
}

func TestBounds(t *testing.T) {
	dir := t.TempDir()
	for i := range 10 {
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprint(i)), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	enfile := fuse.Status(unix.ENFILE)
	c := newClient(t, newLoopback(t, dir), Options{MaxNodes: 5, MaxHandles: 3, MaxIO: 4096})
	f := c.lookup(1, "0") // the root counts, too
	body, st := call(c, fusewire.OpOpenDir, 1, &fuse.OpenIn{})
	o := ok[fuse.OpenOut](t, body, st)
	body, st = call(c, fusewire.OpReadDirPlus, 1, &fuse.ReadIn{Fh: o.Fh, Size: 4096})
	c.want(st, fuse.OK)
	_, outs, err := fuse.ParseDirLookupEntries(body)
	if err != nil || len(outs) != 12 {
		t.Fatalf("%d entries, %v", len(outs), err)
	}
	granted := 0
	for _, e := range outs {
		if e.NodeId != 0 {
			granted++
		}
	}
	if granted != 3 && granted != 4 { // "0" may be among them
		t.Errorf("%d entries were looked up", granted)
	}
	_, st = call(c, fusewire.OpMkdir, 1, &fuse.MkdirIn{Mode: 0o755}, "d")
	c.want(st, enfile)
	for range 2 {
		_, st = call(c, fusewire.OpOpen, f.NodeId, &fuse.OpenIn{})
		c.want(st, fuse.OK)
	}
	_, st = call(c, fusewire.OpOpen, f.NodeId, &fuse.OpenIn{})
	c.want(st, enfile)
	_, st = call(c, fusewire.OpRead, f.NodeId, &fuse.ReadIn{Fh: 2, Size: 4097})
	c.want(st, fuse.EINVAL)
	_, st = call(c, fusewire.OpRead, f.NodeId, &fuse.ReadIn{Fh: 2, Size: 1, Offset: 1 << 63})
	c.want(st, fuse.EINVAL)
}

// blockingFS blocks in GetAttr until told to go on, and in SetLkw until it is
// interrupted.
type blockingFS struct {
	*books
	entered, goOn chan struct{}
}

func (b blockingFS) GetAttr(c <-chan struct{}, in *fuse.GetAttrIn, out *fuse.AttrOut) fuse.Status {
	b.entered <- struct{}{}
	select {
	case <-b.goOn:
	case <-c:
		return fuse.EINTR
	}
	return b.books.GetAttr(c, in, out)
}

func (b blockingFS) SetLkw(c <-chan struct{}, in *fuse.LkIn) fuse.Status {
	b.entered <- struct{}{}
	<-c
	return fuse.EINTR
}

func newBlocking(t *testing.T, o Options) (blockingFS, *client) {
	b := blockingFS{newLoopback(t, t.TempDir()), make(chan struct{}), make(chan struct{})}
	c := &client{t: t, s: New(b, o)}
	if _, st := c.init(0); st != fuse.OK {
		t.Fatal(st)
	}
	return b, c
}

// TestForgetWhileInUse forgets a node that a request uses and releases a handle of it.
func TestForgetWhileInUse(t *testing.T) {
	b, c := newBlocking(t, Options{})
	f := c.create("f")
	done := make(chan fuse.Status)
	go func() {
		_, st := call(c, fusewire.OpGetAttr, f.NodeId, &fuse.GetAttrIn{Flags_: fuse.FUSE_GETATTR_FH, Fh_: f.Fh})
		done <- st
	}()
	<-b.entered
	call(c, fusewire.OpForget, f.NodeId, &fuse.ForgetIn{Nlookup: 1 << 40})
	_, st := call(c, fusewire.OpGetAttr, f.NodeId, &fuse.GetAttrIn{})
	c.want(st, fuse.Status(unix.ESTALE))
	again := c.lookup(1, "f")
	if again.NodeId != f.NodeId {
		t.Errorf("node %d, then %d", f.NodeId, again.NodeId)
	}
	_, st = call(c, fusewire.OpRelease, f.NodeId, &fuse.ReleaseIn{Fh: f.Fh})
	c.want(st, fuse.OK)
	batch := make([]byte, 32)
	binary.NativeEndian.PutUint64(batch, f.NodeId)
	binary.NativeEndian.PutUint64(batch[8:], 1)
	binary.NativeEndian.PutUint64(batch[16:], 12345)
	call(c, fusewire.OpBatchForget, 0, &batchForgetIn{Count: 1000}, batch)
	if n := len(b.lookups); n != 1 {
		t.Errorf("%d nodes while one is in use", n)
	}
	close(b.goOn)
	c.want(<-done, fuse.OK)
	b.check(t)
	c.s.Close()
}

func TestInterrupt(t *testing.T) {
	b, c := newBlocking(t, Options{MaxInFlight: 1, Locks: true})
	f := c.create("f")
	// Two that wait for a lock would fill the session, but for their own bound.
	done := make(chan fuse.Status, 2)
	lock := fuse.LkIn{Fh: f.Fh, Owner: 1, Lk: fuse.FileLock{End: 10, Typ: unix.F_WRLCK}}
	go func() { _, st := c.raw(message(fusewire.OpSetLkw, 1001, f.NodeId, &lock)); done <- st }()
	<-b.entered
	_, st := call(c, fusewire.OpSetLkw, f.NodeId, &lock)
	c.want(st, fuse.Status(unix.ENOLCK))
	go func() { _, st := c.raw(message(fusewire.OpGetAttr, 1003, f.NodeId, &fuse.GetAttrIn{})); done <- st }()
	<-b.entered
	_, st = call(c, fusewire.OpInterrupt, 0, &fuse.InterruptIn{Unique: 999})
	c.want(st, fuse.EAGAIN)
	for _, u := range []uint64{1001, 1003} {
		for range 2 {
			_, st = call(c, fusewire.OpInterrupt, 0, &fuse.InterruptIn{Unique: u})
			if st == fuse.EAGAIN { // it has ended since the first
				break
			}
			c.want(st, fuse.OK)
		}
		c.want(<-done, fuse.EINTR)
	}
	// Close interrupts, too.
	go func() { _, st := c.raw(message(fusewire.OpGetAttr, 1005, f.NodeId, &fuse.GetAttrIn{})); done <- st }()
	<-b.entered
	c.s.Close()
	c.want(<-done, fuse.EINTR)
	b.check(t)
}

// TestLocks has two clients whose processes have the same lock owner.
func TestLocks(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "f"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	b := newLoopback(t, dir)
	one, two := newClient(t, b, Options{Locks: true}), newClient(t, b, Options{Locks: true})
	open := func(c *client) fuse.LkIn {
		f := c.lookup(1, "f")
		body, st := call(c, fusewire.OpOpen, f.NodeId, &fuse.OpenIn{Flags: unix.O_RDWR})
		o := ok[fuse.OpenOut](t, body, st)
		in := fuse.LkIn{Fh: o.Fh, Owner: 42, Lk: fuse.FileLock{End: 9, Typ: unix.F_WRLCK}}
		in.NodeId = f.NodeId
		return in
	}
	a, z := open(one), open(two)
	_, st := call(one, fusewire.OpSetLk, a.NodeId, &a)
	one.want(st, fuse.OK)
	_, st = call(two, fusewire.OpSetLk, z.NodeId, &z)
	two.want(st, fuse.EAGAIN)
	body, st := call(two, fusewire.OpGetLk, z.NodeId, &z)
	if l := ok[fuse.LkOut](t, body, st); l.Lk.Typ != unix.F_WRLCK {
		t.Errorf("GETLK: %+v", l)
	}
	one.s.Close()
	_, st = call(two, fusewire.OpSetLk, z.NodeId, &z)
	two.want(st, fuse.OK)
	z.Lk.Start = 10
	_, st = call(two, fusewire.OpSetLk, z.NodeId, &z)
	two.want(st, fuse.EINVAL)
}

func TestNotify(t *testing.T) {
	var got [][]byte
	c := newClient(t, newLoopback(t, t.TempDir()), Options{Notify: func(msg []byte) { got = append(got, msg) }})
	f := c.create("f")
	c.s.InvalInode(f.NodeId, 1, 2)
	c.s.InvalInode(f.NodeId+1000, 1, 2)
	c.s.InvalEntry(1, "f", true)
	c.s.InvalEntry(1, "", true)
	c.s.Delete(1, f.NodeId, "f")
	c.s.minor = minorIncEpoch - 1
	c.s.IncEpoch()
	c.s.minor++
	c.s.IncEpoch()
	want := []struct {
		code uint32
		size int
	}{{fusewire.NoteInvalInode, 16 + 24}, {fusewire.NoteInvalEntry, 16 + 16 + 2}, {fusewire.NoteDelete, 16 + 24 + 2}, {fusewire.NoteIncEpoch, 16}}
	if len(got) != len(want) {
		t.Fatalf("%d notifications", len(got))
	}
	for i, w := range want {
		b := got[i]
		if len(b) != w.size || int(binary.NativeEndian.Uint32(b)) != w.size || binary.NativeEndian.Uint32(b[4:]) != w.code || binary.NativeEndian.Uint64(b[8:]) != 0 {
			t.Errorf("notification %d: % x", i, b)
		}
	}
}

// agreed is a file system whose server has agreed to some capabilities.
type agreed struct {
	fuse.RawFileSystem
	caps uint64
}

func (a agreed) Has(capability uint64) bool { return a.caps&capability != 0 }

// A client is offered READDIRPLUS only if the server has it: its kernel does not fall
// back to READDIR.
func TestInitWithoutReadDirPlus(t *testing.T) {
	for _, caps := range []uint64{0, fuse.CAP_READDIRPLUS} {
		c := &client{t: t, s: New(agreed{newLoopback(t, t.TempDir()), caps}, Options{})}
		out, st := c.init(^uint64(0))
		if st != fuse.OK || out.Flags64()&fuse.CAP_READDIRPLUS != caps {
			t.Errorf("server with %#x: flags %#x, %v", caps, out.Flags64(), st)
		}
		c.s.Close()
	}
}
