// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package conformance

import (
	"os"
	"testing"
)

func TestMain(m *testing.M) {
	Helper()
	os.Exit(m.Run())
}

// TestControl runs every check on the host's own file system: a check that fails there is wrong itself.
func TestControl(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("missing privilege: root (the checks change owners)")
	}
	dir, err := os.MkdirTemp("", "fscheck")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	report := func(o Outcome) {
		t.Run(o.Name, func(t *testing.T) {
			if o.Err != "" {
				t.Error(o.Err)
			}
		})
	}
	if _, err := Run(WriteChecks(), dir, false, report); err != nil {
		t.Fatal(err)
	}
	tree := Tree{Files: 500, Sparse: true, Xattr: true, HardLink: true, Symlinks: true}
	if err := tree.Write(dir); err != nil {
		t.Fatal(err)
	}
	if _, err := Run(TreeChecks(tree), dir, true, report); err != nil {
		t.Fatal(err)
	}
}

// TestNames verifies that no two checks share a name or a directory.
func TestNames(t *testing.T) {
	seen := map[string]bool{}
	all := append(WriteChecks(), TreeChecks(Tree{Files: 1, Sparse: true, Xattr: true, HardLink: true, Symlinks: true})...)
	for _, c := range append(all, ReadOnlyChecks()...) {
		if seen[c.Name] {
			t.Errorf("two checks are called %q", c.Name)
		}
		seen[c.Name] = true
	}
}

// TestGuarded verifies that a check which panics fails alone.
func TestGuarded(t *testing.T) {
	checks := []Check{
		{"x/panics", func(string) error { panic("boom") }},
		{"x/passes", func(string) error { return nil }},
	}
	var got []string
	failed, err := Run(checks, t.TempDir(), false, func(o Outcome) { got = append(got, o.Name+":"+o.Err) })
	if err != nil || failed != 1 || len(got) != 2 || got[0] != "x/panics:panic: boom" || got[1] != "x/passes:" {
		t.Errorf("got %q, failed %d, err %v", got, failed, err)
	}
}
