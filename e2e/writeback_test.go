// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"testing"
	"time"

	"fsva/e2e/harness"
)

// TestWriteBack runs workloads on volumes whose writes wait in the gofer, and looks for what they left when the volume
// is served again: a stop loses nothing.
func TestWriteBack(t *testing.T) {
	d := env.Docker(t)
	for _, appliance := range []string{"ext4", "bindfs", "mem"} {
		t.Run(appliance, func(t *testing.T) {
			t.Parallel()
			harness.NeedRoot(t)
			s := serverNamed(t, appliance)
			flags := append([]string{"--appliance", appliance}, s.source(t, env.TempDir(t), s.tree).flags...)
			v := env.Serve(t, volumeName(t), append(flags, "--cache", "writeback")...)
			in := env.TempDir(t)
			run := func(t *testing.T, timeout time.Duration, script string) string {
				t.Helper()
				return d.Must(t, harness.Container{
					Image: harness.ImageHost, Mounts: []string{harness.MountUsr, in + ":/in:ro", v.Mount("/data")},
					Env: []string{"HOME=/root", "PATH=/usr/bin:/bin"}, Workdir: "/data", Timeout: timeout,
					Args: []string{"sh", "-ec", script},
				})
			}
			t.Run("git", func(t *testing.T) { workGit(t, in, run) })
			t.Run("tar", func(t *testing.T) { workTar(t, in, run) })
			t.Run("sqlite", func(t *testing.T) { workSQLite(t, run) })
			// Nothing waits for this but the end of the container: it is killed.
			run(t, 2*time.Minute, "mkdir kept; cd kept; tar xzf /in/tree.tar.gz")
			if appliance == "mem" {
				return // it is gone with the volume
			}
			v.Stop(t)
			v = env.Serve(t, volumeName(t)+"-again", flags...)
			out := run(t, 2*time.Minute, `
				(cd kept; sha256sum --quiet -c /in/sums; find . -type f | wc -l)
				git -c safe.directory='*' -C clone fsck --full --strict 2>&1
				for db in delete.db wal.db; do sqlite3 $db 'pragma integrity_check; select count(*) from t'; done`)
			if want := "5000\nok\n172\nok\n172\n"; out != want {
				t.Errorf("after the restart: output %q, want %q", out, want)
			}
		})
	}
}
