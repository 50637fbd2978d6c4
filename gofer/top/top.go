// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

// Package top shows what volumes do, live: who uses them, how much, and how long it
// takes. Rates, times and ratios are those of the time between two samples.
//
// What volumes say is cut to size and made printable: some of it comes from gofers,
// which are not trusted with a terminal.
package top

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"fsva/gofer/bytesize"
	"fsva/gofer/latency"
	"fsva/gofer/supervisor"
	"fsva/gofer/supervisor/goferproto"
)

// Sample is all volumes at one moment.
type Sample struct {
	At      time.Time
	Volumes []supervisor.Status
}

// surveyTimeout is how long a sample waits for a volume: longer than its supervisor
// waits for the gofer.
const surveyTimeout = 3 * time.Second

// Take asks all volumes.
func Take(ctx context.Context, dirs supervisor.Dirs) (Sample, error) {
	ctx, cancel := context.WithTimeout(ctx, surveyTimeout)
	defer cancel()
	s := Sample{At: time.Now()}
	var err error
	s.Volumes, err = supervisor.Survey(ctx, dirs)
	return s, err
}

// row is what one volume did between two samples. What is not known is NaN.
type row struct {
	name, appliance, state string
	up                     bool // it answered
	clients                float64
	ops, fuse              float64 // requests a second: of sandboxes, and to the file system's server
	read, written          float64 // bytes a second, from and to the file system's server
	p50, p99               float64 // nanoseconds that sandboxes waited
	hits                   float64 // of reads, those answered from the cache; 0 to 1
	resident, limit, dirty float64 // bytes
}

// rows compares two samples. Volumes that are not in the first, or began anew since
// then, have no rates.
func rows(earlier, later Sample) []row {
	before := make(map[string]supervisor.Status, len(earlier.Volumes))
	for _, s := range earlier.Volumes {
		before[s.Name] = s
	}
	seconds := later.At.Sub(earlier.At).Seconds()
	var all []row
	for _, s := range later.Volumes {
		all = append(all, newRow(before[s.Name], s, seconds))
	}
	return all
}

func newRow(before, s supervisor.Status, seconds float64) row {
	nan := math.NaN()
	r := row{
		name: s.Name, appliance: s.Appliance, state: s.StateText(), up: s.State != supervisor.Unknown && s.GoferError == "",
		clients: nan, ops: nan, fuse: nan, read: nan, written: nan, p50: nan, p99: nan, hits: nan, resident: nan, limit: nan, dirty: nan,
	}
	if s.GoferError != "" {
		r.state += ": " + s.GoferError
	}
	if s.CacheLimit != nil {
		r.limit = float64(s.CacheLimit.Effective)
	}
	if s.Gofer == nil {
		return r
	}
	r.clients = float64(s.Gofer.Clients)
	if c := s.Gofer.Cache; c != nil {
		r.resident, r.dirty = float64(c.Resident), float64(c.Dirty)
	}
	if before.Gofer == nil || before.PID != s.PID || before.GoferPID != s.GoferPID || seconds <= 0 {
		return r
	}
	asked := latency.Between(clientRequests(before), clientRequests(s))
	r.ops = float64(asked.Requests) / seconds
	if asked.Latency.Count > 0 {
		r.p50, r.p99 = float64(asked.Latency.P50Ns), float64(asked.Latency.P99Ns)
	}
	rate := func(before, now uint64) float64 { return float64(now-min(now, before)) / seconds }
	r.fuse = rate(before.Gofer.Requests, s.Gofer.Requests)
	r.read = rate(before.Gofer.BytesRead, s.Gofer.BytesRead)
	r.written = rate(before.Gofer.BytesWrite, s.Gofer.BytesWrite)
	if c, b := s.Gofer.Cache, before.Gofer.Cache; c != nil && b != nil {
		hits, misses := rate(b.Hits, c.Hits), rate(b.Misses, c.Misses)
		if hits+misses > 0 {
			r.hits = hits / (hits + misses)
		}
	}
	return r
}

// clientRequests are those of sandboxes and of guests, whose names for them differ.
func clientRequests(s supervisor.Status) map[string]latency.Op {
	all := maps.Clone(s.RPCs)
	if all == nil {
		return s.GuestRequests
	}
	maps.Copy(all, s.GuestRequests)
	return all
}

// column is one of the table.
type column struct {
	title string
	key   string // what --sort calls it
	press byte   // the key that sorts by it
	text  func(row) string
	value func(row) float64 // to sort by, largest first; nil: by text
	left  bool              // text is at the left
}

const maxState = 60

var columns = []column{
	{"VOLUME", "name", 'n', func(r row) string { return r.name }, nil, true},
	{"APPLIANCE", "appliance", 'a', func(r row) string { return goferproto.Line(r.appliance, 24) }, nil, true},
	{"STATE", "state", 's', func(r row) string { return goferproto.Line(r.state, maxState) }, nil, true},
	{"CLIENTS", "clients", 'c', func(r row) string { return count(r.clients) }, func(r row) float64 { return r.clients }, false},
	{"OPS/S", "ops", 'o', func(r row) string { return count(r.ops) }, func(r row) float64 { return r.ops }, false},
	{"P50", "p50", 'm', func(r row) string { return duration(r.p50) }, func(r row) float64 { return r.p50 }, false},
	{"P99", "p99", 'l', func(r row) string { return duration(r.p99) }, func(r row) float64 { return r.p99 }, false},
	{"FUSE/S", "fuse", 'f', func(r row) string { return count(r.fuse) }, func(r row) float64 { return r.fuse }, false},
	{"READ/S", "read", 'r', func(r row) string { return size(r.read) }, func(r row) float64 { return r.read }, false},
	{"WRITE/S", "write", 'w', func(r row) string { return size(r.written) }, func(r row) float64 { return r.written }, false},
	{"HITS", "hits", 'h', func(r row) string { return percent(r.hits) }, func(r row) float64 { return r.hits }, false},
	{"CACHE", "cache", 'b', func(r row) string { return size(r.resident) }, func(r row) float64 { return r.resident }, false},
	{"LIMIT", "limit", 'i', func(r row) string { return size(r.limit) }, func(r row) float64 { return r.limit }, false},
	{"DIRTY", "dirty", 'd', func(r row) string { return size(r.dirty) }, func(r row) float64 { return r.dirty }, false},
}

// SortKeys are what volumes can be sorted by.
func SortKeys() []string {
	var keys []string
	for _, c := range columns {
		keys = append(keys, c.key)
	}
	return keys
}

// Order is how volumes are sorted: by a column, numbers from the largest down, what is
// not known last.
type Order struct {
	column  int
	Reverse bool
}

// ParseOrder returns the order by one of SortKeys.
func ParseOrder(key string) (Order, error) {
	i := slices.IndexFunc(columns, func(c column) bool { return c.key == key })
	if i < 0 {
		return Order{}, fmt.Errorf("%q is not one of %s", key, strings.Join(SortKeys(), ", "))
	}
	return Order{column: i}, nil
}

func (o Order) sort(all []row) {
	c := columns[o.column]
	slices.SortStableFunc(all, func(a, b row) int {
		var n int
		if c.value == nil {
			n = cmp.Compare(c.text(a), c.text(b))
		} else {
			n = cmp.Compare(c.value(b), c.value(a)) // NaN is less than all
		}
		if o.Reverse {
			n = -n
		}
		return cmp.Or(n, cmp.Compare(a.name, b.name))
	})
}

// table returns the lines of a table, the titles first.
func table(all []row) []string {
	cells := [][]string{nil}
	for _, c := range columns {
		cells[0] = append(cells[0], c.title)
	}
	for _, r := range all {
		var line []string
		for _, c := range columns {
			line = append(line, cmp.Or(c.text(r), "-"))
		}
		cells = append(cells, line)
	}
	width := make([]int, len(columns))
	for _, line := range cells {
		for i, cell := range line {
			width[i] = max(width[i], utf8.RuneCountInString(cell))
		}
	}
	var lines []string
	for _, line := range cells {
		var b strings.Builder
		for i, cell := range line {
			if i > 0 {
				b.WriteString("  ")
			}
			pad := strings.Repeat(" ", width[i]-utf8.RuneCountInString(cell))
			if columns[i].left {
				b.WriteString(cell + pad)
			} else {
				b.WriteString(pad + cell)
			}
		}
		lines = append(lines, strings.TrimRight(b.String(), " "))
	}
	return lines
}

// summary is one line about all volumes.
func summary(at time.Time, all []row) string {
	up, clients, ops := 0, 0.0, 0.0
	for _, r := range all {
		if r.up {
			up++
		}
		if !math.IsNaN(r.clients) {
			clients += r.clients
		}
		if !math.IsNaN(r.ops) {
			ops += r.ops
		}
	}
	return fmt.Sprintf("%s  %d volumes, %d of them answer; %s clients, %s operations a second",
		at.Format(time.TimeOnly), len(all), up, count(clients), count(ops))
}

// count writes a number or a rate.
func count(v float64) string {
	switch {
	case math.IsNaN(v):
		return "-"
	case v != 0 && v < 9.95:
		return strings.TrimSuffix(strconv.FormatFloat(v, 'f', 1, 64), ".0")
	}
	return strconv.FormatFloat(v, 'f', 0, 64)
}

func size(v float64) string {
	if math.IsNaN(v) {
		return "-"
	}
	return bytesize.Format(int64(min(v, math.MaxInt64/2)))
}

func percent(v float64) string {
	if math.IsNaN(v) {
		return "-"
	}
	return strconv.FormatFloat(100*v, 'f', 1, 64) + "%"
}

// duration writes nanoseconds with two or three digits.
func duration(ns float64) string {
	if math.IsNaN(ns) {
		return "-"
	}
	d := time.Duration(min(ns, math.MaxInt64/2))
	for _, unit := range []time.Duration{time.Second, time.Millisecond, time.Microsecond} {
		if d >= 100*unit {
			return d.Round(unit).String()
		}
		if d >= unit {
			return d.Round(unit / 10).String()
		}
	}
	return d.String()
}
