// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package dirfs_test

import (
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"github.com/hanwen/go-fuse/v2/fuse"
	"github.com/hanwen/go-fuse/v2/posixtest"
	"golang.org/x/sys/unix"

	"fsva/gofer/conformance"
	"fsva/gofer/inprocess"
)

func TestMain(m *testing.M) {
	conformance.Helper()
	unix.Umask(0)
	os.Exit(m.Run())
}

// kernelMount mounts a fresh directory volume with the kernel's FUSE client and
// returns the mount point.
func kernelMount(t *testing.T) string {
	t.Helper()
	if _, err := os.Stat("/dev/fuse"); err != nil || os.Getuid() != 0 {
		t.Skip("needs root and /dev/fuse")
	}
	source, mnt := t.TempDir(), t.TempDir()
	// Other users come this way, too (TempDir's parent is its maker's only).
	if err := os.Chmod(filepath.Dir(mnt), 0o755); err != nil {
		t.Fatal(err)
	}
	raw, err := inprocess.Open("dir", source, inprocess.Options{Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	srv, err := fuse.NewServer(raw, mnt, &fuse.MountOptions{
		DirectMountStrict: true, FsName: "fsva-test", AllowOther: true, Options: []string{"default_permissions"},
	})
	if err != nil {
		t.Skipf("cannot mount: %v", err)
	}
	go srv.Serve()
	if err := srv.WaitMount(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := srv.Unmount(); err != nil {
			t.Errorf("unmount: %v", err)
		}
	})
	return mnt
}

func TestPosix(t *testing.T) {
	for name, fn := range posixtest.All {
		if name == "FcntlFlockLocksFile" {
			continue // it passes only where FUSE lock requests are served, which needs a frontend that sends them
		}
		t.Run(name, func(t *testing.T) { fn(t, kernelMount(t)) })
	}
}

func TestConformance(t *testing.T) {
	mnt := kernelMount(t)
	_, err := conformance.Run(conformance.WriteChecks(), mnt, false, func(o conformance.Outcome) {
		t.Run(o.Name, func(t *testing.T) {
			if o.Err != "" {
				t.Error(o.Err)
			}
		})
	})
	if err != nil {
		t.Fatal(err)
	}
}
