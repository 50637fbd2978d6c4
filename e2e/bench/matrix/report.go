// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package matrix

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Report is the outcome of a run.
type Report struct {
	// Machine describes where it ran; one line per fact.
	Machine []string
	Quick   bool
	Rounds  int
	Columns []Column
	Rows    []*Row
	// Repeated are the sessions that failed, and were started again: workload, column and why.
	Repeated []string
	// cells is by row and column name.
	cells map[[2]string]*cell
}

// cell is one place of the table.
type cell struct {
	samples []float64 // one per round that succeeded
	err     string    // of the first round without a sample
}

// Add records the sample of one round.
func (r *Report) Add(row, column string, sample float64) {
	c := r.cell(row, column)
	c.samples = append(c.samples, sample)
}

// Repeat records that a session failed, and that another one takes its place.
func (r *Report) Repeat(workload, column string, err error) {
	r.Repeated = append(r.Repeated, fmt.Sprintf("%s, %s: %s", workload, column, strings.Join(strings.Fields(err.Error()), " ")))
}

// Fail records that a round gave no sample.
func (r *Report) Fail(row, column string, err error) {
	if c := r.cell(row, column); c.err == "" {
		c.err = err.Error()
	}
}

func (r *Report) cell(row, column string) *cell {
	if r.cells == nil {
		r.cells = map[[2]string]*cell{}
	}
	key := [2]string{row, column}
	c := r.cells[key]
	if c == nil {
		c = &cell{}
		r.cells[key] = c
	}
	return c
}

// valid reports whether every round gave a sample.
func (c *cell) valid() bool { return c.err == "" && len(c.samples) > 0 }

// Median returns the middle of the samples, of which there must be one: the mean of the middle two if their number is even.
func Median(samples []float64) float64 {
	s := slices.Sorted(slices.Values(samples))
	return (s[(len(s)-1)/2] + s[len(s)/2]) / 2
}

// speedup returns how many times as fast column a is as column b, by their medians; false if either has none.
func (r *Report) speedup(row *Row, a, b string) (float64, bool) {
	ca, cb := r.cell(row.Name, a), r.cell(row.Name, b)
	if !ca.valid() || !cb.valid() {
		return 0, false
	}
	return relative(row, Median(ca.samples), Median(cb.samples)), true
}

// relative returns how many times as fast sample a is as b.
func relative(row *Row, a, b float64) float64 {
	if row.Rate {
		return a / b
	}
	return b / a
}

// limit returns the faster of the limit columns; false if neither was measured.
func (r *Report) limit(row *Row) (string, bool) {
	best := ""
	for _, name := range limitColumns {
		if !r.cell(row.Name, name).valid() {
			continue
		}
		if s, ok := r.speedup(row, name, best); best == "" || ok && s > 1 {
			best = name
		}
	}
	return best, best != ""
}

// Verdict is how ColumnSubject stands to one baseline in one row.
type Verdict struct {
	Baseline string  `json:"baseline,omitempty"` // the column's name
	Ratio    float64 `json:"ratio,omitempty"`    // how many times as fast as the baseline
	Target   float64 `json:"target,omitempty"`   // what it should be at least; 0: no target
	// Result is "pass", "fail", "-" without a target, or "not measured".
	Result string `json:"result"`
}

func (r *Report) verdict(row *Row, baseline string, measured bool, target float64) Verdict {
	v := Verdict{Baseline: baseline, Target: target, Result: "not measured"}
	if !measured {
		return v
	}
	ratio, ok := r.speedup(row, ColumnSubject, baseline)
	if !ok {
		return v
	}
	v.Ratio = ratio
	switch {
	case target == 0:
		v.Result = "-"
	case ratio >= target:
		v.Result = "pass"
	default:
		v.Result = "fail"
	}
	return v
}

// Verdicts returns how ColumnSubject stands to ColumnPick and to the limit.
func (r *Report) Verdicts(row *Row) (pick, limit Verdict) {
	name, measured := r.limit(row)
	return r.verdict(row, ColumnPick, true, row.MinPick), r.verdict(row, name, measured, row.MinLimit)
}

// Write writes matrix.json, matrix.md and matrix.svg to dir, which it makes if need be.
func (r *Report) Write(dir string) error {
	data, err := r.JSON()
	if err != nil {
		return err
	}
	plot, err := r.SVG()
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	return errors.Join(
		os.WriteFile(filepath.Join(dir, "matrix.json"), data, 0o644),
		os.WriteFile(filepath.Join(dir, "matrix.md"), []byte(r.Markdown()), 0o644),
		os.WriteFile(filepath.Join(dir, "matrix.svg"), plot, 0o644))
}

// JSON returns all samples, with the medians, the spread and the verdicts.
func (r *Report) JSON() ([]byte, error) {
	type jsonCell struct {
		Column  string    `json:"column"`
		Median  float64   `json:"median,omitempty"`
		Min     float64   `json:"min,omitempty"`
		Max     float64   `json:"max,omitempty"`
		Samples []float64 `json:"samples,omitempty"`
		Error   string    `json:"error,omitempty"`
	}
	type jsonRow struct {
		Name  string     `json:"name"`
		Title string     `json:"title"`
		Unit  string     `json:"unit"`
		Cells []jsonCell `json:"cells"`
		Pick  Verdict    `json:"versus_pick"`
		Limit Verdict    `json:"versus_limit"`
	}
	type jsonColumn struct {
		Name  string `json:"name"`
		Title string `json:"title"`
	}
	out := struct {
		Machine  []string     `json:"machine"`
		Quick    bool         `json:"quick"`
		Rounds   int          `json:"rounds"`
		Columns  []jsonColumn `json:"columns"`
		Rows     []jsonRow    `json:"rows"`
		Repeated []string     `json:"repeated,omitempty"`
	}{Machine: r.Machine, Quick: r.Quick, Rounds: r.Rounds, Repeated: r.Repeated}
	for _, c := range r.Columns {
		out.Columns = append(out.Columns, jsonColumn{c.Name, c.Title})
	}
	for _, row := range r.Rows {
		jr := jsonRow{Name: row.Name, Title: row.Title, Unit: "s"}
		if row.Rate {
			jr.Unit = "operations/s"
		}
		for _, col := range r.Columns {
			c := r.cell(row.Name, col.Name)
			jc := jsonCell{Column: col.Name, Samples: c.samples, Error: c.err}
			if len(c.samples) > 0 {
				jc.Median, jc.Min, jc.Max = Median(c.samples), slices.Min(c.samples), slices.Max(c.samples)
			}
			jr.Cells = append(jr.Cells, jc)
		}
		jr.Pick, jr.Limit = r.Verdicts(row)
		out.Rows = append(out.Rows, jr)
	}
	data, err := json.MarshalIndent(out, "", "  ")
	return append(data, '\n'), err
}

// Markdown returns the tables: the verdicts, then every cell.
func (r *Report) Markdown() string {
	var b strings.Builder
	b.WriteString("# Benchmark matrix\n\n")
	for _, fact := range r.Machine {
		fmt.Fprintf(&b, "- %s\n", fact)
	}
	fmt.Fprintf(&b, "- rounds: %d; the columns alternate within a round\n", r.Rounds)
	if r.Quick {
		b.WriteString("- quick: fewer rows, columns and rounds than a whole run; a noisy figure is no finding\n")
	}

	fmt.Fprintf(&b, "\n## Targets\n\nHow many times as fast `%s` is as `%s` (the pick), and as the faster of the limit columns. "+
		"More is better.\n\n", ColumnSubject, ColumnPick)
	b.WriteString("| row | × pick | target | | × limit | target | |\n|---|---:|---:|---|---:|---:|---|\n")
	for _, row := range r.Rows {
		pick, limit := r.Verdicts(row)
		fmt.Fprintf(&b, "| %s | %s | %s |\n", row.Title, pick.markdown(), limit.markdown())
	}

	b.WriteString("\n## Measurements\n\nMedian, [least to most], and × how many times as fast as the pick. " +
		"Times are the workload's own, inside its sandbox.\n\n| row |")
	for _, c := range r.Columns {
		fmt.Fprintf(&b, " %s |", c.Name)
	}
	b.WriteString("\n|---|" + strings.Repeat("---:|", len(r.Columns)) + "\n")
	for _, row := range r.Rows {
		fmt.Fprintf(&b, "| %s |", row.Title)
		for _, c := range r.Columns {
			fmt.Fprintf(&b, " %s |", r.cellMarkdown(row, c.Name))
		}
		b.WriteString("\n")
	}
	b.WriteString("\n")
	for _, c := range r.Columns {
		fmt.Fprintf(&b, "- `%s`: %s\n", c.Name, c.Title)
	}
	writeList(&b, "Failed", r.Failures())
	writeList(&b, "Failed and repeated", r.Repeated)
	return b.String()
}

func writeList(b *strings.Builder, title string, entries []string) {
	if len(entries) == 0 {
		return
	}
	fmt.Fprintf(b, "\n## %s\n\n", title)
	for _, e := range entries {
		fmt.Fprintf(b, "- %s\n", e)
	}
}

func (v Verdict) markdown() string {
	ratio, target := "", ""
	if v.Ratio > 0 {
		ratio = fmt.Sprintf("%.2f", v.Ratio)
	}
	if v.Target > 0 {
		target = fmt.Sprintf("≥ %g", v.Target)
	}
	return ratio + " | " + target + " | " + v.Result
}

func (r *Report) cellMarkdown(row *Row, column string) string {
	c := r.cell(row.Name, column)
	switch {
	case c.err != "":
		return "failed"
	case len(c.samples) == 0:
		return ""
	}
	text := fmt.Sprintf("%s [%s to %s]", format(row, Median(c.samples)), format(row, slices.Min(c.samples)), format(row, slices.Max(c.samples)))
	if s, ok := r.speedup(row, column, ColumnPick); ok && column != ColumnPick {
		text += fmt.Sprintf(" ×%.2f", s)
	}
	return text
}

// format returns a sample with its unit, in three digits or so.
func format(row *Row, sample float64) string {
	switch {
	case row.Rate:
		return fmt.Sprintf("%.0fk/s", sample/1000)
	case sample < 0.1:
		return fmt.Sprintf("%.1f ms", sample*1000)
	case sample < 10:
		return fmt.Sprintf("%.0f ms", sample*1000)
	default:
		return fmt.Sprintf("%.1f s", sample)
	}
}

// Failures returns the cells without a sample in some round, and why.
func (r *Report) Failures() []string {
	var failed []string
	for _, row := range r.Rows {
		for _, c := range r.Columns {
			if err := r.cell(row.Name, c.Name).err; err != "" {
				failed = append(failed, fmt.Sprintf("%s, %s: %s", row.Name, c.Name, err))
			}
		}
	}
	return failed
}
