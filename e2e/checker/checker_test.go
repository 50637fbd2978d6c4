// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// TestJudge gives judge pieces of blocks that are right, and each kind of wrong.
func TestJudge(t *testing.T) {
	s := &slot{id: 3, size: 1000, seed: 7}
	block := func(seq uint64) []byte { return s.record(5, seq) }
	other := (&slot{id: 4, size: 1000, seed: 7}).record(5, 2)
	null := make([]byte, 1000)
	at := func(seq uint64) window { return window{makeVersion(seq, data), makeVersion(seq, data)} }
	between := func(a, b uint64) window { return window{makeVersion(a, data), makeVersion(b, data)} }
	gone := window{makeVersion(4, absent), makeVersion(4, absent)}
	going := window{makeVersion(3, data), makeVersion(4, absent)}
	hole := window{makeVersion(4, zeros), makeVersion(4, zeros)}
	torn := slices.Concat(block(2)[:500], block(3)[500:])
	flipped := bytes.Clone(block(2))
	flipped[999] ^= 1
	for _, tc := range []struct {
		name   string
		piece  []byte
		want   int
		w      window
		mapped bool
		seen   uint64
		says   string // "": it is right
	}{
		{"as it must be", block(2), 1000, at(2), false, 2, ""},
		{"stale", block(1), 1000, at(2), false, 0, "version 1 from byte 0"},
		{"from the future", block(3), 1000, at(2), false, 0, "version 3"},
		{"one bit", flipped, 1000, at(2), false, 0, "wrong bytes"},
		{"another file", other, 1000, at(2), false, 0, "header of slot 4"},
		{"zeros for data", null, 1000, at(2), false, 0, "zeros"},
		{"short", block(2)[:600], 1000, at(2), false, 0, "it ends after 600"},
		{"nothing", nil, 1000, at(2), false, 0, "it ends after 0"},
		{"torn when nothing is under way", torn, 1000, at(3), false, 0, "version 3 from byte 500"},
		{"torn while it is written", torn, 1000, between(2, 3), false, 0, ""},
		{"the older one while it is written", block(2), 1000, between(2, 3), false, 2, ""},
		{"too old while it is written", block(1), 1000, between(2, 3), false, 0, "version 1"},
		{"a wrong bit while it is written", flipped, 1000, between(2, 3), false, 0, "wrong bytes"},
		{"beyond the end", nil, 1000, gone, false, 0, ""},
		{"data beyond the end", block(3), 1000, gone, false, 0, "wrong bytes"},
		{"a part beyond the end", block(3)[:10], 1000, gone, false, 0, "10 of 1000 bytes"},
		{"zeros beyond the end", null, 1000, gone, false, 0, "wrong bytes"},
		{"zeros beyond the end, mapped", null, 1000, gone, true, 0, ""},
		{"data beyond the end, mapped", block(3), 1000, gone, true, 0, "wrong bytes"},
		{"while it is cut off", block(3), 1000, going, false, 3, ""},
		{"nothing while it is cut off", nil, 1000, going, false, 0, ""},
		{"a hole", null, 1000, hole, false, 0, ""},
		{"old data in a hole", block(3), 1000, hole, false, 0, "version 3"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			seen, err := s.judge(5, 0, tc.piece, tc.want, tc.w, tc.mapped)
			if tc.says == "" {
				if err != nil || seen != tc.seen {
					t.Errorf("seen %d, %v; want %d and no error", seen, err, tc.seen)
				}
			} else if err == nil || !strings.Contains(err.Error(), tc.says) {
				t.Errorf("error %v, want one that says %q", err, tc.says)
			}
		})
	}
}

// local runs owners and readers on a directory of this machine.
func local(t *testing.T) (b *board, boardPath, dir string) {
	t.Helper()
	dir = t.TempDir()
	boardPath = filepath.Join(t.TempDir(), "board")
	b, err := createBoard(boardPath, 1, 3, 1)
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for i := range b.workers() {
		o := workOptions{board: boardPath, dir: dir, readers: 1, duration: time.Second, mapWrites: true}
		if b.of(i)[0].changedLate {
			o.late = time.Millisecond
		}
		wg.Go(func() {
			if _, err := o.process(b, i, nil); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	return b, boardPath, dir
}

// TestLocal verifies that the machine's own file system has no faults, and then that each kind of damage to it is found.
func TestLocal(t *testing.T) {
	b, boardPath, dir := local(t)
	check := func() error {
		_, err := verify(b, boardPath, dir, true, false)
		return err
	}
	if err := check(); err != nil {
		t.Fatal(err)
	}
	// A file with data in its first block, and another one.
	var paths []string
	for i := range b.slots {
		s := &b.slots[i]
		n := name(s.acked.Load())
		if n.place() != 0 && version(s.row(n.file()).acked[0].Load()).state() == data {
			paths = append(paths, filepath.Join(dir, place(s.worker, n.place())))
		}
	}
	if len(paths) < 2 {
		t.Fatalf("%d files with data", len(paths))
	}
	path, other := paths[0], paths[1]
	scratch := filepath.Join(dir, "w0/scratch")
	for _, tc := range []struct {
		name, says string
		damage     func(f *os.File) error // of path
	}{
		{"a bit", "wrong bytes", func(f *os.File) error {
			b := make([]byte, 1)
			if _, err := f.ReadAt(b, 100); err != nil {
				return err
			}
			_, err := f.WriteAt([]byte{b[0] ^ 8}, 100)
			return err
		}},
		{"an older version", "wrong bytes", func(f *os.File) error {
			s := slotAt(b, dir, path)
			_, err := f.WriteAt(s.record(0, version(s.row(name(s.acked.Load()).file()).acked[0].Load()).seq()-1), 0)
			return err
		}},
		{"zeros", "zeros", func(f *os.File) error { _, err := f.WriteAt(make([]byte, 512), 0); return err }},
		{"cut off", "fstat says 100 bytes", func(f *os.File) error { return f.Truncate(100) }},
		{"longer", "fstat says", func(f *os.File) error { return f.Truncate(1 << 30) }},
		{"lost", "it must be there", func(*os.File) error { return os.Remove(path) }},
		{"replaced", "header of slot", func(*os.File) error {
			b, err := os.ReadFile(other)
			if err != nil {
				return err
			}
			return os.WriteFile(path, b, 0o644)
		}},
		{"a name too many", "is left", func(*os.File) error { return os.WriteFile(filepath.Join(filepath.Dir(path), "extra"), nil, 0o644) }},
		{"the scratch file", "they differ", func(*os.File) error {
			f, err := os.OpenFile(scratch, os.O_RDWR, 0)
			if err != nil {
				return err
			}
			defer f.Close()
			end, err := f.Seek(0, io.SeekEnd)
			if err != nil {
				return err
			}
			_, err = f.WriteAt([]byte{1}, end)
			return err
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			good := t.TempDir()
			if err := os.CopyFS(good, os.DirFS(dir)); err != nil {
				t.Fatal(err)
			}
			defer func() { // as it was
				if err := os.RemoveAll(dir); err != nil {
					t.Fatal(err)
				}
				if err := os.CopyFS(dir, os.DirFS(good)); err != nil {
					t.Fatal(err)
				}
				if err := check(); err != nil {
					t.Errorf("restored, but: %v", err)
				}
			}()
			f, err := os.OpenFile(path, os.O_RDWR, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			if err := tc.damage(f); err != nil {
				t.Fatal(err)
			}
			if err := check(); err == nil || !strings.Contains(err.Error(), tc.says) {
				t.Errorf("error %v, want one that says %q", err, tc.says)
			}
		})
	}
}

// slotAt returns the slot at a path.
func slotAt(b *board, dir, path string) *slot {
	for i := range b.slots {
		if s := &b.slots[i]; filepath.Join(dir, place(s.worker, name(s.acked.Load()).place())) == path {
			return s
		}
	}
	return nil
}

// TestRecords verifies that records which are not there are missed.
func TestRecords(t *testing.T) {
	dir := t.TempDir()
	acked := filepath.Join(t.TempDir(), "acked")
	lines := "log 0 1\nlog 1 1\ntable 2 7\nfile 3 1\n"
	if err := os.WriteFile(acked, []byte(lines), 0o644); err != nil {
		t.Fatal(err)
	}
	put := func(name string, b []byte) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	log, table := recordSlot("log"), recordSlot("table")
	put("log", slices.Concat(log.record(0, 1), log.record(1, 1)))
	put("table", slices.Concat(make([]byte, 2*recordSize), table.record(2, 8)[:recordSize/2], table.record(2, 7)[recordSize/2:]))
	put("file3", recordSlot("file").record(3, 1))
	if n, err := verifyRecords(dir, acked, acked); n != 4 || err != nil {
		t.Fatalf("%d records, %v", n, err)
	}
	put("log", log.record(0, 1))
	put("table", slices.Concat(make([]byte, 2*recordSize), table.record(2, 6)))
	if err := os.Remove(filepath.Join(dir, "file3")); err != nil {
		t.Fatal(err)
	}
	_, err := verifyRecords(dir, acked, acked)
	for _, text := range []string{"log 1", "table 2", "file 3"} {
		if err == nil || !strings.Contains(err.Error(), text+": acknowledged") {
			t.Errorf("error %v, want one that names %s", err, text)
		}
	}
	if err != nil && strings.Contains(err.Error(), "log 0") {
		t.Errorf("log 0 is there, but: %v", err)
	}
}
