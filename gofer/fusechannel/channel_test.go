// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package fusechannel

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"fsva/gofer/fusechannel/fusetest"
)

// loopback returns a go-fuse file system over dir, without caching.
func loopback(t testing.TB, dir string) fuse.RawFileSystem {
	t.Helper()
	root, err := fs.NewLoopbackRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	return fs.NewNodeFS(root, &fs.Options{})
}

// open returns a channel to a server of fs. The test's cleanup closes it.
func open(t testing.TB, rfs fuse.RawFileSystem, o Options) *Channel {
	t.Helper()
	c, err := New(t.Context(), fusetest.Serve(t, rfs), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func must(t testing.TB, what string, st fuse.Status) {
	t.Helper()
	if st != fuse.OK {
		t.Fatalf("%s: %v", what, st)
	}
}

func want(t testing.TB, what string, got, want fuse.Status) {
	t.Helper()
	if got != want {
		t.Errorf("%s: %v, want %v", what, got, want)
	}
}

func root() *fuse.InHeader { return node(fuse.FUSE_ROOT_ID) }

func node(id uint64) *fuse.InHeader {
	return &fuse.InHeader{NodeId: id}
}

func getattr(c fuse.RawFileSystem, id uint64) (fuse.AttrOut, fuse.Status) {
	var out fuse.AttrOut
	st := c.GetAttr(nil, &fuse.GetAttrIn{InHeader: *node(id)}, &out)
	return out, st
}

func readAll(t testing.TB, c fuse.RawFileSystem, id, fh uint64, off uint64, size int) []byte {
	t.Helper()
	buf := make([]byte, size)
	r, st := c.Read(nil, &fuse.ReadIn{InHeader: *node(id), Fh: fh, Offset: off, Size: uint32(size)}, buf)
	must(t, "read", st)
	b, st := r.Bytes(buf)
	must(t, "read result", st)
	return b
}

func TestLoopback(t *testing.T) {
	dir := t.TempDir()
	c := open(t, loopback(t, dir), Options{})

	if out, st := getattr(c, fuse.FUSE_ROOT_ID); st != fuse.OK || out.Mode&unix.S_IFMT != unix.S_IFDIR {
		t.Fatalf("GETATTR of the root: %v, mode %o", st, out.Mode)
	}
	var e fuse.EntryOut
	want(t, "lookup of nothing", c.Lookup(nil, root(), "none", &e), fuse.ENOENT)

	// Create, write more than one message holds, read it back.
	var cr fuse.CreateOut
	must(t, "create", c.Create(nil, &fuse.CreateIn{InHeader: *root(), Flags: unix.O_RDWR | unix.O_CREAT | unix.O_EXCL, Mode: 0o644}, "file", &cr))
	data := bytes.Repeat([]byte("0123456789abcdef"), 3<<20/16)
	data = data[:len(data)-5]
	id := cr.EntryOut.NodeId
	n, st := c.Write(nil, &fuse.WriteIn{InHeader: *node(id), Fh: cr.Fh, Size: uint32(len(data))}, data)
	must(t, "write", st)
	if int(n) != len(data) {
		t.Fatalf("wrote %d, want %d", n, len(data))
	}
	if got := readAll(t, c, id, cr.Fh, 0, len(data)+100); !bytes.Equal(got, data) {
		t.Fatalf("read %d bytes that differ from the %d written", len(got), len(data))
	}
	if got := readAll(t, c, id, cr.Fh, uint64(len(data)), 100); len(got) != 0 {
		t.Errorf("read %d bytes at the end of the file", len(got))
	}
	n, st = c.Writev(nil, &fuse.WriteIn{InHeader: *node(id), Fh: cr.Fh, Offset: 10}, [][]byte{[]byte("ab"), nil, []byte("cde")})
	must(t, "writev", st)
	if n != 5 || string(readAll(t, c, id, cr.Fh, 9, 7)) != "9abcdef" {
		t.Errorf("writev wrote %d, file has %q", n, readAll(t, c, id, cr.Fh, 9, 7))
	}
	must(t, "flush", c.Flush(nil, &fuse.FlushIn{InHeader: *node(id), Fh: cr.Fh}))
	must(t, "fsync", c.Fsync(nil, &fuse.FsyncIn{InHeader: *node(id), Fh: cr.Fh}))
	must(t, "fallocate", c.Fallocate(nil, &fuse.FallocateIn{InHeader: *node(id), Fh: cr.Fh, Offset: 4 << 20, Length: 4096}))
	var ls fuse.LseekOut
	must(t, "lseek", c.Lseek(nil, &fuse.LseekIn{InHeader: *node(id), Fh: cr.Fh, Whence: unix.SEEK_HOLE}, &ls))

	set := fuse.SetAttrIn{SetAttrInCommon: fuse.SetAttrInCommon{InHeader: *node(id), Valid: fuse.FATTR_SIZE | fuse.FATTR_MODE, Size: 7, Mode: 0o600}}
	var at fuse.AttrOut
	must(t, "setattr", c.SetAttr(nil, &set, &at))
	if at.Size != 7 || at.Mode != unix.S_IFREG|0o600 {
		t.Errorf("after SETATTR: size %d mode %o", at.Size, at.Mode)
	}
	var sx fuse.StatxOut
	must(t, "statx", c.Statx(nil, &fuse.StatxIn{InHeader: *node(id), SxMask: unix.STATX_BASIC_STATS}, &sx))
	if sx.Size != 7 || sx.Mode != unix.S_IFREG|0o600 {
		t.Errorf("STATX: size %d mode %o", sx.Size, sx.Mode)
	}
	c.Release(nil, &fuse.ReleaseIn{InHeader: *node(id), Fh: cr.Fh})

	// O_TRUNC without ATOMIC_O_TRUNC: go-fuse does not take it.
	if c.Has(fuse.CAP_ATOMIC_O_TRUNC) {
		t.Error("go-fuse has taken ATOMIC_O_TRUNC: this test needs another server")
	}
	var op fuse.OpenOut
	must(t, "open O_TRUNC", c.Open(nil, &fuse.OpenIn{InHeader: *node(id), Flags: unix.O_WRONLY | unix.O_TRUNC}, &op))
	c.Release(nil, &fuse.ReleaseIn{InHeader: *node(id), Fh: op.Fh})
	if out, st := getattr(c, id); st != fuse.OK || out.Size != 0 {
		t.Errorf("after O_TRUNC: %v, size %d", st, out.Size)
	}

	// Names.
	must(t, "mkdir", c.Mkdir(nil, &fuse.MkdirIn{InHeader: *root(), Mode: 0o755}, "dir", &e))
	sub := e.NodeId
	must(t, "mknod", c.Mknod(nil, &fuse.MknodIn{InHeader: *node(sub), Mode: unix.S_IFIFO | 0o600}, "fifo", &e))
	must(t, "symlink", c.Symlink(nil, node(sub), "../some/where", "link", &e))
	target, st := c.Readlink(nil, node(e.NodeId))
	must(t, "readlink", st)
	if string(target) != "../some/where" {
		t.Errorf("link points to %q", target)
	}
	must(t, "link", c.Link(nil, &fuse.LinkIn{InHeader: *node(sub), Oldnodeid: id}, "hard", &e))
	if e.Nlink != 2 {
		t.Errorf("hard link has %d links", e.Nlink)
	}
	must(t, "rename", c.Rename(nil, &fuse.RenameIn{InHeader: *node(sub), Newdir: fuse.FUSE_ROOT_ID}, "hard", "moved"))
	must(t, "rename2", c.Rename(nil, &fuse.RenameIn{InHeader: *root(), Newdir: fuse.FUSE_ROOT_ID, Flags: unix.RENAME_EXCHANGE}, "moved", "file"))
	want(t, "rename NOREPLACE", c.Rename(nil, &fuse.RenameIn{InHeader: *root(), Newdir: fuse.FUSE_ROOT_ID, Flags: unix.RENAME_NOREPLACE}, "moved", "file"), fuse.Status(unix.EEXIST))
	want(t, "rmdir of a full directory", c.Rmdir(nil, root(), "dir"), fuse.Status(unix.ENOTEMPTY))
	must(t, "unlink", c.Unlink(nil, root(), "moved"))
	must(t, "access", c.Access(nil, &fuse.AccessIn{InHeader: *node(id), Mask: fuse.R_OK}))
	var sf fuse.StatfsOut
	must(t, "statfs", c.StatFs(nil, root(), &sf))
	if sf.Bsize == 0 {
		t.Error("STATFS has no block size")
	}

	// Extended attributes.
	value := bytes.Repeat([]byte{7}, 1000)
	if st := c.SetXAttr(nil, &fuse.SetXAttrIn{InHeader: *node(id)}, "user.x", value); st == eopnotsupp {
		t.Log("no user xattrs here")
	} else {
		must(t, "setxattr", st)
		sz, st := c.GetXAttr(nil, node(id), "user.x", nil)
		must(t, "getxattr size", st)
		buf := make([]byte, sz)
		sz, st = c.GetXAttr(nil, node(id), "user.x", buf)
		must(t, "getxattr", st)
		if !bytes.Equal(buf[:sz], value) {
			t.Errorf("value has %d bytes", sz)
		}
		sz, st = c.GetXAttr(nil, node(id), "user.x", buf[:10])
		if st != fuse.ERANGE || sz != 1000 {
			t.Errorf("getxattr into a small buffer: %v, size %d", st, sz)
		}
		sz, st = c.ListXAttr(nil, node(id), buf)
		must(t, "listxattr", st)
		if !bytes.Contains(buf[:sz], []byte("user.x\x00")) {
			t.Errorf("list is %q", buf[:sz])
		}
		must(t, "removexattr", c.RemoveXAttr(nil, node(id), "user.x"))
		_, st = c.GetXAttr(nil, node(id), "user.x", nil)
		want(t, "getxattr after removal", st, fuse.ENODATA)
	}
	s := c.Stats()
	if s.Malformed != 0 || s.Ops["GETATTR"] == 0 || s.BytesWritten < uint64(len(data)) || s.BytesRead < uint64(len(data)) {
		t.Errorf("stats: %+v", s)
	}
	if l := s.Latency["GETATTR"]; l.Count != s.Ops["GETATTR"] || l.MaxNs == 0 {
		t.Errorf("latency of %d GETATTRs: %+v", s.Ops["GETATTR"], l)
	}
	if l, ok := s.Latency["RELEASE"]; ok {
		t.Errorf("nobody waits for RELEASE, but it took %+v", l)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := c.Destroy(ctx); err != nil {
		t.Errorf("destroy: %v", err)
	}
	if _, st := getattr(c, fuse.FUSE_ROOT_ID); st != enotconn {
		t.Errorf("GETATTR after DESTROY: %v", st)
	}
}

// list reads a whole directory.
func list(t testing.TB, c *Channel, id uint64, plus bool, size int) (names map[string]uint32, entries []fuse.EntryOut) {
	t.Helper()
	var op fuse.OpenOut
	must(t, "opendir", c.OpenDir(nil, &fuse.OpenIn{InHeader: *node(id)}, &op))
	defer c.ReleaseDir(&fuse.ReleaseIn{InHeader: *node(id), Fh: op.Fh})
	names = make(map[string]uint32)
	buf := make([]byte, size)
	for off := uint64(0); ; {
		l := fuse.NewDirEntryList(buf, off)
		in := fuse.ReadIn{InHeader: *node(id), Fh: op.Fh, Offset: off, Size: uint32(size)}
		var es []fuse.DirEntry
		var err error
		if plus {
			must(t, "readdirplus", c.ReadDirPlus(nil, &in, l))
			var outs []fuse.EntryOut
			es, outs, err = fuse.ParseDirLookupEntries(l.Bytes())
			entries = append(entries, outs...)
		} else {
			must(t, "readdir", c.ReadDir(nil, &in, l))
			es, err = fuse.ParseDirEntries(l.Bytes())
		}
		if err != nil {
			t.Fatal(err)
		}
		if len(es) == 0 {
			return names, entries
		}
		for _, e := range es {
			if _, ok := names[e.Name]; ok {
				t.Fatalf("%q twice", e.Name)
			}
			names[e.Name] = e.Mode
			off = e.Off
		}
	}
}

func TestReadDir(t *testing.T) {
	dir := t.TempDir()
	const files = 2000
	for i := range files {
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("f%04d", i)), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	c := open(t, loopback(t, dir), Options{})
	names, _ := list(t, c, fuse.FUSE_ROOT_ID, false, 4096)
	if names["f1999"] != unix.S_IFREG || names["."] != unix.S_IFDIR || len(names) != files+2 {
		t.Errorf("%d names, f1999 has mode %o", len(names), names["f1999"])
	}
	names, entries := list(t, c, fuse.FUSE_ROOT_ID, true, 128<<10)
	if len(names) != files+2 {
		t.Errorf("%d names with READDIRPLUS", len(names))
	}
	looked := 0
	for _, e := range entries {
		if e.NodeId != 0 {
			looked++
			if e.Mode != unix.S_IFREG|0o600 {
				t.Fatalf("entry has mode %o", e.Mode)
			}
			c.Forget(e.NodeId, 1)
		}
	}
	if looked != files {
		t.Errorf("%d entries with a node", looked)
	}
	c.forgets.flush()
	if s := c.Stats(); s.Forgets != files || s.Ops["BATCH_FORGET"] > files/forgetBatch+5 {
		t.Errorf("%d forgets in %d messages", s.Forgets, s.Ops["BATCH_FORGET"])
	}
}

func TestConcurrent(t *testing.T) {
	dir := t.TempDir()
	c := open(t, loopback(t, dir), Options{})
	cancel := make(chan struct{})
	var wg sync.WaitGroup
	for g := range 32 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			var cn <-chan struct{}
			if g%4 == 0 {
				cn = cancel
			}
			name := fmt.Sprintf("g%d", g)
			var cr fuse.CreateOut
			if st := c.Create(cn, &fuse.CreateIn{InHeader: *root(), Flags: unix.O_RDWR, Mode: 0o600}, name, &cr); st != fuse.OK {
				t.Errorf("create %s: %v", name, st)
				return
			}
			h := *node(cr.EntryOut.NodeId)
			buf := make([]byte, 64<<10)
			for i := range 100 {
				data := bytes.Repeat([]byte{byte(g), byte(i)}, 1000*(i%8+1))
				if n, st := c.Write(cn, &fuse.WriteIn{InHeader: h, Fh: cr.Fh}, data); st != fuse.OK || int(n) != len(data) {
					t.Errorf("write: %d %v", n, st)
					return
				}
				r, st := c.Read(cn, &fuse.ReadIn{InHeader: h, Fh: cr.Fh, Size: uint32(len(data))}, buf)
				if st != fuse.OK {
					t.Errorf("read: %v", st)
					return
				}
				if b, _ := r.Bytes(nil); !bytes.Equal(b, data) {
					t.Errorf("goroutine %d round %d read something else", g, i)
					return
				}
			}
			c.Release(nil, &fuse.ReleaseIn{InHeader: h, Fh: cr.Fh})
			c.Forget(h.NodeId, 1)
		}()
	}
	wg.Wait()
	if s := c.Stats(); s.Malformed != 0 {
		t.Errorf("stats: %+v", s)
	}
}
