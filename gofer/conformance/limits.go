// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package conformance

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

const (
	manyFiles  = 10_000
	sparseSize = 5 << 30
)

var limitChecks = []Check{
	{"limit/10000-files", func(dir string) error {
		want := make([]string, manyFiles)
		for i := range want {
			want[i] = fmt.Sprintf("file-%05d", i)
			if err := os.WriteFile(filepath.Join(dir, want[i]), nil, 0o644); err != nil {
				return err
			}
		}
		if err := wantEntries(dir, want); err != nil {
			return err
		}
		for i := 0; i < manyFiles; i += 997 {
			if _, err := os.Stat(filepath.Join(dir, want[i])); err != nil {
				return err
			}
		}
		return nil // the caller's clean-up removes them all
	}},
	{"limit/long-names", func(dir string) error {
		for _, c := range []string{"n", "d", "l"} {
			name := filepath.Join(dir, strings.Repeat(c, 255))
			var err error
			switch c {
			case "n":
				err = os.WriteFile(name, []byte(c), 0o644)
			case "d":
				err = os.Mkdir(name, 0o755)
			case "l":
				err = os.Symlink(strings.Repeat("n", 255), name)
			}
			if err != nil {
				return fmt.Errorf("name of 255 bytes: %w", err)
			}
		}
		if err := wantContent(filepath.Join(dir, strings.Repeat("l", 255)), []byte("n")); err != nil {
			return err
		}
		if err := wantEntries(dir, []string{strings.Repeat("n", 255), strings.Repeat("d", 255), strings.Repeat("l", 255)}); err != nil {
			return err
		}
		return wantErr("name of 256 bytes", os.WriteFile(filepath.Join(dir, strings.Repeat("n", 256)), nil, 0o644), unix.ENAMETOOLONG)
	}},
	{"limit/odd-names", func(dir string) error {
		names := []string{" ", "-n", "...", "a b", "tab\there", "quote'\"", "back\\slash", "naïve-ÅÄÖ-日本語", "nl\nnl"}
		for _, n := range names {
			if err := os.WriteFile(filepath.Join(dir, n), []byte(n), 0o644); err != nil {
				return err
			}
		}
		if err := wantEntries(dir, names); err != nil {
			return err
		}
		for _, n := range names {
			if err := wantContent(filepath.Join(dir, n), []byte(n)); err != nil {
				return err
			}
		}
		return nil
	}},
	{"limit/deep-tree", func(dir string) error {
		p := dir
		for range 60 {
			p = filepath.Join(p, "deeper")
			if err := os.Mkdir(p, 0o755); err != nil {
				return err
			}
		}
		f := filepath.Join(p, "f")
		if err := os.WriteFile(f, []byte("deep"), 0o644); err != nil {
			return err
		}
		return wantContent(f, []byte("deep"))
	}},
	{"limit/sparse-5GiB", func(dir string) error {
		p := filepath.Join(dir, "f")
		if err := writeSparse(p); err != nil {
			return err
		}
		return checkSparse(p)
	}},
}

// writeSparse makes a file of sparseSize bytes with data only at its beginning, past 4 GiB, and at its end.
func writeSparse(path string) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := f.Truncate(sparseSize); err != nil {
		return err
	}
	for _, off := range sparseOffsets() {
		if _, err := f.WriteAt(pattern(4096, uint32(off>>12)), off); err != nil {
			return fmt.Errorf("write at %d: %w", off, err)
		}
	}
	return f.Close()
}

func sparseOffsets() []int64 { return []int64{0, 1<<32 + 8192, sparseSize - 4096} }

// checkSparse verifies a file that writeSparse made, reading only near its data.
func checkSparse(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return err
	}
	if fi.Size() != sparseSize {
		return fmt.Errorf("size %d, want %d", fi.Size(), int64(sparseSize))
	}
	buf := make([]byte, 4096)
	var errs []error
	for _, off := range sparseOffsets() {
		if _, err := f.ReadAt(buf, off); err != nil {
			return fmt.Errorf("read at %d: %w", off, err)
		}
		errs = append(errs, sameBytes(fmt.Sprintf("data at %d", off), buf, pattern(4096, uint32(off>>12))))
	}
	for _, off := range []int64{1 << 20, 1 << 32, 3<<30 + 5} {
		if _, err := f.ReadAt(buf, off); err != nil {
			return fmt.Errorf("read of the hole at %d: %w", off, err)
		}
		errs = append(errs, sameBytes(fmt.Sprintf("hole at %d", off), buf, make([]byte, 4096)))
	}
	return errors.Join(errs...)
}
