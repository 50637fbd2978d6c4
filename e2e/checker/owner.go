// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// owner changes the files of one worker. It is for one goroutine.
type owner struct {
	b     *board
	dir   string
	rnd   *rand.Rand
	stats *stats
	slots []slot
	files [slotsEach]*os.File // open for writing, or nil
	// mapWrites lets it write through mappings, too.
	mapWrites bool
	// late puts acknowledgements off, until visible is called: changes from behind.
	late    bool
	pending []func()
	// changed is called after each change, with the paths it was about; or nil.
	changed func(paths ...string)
	// keepNames leaves files where they are.
	keepNames bool

	history [200]string // what was done last
	next    int
	temp    string // path of a file that is being made
}

func newOwner(b *board, dir string, worker int, rnd *rand.Rand, st *stats) (*owner, error) {
	o := &owner{b: b, dir: dir, rnd: rnd, stats: st, slots: b.of(worker), temp: fmt.Sprintf("w%d/a/temp", worker)}
	for i := range 2 {
		if err := os.MkdirAll(filepath.Join(dir, placeDir(worker, i)), 0o755); err != nil {
			return nil, err
		}
	}
	return o, nil
}

func (o *owner) close() error {
	var errs []error
	for i, f := range o.files {
		if f != nil {
			errs = append(errs, f.Close())
			o.files[i] = nil
		}
	}
	return errors.Join(errs...)
}

func (o *owner) log(s *slot, format string, args ...any) {
	o.history[o.next%len(o.history)] = time.Now().Format("15:04:05.000000 ") + fmt.Sprintf("slot %d ", s.id) + fmt.Sprintf(format, args...)
	o.next++
}

// recent returns what was done last to a slot, oldest first.
func (o *owner) recent(s *slot) (lines []string) {
	prefix := fmt.Sprintf("slot %d ", s.id)
	for i := max(0, o.next-len(o.history)); i < o.next; i++ {
		if line := o.history[i%len(o.history)]; line[16:16+len(prefix)] == prefix {
			lines = append(lines, line)
		}
	}
	return lines
}

// done runs ack now, or later.
func (o *owner) done(ack func(), paths ...string) {
	if o.late {
		o.pending = append(o.pending, ack)
		if o.changed != nil {
			o.changed(paths...)
		}
		return
	}
	ack()
}

// visible acknowledges what was put off.
func (o *owner) visible() {
	for _, ack := range o.pending {
		ack()
	}
	o.pending = nil
}

// step does one random operation.
func (o *owner) step() (*slot, error) {
	i := o.rnd.IntN(slotsEach)
	s := &o.slots[i]
	n := name(s.acked.Load())
	if n != name(s.started.Load()) {
		return s, nil // late: a change of the name is not known to all yet
	}
	if n.place() == 0 {
		return s, o.create(i, n)
	}
	if o.files[i] != nil && o.rnd.IntN(10) == 0 {
		err := o.files[i].Close()
		if o.files[i] = nil; err != nil {
			return s, fmt.Errorf("%v: close: %w", s, err)
		}
	}
	var err error
	switch k := o.rnd.IntN(100); {
	case k < 45:
		err = o.write(i, n, false)
	case k < 53:
		err = o.write(i, n, true)
	case k < 65:
		err = o.truncate(i, n)
	case k < 68:
		err = o.rewrite(i, n)
	case k < 80:
		err = o.sync(i, n)
	case k < 88 && o.mapWrites && !o.late: // it is acknowledged at once
		err = o.writeMapped(i, n)
	case k < 88:
		err = o.write(i, n, false)
	case k < 93:
		err = o.move(i, n)
	case k < 96 && !o.late:
		err = o.replace(i, n)
	case k < 98:
		err = o.remove(i, n)
	default:
		err = o.truncatePath(i, n)
	}
	return s, err
}

// path returns where a slot is, and rel the same below the directory.
func (o *owner) path(s *slot, n name) (path, rel string) {
	rel = place(s.worker, n.place())
	return filepath.Join(o.dir, rel), rel
}

// file returns a slot's file, open for reading and writing.
func (o *owner) file(i int, n name) (*os.File, error) {
	if o.files[i] != nil {
		return o.files[i], nil
	}
	path, _ := o.path(&o.slots[i], n)
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return nil, fmt.Errorf("%v: %w", &o.slots[i], err)
	}
	o.files[i] = f
	return f, nil
}

// change is what happens to blocks of a file.
type change struct {
	s      *slot
	r      *row
	blocks []int
	to     []version
}

// plan returns the change that makes blocks [first, end) what st says, and those
// before first that are absent zeros.
func (o *owner) plan(s *slot, r *row, first, end int, st state) *change {
	c := &change{s: s, r: r}
	add := func(b int, st state) {
		c.blocks = append(c.blocks, b)
		c.to = append(c.to, makeVersion(version(r.started[b].Load()).seq()+1, st))
	}
	if st != absent {
		for b := o.length(r); b < first; b++ {
			add(b, zeros)
		}
	}
	for b := first; b < end; b++ {
		add(b, st)
	}
	return c
}

// length returns the length of the owner's own file, in blocks.
func (o *owner) length(r *row) int {
	for b := range blocks {
		if version(r.started[b].Load()).state() == absent {
			return b
		}
	}
	return blocks
}

func (c *change) start() {
	for i, b := range c.blocks {
		c.r.started[b].Store(uint64(c.to[i]))
	}
}

func (c *change) ack() {
	for i, b := range c.blocks {
		c.r.acked[b].Store(uint64(c.to[i]))
	}
}

// content returns the data of a block in its newest version.
func (o *owner) content(s *slot, r *row, block int) []byte {
	buf := make([]byte, s.size)
	fill(buf, s.seed, s.id, block, version(r.started[block].Load()).seq())
	return buf
}

// some returns how many blocks to change at once.
func (o *owner) some(s *slot, most int) int {
	return 1 + o.rnd.IntN(min(most, 1+(64<<10)/s.size))
}

// write writes some blocks, with one system call if it takes all.
func (o *owner) write(i int, n name, appending bool) error {
	s := &o.slots[i]
	r := s.row(n.file())
	length := o.length(r)
	first := o.rnd.IntN(blocks)
	if o.rnd.IntN(4) > 0 { // mostly inside of the file, or at its end
		first = o.rnd.IntN(min(blocks-1, length) + 1)
	}
	if appending {
		if first = length; first == blocks {
			return nil
		}
	}
	end := first + o.some(s, blocks-first)
	c := o.plan(s, r, first, end, data)
	path, rel := o.path(s, n)
	var f *os.File
	var err error
	if appending {
		if f, err = os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0); err != nil {
			return fmt.Errorf("%v: %w", s, err)
		}
	} else if f, err = o.file(i, n); err != nil {
		return err
	}
	o.log(s, "write blocks %d to %d, append %v, file %d", first, end, appending, n.file())
	c.start()
	var buf []byte
	for b := first; b < end; b++ {
		buf = append(buf, o.content(s, r, b)...)
	}
	if appending {
		_, err = f.Write(buf)
		err = errors.Join(err, f.Close())
	} else {
		_, err = f.WriteAt(buf, int64(first*s.size))
	}
	if err != nil {
		return fmt.Errorf("%v: write: %w", s, err)
	}
	o.done(c.ack, rel)
	o.stats.writes.Add(1)
	return nil
}

// resize does what makes a file length blocks long, or shorter, or longer.
func (o *owner) resize(s *slot, n name, length int, do func(bytes int64) error) error {
	r := s.row(n.file())
	var c *change
	if old := o.length(r); length < old {
		c = o.plan(s, r, length, old, absent)
	} else {
		c = o.plan(s, r, length, length, zeros)
	}
	o.log(s, "truncate to %d blocks, file %d", length, n.file())
	c.start()
	if err := do(int64(length * s.size)); err != nil {
		return fmt.Errorf("%v: truncate: %w", s, err)
	}
	_, rel := o.path(s, n)
	o.done(c.ack, rel)
	o.stats.truncates.Add(1)
	return nil
}

func (o *owner) truncate(i int, n name) error {
	f, err := o.file(i, n)
	if err != nil {
		return err
	}
	return o.resize(&o.slots[i], n, o.rnd.IntN(blocks+1), f.Truncate)
}

func (o *owner) truncatePath(i int, n name) error {
	path, _ := o.path(&o.slots[i], n)
	return o.resize(&o.slots[i], n, o.rnd.IntN(blocks+1), func(bytes int64) error { return os.Truncate(path, bytes) })
}

// rewrite opens a file with O_TRUNC and writes it.
func (o *owner) rewrite(i int, n name) error {
	s := &o.slots[i]
	path, _ := o.path(s, n)
	err := o.resize(s, n, 0, func(int64) error {
		f, err := os.OpenFile(path, os.O_WRONLY|os.O_TRUNC, 0)
		if err != nil {
			return err
		}
		return f.Close()
	})
	if err != nil {
		return err
	}
	return o.write(i, n, false)
}

// sync makes what a file has safe.
func (o *owner) sync(i int, n name) error {
	s := &o.slots[i]
	f, err := o.file(i, n)
	if err != nil {
		return err
	}
	o.log(s, "fsync, file %d", n.file())
	if o.rnd.IntN(2) == 0 {
		err = f.Sync()
	} else {
		err = unix.Fdatasync(int(f.Fd()))
	}
	if err != nil {
		return fmt.Errorf("%v: fsync: %w", s, err)
	}
	if !o.late {
		s.row(n.file()).setSynced()
	}
	o.stats.syncs.Add(1)
	return nil
}

// setSynced notes that what is acknowledged is safe.
func (r *row) setSynced() {
	for b := range blocks {
		r.synced[b].Store(r.acked[b].Load())
	}
}

// writeMapped writes some blocks that the file has through a shared mapping.
func (o *owner) writeMapped(i int, n name) error {
	s := &o.slots[i]
	r := s.row(n.file())
	length := o.length(r)
	if length == 0 {
		return nil
	}
	f, err := o.file(i, n)
	if err != nil {
		return err
	}
	m, err := unix.Mmap(int(f.Fd()), 0, length*s.size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return fmt.Errorf("%v: map for writing: %w", s, err)
	}
	for range 1 + o.rnd.IntN(4) {
		first := o.rnd.IntN(length)
		end := first + o.some(s, length-first)
		c := o.plan(s, r, first, end, data)
		o.log(s, "write blocks %d to %d in a mapping, file %d", first, end, n.file())
		c.start()
		for b := first; b < end; b++ {
			if !storeMapped(m, b*s.size, o.content(s, r, b)) {
				return fmt.Errorf("%v: block %d of a mapping cannot be written", s, b)
			}
		}
		c.ack()
		o.stats.mapWrites.Add(1)
	}
	if o.rnd.IntN(2) == 0 {
		if err := unix.Msync(m, unix.MS_SYNC); err != nil {
			return fmt.Errorf("%v: msync: %w", s, err)
		}
	}
	if err := unix.Munmap(m); err != nil {
		return fmt.Errorf("%v: munmap: %w", s, err)
	}
	return nil
}

// begin starts the versions of a slot's next file.
func (o *owner) begin(s *slot, n name) uint64 {
	file := n.file() + 1
	seq := s.newest() + 1
	s.files.Store(file) // first: readers of file-2 stop being certain
	r := s.row(file)
	for b := range blocks {
		for _, w := range []*atomic.Uint64{&r.started[b], &r.acked[b], &r.synced[b]} {
			w.Store(uint64(makeVersion(seq, absent)))
		}
	}
	return file
}

// rename notes a change of a slot's name while do makes it.
func (o *owner) rename(s *slot, to name, do func() error, rels ...string) error {
	s.started.Store(uint64(to))
	if err := do(); err != nil {
		return fmt.Errorf("%v: %w", s, err)
	}
	o.done(func() { s.acked.Store(uint64(to)) }, rels...)
	o.stats.names.Add(1)
	return nil
}

// free returns a place that no slot has, or is about to leave.
func (o *owner) free() int {
	for {
		p, used := 1+o.rnd.IntN(placesEach), false
		for i := range o.slots {
			used = used || name(o.slots[i].started.Load()).place() == p || name(o.slots[i].acked.Load()).place() == p
		}
		if !used {
			return p
		}
	}
}

// create makes a slot's file, which had none.
func (o *owner) create(i int, n name) error {
	s := &o.slots[i]
	to := n.next(o.begin(s, n), o.free())
	path, rel := o.path(s, to)
	o.log(s, "create file %d at %s", to.file(), rel)
	return o.rename(s, to, func() (err error) {
		o.files[i], err = os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o644)
		return err
	}, rel)
}

func (o *owner) remove(i int, n name) error {
	if o.keepNames {
		return nil
	}
	s := &o.slots[i]
	path, rel := o.path(s, n)
	o.log(s, "unlink file %d at %s", n.file(), rel)
	if f := o.files[i]; f != nil {
		o.files[i] = nil
		if err := f.Close(); err != nil {
			return fmt.Errorf("%v: close: %w", s, err)
		}
	}
	return o.rename(s, n.next(n.file(), 0), func() error { return os.Remove(path) }, rel)
}

// move gives a slot another name, or exchanges the names of two.
func (o *owner) move(i int, n name) error {
	if o.keepNames {
		return nil
	}
	s := &o.slots[i]
	j := o.rnd.IntN(slotsEach)
	other := &o.slots[j]
	m := name(other.acked.Load())
	path, rel := o.path(s, n)
	if o.late || j == i || m.place() == 0 || m != name(other.started.Load()) {
		to := n.next(n.file(), o.free())
		newPath, newRel := o.path(s, to)
		o.log(s, "rename file %d from %s to %s", n.file(), rel, newRel)
		if o.late { // by the path; the old file is another one to some servers
			if f := o.files[i]; f != nil {
				o.files[i] = nil
				if err := f.Close(); err != nil {
					return err
				}
			}
		}
		return o.rename(s, to, func() error { return os.Rename(path, newPath) }, rel, newRel)
	}
	otherPath, otherRel := o.path(other, m)
	o.log(s, "exchange %s with %s", rel, otherRel)
	o.log(other, "exchange %s with %s", otherRel, rel)
	temp := filepath.Join(o.dir, o.temp)
	return o.rename(s, n.next(n.file(), m.place()), func() error {
		return o.rename(other, m.next(m.file(), n.place()), func() error {
			if err := os.Rename(path, temp); err != nil {
				return err
			}
			if err := os.Rename(otherPath, path); err != nil {
				return err
			}
			return os.Rename(temp, otherPath)
		})
	})
}

// replace writes a new file and renames it over the old one.
func (o *owner) replace(i int, n name) error {
	if o.keepNames {
		return nil
	}
	s := &o.slots[i]
	to := n.next(o.begin(s, n), n.place())
	path, rel := o.path(s, n)
	temp := filepath.Join(o.dir, o.temp)
	o.log(s, "replace file %d at %s by file %d", n.file(), rel, to.file())
	f, err := os.OpenFile(temp, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return fmt.Errorf("%v: %w", s, err)
	}
	old := o.files[i]
	o.files[i] = f
	if err := o.write(i, to, false); err != nil {
		return err
	}
	if o.rnd.IntN(2) == 0 {
		if err := o.sync(i, to); err != nil {
			return err
		}
	}
	if err := o.rename(s, to, func() error { return os.Rename(temp, path) }, rel); err != nil {
		return err
	}
	if old != nil { // open for a little longer than its name
		if err := old.Close(); err != nil {
			return fmt.Errorf("%v: close: %w", s, err)
		}
	}
	return nil
}
