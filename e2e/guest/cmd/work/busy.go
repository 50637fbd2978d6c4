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
	"time"

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

	// A file that comes, moves and goes. A change of names that was under way when the gofer died is EIO: it was made, or not.
	exists := func(path string) bool {
		_, err := os.Lstat(path)
		return err == nil
	}
	first, second := filepath.Join(dir, "first"), filepath.Join(dir, "second")
	content := bytes.Repeat(fmt.Appendf(nil, "round %d\n", round), 1000)
	if err := settle(func() error { return os.WriteFile(first, content, 0o644) }, func() bool { return false }); err != nil {
		return err
	}
	if err := settle(func() error { return os.Rename(first, second) }, func() bool { return !exists(first) && exists(second) }); err != nil {
		return err
	}
	if got, err := os.ReadFile(second); err != nil || !bytes.Equal(got, content) {
		return fmt.Errorf("read what was written: %d of %d bytes, %w", len(got), len(content), err)
	}
	return settle(func() error { return os.Remove(second) }, func() bool { return !exists(second) })
}

// settle makes a change of names. If it is EIO it was made or not, and the kernel is soon told to look again: the change is
// tried until it succeeds or turns out to have been made.
func settle(change func() error, made func() bool) error {
	err := change()
	if !errors.Is(err, unix.EIO) {
		return err
	}
	for uncertain := time.Now().Add(10 * time.Second); err != nil && !made(); err = change() {
		if time.Now().After(uncertain) {
			return err
		}
		time.Sleep(time.Millisecond)
	}
	return nil
}
