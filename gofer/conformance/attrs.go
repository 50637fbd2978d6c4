// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package conformance

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

var attrChecks = []Check{
	{"attr/chmod", func(dir string) error {
		f, d := filepath.Join(dir, "f"), filepath.Join(dir, "d")
		if err := os.WriteFile(f, nil, 0o644); err != nil {
			return err
		}
		if err := os.Mkdir(d, 0o755); err != nil {
			return err
		}
		for _, mode := range []uint32{0o600, 0o755, 0o000, 0o444, 0o4755, 0o2755} {
			if err := unix.Chmod(f, mode); err != nil {
				return fmt.Errorf("chmod %#o: %w", mode, err)
			}
			if err := wantMode(f, mode); err != nil {
				return err
			}
		}
		if err := unix.Chmod(d, 0o1777); err != nil {
			return err
		}
		return wantMode(d, 0o1777)
	}},
	{"attr/chmod-descriptor", func(dir string) error {
		f, err := os.OpenFile(filepath.Join(dir, "f"), os.O_CREATE|os.O_RDWR, 0o644)
		if err != nil {
			return err
		}
		defer f.Close()
		if err := f.Chmod(0o640); err != nil {
			return err
		}
		return wantMode(f.Name(), 0o640)
	}},
	{"attr/umask", func(dir string) error {
		defer unix.Umask(unix.Umask(0o027))
		f, d := filepath.Join(dir, "f"), filepath.Join(dir, "d")
		if err := os.WriteFile(f, nil, 0o666); err != nil {
			return err
		}
		if err := os.Mkdir(d, 0o777); err != nil {
			return err
		}
		return errors.Join(wantMode(f, 0o640), wantMode(d, 0o750))
	}},
	{"attr/chown", func(dir string) error {
		f := filepath.Join(dir, "f")
		if err := os.WriteFile(f, nil, 0o644); err != nil {
			return err
		}
		for _, id := range [][2]int{{1000, 1001}, {-1, 5}, {7, -1}, {0, 0}} {
			if err := os.Chown(f, id[0], id[1]); err != nil {
				return err
			}
			if err := wantOwner(f, id[0], id[1]); err != nil {
				return err
			}
		}
		l := filepath.Join(dir, "l")
		if err := os.Symlink("f", l); err != nil {
			return err
		}
		if err := os.Lchown(l, 42, 43); err != nil {
			return err
		}
		return errors.Join(wantOwner(l, 42, 43), wantOwner(f, 0, 0))
	}},
	{"attr/times", func(dir string) error {
		f := filepath.Join(dir, "f")
		if err := os.WriteFile(f, nil, 0o644); err != nil {
			return err
		}
		at, mt := time.Unix(1_000_000_000, 0), time.Unix(1_234_567_890, 0)
		if err := os.Chtimes(f, at, mt); err != nil {
			return err
		}
		var st unix.Stat_t
		if err := unix.Stat(f, &st); err != nil {
			return err
		}
		if st.Atim.Sec != at.Unix() || st.Mtim.Sec != mt.Unix() {
			return fmt.Errorf("atime %d mtime %d, want %d and %d", st.Atim.Sec, st.Mtim.Sec, at.Unix(), mt.Unix())
		}
		// A write moves mtime to about now.
		if err := os.WriteFile(f, []byte("x"), 0o644); err != nil {
			return err
		}
		if err := unix.Stat(f, &st); err != nil {
			return err
		}
		if age := time.Since(time.Unix(st.Mtim.Sec, st.Mtim.Nsec)); age < -5*time.Second || age > 5*time.Minute {
			return fmt.Errorf("mtime after a write is %v old", age)
		}
		return nil
	}},
	{"attr/times-nanoseconds", func(dir string) error {
		f := filepath.Join(dir, "f")
		if err := os.WriteFile(f, nil, 0o644); err != nil {
			return err
		}
		want := time.Unix(1_234_567_890, 123_456_700)
		if err := os.Chtimes(f, want, want); err != nil {
			return err
		}
		fi, err := os.Stat(f)
		if err != nil {
			return err
		}
		if !fi.ModTime().Equal(want) {
			return fmt.Errorf("mtime %v, want %v", fi.ModTime(), want)
		}
		return nil
	}},
	{"attr/xattr", func(dir string) error {
		f := filepath.Join(dir, "f")
		if err := os.WriteFile(f, nil, 0o644); err != nil {
			return err
		}
		buf := make([]byte, 1000)
		_, err := unix.Getxattr(f, "user.none", buf)
		if err := wantErr("getxattr of none", err, unix.ENODATA); err != nil {
			return err
		}
		for _, name := range []string{"user.a", "user.b"} {
			if err := unix.Setxattr(f, name, []byte("value of "+name), 0); err != nil {
				return fmt.Errorf("setxattr: %w", err)
			}
		}
		err = unix.Setxattr(f, "user.a", []byte("x"), unix.XATTR_CREATE)
		if err := wantErr("setxattr with CREATE of an existing one", err, unix.EEXIST); err != nil {
			return err
		}
		err = unix.Setxattr(f, "user.c", []byte("x"), unix.XATTR_REPLACE)
		if err := wantErr("setxattr with REPLACE of a missing one", err, unix.ENODATA); err != nil {
			return err
		}
		n, err := unix.Getxattr(f, "user.a", buf)
		if err != nil {
			return err
		}
		if err := sameBytes("user.a", buf[:n], []byte("value of user.a")); err != nil {
			return err
		}
		_, err = unix.Getxattr(f, "user.a", buf[:3])
		if err := wantErr("getxattr with a short buffer", err, unix.ERANGE); err != nil {
			return err
		}
		if err := unix.Removexattr(f, "user.a"); err != nil {
			return err
		}
		n, err = unix.Listxattr(f, buf)
		if err != nil {
			return err
		}
		names := slices.DeleteFunc(strings.Split(string(buf[:n]), "\x00"), func(s string) bool {
			return !strings.HasPrefix(s, "user.")
		})
		if !slices.Equal(names, []string{"user.b"}) {
			return fmt.Errorf("listxattr: %q, want only user.b", names)
		}
		return nil
	}},
}

// wantMode reports, as an error, that path has other permission bits than want.
func wantMode(path string, want uint32) error {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return err
	}
	if got := st.Mode & 0o7777; got != want {
		return fmt.Errorf("%s: mode %#o, want %#o", filepath.Base(path), got, want)
	}
	return nil
}

// wantOwner reports, as an error, that path belongs to someone else; -1 means any. It does not follow a link.
func wantOwner(path string, uid, gid int) error {
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		return err
	}
	if (uid >= 0 && int(st.Uid) != uid) || (gid >= 0 && int(st.Gid) != gid) {
		return fmt.Errorf("%s: owner %d:%d, want %d:%d", filepath.Base(path), st.Uid, st.Gid, uid, gid)
	}
	return nil
}
