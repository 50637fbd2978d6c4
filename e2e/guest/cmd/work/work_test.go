// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"path/filepath"
	"testing"
)

func TestVerifyFindsWhatIsWrong(t *testing.T) {
	const size = 3*block + 4096
	path := filepath.Join(t.TempDir(), "file")
	if err := generate(path, size); err != nil {
		t.Fatal(err)
	}
	all := map[string]func() error{
		"verify":  func() error { return verify(path, size, 0) },
		"readers": func() error { return readers(5, path, size) },
		"mapped":  func() error { return mapped(path, size) },
	}
	for name, f := range all {
		if err := f(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, tc := range []struct {
		what  string
		spoil func(f *os.File) error
		size  int64
	}{
		{"one byte", func(f *os.File) error { _, err := f.WriteAt([]byte{0xee}, 2*block+77); return err }, size},
		{"a hole", func(f *os.File) error { _, err := f.WriteAt(make([]byte, 4096), block); return err }, size},
		{"the end", func(f *os.File) error { return f.Truncate(size - wordSize) }, size},
		{"more", func(f *os.File) error { return f.Truncate(size + wordSize) }, size},
	} {
		if err := generate(path, size); err != nil {
			t.Fatal(err)
		}
		f, err := os.OpenFile(path, os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		if err := tc.spoil(f); err != nil {
			t.Fatal(err)
		}
		f.Close()
		for _, name := range []string{"verify", "readers"} {
			if all[name]() == nil {
				t.Errorf("%s: %s does not notice", tc.what, name)
			}
		}
	}
}

func TestChurnStops(t *testing.T) {
	dir := t.TempDir()
	stop := filepath.Join(dir, "stop")
	if err := os.WriteFile(stop, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := churn(dir, stop, filepath.Join(dir, "progress")); err != nil {
		t.Error(err)
	}
	f, err := os.OpenFile(filepath.Join(dir, "long"), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for round := range 3 {
		if err := churnRound(dir, f, round); err != nil {
			t.Error(err)
		}
	}
	if _, err := f.WriteAt([]byte{0xee}, 500); err != nil {
		t.Fatal(err)
	}
	if churnRound(dir, f, 0) == nil {
		t.Error("a wrong byte in the open file is not noticed")
	}
}
