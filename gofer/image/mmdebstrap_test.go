// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package image

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// needMmdebstrap skips a test that builds images.
func needMmdebstrap(t *testing.T) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("building an image needs root")
	}
	if _, err := exec.LookPath("mmdebstrap"); err != nil {
		t.Skip("mmdebstrap is not installed")
	}
}

// TestBuild builds an image twice, in two stores, and gets the same one. Then it is told to build what cannot be, and is
// interrupted; both change nothing.
func TestBuild(t *testing.T) {
	needMmdebstrap(t)
	r := Recipe{Name: "squashfs", Suite: "bookworm", Packages: []string{"squashfuse"}}
	s := Open(t.TempDir())
	if built, err := s.Built(r); err != nil || built {
		t.Errorf("before: built %v, %v", built, err)
	}
	var steps []string
	one, err := s.Build(t.Context(), r, func(step string) { steps = append(steps, step) })
	if err != nil {
		t.Fatal(err)
	}
	two, err := Open(t.TempDir()).Build(t.Context(), r, quiet)
	if err != nil {
		t.Fatal(err)
	}
	if one.Digest != two.Digest {
		t.Errorf("the same recipe made %s and %s", one.Digest, two.Digest)
	}
	checkLayout(t, s, one)
	if built, err := s.Built(r); err != nil || !built {
		t.Errorf("after: built %v, %v", built, err)
	}
	if built, err := s.Built(Recipe{Name: "squashfs", Suite: "bookworm", Packages: []string{"fuse2fs"}}); err != nil || built {
		t.Errorf("another recipe: built %v, %v", built, err)
	}
	if len(steps) < 5 || steps[0] != "reading package lists" || steps[len(steps)-1] != "storing" {
		t.Errorf("steps: %q", steps)
	}
	if !slices.ContainsFunc(one.Packages, func(p string) bool { return strings.HasPrefix(p, "squashfuse=") }) {
		t.Errorf("packages: %q", one.Packages)
	}
	for name, there := range map[string]bool{"usr/bin/squashfuse_ll": true, "usr/lib/locale/C.utf8": true, "etc/hostname": false, "var/lib/apt": false} {
		if _, err := os.Stat(one.Root + "/" + name); (err == nil) != there {
			t.Errorf("%s: %v", name, err)
		}
	}

	before := snapshot(t, s)
	_, err = s.Build(t.Context(), Recipe{Name: "squashfs", Suite: "bookworm", Packages: []string{"fsva-no-such-package"}}, quiet)
	if err == nil || err.Error() != `build image "squashfs": Debian bookworm has no package "fsva-no-such-package"` {
		t.Errorf("no such package: got %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	_, err = s.Build(ctx, Recipe{Name: "squashfs", Suite: "bookworm", Packages: []string{"sshfs"}}, func(step string) {
		if step == "downloading packages" {
			cancel()
		}
	})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("interrupted: got %v", err)
	}
	t.Setenv(MirrorEnv, "http://127.0.0.1:9/debian")
	_, err = s.Build(t.Context(), r, quiet)
	if err == nil || !strings.HasPrefix(err.Error(), `build image "squashfs": cannot fetch http://127.0.0.1:9/debian/`) || strings.Contains(err.Error(), "\n") {
		t.Errorf("no network: got %v", err)
	}
	if after := snapshot(t, s); after != before {
		t.Error("builds that failed changed the store")
	}
}

// TestBuildFullDisk builds in a state directory that is too small.
func TestBuildFullDisk(t *testing.T) {
	needMmdebstrap(t)
	s := Open(smallDisk(t, "size=64m"))
	mustImport(t, s, "a", fileOf(t, tarOf(t, file("f", "1"))), "")
	before := snapshot(t, s)
	_, err := s.Build(t.Context(), Recipe{Name: "a", Suite: "bookworm", Packages: []string{"sshfs"}}, quiet)
	if !errors.Is(err, unix.ENOSPC) {
		t.Errorf("got %v, want ENOSPC", err)
	}
	if after := snapshot(t, s); after != before {
		t.Error("the store has changed")
	}
}
