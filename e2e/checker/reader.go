// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// reader compares files with the board.
type reader struct {
	b   *board
	dir string
	rnd *rand.Rand
	// peek says that dir is the backing store, which must have what was synced;
	// otherwise it must have what was acknowledged.
	peek bool
	// unmappable says that a file may have no mapping (ENODEV).
	unmappable bool
	stats      *stats
	open       map[int]*handle // by slot
}

// handle is an open file, and a mapping of it.
type handle struct {
	s    *slot
	name name
	f    *os.File
	m    []byte // nil: none yet
	// What was seen, by descriptor and by mapping.
	seen [2][blocks]uint64
}

const pageSize = 4096

func newReader(b *board, dir string, rnd *rand.Rand, st *stats) *reader {
	return &reader{b: b, dir: dir, rnd: rnd, stats: st, open: make(map[int]*handle)}
}

func (r *reader) close() {
	for _, h := range r.open {
		r.drop(h)
	}
}

func (r *reader) drop(h *handle) {
	delete(r.open, h.s.id)
	if h.m != nil {
		_ = unix.Munmap(h.m) // nothing is written through it
	}
	_ = h.f.Close() // it is for reading only
}

// step does one random check.
func (r *reader) step() (*slot, error) {
	s := &r.b.slots[r.rnd.IntN(len(r.b.slots))]
	h := r.open[s.id]
	switch k := r.rnd.IntN(100); {
	case k < 4:
		return s, r.checkNames(s.worker)
	case h == nil || k < 20:
		return s, r.reopen(s)
	case k < 26:
		return s, r.checkSize(h)
	case k < 60 && r.mappable(h):
		return s, r.check(h, true)
	default:
		return s, r.check(h, false)
	}
}

// mappable reports whether h may be mapped; of the backing store only the files
// are read.
func (r *reader) mappable(*handle) bool { return !r.peek }

// reopen opens a slot by its name, if that is certain.
func (r *reader) reopen(s *slot) error {
	if h := r.open[s.id]; h != nil {
		r.drop(h)
	}
	n := name(s.acked.Load())
	if n.place() == 0 {
		return nil
	}
	path := filepath.Join(r.dir, place(s.worker, n.place()))
	f, err := os.Open(path)
	if exact := name(s.started.Load()) == n; !exact {
		if err == nil {
			return f.Close()
		}
		if errors.Is(err, unix.ENOENT) {
			return nil
		}
		return err
	}
	if err != nil {
		return fmt.Errorf("%v: it must be there: %w", s, err)
	}
	r.stats.opens.Add(1)
	r.open[s.id] = &handle{s: s, name: n, f: f}
	return nil
}

// certain reports whether the board still has the versions of the file that h has
// open. A file that was moved from behind may have lost its handles.
func (r *reader) certain(h *handle) bool {
	if h.s.changedLate && name(h.s.started.Load()) != h.name {
		return false
	}
	return h.s.files.Load() <= h.name.file()+1
}

// low returns what a block is at least.
func (r *reader) low(row *row, block int) version {
	if r.peek {
		return version(row.synced[block].Load())
	}
	return version(row.acked[block].Load())
}

// check reads a random part of a file, by its descriptor or a mapping, and judges
// it.
func (r *reader) check(h *handle, mapped bool) error {
	s, row := h.s, h.s.row(h.name.file())
	first := r.rnd.IntN(blocks)
	count := 1 + r.rnd.IntN(min(blocks-first, 1+128<<10/s.size))
	off, end := first*s.size, (first+count)*s.size
	if r.rnd.IntN(3) == 0 { // parts of blocks
		off += r.rnd.IntN(s.size)
		end -= r.rnd.IntN(s.size)
		if end <= off {
			return nil
		}
	}
	return r.checkRange(h, row, off, end, mapped)
}

func (r *reader) checkRange(h *handle, row *row, off, end int, mapped bool) error {
	s := h.s
	via := 0
	if mapped {
		via = 1
		if err := r.mapFile(h); err != nil || h.m == nil {
			return err
		}
	}
	first, last := off/s.size, (end-1)/s.size
	w := make([]window, last-first+1)
	for i := range w {
		w[i].lo = r.low(row, first+i)
	}
	buf := make([]byte, end-off)
	n, fault, err := r.read(h, buf, off, mapped)
	for i := range w {
		w[i].hi = version(row.started[first+i].Load())
	}
	if !r.certain(h) {
		r.stats.unknown.Add(1)
		r.drop(h)
		return nil
	}
	if err != nil {
		return fmt.Errorf("%v at byte %d: %w", s, off, err)
	}
	how := [2]string{"read", "mapping"}[via]
	r.stats.reads[via].Add(1)
	for i := range w {
		block := first + i
		a, e := max(off, block*s.size), min(end, (block+1)*s.size)
		got := buf[min(n, a-off):min(n, e-off)]
		if w[i].lo == w[i].hi {
			r.stats.exact.Add(1)
		} else {
			r.stats.inFlight.Add(1)
		}
		if seen := h.seen[via][block]; seen > w[i].lo.seq() {
			w[i].lo = makeVersion(seen, data)
			if w[i].hi.seq() < seen {
				w[i].hi = w[i].lo // impossible: what was seen had been started
			}
		}
		want := e - a
		if fault {
			want = len(got) // nothing is known of the rest: judgeFault
		}
		seen, err := s.judge(block, a-block*s.size, got, want, w[i], mapped)
		if err != nil {
			return fmt.Errorf("%s of %s, opened as %v: %w", how, h.f.Name(), h.nameString(), err)
		}
		if len(got) == s.size { // a part says nothing of the rest
			h.seen[via][block] = max(h.seen[via][block], seen)
		}
	}
	if fault {
		return r.judgeFault(h, w, first, off+n)
	}
	return nil
}

// judgeFault verifies that the file may end before the page at off, which could
// not be read in a mapping.
func (r *reader) judgeFault(h *handle, w []window, first, off int) error {
	r.stats.faults.Add(1)
	page := off &^ (pageSize - 1)
	i := page/h.s.size - first
	if i < 0 {
		return nil // the block where the page begins was not asked for
	}
	gone := false
	h.s.candidates(first+i, w[i], func(_ uint64, st state, _ []byte) { gone = gone || st == absent })
	if !gone && w[i].hi.seq()-w[i].lo.seq() <= widest {
		return fmt.Errorf("mapping of %s, opened as %v: %w", h.f.Name(), h.nameString(),
			h.s.complain(first+i, 0, nil, w[i], "a page of a mapping cannot be read"))
	}
	return nil
}

func (h *handle) nameString() string {
	return fmt.Sprintf("file %d at %s", h.name.file(), place(h.s.worker, h.name.place()))
}

// read reads from off on, and reports how many bytes there were, and whether a
// page of the mapping could not be read.
func (r *reader) read(h *handle, buf []byte, off int, mapped bool) (n int, fault bool, err error) {
	if mapped {
		n = copyMapped(buf, h.m, off)
		return n, n < len(buf), nil
	}
	for n < len(buf) {
		m, err := unix.Pread(int(h.f.Fd()), buf[n:], int64(off+n))
		if err == unix.EINTR {
			continue
		}
		if err != nil || m == 0 {
			return n, false, err
		}
		n += m
	}
	return n, false, nil
}

// mapFile maps h's file, private or shared, as far as it may ever grow.
func (r *reader) mapFile(h *handle) error {
	if h.m != nil {
		return nil
	}
	kind := unix.MAP_SHARED
	if r.rnd.IntN(2) == 0 {
		kind = unix.MAP_PRIVATE
	}
	m, err := unix.Mmap(int(h.f.Fd()), 0, (blocks*h.s.size+pageSize-1)&^(pageSize-1), unix.PROT_READ, kind)
	switch {
	case err == unix.ENODEV && r.unmappable:
		r.stats.enodev.Add(1)
		return nil
	case err != nil:
		return fmt.Errorf("%v: map: %w", h.s, err)
	}
	r.stats.maps.Add(1)
	h.m = m
	return nil
}

// checkSize compares a file's size with the board, if nothing changes it.
func (r *reader) checkSize(h *handle) error {
	if r.peek {
		return nil
	}
	row := h.s.row(h.name.file())
	var before [blocks]uint64
	for i := range before {
		before[i] = row.acked[i].Load()
	}
	length := row.length()
	fi, err := h.f.Stat()
	for i := range before {
		if row.started[i].Load() != before[i] {
			return nil
		}
	}
	if !r.certain(h) {
		r.drop(h)
		return nil
	}
	if err != nil {
		return fmt.Errorf("%v: %w", h.s, err)
	}
	r.stats.sizes.Add(1)
	if fi.Size() != int64(length*h.s.size) {
		return fmt.Errorf("%v, opened as %v: fstat says %d bytes, it must be %d", h.s, h.nameString(), fi.Size(), length*h.s.size)
	}
	return nil
}

// checkNames compares the names in a worker's directories with the board, and
// looks for one that must not be there.
func (r *reader) checkNames(worker int) error {
	slots := r.b.of(worker)
	var before [slotsEach]name
	used := map[int]bool{}
	for i := range slots {
		before[i] = name(slots[i].acked.Load())
		used[before[i].place()] = true
	}
	free := 1 + r.rnd.IntN(placesEach)
	_, freeErr := os.Stat(filepath.Join(r.dir, place(worker, free)))
	listed := map[string]bool{}
	var listErr error
	for _, dir := range []string{placeDir(worker, 0), placeDir(worker, 1)} {
		entries, err := os.ReadDir(filepath.Join(r.dir, dir))
		listErr = errors.Join(listErr, err)
		for _, e := range entries {
			if strings.HasPrefix(e.Name(), "n") {
				listed[filepath.Join(dir, e.Name())] = true
			}
		}
	}
	for i := range slots {
		if name(slots[i].started.Load()) != before[i] {
			return nil
		}
	}
	if errors.Is(listErr, unix.ENOENT) && len(used) == 1 && used[0] {
		return nil // the directories are not made yet
	}
	r.stats.listings.Add(1)
	switch {
	case listErr != nil:
		return listErr
	case used[free] && freeErr != nil:
		return fmt.Errorf("worker %d: it must be there: %w", worker, freeErr)
	case !used[free] && !errors.Is(freeErr, unix.ENOENT):
		return fmt.Errorf("worker %d: stat %s: %v: nothing must be there", worker, place(worker, free), freeErr)
	}
	for p := 1; p <= placesEach; p++ {
		if listed[place(worker, p)] != used[p] {
			return fmt.Errorf("worker %d: %s: in the directory %v, must be %v; all that is listed: %v",
				worker, place(worker, p), listed[place(worker, p)], used[p], listed)
		}
	}
	return nil
}
