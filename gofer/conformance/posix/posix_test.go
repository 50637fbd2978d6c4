// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

// Package posix carries go-fuse's posixtest cases into places without a Go toolchain:
//
//	CGO_ENABLED=0 go test -c -o posix.test ./gofer/conformance/posix
//	posix.test -test.v -dir /data
//
// Each case is a subtest of TestPosix on a fresh sub-directory. The file system under test is the peer; it is trusted
// to answer, not to answer correctly.
package posix

import (
	"flag"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/hanwen/go-fuse/v2/posixtest"
)

//bazel:tags manual

var dir = flag.String("dir", "", "directory to test; a temporary directory of the host if empty")

func TestPosix(t *testing.T) {
	root := *dir
	if root == "" {
		root = t.TempDir()
	} else if err := os.MkdirAll(root, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range slices.Sorted(maps.Keys(posixtest.All)) {
		t.Run(name, func(t *testing.T) {
			sub := filepath.Join(root, name)
			if err := os.Mkdir(sub, 0o755); err != nil {
				t.Fatal(err)
			}
			defer func() {
				if err := os.RemoveAll(sub); err != nil {
					t.Errorf("clean-up: %v", err)
				}
			}()
			posixtest.All[name](t, sub)
		})
	}
}
