// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package lisaserver

import (
	"bytes"
	"encoding/binary"
	"testing"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// bareFS lacks whatever a file system may lack.
type bareFS struct{ fuse.RawFileSystem }

func (bareFS) Flush(<-chan struct{}, *fuse.FlushIn) fuse.Status                { return fuse.ENOSYS }
func (bareFS) Fsync(<-chan struct{}, *fuse.FsyncIn) fuse.Status                { return fuse.ENOSYS }
func (bareFS) FsyncDir(<-chan struct{}, *fuse.FsyncIn) fuse.Status             { return fuse.ENOSYS }
func (bareFS) Fallocate(<-chan struct{}, *fuse.FallocateIn) fuse.Status        { return fuse.ENOSYS }
func (bareFS) RemoveXAttr(<-chan struct{}, *fuse.InHeader, string) fuse.Status { return fuse.ENOSYS }
func (bareFS) Link(<-chan struct{}, *fuse.LinkIn, string, *fuse.EntryOut) fuse.Status {
	return fuse.ENOSYS
}
func (bareFS) Rename(<-chan struct{}, *fuse.RenameIn, string, string) fuse.Status {
	return fuse.ENOSYS
}
func (bareFS) SetXAttr(<-chan struct{}, *fuse.SetXAttrIn, string, []byte) fuse.Status {
	return fuse.ENOSYS
}
func (bareFS) GetXAttr(<-chan struct{}, *fuse.InHeader, string, []byte) (uint32, fuse.Status) {
	return 0, fuse.ENOSYS
}
func (bareFS) ListXAttr(<-chan struct{}, *fuse.InHeader, []byte) (uint32, fuse.Status) {
	return 0, fuse.ENOSYS
}
func (bareFS) StatFs(<-chan struct{}, *fuse.InHeader, *fuse.StatfsOut) fuse.Status {
	return fuse.ENOSYS
}
func (bareFS) Readlink(<-chan struct{}, *fuse.InHeader) ([]byte, fuse.Status) {
	return []byte("target\x00and more"), fuse.OK
}

func TestWhatAFileSystemMayLack(t *testing.T) {
	f, chatty := newChattyFixture(t, Options{})
	chatty.RawFileSystem = bareFS{chatty.RawFileSystem}
	c := f.connect(ConnOptions{})
	file, open := c.create(c.root, "file")
	if _, err := open.Write(ctx, []byte("x"), 0); err != nil {
		t.Fatal(err)
	}
	if err := open.Flush(ctx); err != nil {
		t.Errorf("flush: %v", err)
	}
	if err := open.Sync(ctx); err != nil {
		t.Errorf("fsync: %v", err)
	}
	dir := c.open(c.root, unix.O_RDONLY)
	if err := dir.Sync(ctx); err != nil {
		t.Errorf("fsync of a directory: %v", err)
	}
	wantErrno(t, "fallocate", open.Allocate(ctx, 0, 0, 1), unix.EOPNOTSUPP)
	_, err := c.root.LinkAt(ctx, file.ID(), "link")
	wantErrno(t, "link", err, unix.EPERM)
	wantErrno(t, "rename", c.root.RenameAt(ctx, "file", c.root.ID(), "x", 0), unix.ENOSYS)
	wantErrno(t, "rename2", c.root.RenameAt(ctx, "file", c.root.ID(), "x", unix.RENAME_NOREPLACE), unix.EINVAL)
	wantErrno(t, "setxattr", file.SetXattr(ctx, "user.a", "x", 0), unix.EOPNOTSUPP)
	_, err = file.GetXattr(ctx, "user.a", 0)
	wantErrno(t, "getxattr", err, unix.EOPNOTSUPP)
	_, err = file.ListXattr(ctx, 0)
	wantErrno(t, "listxattr", err, unix.EOPNOTSUPP)
	wantErrno(t, "removexattr", file.RemoveXattr(ctx, "user.a"), unix.EOPNOTSUPP)
	ino, err := c.root.SymlinkAt(ctx, "sym", "whatever", 0, 0)
	if err != nil {
		t.Fatal(err)
	}
	sym := c.c.NewFD(ino.ControlFD)
	if target, err := sym.ReadLinkAt(ctx); err != nil || target != "target" {
		t.Errorf("readlink: %q, %v", target, err)
	}
	open.Close(ctx, true)
}

// slowFS moves at most 1000 bytes at a time and stops at a limit.
type slowFS struct {
	fuse.RawFileSystem
	limit   uint64
	noFlush bool
	opens   []uint32
	largest int
}

func (s *slowFS) MaxRead() int               { return 1000 }
func (s *slowFS) MaxWrite() int              { return 1000 }
func (s *slowFS) AtomicOTrunc() bool         { return true }
func (s *slowFS) Has(capability uint64) bool { return false }

func (s *slowFS) Open(cancel <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	s.opens = append(s.opens, in.Flags)
	st := s.RawFileSystem.Open(cancel, in, out)
	if s.noFlush {
		out.OpenFlags |= fuse.FOPEN_NOFLUSH
	}
	return st
}

func (s *slowFS) Write(cancel <-chan struct{}, in *fuse.WriteIn, data []byte) (uint32, fuse.Status) {
	s.largest = max(s.largest, len(data))
	if in.Offset >= s.limit {
		return 0, fuse.Status(unix.ENOSPC)
	}
	data = data[:min(len(data), 700)] // Partial writes.
	return s.RawFileSystem.Write(cancel, in, data)
}

func (s *slowFS) Read(cancel <-chan struct{}, in *fuse.ReadIn, buf []byte) (fuse.ReadResult, fuse.Status) {
	s.largest = max(s.largest, len(buf))
	if in.Offset >= s.limit {
		return nil, fuse.EIO
	}
	return s.RawFileSystem.Read(cancel, in, buf)
}

func newSlowFixture(t *testing.T) (*fixture, *slowFS) {
	t.Helper()
	dir := t.TempDir()
	root, err := fs.NewLoopbackRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	slow := &slowFS{RawFileSystem: fs.NewNodeFS(root, &fs.Options{}), limit: 1 << 40}
	f := newFixtureFS(t, dir, slow, Options{})
	// The wrapper that counts hides what New asks for; ask again below it.
	f.srv.Close()
	f.srv = New(struct {
		*countingFS
		slowLimits
	}{f.fs, slowLimits{slow}}, Options{})
	t.Cleanup(f.srv.Close)
	return f, slow
}

// slowLimits are slowFS' optional methods.
type slowLimits struct{ s *slowFS }

func (l slowLimits) MaxRead() int        { return l.s.MaxRead() }
func (l slowLimits) MaxWrite() int       { return l.s.MaxWrite() }
func (l slowLimits) AtomicOTrunc() bool  { return l.s.AtomicOTrunc() }
func (l slowLimits) Has(cap uint64) bool { return l.s.Has(cap) }

func TestLimitsOfTheFileSystem(t *testing.T) {
	f, slow := newSlowFixture(t)
	c := f.connect(ConnOptions{})
	file, open := c.create(c.root, "file")
	data := bytes.Repeat([]byte("abcdefg"), 1000)
	if n, err := open.Write(ctx, data, 0); err != nil || n != 7000 {
		t.Errorf("write: %d, %v", n, err)
	}
	got := make([]byte, 8000)
	if n, err := open.Read(ctx, got, 0); err != nil || !bytes.Equal(got[:n], data) {
		t.Errorf("read: %d, %v", n, err)
	}
	if slow.largest > 1000 {
		t.Errorf("asked for %d bytes at once", slow.largest)
	}
	slow.limit = 2000
	if n, err := open.Write(ctx, data, 0); err != nil || n < 2000 || n > 2700 {
		t.Errorf("write on a file system that gets full: %d, %v", n, err)
	}
	_, err := open.Write(ctx, data, 2100)
	wantErrno(t, "write on a full file system", err, unix.ENOSPC)
	if n, err := open.Read(ctx, got, 0); err != nil || n != 2000 {
		t.Errorf("read up to an error: %d, %v", n, err)
	}
	_, err = open.Read(ctx, got, 2000)
	wantErrno(t, "read at an error", err, unix.EIO)
	open.Close(ctx, true)

	// A file system that truncates by itself and wants no FLUSH.
	slow.limit, slow.noFlush = 1<<40, true
	setattrs, flushes := f.fs.count("SETATTR"), f.fs.count("FLUSH")
	open = c.open(file, unix.O_RDWR|unix.O_TRUNC)
	if _, err := open.Write(ctx, data, 0); err != nil {
		t.Fatal(err)
	}
	if err := open.Flush(ctx); err != nil {
		t.Error(err)
	}
	open.Close(ctx, true)
	if f.fs.count("SETATTR") != setattrs || f.fs.count("FLUSH") != flushes || slow.opens[0]&unix.O_TRUNC == 0 {
		t.Errorf("%d SETATTRs, %d FLUSHes, open flags %#x", f.fs.count("SETATTR")-setattrs, f.fs.count("FLUSH")-flushes, slow.opens)
	}
	// Without PARALLEL_DIROPS and READDIRPLUS things work as well.
	dir := c.open(c.root, unix.O_RDONLY)
	if got := c.list(dir); len(got) != 1 || f.fs.count("READDIRPLUS") != 0 {
		t.Errorf("listing: %v", got)
	}
	dir.Close(ctx, true)
}

func TestDirectoryThatHoldsItself(t *testing.T) {
	m := newMoodyFS(0)
	// d1 is node 2 below the root; d2 in it leads back to it, d3 to a deeper loop.
	id := func(parent uint64, name string) string {
		return string(binary.LittleEndian.AppendUint64(nil, parent)) + name
	}
	m.ids[id(1, "d1")] = 2
	m.ids[id(2, "d2")] = 2
	m.ids[id(2, "d3")] = 3
	m.ids[id(3, "d4")] = 2
	f := newFixtureFS(t, "", m, Options{})
	c := f.connect(ConnOptions{})
	d1, _ := c.walk(c.root, "d1")
	_, err := d1.Walk(ctx, "d2")
	wantErrno(t, "walk into itself", err, unix.ELOOP)
	d3, _ := c.walk(d1, "d3")
	_, err = d3.Walk(ctx, "d4")
	wantErrno(t, "walk into a parent", err, unix.ELOOP)
	// Without d1 in the way the same name is fine: the tree has changed.
	m.ids[id(1, "d5")] = 3
	d5, _ := c.walk(c.root, "d5") // node 3 is below the root now
	d1again, _ := c.walk(d5, "d4")
	if d5.ID() == d1again.ID() {
		t.Error("two walks, one FD")
	}
}
