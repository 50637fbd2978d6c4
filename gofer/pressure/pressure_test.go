// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package pressure

import (
	"math/rand/v2"
	"testing"
	"time"
)

const (
	mib = int64(1) << 20
	gib = int64(1) << 30
)

// The limit over time: each step is an event at a time in seconds.
func TestLimiter(t *testing.T) {
	start := time.Unix(1000, 0)
	at := func(s int) time.Time { return start.Add(time.Duration(s) * time.Second) }
	l := NewLimiter(1 * gib)
	if _, ok := l.GrowAt(); ok {
		t.Error("a fresh limiter wants to grow")
	}
	for i, step := range []struct {
		do   func()
		want int64
		next int // second of the next step up; 0: none
	}{
		{func() {}, gib, 0},
		{func() { l.Grow(at(0)) }, gib, 0},
		{func() { l.Reduce(at(0), 400*mib) }, 300 * mib, 10},
		{func() { l.Grow(at(9)) }, 300 * mib, 10},  // not yet
		{func() { l.Grow(at(10)) }, 375 * mib, 20}, // a step
		{func() { l.Reduce(at(12), 375*mib) }, 375 * mib * 3 / 4, 22},
		{func() { l.Grow(at(20)) }, 375 * mib * 3 / 4, 22},             // put off by the pressure
		{func() { l.Reduce(at(21), 800*mib) }, 375 * mib * 9 / 16, 31}, // clients hold more than is allowed
		{func() { l.Reduce(at(22), 1*mib) }, Floor, 32},                // the floor
		{func() { l.Reduce(at(24), 0) }, Floor, 34},                    // and not below
		{func() { l.Set(2 * gib) }, Floor, 34},                         // a new limit does not undo it
		{func() { l.Set(18 * mib) }, Floor, 34},                        //
		{func() { l.Grow(at(34)) }, 18 * mib, 0},                       // the last step ends at the limit
		{func() { l.Set(3 * gib) }, 3 * gib, 0},                        // without pressure it holds at once
		{func() { l.Set(8 * mib) }, 8 * mib, 0},                        //
		{func() { l.Reduce(at(40), 8*mib) }, 8 * mib, 0},               // below the floor nothing is taken
	} {
		step.do()
		if got := l.Effective(); got != step.want {
			t.Errorf("step %d: limit %d, want %d", i, got, step.want)
		}
		when, ok := l.GrowAt()
		if ok != (step.next != 0) || ok && !when.Equal(at(step.next)) {
			t.Errorf("step %d: next step at %v, %v, want second %d", i, when.Sub(start), ok, step.next)
		}
	}
	if l.Reductions() != 6 {
		t.Errorf("%d reductions", l.Reductions())
	}
}

// After pressure a limit is back at what was configured, in steps that never go
// down, and however large it is.
func TestLimiterGrowsBack(t *testing.T) {
	for _, configured := range []int64{Floor + 1, 100 * mib, 6 * gib, 1 << 62} {
		l := NewLimiter(configured)
		now := time.Unix(0, 0)
		l.Reduce(now, 0)
		steps := 0
		for at, ok := l.GrowAt(); ok; at, ok = l.GrowAt() {
			before := l.Effective()
			l.Grow(at)
			if steps++; l.Effective() <= before || steps > 200 {
				t.Fatalf("%d: step %d from %d to %d", configured, steps, before, l.Effective())
			}
		}
		if l.Effective() != configured {
			t.Errorf("ends at %d, want %d", l.Effective(), configured)
		}
	}
}

// Whatever happens, the limit is between the floor (or what is configured, when
// that is less) and what is configured.
func TestLimiterBounds(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	l := NewLimiter(gib)
	now := time.Unix(0, 0)
	for i := range 10_000 {
		now = now.Add(time.Duration(r.IntN(15)) * time.Second)
		switch r.IntN(3) {
		case 0:
			l.Reduce(now, r.Int64N(2*gib))
		case 1:
			l.Grow(now)
		case 2:
			if r.IntN(20) == 0 {
				l.Set(1 + r.Int64N(2*gib))
			}
		}
		if e, c := l.Effective(), l.Configured(); e > c || e < min(Floor, c) {
			t.Fatalf("event %d: effective %d, configured %d", i, e, c)
		}
	}
}
