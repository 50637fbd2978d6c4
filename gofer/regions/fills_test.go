// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package regions

import "testing"

func TestFillsDoNotOverlap(t *testing.T) {
	var fs fills
	far := fs.start(extent{500, 600}, 1000)
	near := fs.start(extent{100, 700}, 1000)
	if near.extent != (extent{100, 500}) {
		t.Errorf("got %v, want what is before the other fill", near.extent)
	}
	one := fs.start(extent{600, 5000}, 1000)
	if one.extent != (extent{600, 1600}) {
		t.Errorf("got %v, want one request", one.extent)
	}
	for off, want := range map[int64]*fill{99: nil, 100: near, 499: near, 500: far, 599: far, 600: one, 1599: one, 1600: nil} {
		if got := fs.at(off); got != want {
			t.Errorf("at %d: got %v, want %v", off, got, want)
		}
	}
	fs.remove(far)
	fs.remove(far)
	if fs.at(550) != nil || fs.at(450) != near || fs.at(700) != one || len(fs) != 2 {
		t.Errorf("after the middle one is over: %v", fs)
	}
}

func TestStreamReadsAhead(t *testing.T) {
	const size = 64 << 20
	var s stream
	var valid extents
	at := int64(0)
	for _, window := range []int64{minWindow, 2 * minWindow, 4 * minWindow} {
		now, ahead := s.plan(extent{at, at + 4096}, size, valid)
		if now.start > at || now.end < at+4096 || ahead != (extent{now.end, now.end + window}) {
			t.Fatalf("at %d: got %v and %v, want %d bytes ahead", at, now, ahead, window)
		}
		at += 4096
	}
	if _, ahead := s.plan(extent{1 << 20, 1<<20 + 10}, size, valid); !ahead.empty() {
		t.Errorf("elsewhere: %v ahead", ahead)
	}
	valid.add(extent{0, size / 2})
	if _, ahead := s.plan(extent{1<<20 + 10, 1<<20 + 20}, size, valid); !ahead.empty() {
		t.Errorf("%v ahead of what is there", ahead)
	}
	// What is missing begins in the second half of the window: not yet.
	s = stream{next: size/2 - maxWindow, window: maxWindow}
	if _, ahead := s.plan(extent{s.next, s.next + 4096}, size, valid); !ahead.empty() {
		t.Errorf("%v ahead with most of the window there", ahead)
	}
	s = stream{next: size/2 - 4096, window: maxWindow}
	if now, ahead := s.plan(extent{s.next, size / 2}, size, valid); ahead != (extent{size / 2, size/2 + maxWindow}) {
		t.Errorf("at the end of what is there: %v and %v", now, ahead)
	}
	s = stream{next: size - 4096}
	if now, ahead := s.plan(extent{size - 4096, size}, size, valid); now.end != size || !ahead.empty() {
		t.Errorf("at the end of the file: %v and %v", now, ahead)
	}
}
