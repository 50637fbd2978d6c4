// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package latency

import (
	"encoding/json"
	"math"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestBuckets(t *testing.T) {
	for _, tc := range []struct {
		d     time.Duration
		bound uint64 // µs
	}{
		{-time.Second, 1},
		{0, 1},
		{999, 1},
		{1000, 2},
		{1999, 2},
		{2000, 4},
		{time.Millisecond, 1 << 10},
		{1023999, 1 << 10},
		{1024000, 1 << 11},
		{time.Second, 1 << 20},
		{1<<24*time.Microsecond - 1, 1 << 24},
		{1 << 24 * time.Microsecond, 0},
		{math.MaxInt64, 0},
	} {
		var h Histogram
		h.Observe(tc.d)
		want := [][2]uint64{{tc.bound, 1}}
		if d := cmp.Diff(want, h.Summary().Buckets); d != "" {
			t.Errorf("%v (-want +got):\n%s", tc.d, d)
		}
	}
}

func TestSummary(t *testing.T) {
	var h Histogram
	if d := cmp.Diff(Summary{}, h.Summary()); d != "" {
		t.Errorf("empty (-want +got):\n%s", d)
	}
	for range 98 {
		h.Observe(3 * time.Microsecond)
	}
	h.Observe(100 * time.Microsecond)
	h.Observe(30 * time.Second)
	s := h.Summary()
	want := Summary{
		Count: 100, SumNs: 98*3_000 + 100_000 + 30_000_000_000, MaxNs: 30_000_000_000,
		P50Ns: 2000 + 1020, P90Ns: 2000 + 1836, P99Ns: 128_000,
		Buckets: [][2]uint64{{4, 98}, {128, 1}, {0, 1}},
	}
	if d := cmp.Diff(want, s); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
	b, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	text := `{"count":100,"sumNs":30000394000,"p50Ns":3020,"p90Ns":3836,"p99Ns":128000,"maxNs":30000000000,"buckets":[[4,98],[128,1],[0,1]]}`
	if string(b) != text {
		t.Errorf("got  %s\nwant %s", b, text)
	}
}

// No percentile is beyond the longest duration, or below a lower percentile.
func TestPercentilesAreOrdered(t *testing.T) {
	var h Histogram
	for i := range 30 {
		h.Observe(time.Duration(1) << i * 700)
		s := h.Summary()
		if s.P50Ns > s.P90Ns || s.P90Ns > s.P99Ns || s.P99Ns > s.MaxNs {
			t.Fatalf("after %d: %+v", i, s)
		}
	}
	var one Histogram
	one.Observe(5 * time.Microsecond)
	if s := one.Summary(); s.P99Ns < 4000 || s.P99Ns > 5000 {
		t.Errorf("one of 5 µs: p99 %d ns", s.P99Ns)
	}
}

func TestConcurrentObservations(t *testing.T) {
	var h Histogram
	var wg sync.WaitGroup
	for g := range 4 {
		wg.Go(func() {
			for i := range 1000 {
				h.Observe(time.Duration(g*1000+i) * time.Microsecond)
			}
		})
	}
	wg.Wait()
	if s := h.Summary(); s.Count != 4000 || s.MaxNs != 3_999_000 || s.SumNs != 3999*4000/2*1000 {
		t.Errorf("got %+v", s)
	}
}

func TestBetween(t *testing.T) {
	var read, write Histogram
	read.Observe(3 * time.Microsecond)
	write.Observe(20 * time.Second)
	earlier := map[string]Op{
		"READ":  {Requests: 1, Latency: read.Summary()},
		"WRITE": {Requests: 1, Errors: 1, Latency: write.Summary()},
		"gone":  {Requests: 9},
	}
	read.Observe(100 * time.Microsecond)
	read.Observe(100 * time.Microsecond)
	var again Histogram // WRITE begins anew, with less
	again.Observe(50 * time.Microsecond)
	ops := map[string]Op{
		"READ":  {Requests: 4, Errors: 1, Latency: read.Summary()},
		"WRITE": {Requests: 0, Latency: again.Summary()},
	}
	got := Between(earlier, ops)
	want := Op{Requests: 3, Errors: 1, Latency: Summary{
		Count: 3, SumNs: 250_000, P50Ns: 64_000 + 9_000, P90Ns: 64_000 + 30_600, P99Ns: 64_000 + 35_460, MaxNs: 100_000,
		Buckets: [][2]uint64{{64, 1}, {128, 2}},
	}}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
	if d := cmp.Diff(Op{}, Between(ops, ops)); d != "" {
		t.Errorf("nothing happened (-want +got):\n%s", d)
	}
	hostile := Op{Latency: Summary{Buckets: [][2]uint64{{3, 1}, {1 << 25, 1}, {math.MaxUint64, 1}, {1 << 63, 1}}}}
	if got := Between(nil, map[string]Op{"X": hostile}); got.Latency.Count != 0 {
		t.Errorf("got %+v", got)
	}
}

func TestObserveDoesNotAllocate(t *testing.T) {
	var h Histogram
	if n := testing.AllocsPerRun(100, func() {
		start := Now()
		h.Observe(Now() - start)
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// BenchmarkObserve is what a counted operation costs: two clock readings and the
// observation.
func BenchmarkObserve(b *testing.B) {
	var h Histogram
	b.ReportAllocs()
	for range b.N {
		start := Now()
		h.Observe(Now() - start)
	}
}
