// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"testing"

	"fsva/e2e/harness"
)

// TestKeptListings lists a directory of an FS server that says FOPEN_CACHE_DIR, where the sentry keeps no listing itself:
// the server is asked again after a change, and only then.
func TestKeptListings(t *testing.T) {
	d := env.Docker(t)
	_, flags := faultySource(t)
	v := env.Serve(t, volumeName(t), append(flags, "--coherence", "shared")...)
	mounts := []string{v.Mount("/data")}
	a, b := d.Start(t, harness.Container{Mounts: mounts}), d.Start(t, harness.Container{Mounts: mounts})
	a.Shell(t, "mkdir /data/dir; for i in 1 2 3; do echo $i >/data/dir/$i; done")
	list := func(c *harness.Running, want string, asks bool) {
		t.Helper()
		before := countRequests(t, v).FUSE
		if got := c.Shell(t, "ls /data/dir"); got != want {
			t.Errorf("the listing is %q, want %q", got, want)
		}
		after := countRequests(t, v).FUSE
		n := 0
		for _, op := range []string{"READDIR", "READDIRPLUS"} {
			n += after[op].Requests - before[op].Requests
		}
		if (n > 0) != asks {
			t.Errorf("%d requests to read the directory, want some: %v", n, asks)
		}
		if after["OPENDIR"].Requests == before["OPENDIR"].Requests {
			t.Error("the server was not asked to open the directory")
		}
	}
	list(a, "1\n2\n3\n", true)
	list(a, "1\n2\n3\n", false)
	list(b, "1\n2\n3\n", false)
	b.Shell(t, "rm /data/dir/2; echo 4 >/data/dir/4")
	list(a, "1\n3\n4\n", true)
	list(b, "1\n3\n4\n", false)
}
