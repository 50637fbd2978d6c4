// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"encoding/json"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"fsva/e2e/guest"
	"fsva/e2e/harness"
)

// TestVMGoferRestartOnHost kills the host's gofer under a guest on our vsock device, with a window: the device and the
// window outlive the gofer, and the guest's programs notice a pause only.
func TestVMGoferRestartOnHost(t *testing.T) {
	harness.NeedRoot(t)
	t.Parallel()
	volume, at := serveGuests(t, env.Tmpfs(t))
	w := wireNamed(t, "window")
	g := bootWith(t, w, w.host(at))
	type status struct {
		GoferPID, Restarts int
		Gofer              *struct{ Guests, Windows, WindowsUsed int }
	}
	stat := func() (s status) {
		t.Helper()
		r := env.FSVA(t, "stat", volume.Name, "--json")
		if err := json.Unmarshal([]byte(r.Stdout), &s); err != nil || r.Code != 0 {
			t.Fatalf("fsva stat --json: exit code %d, %v\n%s%s", r.Code, err, r.Stdout, r.Stderr)
		}
		return s
	}
	job := g.Start(guest.Command{Args: []string{"work", "churn", "/data", "/tmp/stop", "/tmp/progress"}, Timeout: 10 * time.Minute})
	// passes waits until the workload has done some more rounds.
	passes := func(rounds int) {
		t.Helper()
		first := -1
		for deadline := time.Now().Add(2 * time.Minute); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
			select {
			case <-job.Done():
				r, err := job.Wait()
				t.Fatalf("the workload has ended: %v\n%s%s", err, r.Stdout, r.Stderr)
			default:
			}
			r := g.Run(t, guest.Command{Args: []string{"cat", "/tmp/progress"}})
			n, err := strconv.Atoi(strings.TrimSpace(r.Stdout))
			if err == nil && first < 0 {
				first = n
			}
			if err == nil && n >= first+rounds {
				return
			}
		}
		t.Fatalf("the workload stands still; %+v", stat())
	}
	for i := range 3 {
		passes(5)
		before := stat()
		if before.Gofer == nil || before.Gofer.Guests != 1 || before.Gofer.WindowsUsed != 1 || before.Restarts != i {
			t.Fatalf("before the end of the gofer: %+v, %+v", before, before.Gofer)
		}
		if err := unix.Kill(before.GoferPID, unix.SIGKILL); err != nil {
			t.Fatal(err)
		}
	}
	passes(5)
	g.Shell(t, "touch /tmp/stop")
	if r, err := job.Wait(); err != nil || r.Code != 0 {
		t.Errorf("the workload: %v, exit code %d\n%s%s", err, r.Code, r.Stdout, r.Stderr)
	}
	g.Shell(t, "umount /data")
}
