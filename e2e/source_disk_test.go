// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"path/filepath"
	"testing"

	"fsva/e2e/harness"
	"fsva/gofer/conformance"
)

func exfatSource(t *testing.T, dir string, _ conformance.Tree) source {
	server := harness.NeedCommand(t, "mount.exfat-fuse", "exfat-fuse")
	cc := harness.NeedCommand(t, "cc", "gcc")
	mk := harness.NeedCommand(t, "mkfs.exfat", "exfatprogs")
	img := filepath.Join(dir, "disk.exfat")
	if err := writeSized(img, 1<<30); err != nil {
		t.Fatal(err)
	}
	harness.Must(t, mk, img)
	preload := filepath.Join(dir, "fuseblk.so")
	harness.Must(t, cc, "-shared", "-fPIC", "-o", preload, filepath.Join(env.Root, "e2e/testdata/fuseblk.c"))
	return source{
		flags:  []string{"--source", img},
		native: []string{"env", "LD_PRELOAD=" + preload, server, img, "MNT"},
	}
}

func isoSource(t *testing.T, dir string, tree conformance.Tree) source {
	harness.NeedCommand(t, "fuseiso", "fuseiso")
	mk := harness.NeedCommand(t, "genisoimage", "genisoimage")
	img := filepath.Join(dir, "tree.iso")
	writeTree(t, filepath.Join(dir, "tree"), tree)
	harness.Must(t, mk, "-quiet", "-R", "-D", "-o", img, filepath.Join(dir, "tree"))
	return source{
		flags:  []string{"--source", img},
		native: []string{"fuseiso", "-n", img, "MNT", "-f", "-o", "allow_other,default_permissions"},
	}
}
