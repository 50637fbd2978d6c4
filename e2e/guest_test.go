// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"bytes"
	"errors"
	"testing"
	"time"

	"fsva/e2e/guest"
	"fsva/e2e/guest/agent"
	"fsva/e2e/harness"
)

// TestGuest verifies what the other tests with virtual machines rely on: one boots, runs commands, takes and gives files,
// and is gone when it is killed.
func TestGuest(t *testing.T) {
	harness.NeedRoot(t)
	g := guest.Boot(t, env, guest.Config{Modules: []string{"fuse"}})
	t.Logf("Linux %s answers after %.1f s", g.Kernel(), g.Booted.Seconds())
	r := g.Run(t, guest.Command{Args: []string{"sh", "-c", "cat; uname -r; echo err >&2; exit 7"}, Stdin: []byte("in ")})
	if r.Code != 7 || r.Stdout != "in "+g.Kernel()+"\n" || r.Stderr != "err\n" {
		t.Errorf("got %+v", r)
	}
	content := bytes.Repeat([]byte("\x00\xff\n"), 100_000)
	g.Write(t, "/tmp/dir/file", content, 0o755)
	if !bytes.Equal(g.Read(t, "/tmp/dir/file"), content) {
		t.Error("the file comes back changed")
	}
	g.Shell(t, "test -c /dev/fuse; test -x /tmp/dir/file")
	job := g.Start(guest.Command{Args: []string{"sleep", "100"}, Timeout: 200 * time.Second})
	g.Kill(t)
	if _, err := job.Wait(); !errors.Is(err, agent.ErrGone) {
		t.Errorf("a command of a killed guest: %v", err)
	}
}
