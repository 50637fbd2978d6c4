// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// stats counts what was done, so that a test can see that a run was worth
// something. A process prints its own as one line of JSON.
type stats struct {
	writes, mapWrites, truncates, syncs, names, scratch atomic.Uint64
	opens, maps, sizes, listings                        atomic.Uint64
	reads                                               [2]atomic.Uint64 // with read, from mappings
	exact, inFlight, faults, enodev, unknown            atomic.Uint64
}

func (s *stats) MarshalJSON() ([]byte, error) {
	return json.Marshal(map[string]uint64{
		"writes": s.writes.Load(), "mapWrites": s.mapWrites.Load(), "truncates": s.truncates.Load(), "syncs": s.syncs.Load(),
		"names": s.names.Load(), "scratch": s.scratch.Load(), "opens": s.opens.Load(), "maps": s.maps.Load(),
		"sizes": s.sizes.Load(), "listings": s.listings.Load(), "reads": s.reads[0].Load(), "mapReads": s.reads[1].Load(),
		"exact": s.exact.Load(), "inFlight": s.inFlight.Load(), "faults": s.faults.Load(), "enodev": s.enodev.Load(),
		"unknown": s.unknown.Load(),
	})
}

// workOptions are the flags of work and process.
type workOptions struct {
	board, dir                                       string
	from, to, readers                                int
	duration, late                                   time.Duration
	mapWrites, unmappable, readOnly, peek, keepNames bool
}

func (o *workOptions) define(f *flag.FlagSet) {
	f.StringVar(&o.board, "board", "", "the board's `file`")
	f.StringVar(&o.dir, "dir", "", "the `directory` under test")
	f.IntVar(&o.from, "from", 0, "number of the first process")
	f.IntVar(&o.to, "to", 1, "number of the last process, plus 1")
	f.IntVar(&o.readers, "readers", 2, "threads that read, in each process")
	f.DurationVar(&o.duration, "duration", 10*time.Second, "how long to go on")
	f.DurationVar(&o.late, "late", 0, "change files from behind: a change must be visible after this time")
	f.BoolVar(&o.mapWrites, "map-writes", false, "write through mappings, too")
	f.BoolVar(&o.unmappable, "unmappable", false, "mmap may fail with ENODEV")
	f.BoolVar(&o.readOnly, "read-only", false, "change nothing")
	f.BoolVar(&o.peek, "peek", false, "the directory is the backing store: it has what was synced; implies -read-only")
	f.BoolVar(&o.keepNames, "keep-names", false, "do not rename, replace or remove files")
}

func (o *workOptions) args(index int) []string {
	return []string{"process",
		"-board", o.board, "-dir", o.dir, "-from", strconv.Itoa(index), "-to", strconv.Itoa(index + 1),
		"-readers", strconv.Itoa(o.readers), "-duration", o.duration.String(), "-late", o.late.String(),
		fmt.Sprintf("-map-writes=%v", o.mapWrites), fmt.Sprintf("-unmappable=%v", o.unmappable),
		fmt.Sprintf("-read-only=%v", o.readOnly), fmt.Sprintf("-peek=%v", o.peek), fmt.Sprintf("-keep-names=%v", o.keepNames),
	}
}

// grace is how much longer than it should a process may take before it is asked
// where it hangs.
const grace = 2 * time.Minute

// cmdWork runs processes and fails if one of them does.
func cmdWork(args []string) error {
	var o workOptions
	flags("work", args, o.define)
	self, err := os.Executable()
	if err != nil {
		return err
	}
	var wg sync.WaitGroup
	errs := make([]error, o.to-o.from)
	for i := range errs {
		cmd := exec.Command(self, o.args(o.from+i)...)
		cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
		if err := cmd.Start(); err != nil {
			return err
		}
		hung := time.AfterFunc(o.duration+o.late+grace, func() {
			fmt.Fprintf(os.Stderr, "checker: process %d hangs\n", o.from+i)
			_ = cmd.Process.Signal(syscall.SIGQUIT) // it prints its stacks, if it still runs
		})
		wg.Go(func() {
			defer hung.Stop()
			if err := cmd.Wait(); err != nil {
				errs[i] = fmt.Errorf("process %d: %w", o.from+i, err)
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// cmdProcess is one process of work.
func cmdProcess(args []string) error {
	var o workOptions
	flags("process", args, o.define)
	b, err := openBoard(o.board)
	if err != nil {
		return err
	}
	st, err := o.process(b, o.from, nil)
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(st)
}

// process changes the files of worker index, if there is one, and reads those of
// all. changed is owner.changed.
func (o *workOptions) process(b *board, index int, changed func(paths ...string)) (*stats, error) {
	p := &process{o: o, b: b, index: index, end: time.Now().Add(o.duration), stats: new(stats)}
	var wg sync.WaitGroup
	for i := range o.readers {
		wg.Go(func() { p.run(i, p.read) })
	}
	if !o.readOnly && !o.peek && index < b.workers() {
		wg.Go(func() {
			p.run(o.readers, func(rnd *rand.Rand) (*slot, error) { return p.own(rnd, changed) })
		})
	}
	wg.Wait()
	return p.stats, errors.Join(p.errs...)
}

type process struct {
	o     *workOptions // immutable, as what follows
	b     *board
	index int
	end   time.Time
	stats *stats

	mu   sync.Mutex
	errs []error // guarded by mu
}

func (p *process) over() bool { return time.Now().After(p.end) || p.b.stopped() }

// run runs one thread, which stops all others if it finds something.
func (p *process) run(thread int, do func(*rand.Rand) (*slot, error)) {
	catchFaults()
	rnd := rand.New(rand.NewPCG(p.b.seed, uint64(p.index)<<16|uint64(thread)))
	if s, err := do(rnd); err != nil {
		p.b.stop(s)
		p.mu.Lock()
		defer p.mu.Unlock()
		p.errs = append(p.errs, fmt.Errorf("%s process %d, thread %d: %w", time.Now().Format("15:04:05.000000"), p.index, thread, err))
	}
}

// read reads until the end.
func (p *process) read(rnd *rand.Rand) (*slot, error) {
	r := newReader(p.b, p.o.dir, rnd, p.stats)
	r.peek, r.unmappable = p.o.peek, p.o.unmappable
	defer r.close()
	for !p.over() {
		if s, err := r.step(); err != nil {
			return s, errors.Join(err, r.again(s))
		}
		if r.peek {
			time.Sleep(time.Millisecond) // it is fast, and the processors are for the others
		}
	}
	return nil, nil
}

// again says what a slot that was wrong looks like now.
func (r *reader) again(s *slot) error {
	defer r.close()
	look := func(what string, mapped bool) error {
		if h := r.open[s.id]; h != nil {
			if err := r.checkRange(h, s.row(h.name.file()), 0, blocks*s.size, mapped); err != nil {
				return fmt.Errorf("\n  and again, %s: %w", what, err)
			}
			return fmt.Errorf("\n  but again, %s: as it must be", what)
		}
		return nil
	}
	err := errors.Join(look("by the same descriptor", false), look("in the same mapping", true))
	if e := r.reopen(s); e != nil {
		return errors.Join(err, e)
	}
	return errors.Join(err, look("by a new descriptor", false))
}

// own changes the worker's files until the end.
func (p *process) own(rnd *rand.Rand, changed func(paths ...string)) (failed *slot, err error) {
	o, err := newOwner(p.b, p.o.dir, p.index, rnd, p.stats)
	if err != nil {
		return nil, err
	}
	o.mapWrites, o.keepNames = p.o.mapWrites, p.o.keepNames
	o.late, o.changed = p.o.late > 0, changed
	defer func() {
		err = errors.Join(err, o.close())
		for i := range o.slots {
			if p.b.words[wordFailed].Load() == uint64(o.slots[i].id+1) || failed == &o.slots[i] {
				for _, line := range o.recent(&o.slots[i]) {
					fmt.Fprintln(os.Stderr, "checker: done before:", line)
				}
			}
		}
	}()
	if o.late {
		return p.ownLate(o)
	}
	c, err := newScratch(filepath.Join(p.o.dir, fmt.Sprintf("w%d/scratch", p.index)), rnd, p.stats)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, c.close(modelPath(p.o.board, p.index))) }()
	for !p.over() {
		if s, err := o.step(); err != nil {
			return s, err
		}
		if rnd.IntN(4) == 0 {
			if err := c.step(); err != nil {
				return nil, err
			}
		}
	}
	return nil, nil
}

// ownLate changes files from behind, in rounds: some changes, and a pause until
// they must be visible.
func (p *process) ownLate(o *owner) (*slot, error) {
	for {
		for range 2 * slotsEach {
			if s, err := o.step(); err != nil {
				return s, err
			}
		}
		for visible := time.Now().Add(p.o.late); time.Now().Before(visible); {
			if p.b.stopped() {
				return nil, nil
			}
			time.Sleep(50 * time.Millisecond)
		}
		o.visible()
		if p.over() {
			return nil, nil
		}
	}
}

// modelPath is where the model of a scratch file is kept.
func modelPath(boardPath string, index int) string {
	return filepath.Join(filepath.Dir(boardPath), fmt.Sprintf("scratch%d", index))
}
