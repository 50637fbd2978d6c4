// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"io"
	"os"
	"regexp"
	"sort"
	"strings"
	"time"
)

// event is one line of `go test -json` (see `go doc test2json`).
type event struct {
	Action     string
	Package    string
	ImportPath string // of build-output
	Test       string
	Elapsed    float64
	Output     string
}

// testID names a test of a package.
type testID struct{ pkg, test string }

func (id testID) String() string { return id.pkg + "." + id.test }

// skip is a test that did not run, and why.
type skip struct {
	id     testID
	reason string
}

func (s skip) String() string { return s.id.String() + ": " + s.reason }

// report turns events into output. It keeps the output of the tests that are
// running, and only that.
type report struct {
	out   io.Writer
	each  bool
	start time.Time
	last  time.Time // when something was last printed

	running      map[testID]time.Time
	output       map[testID]*strings.Builder
	packageLines []string // go test's result lines, one a package
	skips        []skip
	passed       int
	failed       []failure
}

// failure is a test that failed, and the beginning of what it said.
type failure struct {
	id   testID
	head []string
}

func newReport(out io.Writer, each bool) *report {
	now := time.Now()
	return &report{
		out: out, each: each, start: now, last: now,
		running: make(map[testID]time.Time),
		output:  make(map[testID]*strings.Builder),
	}
}

func (r *report) printf(format string, args ...any) {
	fmt.Fprintf(r.out, format, args...)
	r.last = time.Now()
}

// add takes the next event.
func (r *report) add(e event) {
	id := testID{e.Package, e.Test}
	switch e.Action {
	case "build-output":
		r.printf("%s", e.Output)
	case "run":
		r.running[id] = time.Now()
	case "output":
		r.addOutput(id, e.Output)
	case "pass", "fail", "skip":
		r.end(id, e)
	}
}

// addOutput keeps a test's output until its verdict. What a package says
// outside its tests is printed at once, but for the bare verdicts that its
// result line repeats.
func (r *report) addOutput(id testID, text string) {
	if id.test == "" {
		switch {
		case isResultLine(text):
			r.packageLines = append(r.packageLines, text)
			r.printf("%s", text)
		case text != "PASS\n" && text != "FAIL\n" && !strings.Contains(text, "[no test files]"):
			r.printf("%s", text)
		}
		return
	}
	b := r.output[id]
	if b == nil {
		b = new(strings.Builder)
		r.output[id] = b
	}
	b.WriteString(text)
}

// isResultLine reports whether text is go test's closing line of a package.
func isResultLine(text string) bool {
	return strings.HasPrefix(text, "ok  \t") || strings.HasPrefix(text, "FAIL\t")
}

// end takes the verdict on a test or a package.
func (r *report) end(id testID, e event) {
	if id.test == "" {
		if e.Action == "fail" {
			r.flushUnfinished(id.pkg)
		}
		return
	}
	text := ""
	if b := r.output[id]; b != nil {
		text = b.String()
	}
	delete(r.output, id)
	delete(r.running, id)

	topLevel := !strings.Contains(id.test, "/")
	switch e.Action {
	case "pass":
		r.passed++
		if r.each && topLevel {
			r.printf("--- PASS: %s (%.2fs)\n", id.test, e.Elapsed)
		}
	case "fail":
		r.fail(id, text)
	case "skip":
		r.skips = append(r.skips, skip{id, skipReason(text)})
		if r.each && topLevel {
			r.printf("--- SKIP: %s (%s)\n", id.test, skipReason(text))
		}
	}
}

// Of a failed test, finish repeats so many lines, and so many bytes of each.
const (
	headLines = 20
	headWidth = 400
)

// fail prints the output of a test that failed, and keeps its beginning, where
// the reason is; the logs of servers follow it, and much else before the end.
func (r *report) fail(id testID, output string) {
	r.printf("%s", output)
	f := failure{id: id}
	for line := range strings.Lines(output) {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "===") {
			continue
		}
		if len(f.head) == headLines {
			break
		}
		f.head = append(f.head, strings.ToValidUTF8(line[:min(len(line), headWidth)], ""))
	}
	r.failed = append(r.failed, f)
}

// flushUnfinished prints the output of pkg's tests that got no verdict: those
// that a panic or the time limit ended, where the stacks are.
func (r *report) flushUnfinished(pkg string) {
	for id, b := range r.output {
		if id.pkg != pkg {
			continue
		}
		r.fail(id, b.String())
		delete(r.output, id)
		delete(r.running, id)
	}
}

// skipReason finds the text given to t.Skip in a skipped test's output: the
// last "file.go:12: text" line, with lines that continue it.
func skipReason(output string) string {
	var reason []string
	for line := range strings.Lines(output) {
		line = strings.TrimSpace(line)
		switch {
		case line == "", strings.HasPrefix(line, "==="), strings.HasPrefix(line, "---"):
		case logLine.MatchString(line):
			reason = []string{logLine.ReplaceAllString(line, "")}
		default:
			reason = append(reason, line)
		}
	}
	if len(reason) == 0 {
		return "no reason given"
	}
	return strings.Join(reason, " ")
}

var logLine = regexp.MustCompile(`^[A-Za-z0-9_.-]+\.go:\d+: `)

// alive prints what is running if nothing was printed for a while.
func (r *report) alive(now time.Time) {
	if now.Sub(r.last) < quietLimit-time.Second {
		return
	}
	what := "compiling"
	var oldest time.Time
	for id, since := range r.running {
		// The deepest subtest says most; its parents are older.
		if oldest.IsZero() || since.After(oldest) {
			oldest, what = since, id.String()
		}
	}
	r.printf("   still running, %.0f s: %s\n", now.Sub(r.start).Seconds(), what)
}

// finish prints the totals, once more what failed and why, and returns the skips that allowed does not match.
func (r *report) finish(allowed []*regexp.Regexp) (forbidden []skip) {
	sort.Slice(r.skips, func(i, j int) bool { return r.skips[i].id.String() < r.skips[j].id.String() })
	for _, s := range r.skips {
		word := "skipped"
		if !matchesAny(allowed, s.String()) {
			forbidden = append(forbidden, s)
			if os.Getenv("CI") == "true" {
				word = "FORBIDDEN SKIP"
			}
		}
		r.printf("%s: %s\n", word, s)
	}
	for _, f := range r.failed {
		r.printf("failed: %s\n", f.id)
		for _, line := range f.head {
			r.printf("    %s\n", line)
		}
	}
	r.printf("%d passed, %d skipped, %d failed, %.0f s\n",
		r.passed, len(r.skips), len(r.failed), time.Since(r.start).Seconds())
	return forbidden
}

func matchesAny(patterns []*regexp.Regexp, s string) bool {
	for _, p := range patterns {
		if p.MatchString(s) {
			return true
		}
	}
	return false
}

// readAllowedSkips reads one regular expression a line; blank lines and lines
// that start with # are comments. A missing file allows nothing.
func readAllowedSkips(path string) ([]*regexp.Regexp, error) {
	data, err := os.ReadFile(path)
	if os.IsNotExist(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var allowed []*regexp.Regexp
	n := 0
	for line := range strings.Lines(string(data)) {
		n++
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		p, err := regexp.Compile(line)
		if err != nil {
			return nil, fmt.Errorf("%s:%d: %w", path, n, err)
		}
		allowed = append(allowed, p)
	}
	return allowed, nil
}
