// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package inprocess_test

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"fsva/gofer/conformance"
	"fsva/gofer/inprocess"
)

// checksEnv makes the test binary check the tree in the directory that it names.
const checksEnv = "FSVA_TEST_TREE"

func TestMain(m *testing.M) {
	conformance.Helper()
	if dir := os.Getenv(checksEnv); dir != "" {
		var tree conformance.Tree
		err := json.Unmarshal([]byte(os.Getenv(checksEnv+"_KIND")), &tree)
		if err == nil {
			_, err = conformance.Run(conformance.TreeChecks(tree), dir, true, func(o conformance.Outcome) {
				if o.Err != "" {
					fmt.Printf("%s: %s\n", o.Name, o.Err)
				}
			})
		}
		if err != nil {
			fmt.Println(err)
		}
		os.Exit(0)
	}
	unix.Umask(0)
	os.Exit(m.Run())
}

func options() inprocess.Options {
	return inprocess.Options{Log: slog.New(slog.DiscardHandler)}
}

func TestOpenErrors(t *testing.T) {
	dir := t.TempDir()
	plain := filepath.Join(dir, "plain")
	if err := os.WriteFile(plain, []byte("hello"), 0o600); err != nil {
		t.Fatal(err)
	}
	fifo := filepath.Join(dir, "fifo")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		kind, source string
		settings     map[string]string
		want         string
	}{
		{"dir", filepath.Join(dir, "none"), nil, "no such file or directory"},
		{"dir", plain, nil, "not a directory"},
		{"mem", plain, nil, "not a directory"},
		{"zip", filepath.Join(dir, "none"), nil, "no such file or directory"},
		{"zip", plain, nil, "not a zip archive"},
		{"tar", plain, nil, "not a tar archive"},
		{"tar", dir, nil, "not a regular file"},
		{"zip", fifo, nil, "not a regular file"},
		{"tar", plain, map[string]string{"max-unpacked": "lots"}, `option max-unpacked: "lots" is not a number of bytes such as 512M`},
		{"zip", plain, map[string]string{"cache-size": "M"}, `option cache-size: "M" is not a number`},
		{"zip", plain, map[string]string{"cache-size": "99999999T"}, `is not a number`},
		{"disk", plain, nil, `no in-process file system is called "disk"`},
	} {
		o := options()
		o.Settings = tc.settings
		fs, err := inprocess.Open(tc.kind, tc.source, o)
		if err == nil || !strings.Contains(err.Error(), tc.want) || strings.Contains(err.Error(), "\n") || fs != nil {
			t.Errorf("%s %s: %v, want %q", tc.kind, tc.source, err, tc.want)
		}
	}
}

// changes are all operations that change something, on node 2, called "f", of the
// root directory.
func changes(fs fuse.RawFileSystem) map[string]fuse.Status {
	dir, file := fuse.InHeader{NodeId: 1}, fuse.InHeader{NodeId: 2}
	_, write := fs.Write(nil, &fuse.WriteIn{InHeader: file}, []byte("x"))
	_, writev := fs.Writev(nil, &fuse.WriteIn{InHeader: file}, [][]byte{[]byte("x")})
	_, copied := fs.CopyFileRange(nil, &fuse.CopyFileRangeIn{InHeader: file})
	return map[string]fuse.Status{
		"setattr":     fs.SetAttr(nil, &fuse.SetAttrIn{SetAttrInCommon: fuse.SetAttrInCommon{InHeader: file, Valid: fuse.FATTR_MODE}}, &fuse.AttrOut{}),
		"mknod":       fs.Mknod(nil, &fuse.MknodIn{InHeader: dir}, "n", &fuse.EntryOut{}),
		"mkdir":       fs.Mkdir(nil, &fuse.MkdirIn{InHeader: dir}, "n", &fuse.EntryOut{}),
		"unlink":      fs.Unlink(nil, &dir, "f"),
		"rmdir":       fs.Rmdir(nil, &dir, "f"),
		"rename":      fs.Rename(nil, &fuse.RenameIn{InHeader: dir, Newdir: 1}, "f", "g"),
		"link":        fs.Link(nil, &fuse.LinkIn{InHeader: dir, Oldnodeid: 2}, "g", &fuse.EntryOut{}),
		"symlink":     fs.Symlink(nil, &dir, "t", "n", &fuse.EntryOut{}),
		"create":      fs.Create(nil, &fuse.CreateIn{InHeader: dir}, "n", &fuse.CreateOut{}),
		"tmpfile":     fs.Tmpfile(nil, &fuse.CreateIn{InHeader: dir}, &fuse.CreateOut{}),
		"setxattr":    fs.SetXAttr(nil, &fuse.SetXAttrIn{InHeader: file}, "user.a", nil),
		"removexattr": fs.RemoveXAttr(nil, &file, "user.a"),
		"open":        fs.Open(nil, &fuse.OpenIn{InHeader: file, Flags: unix.O_RDWR}, &fuse.OpenOut{}),
		"open trunc":  fs.Open(nil, &fuse.OpenIn{InHeader: file, Flags: unix.O_TRUNC}, &fuse.OpenOut{}),
		"access":      fs.Access(nil, &fuse.AccessIn{InHeader: file, Mask: unix.W_OK}),
		"fallocate":   fs.Fallocate(nil, &fuse.FallocateIn{InHeader: file}),
		"write":       write, "writev": writev, "copy_file_range": copied,
	}
}

// A read-only volume refuses everything, although the directory is writable.
func TestReadOnly(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "f"), []byte("hello"), 0o644); err != nil {
		t.Fatal(err)
	}
	tarball := filepath.Join(t.TempDir(), "a.tar")
	if text, err := exec.Command("tar", "-C", dir, "-cf", tarball, "f").CombinedOutput(); err != nil {
		t.Skipf("tar: %v: %s", err, text)
	}
	for kind, source := range map[string]string{"dir": dir, "mem": dir, "tar": tarball} {
		t.Run(kind, func(t *testing.T) {
			o := options()
			o.ReadOnly = kind != "tar" // which is read-only in any case
			fs, err := inprocess.Open(kind, source, o)
			if err != nil {
				t.Fatal(err)
			}
			defer fs.OnUnmount()
			var e fuse.EntryOut
			if st := fs.Lookup(nil, &fuse.InHeader{NodeId: 1}, "f", &e); !st.Ok() || e.NodeId != 2 {
				t.Fatalf("lookup: node %d, %v", e.NodeId, st)
			}
			for what, st := range changes(fs) {
				if st != fuse.EROFS {
					t.Errorf("%s: %v", what, st)
				}
			}
			if list, err := os.ReadDir(dir); err != nil || len(list) != 1 {
				t.Errorf("directory: %v %v", list, err)
			}
		})
	}
}

// Names that are none reach neither the host nor go-fuse, which panics on some.
func TestNames(t *testing.T) {
	fs, err := inprocess.Open("dir", t.TempDir(), options())
	if err != nil {
		t.Fatal(err)
	}
	defer fs.OnUnmount()
	h := fuse.InHeader{NodeId: 1}
	for name, want := range map[string]fuse.Status{
		"": fuse.EINVAL, ".": fuse.EINVAL, "..": fuse.EINVAL, "a/b": fuse.EINVAL, "/": fuse.EINVAL, "a\x00": fuse.EINVAL,
		strings.Repeat("n", 256): fuse.Status(unix.ENAMETOOLONG),
	} {
		for what, st := range map[string]fuse.Status{
			"lookup":  fs.Lookup(nil, &h, name, &fuse.EntryOut{}),
			"mkdir":   fs.Mkdir(nil, &fuse.MkdirIn{InHeader: h}, name, &fuse.EntryOut{}),
			"create":  fs.Create(nil, &fuse.CreateIn{InHeader: h}, name, &fuse.CreateOut{}),
			"symlink": fs.Symlink(nil, &h, "t", name, &fuse.EntryOut{}),
			"rename":  fs.Rename(nil, &fuse.RenameIn{InHeader: h, Newdir: 1}, "a", name),
		} {
			if st != want {
				t.Errorf("%s %q: %v, want %v", what, name, st, want)
			}
		}
	}
	for target, want := range map[string]fuse.Status{"": fuse.ENOENT, "a\x00b": fuse.EINVAL, strings.Repeat("t", 4096): fuse.Status(unix.ENAMETOOLONG)} {
		if st := fs.Symlink(nil, &h, target, "l", &fuse.EntryOut{}); st != want {
			t.Errorf("symlink to %.9q: %v, want %v", target, st, want)
		}
	}
}

// Archives made by tar and zip, mounted with the kernel's FUSE client.
func TestArchiveTree(t *testing.T) {
	if _, err := os.Stat("/dev/fuse"); err != nil || os.Getuid() != 0 {
		t.Skip("needs root and /dev/fuse")
	}
	full := conformance.Tree{Files: 3000, Sparse: true, Xattr: true, HardLink: true, Symlinks: true}
	for _, tc := range []struct {
		name string
		tree conformance.Tree
		pack string
	}{
		{"gnu", conformance.Tree{Files: 3000, Sparse: true, HardLink: true, Symlinks: true}, "tar --format=gnu -S -cf ../a ."},
		{"pax", full, "tar --format=posix --xattrs -S -cf ../a ."},
		{"v7", conformance.Tree{Files: 3000, Symlinks: true}, "tar --format=v7 --exclude='n*nn' -cf ../a * "},
		{"tar.gz", full, "tar --format=posix --xattrs -S -czf ../a ."},
		{"tar.bz2", full, "tar --format=posix --xattrs -S -cjf ../a ."},
		{"zip", conformance.Tree{Files: 3000, Symlinks: true}, "zip -qry ../a.zip . && mv ../a.zip ../a"},
		{"zip stored", conformance.Tree{Files: 3000, Symlinks: true}, "zip -0qry ../a.zip . && mv ../a.zip ../a"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			base := t.TempDir()
			dir, mnt := filepath.Join(base, "dir"), filepath.Join(base, "mnt")
			for _, d := range []string{dir, mnt} {
				if err := os.Mkdir(d, 0o755); err != nil {
					t.Fatal(err)
				}
			}
			if err := tc.tree.Write(dir); err != nil {
				t.Fatal(err)
			}
			if tc.name == "v7" { // which has no room for long names
				if err := os.RemoveAll(filepath.Join(dir, "names", strings.Repeat("n", 255))); err != nil {
					t.Fatal(err)
				}
			}
			cmd := exec.Command("sh", "-c", tc.pack)
			cmd.Dir = dir
			if text, err := cmd.CombinedOutput(); err != nil {
				t.Skipf("%s: %v: %s", tc.pack, err, text)
			}
			o := options()
			o.Settings = map[string]string{"max-unpacked": "1G"}
			format, _, _ := strings.Cut(tc.pack, " ") // the program is called like its format
			raw, err := inprocess.Open(format, filepath.Join(base, "a"), o)
			if err != nil {
				t.Fatal(err)
			}
			srv, err := fuse.NewServer(raw, mnt, &fuse.MountOptions{DirectMountStrict: true, FsName: "fsva-test", Options: []string{"default_permissions"}})
			if err != nil {
				t.Skipf("cannot mount: %v", err)
			}
			go srv.Serve()
			if err := srv.WaitMount(); err != nil {
				t.Fatal(err)
			}
			defer func() {
				if err := srv.Unmount(); err != nil {
					t.Errorf("unmount: %v", err)
				}
			}()
			// In a process of their own: see dirfs, TestPosix.
			kind, err := json.Marshal(tc.tree)
			if err != nil {
				t.Fatal(err)
			}
			checks := exec.Command("/proc/self/exe")
			checks.Env = append(os.Environ(), checksEnv+"="+mnt, checksEnv+"_KIND="+string(kind))
			text, err := checks.CombinedOutput()
			if err != nil {
				t.Fatalf("checks: %v: %s", err, text)
			}
			for line := range strings.Lines(string(text)) {
				if !(tc.name == "v7" && strings.Contains(line, "nnnn")) {
					t.Error(line)
				}
			}
			want, got := treeOf(t, dir), treeOf(t, mnt)
			for path, line := range want {
				if got[path] != line {
					t.Errorf("%s: %s, packed was %s", path, got[path], line)
				}
			}
			if len(got) != len(want) {
				t.Errorf("%d files, packed were %d", len(got), len(want))
			}
		})
	}
}

// treeOf describes each file below dir.
func treeOf(t *testing.T, dir string) map[string]string {
	t.Helper()
	out := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, _ os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return err
		}
		rel, _ := filepath.Rel(dir, path)
		out[rel] = fmt.Sprintf("mode %o owner %d:%d mtime %d", st.Mode, st.Uid, st.Gid, st.Mtim.Sec)
		if st.Mode&unix.S_IFMT == unix.S_IFREG {
			out[rel] += fmt.Sprintf(" size %d", st.Size)
		}
		if rel == "." {
			out[rel] = "" // not every archive has it
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}
