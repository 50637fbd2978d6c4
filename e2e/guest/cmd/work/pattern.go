// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

const (
	block    = 1 << 20
	wordSize = 8
	// spread makes words differ in all bytes; any odd number does.
	spread = 0x9e3779b97f4a7c15
)

// fill sets b to what a file has at an offset, a multiple of wordSize as len(b) is.
func fill(b []byte, off int64) {
	for i := 0; i < len(b); i += wordSize {
		binary.LittleEndian.PutUint64(b[i:], uint64(off+int64(i))*spread)
	}
}

// check returns an error for the first word of b that is not what a file has there.
func check(b []byte, off int64) error {
	if len(b)%wordSize != 0 {
		return fmt.Errorf("%d bytes at offset %d, not a multiple of %d", len(b), off, wordSize)
	}
	word := uint64(wordSize)
	step, want := word*spread, uint64(off)*spread // both modulo 2^64
	for i := 0; i < len(b); i += wordSize {
		if got := binary.LittleEndian.Uint64(b[i:]); got != want {
			return fmt.Errorf("offset %d: got %016x, want %016x", off+int64(i), got, want)
		}
		want += step
	}
	return nil
}

func generate(path string, size int64) (err error) {
	if size%wordSize != 0 {
		return fmt.Errorf("%d bytes: want a multiple of %d", size, wordSize)
	}
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	b := make([]byte, block)
	for off := int64(0); off < size; off += block {
		part := b[:min(block, size-off)]
		fill(part, off)
		if _, err := f.Write(part); err != nil {
			return err
		}
	}
	return nil
}

// verify reads the whole file, from an offset to its end and then from its start to there.
func verify(path string, size, start int64) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	b := make([]byte, block)
	for _, part := range []struct{ from, to int64 }{{start, size}, {0, start}} {
		for off := part.from; off < part.to; {
			n, err := f.ReadAt(b[:min(block, part.to-off)], off)
			if err != nil {
				return fmt.Errorf("%s at offset %d: %d bytes, %w", path, off, n, err)
			}
			if err := check(b[:n], off); err != nil {
				return fmt.Errorf("%s: %w", path, err)
			}
			off += int64(n)
		}
	}
	if n, err := f.ReadAt(b[:1], size); n != 0 || err != io.EOF {
		return fmt.Errorf("%s: %d bytes, %v after its end", path, n, err)
	}
	return nil
}

func readers(count int, path string, size int64) error {
	results := make(chan error, count)
	for i := range count {
		start := size / int64(count) * int64(i) &^ (wordSize - 1)
		go func() { results <- verify(path, size, start) }()
	}
	var errs []error
	for range count {
		errs = append(errs, <-results)
	}
	return errors.Join(errs...)
}

// mapped verifies a file through mappings, and that what is written to the private one is seen there and nowhere else.
func mapped(path string, size int64) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	private, err := unix.Mmap(int(f.Fd()), 0, int(size), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE)
	if err != nil {
		return fmt.Errorf("map %s private: %w", path, err)
	}
	shared, err := unix.Mmap(int(f.Fd()), 0, int(size), unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		return fmt.Errorf("map %s shared: %w", path, err)
	}
	if err := check(private, 0); err != nil {
		return fmt.Errorf("private mapping: %w", err)
	}
	for i := range int(size) / unix.Getpagesize() {
		private[i*unix.Getpagesize()] ^= 0xff
	}
	if err := check(shared, 0); err != nil {
		return fmt.Errorf("shared mapping: %w", err)
	}
	return errors.Join(unix.Munmap(private), unix.Munmap(shared))
}

func random(path string, d time.Duration) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	const page = 4096
	pages := info.Size() / page
	if pages == 0 {
		return fmt.Errorf("%s has no %d bytes", path, page)
	}
	b := make([]byte, page)
	source := rand.New(rand.NewPCG(1, 2)) // the same places every time
	start, count := time.Now(), 0
	for ; count&63 != 0 || time.Since(start) < d; count++ {
		if _, err := f.ReadAt(b, source.Int64N(pages)*page); err != nil {
			return err
		}
	}
	_, err = fmt.Println(float64(count) / time.Since(start).Seconds())
	return err
}

func read(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	b := make([]byte, block)
	for {
		if _, err := f.Read(b); err == io.EOF {
			return nil
		} else if err != nil {
			return err
		}
	}
}
