// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"cmp"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

const (
	recordSize = 5001 // of a record, in bytes: over the edges of pages
	tableSize  = 32   // records of a table
	// manyRecords is how many there are of each kind when the file "started" is made.
	manyRecords = 5
)

// The kinds of records: appended to a file, written over older ones, the same in a
// mapping, a new file for each.
var recordKinds = []string{"log", "table", "mapped", "file"}

// recordSlot returns the slot that says what the records of a kind are.
func recordSlot(kind string) *slot {
	for i, k := range recordKinds {
		if k == kind {
			return &slot{id: i, size: recordSize}
		}
	}
	return nil
}

func (s *slot) record(block int, version uint64) []byte {
	buf := make([]byte, s.size)
	fill(buf, s.seed, s.id, block, version)
	return buf
}

// cmdRecords writes records for ever, and appends a line to a file, which is
// elsewhere, for each after the fsync that makes it safe has returned: its kind,
// number and version. It ends with an error when the file system does. With -verify
// it verifies instead that the records of which there are such lines are there.
func cmdRecords(args []string) error {
	var dir, started, acked, all string
	var verify, mapped bool
	flags("records", args, func(f *flag.FlagSet) {
		f.StringVar(&dir, "dir", "", "the `directory` for the records")
		f.StringVar(&started, "started", "", "a `file` to make when there are a few records of each kind")
		f.StringVar(&acked, "acked", "", "the `file` of lines")
		f.StringVar(&all, "all", "", "the `file` of all lines, if there are fewer in the other, for -verify")
		f.BoolVar(&mapped, "mapped", true, "write records in mappings, too")
		f.BoolVar(&verify, "verify", false, "verify that the records are there")
	})
	if verify {
		n, err := verifyRecords(dir, acked, cmp.Or(all, acked))
		if err != nil {
			return err
		}
		fmt.Printf("%d records are there\n", n)
		return nil
	}
	catchFaults()
	lines, err := os.OpenFile(acked, os.O_WRONLY|os.O_CREATE|os.O_EXCL|os.O_APPEND, 0o666)
	if err != nil {
		return err
	}
	var wg sync.WaitGroup
	var begun atomic.Int32
	kinds := recordKinds
	if !mapped {
		kinds = slices.DeleteFunc(slices.Clone(kinds), func(kind string) bool { return kind == "mapped" })
	}
	errs := make([]error, len(kinds))
	for i, kind := range kinds {
		wg.Go(func() {
			n := 0
			errs[i] = writeRecords(dir, kind, func(number int, version uint64) error {
				if n++; n == manyRecords && begun.Add(1) == int32(len(kinds)) {
					if err := os.WriteFile(started, nil, 0o666); err != nil {
						return err
					}
				}
				_, err := fmt.Fprintf(lines, "%s %d %d\n", kind, number, version)
				return err
			})
		})
	}
	wg.Wait()
	return errors.Join(append(errs, lines.Close())...)
}

// writeRecords writes records of one kind, until there is an error, and calls ack
// for each.
func writeRecords(dir, kind string, ack func(number int, version uint64) error) error {
	s := recordSlot(kind)
	if kind == "file" {
		return writeFiles(dir, s, ack)
	}
	f, err := os.OpenFile(filepath.Join(dir, kind), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	if kind == "log" {
		for number := 0; ; number++ {
			if _, err := f.WriteAt(s.record(number, 1), int64(number*s.size)); err != nil {
				return err
			}
			if err := f.Sync(); err != nil {
				return err
			}
			if err := ack(number, 1); err != nil {
				return err
			}
		}
	}
	put := func(b []byte, off int) error {
		_, err := f.WriteAt(b, int64(off))
		return err
	}
	if kind == "mapped" {
		if err := f.Truncate(tableSize * recordSize); err != nil {
			return err
		}
		m, err := unix.Mmap(int(f.Fd()), 0, tableSize*recordSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
		if err != nil {
			return err
		}
		put = func(b []byte, off int) error {
			if !storeMapped(m, off, b) {
				return errors.New("the mapping cannot be written")
			}
			return unix.Msync(m, unix.MS_SYNC)
		}
	}
	var versions [tableSize]uint64
	for {
		number := rand.IntN(tableSize)
		versions[number]++
		if err := put(s.record(number, versions[number]), number*s.size); err != nil {
			return err
		}
		if err := unix.Fdatasync(int(f.Fd())); err != nil {
			return err
		}
		if err := ack(number, versions[number]); err != nil {
			return err
		}
	}
}

// writeFiles makes a new file for each record, and a few versions of it.
func writeFiles(dir string, s *slot, ack func(number int, version uint64) error) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	for n := 0; ; n++ {
		number, version := n/3, uint64(n%3+1)
		temp := filepath.Join(dir, "temp")
		f, err := os.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
		if err != nil {
			return err
		}
		if _, err := f.Write(s.record(number, version)); err != nil {
			return err
		}
		if err := f.Sync(); err != nil {
			return err
		}
		if err := f.Close(); err != nil {
			return err
		}
		if err := os.Rename(temp, recordFile(dir, number)); err != nil {
			return err
		}
		if err := d.Sync(); err != nil {
			return err
		}
		if err := ack(number, version); err != nil {
			return err
		}
	}
}

func recordFile(dir string, number int) string {
	return filepath.Join(dir, fmt.Sprintf("file%d", number))
}

// recordKey names a record.
type recordKey struct {
	kind   string
	number int
}

// readLines returns the last version of each record in a file of lines.
func readLines(path string) (last map[recordKey]uint64, lines int, err error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, 0, err
	}
	defer f.Close()
	last = make(map[recordKey]uint64)
	in := bufio.NewScanner(f)
	for ; in.Scan(); lines++ {
		var k recordKey
		var version uint64
		if _, err := fmt.Sscanf(in.Text(), "%s %d %d", &k.kind, &k.number, &version); err != nil || recordSlot(k.kind) == nil {
			return nil, 0, fmt.Errorf("%s: %q is no record", path, in.Text())
		}
		last[k] = max(last[k], version)
	}
	return last, lines, in.Err()
}

// verifyRecords returns how many lines there are. A record may be newer than its
// last line, up to one version after the last in all, which was being written; and
// it may be a mixture of two versions, since it was not there at once.
func verifyRecords(dir, acked, all string) (lines int, err error) {
	last, lines, err := readLines(acked)
	if err != nil {
		return 0, err
	}
	newest, _, err := readLines(all)
	if err != nil {
		return 0, err
	}
	var errs []error
	for k, version := range last {
		s := recordSlot(k.kind)
		path, off := filepath.Join(dir, k.kind), k.number*s.size
		if k.kind == "file" {
			path, off = recordFile(dir, k.number), 0
		}
		got, err := readAt(path, off, s.size)
		if err == nil {
			for v := version; v <= newest[k]; v++ {
				var e error
				if _, e = s.judge(k.number, 0, got, s.size, window{makeVersion(v, data), makeVersion(v+1, data)}, false); e == nil {
					err = nil
					break
				}
				err = errors.Join(err, e)
			}
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("%s %d: acknowledged in version %d: %w", k.kind, k.number, version, err))
		}
	}
	return lines, errors.Join(errs...)
}

// readAt reads up to size bytes.
func readAt(path string, off, size int) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	buf := make([]byte, size)
	n, err := f.ReadAt(buf, int64(off))
	if n < size && err != nil && !errors.Is(err, unix.EIO) {
		err = nil // judge says what is missing
	}
	return buf[:n], err
}
