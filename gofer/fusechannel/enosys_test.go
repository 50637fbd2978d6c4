// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package fusechannel

import (
	"testing"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"fsva/gofer/fusewire"
)

// TestENOSYS has a server that knows no operation: each is sent so many times in two calls, and means what Linux makes
// of it.
func TestENOSYS(t *testing.T) {
	enotty := fuse.Status(unix.ENOTTY)
	for _, tc := range []struct {
		opcode uint32
		op     func(c *Channel) fuse.Status
		want   fuse.Status
		sent   int
	}{
		{fusewire.OpFlush, func(c *Channel) fuse.Status { return c.Flush(nil, &fuse.FlushIn{InHeader: *node(2)}) }, fuse.OK, 1},
		{fusewire.OpFsync, func(c *Channel) fuse.Status { return c.Fsync(nil, &fuse.FsyncIn{InHeader: *node(2)}) }, fuse.OK, 1},
		{fusewire.OpFsyncDir, func(c *Channel) fuse.Status { return c.FsyncDir(nil, &fuse.FsyncIn{InHeader: *node(2)}) }, fuse.OK, 1},
		{fusewire.OpAccess, func(c *Channel) fuse.Status { return c.Access(nil, &fuse.AccessIn{InHeader: *node(2)}) }, fuse.OK, 1},
		{fusewire.OpGetXAttr, func(c *Channel) fuse.Status { _, st := c.GetXAttr(nil, node(2), "user.a", nil); return st }, eopnotsupp, 1},
		{fusewire.OpListXAttr, func(c *Channel) fuse.Status { _, st := c.ListXAttr(nil, node(2), nil); return st }, eopnotsupp, 1},
		{fusewire.OpSetXAttr, func(c *Channel) fuse.Status {
			return c.SetXAttr(nil, &fuse.SetXAttrIn{InHeader: *node(2)}, "user.a", nil)
		}, eopnotsupp, 1},
		{fusewire.OpRemoveXAttr, func(c *Channel) fuse.Status { return c.RemoveXAttr(nil, node(2), "user.a") }, eopnotsupp, 1},
		{fusewire.OpFallocate, func(c *Channel) fuse.Status { return c.Fallocate(nil, &fuse.FallocateIn{InHeader: *node(2)}) }, eopnotsupp, 1},
		{fusewire.OpCopyFileRange, func(c *Channel) fuse.Status {
			_, st := c.CopyFileRange(nil, &fuse.CopyFileRangeIn{InHeader: *node(2), Len: 1})
			return st
		}, eopnotsupp, 1},
		{fusewire.OpTmpfile, func(c *Channel) fuse.Status {
			return c.Tmpfile(nil, &fuse.CreateIn{InHeader: *root()}, &fuse.CreateOut{})
		}, eopnotsupp, 1},
		{fusewire.OpRename2, func(c *Channel) fuse.Status {
			return c.Rename(nil, &fuse.RenameIn{InHeader: *root(), Newdir: 1, Flags: unix.RENAME_NOREPLACE}, "a", "b")
		}, fuse.EINVAL, 1},
		{fusewire.OpIoctl, func(c *Channel) fuse.Status {
			return c.Ioctl(nil, &fuse.IoctlIn{InHeader: *node(2)}, nil, &fuse.IoctlOut{}, nil)
		}, enotty, 1},
		// Not remembered: whether the server has them can depend on the node.
		{fusewire.OpRename, func(c *Channel) fuse.Status {
			return c.Rename(nil, &fuse.RenameIn{InHeader: *root(), Newdir: 1}, "a", "b")
		}, fuse.ENOSYS, 2},
		{fusewire.OpMkdir, func(c *Channel) fuse.Status {
			return c.Mkdir(nil, &fuse.MkdirIn{InHeader: *root()}, "a", &fuse.EntryOut{})
		}, fuse.ENOSYS, 2},
		{fusewire.OpReadlink, func(c *Channel) fuse.Status { _, st := c.Readlink(nil, node(2)); return st }, fuse.ENOSYS, 2},
		{fusewire.OpStatfs, func(c *Channel) fuse.Status { return c.StatFs(nil, root(), &fuse.StatfsOut{}) }, fuse.ENOSYS, 2},
		{fusewire.OpWrite, func(c *Channel) fuse.Status {
			_, st := c.Write(nil, &fuse.WriteIn{InHeader: *node(2)}, []byte("x"))
			return st
		}, fuse.ENOSYS, 2},
		// Never offered, so never sent.
		{fusewire.OpGetLk, func(c *Channel) fuse.Status { return c.GetLk(nil, &fuse.LkIn{InHeader: *node(2)}, &fuse.LkOut{}) }, fuse.ENOSYS, 0},
		{fusewire.OpSetLk, func(c *Channel) fuse.Status { return c.SetLk(nil, &fuse.LkIn{InHeader: *node(2)}) }, fuse.ENOSYS, 0},
		{fusewire.OpSetLkw, func(c *Channel) fuse.Status {
			return c.SetLkw(nil, &fuse.LkIn{InHeader: *node(2), LkFlags: fuse.LK_FLOCK})
		}, fuse.ENOSYS, 0},
	} {
		t.Run(fusewire.OpNames[tc.opcode], func(t *testing.T) {
			s := &script{serve: func(s *script, r request) { s.fail(r, unix.ENOSYS) }}
			c := s.open(t, Options{})
			for range 2 {
				if st := tc.op(c); st != tc.want {
					t.Errorf("%v, want %v", st, tc.want)
				}
			}
			if n := len(s.requests(tc.opcode)); n != tc.sent {
				t.Errorf("sent %d times, want %d", n, tc.sent)
			}
		})
	}
}

// lacking is a server of one file of 100 bytes (node 2), without some operations.
func lacking(missing ...uint32) *script {
	return &script{serve: func(s *script, r request) {
		for _, op := range missing {
			if r.opcode == op {
				s.fail(r, unix.ENOSYS)
				return
			}
		}
		switch r.opcode {
		case fusewire.OpGetAttr, fusewire.OpSetAttr:
			s.ok(r, enc(goodAttr(unix.S_IFREG|0o644)))
		case fusewire.OpLookup, fusewire.OpMknod:
			s.ok(r, enc(goodEntry(2, unix.S_IFREG|0o644)))
		case fusewire.OpOpen, fusewire.OpOpenDir:
			s.ok(r, enc(fuse.OpenOut{Fh: 9, OpenFlags: fuse.FOPEN_PASSTHROUGH | fuse.FOPEN_DIRECT_IO, BackingID: 3}))
		case fusewire.OpForget, fusewire.OpBatchForget:
		default:
			s.ok(r)
		}
	}}
}

func TestNoOpen(t *testing.T) {
	s := lacking(fusewire.OpOpen, fusewire.OpOpenDir)
	c := s.open(t, Options{})
	for range 2 {
		out := fuse.OpenOut{Fh: 5}
		must(t, "open", c.Open(nil, &fuse.OpenIn{InHeader: *node(2)}, &out))
		if out != (fuse.OpenOut{OpenFlags: fuse.FOPEN_KEEP_CACHE}) {
			t.Errorf("open: %+v", out)
		}
		c.Release(nil, &fuse.ReleaseIn{InHeader: *node(2)})
		must(t, "opendir", c.OpenDir(nil, &fuse.OpenIn{InHeader: *root()}, &out))
		if out != (fuse.OpenOut{OpenFlags: fuse.FOPEN_KEEP_CACHE | fuse.FOPEN_CACHE_DIR}) {
			t.Errorf("opendir: %+v", out)
		}
		c.ReleaseDir(&fuse.ReleaseIn{InHeader: *root()})
		must(t, "flush", c.Flush(nil, &fuse.FlushIn{InHeader: *node(2)}))
	}
	// Without OPEN nobody else can truncate.
	must(t, "open O_TRUNC", c.Open(nil, &fuse.OpenIn{InHeader: *node(2), Flags: unix.O_WRONLY | unix.O_TRUNC}, &fuse.OpenOut{}))
	for op, n := range map[uint32]int{fusewire.OpOpen: 1, fusewire.OpOpenDir: 1, fusewire.OpRelease: 0, fusewire.OpReleaseDir: 0, fusewire.OpFlush: 2, fusewire.OpSetAttr: 1} {
		if got := len(s.requests(op)); got != n {
			t.Errorf("%d %s, want %d", got, fusewire.OpNames[op], n)
		}
	}
}

func TestOpenFlags(t *testing.T) {
	s := lacking()
	c := s.open(t, Options{})
	var out fuse.OpenOut
	must(t, "open", c.Open(nil, &fuse.OpenIn{InHeader: *node(2), Flags: unix.O_RDWR | unix.O_CREAT | unix.O_EXCL | unix.O_NOCTTY | unix.O_TRUNC | unix.O_APPEND, Mode: 1}, &out))
	if out != (fuse.OpenOut{Fh: 9, OpenFlags: fuse.FOPEN_DIRECT_IO}) {
		t.Errorf("open: %+v", out)
	}
	must(t, "opendir", c.OpenDir(nil, &fuse.OpenIn{InHeader: *root()}, &out))
	if out != (fuse.OpenOut{Fh: 9}) {
		t.Errorf("opendir: %+v", out)
	}
	in := enc([2]uint32{unix.O_RDWR | unix.O_TRUNC | unix.O_APPEND, 0})
	if got := s.requests(fusewire.OpOpen)[0].body; string(got) != string(in) {
		t.Errorf("OPEN has %x, want %x", got, in)
	}
	if len(s.requests(fusewire.OpSetAttr)) != 0 {
		t.Error("SETATTR although the server has ATOMIC_O_TRUNC")
	}
}

func TestNoCreate(t *testing.T) {
	s := lacking(fusewire.OpCreate)
	c := s.open(t, Options{})
	for range 2 {
		var out fuse.CreateOut
		in := fuse.CreateIn{InHeader: *root(), Flags: unix.O_RDWR | unix.O_CREAT | unix.O_EXCL | unix.O_TRUNC, Mode: 0o644}
		in.Uid, in.Gid = 5, 6
		must(t, "create", c.Create(nil, &in, "f", &out))
		if out.EntryOut.NodeId != 2 || out.Fh != 9 {
			t.Errorf("create: %+v", out)
		}
	}
	for op, n := range map[uint32]int{fusewire.OpCreate: 1, fusewire.OpMknod: 2, fusewire.OpOpen: 2} {
		rs := s.requests(op)
		if len(rs) != n {
			t.Fatalf("%d %s, want %d", len(rs), fusewire.OpNames[op], n)
		}
		for _, r := range rs {
			if r.uid != 5 || r.gid != 6 {
				t.Errorf("%s for %d:%d", fusewire.OpNames[op], r.uid, r.gid)
			}
		}
	}
	if r := s.requests(fusewire.OpOpen)[0]; r.node != 2 || string(r.body[:4]) != string(enc(uint32(unix.O_RDWR))) {
		t.Errorf("OPEN of node %d with flags %x", r.node, r.body[:4])
	}
	if r := s.requests(fusewire.OpMknod)[0]; string(r.body) != string(enc([4]uint32{unix.S_IFREG | 0o644}))+"f\x00" {
		t.Errorf("MKNOD has %q", r.body)
	}
}

func TestNoCreateOpenFails(t *testing.T) {
	forgotten := make(chan request, 1)
	c := serveWith(t, func(s *script, r request) {
		switch r.opcode {
		case fusewire.OpCreate:
			s.fail(r, unix.ENOSYS)
		case fusewire.OpMknod:
			s.ok(r, enc(goodEntry(44, unix.S_IFREG)))
		case fusewire.OpForget:
			forgotten <- r
		default:
			s.fail(r, unix.EACCES)
		}
	})
	want(t, "create", c.Create(nil, &fuse.CreateIn{InHeader: *root()}, "f", &fuse.CreateOut{}), fuse.EACCES)
	if r := <-forgotten; r.node != 44 || string(r.body) != string(enc(uint64(1))) {
		t.Errorf("forgot node %d: %x", r.node, r.body)
	}
}

func TestNoLseek(t *testing.T) {
	s := lacking(fusewire.OpLseek)
	c := s.open(t, Options{})
	for _, tc := range []struct {
		whence   uint32
		off, pos uint64
		st       fuse.Status
	}{
		{unix.SEEK_DATA, 0, 0, fuse.OK},
		{unix.SEEK_DATA, 99, 99, fuse.OK},
		{unix.SEEK_DATA, 100, 0, fuse.Status(unix.ENXIO)},
		{unix.SEEK_HOLE, 3, 100, fuse.OK},
		{unix.SEEK_HOLE, 100, 0, fuse.Status(unix.ENXIO)},
		{unix.SEEK_END, 0, 0, fuse.EINVAL},
	} {
		var out fuse.LseekOut
		st := c.Lseek(nil, &fuse.LseekIn{InHeader: *node(2), Fh: 9, Offset: tc.off, Whence: tc.whence}, &out)
		if st != tc.st || st == fuse.OK && out.Offset != tc.pos {
			t.Errorf("lseek %d whence %d: %v %d, want %v %d", tc.off, tc.whence, st, out.Offset, tc.st, tc.pos)
		}
	}
	if n := len(s.requests(fusewire.OpLseek)); n != 1 {
		t.Errorf("%d LSEEK, want 1", n)
	}
}

func TestNoStatx(t *testing.T) {
	s := lacking(fusewire.OpStatx)
	c := s.open(t, Options{})
	for range 2 {
		var out fuse.StatxOut
		must(t, "statx", c.Statx(nil, &fuse.StatxIn{InHeader: *node(2)}, &out))
		if out.Size != 100 || out.Mode != unix.S_IFREG|0o644 || out.Mask != unix.STATX_BASIC_STATS || out.AttrValid != 1 {
			t.Errorf("statx: %+v", out)
		}
	}
	if n := len(s.requests(fusewire.OpStatx)); n != 1 {
		t.Errorf("%d STATX, want 1", n)
	}
}

func TestReadOnly(t *testing.T) {
	s := lacking()
	c := s.open(t, Options{ReadOnly: true})
	for what, st := range map[string]fuse.Status{
		"setattr":     c.SetAttr(nil, &fuse.SetAttrIn{}, &fuse.AttrOut{}),
		"mknod":       c.Mknod(nil, &fuse.MknodIn{}, "x", &fuse.EntryOut{}),
		"mkdir":       c.Mkdir(nil, &fuse.MkdirIn{}, "x", &fuse.EntryOut{}),
		"symlink":     c.Symlink(nil, root(), "y", "x", &fuse.EntryOut{}),
		"link":        c.Link(nil, &fuse.LinkIn{}, "x", &fuse.EntryOut{}),
		"unlink":      c.Unlink(nil, root(), "x"),
		"rmdir":       c.Rmdir(nil, root(), "x"),
		"rename":      c.Rename(nil, &fuse.RenameIn{}, "x", "y"),
		"create":      c.Create(nil, &fuse.CreateIn{}, "x", &fuse.CreateOut{}),
		"tmpfile":     c.Tmpfile(nil, &fuse.CreateIn{}, &fuse.CreateOut{}),
		"open rdwr":   c.Open(nil, &fuse.OpenIn{Flags: unix.O_RDWR}, &fuse.OpenOut{}),
		"open trunc":  c.Open(nil, &fuse.OpenIn{Flags: unix.O_TRUNC}, &fuse.OpenOut{}),
		"setxattr":    c.SetXAttr(nil, &fuse.SetXAttrIn{}, "user.x", nil),
		"removexattr": c.RemoveXAttr(nil, root(), "user.x"),
		"fallocate":   c.Fallocate(nil, &fuse.FallocateIn{}),
		"access":      c.Access(nil, &fuse.AccessIn{Mask: fuse.W_OK}),
	} {
		want(t, what, st, fuse.EROFS)
	}
	_, st := c.Write(nil, &fuse.WriteIn{}, []byte("x"))
	want(t, "write", st, fuse.EROFS)
	_, st = c.CopyFileRange(nil, &fuse.CopyFileRangeIn{})
	want(t, "copy_file_range", st, fuse.EROFS)
	must(t, "open", c.Open(nil, &fuse.OpenIn{InHeader: *node(2)}, &fuse.OpenOut{}))
	if n := s.count(); n != 2 {
		t.Errorf("%d requests, want INIT and OPEN", n)
	}
}

// TestBadNames checks that what cannot be framed is not sent.
func TestBadNames(t *testing.T) {
	s := lacking()
	c := s.open(t, Options{})
	long := string(make([]byte, nameMax+1))
	for name, st := range map[string]fuse.Status{"": fuse.ENOENT, "a/b": fuse.EINVAL, "a\x00b": fuse.EINVAL, ".": fuse.EINVAL, "..": fuse.EINVAL, long: fuse.Status(unix.ENAMETOOLONG)} {
		want(t, "unlink", c.Unlink(nil, root(), name), st)
		want(t, "mkdir", c.Mkdir(nil, &fuse.MkdirIn{}, name, &fuse.EntryOut{}), st)
		want(t, "rename from", c.Rename(nil, &fuse.RenameIn{}, name, "x"), st)
		want(t, "rename to", c.Rename(nil, &fuse.RenameIn{}, "x", name), st)
		if name != "." && name != ".." {
			want(t, "lookup", c.Lookup(nil, root(), name, &fuse.EntryOut{}), st)
		}
	}
	want(t, "symlink", c.Symlink(nil, root(), "a\x00", "x", &fuse.EntryOut{}), fuse.EINVAL)
	want(t, "symlink", c.Symlink(nil, root(), "", "x", &fuse.EntryOut{}), fuse.ENOENT)
	want(t, "symlink", c.Symlink(nil, root(), string(make([]byte, 4096)), "x", &fuse.EntryOut{}), fuse.Status(unix.ENAMETOOLONG))
	want(t, "setxattr", c.SetXAttr(nil, &fuse.SetXAttrIn{}, "a\x00b", nil), fuse.EINVAL)
	want(t, "setxattr", c.SetXAttr(nil, &fuse.SetXAttrIn{}, "", nil), fuse.ERANGE)
	want(t, "setxattr", c.SetXAttr(nil, &fuse.SetXAttrIn{}, "user.a", make([]byte, xattrValueMax+1)), fuse.Status(unix.E2BIG))
	if n := s.count(); n != 1 {
		t.Errorf("%d requests, want INIT only", n)
	}
}
