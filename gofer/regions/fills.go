// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package regions

import (
	"slices"

	"github.com/hanwen/go-fuse/v2/fuse"
)

// fill is a request for missing data. done is closed when it is over; status is
// set before.
type fill struct {
	extent
	done   chan struct{}
	status fuse.Status
	// spoiled says that what it brings may be old already. Only a Writable's are;
	// guarded by its mu.
	spoiled bool
}

// fills are those under way for one file. They do not overlap. The lock of the
// cache guards them.
type fills []*fill

// at returns the fill that will bring the byte at off, or nil.
func (fs fills) at(off int64) *fill {
	for _, o := range fs {
		if o.start <= off && off < o.end {
			return o
		}
	}
	return nil
}

// start registers a fill from want.start on: not more than one request of maxRead
// bytes, and not into another fill.
//
// Preconditions: there is none at want.start.
func (fs *fills) start(want extent, maxRead int) *fill {
	want.end = min(want.end, want.start+int64(maxRead))
	for _, o := range *fs {
		if o.start > want.start {
			want.end = min(want.end, o.start)
		}
	}
	own := &fill{extent: want, done: make(chan struct{})}
	*fs = append(*fs, own)
	return own
}

// remove takes out a fill that is over.
func (fs *fills) remove(own *fill) {
	if i := slices.Index(*fs, own); i >= 0 {
		*fs = slices.Delete(*fs, i, i+1)
	}
}
