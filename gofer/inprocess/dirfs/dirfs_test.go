// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package dirfs_test

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"fsva/gofer/inprocess"
)

// volume is a directory and the file system that serves it, asked as a frontend
// does: no kernel's caches and locks in between.
type volume struct {
	t   *testing.T
	dir string
	fuse.RawFileSystem
}

func newVolume(t *testing.T, o inprocess.Options) volume {
	t.Helper()
	dir := t.TempDir()
	o.Log = slog.New(slog.DiscardHandler)
	raw, err := inprocess.Open("dir", dir, o)
	if err != nil {
		t.Fatal(err)
	}
	before := fds(t)
	t.Cleanup(func() {
		if after := fds(t); after > before {
			t.Errorf("%d descriptors, %d before", after, before)
		}
		raw.OnUnmount()
	})
	return volume{t, dir, raw}
}

func fds(t *testing.T) int {
	t.Helper()
	list, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(list)
}

func header(node uint64) fuse.InHeader { return fuse.InHeader{NodeId: node} }

func as(node uint64, uid, gid uint32) fuse.InHeader {
	return fuse.InHeader{NodeId: node, Caller: fuse.Caller{Owner: fuse.Owner{Uid: uid, Gid: gid}}}
}

func (v volume) ok(what string, st fuse.Status) {
	v.t.Helper()
	if !st.Ok() {
		v.t.Fatalf("%s: %v", what, st)
	}
}

func (v volume) write(name, content string) {
	v.t.Helper()
	if err := os.WriteFile(filepath.Join(v.dir, name), []byte(content), 0o644); err != nil {
		v.t.Fatal(err)
	}
}

func (v volume) lookup(dir uint64, name string) (fuse.EntryOut, fuse.Status) {
	h := header(dir)
	var out fuse.EntryOut
	return out, v.Lookup(nil, &h, name, &out)
}

func (v volume) find(name string) uint64 {
	v.t.Helper()
	h := header(1)
	var out fuse.EntryOut
	v.ok("lookup "+name, v.Lookup(nil, &h, name, &out))
	return out.NodeId
}

func (v volume) setattr(node uint64, in fuse.SetAttrInCommon) (fuse.Attr, fuse.Status) {
	in.InHeader = header(node)
	var out fuse.AttrOut
	st := v.SetAttr(nil, &fuse.SetAttrIn{SetAttrInCommon: in}, &out)
	return out.Attr, st
}

func (v volume) getattr(node uint64) (fuse.Attr, fuse.Status) {
	in := fuse.GetAttrIn{InHeader: header(node)}
	var out fuse.AttrOut
	st := v.GetAttr(nil, &in, &out)
	return out.Attr, st
}

// A file that has lost its name keeps working for those who hold its node.
func TestUnlinkedWithoutHandle(t *testing.T) {
	for _, how := range []string{"unlink", "rename over"} {
		t.Run(how, func(t *testing.T) {
			v := newVolume(t, inprocess.Options{})
			v.write("f", "content")
			v.write("g", "other")
			node, h := v.find("f"), header(1)
			if how == "unlink" {
				v.ok("unlink", v.Unlink(nil, &h, "f"))
			} else {
				v.ok("rename", v.Rename(nil, &fuse.RenameIn{InHeader: h, Newdir: 1}, "g", "f"))
			}
			if a, st := v.getattr(node); !st.Ok() || a.Nlink != 0 || a.Size != 7 {
				t.Errorf("getattr: %+v %v", a, st)
			}
			if a, st := v.setattr(node, fuse.SetAttrInCommon{Valid: fuse.FATTR_MODE | fuse.FATTR_UID | fuse.FATTR_SIZE | fuse.FATTR_MTIME, Mode: 0o600, Owner: fuse.Owner{Uid: 5}, Size: 4, Mtime: 9}); !st.Ok() || a.Mode != unix.S_IFREG|0o600 || a.Uid != 5 || a.Size != 4 || a.Mtime != 9 {
				t.Errorf("setattr: %+v %v", a, st)
			}
			xh := header(node)
			if st := v.SetXAttr(nil, &fuse.SetXAttrIn{InHeader: xh}, "user.a", []byte("1")); !st.Ok() {
				t.Errorf("setxattr: %v", st)
			}
			in := fuse.OpenIn{InHeader: header(node), Flags: unix.O_RDWR}
			var open fuse.OpenOut
			v.ok("open", v.Open(nil, &in, &open))
			if n, st := v.Write(nil, &fuse.WriteIn{InHeader: header(node), Fh: open.Fh, Offset: 4}, []byte("more")); !st.Ok() || n != 4 {
				t.Errorf("write: %d %v", n, st)
			}
			buf := make([]byte, 20)
			res, st := v.Read(nil, &fuse.ReadIn{InHeader: header(node), Fh: open.Fh}, buf)
			v.ok("read", st)
			if got, _ := res.Bytes(buf); string(got) != "contmore" {
				t.Errorf("read: %q", got)
			}
			v.Release(nil, &fuse.ReleaseIn{InHeader: header(node), Fh: open.Fh})
			// Neither is it found by its name, nor can it have another one.
			if how == "unlink" {
				if _, st := v.lookup(1, "f"); st != fuse.ENOENT {
					t.Errorf("lookup: %v", st)
				}
			}
			var out fuse.EntryOut
			if st := v.Link(nil, &fuse.LinkIn{InHeader: h, Oldnodeid: node}, "l", &out); st != fuse.ENOENT {
				t.Errorf("link: %v", st)
			}
			v.Forget(node, 1)
		})
	}
}

func TestRemovedDirectory(t *testing.T) {
	v := newVolume(t, inprocess.Options{})
	if err := os.Mkdir(filepath.Join(v.dir, "d"), 0o755); err != nil {
		t.Fatal(err)
	}
	node, h := v.find("d"), header(1)
	v.ok("rmdir", v.Rmdir(nil, &h, "d"))
	if a, st := v.getattr(node); !st.Ok() || a.Nlink != 0 {
		t.Errorf("getattr: %+v %v", a, st)
	}
	if _, st := v.lookup(node, "x"); st != fuse.ENOENT {
		t.Errorf("lookup in it: %v", st)
	}
	var out fuse.EntryOut
	if st := v.Mkdir(nil, &fuse.MkdirIn{InHeader: header(node), Mode: 0o755}, "x", &out); st != fuse.ENOENT {
		t.Errorf("mkdir in it: %v", st)
	}
	var open fuse.OpenOut
	v.ok("opendir", v.OpenDir(nil, &fuse.OpenIn{InHeader: header(node)}, &open))
	list := fuse.NewDirEntryList(make([]byte, 1000), 0)
	if st := v.ReadDir(nil, &fuse.ReadIn{InHeader: header(node), Fh: open.Fh}, list); st != fuse.ENOENT { // as getdents(2)
		t.Errorf("readdir: %v", st)
	}
	v.ReleaseDir(&fuse.ReleaseIn{InHeader: header(node), Fh: open.Fh})
	v.Forget(node, 1)
}

// Each kind of new file belongs to its maker, with all mode bits, and keeps the
// group of a set-group-ID directory.
func TestOwners(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	v := newVolume(t, inprocess.Options{})
	sgid := filepath.Join(v.dir, "sgid")
	if err := os.Mkdir(sgid, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, err := range []error{os.Chown(sgid, 1, 77), os.Chmod(sgid, 0o755|os.ModeSetgid)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	for dir, gid := range map[uint64]uint32{1: 22, v.find("sgid"): 77} {
		h := as(dir, 11, 22)
		check := func(what string, a fuse.Attr, st fuse.Status, mode uint32) {
			t.Helper()
			if a.Mode&unix.S_IFMT == unix.S_IFDIR && gid == 77 {
				mode |= unix.S_ISGID // inherited
			}
			if !st.Ok() || a.Uid != 11 || a.Gid != gid || a.Mode != mode {
				t.Errorf("%s: %d:%d %06o %v, want 11:%d %06o", what, a.Uid, a.Gid, a.Mode, st, gid, mode)
			}
		}
		var out fuse.EntryOut
		st := v.Mkdir(nil, &fuse.MkdirIn{InHeader: h, Mode: 0o1777}, "d", &out)
		check("mkdir", out.Attr, st, unix.S_IFDIR|0o1777)
		st = v.Mknod(nil, &fuse.MknodIn{InHeader: h, Mode: unix.S_IFIFO | 0o620}, "p", &out)
		check("fifo", out.Attr, st, unix.S_IFIFO|0o620)
		st = v.Mknod(nil, &fuse.MknodIn{InHeader: h, Mode: unix.S_IFSOCK | 0o666}, "s", &out)
		check("socket", out.Attr, st, unix.S_IFSOCK|0o666)
		st = v.Mknod(nil, &fuse.MknodIn{InHeader: h, Mode: unix.S_IFREG | 0o4711}, "r", &out)
		check("regular", out.Attr, st, unix.S_IFREG|0o4711)
		st = v.Symlink(nil, &h, "target", "l", &out)
		check("symlink", out.Attr, st, unix.S_IFLNK|0o777)
		var created fuse.CreateOut
		st = v.Create(nil, &fuse.CreateIn{InHeader: h, Mode: 0o6000, Flags: unix.O_RDWR}, "c", &created)
		check("create", created.Attr, st, unix.S_IFREG|0o6000)
		v.Release(nil, &fuse.ReleaseIn{InHeader: header(created.NodeId), Fh: created.Fh})
		st = v.Tmpfile(nil, &fuse.CreateIn{InHeader: h, Mode: 0o640, Flags: unix.O_RDWR}, &created)
		check("tmpfile", created.Attr, st, unix.S_IFREG|0o640)
		v.Release(nil, &fuse.ReleaseIn{InHeader: header(created.NodeId), Fh: created.Fh})
		v.ok("link tmpfile", v.Link(nil, &fuse.LinkIn{InHeader: h, Oldnodeid: created.NodeId}, "t", &out))
		if out.NodeId != created.NodeId || out.Nlink != 1 {
			t.Errorf("linked O_TMPFILE: node %d, was %d, nlink %d", out.NodeId, created.NodeId, out.Nlink)
		}
		v.Forget(created.NodeId, 2)
		for _, mode := range []uint32{unix.S_IFCHR, unix.S_IFBLK, unix.S_IFDIR} {
			if st := v.Mknod(nil, &fuse.MknodIn{InHeader: h, Mode: mode | 0o666, Rdev: 0x103}, "dev", &out); st != fuse.EPERM {
				t.Errorf("mknod %o: %v", mode, st)
			}
		}
	}
}

// No operation follows a symbolic link that is in the directory.
func TestSymlinks(t *testing.T) {
	v := newVolume(t, inprocess.Options{})
	outside := t.TempDir()
	secret := filepath.Join(outside, "secret")
	if err := os.WriteFile(secret, []byte("secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(secret, filepath.Join(v.dir, "l")); err != nil {
		t.Fatal(err)
	}
	l := v.find("l")
	if a, st := v.setattr(l, fuse.SetAttrInCommon{Valid: fuse.FATTR_UID | fuse.FATTR_MTIME, Owner: fuse.Owner{Uid: 3}, Mtime: 4}); !st.Ok() || a.Uid != 3 || a.Mtime != 4 || a.Mode&unix.S_IFMT != unix.S_IFLNK {
		t.Errorf("setattr: %+v %v", a, st)
	}
	if _, st := v.setattr(l, fuse.SetAttrInCommon{Valid: fuse.FATTR_MODE, Mode: 0o777}); st != fuse.Status(unix.EOPNOTSUPP) {
		t.Errorf("chmod: %v", st)
	}
	if _, st := v.setattr(l, fuse.SetAttrInCommon{Valid: fuse.FATTR_SIZE}); st != fuse.EINVAL {
		t.Errorf("truncate: %v", st)
	}
	var open fuse.OpenOut
	if st := v.Open(nil, &fuse.OpenIn{InHeader: header(l)}, &open); st != fuse.Status(unix.ELOOP) {
		t.Errorf("open: %v", st)
	}
	// A directory that somebody replaces by a link, behind our back.
	for _, err := range []error{
		os.Mkdir(filepath.Join(v.dir, "d"), 0o755), os.WriteFile(filepath.Join(v.dir, "d/secret"), []byte("mine"), 0o644),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	d := v.find("d")
	s, st := v.lookup(d, "secret")
	v.ok("lookup", st)
	for _, err := range []error{os.Rename(filepath.Join(v.dir, "d"), filepath.Join(v.dir, "e")), os.Symlink(outside, filepath.Join(v.dir, "d"))} {
		if err != nil {
			t.Fatal(err)
		}
	}
	var out fuse.EntryOut
	for what, st := range map[string]fuse.Status{
		"lookup": func() fuse.Status { _, st := v.lookup(d, "secret"); return st }(),
		"open":   v.Open(nil, &fuse.OpenIn{InHeader: header(s.NodeId), Flags: unix.O_RDWR}, &open),
		"chmod": func() fuse.Status {
			_, st := v.setattr(s.NodeId, fuse.SetAttrInCommon{Valid: fuse.FATTR_MODE})
			return st
		}(),
		"mkdir":   v.Mkdir(nil, &fuse.MkdirIn{InHeader: header(d)}, "x", &out),
		"opendir": v.OpenDir(nil, &fuse.OpenIn{InHeader: header(d)}, &open),
		"unlink":  func() fuse.Status { h := header(d); return v.Unlink(nil, &h, "secret") }(),
	} {
		if st.Ok() {
			t.Errorf("%s went through a symbolic link", what)
		}
	}
	if fi, err := os.Stat(secret); err != nil || fi.Mode() != 0o600 || fi.Size() != 6 {
		t.Errorf("the file outside changed: %v %v", fi, err)
	}
}

// A file that somebody else put in another's place is not taken for it, and a FIFO
// blocks nobody.
func TestReplacedBehindOurBack(t *testing.T) {
	v := newVolume(t, inprocess.Options{Shared: true})
	v.write("f", "old")
	node := v.find("f")
	v.write("g", "new")
	if err := os.Rename(filepath.Join(v.dir, "g"), filepath.Join(v.dir, "f")); err != nil {
		t.Fatal(err)
	}
	stale := fuse.Status(unix.ESTALE)
	if _, st := v.getattr(node); st != stale {
		t.Errorf("getattr: %v", st)
	}
	var open fuse.OpenOut
	if st := v.Open(nil, &fuse.OpenIn{InHeader: header(node), Flags: unix.O_TRUNC | unix.O_WRONLY}, &open); st != stale {
		t.Errorf("open: %v", st)
	}
	if err := os.Remove(filepath.Join(v.dir, "f")); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mkfifo(filepath.Join(v.dir, "f"), 0o644); err != nil {
		t.Fatal(err)
	}
	if st := v.Open(nil, &fuse.OpenIn{InHeader: header(node)}, &open); st != stale {
		t.Errorf("open of a FIFO: %v", st)
	}
	v.Forget(node, 1)
	fifo := v.find("f")
	if st := v.Open(nil, &fuse.OpenIn{InHeader: header(fifo)}, &open); st != fuse.Status(unix.ENXIO) {
		t.Errorf("open of a FIFO by its node: %v", st)
	}
}

// Attributes of one answer are not kept in shared mode, for a second otherwise.
func TestTimeouts(t *testing.T) {
	for _, shared := range []bool{false, true} {
		v := newVolume(t, inprocess.Options{Shared: shared})
		v.write("f", "")
		e, st := v.lookup(1, "f")
		v.ok("lookup", st)
		if kept := e.EntryValid != 0; kept == shared {
			t.Errorf("shared %v: entry valid for %d s", shared, e.EntryValid)
		}
	}
}

// Creates, removals and renames of the same names from several clients leave
// go-fuse's tree as the directory is.
func TestRacingNames(t *testing.T) {
	v := newVolume(t, inprocess.Options{Shared: true})
	var wg sync.WaitGroup
	for g := range 6 {
		wg.Go(func() {
			h := header(1)
			for i := range 300 {
				name, other := fmt.Sprint((i+g)%3), fmt.Sprint((i+g+1)%3)
				switch g % 3 {
				case 0:
					var out fuse.CreateOut
					if v.Create(nil, &fuse.CreateIn{InHeader: h, Mode: 0o644, Flags: unix.O_RDWR}, name, &out).Ok() {
						if n, st := v.Write(nil, &fuse.WriteIn{InHeader: header(out.NodeId), Fh: out.Fh}, []byte("x")); !st.Ok() || n != 1 {
							t.Errorf("write: %v", st)
						}
						if _, st := v.getattr(out.NodeId); !st.Ok() {
							t.Errorf("getattr of an open file: %v", st)
						}
						v.Release(nil, &fuse.ReleaseIn{InHeader: header(out.NodeId), Fh: out.Fh})
						// Without a handle: it may have lost its name by now.
						if _, st := v.getattr(out.NodeId); !st.Ok() {
							t.Errorf("getattr: %v", st)
						}
						v.Forget(out.NodeId, 1)
					}
				case 1:
					v.Unlink(nil, &h, name)
				case 2:
					v.Rename(nil, &fuse.RenameIn{InHeader: h, Newdir: 1}, name, other)
				}
			}
		})
	}
	wg.Wait()
	for i := range 3 {
		name := fmt.Sprint(i)
		_, err := os.Lstat(filepath.Join(v.dir, name))
		e, st := v.lookup(1, name)
		if (err == nil) != st.Ok() {
			t.Errorf("%s: %v, the directory says %v", name, st, err)
		}
		if st.Ok() {
			v.Forget(e.NodeId, 1)
		}
	}
}

// Each remaining operation once, so that TestConfined has seen all of them.
func TestOperations(t *testing.T) {
	v := newVolume(t, inprocess.Options{})
	v.write("f", "0123456789")
	f := v.find("f")
	var open, dir fuse.OpenOut
	v.ok("open", v.Open(nil, &fuse.OpenIn{InHeader: header(f), Flags: unix.O_RDWR}, &open))
	v.ok("opendir", v.OpenDir(nil, &fuse.OpenIn{InHeader: header(1)}, &dir))
	list := fuse.NewDirEntryList(make([]byte, 1000), 0)
	v.ok("readdirplus", v.ReadDirPlus(nil, &fuse.ReadIn{InHeader: header(1), Fh: dir.Fh}, list))
	entries, outs, err := fuse.ParseDirLookupEntries(list.Bytes())
	if err != nil || len(entries) != 3 {
		t.Errorf("readdirplus: %v %v", entries, err)
	}
	for _, e := range outs {
		if e.NodeId > 1 {
			v.Forget(e.NodeId, 1)
		}
	}
	v.ok("fsyncdir", v.FsyncDir(nil, &fuse.FsyncIn{InHeader: header(1), Fh: dir.Fh}))
	v.ReleaseDir(&fuse.ReleaseIn{InHeader: header(1), Fh: dir.Fh})

	if n, st := v.Writev(nil, &fuse.WriteIn{InHeader: header(f), Fh: open.Fh, Offset: 10}, [][]byte{[]byte("ab"), []byte("cd")}); !st.Ok() || n != 4 {
		t.Errorf("writev: %d %v", n, st)
	}
	v.ok("fallocate", v.Fallocate(nil, &fuse.FallocateIn{InHeader: header(f), Fh: open.Fh, Offset: 20, Length: 10}))
	if n, st := v.CopyFileRange(nil, &fuse.CopyFileRangeIn{InHeader: header(f), FhIn: open.Fh, OffIn: 10, NodeIdOut: f, FhOut: open.Fh, OffOut: 30, Len: 4}); !st.Ok() || n != 4 {
		t.Errorf("copy_file_range: %d %v", n, st)
	}
	var seek fuse.LseekOut
	v.ok("lseek", v.Lseek(nil, &fuse.LseekIn{InHeader: header(f), Fh: open.Fh, Whence: unix.SEEK_HOLE}, &seek))
	v.ok("flush", v.Flush(nil, &fuse.FlushIn{InHeader: header(f), Fh: open.Fh}))
	v.ok("fsync", v.Fsync(nil, &fuse.FsyncIn{InHeader: header(f), Fh: open.Fh}))
	v.ok("fdatasync", v.Fsync(nil, &fuse.FsyncIn{InHeader: header(f), Fh: open.Fh, FsyncFlags: 1}))
	buf := make([]byte, 100)
	res, st := v.Read(nil, &fuse.ReadIn{InHeader: header(f), Fh: open.Fh}, buf)
	v.ok("read", st)
	if got, _ := res.Bytes(buf); len(got) != 34 || string(got[30:]) != "abcd" {
		t.Errorf("read: %q", got)
	}
	// A size through a handle that may only read, as ftruncate on another's handle.
	var ro fuse.OpenOut
	v.ok("open", v.Open(nil, &fuse.OpenIn{InHeader: header(f)}, &ro))
	if a, st := v.setattr(f, fuse.SetAttrInCommon{Valid: fuse.FATTR_FH | fuse.FATTR_SIZE | fuse.FATTR_ATIME | fuse.FATTR_ATIME_NOW, Fh: ro.Fh, Size: 3}); !st.Ok() || a.Size != 3 {
		t.Errorf("truncate: %+v %v", a, st)
	}
	v.Release(nil, &fuse.ReleaseIn{InHeader: header(f), Fh: ro.Fh})
	v.Release(nil, &fuse.ReleaseIn{InHeader: header(f), Fh: open.Fh})
	v.ok("open trunc", v.Open(nil, &fuse.OpenIn{InHeader: header(f), Flags: unix.O_WRONLY | unix.O_TRUNC}, &open))
	v.Release(nil, &fuse.ReleaseIn{InHeader: header(f), Fh: open.Fh})
	if a, st := v.getattr(f); !st.Ok() || a.Size != 0 {
		t.Errorf("after O_TRUNC: %+v %v", a, st)
	}

	h := header(f)
	v.ok("setxattr", v.SetXAttr(nil, &fuse.SetXAttrIn{InHeader: h}, "user.a", []byte("12345")))
	if n, st := v.GetXAttr(nil, &h, "user.a", buf[:2]); st != fuse.ERANGE || n != 5 {
		t.Errorf("getxattr: %d %v", n, st)
	}
	if n, st := v.GetXAttr(nil, &h, "user.a", buf); !st.Ok() || string(buf[:n]) != "12345" {
		t.Errorf("getxattr: %q %v", buf[:n], st)
	}
	if n, st := v.ListXAttr(nil, &h, nil); !st.Ok() || n != 7 {
		t.Errorf("listxattr: %d %v", n, st)
	}
	v.ok("removexattr", v.RemoveXAttr(nil, &h, "user.a"))
	var stx fuse.StatxOut
	v.ok("statx", v.Statx(nil, &fuse.StatxIn{InHeader: h, SxMask: unix.STATX_ALL}, &stx))
	var sfs fuse.StatfsOut
	v.ok("statfs", v.StatFs(nil, &h, &sfs))
	if sfs.Blocks == 0 || sfs.NameLen != 255 {
		t.Errorf("statfs: %+v", sfs)
	}
	if st := v.Ioctl(nil, &fuse.IoctlIn{InHeader: h}, nil, &fuse.IoctlOut{}, nil); st != fuse.Status(unix.ENOTTY) {
		t.Errorf("ioctl: %v", st)
	}

	root := header(1)
	var out fuse.EntryOut
	v.ok("link", v.Link(nil, &fuse.LinkIn{InHeader: root, Oldnodeid: f}, "g", &out))
	if out.NodeId != f || out.Nlink != 2 {
		t.Errorf("link: node %d, was %d, nlink %d", out.NodeId, f, out.Nlink)
	}
	exists := fuse.Status(unix.EEXIST)
	for _, tc := range []struct {
		old, new string
		flags    uint32
		want     fuse.Status
	}{
		{"f", "g", unix.RENAME_NOREPLACE, exists},
		{"f", "h", unix.RENAME_NOREPLACE, fuse.OK},
		{"h", "f", unix.RENAME_EXCHANGE, fuse.ENOENT},
		{"h", "g", unix.RENAME_EXCHANGE, fuse.OK},
		{"h", "w", unix.RENAME_WHITEOUT, fuse.EINVAL},
		{"h", "f", 0, fuse.OK},
	} {
		if st := v.Rename(nil, &fuse.RenameIn{InHeader: root, Newdir: 1, Flags: tc.flags}, tc.old, tc.new); st != tc.want {
			t.Errorf("rename %s to %s, flags %d: %v, want %v", tc.old, tc.new, tc.flags, st, tc.want)
		}
	}
	// A create that finds a file, with and without O_EXCL.
	var created fuse.CreateOut
	if st := v.Create(nil, &fuse.CreateIn{InHeader: root, Flags: unix.O_RDWR | unix.O_EXCL, Mode: 0o644}, "g", &created); st != exists {
		t.Errorf("exclusive create: %v", st)
	}
	v.ok("create", v.Create(nil, &fuse.CreateIn{InHeader: root, Flags: unix.O_RDWR, Mode: 0o644}, "g", &created))
	if created.NodeId != f {
		t.Errorf("create of an existing file: node %d, was %d", created.NodeId, f)
	}
	v.Release(nil, &fuse.ReleaseIn{InHeader: h, Fh: created.Fh})
	v.ok("symlink", v.Symlink(nil, &root, "to/somewhere", "l", &out))
	lh := header(out.NodeId)
	if target, st := v.Readlink(nil, &lh); !st.Ok() || string(target) != "to/somewhere" {
		t.Errorf("readlink: %q %v", target, st)
	}
	v.Forget(out.NodeId, 1)
	v.ok("unlink", v.Unlink(nil, &root, "l"))
	v.Forget(f, 3)
}
