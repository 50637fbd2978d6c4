// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package regions

// stream is how somebody reads an open file: on from where he was, or elsewhere.
// The lock of the cache guards it.
type stream struct {
	next   int64 // where a stream would go on
	window int64 // how much it has read ahead
}

// plan decides what to have before want is answered, and what to fetch ahead of
// a stream. A stream's window doubles while it goes on; a read elsewhere ends it.
// The file has size bytes, of which valid are there.
func (s *stream) plan(want extent, size int64, valid extents) (now, ahead extent) {
	now = extent{want.start &^ (randomFill - 1), min((want.end+randomFill-1)&^(randomFill-1), size)}
	if want.start != s.next {
		s.next, s.window = want.end, 0
		return now, extent{}
	}
	s.next = want.end
	s.window = min(max(2*s.window, minWindow), maxWindow)
	ahead = extent{now.end, min(now.end+s.window, size)}
	// Ask again only when half of the window is used up, in large pieces.
	if m := valid.missing(ahead); len(m) == 0 || m[0].start-now.end > s.window/2 && m[0].end < size {
		return now, extent{}
	}
	return now, ahead
}
