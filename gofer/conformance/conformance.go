// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

// Package conformance holds the directory-level checks that every file system runs, whatever serves it and whatever
// carries it: the same list runs on a volume inside a sandbox, on a kernel mount of the same server, and on the host's
// tmpfs as the control that proves the checks themselves.
//
// A check is a plain function over a fresh, empty directory. It returns an error that says what was expected and what
// was seen; it never skips: whoever runs the list compares outcomes with those of another run or with a checked-in
// table. Two commands carry the checks into places without a Go toolchain, both static: fscheck (this list) and posix
// (go-fuse's posixtest cases, compiled with go test -c).
//
// The peer is the file system under test. It is not trusted to answer correctly, only to answer: the caller bounds the
// time.
package conformance

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime/debug"
	"sort"
	"syscall"
	"time"
)

// Check is one named case.
type Check struct {
	// Name is unique in its list, of the form group/case.
	Name string
	// Run does the work in dir, which exists, is empty and belongs to the check alone.
	Run func(dir string) error
}

// Outcome is the result of one check, printed by fscheck as one line of JSON.
type Outcome struct {
	Name    string        `json:"name"`
	Err     string        `json:"err,omitempty"` // empty when the check passed
	Elapsed time.Duration `json:"elapsed"`
}

// WriteChecks returns the checks that need a writable directory, sorted by name.
func WriteChecks() []Check {
	return sorted(fileChecks, dirChecks, linkChecks, attrChecks, ownerChecks, mmapChecks, limitChecks, lockChecks)
}

// TreeChecks returns the checks of a tree that Tree.Write made, for media that may be read-only. dir is the root of
// the tree for each of them.
func TreeChecks(t Tree) []Check {
	return sorted(t.checks())
}

// Run runs each check of the list in a directory of its own below dir and hands every outcome to report as it comes.
// With shared set, dir itself is given to every check and nothing is removed.
// It returns the number of checks that failed. Run fails only if it cannot prepare a check's directory.
func Run(checks []Check, dir string, shared bool, report func(Outcome)) (failed int, err error) {
	for _, c := range checks {
		sub := dir
		if !shared {
			sub = filepath.Join(dir, filepath.Base(filepath.Dir(c.Name))+"-"+filepath.Base(c.Name))
			if err := os.MkdirAll(sub, 0o755); err != nil {
				return failed, fmt.Errorf("directory for check %s: %w", c.Name, err)
			}
		}
		start := time.Now()
		runErr := guarded(c, sub)
		if !shared {
			if err := os.RemoveAll(sub); err != nil && runErr == nil {
				runErr = fmt.Errorf("clean-up: %w", err)
			}
		}
		o := Outcome{Name: c.Name, Elapsed: time.Since(start)}
		if runErr != nil {
			failed++
			o.Err = runErr.Error()
		}
		report(o)
	}
	return failed, nil
}

// guarded runs one check and turns a panic, or a fault on a mapping the file system could not fill, into its error.
func guarded(c Check, dir string) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("panic: %v", r)
		}
	}()
	return c.Run(dir)
}

func sorted(lists ...[]Check) []Check {
	var all []Check
	for _, l := range lists {
		all = append(all, l...)
	}
	sort.Slice(all, func(i, j int) bool { return all[i].Name < all[j].Name })
	return all
}

// wantErr reports, as an error, that a call did not fail with the error it should have failed with.
func wantErr(what string, got, want error) error {
	if errors.Is(got, want) {
		return nil
	}
	if errno, ok := errors.AsType[syscall.Errno](got); ok {
		got = errno // without the path, which may be long
	}
	return fmt.Errorf("%s: got %v, want %v", what, got, want)
}

// wantContent reports, as an error, that the file at path does not hold exactly want.
func wantContent(path string, want []byte) error {
	got, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	return sameBytes(filepath.Base(path), got, want)
}

// sameBytes describes the first difference of two byte slices.
func sameBytes(what string, got, want []byte) error {
	for i := range min(len(got), len(want)) {
		if got[i] != want[i] {
			return fmt.Errorf("%s: byte %d is %#x, want %#x (lengths %d and %d)", what, i, got[i], want[i], len(got), len(want))
		}
	}
	if len(got) != len(want) {
		return fmt.Errorf("%s: %d bytes, want %d", what, len(got), len(want))
	}
	return nil
}

// pattern returns n bytes that differ from page to page, so that a page in the wrong place is seen.
func pattern(n int, seed uint32) []byte {
	b := make([]byte, n)
	x := seed*2654435761 + 12345
	for i := range b {
		x = x*1664525 + 1013904223
		b[i] = byte(x >> 24)
	}
	return b
}
