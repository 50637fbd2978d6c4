// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package lisaserver

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/lisafs"
)

func TestBigDirectory(t *testing.T) {
	const files = 10_000
	f, chatty := newChattyFixture(t, Options{})
	name := func(i int) string { return fmt.Sprintf("file-%05d-%s", i, strings.Repeat("x", i%200)) }
	for i := range files {
		if err := os.WriteFile(filepath.Join(f.dir, name(i)), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for _, plus := range []bool{true, false} {
		t.Run(fmt.Sprintf("plus=%v", plus), func(t *testing.T) {
			chatty.noPlus = !plus
			c := f.connect(ConnOptions{})
			dir := c.open(c.root, unix.O_RDONLY)
			defer dir.Close(ctx, true)
			got := c.list(dir)
			if len(got) != files {
				t.Errorf("%d names, want %d", len(got), files)
			}
			for i := range files {
				if d, ok := got[name(i)]; !ok || d.Type != unix.DT_REG {
					t.Fatalf("%q: %v %v", name(i), &d, ok)
				}
			}
		})
	}
	chatty.noPlus = false

	// Remove each file as it is listed, as rm -r does.
	c := f.connect(ConnOptions{})
	dir := c.open(c.root, unix.O_RDONLY)
	count, seen := int32(-8192), 0
	for {
		dirents, err := dir.Getdents64(ctx, count)
		if err != nil {
			t.Fatal(err)
		}
		if len(dirents) == 0 {
			break
		}
		for _, d := range dirents {
			if err := c.root.UnlinkAt(ctx, string(d.Name), 0); err != nil {
				t.Fatalf("unlink %q: %v", d.Name, err)
			}
			seen++
		}
		count = 8192
	}
	if left := c.list(dir); seen != files || len(left) != 0 {
		t.Errorf("removed %d of %d files, %d left", seen, files, len(left))
	}
	dir.Close(ctx, true)
}

func TestRewindSeesNewEntries(t *testing.T) {
	f := newFixture(t, Options{})
	c := f.connect(ConnOptions{})
	dir := c.open(c.root, unix.O_RDONLY)
	opens := f.fs.count("OPENDIR")
	if got := c.list(dir); len(got) != 0 {
		t.Errorf("new directory: %v", got)
	}
	if n := f.fs.count("OPENDIR") - opens; n != 0 {
		t.Errorf("first listing opened the directory %d times more", n)
	}
	c.mkdir(c.root, "new")
	if got := c.list(dir); len(got) != 1 {
		t.Errorf("after mkdir: %v", got)
	}
	dir.Close(ctx, true)
}

// TestRewindAfterRename lists a directory that was opened by a name that it, or one above it, has no more.
func TestRewindAfterRename(t *testing.T) {
	f := newFixture(t, Options{})
	c := f.connect(ConnOptions{})
	above := c.mkdir(c.root, "above")
	dir := c.open(c.mkdir(above, "dir"), unix.O_RDONLY)
	defer dir.Close(ctx, true)
	if err := c.root.RenameAt(ctx, "above", c.root.ID(), "moved", 0); err != nil {
		t.Fatal(err)
	}
	for i := range 3 { // at first because of the rename, then because it was read
		opens := f.fs.count("OPENDIR")
		if got := c.list(dir); len(got) != 0 {
			t.Errorf("listing %d: got %v", i, got)
		}
		if n := f.fs.count("OPENDIR") - opens; n != 1 {
			t.Errorf("listing %d opened the directory %d times, want once", i, n)
		}
	}
	wantErrno(t, "rename of what is not there", c.root.RenameAt(ctx, "none", c.root.ID(), "x", 0), unix.ENOENT)
	other := c.open(c.root, unix.O_RDONLY)
	defer other.Close(ctx, true)
	opens := f.fs.count("OPENDIR")
	if got := c.list(other); len(got) != 1 {
		t.Errorf("the root: got %v", got)
	}
	if n := f.fs.count("OPENDIR") - opens; n != 0 {
		t.Errorf("the root was opened %d times more with no rename in between", n)
	}
}

func TestGetdentsCounts(t *testing.T) {
	f := newFixture(t, Options{MaxIO: minMaxIO})
	long := strings.Repeat("n", 255)
	for i := range 100 {
		os.WriteFile(filepath.Join(f.dir, fmt.Sprintf("%03d%s", i, long[3:])), nil, 0o644)
	}
	c := f.connect(ConnOptions{})
	dir := c.open(c.root, unix.O_RDONLY)
	_, err := dir.Getdents64(ctx, 10)
	wantErrno(t, "room for nothing", err, unix.EINVAL)
	d, err := dir.Getdents64(ctx, 300)
	if err != nil || len(d) != 1 {
		t.Errorf("room for one: %d, %v", len(d), err)
	}
	// More than a message holds: what fits, and no panic in lisafs.
	total := 1
	for {
		d, err := dir.Getdents64(ctx, 1<<31-1)
		if err != nil {
			t.Fatal(err)
		}
		if len(d) == 0 {
			break
		}
		total += len(d)
	}
	if total != 100 {
		t.Errorf("%d names, want 100", total)
	}
	if _, err := dir.Getdents64(ctx, -1<<31); err != nil && err != unix.EINVAL {
		t.Errorf("most negative count: %v", err)
	}
	dir.Close(ctx, true)
}

// dirFS answers READDIR from a script.
type dirFS struct {
	fuse.RawFileSystem
	entries []fuse.DirEntry
	fail    fuse.Status
}

func (d *dirFS) ReadDirPlus(<-chan struct{}, *fuse.ReadIn, *fuse.DirEntryList) fuse.Status {
	return fuse.ENOSYS
}

func (d *dirFS) ReadDir(_ <-chan struct{}, in *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	for _, e := range d.entries {
		if e.Off > in.Offset && !out.AddDirEntry(e) {
			return fuse.OK
		}
	}
	if in.Offset > 0 {
		return d.fail
	}
	return fuse.OK
}

func TestOddListings(t *testing.T) {
	dot := fuse.DirEntry{Name: ".", Mode: unix.S_IFDIR, Off: 1}
	for _, tc := range []struct {
		name    string
		entries []fuse.DirEntry
		fail    fuse.Status
		want    []string
		err     error
	}{
		{name: "only dots", entries: []fuse.DirEntry{dot, {Name: "..", Off: 2}}},
		{name: "good", entries: []fuse.DirEntry{dot, {Name: "a", Off: 2}, {Name: "b", Off: 3}}, want: []string{"a", "b"}},
		{name: "slash", entries: []fuse.DirEntry{{Name: "a", Off: 1}, {Name: "b/c", Off: 2}}, want: []string{"a"}, err: unix.EIO},
		{name: "nul", entries: []fuse.DirEntry{{Name: "b\x00c", Off: 1}}, err: unix.EIO},
		{name: "empty", entries: []fuse.DirEntry{{Name: "", Off: 1}}, err: unix.EIO},
		{name: "long", entries: []fuse.DirEntry{{Name: strings.Repeat("n", 1025), Off: 1}}, err: unix.EIO},
		{name: "error later", entries: []fuse.DirEntry{{Name: "a", Off: 1}}, fail: fuse.EACCES, want: []string{"a"}, err: unix.EACCES},
	} {
		t.Run(tc.name, func(t *testing.T) {
			f, chatty := newChattyFixture(t, Options{})
			chatty.RawFileSystem = &dirFS{chatty.RawFileSystem, tc.entries, tc.fail}
			chatty.noPlus = true
			c := f.connect(ConnOptions{})
			dir := c.open(c.root, unix.O_RDONLY)
			defer dir.Close(ctx, true)
			var got []string
			var err error
			for {
				var d []lisafs.Dirent64
				if d, err = dir.Getdents64(ctx, 8192); err != nil || len(d) == 0 {
					break
				}
				for _, e := range d {
					got = append(got, string(e.Name))
				}
			}
			if strings.Join(got, "|") != strings.Join(tc.want, "|") || err != tc.err {
				t.Errorf("got %q, %v, want %q, %v", got, err, tc.want, tc.err)
			}
		})
	}
}
