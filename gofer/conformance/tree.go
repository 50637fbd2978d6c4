// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package conformance

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Tree is a fixed directory tree, written on one medium and verified on another: packed into an archive or a disk
// image and served, or written through a volume and read by the next container. Media that cannot hold a part of it
// leave that part out.
type Tree struct {
	Files    int  // number of files in the big directory
	Sparse   bool // a sparse file of 5 GiB
	Xattr    bool // an extended attribute
	HardLink bool // a second name of a file
	Symlinks bool // symbolic links
	NameMax  int  // bytes of the longest name; 0 is 255, the most that Linux has
}

func (t Tree) longName() string {
	n := t.NameMax
	if n == 0 {
		n = 255
	}
	return strings.Repeat("n", n)
}

var treeTime = time.Unix(981_173_106, 0)

func blob() []byte { return pattern(1<<20+123, 99) }

// Write makes the tree in dir, which must be empty.
func (t Tree) Write(dir string) error {
	at := func(name string) string { return filepath.Join(dir, name) }
	for _, d := range []string{"dir/sub/deep", "many", "names"} {
		if err := os.MkdirAll(at(d), 0o755); err != nil {
			return err
		}
	}
	files := map[string][]byte{
		"hello.txt":             []byte("hello, world\n"),
		"empty":                 nil,
		"blob":                  blob(),
		"map":                   pattern(mapSize, 10),
		"dir/sub/deep/file":     []byte("deep"),
		"names/" + t.longName(): []byte("long name"),
	}
	for i := range t.Files {
		name := fmt.Sprintf("many/file-%05d", i)
		files[name] = []byte(name)
	}
	for name, content := range files {
		if err := os.WriteFile(at(name), content, 0o644); err != nil {
			return err
		}
	}
	if err := copySelf(at("run-me")); err != nil {
		return err
	}
	if err := os.Chmod(at("blob"), 0o640); err != nil {
		return err
	}
	if t.Symlinks {
		for name, target := range t.symlinks() {
			if err := os.Symlink(target, at(name)); err != nil {
				return err
			}
		}
	}
	if t.HardLink {
		if err := os.Link(at("hello.txt"), at("hard")); err != nil {
			return err
		}
	}
	if t.Xattr {
		if err := unix.Setxattr(at("hello.txt"), "user.fsva", []byte("kept"), 0); err != nil {
			return fmt.Errorf("setxattr: %w", err)
		}
	}
	if t.Sparse {
		if err := writeSparse(at("sparse")); err != nil {
			return err
		}
	}
	return os.Chtimes(at("hello.txt"), treeTime, treeTime)
}

func (Tree) symlinks() map[string]string {
	return map[string]string{"link-file": "hello.txt", "link-dir": "dir/sub", "link-dangling": "/no/such/place"}
}

func (t Tree) checks() []Check {
	list := []Check{
		{"tree/list", func(dir string) error {
			want := []string{"dir", "many", "names", "hello.txt", "empty", "blob", "map", "run-me"}
			if t.Symlinks {
				want = append(want, "link-file", "link-dir", "link-dangling")
			}
			if t.HardLink {
				want = append(want, "hard")
			}
			if t.Sparse {
				want = append(want, "sparse")
			}
			return wantEntries(dir, want)
		}},
		{"tree/stat", func(dir string) error {
			fi, err := os.Stat(filepath.Join(dir, "hello.txt"))
			if err != nil {
				return err
			}
			if fi.Size() != 13 || !fi.Mode().IsRegular() {
				return fmt.Errorf("hello.txt: size %d mode %v", fi.Size(), fi.Mode())
			}
			if fi.ModTime().Unix() != treeTime.Unix() {
				return fmt.Errorf("hello.txt: mtime %v, want %v", fi.ModTime(), treeTime)
			}
			return errors.Join(wantMode(filepath.Join(dir, "blob"), 0o640), wantMode(filepath.Join(dir, "run-me"), 0o755))
		}},
		{"tree/read", func(dir string) error {
			return errors.Join(
				wantContent(filepath.Join(dir, "hello.txt"), []byte("hello, world\n")),
				wantContent(filepath.Join(dir, "empty"), nil),
				wantContent(filepath.Join(dir, "blob"), blob()),
				wantContent(filepath.Join(dir, "dir/sub/deep/file"), []byte("deep")),
				wantContent(filepath.Join(dir, "names", t.longName()), []byte("long name")))
		}},
		{"tree/read-at", func(dir string) error {
			f, err := os.Open(filepath.Join(dir, "blob"))
			if err != nil {
				return err
			}
			defer f.Close()
			want := blob()
			for _, off := range []int{1 << 20, 4095, 700_001, 0, 131_071} {
				buf := make([]byte, 5000)
				n, err := f.ReadAt(buf, int64(off))
				end := min(off+len(buf), len(want))
				if n != end-off {
					return fmt.Errorf("read at %d: %d bytes, %v", off, n, err)
				}
				if err := sameBytes(fmt.Sprintf("read at %d", off), buf[:n], want[off:end]); err != nil {
					return err
				}
			}
			return nil
		}},
		{"tree/mmap-private", func(dir string) error { return t.checkMap(dir, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE) }},
		{"tree/mmap-shared", func(dir string) error { return t.checkMap(dir, unix.PROT_READ, unix.MAP_SHARED) }},
		{"tree/exec", func(dir string) error { return runSelf(filepath.Join(dir, "run-me")) }},
		{"tree/many", func(dir string) error {
			var want []string
			for i := range t.Files {
				want = append(want, fmt.Sprintf("file-%05d", i))
			}
			if err := wantEntries(filepath.Join(dir, "many"), want); err != nil {
				return err
			}
			for i := 0; i < t.Files; i += 97 {
				if err := wantContent(filepath.Join(dir, "many", want[i]), []byte("many/"+want[i])); err != nil {
					return err
				}
			}
			return nil
		}},
		{"tree/missing", func(dir string) error {
			_, err := os.Stat(filepath.Join(dir, "none"))
			if err := wantErr("stat of a missing file", err, unix.ENOENT); err != nil {
				return err
			}
			_, err = os.Stat(filepath.Join(dir, "hello.txt", "below"))
			return wantErr("stat below a file", err, unix.ENOTDIR)
		}},
		{"tree/statfs", func(dir string) error {
			var st unix.Statfs_t
			return unix.Statfs(dir, &st)
		}},
	}
	if t.Symlinks {
		list = append(list, Check{"tree/symlinks", func(dir string) error {
			for name, target := range t.symlinks() {
				got, err := os.Readlink(filepath.Join(dir, name))
				if err != nil {
					return err
				}
				if got != target {
					return fmt.Errorf("readlink %s: %q, want %q", name, got, target)
				}
			}
			return errors.Join(
				wantContent(filepath.Join(dir, "link-file"), []byte("hello, world\n")),
				wantContent(filepath.Join(dir, "link-dir/deep/file"), []byte("deep")))
		}})
	}
	if t.HardLink {
		list = append(list, Check{"tree/hard-link", func(dir string) error {
			return wantContent(filepath.Join(dir, "hard"), []byte("hello, world\n"))
		}})
	}
	if t.Xattr {
		list = append(list, Check{"tree/xattr", func(dir string) error {
			buf := make([]byte, 100)
			n, err := unix.Getxattr(filepath.Join(dir, "hello.txt"), "user.fsva", buf)
			if err != nil {
				return err
			}
			return sameBytes("user.fsva", buf[:n], []byte("kept"))
		}})
	}
	if t.Sparse {
		list = append(list, Check{"tree/sparse-5GiB", func(dir string) error { return checkSparse(filepath.Join(dir, "sparse")) }})
	}
	return list
}

// ReadOnlyChecks returns the checks that every change is refused with EROFS, for volumes that are read-only.
func ReadOnlyChecks() []Check {
	return sorted([]Check{
		{"readonly/create", func(dir string) error {
			return wantErr("create", os.WriteFile(filepath.Join(dir, "new"), nil, 0o644), unix.EROFS)
		}},
		{"readonly/mkdir", func(dir string) error {
			return wantErr("mkdir", os.Mkdir(filepath.Join(dir, "new"), 0o755), unix.EROFS)
		}},
		{"readonly/unlink", func(dir string) error {
			return wantErr("unlink", os.Remove(filepath.Join(dir, "hello.txt")), unix.EROFS)
		}},
		{"readonly/open-for-writing", func(dir string) error {
			f, err := os.OpenFile(filepath.Join(dir, "hello.txt"), os.O_RDWR, 0)
			if err == nil {
				f.Close()
			}
			return wantErr("open for writing", err, unix.EROFS)
		}},
		{"readonly/chmod", func(dir string) error {
			return wantErr("chmod", os.Chmod(filepath.Join(dir, "hello.txt"), 0o600), unix.EROFS)
		}},
		{"readonly/rename", func(dir string) error {
			return wantErr("rename", os.Rename(filepath.Join(dir, "hello.txt"), filepath.Join(dir, "new")), unix.EROFS)
		}},
	})
}

func (t Tree) checkMap(dir string, prot, flags int) error {
	want := pattern(mapSize, 10)
	return withMap(filepath.Join(dir, "map"), os.O_RDONLY, prot, flags, func(_ *os.File, m []byte) error {
		if !bytes.Equal(m, want) {
			return sameBytes("mapping", m, want)
		}
		if prot&unix.PROT_WRITE != 0 {
			m[1] ^= 0xff
			return wantContent(filepath.Join(dir, "map"), want)
		}
		return nil
	})
}
