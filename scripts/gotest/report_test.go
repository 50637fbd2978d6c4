// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// feed runs the events in lines through a report.
func feed(t *testing.T, each bool, lines string) (*report, *bytes.Buffer) {
	t.Helper()
	out := new(bytes.Buffer)
	r := newReport(out, each)
	follow(r, strings.NewReader(lines))
	return r, out
}

const passSkipFail = `{"Action":"start","Package":"p"}
{"Action":"run","Package":"p","Test":"TestGood"}
{"Action":"output","Package":"p","Test":"TestGood","Output":"=== RUN   TestGood\n"}
{"Action":"output","Package":"p","Test":"TestGood","Output":"    a_test.go:9: chatter\n"}
{"Action":"pass","Package":"p","Test":"TestGood","Elapsed":0.5}
{"Action":"run","Package":"p","Test":"TestAway"}
{"Action":"output","Package":"p","Test":"TestAway","Output":"=== RUN   TestAway\n"}
{"Action":"output","Package":"p","Test":"TestAway","Output":"    a_test.go:12: no /dev/fuse\n"}
{"Action":"output","Package":"p","Test":"TestAway","Output":"--- SKIP: TestAway (0.00s)\n"}
{"Action":"skip","Package":"p","Test":"TestAway","Elapsed":0}
{"Action":"run","Package":"p","Test":"TestBad"}
{"Action":"output","Package":"p","Test":"TestBad","Output":"    a_test.go:20: wrong answer\n"}
{"Action":"fail","Package":"p","Test":"TestBad","Elapsed":0}
{"Action":"output","Package":"p","Output":"FAIL\n"}
{"Action":"output","Package":"p","Output":"FAIL\tp\t0.5s\n"}
{"Action":"fail","Package":"p","Elapsed":0.5}
`

func TestReport(t *testing.T) {
	r, out := feed(t, true, passSkipFail)
	forbidden := r.finish(nil)

	if r.passed != 1 || len(r.failed) != 1 || len(r.skips) != 1 {
		t.Errorf("passed %d, failed %v, skips %v; want one each", r.passed, r.failed, r.skips)
	}
	if len(forbidden) != 1 || forbidden[0].String() != "p.TestAway: no /dev/fuse" {
		t.Errorf("forbidden skips %v", forbidden)
	}
	if got := strings.Join(r.packageLines, ""); got != "FAIL\tp\t0.5s\n" {
		t.Errorf("package lines %q", got)
	}
	for _, want := range []string{"--- PASS: TestGood", "--- SKIP: TestAway (no /dev/fuse)", "wrong answer", "FAIL\tp\t0.5s\n", "1 passed, 1 skipped, 1 failed"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("output lacks %q:\n%s", want, out)
		}
	}
	if !strings.Contains(out.String(), "failed: p.TestBad\n    a_test.go:20: wrong answer\n") {
		t.Errorf("what failed is not repeated with its reason:\n%s", out)
	}
	if strings.Contains(out.String(), "chatter") {
		t.Errorf("output of a test that passed was printed:\n%s", out)
	}
}

func TestAllowedSkip(t *testing.T) {
	r, _ := feed(t, false, passSkipFail)
	if got := r.finish([]*regexp.Regexp{regexp.MustCompile(`^p\.TestAway: no /dev/fuse$`)}); len(got) != 0 {
		t.Errorf("forbidden skips %v, want none", got)
	}
}

func TestPanicOutputIsShown(t *testing.T) {
	r, out := feed(t, false, `{"Action":"run","Package":"p","Test":"TestHang"}
{"Action":"output","Package":"p","Test":"TestHang","Output":"panic: test timed out after 1s\n"}
{"Action":"output","Package":"p","Output":"FAIL\tp\t1.0s\n"}
{"Action":"fail","Package":"p","Elapsed":1}
`)
	if !strings.Contains(out.String(), "panic: test timed out") || len(r.failed) != 1 {
		t.Errorf("failed %v, output:\n%s", r.failed, out)
	}
}

func TestOutputThatIsNoEvent(t *testing.T) {
	_, out := feed(t, false, "go: cannot find main module\n"+
		`{"ImportPath":"p","Action":"build-output","Output":"a.go:1: syntax error\n"}`+"\n")
	if got, want := out.String(), "go: cannot find main module\na.go:1: syntax error\n"; got != want {
		t.Errorf("output %q, want %q", got, want)
	}
}

func TestSkipReason(t *testing.T) {
	for _, tc := range []struct{ name, output, want string }{
		{"none", "=== RUN   TestX\n--- SKIP: TestX (0.00s)\n", "no reason given"},
		{"last line counts", "    x_test.go:3: first\n    x_test.go:4: needs root\n", "needs root"},
		{"continued", "    x_test.go:4: needs\n        root\n", "needs root"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if got := skipReason(tc.output); got != tc.want {
				t.Errorf("got %q, want %q", got, tc.want)
			}
		})
	}
}

func TestReadAllowedSkips(t *testing.T) {
	path := filepath.Join(t.TempDir(), "allowed")
	if got, err := readAllowedSkips(path); err != nil || got != nil {
		t.Errorf("missing file: %v, %v", got, err)
	}
	if err := os.WriteFile(path, []byte("# why\n\n^p\\.TestX: \n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if got, err := readAllowedSkips(path); err != nil || len(got) != 1 {
		t.Errorf("got %v, %v; want one pattern", got, err)
	}
	if err := os.WriteFile(path, []byte("# why\n(\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := readAllowedSkips(path); err == nil || !strings.Contains(err.Error(), "allowed:2: ") {
		t.Errorf("bad pattern: %v", err)
	}
}
