// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package archive

import (
	"errors"
	"io"
)

// window reads small pieces of a file that are mostly in ascending order with
// one system call for many of them.
type window struct {
	src io.ReaderAt
	buf []byte
	off int64 // of buf
}

// windowSize makes a header and the data of a small file one read.
const windowSize = 64 << 10

// read fills p from off. The end of the file is io.ErrUnexpectedEOF.
func (w *window) read(p []byte, off int64) error {
	if len(p) > windowSize {
		return readFull(w.src, p, off)
	}
	if off < w.off || off-w.off > int64(len(w.buf)) || int64(len(w.buf))-(off-w.off) < int64(len(p)) {
		if w.buf == nil {
			w.buf = make([]byte, windowSize)
		}
		n, err := w.src.ReadAt(w.buf[:windowSize], off)
		w.buf, w.off = w.buf[:n], off
		if err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		if n < len(p) {
			return io.ErrUnexpectedEOF
		}
	}
	copy(p, w.buf[off-w.off:])
	return nil
}

// readFull is io.ReadFull at a place.
func readFull(src io.ReaderAt, p []byte, off int64) error {
	n, err := src.ReadAt(p, off)
	switch {
	case n == len(p):
		return nil
	case err == nil || errors.Is(err, io.EOF):
		return io.ErrUnexpectedEOF
	}
	return err
}
