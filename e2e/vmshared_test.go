// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"fsva/e2e/guest"
	"fsva/e2e/harness"
)

// TestVMShared has two guests, of different kinds, and a container on one shared volume: each sees what the others do.
func TestVMShared(t *testing.T) {
	harness.NeedRoot(t)
	d := env.Docker(t)
	dir := env.Tmpfs(t)
	volume, at := serveGuests(t, dir, "--coherence", "shared")

	// shell runs a script where /data is the volume, and returns its output, or that it failed.
	type shell func(script string) string
	inVM := func(w wire, s served) shell {
		g := bootWith(t, w, s)
		return func(script string) string {
			r, err := g.Try(guest.Command{Args: []string{"sh", "-ec", script}, Timeout: time.Minute})
			if err != nil || r.Code != 0 {
				return fmt.Sprintf("failed: %v %s%s", err, r.Stdout, r.Stderr)
			}
			return strings.TrimSpace(r.Stdout)
		}
	}
	sides := map[string]shell{}
	for _, name := range []string{"window", "virtiofs"} {
		w := wireNamed(t, name)
		sides[name] = inVM(w, w.host(at))
	}
	c := d.Start(t, harness.Container{Mounts: []string{volume.Mount("/data")}})
	sides["container"] = func(script string) string {
		r := c.Exec(t, "sh", "-ec", script)
		if r.Code != 0 {
			return "failed: " + r.Stdout + r.Stderr
		}
		return strings.TrimSpace(r.Stdout)
	}

	for writer, write := range sides {
		// Each line changes something; each other side then comes to see it.
		for _, step := range []struct{ change, look, want string }{
			{"mkdir /data/" + writer + "; echo one > /data/" + writer + "/file", "cat /data/" + writer + "/file", "one"},
			{"echo twotwo > /data/" + writer + "/file", "cat /data/" + writer + "/file", "twotwo"},
			{"echo more >> /data/" + writer + "/file", "wc -c < /data/" + writer + "/file", "12"},
			{"mv /data/" + writer + "/file /data/" + writer + "/other", "ls /data/" + writer, "other"},
			{"chmod 600 /data/" + writer + "/other", "stat -c %a /data/" + writer + "/other", "600"},
			{"rm -r /data/" + writer, "test -e /data/" + writer + " || echo gone", "gone"},
		} {
			if out := write(step.change); out != "" {
				t.Fatalf("%s: %s: %s", writer, step.change, out)
			}
			for reader, read := range sides {
				const patience = 10 * time.Second
				for deadline := time.Now().Add(patience); ; time.Sleep(50 * time.Millisecond) {
					got := read(step.look)
					if got == step.want {
						break
					}
					if time.Now().After(deadline) {
						t.Fatalf("%s: %s; %v later %s sees by %q: %q, want %q", writer, step.change, patience, reader, step.look, got, step.want)
					}
				}
			}
		}
	}
}
