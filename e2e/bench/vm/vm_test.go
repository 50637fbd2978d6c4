// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package vm

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestNames(t *testing.T) {
	var names []string
	for _, r := range Rows() {
		names = append(names, r.Name)
	}
	for _, c := range Columns() {
		names = append(names, c.Name)
		if c.Baseline != "" && !slices.ContainsFunc(Columns(), func(o Column) bool { return o.Name == c.Baseline }) {
			t.Errorf("%s: no column %s", c.Name, c.Baseline)
		}
	}
	slices.Sort(names)
	if n := len(names); len(slices.Compact(names)) != n {
		t.Errorf("repeated names: %q", names)
	}
}

func TestReport(t *testing.T) {
	var r Report
	for column, samples := range map[string][]float64{CAlways: {2, 1, 9}, Virtiofs: {4, 4, 4}, Window: {1, 1, 1}, Stream: {1.5, 1.5, 1.5}} {
		for _, s := range samples {
			r.Add("seq-again", column, s)
			r.Add("rand", column, s)
		}
	}
	want := []Verdict{
		{"seq-again", Virtiofs, CAlways, 0.5, 0.9, false},
		{"seq-again", Window, CAlways, 2, 1, true},
		{"seq-again", Window, Stream, 1.5, 2, false},
		{"rand", Virtiofs, CAlways, 2, 0.9, true},
		{"rand", Window, CAlways, 0.5, 1, false},
	}
	if got := r.Verdicts(); !slices.Equal(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
	dir := filepath.Join(t.TempDir(), "results")
	if err := r.Write(dir); err != nil {
		t.Fatal(err)
	}
	for name, part := range map[string]string{"vm.md": "| seq-again | virtiofs | c-always | 0.50 | ≥ 0.9 | fail |", "vm.json": `"column": "window"`} {
		if b, err := os.ReadFile(filepath.Join(dir, name)); err != nil || !strings.Contains(string(b), part) {
			t.Errorf("no %q in %s: %v\n%s", part, name, err, b)
		}
	}
}
