// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package regions

import (
	"math/rand"
	"testing"
)

// The model is an array of bits.
func TestExtentsAgainstModel(t *testing.T) {
	const size = 64
	r := rand.New(rand.NewSource(1))
	for range 300 {
		var s extents
		var model [size]bool
		for range 40 {
			a, b := int64(r.Intn(size)), int64(r.Intn(size+1))
			e := extent{a, b}
			s.add(e)
			for i := a; i < b; i++ {
				model[i] = true
			}
			checkExtents(t, s, model[:])
			if r.Intn(3) == 0 {
				e := extent{int64(r.Intn(size)), int64(r.Intn(size + 1))}
				s.remove(e)
				for i := e.start; i < e.end; i++ {
					model[i] = false
				}
				checkExtents(t, s, model[:])
			}
			q := extent{int64(r.Intn(size)), int64(r.Intn(size + 1))}
			checkQuery(t, s, model[:], q)
		}
	}
}

func checkExtents(t *testing.T, s extents, model []bool) {
	t.Helper()
	var total int64
	for i, e := range s {
		if e.empty() || i > 0 && s[i-1].end >= e.start {
			t.Fatalf("%v is not in normal form", s)
		}
	}
	for i, want := range model {
		if got := s.contains(extent{int64(i), int64(i + 1)}); got != want {
			t.Fatalf("%v contains byte %d: got %v, want %v", s, i, got, want)
		}
		if want {
			total++
		}
	}
	if s.bytes() != total {
		t.Fatalf("%v has %d bytes, want %d", s, s.bytes(), total)
	}
}

func checkQuery(t *testing.T, s extents, model []bool, q extent) {
	t.Helper()
	var missing extents
	for i := q.start; i < q.end; i++ {
		if !model[i] {
			missing.add(extent{i, i + 1})
		}
	}
	var first extent
	for i := q.start; i < q.end && (first.empty() || model[i]); i++ {
		if model[i] && first.empty() {
			first.start = i
		}
		if model[i] {
			first.end = i + 1
		}
	}
	if got := s.first(q); got != first {
		t.Fatalf("%v first of %v: got %v, want %v", q, s, got, first)
	}
	got := s.missing(q)
	if len(got) != len(missing) {
		t.Fatalf("%v missing of %v: got %v, want %v", q, s, got, missing)
	}
	for i := range got {
		if got[i] != missing[i] {
			t.Fatalf("%v missing of %v: got %v, want %v", q, s, got, missing)
		}
	}
	if got := s.contains(q); got != (len(missing) == 0) {
		t.Fatalf("%v contains %v: got %v, want %v", s, q, got, len(missing) == 0)
	}
}
