// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package lisaserver

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/lisafs"
)

func TestUnlinkedFileStaysUsable(t *testing.T) {
	f := newFixture(t, Options{})
	c := f.connect(ConnOptions{})
	file, open := c.create(c.root, "file")
	if err := c.root.UnlinkAt(ctx, "file", 0); err != nil {
		t.Fatal(err)
	}
	if _, err := open.Write(ctx, []byte("still here"), 0); err != nil {
		t.Errorf("write: %v", err)
	}
	buf := make([]byte, 100)
	if n, err := open.Read(ctx, buf, 0); err != nil || string(buf[:n]) != "still here" {
		t.Errorf("read: %q, %v", buf[:n], err)
	}
	if st := c.stat(file); st.Size != 10 || st.Nlink != 0 {
		t.Errorf("stat on the control FD: %v", &st)
	}
	if st := c.stat(open); st.Size != 10 {
		t.Errorf("stat on the open FD: %v", &st)
	}
	for _, set := range []linux.Statx{
		{Mask: unix.STATX_SIZE, Size: 5},
		{Mask: unix.STATX_MODE, Mode: 0o600},
		{Mask: unix.STATX_UID | unix.STATX_GID, UID: 3, GID: 4},
		{Mask: unix.STATX_MTIME, Mtime: linux.StatxTimestamp{Sec: 1000}},
	} {
		if mask, failure, err := file.SetStat(ctx, &set); mask != 0 || failure != nil || err != nil {
			t.Errorf("setstat %#x: failed %#x, %v, %v", set.Mask, mask, failure, err)
		}
	}
	if err := open.Allocate(ctx, 0, 0, 4096); err != nil {
		t.Errorf("fallocate: %v", err)
	}
	if st := c.stat(file); st.Size != 4096 || st.Mode != unix.S_IFREG|0o600 || st.UID != 3 || st.Mtime.Sec == 0 {
		t.Errorf("after setstat: %v", &st)
	}
	if err := open.Flush(ctx); err != nil {
		t.Errorf("flush: %v", err)
	}
	if stats, err := file.WalkStat(ctx, []string{""}); err != nil || len(stats) != 1 || stats[0].Size != 4096 {
		t.Errorf("walkstat of itself: %v, %v", stats, err)
	}
	open.Close(ctx, true)
	// Without a handle the loopback has no way to it; the errno is the server's.
	wantErrno(t, "stat without a handle", c.tryStat(file), unix.ENOENT)
}

func TestTruncateUsesWritableHandle(t *testing.T) {
	f := newFixture(t, Options{})
	c := f.connect(ConnOptions{})
	file, open := c.create(c.root, "file")
	open.Close(ctx, true)
	reader := c.open(file, unix.O_RDONLY)
	set := linux.Statx{Mask: unix.STATX_SIZE, Size: 100}
	if mask, failure, err := file.SetStat(ctx, &set); mask != 0 || err != nil {
		t.Errorf("truncate while open for reading only: %#x, %v, %v", mask, failure, err)
	}
	writer := c.open(file, unix.O_WRONLY)
	if err := c.root.UnlinkAt(ctx, "file", 0); err != nil {
		t.Fatal(err)
	}
	set.Size = 50
	if mask, failure, err := file.SetStat(ctx, &set); mask != 0 || err != nil {
		t.Errorf("truncate of an unlinked file: %#x, %v, %v", mask, failure, err)
	}
	if st := c.stat(reader); st.Size != 50 {
		t.Errorf("size %d, want 50", st.Size)
	}
	writer.Close(ctx, true)
	reader.Close(ctx, true)
}

func (c *client) tryStat(fd lisafs.ClientFD) error {
	var st lisafs.Statx
	return fd.StatTo(ctx, &st)
}

func TestOpenModes(t *testing.T) {
	f := newFixture(t, Options{})
	os.WriteFile(filepath.Join(f.dir, "file"), []byte("content"), 0o644)
	c := f.connect(ConnOptions{})
	file, _ := c.walk(c.root, "file")
	r := c.open(file, unix.O_RDONLY)
	w := c.open(file, unix.O_WRONLY)
	buf := make([]byte, 10)
	if _, err := r.Write(ctx, buf, 0); err != unix.EBADF {
		t.Errorf("write on a reader: %v", err)
	}
	if _, err := w.Read(ctx, buf, 0); err != unix.EBADF {
		t.Errorf("read on a writer: %v", err)
	}
	if n, err := r.Read(ctx, buf, 7); n != 0 || err != io.EOF {
		t.Errorf("read at the end: %d, %v", n, err)
	}
	if _, err := r.Read(ctx, buf, 1<<63); err != unix.EINVAL {
		t.Errorf("read at a negative offset: %v", err)
	}
	if _, err := w.Write(ctx, buf, 1<<63-4); err != unix.EFBIG {
		t.Errorf("write past the largest offset: %v", err)
	}
	trunc := c.open(file, unix.O_RDWR|unix.O_TRUNC)
	if st := c.stat(trunc); st.Size != 0 {
		t.Errorf("size after O_TRUNC: %d", st.Size)
	}
	dir := c.open(c.root, unix.O_RDONLY)
	if _, err := dir.Read(ctx, buf, 0); err != unix.EISDIR {
		t.Errorf("read of a directory: %v", err)
	}
	if err := dir.Sync(ctx); err != nil && err != unix.EOPNOTSUPP {
		t.Errorf("fsync of a directory: %v", err)
	}
	if err := dir.Flush(ctx); err != nil {
		t.Errorf("flush of a directory: %v", err)
	}
	if _, _, err := c.root.OpenAt(ctx, unix.O_RDWR); err != unix.EISDIR {
		t.Errorf("open of a directory for writing: %v", err)
	}
	if _, err := r.Getdents64(ctx, 100); err != unix.ENOTDIR {
		t.Errorf("getdents of a file: %v", err)
	}
}

// chattyFS lets a test see and change requests and replies.
type chattyFS struct {
	fuse.RawFileSystem
	setAttr func(in *fuse.SetAttrIn) fuse.Status // OK: go on
	getAttr func(in *fuse.GetAttrIn, out *fuse.AttrOut)
	noOpen  bool
	create  fuse.Status
	entry   func(out *fuse.EntryOut)
	noPlus  bool
}

func (c *chattyFS) SetAttr(cancel <-chan struct{}, in *fuse.SetAttrIn, out *fuse.AttrOut) fuse.Status {
	if c.setAttr != nil {
		if st := c.setAttr(in); st != fuse.OK {
			return st
		}
	}
	return c.RawFileSystem.SetAttr(cancel, in, out)
}

func (c *chattyFS) GetAttr(cancel <-chan struct{}, in *fuse.GetAttrIn, out *fuse.AttrOut) fuse.Status {
	st := c.RawFileSystem.GetAttr(cancel, in, out)
	if c.getAttr != nil && st == fuse.OK {
		c.getAttr(in, out)
	}
	return st
}

func (c *chattyFS) Open(cancel <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	if c.noOpen {
		return fuse.ENOSYS
	}
	return c.RawFileSystem.Open(cancel, in, out)
}

func (c *chattyFS) OpenDir(cancel <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	if c.noOpen {
		return fuse.ENOSYS
	}
	return c.RawFileSystem.OpenDir(cancel, in, out)
}

func (c *chattyFS) Create(cancel <-chan struct{}, in *fuse.CreateIn, name string, out *fuse.CreateOut) fuse.Status {
	if c.create != fuse.OK {
		return c.create
	}
	st := c.RawFileSystem.Create(cancel, in, name, out)
	if c.entry != nil && st == fuse.OK {
		c.entry(&out.EntryOut)
	}
	return st
}

func (c *chattyFS) Mkdir(cancel <-chan struct{}, in *fuse.MkdirIn, name string, out *fuse.EntryOut) fuse.Status {
	st := c.RawFileSystem.Mkdir(cancel, in, name, out)
	if c.entry != nil && st == fuse.OK {
		c.entry(out)
	}
	return st
}

func (c *chattyFS) Lookup(cancel <-chan struct{}, h *fuse.InHeader, name string, out *fuse.EntryOut) fuse.Status {
	st := c.RawFileSystem.Lookup(cancel, h, name, out)
	if c.entry != nil && st == fuse.OK {
		c.entry(out)
	}
	return st
}

func (c *chattyFS) ReadDirPlus(cancel <-chan struct{}, in *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	if c.noPlus {
		return fuse.ENOSYS
	}
	return c.RawFileSystem.ReadDirPlus(cancel, in, out)
}

func newChattyFixture(t *testing.T, o Options) (*fixture, *chattyFS) {
	t.Helper()
	dir := t.TempDir()
	root, err := fs.NewLoopbackRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	chatty := &chattyFS{RawFileSystem: fs.NewNodeFS(root, &fs.Options{})}
	return newFixtureFS(t, dir, chatty, o), chatty
}

func TestSetStat(t *testing.T) {
	f, chatty := newChattyFixture(t, Options{})
	c := f.connect(ConnOptions{})
	file, open := c.create(c.root, "file")
	all := uint32(unix.STATX_MODE | unix.STATX_UID | unix.STATX_GID | unix.STATX_SIZE | unix.STATX_ATIME | unix.STATX_MTIME)
	set := linux.Statx{
		Mask: all, Mode: 0o6711, UID: 10, GID: 20, Size: 12345,
		Atime: linux.StatxTimestamp{Sec: 100, Nsec: 1},
		Mtime: linux.StatxTimestamp{Sec: -200, Nsec: 2},
	}
	before := f.fs.count("SETATTR")
	chatty.setAttr = nil
	if mask, failure, err := file.SetStat(ctx, &set); mask != 0 || failure != nil || err != nil {
		t.Fatalf("failed %#x, %v, %v", mask, failure, err)
	}
	if n := f.fs.count("SETATTR") - before; n != 1 {
		t.Errorf("%d SETATTRs, want 1", n)
	}
	st := c.stat(file)
	if st.UID != 10 || st.GID != 20 || st.Size != 12345 ||
		st.Atime.Sec != 100 || st.Atime.Nsec != 1 || st.Mtime.Sec != -200 || st.Mtime.Nsec != 2 {
		t.Errorf("after setstat: %v", &st)
	}
	open.Close(ctx, true)

	for _, tc := range []struct {
		name   string
		refuse uint32 // FATTR_* bits
		status fuse.Status
		mask   uint32
	}{
		{"owner", fuse.FATTR_UID, fuse.EPERM, unix.STATX_UID},
		{"group", fuse.FATTR_GID, fuse.EPERM, unix.STATX_GID},
		{"both", fuse.FATTR_UID | fuse.FATTR_GID, fuse.ENOSYS, unix.STATX_UID | unix.STATX_GID},
		{"mode", fuse.FATTR_MODE, fuse.ENOTSUP, unix.STATX_MODE},
		{"size", fuse.FATTR_SIZE, fuse.Status(unix.ENOSPC), unix.STATX_SIZE},
		{"atime", fuse.FATTR_ATIME, fuse.EPERM, unix.STATX_ATIME},
		{"size and mtime", fuse.FATTR_SIZE | fuse.FATTR_MTIME, fuse.EIO, unix.STATX_SIZE | unix.STATX_MTIME},
		{"everything", ^uint32(0), fuse.EROFS, all},
	} {
		t.Run(tc.name, func(t *testing.T) {
			chatty.setAttr = func(in *fuse.SetAttrIn) fuse.Status {
				if in.Valid&tc.refuse != 0 {
					return tc.status
				}
				return fuse.OK
			}
			defer func() { chatty.setAttr = nil }()
			mask, failure, err := file.SetStat(ctx, &set)
			if err != nil || mask != tc.mask || failure != unix.Errno(tc.status) {
				t.Errorf("failed %#x with %v (%v), want %#x with %v", mask, failure, err, tc.mask, unix.Errno(tc.status))
			}
		})
	}
}

func TestSetStatTimes(t *testing.T) {
	f, _ := newChattyFixture(t, Options{})
	c := f.connect(ConnOptions{})
	file, open := c.create(c.root, "file")
	defer open.Close(ctx, true)
	set := func(atime, mtime linux.StatxTimestamp) (uint32, error) {
		mask, failure, err := file.SetStat(ctx, &linux.Statx{Mask: unix.STATX_ATIME | unix.STATX_MTIME, Atime: atime, Mtime: mtime})
		if err != nil {
			t.Fatal(err)
		}
		return mask, failure
	}
	if mask, _ := set(linux.StatxTimestamp{Sec: 5}, linux.StatxTimestamp{Sec: 6}); mask != 0 {
		t.Fatal("times not set")
	}
	start := time.Now().Add(-time.Second).Unix()
	if mask, _ := set(linux.StatxTimestamp{Nsec: unix.UTIME_OMIT}, linux.StatxTimestamp{Nsec: unix.UTIME_NOW}); mask != 0 {
		t.Error("UTIME_NOW not set")
	}
	if st := c.stat(file); st.Atime.Sec != 5 || st.Mtime.Sec < start {
		t.Errorf("after UTIME_OMIT and UTIME_NOW: %v", &st)
	}
	if mask, failure := set(linux.StatxTimestamp{Sec: 7}, linux.StatxTimestamp{Nsec: 1_000_000_000}); mask != unix.STATX_MTIME || failure != unix.EINVAL {
		t.Errorf("bad nanoseconds: %#x, %v", mask, failure)
	}
	if st := c.stat(file); st.Atime.Sec != 7 {
		t.Errorf("the good half of a bad request: %v", &st)
	}
}

func TestSetStatByType(t *testing.T) {
	f := newFixture(t, Options{})
	c := f.connect(ConnOptions{})
	dir := c.mkdir(c.root, "dir")
	ino, err := c.root.SymlinkAt(ctx, "sym", "dir", 0, 0)
	if err != nil {
		t.Fatal(err)
	}
	sym := c.c.NewFD(ino.ControlFD)
	for _, tc := range []struct {
		name string
		fd   lisafs.ClientFD
		mask uint32
		want unix.Errno
	}{
		{"size of a directory", dir, unix.STATX_SIZE, unix.EISDIR},
		{"size of a symlink", sym, unix.STATX_SIZE, unix.EINVAL},
		{"mode of a symlink", sym, unix.STATX_MODE, unix.EOPNOTSUPP},
		{"mode of a directory", dir, unix.STATX_MODE, 0},
		{"owner of a symlink", sym, unix.STATX_UID, 0},
		{"time of a symlink", sym, unix.STATX_MTIME, 0},
	} {
		mask, failure, err := tc.fd.SetStat(ctx, &linux.Statx{Mask: tc.mask, Mode: 0o700, UID: 9, Mtime: linux.StatxTimestamp{Sec: 9}})
		if err != nil || (tc.want == 0 && mask != 0) || (tc.want != 0 && (mask != tc.mask || failure != tc.want)) {
			t.Errorf("%s: failed %#x with %v, %v", tc.name, mask, failure, err)
		}
	}
	if st := c.stat(sym); st.UID != 9 || st.Mtime.Sec != 9 {
		t.Errorf("symlink: %v", &st)
	}
}

func TestServerThatKeepsOwners(t *testing.T) {
	f, chatty := newChattyFixture(t, Options{})
	// Ignores the request's credentials and refuses chown.
	chatty.setAttr = func(in *fuse.SetAttrIn) fuse.Status { return fuse.ENOSYS }
	chatty.entry = func(out *fuse.EntryOut) { out.Uid, out.Gid = 777, 888 }
	chatty.getAttr = func(_ *fuse.GetAttrIn, out *fuse.AttrOut) { out.Uid, out.Gid = 777, 888 }
	c := f.connect(ConnOptions{})
	ino, err := c.root.MkdirAt(ctx, "dir", 0o755, 1000, 1000)
	if err != nil || ino.Stat.UID != 777 || ino.Stat.GID != 888 {
		t.Errorf("mkdir: %v, %v", &ino.Stat, err)
	}
	ino, fd, _, err := c.root.OpenCreateAt(ctx, "file", unix.O_RDWR, 0o644, 1000, 1000)
	if err != nil || ino.Stat.UID != 777 {
		t.Errorf("create: %v, %v", &ino.Stat, err)
	}
	c.c.CloseFD(ctx, fd, true)
}

func TestServerWithoutOpenAndCreate(t *testing.T) {
	f, chatty := newChattyFixture(t, Options{})
	chatty.create = fuse.ENOSYS
	c := f.connect(ConnOptions{})
	file, open := c.create(c.root, "file") // by MKNOD and OPEN
	if _, err := open.Write(ctx, []byte("data"), 0); err != nil {
		t.Fatal(err)
	}
	open.Close(ctx, true)
	chatty.noOpen = true
	virtual := c.open(file, unix.O_RDONLY)
	if st := c.stat(virtual); st.Size != 4 {
		t.Errorf("stat: %v", &st)
	}
	trunc := c.open(file, unix.O_RDWR|unix.O_TRUNC)
	if st := c.stat(file); st.Size != 0 {
		t.Errorf("O_TRUNC: %v", &st)
	}
	dir := c.open(c.root, unix.O_RDONLY)
	virtual.Close(ctx, false)
	trunc.Close(ctx, false)
	dir.Close(ctx, true)
	chatty.noOpen = false
	chatty.create = fuse.Status(unix.ENOSPC)
	_, _, _, err := c.root.OpenCreateAt(ctx, "full", unix.O_RDWR, 0o644, 0, 0)
	wantErrno(t, "create on a full file system", err, unix.ENOSPC)
}

func TestCreationWithBadReplyIsUndone(t *testing.T) {
	f, chatty := newChattyFixture(t, Options{})
	c := f.connect(ConnOptions{})
	for name, bad := range map[string]func(*fuse.EntryOut){
		"type": func(out *fuse.EntryOut) { out.Mode = unix.S_IFLNK | 0o777 },
		"none": func(out *fuse.EntryOut) { out.Mode = 0 },
		"size": func(out *fuse.EntryOut) { out.Size = 1 << 63 },
	} {
		chatty.entry = bad
		_, _, _, err := c.root.OpenCreateAt(ctx, name, unix.O_RDWR, 0o644, 0, 0)
		wantErrno(t, "create with bad "+name, err, unix.EIO)
		_, err = c.root.MkdirAt(ctx, name+"-dir", 0o755, 0, 0)
		wantErrno(t, "mkdir with bad "+name, err, unix.EIO)
	}
	chatty.entry = nil
	left, err := os.ReadDir(f.dir)
	if err != nil || len(left) != 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
	if st := f.srv.Stats(); st.ControlFDs != 1 || st.OpenFDs != 0 || st.Nodes != 0 {
		t.Errorf("stats: %+v", st)
	}
}

func TestFileThatChangesItsType(t *testing.T) {
	f, chatty := newChattyFixture(t, Options{})
	os.WriteFile(filepath.Join(f.dir, "file"), nil, 0o644)
	c := f.connect(ConnOptions{})
	file, before := c.walk(c.root, "file")
	chatty.getAttr = func(in *fuse.GetAttrIn, out *fuse.AttrOut) { out.Mode = unix.S_IFDIR | 0o755 }
	// A sentry panics if a stat says so.
	wantErrno(t, "stat", c.tryStat(file), unix.EIO)
	chatty.getAttr = nil
	chatty.entry = func(out *fuse.EntryOut) { out.Mode = unix.S_IFLNK | 0o777 }
	stats, err := c.root.WalkStat(ctx, []string{"file"})
	if err != nil || len(stats) != 1 || identityOfStat(stats[0]) == identityOfStat(before) {
		t.Errorf("walkstat shows the same identity with another type: %v, %v", stats, err)
	}
	again, st := c.walk(c.root, "file")
	if identityOfStat(st) == identityOfStat(before) {
		t.Errorf("walk shows the same identity with another type: %v", &st)
	}
	chatty.entry = nil
	again.Close(ctx, false)
	file.Close(ctx, true)
}

func TestRootInADirectoryIsRefused(t *testing.T) {
	f, chatty := newChattyFixture(t, Options{})
	os.WriteFile(filepath.Join(f.dir, "file"), nil, 0o644)
	c := f.connect(ConnOptions{})
	real := chatty.RawFileSystem
	chatty.RawFileSystem = rootEverywhere{real}
	_, err := c.root.Walk(ctx, "file")
	wantErrno(t, "walk to the root", err, unix.EIO)
	chatty.RawFileSystem = real
}

// rootEverywhere answers each LOOKUP with the root.
type rootEverywhere struct{ fuse.RawFileSystem }

func (r rootEverywhere) Lookup(_ <-chan struct{}, _ *fuse.InHeader, _ string, out *fuse.EntryOut) fuse.Status {
	*out = fuse.EntryOut{NodeId: fuse.FUSE_ROOT_ID}
	out.Mode = unix.S_IFDIR | 0o755
	return fuse.OK
}

func (r rootEverywhere) Forget(uint64, uint64) {}

func TestStableIno(t *testing.T) {
	f, chatty := newChattyFixture(t, Options{StableIno: true, DevMinor: 42})
	os.WriteFile(filepath.Join(f.dir, "file"), nil, 0o644)
	os.WriteFile(filepath.Join(f.dir, "other"), nil, 0o644)
	var onHost unix.Stat_t
	if err := unix.Stat(filepath.Join(f.dir, "file"), &onHost); err != nil {
		t.Fatal(err)
	}
	c := f.connect(ConnOptions{})
	_, st := c.walk(c.root, "file")
	if st.Ino != onHost.Ino || st.DevMinor != 42 {
		t.Errorf("identity %+v, ino on the host %d", identityOfStat(st), onHost.Ino)
	}
	// The same number in a listing, and the same device.
	dir := c.open(c.root, unix.O_RDONLY)
	if d := c.list(dir)["file"]; uint64(d.Ino) != st.Ino || uint32(d.DevMajor) != st.DevMajor || uint32(d.DevMinor) != 42 {
		t.Errorf("dirent %v", &d)
	}
	// Numbers that no inode has fall back to the node's.
	for _, ino := range []uint64{0, ^uint64(0)} {
		chatty.entry = func(out *fuse.EntryOut) { out.Ino = ino }
		_, a := c.walk(c.root, "file")
		_, b := c.walk(c.root, "other")
		if identityOfStat(a) == identityOfStat(b) || a.DevMajor == st.DevMajor {
			t.Errorf("ino %#x: identities %+v and %+v", ino, identityOfStat(a), identityOfStat(b))
		}
	}
	chatty.entry = nil
	dir.Close(ctx, true)
}

func TestIdentityWithoutStableIno(t *testing.T) {
	f, chatty := newChattyFixture(t, Options{})
	for _, name := range []string{"a", "b"} {
		os.WriteFile(filepath.Join(f.dir, name), nil, 0o644)
	}
	chatty.entry = func(out *fuse.EntryOut) { out.Ino = 7 } // A server that knows one number.
	c := f.connect(ConnOptions{})
	_, a := c.walk(c.root, "a")
	_, b := c.walk(c.root, "b")
	if identityOfStat(a) == identityOfStat(b) {
		t.Errorf("two files with the identity %+v", identityOfStat(a))
	}
	chatty.noPlus = true
	dir := c.open(c.root, unix.O_RDONLY)
	for name, d := range c.list(dir) {
		if uint32(d.DevMajor) == a.DevMajor {
			t.Errorf("dirent %q shares the nodes' number space", name)
		}
	}
	dir.Close(ctx, true)
}

// labelFS has a label for each file but those without.
type labelFS struct {
	fuse.RawFileSystem
	without map[uint64]bool
}

func (l labelFS) GetXAttr(_ <-chan struct{}, header *fuse.InHeader, attr string, dest []byte) (uint32, fuse.Status) {
	if attr != "security.selinux" || l.without[header.NodeId] {
		return 0, fuse.ENOATTR
	}
	return uint32(copy(dest, "label")), fuse.OK
}

func TestSELinuxLabel(t *testing.T) {
	f, chatty := newChattyFixture(t, Options{})
	labels := labelFS{chatty.RawFileSystem, map[uint64]bool{fuse.FUSE_ROOT_ID: true}}
	chatty.RawFileSystem = labels
	c := f.connect(ConnOptions{})
	file, open := c.create(c.root, "file")
	defer open.Close(ctx, true)
	_, err := c.root.GetXattr(ctx, "security.selinux", 10)
	wantErrno(t, "where no file has a label", err, unix.EOPNOTSUPP)
	_, err = c.root.GetXattr(ctx, "user.selinux", 10)
	wantErrno(t, "another name", err, unix.ENODATA)
	if v, err := file.GetXattr(ctx, "security.selinux", 10); err != nil || v != "label" {
		t.Errorf("a file with a label: %q, %v", v, err)
	}
	_, err = c.root.GetXattr(ctx, "security.selinux", 10)
	wantErrno(t, "where files have labels", err, unix.ENODATA)
}

func TestXattr(t *testing.T) {
	f := newFixture(t, Options{})
	c := f.connect(ConnOptions{})
	file, open := c.create(c.root, "file")
	defer open.Close(ctx, true)
	if err := file.SetXattr(ctx, "user.one", "value", 0); err == unix.EOPNOTSUPP {
		t.Skip("no user xattrs in the temporary directory")
	} else if err != nil {
		t.Fatal(err)
	}
	wantErrno(t, "create again", file.SetXattr(ctx, "user.one", "x", unix.XATTR_CREATE), unix.EEXIST)
	wantErrno(t, "replace nothing", file.SetXattr(ctx, "user.two", "x", unix.XATTR_REPLACE), unix.ENODATA)
	wantErrno(t, "odd flags", file.SetXattr(ctx, "user.two", "x", 4), unix.EINVAL)
	wantErrno(t, "NUL", file.SetXattr(ctx, "user.a\x00b", "x", 0), unix.EINVAL)
	wantErrno(t, "no name", file.SetXattr(ctx, "", "x", 0), unix.ERANGE)
	wantErrno(t, "long name", file.SetXattr(ctx, "user."+strings.Repeat("n", 255), "x", 0), unix.ERANGE)
	for _, size := range []uint64{0, 5, 100, 65536, 1 << 31} {
		if v, err := file.GetXattr(ctx, "user.one", size); err != nil || v != "value" {
			t.Errorf("get with size %d: %q, %v", size, v, err)
		}
	}
	_, err := file.GetXattr(ctx, "user.one", 4)
	wantErrno(t, "get with a small buffer", err, unix.ERANGE)
	_, err = file.GetXattr(ctx, "user.none", 10)
	wantErrno(t, "get of none", err, unix.ENODATA)
	if err := file.SetXattr(ctx, "user.empty", "", 0); err != nil {
		t.Error(err)
	}
	if v, err := file.GetXattr(ctx, "user.empty", 10); err != nil || v != "" {
		t.Errorf("get of the empty one: %q, %v", v, err)
	}
	names, err := file.ListXattr(ctx, 0)
	slices.Sort(names)
	if err != nil || !slices.Equal(names, []string{"user.empty", "user.one"}) {
		t.Errorf("list: %q, %v", names, err)
	}
	if err := file.RemoveXattr(ctx, "user.one"); err != nil {
		t.Error(err)
	}
	wantErrno(t, "remove again", file.RemoveXattr(ctx, "user.one"), unix.ENODATA)
	// lisafs' lengths have 16 bits: one more than fits must not become nothing.
	wantErrno(t, "set 65536 bytes", file.SetXattr(ctx, "user.big", strings.Repeat("v", 65536), 0), unix.E2BIG)
}

// xattrFS has an attribute of any size, which few file systems do.
type xattrFS struct {
	fuse.RawFileSystem
	value []byte
}

func (x *xattrFS) GetXAttr(_ <-chan struct{}, _ *fuse.InHeader, _ string, dest []byte) (uint32, fuse.Status) {
	if len(dest) < len(x.value) {
		return uint32(len(x.value)), fuse.ERANGE
	}
	return uint32(copy(dest, x.value)), fuse.OK
}

func (x *xattrFS) SetXAttr(_ <-chan struct{}, _ *fuse.SetXAttrIn, _ string, data []byte) fuse.Status {
	x.value = slices.Clone(data)
	return fuse.OK
}

func TestXattrSizes(t *testing.T) {
	root, err := fs.NewLoopbackRoot(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	x := &xattrFS{RawFileSystem: fs.NewNodeFS(root, &fs.Options{})}
	f := newFixtureFS(t, "", x, Options{})
	c := f.connect(ConnOptions{})
	big := strings.Repeat("v", maxXattr)
	if err := c.root.SetXattr(ctx, "user.big", big, 0); err != nil {
		t.Fatal(err)
	}
	for _, size := range []uint64{0, maxXattr, maxXattr + 1} {
		if v, err := c.root.GetXattr(ctx, "user.big", size); err != nil || v != big {
			t.Errorf("get of %d bytes with size %d: %d bytes, %v", len(big), size, len(v), err)
		}
	}
	x.value = append(x.value, 'v')
	for _, size := range []uint64{0, maxXattr + 1} {
		_, err := c.root.GetXattr(ctx, "user.big", size)
		wantErrno(t, fmt.Sprintf("get of 65536 bytes with size %d", size), err, unix.E2BIG)
	}
	_, err = c.root.GetXattr(ctx, "user.big", 100)
	wantErrno(t, "get of 65536 bytes with size 100", err, unix.ERANGE)
}

func TestFallocateAndStatFS(t *testing.T) {
	f := newFixture(t, Options{})
	c := f.connect(ConnOptions{})
	_, open := c.create(c.root, "file")
	defer open.Close(ctx, true)
	if err := open.Allocate(ctx, 0, 0, 8192); err != nil {
		t.Errorf("fallocate: %v", err)
	}
	if err := open.Allocate(ctx, unix.FALLOC_FL_KEEP_SIZE|unix.FALLOC_FL_PUNCH_HOLE, 0, 4096); err != nil && err != unix.EOPNOTSUPP {
		t.Errorf("punch a hole: %v", err)
	}
	if st := c.stat(open); st.Size != 8192 {
		t.Errorf("size %d", st.Size)
	}
	wantErrno(t, "no length", open.Allocate(ctx, 0, 0, 0), unix.EINVAL)
	wantErrno(t, "negative", open.Allocate(ctx, 0, 1<<63, 1), unix.EINVAL)
	wantErrno(t, "too far", open.Allocate(ctx, 0, 1<<62, 1<<62), unix.EFBIG)
	wantErrno(t, "mode", open.Allocate(ctx, 1<<32, 0, 1), unix.EOPNOTSUPP)
	var st lisafs.StatFS
	if err := c.root.StatFSTo(ctx, &st); err != nil || st.Type != fuseSuperMagic || st.Blocks == 0 || st.BlockSize == 0 || st.NameLength == 0 {
		t.Errorf("statfs: %v, %v", &st, err)
	}
}
