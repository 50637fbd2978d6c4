// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// open keeps files open until it is killed.
func open(count int, dir string) error {
	files := make([]*os.File, count)
	for i := range files {
		f, err := os.Create(filepath.Join(dir, fmt.Sprintf("open%d", i)))
		if err != nil {
			return err
		}
		files[i] = f
	}
	if _, err := fmt.Println("open"); err != nil {
		return err
	}
	for {
		if err := unix.Pause(); err != unix.EINTR {
			return err
		}
	}
}

// churn works on a file that stays open and on files that come and go, and verifies each step, until stop is there. After
// each round it writes its number to progress, which is not on the file system under test.
func churn(dir, stop, progress string) error {
	long, err := os.Create(filepath.Join(dir, "long"))
	if err != nil {
		return err
	}
	defer long.Close()
	b := make([]byte, 64<<10)
	fill(b, 0)
	if _, err := long.Write(b); err != nil {
		return err
	}
	for round := 0; ; round++ {
		if _, err := os.Stat(stop); err == nil {
			return long.Close()
		} else if !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if err := churnRound(dir, long, round); err != nil {
			return fmt.Errorf("round %d: %w", round, err)
		}
		next := progress + ".new"
		if err := errors.Join(os.WriteFile(next, fmt.Appendln(nil, round), 0o644), os.Rename(next, progress)); err != nil {
			return err
		}
	}
}

func churnRound(dir string, long *os.File, round int) error {
	// The open file: each round writes a word, and reads all of it.
	const words = (64 << 10) / wordSize
	off := int64(round % words * wordSize)
	word := make([]byte, wordSize)
	fill(word, off)
	if _, err := long.WriteAt(word, off); err != nil {
		return fmt.Errorf("write the open file: %w", err)
	}
	all := make([]byte, words*wordSize)
	if _, err := long.ReadAt(all, 0); err != nil {
		return fmt.Errorf("read the open file: %w", err)
	}
	if err := check(all, 0); err != nil {
		return fmt.Errorf("the open file: %w", err)
	}

	// A file that comes, moves and goes.
	first, second := filepath.Join(dir, "first"), filepath.Join(dir, "second")
	content := bytes.Repeat(fmt.Appendf(nil, "round %d\n", round), 1000)
	if err := os.WriteFile(first, content, 0o644); err != nil {
		return err
	}
	if err := os.Rename(first, second); err != nil {
		return err
	}
	if got, err := os.ReadFile(second); err != nil || !bytes.Equal(got, content) {
		return fmt.Errorf("read what was written: %d of %d bytes, %w", len(got), len(content), err)
	}
	return os.Remove(second)
}
