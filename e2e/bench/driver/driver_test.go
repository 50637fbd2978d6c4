// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package driver

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestServe(t *testing.T) {
	dir := t.TempDir()
	var in, out bytes.Buffer
	enc := json.NewEncoder(&in)
	for _, r := range []Request{
		{Args: []string{"sh", "-c", "pwd; echo no >&2"}, Dir: dir, Output: true},
		{Args: []string{"sh", "-c", "echo unseen"}, Dir: dir},
		{Args: []string{"sh", "-c", "echo why >&2; exit 3"}, Dir: dir},
		{Args: []string{"no-such-command"}, Dir: dir},
		{},
	} {
		if err := enc.Encode(r); err != nil {
			t.Fatal(err)
		}
	}
	if err := Serve(&in, &out); err != nil {
		t.Fatal(err)
	}
	dec := json.NewDecoder(&out)
	for i, want := range []struct{ output, err string }{
		{output: dir + "\n"}, {}, {err: "exit status 3: why\n"}, {err: "executable file not found"}, {err: "no command"},
	} {
		var r Response
		if err := dec.Decode(&r); err != nil {
			t.Fatal(err)
		}
		if r.Output != want.output || !strings.Contains(r.Error, want.err) || (want.err == "") != (r.Error == "") {
			t.Errorf("response %d: got %+v, want output %q, error %q", i, r, want.output, want.err)
		}
	}
	if dec.More() {
		t.Error("more responses than requests")
	}
}

func TestServeBadRequest(t *testing.T) {
	if err := Serve(strings.NewReader("hello"), &bytes.Buffer{}); err == nil {
		t.Error("got no error")
	}
}

func TestCreate(t *testing.T) {
	dir := t.TempDir()
	if err := Create(dir, 150, 300); err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob(filepath.Join(dir, "d*", "f*"))
	if err != nil {
		t.Fatal(err)
	}
	if len(files) != 150 {
		t.Errorf("got %d files, want 150", len(files))
	}
	for _, f := range files {
		if fi, err := os.Stat(f); err != nil || fi.Size() != 300 {
			t.Errorf("%s: %v, %v; want 300 bytes", f, fi, err)
		}
	}
	if err := Create(dir, 1, 1); err == nil {
		t.Error("again in the same directory: got no error")
	}
}
