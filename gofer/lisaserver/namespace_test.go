// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package lisaserver

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/lisafs"
)

func TestWalk(t *testing.T) {
	f := newFixture(t, Options{})
	if err := os.MkdirAll(filepath.Join(f.dir, "a/b/c"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(f.dir, "a/b/file"), []byte("x"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("b", filepath.Join(f.dir, "a/link")); err != nil {
		t.Fatal(err)
	}
	c := f.connect(ConnOptions{})
	for _, tc := range []struct {
		path   []string
		status lisafs.WalkStatus
		inodes int
		err    error
	}{
		{path: []string{"a", "b", "c"}, status: lisafs.WalkSuccess, inodes: 3},
		{path: []string{"a", "b", "nope", "x"}, status: lisafs.WalkComponentDoesNotExist, inodes: 2},
		{path: []string{"a", "link", "c"}, status: lisafs.WalkComponentSymlink, inodes: 2},
		{path: []string{"a", "b", "file"}, status: lisafs.WalkSuccess, inodes: 3},
		{path: []string{"a", "b", "file", "x"}, err: unix.ENOTDIR},
		{path: []string{"a", ".."}, err: unix.EINVAL},
		{path: []string{"a/b"}, err: unix.EINVAL},
		{path: []string{""}, err: unix.EINVAL},
		{path: []string{"a\x00b"}, err: unix.EINVAL},
		{path: []string{strings.Repeat("n", maxName+1)}, err: unix.ENAMETOOLONG},
		{path: []string{strings.Repeat("n", 256)}, err: unix.ENAMETOOLONG},
		{path: []string{strings.Repeat("n", 255)}, status: lisafs.WalkComponentDoesNotExist},
	} {
		status, inodes, err := c.root.WalkMultiple(ctx, tc.path)
		if err != tc.err {
			t.Errorf("walk %.40q: error %v, want %v", tc.path, err, tc.err)
			continue
		}
		if err == nil && (status != tc.status || len(inodes) != tc.inodes) {
			t.Errorf("walk %.40q: status %v with %d inodes, want %v with %d", tc.path, status, len(inodes), tc.status, tc.inodes)
		}
		for _, ino := range inodes {
			c.c.CloseFD(ctx, ino.ControlFD, true)
		}
	}
	if st := f.srv.Stats(); st.ControlFDs != 1 || st.Nodes != 0 {
		t.Errorf("after closing all: %+v", st)
	}
}

func TestWalkStat(t *testing.T) {
	f := newFixture(t, Options{})
	os.MkdirAll(filepath.Join(f.dir, "a/b"), 0o755)
	os.Symlink("b", filepath.Join(f.dir, "a/link"))
	os.WriteFile(filepath.Join(f.dir, "a/file"), nil, 0o644)
	c := f.connect(ConnOptions{})
	a, want := c.walk(c.root, "a")
	_, wantB := c.walk(a, "b")
	for _, tc := range []struct {
		path []string
		want int
	}{
		{[]string{""}, 1},
		{[]string{"", "a"}, 2},
		{[]string{"a", "b"}, 2},
		{[]string{"a", "nope"}, 1},
		{[]string{"a", "link", "x"}, 2},
		{[]string{"a", "file", "x"}, 2},
		{[]string{"nope"}, 0},
		{nil, 0},
	} {
		stats, err := c.root.WalkStat(ctx, tc.path)
		if err != nil || len(stats) != tc.want {
			t.Errorf("walkstat %q: %d results, error %v, want %d", tc.path, len(stats), err, tc.want)
		}
	}
	stats, err := c.root.WalkStat(ctx, []string{"a", "b"})
	if err != nil {
		t.Fatal(err)
	}
	if identityOfStat(stats[0]) != identityOfStat(want) || identityOfStat(stats[1]) != identityOfStat(wantB) {
		t.Errorf("identities of a walk and a walkstat differ: %v %v, %v %v", &stats[0], &want, &stats[1], &wantB)
	}
	// A walk that only looks must not leave lookups behind, nor send a FORGET
	// for nodes that the client holds.
	forgets := f.fs.count("FORGET")
	if _, err := c.root.WalkStat(ctx, []string{"a", "b"}); err != nil {
		t.Fatal(err)
	}
	if got := f.fs.count("FORGET") - forgets; got != 0 {
		t.Errorf("%d FORGETs for nodes in use", got)
	}
}

func TestDirectoriesAndLinks(t *testing.T) {
	f := newFixture(t, Options{})
	c := f.connect(ConnOptions{})
	dir := c.mkdir(c.root, "dir")
	if st := c.stat(dir); st.Mode != unix.S_IFDIR|0o755 {
		t.Errorf("mkdir: %v", &st)
	}
	if _, err := c.root.MkdirAt(ctx, "dir", 0o755, 0, 0); err != unix.EEXIST {
		t.Errorf("mkdir of what exists: %v", err)
	}
	ino, err := dir.SymlinkAt(ctx, "sym", "../some/where", 5, 6)
	if err != nil {
		t.Fatal(err)
	}
	sym := c.c.NewFD(ino.ControlFD)
	if target, err := sym.ReadLinkAt(ctx); err != nil || target != "../some/where" {
		t.Errorf("readlink: %q, %v", target, err)
	}
	if ino.Stat.UID != 5 || ino.Stat.GID != 6 {
		t.Errorf("symlink's owner: %v", &ino.Stat)
	}
	long := strings.Repeat("t", maxTarget)
	if ino, err := dir.SymlinkAt(ctx, "long", long, 0, 0); err != nil {
		t.Error(err)
	} else if fd := c.c.NewFD(ino.ControlFD); fd.Ok() {
		if target, err := fd.ReadLinkAt(ctx); err != nil || target != long {
			t.Errorf("readlink of the longest: %d bytes, %v", len(target), err)
		}
	}
	for target, want := range map[string]unix.Errno{"": unix.ENOENT, "a\x00b": unix.EINVAL, long + "x": unix.ENAMETOOLONG} {
		_, err := dir.SymlinkAt(ctx, "bad", target, 0, 0)
		wantErrno(t, fmt.Sprintf("symlink to %.10q", target), err, want)
	}

	file, open := c.create(dir, "file")
	link, err := c.root.LinkAt(ctx, file.ID(), "hard")
	if err != nil {
		t.Fatal(err)
	}
	// go-fuse knows hard links, so they are one node and one inode.
	if identityOfStat(link.Stat) != identityOfStat(c.stat(file)) || link.Stat.Nlink != 2 {
		t.Errorf("hard link: %v, file %v", &link.Stat, c.stat(file))
	}
	if _, err := c.root.LinkAt(ctx, dir.ID(), "dirlink"); err != unix.EPERM {
		t.Errorf("hard link to a directory: %v", err)
	}
	open.Close(ctx, true)

	wantErrno(t, "rmdir of a full directory", c.root.UnlinkAt(ctx, "dir", unix.AT_REMOVEDIR), unix.ENOTEMPTY)
	wantErrno(t, "unlink of a directory", c.root.UnlinkAt(ctx, "dir", 0), unix.EISDIR)
	wantErrno(t, "unlink with odd flags", c.root.UnlinkAt(ctx, "dir", 1), unix.EINVAL)
	for _, name := range []string{"sym", "long", "file"} {
		if err := dir.UnlinkAt(ctx, name, 0); err != nil {
			t.Errorf("unlink %q: %v", name, err)
		}
	}
	if err := c.root.UnlinkAt(ctx, "dir", unix.AT_REMOVEDIR); err != nil {
		t.Errorf("rmdir: %v", err)
	}
	wantErrno(t, "unlink again", dir.UnlinkAt(ctx, "sym", 0), unix.ENOENT)
	if _, err := dir.MkdirAt(ctx, "ghost", 0o755, 0, 0); err != unix.ENOENT {
		t.Errorf("mkdir in a removed directory: %v", err)
	}
}

func TestMknod(t *testing.T) {
	f := newFixture(t, Options{})
	c := f.connect(ConnOptions{})
	ino, err := c.root.MknodAt(ctx, "reg", unix.S_IFREG|0o640, 7, 8, 0, 0)
	if err != nil {
		t.Fatal(err)
	}
	if st := ino.Stat; st.Mode != unix.S_IFREG|0o640 || st.UID != 7 || st.GID != 8 {
		t.Errorf("mknod: %v", &st)
	}
	// The sentry makes its own fifos and sockets when it gets EPERM.
	for _, mode := range []linux.FileMode{unix.S_IFIFO, unix.S_IFSOCK, unix.S_IFCHR, unix.S_IFBLK} {
		_, err := c.root.MknodAt(ctx, "special", mode|0o644, 0, 0, 1, 3)
		wantErrno(t, fmt.Sprintf("mknod %#o", mode), err, unix.EPERM)
	}
}

func TestSpecialFilesOfTheFileSystem(t *testing.T) {
	f := newFixture(t, Options{})
	if err := unix.Mkfifo(filepath.Join(f.dir, "fifo"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mknod(filepath.Join(f.dir, "null"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))); err != nil {
		t.Skipf("mknod: %v", err)
	}
	c := f.connect(ConnOptions{})
	fifo, st := c.walk(c.root, "fifo")
	if st.Mode != unix.S_IFIFO|0o644 {
		t.Errorf("fifo: %v", &st)
	}
	if _, _, err := fifo.OpenAt(ctx, unix.O_RDONLY); err != unix.EPERM {
		t.Errorf("open of a fifo: %v", err)
	}
	null, st := c.walk(c.root, "null")
	if st.RdevMajor != 1 || st.RdevMinor != 3 {
		t.Errorf("device: %v", &st)
	}
	if _, _, err := null.OpenAt(ctx, unix.O_RDONLY); err != unix.EPERM {
		t.Errorf("open of a device: %v", err)
	}
}

func TestRename(t *testing.T) {
	f := newFixture(t, Options{})
	c := f.connect(ConnOptions{})
	a, b := c.mkdir(c.root, "a"), c.mkdir(c.root, "b")
	file, open := c.create(a, "file")
	if _, err := open.Write(ctx, []byte("first"), 0); err != nil {
		t.Fatal(err)
	}
	_, other := c.create(b, "other")
	if _, err := other.Write(ctx, []byte("second"), 0); err != nil {
		t.Fatal(err)
	}
	content := func(path string) string {
		data, err := os.ReadFile(filepath.Join(f.dir, path))
		if err != nil {
			return err.Error()
		}
		return string(data)
	}
	if err := a.RenameAt(ctx, "file", b.ID(), "other", unix.RENAME_EXCHANGE); err != nil {
		t.Fatal(err)
	}
	if content("a/file") != "second" || content("b/other") != "first" {
		t.Errorf("after exchange: %q, %q", content("a/file"), content("b/other"))
	}
	wantErrno(t, "no replace", a.RenameAt(ctx, "file", b.ID(), "other", unix.RENAME_NOREPLACE), unix.EEXIST)
	wantErrno(t, "whiteout", a.RenameAt(ctx, "file", b.ID(), "other", unix.RENAME_WHITEOUT), unix.EINVAL)
	wantErrno(t, "both", a.RenameAt(ctx, "file", b.ID(), "other", unix.RENAME_EXCHANGE|unix.RENAME_NOREPLACE), unix.EINVAL)
	wantErrno(t, "exchange with nothing", a.RenameAt(ctx, "file", b.ID(), "nope", unix.RENAME_EXCHANGE), unix.ENOENT)
	wantErrno(t, "missing", a.RenameAt(ctx, "nope", b.ID(), "x", 0), unix.ENOENT)
	wantErrno(t, "NUL in the old name", a.RenameAt(ctx, "file\x00x", b.ID(), "x", 0), unix.EINVAL)
	wantErrno(t, "NUL in the new name", a.RenameAt(ctx, "file", b.ID(), "x\x00y", 0), unix.EINVAL)
	if err := a.RenameAt(ctx, "file", a.ID(), "renamed", unix.RENAME_NOREPLACE); err != nil {
		t.Fatal(err)
	}
	if err := a.RenameAt(ctx, "renamed", b.ID(), "other", 0); err != nil {
		t.Fatal(err)
	}
	if content("b/other") != "second" {
		t.Errorf("after rename over: %q", content("b/other"))
	}
	// file's node was exchanged to b/other and then replaced, but is still open.
	if st := c.stat(file); st.Nlink != 0 {
		t.Errorf("replaced file: %v", &st)
	}
}

func TestRenameIntoItself(t *testing.T) {
	f := newFixture(t, Options{})
	c := f.connect(ConnOptions{})
	a := c.mkdir(c.root, "a")
	b := c.mkdir(a, "b")
	deep := c.mkdir(b, "c")
	other := c.mkdir(c.root, "other")
	renames := f.fs.count("RENAME")
	wantErrno(t, "into a child", c.root.RenameAt(ctx, "a", b.ID(), "x", 0), unix.EINVAL)
	wantErrno(t, "into a grandchild", c.root.RenameAt(ctx, "a", deep.ID(), "x", 0), unix.EINVAL)
	wantErrno(t, "into itself", c.root.RenameAt(ctx, "a", a.ID(), "x", 0), unix.EINVAL)
	wantErrno(t, "exchange with a descendant", b.RenameAt(ctx, "c", c.root.ID(), "a", unix.RENAME_EXCHANGE), unix.EINVAL)
	if got := f.fs.count("RENAME"); got != renames {
		t.Errorf("the file system was asked to tie a loop")
	}
	// The tree as known must follow renames: b moves away, then a may go below it.
	if err := a.RenameAt(ctx, "b", other.ID(), "b", 0); err != nil {
		t.Fatal(err)
	}
	if err := c.root.RenameAt(ctx, "a", deep.ID(), "a", 0); err != nil {
		t.Fatal(err)
	}
	wantErrno(t, "other into a", c.root.RenameAt(ctx, "other", a.ID(), "x", 0), unix.EINVAL)
	if _, err := os.Stat(filepath.Join(f.dir, "other/b/c/a")); err != nil {
		t.Error(err)
	}
	// And exchanges, in both directions.
	x := c.mkdir(c.root, "x")
	y := c.mkdir(x, "y")
	if err := x.RenameAt(ctx, "y", deep.ID(), "a", unix.RENAME_EXCHANGE); err != nil {
		t.Fatal(err)
	}
	wantErrno(t, "x into a, now below x", c.root.RenameAt(ctx, "x", a.ID(), "x", 0), unix.EINVAL)
	wantErrno(t, "other into y, now below other", c.root.RenameAt(ctx, "other", y.ID(), "x", 0), unix.EINVAL)
}

func TestOwnership(t *testing.T) {
	f := newFixture(t, Options{})
	c := f.connect(ConnOptions{})
	ino, fd, _, err := c.root.OpenCreateAt(ctx, "file", unix.O_WRONLY, 0o6755, 1000, 2000)
	if err != nil {
		t.Fatal(err)
	}
	file, open := c.c.NewFD(ino.ControlFD), c.c.NewFD(fd)
	if st := ino.Stat; st.UID != 1000 || st.GID != 2000 || st.Mode != unix.S_IFREG|0o6755 {
		t.Errorf("create: %v", &st)
	}
	if st := c.stat(file); st.UID != 1000 || st.GID != 2000 || st.Mode != unix.S_IFREG|0o6755 {
		t.Errorf("create, then stat: %v", &st)
	}
	open.Close(ctx, true)
	ino, err = c.root.MkdirAt(ctx, "dir", 0o2775, 1001, 2001)
	if err != nil {
		t.Fatal(err)
	}
	if st := ino.Stat; st.UID != 1001 || st.GID != 2001 || st.Mode != unix.S_IFDIR|0o2775 {
		t.Errorf("mkdir: %v", &st)
	}
	var onHost unix.Stat_t
	if err := unix.Stat(filepath.Join(f.dir, "dir"), &onHost); err != nil || onHost.Uid != 1001 || onHost.Mode != unix.S_IFDIR|0o2775 {
		t.Errorf("mkdir, on the host: %o, uid %d, error %v", onHost.Mode, onHost.Uid, err)
	}
	// -1 is nobody's id: the file belongs to the server's user then.
	ino, err = c.root.MkdirAt(ctx, "nobody", 0o755, lisafs.NoUID, lisafs.NoGID)
	if err != nil || ino.Stat.UID != 0 {
		t.Errorf("mkdir without an owner: %v, %v", &ino.Stat, err)
	}
}

func TestReadOnlyConnection(t *testing.T) {
	f := newFixture(t, Options{})
	os.WriteFile(filepath.Join(f.dir, "file"), []byte("data"), 0o644)
	c := f.connect(ConnOptions{ReadOnly: true})
	file, _ := c.walk(c.root, "file")
	if _, _, err := file.OpenAt(ctx, unix.O_RDWR); err != unix.EROFS {
		t.Errorf("open for writing: %v", err)
	}
	if _, _, err := file.OpenAt(ctx, unix.O_RDONLY|unix.O_TRUNC); err != unix.EROFS {
		t.Errorf("open with O_TRUNC: %v", err)
	}
	if _, err := c.root.MkdirAt(ctx, "dir", 0o755, 0, 0); err != unix.EROFS {
		t.Errorf("mkdir: %v", err)
	}
	wantErrno(t, "unlink", c.root.UnlinkAt(ctx, "file", 0), unix.EROFS)
	open := c.open(file, unix.O_RDONLY)
	buf := make([]byte, 10)
	if n, err := open.Read(ctx, buf, 0); err != nil || string(buf[:n]) != "data" {
		t.Errorf("read: %q, %v", buf[:n], err)
	}
}
