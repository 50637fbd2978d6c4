// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package conformance

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"
)

var dirChecks = []Check{
	{"dir/mkdir-rmdir", func(dir string) error {
		d := filepath.Join(dir, "d")
		if err := os.Mkdir(d, 0o755); err != nil {
			return err
		}
		if err := wantErr("second mkdir", os.Mkdir(d, 0o755), unix.EEXIST); err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(d, "f"), nil, 0o644); err != nil {
			return err
		}
		if err := wantErr("rmdir of a directory in use", unix.Rmdir(d), unix.ENOTEMPTY); err != nil {
			return err
		}
		if err := os.Remove(filepath.Join(d, "f")); err != nil {
			return err
		}
		if err := unix.Rmdir(d); err != nil {
			return fmt.Errorf("rmdir: %w", err)
		}
		_, err := os.Stat(d)
		return wantErr("stat after rmdir", err, unix.ENOENT)
	}},
	{"dir/list", func(dir string) error {
		var want []string
		for i := range 300 {
			name := fmt.Sprintf("entry-%03d", i)
			want = append(want, name)
			p := filepath.Join(dir, name)
			var err error
			if i%3 == 0 {
				err = os.Mkdir(p, 0o755)
			} else {
				err = os.WriteFile(p, []byte(name), 0o644)
			}
			if err != nil {
				return err
			}
		}
		return wantEntries(dir, want)
	}},
	{"dir/list-while-removing", func(dir string) error {
		d := filepath.Join(dir, "d")
		for i := range 200 {
			if err := os.MkdirAll(filepath.Join(d, fmt.Sprintf("s%d", i%5)), 0o755); err != nil {
				return err
			}
			if err := os.WriteFile(filepath.Join(d, fmt.Sprintf("s%d", i%5), fmt.Sprint(i)), nil, 0o644); err != nil {
				return err
			}
		}
		if err := os.RemoveAll(d); err != nil {
			return err
		}
		return wantEntries(dir, nil)
	}},
	{"dir/rename", func(dir string) error {
		a, b := filepath.Join(dir, "a"), filepath.Join(dir, "b")
		if err := os.MkdirAll(filepath.Join(a, "x"), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(a, "x", "f"), []byte("1"), 0o644); err != nil {
			return err
		}
		if err := os.Rename(a, b); err != nil {
			return err
		}
		if err := wantContent(filepath.Join(b, "x", "f"), []byte("1")); err != nil {
			return err
		}
		if err := wantErr("move below itself", os.Rename(b, filepath.Join(b, "x", "b")), unix.EINVAL); err != nil {
			return err
		}
		if err := os.Mkdir(a, 0o755); err != nil {
			return err
		}
		if err := unix.Rename(b, a); err != nil { // os.Rename refuses this by itself
			return fmt.Errorf("rename over an empty directory: %w", err)
		}
		if err := os.Mkdir(b, 0o755); err != nil {
			return err
		}
		return wantErr("rename over a directory in use", unix.Rename(b, a), unix.ENOTEMPTY)
	}},
	{"dir/rename-file", func(dir string) error {
		a, b := filepath.Join(dir, "a"), filepath.Join(dir, "sub", "b")
		if err := os.Mkdir(filepath.Join(dir, "sub"), 0o755); err != nil {
			return err
		}
		for i, over := range []bool{false, true} {
			content := fmt.Appendf(nil, "content %d", i)
			if err := os.WriteFile(a, content, 0o644); err != nil {
				return err
			}
			if err := os.Rename(a, b); err != nil {
				return fmt.Errorf("rename (over=%v): %w", over, err)
			}
			if err := wantContent(b, content); err != nil {
				return err
			}
			if _, err := os.Stat(a); !os.IsNotExist(err) {
				return fmt.Errorf("old name after rename: %v, want ENOENT", err)
			}
		}
		return nil
	}},
	{"dir/rename-noreplace", func(dir string) error {
		a, b := filepath.Join(dir, "a"), filepath.Join(dir, "b")
		if err := os.WriteFile(a, []byte("a"), 0o644); err != nil {
			return err
		}
		if err := os.WriteFile(b, []byte("b"), 0o644); err != nil {
			return err
		}
		err := unix.Renameat2(unix.AT_FDCWD, a, unix.AT_FDCWD, b, unix.RENAME_NOREPLACE)
		if err := wantErr("rename over a file with NOREPLACE", err, unix.EEXIST); err != nil {
			return err
		}
		c := filepath.Join(dir, "c")
		if err := unix.Renameat2(unix.AT_FDCWD, a, unix.AT_FDCWD, c, unix.RENAME_NOREPLACE); err != nil {
			return fmt.Errorf("rename to a free name with NOREPLACE: %w", err)
		}
		return wantContent(c, []byte("a"))
	}},
	{"dir/rename-exchange", func(dir string) error {
		a, b := filepath.Join(dir, "a"), filepath.Join(dir, "b")
		if err := os.WriteFile(a, []byte("a"), 0o644); err != nil {
			return err
		}
		if err := os.WriteFile(b, []byte("b"), 0o644); err != nil {
			return err
		}
		if err := unix.Renameat2(unix.AT_FDCWD, a, unix.AT_FDCWD, b, unix.RENAME_EXCHANGE); err != nil {
			return err
		}
		if err := wantContent(a, []byte("b")); err != nil {
			return err
		}
		return wantContent(b, []byte("a"))
	}},
}

// wantEntries reports, as an error, that dir does not hold exactly the names in want.
func wantEntries(dir string, want []string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	got, err := d.Readdirnames(-1)
	if err != nil {
		return err
	}
	slices.Sort(got)
	want = slices.Clone(want)
	slices.Sort(want)
	for i := range min(len(got), len(want)) {
		if got[i] != want[i] {
			return fmt.Errorf("listing: entry %d is %q, want %q (%d entries, want %d)", i, got[i], want[i], len(got), len(want))
		}
	}
	if len(got) != len(want) {
		return fmt.Errorf("listing: %d entries, want %d", len(got), len(want))
	}
	return nil
}
