// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package harness

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParsePosix(t *testing.T) {
	out := `=== RUN   TestPosix
=== RUN   TestPosix/AppendWrite
=== RUN   TestPosix/Link
    test.go:12: Link: no
=== RUN   TestPosix/XAttr
    test.go:3: not here
--- FAIL: TestPosix (0.01s)
    --- PASS: TestPosix/AppendWrite (0.00s)
    --- FAIL: TestPosix/Link (0.00s)
    --- SKIP: TestPosix/XAttr (0.00s)
FAIL
`
	got, err := ParsePosix(out)
	if err != nil {
		t.Fatal(err)
	}
	want := Outcomes{"posix/AppendWrite": "", "posix/Link": "test.go:12: Link: no", "posix/XAttr": "skip: test.go:3: not here"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if _, err := ParsePosix("exec format error\n"); err == nil {
		t.Error("no cases: got no error")
	}
}

func TestParseFscheck(t *testing.T) {
	got, err := ParseFscheck("{\"name\":\"a/b\",\"elapsed\":3}\n{\"name\":\"a/c\",\"err\":\"bad\",\"elapsed\":1}\n")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(Outcomes{"a/b": "", "a/c": "bad"}, got); diff != "" {
		t.Error(diff)
	}
	for _, bad := range []string{"{", "{\"name\":\"a\"}{\"name\":\"a\"}"} {
		if _, err := ParseFscheck(bad); err == nil {
			t.Errorf("%q: got no error", bad)
		}
	}
}
