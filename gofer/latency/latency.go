// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

// Package latency counts how long operations take, in histograms cheap enough to
// be always on: an observation is three atomic operations or fewer, without a
// lock and without an allocation, and takes a clock reading at either end.
package latency

import (
	"math/bits"
	"sync/atomic"
	"time"
)

const (
	// MaxBuckets is the number of buckets: one for durations below 1 µs, one for
	// each power of two from there to 2^24 µs (16.8 s), and one for what takes
	// longer.
	MaxBuckets = 26

	last = MaxBuckets - 1
)

// epoch makes Now read the monotonic clock only, which is cheaper than time.Now.
var epoch = time.Now()

// Now is the time since some moment of the process's start, for differences.
func Now() time.Duration { return time.Since(epoch) }

// Histogram counts durations. The zero value is empty and ready. It is safe for
// concurrent use and must not be copied.
type Histogram struct {
	counts [MaxBuckets]atomic.Uint64
	sum    atomic.Uint64 // nanoseconds
	max    atomic.Uint64 // nanoseconds
}

// Observe counts one duration; a negative one counts as 0.
func (h *Histogram) Observe(d time.Duration) {
	ns := uint64(max(d, 0))
	h.counts[bucketOf(ns)].Add(1)
	h.sum.Add(ns)
	for m := h.max.Load(); ns > m && !h.max.CompareAndSwap(m, ns); m = h.max.Load() {
	}
}

// bucketOf returns the bucket of a duration: i holds [2^(i-1), 2^i) µs.
func bucketOf(ns uint64) int { return min(bits.Len64(ns/1000), last) }

// Summary is a histogram at one moment, as JSON shows it. Times are in
// nanoseconds. Percentiles are estimates: exact to the bucket, interpolated
// inside it.
type Summary struct {
	Count uint64 `json:"count"`
	SumNs uint64 `json:"sumNs"`
	P50Ns uint64 `json:"p50Ns"`
	P90Ns uint64 `json:"p90Ns"`
	P99Ns uint64 `json:"p99Ns"`
	MaxNs uint64 `json:"maxNs"`
	// Buckets are those that are not empty, in order: durations below so many
	// microseconds (and not below half of that), and how many there were. The
	// last one, for all above 2^24 µs, has the bound 0.
	Buckets [][2]uint64 `json:"buckets,omitempty"`
}

// Op is an account of one kind of operation.
type Op struct {
	Requests uint64 `json:"requests"`
	Errors   uint64 `json:"errors,omitempty"` // requests that ended with one
	// Latency is that of the requests that somebody waited for.
	Latency Summary `json:"latency"`
}

// Summary returns what was counted so far. While durations are being counted its
// parts need not add up, but Count is always the sum of Buckets.
func (h *Histogram) Summary() Summary {
	s := Summary{SumNs: h.sum.Load(), MaxNs: h.max.Load()}
	var counts [MaxBuckets]uint64
	for i := range counts {
		n := h.counts[i].Load()
		if counts[i] = n; n == 0 {
			continue
		}
		s.Count += n
		s.Buckets = append(s.Buckets, [2]uint64{boundOf(i), n})
	}
	s.P50Ns = quantile(&counts, s.Count, s.MaxNs, 50)
	s.P90Ns = quantile(&counts, s.Count, s.MaxNs, 90)
	s.P99Ns = quantile(&counts, s.Count, s.MaxNs, 99)
	return s
}

// quantile estimates the time within which percent of total durations ended; the
// longest took longest ns.
func quantile(counts *[MaxBuckets]uint64, total, longest uint64, percent int) uint64 {
	if total == 0 {
		return 0
	}
	rank := float64(total) * float64(percent) / 100
	for i, n := range counts {
		if n == 0 {
			continue
		}
		if rank > float64(n) {
			rank -= float64(n)
			continue
		}
		low, high := uint64(0), longest
		if i > 0 {
			low = 1000 << (i - 1)
		}
		if i < last {
			high = 1000 << i
		}
		high = max(low, min(high, longest))
		return low + uint64(float64(high-low)*rank/float64(n))
	}
	return longest
}

// Between adds up all kinds of operations that were counted between two moments: ops,
// less what was counted at the earlier one. What counts less than before has begun
// anew since, and counts as a whole. The longest duration is an estimate, too.
func Between(earlier, ops map[string]Op) Op {
	var total Op
	var counts [MaxBuckets]uint64
	for name, op := range ops {
		before := earlier[name]
		if op.Requests < before.Requests || op.Latency.Count < before.Latency.Count {
			before = Op{}
		}
		total.Requests += op.Requests - before.Requests
		total.Errors += op.Errors - min(op.Errors, before.Errors)
		total.Latency.SumNs += op.Latency.SumNs - min(op.Latency.SumNs, before.Latency.SumNs)
		total.Latency.MaxNs = max(total.Latency.MaxNs, op.Latency.MaxNs)
		was := expand(before.Latency.Buckets)
		for i, n := range expand(op.Latency.Buckets) {
			counts[i] += n - min(n, was[i])
		}
	}
	l := &total.Latency
	longest := 0
	for i, n := range counts {
		l.Count += n
		if n == 0 {
			continue
		}
		longest = i
		l.Buckets = append(l.Buckets, [2]uint64{boundOf(i), n})
	}
	switch {
	case l.Count == 0:
		l.MaxNs = 0
	case longest < last:
		l.MaxNs = min(l.MaxNs, 1000<<longest)
	}
	l.P50Ns = quantile(&counts, l.Count, l.MaxNs, 50)
	l.P90Ns = quantile(&counts, l.Count, l.MaxNs, 90)
	l.P99Ns = quantile(&counts, l.Count, l.MaxNs, 99)
	return total
}

// boundOf is the bound of a bucket in a Summary.
func boundOf(bucket int) uint64 {
	if bucket == last {
		return 0
	}
	return 1 << bucket
}

// expand is the inverse of Summary.Buckets. It leaves out what is no bucket of ours.
func expand(buckets [][2]uint64) (counts [MaxBuckets]uint64) {
	for _, b := range buckets {
		i := bits.Len64(b[0]) - 1
		if b[0] == 0 {
			i = last
		}
		if i <= last && b[0] == boundOf(i) {
			counts[i] += b[1]
		}
	}
	return counts
}
