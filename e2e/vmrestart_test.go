// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"encoding/json"
	"testing"

	"golang.org/x/sys/unix"

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
	work := startChurn(g)
	for i := range 3 {
		work.passes(t, 5)
		before := stat()
		if before.Gofer == nil || before.Gofer.Guests != 1 || before.Gofer.WindowsUsed != 1 || before.Restarts != i {
			t.Fatalf("before the end of the gofer: %+v, %+v", before, before.Gofer)
		}
		if err := unix.Kill(before.GoferPID, unix.SIGKILL); err != nil {
			t.Fatal(err)
		}
	}
	work.passes(t, 5)
	work.stop(t)
	g.Shell(t, "umount /data")
}
