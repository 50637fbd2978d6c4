// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package matrix

import (
	"encoding/json"
	"encoding/xml"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func rowNames(workloads []Workload) []string {
	var names []string
	for _, w := range workloads {
		for _, r := range w.Rows() {
			names = append(names, r.Name)
		}
	}
	return names
}

func TestNamesAreUnique(t *testing.T) {
	seen := map[string]bool{}
	check := func(name string) {
		if name == "" || seen[name] || strings.ContainsAny(name, ", ") {
			t.Errorf("bad or repeated name %q", name)
		}
		seen[name] = true
	}
	for _, w := range Workloads() {
		if rows := w.Rows(); len(rows) != 1 || rows[0].Name != w.Name {
			check(w.Name)
		}
	}
	for _, name := range rowNames(Workloads()) {
		check(name)
	}
	for _, c := range Columns() {
		check(c.Name)
	}
	for _, name := range append([]string{ColumnSubject, ColumnPick}, limitColumns...) {
		if !slices.ContainsFunc(Columns(), func(c Column) bool { return c.Name == name }) {
			t.Errorf("no column %q", name)
		}
	}
}

func TestSelectWorkloads(t *testing.T) {
	for _, tc := range []struct{ list, want string }{
		{"find", "find-cold find-warm"},
		{"cat-warm,lslr", "lslr-cold lslr-warm cat-warm"},
		{"rand-mmap", "rand-mmap"},
	} {
		got, err := SelectWorkloads(tc.list, false)
		if names := strings.Join(rowNames(got), " "); err != nil || names != tc.want {
			t.Errorf("%q: got %q, %v; want %q", tc.list, names, err, tc.want)
		}
	}
	warm, err := SelectWorkloads("cat-warm", false)
	if err != nil || len(warm) != 1 || len(warm[0].Steps) != 2 {
		t.Errorf("cat-warm: got %+v, %v; want both steps", warm, err)
	}
	for _, bad := range []string{"nothing", "find,", "cat,,seq"} {
		if got, err := SelectWorkloads(bad, false); err == nil {
			t.Errorf("%q: got %q, want an error", bad, rowNames(got))
		}
	}
	all, err := SelectWorkloads("", false)
	if err != nil || len(all) != len(Workloads()) {
		t.Errorf("all: got %d workloads, %v", len(all), err)
	}
	quick, err := SelectWorkloads("", true)
	if err != nil || slices.ContainsFunc(quick, func(w Workload) bool { return w.Slow }) {
		t.Errorf("quick: got %q, %v", rowNames(quick), err)
	}
}

func TestSelectColumns(t *testing.T) {
	got, err := SelectColumns("fsva,native", true)
	if err != nil || len(got) != 2 || got[0].Name != "native" || got[1].Name != "fsva" {
		t.Errorf("got %+v, %v; want native and fsva", got, err)
	}
	for _, bad := range []string{"nothing", "fsva,fsva", ","} {
		if got, err := SelectColumns(bad, false); err == nil {
			t.Errorf("%q: got %+v, want an error", bad, got)
		}
	}
}

func TestQuickHasTheComparedColumns(t *testing.T) {
	quick, err := SelectColumns("", true)
	if err != nil || len(quick) == len(Columns()) {
		t.Errorf("got %+v, %v; want fewer than all columns", quick, err)
	}
	for _, name := range append([]string{ColumnSubject, ColumnPick}, limitColumns...) {
		if !slices.ContainsFunc(quick, func(c Column) bool { return c.Name == name }) {
			t.Errorf("no column %q", name)
		}
	}
}

func TestMedian(t *testing.T) {
	for _, tc := range []struct {
		samples []float64
		want    float64
	}{{[]float64{3}, 3}, {[]float64{9, 1, 5}, 5}, {[]float64{4, 1, 2, 100}, 3}} {
		if got := Median(tc.samples); got != tc.want {
			t.Errorf("%v: got %v, want %v", tc.samples, got, tc.want)
		}
	}
}

// report has a row of times and one of rates, and a failed cell.
func report() *Report {
	r := &Report{Machine: []string{"a machine"}, Rounds: 3, Columns: Columns(), Rows: []*Row{
		{Name: "time", Title: "a <time>", MinPick: 4, MinLimit: 0.8},
		{Name: "rate", Title: "a rate", Rate: true, MinPick: 1},
	}}
	for column, samples := range map[string][]float64{
		ColumnPick: {9, 10, 11}, ColumnSubject: {2.5, 2, 2}, "limit-gofer": {4, 4, 4}, "limit-directfs": {1, 1, 7},
	} {
		for _, s := range samples {
			r.Add("time", column, s)
			r.Add("rate", column, s*1e6)
		}
	}
	r.Fail("rate", "native", errors.New("a reason"))
	r.Fail("rate", "native", errors.New("another"))
	r.Repeat("work", "native", errors.New("died\nat random"))
	return r
}

func TestVerdicts(t *testing.T) {
	r := report()
	pick, limit := r.Verdicts(r.Rows[0])
	if want := (Verdict{Baseline: ColumnPick, Ratio: 5, Target: 4, Result: "pass"}); pick != want {
		t.Errorf("time, pick: got %+v, want %+v", pick, want)
	}
	if want := (Verdict{Baseline: "limit-directfs", Ratio: 0.5, Target: 0.8, Result: "fail"}); limit != want {
		t.Errorf("time, limit: got %+v, want %+v", limit, want)
	}
	pick, limit = r.Verdicts(r.Rows[1])
	if want := (Verdict{Baseline: ColumnPick, Ratio: 0.2, Target: 1, Result: "fail"}); pick != want {
		t.Errorf("rate, pick: got %+v, want %+v", pick, want)
	}
	if want := (Verdict{Baseline: "limit-gofer", Ratio: 0.5, Result: "-"}); limit != want {
		t.Errorf("rate, limit: got %+v, want %+v", limit, want)
	}
	r.Fail("time", ColumnSubject, errors.New("one round failed"))
	if pick, _ := r.Verdicts(r.Rows[0]); pick.Result != "not measured" {
		t.Errorf("after a failed round: got %+v, want not measured", pick)
	}
	if _, limit := (&Report{}).Verdicts(r.Rows[0]); limit.Result != "not measured" {
		t.Errorf("empty: got %+v, want not measured", limit)
	}
}

func TestWrite(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "results")
	if err := report().Write(dir); err != nil {
		t.Fatal(err)
	}
	read := func(name string) string {
		b, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	for _, want := range []string{
		"| a <time> | 5.00 | ≥ 4 | pass | 0.50 | ≥ 0.8 | fail |\n", "2000 ms [2000 ms to 2500 ms] ×5.00", "| failed |",
		"- rate, native: a reason\n", "- work, native: died at random\n", "| 2000k/s [2000k/s to 2500k/s] ×0.20 |",
	} {
		if md := read("matrix.md"); !strings.Contains(md, want) {
			t.Errorf("no %q in:\n%s", want, md)
		}
	}
	var parsed struct {
		Rows []struct {
			Cells []struct {
				Column  string
				Median  float64
				Samples []float64
				Error   string
			}
			Pick Verdict `json:"versus_pick"`
		}
	}
	if err := json.Unmarshal([]byte(read("matrix.json")), &parsed); err != nil {
		t.Fatal(err)
	}
	if len(parsed.Rows) != 2 || len(parsed.Rows[0].Cells) != len(Columns()) || parsed.Rows[0].Pick.Result != "pass" ||
		parsed.Rows[1].Cells[0].Error != "a reason" || parsed.Rows[0].Cells[1].Median != 10 {
		t.Errorf("matrix.json: got %+v", parsed)
	}
	dots := 0
	for dec := xml.NewDecoder(strings.NewReader(read("matrix.svg"))); ; {
		token, err := dec.Token()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if e, ok := token.(xml.StartElement); ok && e.Name.Local == "circle" {
			dots++
		}
	}
	if want := 2*4 + len(Columns()); dots != want {
		t.Errorf("matrix.svg: got %d dots, want %d", dots, want)
	}
}

func TestFioIOPS(t *testing.T) {
	if got, err := fioIOPS(`{"fio version": "3", "jobs": [{"read": {"iops": 1234.5}}]}`); err != nil || got != 1234.5 {
		t.Errorf("got %v, %v; want 1234.5", got, err)
	}
	for _, bad := range []string{"", "{}", `{"jobs": [{"read": {"iops": 0}}]}`, "fio: error"} {
		if got, err := fioIOPS(bad); err == nil {
			t.Errorf("%q: got %v, want an error", bad, got)
		}
	}
}
