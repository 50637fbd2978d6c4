// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package regions

import "slices"

// extent is the half-open range [start, end) of a file, in bytes.
type extent struct{ start, end int64 }

func (e extent) empty() bool { return e.start >= e.end }

// extents is a set of bytes of a file: extents in ascending order that neither
// overlap nor touch. The zero value is empty. It does no I/O and no locking.
type extents []extent

// search returns the index of the first extent that ends at or after off.
func (s extents) search(off int64) int {
	i, _ := slices.BinarySearchFunc(s, off, func(e extent, off int64) int {
		if e.end < off {
			return -1
		}
		return 1
	})
	return i
}

// add puts e into the set.
func (s *extents) add(e extent) {
	if e.empty() {
		return
	}
	i := s.search(e.start)
	j := i
	for ; j < len(*s) && (*s)[j].start <= e.end; j++ {
		e.start = min(e.start, (*s)[j].start)
		e.end = max(e.end, (*s)[j].end)
	}
	*s = slices.Replace(*s, i, j, e)
}

// contains reports whether all of e is in the set.
func (s extents) contains(e extent) bool {
	if e.empty() {
		return true
	}
	i := s.search(e.start + 1)
	return i < len(s) && s[i].start <= e.start && e.end <= s[i].end
}

// missing returns the parts of e that are not in the set, in order.
func (s extents) missing(e extent) extents {
	var out extents
	for i := s.search(e.start + 1); !e.empty(); i++ {
		if i == len(s) || s[i].start >= e.end {
			return append(out, e)
		}
		if s[i].start > e.start {
			out = append(out, extent{e.start, s[i].start})
		}
		e.start = s[i].end
	}
	return out
}

// remove takes the bytes of e out of the set.
func (s *extents) remove(e extent) {
	if e.empty() {
		return
	}
	i := s.search(e.start + 1)
	j := i
	var rest extents
	for ; j < len(*s) && (*s)[j].start < e.end; j++ {
		if left := (extent{(*s)[j].start, e.start}); !left.empty() {
			rest = append(rest, left)
		}
		if right := (extent{e.end, (*s)[j].end}); !right.empty() {
			rest = append(rest, right)
		}
	}
	*s = slices.Replace(*s, i, j, rest...)
}

// first returns the first part of e that is in the set; an empty extent if there
// is none.
func (s extents) first(e extent) extent {
	i := s.search(e.start + 1)
	if e.empty() || i == len(s) || s[i].start >= e.end {
		return extent{}
	}
	return extent{max(s[i].start, e.start), min(s[i].end, e.end)}
}

// bytes returns the size of the set.
func (s extents) bytes() (n int64) {
	for _, e := range s {
		n += e.end - e.start
	}
	return n
}
