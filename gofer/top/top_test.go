// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package top

import (
	"bytes"
	"context"
	"errors"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"fsva/gofer/latency"
	"fsva/gofer/supervisor"
	"fsva/gofer/supervisor/goferproto"
)

// at makes a volume that has done n of everything.
func at(name string, n uint64) supervisor.Status {
	return supervisor.Status{
		Name: name, Appliance: "squashfs", State: supervisor.Serving, PID: 7, GoferPID: 8,
		CacheLimit: &supervisor.CacheLimit{Configured: 64 << 20, Effective: 48 << 20},
		Gofer: &goferproto.Stat{
			Clients: 2, Requests: 10 * n, BytesRead: n << 20, BytesWrite: n << 10,
			Cache: &goferproto.Cache{Resident: int64(n) << 20, Dirty: 4096, Hits: 3 * n, Misses: n},
		},
		RPCs:          map[string]latency.Op{"PRead": {Requests: 60 * n, Latency: latency.Summary{Count: n, MaxNs: 1 << 40, Buckets: [][2]uint64{{1 << 10, n}}}}},
		GuestRequests: map[string]latency.Op{"READ": {Requests: 40 * n}},
	}
}

// samples are two, 2 s apart.
func samples() (Sample, Sample) {
	start := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	restarted := at("restarted", 9)
	restarted.GoferPID = 9
	return Sample{start, []supervisor.Status{at("busy", 10), at("idle", 5), at("restarted", 100)}},
		Sample{start.Add(2 * time.Second), []supervisor.Status{
			at("busy", 30), at("idle", 5), restarted, at("new", 1),
			{Name: "hangs", State: supervisor.Unknown, Reason: "its supervisor\ndoes not \x1b[2Janswer"},
		}}
}

func TestTable(t *testing.T) {
	all := rows(samples())
	order, err := ParseOrder("ops")
	if err != nil {
		t.Fatal(err)
	}
	order.sort(all)
	want := strings.TrimPrefix(`
VOLUME     APPLIANCE  STATE                                        CLIENTS  OPS/S    P50  P99  FUSE/S  READ/S  WRITE/S   HITS   CACHE   LIMIT  DIRTY
busy       squashfs   ready                                              2   1000  768µs  1ms     100  10 MiB   10 KiB  75.0%  30 MiB  48 MiB  4 KiB
idle       squashfs   ready                                              2      0      -    -       0     0 B      0 B      -   5 MiB  48 MiB  4 KiB
hangs      -          unknown: its supervisor does not ?[2Janswer        -      -      -    -       -       -        -      -       -       -      -
new        squashfs   ready                                              2      -      -    -       -       -        -      -   1 MiB  48 MiB  4 KiB
restarted  squashfs   ready                                              2      -      -    -       -       -        -      -   9 MiB  48 MiB  4 KiB
`, "\n")
	if d := cmp.Diff(want, strings.Join(table(all), "\n")+"\n"); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
	if got, want := summary(time.Date(2026, 1, 2, 3, 4, 7, 0, time.UTC), all), "03:04:07  5 volumes, 4 of them answer; 8 clients, 1000 operations a second"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestOrders(t *testing.T) {
	for _, tc := range []struct {
		key     string
		reverse bool
		first   string
	}{
		{"name", false, "busy"}, {"name", true, "restarted"}, {"cache", false, "busy"}, {"state", true, "hangs"}, {"hits", false, "busy"},
	} {
		all := rows(samples())
		o, err := ParseOrder(tc.key)
		if err != nil {
			t.Fatal(err)
		}
		o.Reverse = tc.reverse
		if o.sort(all); all[0].name != tc.first {
			t.Errorf("%s, %v: %s is first", tc.key, tc.reverse, all[0].name)
		}
	}
	if _, err := ParseOrder("size"); err == nil || !strings.Contains(err.Error(), "name, appliance") {
		t.Errorf("got %v", err)
	}
	seen := map[byte]bool{'q': true, 'j': true, 'k': true, 'R': true}
	for _, c := range columns {
		if seen[c.press] {
			t.Errorf("key %c means two things", c.press)
		}
		seen[c.press] = true
	}
}

func TestNumbers(t *testing.T) {
	for want, got := range map[string]string{
		"-": count(math.NaN()), "0": count(0), "0.5": count(0.5), "3": count(3), "9.9": count(9.94), "10": count(9.96), "12345": count(12345.4),
		"1µs": duration(1000), "12.3ms": duration(12_345_678), "250ns": duration(250), "2m3s": duration(123e9), "0.0%": percent(0),
	} {
		if got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

// fake takes the two samples in turn.
func fake() func(context.Context) (Sample, error) {
	n := 0
	a, b := samples()
	return func(context.Context) (Sample, error) {
		if n++; n%2 == 1 {
			return a, nil
		}
		return b, nil
	}
}

func TestBatch(t *testing.T) {
	var b bytes.Buffer
	if err := Batch(t.Context(), &b, 2, Options{Interval: time.Millisecond, Take: fake()}); err != nil {
		t.Fatal(err)
	}
	text := b.String()
	if strings.Count(text, "VOLUME") != 2 || strings.Count(text, "\nbusy ") != 2 || strings.Contains(text, "\x1b") {
		t.Errorf("got\n%s", text)
	}
	failed := errors.New("no such directory")
	err := Batch(t.Context(), &b, 1, Options{Interval: time.Millisecond, Take: func(context.Context) (Sample, error) { return Sample{}, failed }})
	if !errors.Is(err, failed) {
		t.Errorf("got %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := Batch(ctx, &b, 0, Options{Interval: time.Hour, Take: fake()}); err != nil {
		t.Errorf("stopped: %v", err)
	}
}

// A frame fits every screen, even one that is too small for anything.
func TestFrameFits(t *testing.T) {
	s := screen{interval: time.Second}
	s.earlier, s.later = samples()
	for _, size := range [][2]int{{0, 0}, {1, 1}, {10, 2}, {40, 4}, {80, 24}, {200, 60}} {
		for _, key := range "jjjjjkjjjnR" {
			s.press(byte(key))
			lines := frameLines(s.frame(size[0], size[1]))
			if len(lines) > max(1, size[1]) {
				t.Errorf("%v: %d lines", size, len(lines))
			}
			for _, l := range lines {
				if len(l) > size[0] {
					t.Errorf("%v: a line of %d", size, len(l))
				}
			}
		}
	}
	s.top = 1000
	if text := s.frame(80, 5); !strings.Contains(text, "\r\n") || s.top != 3 {
		t.Errorf("scrolled to %d of 5 in 2 lines", s.top)
	}
}

func TestKeys(t *testing.T) {
	for typed, want := range map[string]string{"q": "q", "\x1b[A\x1b[Bn": "kjn", "\x1b": "", "a\x1b[5~": "a", "": ""} {
		if got := string(keys([]byte(typed))); got != want {
			t.Errorf("%q: got %q, want %q", typed, got, want)
		}
	}
}

// frameLines is what a frame shows, without control sequences.
func frameLines(frame string) []string {
	for _, seq := range []string{home, toEOL, toEnd, inverted, plain} {
		frame = strings.ReplaceAll(frame, seq, "")
	}
	return strings.Split(frame, "\r\n")
}
