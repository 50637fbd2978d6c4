// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// scratchSize is how long a scratch file may become.
const scratchSize = 1 << 20

// scratch is a file that one process changes at any byte, and compares with a copy.
type scratch struct {
	path  string
	rnd   *rand.Rand
	stats *stats
	model []byte
	f, ro *os.File
	buf   []byte
	last  []string
}

func newScratch(path string, rnd *rand.Rand, st *stats) (*scratch, error) {
	c := &scratch{path: path, rnd: rnd, stats: st, buf: make([]byte, scratchSize)}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, err
	}
	var err error
	if c.f, err = os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o644); err != nil {
		return nil, err
	}
	if c.ro, err = os.Open(path); err != nil {
		return nil, errors.Join(err, c.f.Close())
	}
	return c, nil
}

// close closes the file and keeps the model at modelPath, for verify.
func (c *scratch) close(modelPath string) error {
	return errors.Join(c.f.Close(), c.ro.Close(), os.WriteFile(modelPath, c.model, 0o666))
}

// step changes the file a few times and compares a part of it, or all.
func (c *scratch) step() error {
	for range 1 + c.rnd.IntN(4) {
		if err := c.change(); err != nil {
			return fmt.Errorf("%s: %w", c.path, err)
		}
	}
	off, n := 0, len(c.model)+1
	if c.rnd.IntN(8) > 0 {
		off = c.rnd.IntN(len(c.model) + 1)
		n = c.rnd.IntN(64 << 10)
	}
	f := c.ro
	if c.rnd.IntN(2) == 0 {
		f = c.f
	}
	got := c.buf[:min(n, len(c.buf))]
	m, err := f.ReadAt(got, int64(off))
	if m < len(got) && off+m < len(c.model) && err == nil {
		err = errors.New("a short read without an error")
	}
	if err != nil && m == len(got) {
		return fmt.Errorf("%s: read: %w", c.path, err)
	}
	c.stats.scratch.Add(1)
	return c.compare(got[:m], off, min(len(c.model), off+len(got)))
}

// compare verifies that got is what the file has from off to end.
func (c *scratch) compare(got []byte, off, end int) error {
	want := c.model[off:end]
	if bytes.Equal(got, want) {
		return nil
	}
	i := 0
	for i < min(len(got), len(want)) && got[i] == want[i] {
		i++
	}
	return fmt.Errorf("%s: from byte %d: %d bytes, want %d; they differ from byte %d on: %x…, want %x…; before: %q",
		c.path, off, len(got), len(want), off+i, got[i:min(len(got), i+16)], want[i:min(len(want), i+16)], c.last)
}

func (c *scratch) grow(n int) {
	if n > len(c.model) {
		c.model = append(c.model, make([]byte, n-len(c.model))...)
	}
}

func (c *scratch) change() error {
	note := func(format string, args ...any) {
		c.last = append(c.last[max(0, len(c.last)-20):], fmt.Sprintf(format, args...))
	}
	switch k := c.rnd.IntN(20); {
	case k < 14: // write
		off := c.rnd.IntN(scratchSize - 1)
		if c.rnd.IntN(4) > 0 {
			off = min(c.rnd.IntN(len(c.model)+1), scratchSize-1)
		}
		n := 1 + c.rnd.IntN(min(100, scratchSize-off))
		if c.rnd.IntN(4) == 0 {
			n = 1 + c.rnd.IntN(min(100_000, scratchSize-off))
		}
		b := c.buf[:n]
		x := c.rnd.Uint64()
		for i := range b {
			if i%8 == 0 {
				next(&x)
			}
			b[i] = byte(x >> (i % 8 * 8))
		}
		note("write %d at %d", n, off)
		if _, err := c.f.WriteAt(b, int64(off)); err != nil {
			return err
		}
		c.grow(off + n)
		copy(c.model[off:], b)
	case k < 17:
		size := c.rnd.IntN(scratchSize)
		if c.rnd.IntN(2) == 0 {
			size = c.rnd.IntN(len(c.model) + 1)
		}
		note("truncate %d", size)
		if err := c.f.Truncate(int64(size)); err != nil {
			return err
		}
		c.grow(size)
		c.model = c.model[:size]
	case k < 18:
		note("fsync")
		return c.f.Sync()
	case k < 19: // a new descriptor
		note("reopen")
		f, err := os.OpenFile(c.path, os.O_RDWR, 0)
		if err != nil {
			return err
		}
		err = c.f.Close()
		c.f = f
		return err
	default:
		note("reopen for reading")
		f, err := os.Open(c.path)
		if err != nil {
			return err
		}
		err = c.ro.Close()
		c.ro = f
		return err
	}
	return nil
}

// verifyScratch compares a scratch file with its model.
func verifyScratch(path, modelPath string) error {
	want, err := os.ReadFile(modelPath)
	if errors.Is(err, unix.ENOENT) {
		return nil // its process had none
	}
	if err != nil {
		return err
	}
	got, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	c := &scratch{path: path, model: want}
	return c.compare(got, 0, len(want))
}
