// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

// Package vm is the benchmark of virtual machines: the same commands on the same directory of the host through every way
// into one guest, QEMU's own virtiofsd among them. Rows and Columns say what is measured; Report holds the samples, judges
// the targets, and is written as JSON and Markdown.
//
// What runs it is a test of this package, with the build tag bench; `make bench` is the command. docs/benchmarks.md says
// what the rows and columns mean. The processors of the guest are emulated: read ratios, and no times.
package vm

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"fsva/e2e/bench/matrix"
)

// Column is one way from the guest to the directory.
type Column struct {
	Name, Title string
	// Mount is the script that mounts the directory at /data.
	Mount string
	// Baseline is the column it is compared with; "" for none.
	Baseline string
	// Target is how many times as fast as Baseline it should be at least in the rows that count for all.
	Target float64
}

// The columns.
const (
	CAlways  = "c-always"
	CAuto    = "c-auto"
	Virtiofs = "virtiofs"
	Window   = "window"
	Stream   = "stream"
)

// Columns returns all columns, in the order of the table.
func Columns() []Column {
	return []Column{
		{Name: CAlways, Title: "QEMU's virtiofsd, cache=always", Mount: "mount -t virtiofs always /data"},
		{Name: CAuto, Title: "QEMU's virtiofsd, cache=auto", Mount: "mount -t virtiofs auto /data"},
		{Name: Virtiofs, Title: "fsva serve --listen virtiofs:…, an exclusive volume", Mount: "mount -t virtiofs ours /data", Baseline: CAlways, Target: 0.9},
		{Name: Window, Title: "fsva mount vsock:…, an exclusive volume, with a window", Mount: "fsva mount vsock:2:3782 /data", Baseline: CAlways, Target: 1},
		{Name: Stream, Title: "the same without a window", Mount: "fsva mount vsock:2:3782 /data -o nowindow"},
	}
}

// Row is one line of the table.
type Row struct {
	Name, Title string
	// Before is a script that prepares, and is not measured; Args is the command that is.
	Before string
	Args   []string
	// Fresh reports whether the directory is mounted anew before.
	Fresh bool
	// Rate reports whether the command prints operations per second, which are the sample; otherwise it is the command's
	// time, in seconds.
	Rate bool
	// Judged reports whether the columns' targets count here.
	Judged bool
	// MinWindow is how many times as fast as Stream Window should be at least; 0 for no target.
	MinWindow float64
}

// dropGuest makes the guest's kernel forget file data.
const dropGuest = "sync; echo 1 > /proc/sys/vm/drop_caches"

// Rows returns all rows. Each column goes through them in this order on one mount.
func Rows() []Row {
	lslr, cat, seq := []string{"ls", "-lR", "/data/files"}, []string{"sh", "-c", "xargs cat < /tmp/names"}, []string{"work", "read", "/data/big"}
	return []Row{
		{Name: "lslr-cold", Title: "ls -lR, 5,000 files, new mount", Args: lslr, Fresh: true, Judged: true},
		{Name: "lslr-warm", Title: "ls -lR, 5,000 files, again", Args: lslr, Judged: true},
		{Name: "cat-cold", Title: "cat, 5,000 files of 2 KiB, new mount", Args: cat, Fresh: true, Judged: true},
		{Name: "cat-warm", Title: "cat, 5,000 files of 2 KiB, again", Args: cat, Judged: true},
		{Name: "seq", Title: "sequential read, 128 MiB in 1 MiB, new mount", Args: seq, Fresh: true, Judged: true},
		{Name: "seq-again", Title: "the same again, not in the guest's cache", Before: dropGuest, Args: seq, Judged: true, MinWindow: 2},
		{Name: "rand", Title: "4 KiB random reads of 128 MiB, not in the guest's cache at first", Before: dropGuest,
			Args: []string{"work", "random", "/data/big", "2"}, Rate: true, Judged: true},
	}
}

// What the directory holds.
const (
	smallFiles    = 5000
	smallFileSize = 2048
	filesPerDir   = 100
	bigFileSize   = 128 << 20
)

// Report is the outcome of a run.
type Report struct {
	Facts  []string
	Rounds int
	// samples is by row and column name.
	samples map[[2]string][]float64
}

// Add records the sample of one round.
func (r *Report) Add(row, column string, sample float64) {
	if r.samples == nil {
		r.samples = map[[2]string][]float64{}
	}
	key := [2]string{row, column}
	r.samples[key] = append(r.samples[key], sample)
}

// Ratio returns how many times as fast column a is as b, by their medians; false if either was not measured.
func (r *Report) Ratio(row Row, a, b string) (float64, bool) {
	sa, sb := r.samples[[2]string{row.Name, a}], r.samples[[2]string{row.Name, b}]
	if len(sa) == 0 || len(sb) == 0 {
		return 0, false
	}
	if row.Rate {
		return matrix.Median(sa) / matrix.Median(sb), true
	}
	return matrix.Median(sb) / matrix.Median(sa), true
}

// Verdict is how one column stands to another in one row.
type Verdict struct {
	Row      string  `json:"row"`
	Column   string  `json:"column"`
	Baseline string  `json:"baseline"`
	Ratio    float64 `json:"ratio"`
	Target   float64 `json:"target"`
	Pass     bool    `json:"pass"`
}

// Verdicts returns every target that was measured.
func (r *Report) Verdicts() []Verdict {
	var all []Verdict
	judge := func(row Row, column, baseline string, target float64) {
		if ratio, ok := r.Ratio(row, column, baseline); ok && target > 0 {
			all = append(all, Verdict{row.Name, column, baseline, ratio, target, ratio >= target})
		}
	}
	for _, row := range Rows() {
		for _, c := range Columns() {
			if row.Judged && c.Baseline != "" {
				judge(row, c.Name, c.Baseline, c.Target)
			}
		}
		judge(row, Window, Stream, row.MinWindow)
	}
	return all
}

// Write writes vm.json and vm.md to dir, which it makes if need be.
func (r *Report) Write(dir string) error {
	type cell struct {
		Row     string    `json:"row"`
		Column  string    `json:"column"`
		Samples []float64 `json:"samples"`
	}
	out := struct {
		Facts    []string  `json:"facts"`
		Rounds   int       `json:"rounds"`
		Cells    []cell    `json:"cells"`
		Verdicts []Verdict `json:"verdicts"`
	}{Facts: r.Facts, Rounds: r.Rounds, Verdicts: r.Verdicts()}
	for _, row := range Rows() {
		for _, c := range Columns() {
			if s := r.samples[[2]string{row.Name, c.Name}]; len(s) > 0 {
				out.Cells = append(out.Cells, cell{row.Name, c.Name, s})
			}
		}
	}
	data, err := json.MarshalIndent(out, "", "  ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	return errors.Join(os.WriteFile(filepath.Join(dir, "vm.json"), append(data, '\n'), 0o644),
		os.WriteFile(filepath.Join(dir, "vm.md"), []byte(r.Markdown()), 0o644))
}

// Markdown returns the tables: the verdicts, then every cell.
func (r *Report) Markdown() string {
	var b strings.Builder
	b.WriteString("# Virtual machines\n\n")
	for _, fact := range r.Facts {
		fmt.Fprintf(&b, "- %s\n", fact)
	}
	fmt.Fprintf(&b, "- rounds: %d; the columns alternate within a round\n", r.Rounds)
	b.WriteString("\n## Targets\n\nHow many times as fast.\n\n| row | column | baseline | × | target | |\n|---|---|---|---:|---:|---|\n")
	for _, v := range r.Verdicts() {
		result := "fail"
		if v.Pass {
			result = "pass"
		}
		fmt.Fprintf(&b, "| %s | %s | %s | %.2f | ≥ %g | %s |\n", v.Row, v.Column, v.Baseline, v.Ratio, v.Target, result)
	}
	b.WriteString("\n## Measurements\n\nMedian [least to most]; times by the guest's clock.\n\n| row |")
	for _, c := range Columns() {
		fmt.Fprintf(&b, " %s |", c.Name)
	}
	b.WriteString("\n|---|" + strings.Repeat("---:|", len(Columns())) + "\n")
	for _, row := range Rows() {
		fmt.Fprintf(&b, "| %s |", row.Title)
		for _, c := range Columns() {
			s := r.samples[[2]string{row.Name, c.Name}]
			switch {
			case len(s) == 0:
				b.WriteString(" |")
			case row.Rate:
				fmt.Fprintf(&b, " %.0f/s [%.0f to %.0f] |", matrix.Median(s), slices.Min(s), slices.Max(s))
			default:
				fmt.Fprintf(&b, " %.2f s [%.2f to %.2f] |", matrix.Median(s), slices.Min(s), slices.Max(s))
			}
		}
		b.WriteString("\n")
	}
	b.WriteString("\n")
	for _, c := range Columns() {
		fmt.Fprintf(&b, "- `%s`: %s\n", c.Name, c.Title)
	}
	return b.String()
}
