// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package guest

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestCpio has busybox, which everything here needs anyway, read what cpioWriter wrote.
func TestCpio(t *testing.T) {
	busybox, err := exec.LookPath("busybox")
	if err != nil {
		t.Skip("missing: busybox (apt-get install busybox-static)")
	}
	var archive bytes.Buffer
	c := &cpioWriter{w: &archive}
	content := strings.Repeat("content ", 1000) + "x"
	for _, err := range []error{
		c.file("/a/b/file", 0o750, int64(len(content)), strings.NewReader(content)),
		c.file("/a/empty", 0o644, 0, nil),
		c.symlink("/bin/link", "../a/b/file"),
		c.close(),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	dir := t.TempDir()
	cmd := exec.Command(busybox, "cpio", "-i")
	cmd.Dir, cmd.Stdin = dir, &archive
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("cpio: %v\n%s", err, out)
	}
	for _, name := range []string{"a/b/file", "bin/link"} {
		if b, err := os.ReadFile(filepath.Join(dir, name)); err != nil || string(b) != content {
			t.Errorf("%s: %d bytes, %v", name, len(b), err)
		}
	}
	if info, err := os.Stat(filepath.Join(dir, "a/b/file")); err != nil || info.Mode() != 0o750 {
		t.Errorf("mode: %v, %v", info, err)
	}
	if info, err := os.Stat(filepath.Join(dir, "a/empty")); err != nil || info.Size() != 0 {
		t.Errorf("empty file: %v, %v", info, err)
	}
}

// A file that ends early must not become an archive that the kernel reads something else from.
func TestCpioShortFile(t *testing.T) {
	c := &cpioWriter{w: &bytes.Buffer{}}
	if err := c.file("/short", 0o644, 10, strings.NewReader("123")); err == nil {
		t.Error("no error")
	}
}
