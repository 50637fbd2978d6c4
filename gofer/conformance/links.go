// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package conformance

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

var linkChecks = []Check{
	{"link/hard", func(dir string) error {
		a, b := filepath.Join(dir, "a"), filepath.Join(dir, "b")
		if err := os.WriteFile(a, []byte("one"), 0o644); err != nil {
			return err
		}
		if err := os.Link(a, b); err != nil {
			return err
		}
		if err := wantContent(b, []byte("one")); err != nil {
			return err
		}
		if err := os.WriteFile(b, []byte("two"), 0o644); err != nil {
			return err
		}
		if err := wantContent(a, []byte("two")); err != nil {
			return fmt.Errorf("written through the other name: %w", err)
		}
		if err := wantErr("link over a file", os.Link(a, b), unix.EEXIST); err != nil {
			return err
		}
		if err := os.Remove(a); err != nil {
			return err
		}
		return wantContent(b, []byte("two"))
	}},
	{"link/hard-count", func(dir string) error {
		a, b := filepath.Join(dir, "a"), filepath.Join(dir, "b")
		if err := os.WriteFile(a, []byte("one"), 0o644); err != nil {
			return err
		}
		if err := os.Link(a, b); err != nil {
			return err
		}
		for i, want := range []uint64{2, 1} {
			var st unix.Stat_t
			if err := unix.Stat(b, &st); err != nil {
				return err
			}
			if uint64(st.Nlink) != want {
				return fmt.Errorf("nlink is %d, want %d", st.Nlink, want)
			}
			if i == 0 {
				if err := os.Remove(a); err != nil {
					return err
				}
			}
		}
		return nil
	}},
	{"link/symbolic", func(dir string) error {
		if err := os.WriteFile(filepath.Join(dir, "target"), []byte("t"), 0o644); err != nil {
			return err
		}
		long := strings.Repeat("x/", 400) + "end"
		for i, target := range []string{"target", "/no/such/place", "../" + filepath.Base(dir) + "/target", long} {
			l := filepath.Join(dir, fmt.Sprintf("l%d", i))
			if err := os.Symlink(target, l); err != nil {
				return err
			}
			got, err := os.Readlink(l)
			if err != nil {
				return err
			}
			if got != target {
				return fmt.Errorf("readlink: %.40q, want %.40q", got, target)
			}
			fi, err := os.Lstat(l)
			if err != nil {
				return err
			}
			if fi.Mode()&os.ModeSymlink == 0 {
				return fmt.Errorf("lstat: mode %v, want a symbolic link", fi.Mode())
			}
		}
		for _, l := range []string{"l0", "l2"} {
			if err := wantContent(filepath.Join(dir, l), []byte("t")); err != nil {
				return fmt.Errorf("through the link: %w", err)
			}
		}
		_, err := os.Stat(filepath.Join(dir, "l1"))
		return wantErr("stat of a dangling link", err, unix.ENOENT)
	}},
	{"link/symbolic-loop", func(dir string) error {
		l := filepath.Join(dir, "l")
		if err := os.Symlink("l", l); err != nil {
			return err
		}
		_, err := os.Open(l)
		return wantErr("open of a link to itself", err, unix.ELOOP)
	}},
	{"node/fifo", func(dir string) error {
		p := filepath.Join(dir, "fifo")
		if err := unix.Mkfifo(p, 0o644); err != nil {
			return err
		}
		fi, err := os.Lstat(p)
		if err != nil {
			return err
		}
		if fi.Mode()&os.ModeNamedPipe == 0 {
			return fmt.Errorf("lstat: mode %v, want a fifo", fi.Mode())
		}
		return nil
	}},
	{"node/socket", func(dir string) error {
		// Bound through a relative name, because a path in the sandbox may be longer than sun_path.
		old, err := os.Getwd()
		if err != nil {
			return err
		}
		if err := os.Chdir(dir); err != nil {
			return err
		}
		defer os.Chdir(old)
		l, err := net.Listen("unix", "sock")
		if err != nil {
			return err
		}
		defer l.Close()
		fi, err := os.Lstat("sock")
		if err != nil {
			return err
		}
		if fi.Mode()&os.ModeSocket == 0 {
			return fmt.Errorf("lstat: mode %v, want a socket", fi.Mode())
		}
		return nil
	}},
}
