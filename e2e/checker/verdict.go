// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"encoding/binary"
	"fmt"
)

// widest is how many versions a block may have had during a read for the read to
// be judged: a reader that did not run for long says nothing.
const widest = 64

// fill makes the contents of a block: a header for people who look at a failure,
// and noise.
func fill(buf []byte, seed uint64, slot, block int, seq uint64) {
	var head [24]byte
	copy(head[:], "fsva")
	binary.LittleEndian.PutUint16(head[4:], uint16(slot))
	binary.LittleEndian.PutUint16(head[6:], uint16(block))
	binary.LittleEndian.PutUint64(head[8:], seq)
	binary.LittleEndian.PutUint64(head[16:], seed)
	x := seed ^ uint64(slot)<<48 ^ uint64(block)<<40 ^ seq
	n := copy(buf, head[:])
	for ; n+8 <= len(buf); n += 8 {
		binary.LittleEndian.PutUint64(buf[n:], next(&x))
	}
	for ; n < len(buf); n++ {
		buf[n] = byte(next(&x))
	}
}

// next is splitmix64.
func next(x *uint64) uint64 {
	*x += 0x9e3779b97f4a7c15
	z := *x
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	return z ^ z>>31
}

// describe says what a piece of a block, from byte off on, looks like; w is what
// it may be.
func (s *slot) describe(block int, off int, piece []byte, w window) string {
	if len(piece) == 0 {
		return "nothing"
	}
	if len(bytes.TrimLeft(piece, "\x00")) == 0 {
		return "zeros"
	}
	text := ""
	if off == 0 && len(piece) >= 24 && string(piece[:4]) == "fsva" {
		text = fmt.Sprintf("header of slot %d, block %d, version %d; ", binary.LittleEndian.Uint16(piece[4:]),
			binary.LittleEndian.Uint16(piece[6:]), binary.LittleEndian.Uint64(piece[8:]))
	}
	// Which versions are in it?
	var runs []string
	want := make([]byte, s.size)
	newest := max(s.newest(), w.hi.seq()) + 1
	for start := 0; start < len(piece) && len(runs) < 8; {
		best, which := 0, "unknown bytes"
		try := func(of []byte, what string) {
			n := 0
			for start+n < len(piece) && piece[start+n] == of[off+start+n] {
				n++
			}
			if n > best {
				best, which = n, what
			}
		}
		clear(want)
		try(want, "zeros")
		for seq := newest; seq > 0 && seq+4*widest > newest; seq-- {
			fill(want, s.seed, s.id, block, seq)
			try(want, fmt.Sprintf("version %d", seq))
		}
		if best < 4 {
			best, which = 1, "unknown bytes"
		}
		if n := len(runs); n > 0 && which == "unknown bytes" && runs[n-1][:1] == "u" {
			start += best
			continue
		}
		runs = append(runs, fmt.Sprintf("%s from byte %d", which, off+start))
		start += best
	}
	return fmt.Sprintf("%s%q (%x…)", text, runs, piece[:min(16, len(piece))])
}

// window is what a block may be: lo is acknowledged, hi is started.
type window struct{ lo, hi version }

// candidates calls f for all that a block may be; content is nil for absent.
func (s *slot) candidates(block int, w window, f func(seq uint64, st state, content []byte)) {
	buf := make([]byte, s.size)
	for seq := w.lo.seq(); seq <= w.hi.seq(); seq++ {
		may := func(st state) bool { // only the first and the last are known
			return seq == w.lo.seq() && w.lo.state() == st || seq == w.hi.seq() && w.hi.state() == st ||
				seq != w.lo.seq() && seq != w.hi.seq()
		}
		if may(absent) {
			f(seq, absent, nil)
		}
		if may(zeros) {
			clear(buf)
			f(seq, zeros, buf)
		}
		if may(data) {
			fill(buf, s.seed, s.id, block, seq)
			f(seq, data, buf)
		}
	}
}

// judge compares a piece of a block, from byte off of the block on, with what it
// may be. The read asked for want bytes and got those of piece. In a mapping, what
// is beyond the end of the file reads as zeros, up to the end of the page.
//
// It returns the number of the version that it is, if that is certain and data; or
// an error that says what is wrong.
func (s *slot) judge(block, off int, piece []byte, want int, w window, mapped bool) (seen uint64, err error) {
	if w.hi.seq()-w.lo.seq() > widest {
		return 0, nil
	}
	var one, gone bool
	matched := make([]bool, len(piece))
	s.candidates(block, w, func(seq uint64, st state, content []byte) {
		if st == absent {
			gone = true
			content = make([]byte, s.size) // while it is being cut off, or in a mapping
		}
		content = content[off : off+len(piece)]
		whole := bytes.Equal(piece, content)
		switch {
		case st == absent && len(piece) > 0 && !mapped && w.lo == w.hi:
		case whole && len(piece) > 0:
			one = true
			if st == data {
				seen = seq
			}
		default:
			for i := range piece {
				if piece[i] == content[i] {
					matched[i] = true
				}
			}
		}
	})
	switch {
	case len(piece) < want && !gone:
		return 0, s.complain(block, off, piece, w, fmt.Sprintf("it ends after %d of %d bytes", len(piece), want))
	case len(piece) == 0:
		return 0, nil
	case len(piece) < want && w.lo == w.hi:
		return 0, s.complain(block, off, piece, w, fmt.Sprintf("%d of %d bytes of a block that is beyond the end", len(piece), want))
	case one:
		return seen, nil
	}
	for _, m := range matched {
		if !m || w.lo == w.hi {
			return 0, s.complain(block, off, piece, w, "wrong bytes")
		}
	}
	return 0, nil
}

func (s *slot) complain(block, off int, piece []byte, w window, what string) error {
	return fmt.Errorf("%v, block %d, byte %d: %s: may be version %v to %v, but is: %s",
		s, block, off, what, w.lo, w.hi, s.describe(block, off, piece, w))
}
