// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package dirfs_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/hanwen/go-fuse/v2/fuse"
	"github.com/hanwen/go-fuse/v2/posixtest"
	"golang.org/x/sys/unix"

	"fsva/gofer/confine"
	"fsva/gofer/conformance"
	"fsva/gofer/inprocess"
)

// checksEnv makes the test binary run the checks in the directory that it names.
const checksEnv = "FSVA_TEST_CHECKS"

func TestMain(m *testing.M) {
	conformance.Helper()
	if dir := os.Getenv(checksEnv); dir != "" {
		out := json.NewEncoder(os.Stdout)
		_, err := conformance.Run(conformance.WriteChecks(), dir, false, func(o conformance.Outcome) {
			if err := out.Encode(o); err != nil {
				os.Exit(1)
			}
		})
		if err != nil {
			os.Exit(1)
		}
		os.Exit(0)
	}
	unix.Umask(0)
	if os.Getenv(confinedEnv) != "" {
		if err := errors.Join(confine.DropPrivileges(confine.FileCapabilities...), confine.InstallFilter(confine.Files)); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	os.Exit(m.Run())
}

// confinedEnv has TestMain give up what the gofer gives up.
const confinedEnv = "FSVA_TEST_CONFINED"

// TestConfined runs the tests that need no mount with the gofer's capabilities and
// system calls. One call too many kills the process.
func TestConfined(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	if os.Getenv(confinedEnv) != "" {
		t.Skip("this is that process")
	}
	cmd := exec.Command("/proc/self/exe", "-test.run=^Test(Unlinked|Removed|Owners|Symlinks|Replaced|Timeouts|Racing|Operations)")
	cmd.Env = append(os.Environ(), confinedEnv+"=1")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
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

// posixEnv gives TestPosixCases its directory.
const posixEnv = "FSVA_TEST_POSIX"

// TestPosix runs TestPosixCases on a mount, in a process of its own: if ours used
// the mount that it serves, a thread that waits for an answer where the Go runtime
// cannot stop it (execve, a page fault) would wait for ever once the garbage
// collector wants all threads to stop.
func TestPosix(t *testing.T) {
	cmd := exec.Command("/proc/self/exe", "-test.run=^TestPosixCases$", "-test.v")
	cmd.Env = append(os.Environ(), posixEnv+"="+kernelMount(t))
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	} else if n := bytes.Count(out, []byte("--- PASS: TestPosixCases/")); n < len(posixtest.All)-3 {
		t.Errorf("only %d cases passed\n%s", n, out) // some need a second mount or a kernel feature
	}
}

func TestPosixCases(t *testing.T) {
	base := os.Getenv(posixEnv)
	if base == "" {
		t.Skip("runs in a process started by TestPosix")
	}
	for name, fn := range posixtest.All {
		if name == "FcntlFlockLocksFile" {
			continue // it passes only where FUSE lock requests are served, which needs a frontend that sends them
		}
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(base, name)
			if err := os.Mkdir(dir, 0o755); err != nil {
				t.Fatal(err)
			}
			fn(t, dir)
		})
	}
}

// The checks run in a process of their own, too.
func TestConformance(t *testing.T) {
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), checksEnv+"="+kernelMount(t))
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("checks: %v\n%s", err, out)
	}
	n := 0
	for dec := json.NewDecoder(bytes.NewReader(out)); dec.More(); n++ {
		var o conformance.Outcome
		if err := dec.Decode(&o); err != nil {
			t.Fatal(err)
		}
		if o.Err != "" {
			t.Errorf("%s: %s", o.Name, o.Err)
		}
	}
	if want := len(conformance.WriteChecks()); n != want {
		t.Errorf("%d outcomes, want %d", n, want)
	}
}
