// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// cmdInit makes a board, and with -tree files for a file system that cannot be
// written.
func cmdInit(args []string) error {
	var boardPath, tree string
	var seed uint64
	var owners, late int
	flags("init", args, func(f *flag.FlagSet) {
		f.StringVar(&boardPath, "board", "", "the board's `file`, to be made")
		f.StringVar(&tree, "tree", "", "write the files to this `directory`; nobody will change them")
		f.Uint64Var(&seed, "seed", 1, "what everything random follows from")
		f.IntVar(&owners, "owners", 4, "processes that change files")
		f.IntVar(&late, "late", 0, "how many of them, the last ones, do that from behind")
	})
	b, err := createBoard(boardPath, seed, owners, late)
	if err != nil {
		return err
	}
	if tree == "" {
		return nil
	}
	for worker := range owners {
		o, err := newOwner(b, tree, worker, rand.New(rand.NewPCG(seed, uint64(worker))), new(stats))
		if err != nil {
			return err
		}
		if err := o.fixed(); err != nil {
			return errors.Join(err, o.close())
		}
		if err := o.close(); err != nil {
			return err
		}
	}
	return nil
}

// fixed makes the files of a worker, with holes.
func (o *owner) fixed() error {
	for i := range o.slots {
		s := &o.slots[i]
		if err := o.create(i, name(s.acked.Load())); err != nil {
			return err
		}
		n := name(s.acked.Load())
		for range 8 {
			if err := o.write(i, n, false); err != nil {
				return err
			}
		}
		if err := o.truncate(i, n); err != nil {
			return err
		}
	}
	return nil
}

// cmdVerify compares a directory, which nobody changes any more, with the board.
func cmdVerify(args []string) error {
	var boardPath, dir string
	var mapped, unmappable bool
	var wait time.Duration
	flags("verify", args, func(f *flag.FlagSet) {
		f.StringVar(&boardPath, "board", "", "the board's `file`")
		f.StringVar(&dir, "dir", "", "the `directory` under test, or its backing store")
		f.BoolVar(&mapped, "map", false, "read mappings, too")
		f.BoolVar(&unmappable, "unmappable", false, "mmap may fail with ENODEV")
		f.DurationVar(&wait, "wait", 0, "how long to wait for changes to be finished")
	})
	b, err := openBoard(boardPath)
	if err != nil {
		return err
	}
	for end := time.Now().Add(wait); !b.finished() && time.Now().Before(end); {
		time.Sleep(10 * time.Millisecond)
	}
	n, err := verify(b, boardPath, dir, mapped, unmappable)
	if err != nil {
		return err
	}
	fmt.Printf("%d files are as they must be\n", n)
	return nil
}

// finished reports whether all changes are acknowledged.
func (b *board) finished() bool {
	for i := range b.slots {
		s := &b.slots[i]
		if s.started.Load() != s.acked.Load() {
			return false
		}
		for _, r := range s.rows {
			for j := range blocks {
				if r.started[j].Load() != r.acked[j].Load() {
					return false
				}
			}
		}
	}
	return true
}

// verify returns how many files there are, and an error that names what is wrong.
func verify(b *board, boardPath, dir string, mapped, unmappable bool) (files int, err error) {
	catchFaults()
	r := newReader(b, dir, rand.New(rand.NewPCG(b.seed, 0)), new(stats))
	r.unmappable = unmappable
	defer r.close()
	var errs []error
	for i := range b.slots {
		s := &b.slots[i]
		n := name(s.acked.Load())
		if name(s.started.Load()) != n {
			errs = append(errs, fmt.Errorf("%v: a change of its name is not finished", s))
			continue
		}
		if n.place() == 0 {
			continue
		}
		files++
		if err := r.verifySlot(s, n, mapped); err != nil {
			errs = append(errs, err)
		}
	}
	for worker := range b.workers() {
		errs = append(errs, r.checkNames(worker), r.nothingElse(worker),
			verifyScratch(filepath.Join(dir, fmt.Sprintf("w%d/scratch", worker)), modelPath(boardPath, worker)))
	}
	return files, errors.Join(errs...)
}

func (r *reader) verifySlot(s *slot, n name, mapped bool) error {
	row := s.row(n.file())
	for b := range blocks {
		if row.started[b].Load() != row.acked[b].Load() {
			return fmt.Errorf("%v, block %d: a change is not finished", s, b)
		}
	}
	if err := r.reopen(s); err != nil {
		return err
	}
	h := r.open[s.id]
	defer r.drop(h)
	errs := []error{r.checkSize(h), r.checkRange(h, row, 0, blocks*s.size, false)}
	if mapped {
		errs = append(errs, r.checkRange(h, row, 0, blocks*s.size, true))
	}
	return errors.Join(errs...)
}

// nothingElse verifies that a worker's directories hold files of ours only.
func (r *reader) nothingElse(worker int) error {
	for i := range 2 {
		dir := filepath.Join(r.dir, placeDir(worker, i))
		entries, err := os.ReadDir(dir)
		if os.IsNotExist(err) {
			continue // checkNames knows whether that is right
		}
		if err != nil {
			return err
		}
		for _, e := range entries {
			if !strings.HasPrefix(e.Name(), "n") {
				return fmt.Errorf("%s: %s is left", dir, e.Name())
			}
		}
	}
	return nil
}
