// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"fsva/e2e/harness"
)

// syncModes are the ways to use a volume that differ in what sync tells; the columns of syncErrors.
var syncModes = []struct {
	name  string
	flags []string
}{
	{"strict", []string{"--strict-fsync"}},
	{"strict-writeback", []string{"--strict-fsync", "--cache", "writeback"}},
	{"shared", []string{"--coherence", "shared"}},
	{"exclusive", nil},
	{"exclusive-writeback", []string{"--cache", "writeback"}},
}

// syncErrors is what the probe of e2e/faulty prints, line by line: the same in each mode, or one word for each.
var syncErrors = []struct{ step, want string }{
	{"fsync: write", "ok"},
	{"fsync: fsync", "EIO EIO EIO ok ok"},
	{"fsync: fdatasync", "EIO EIO EIO ok ok"},
	{"fsync: write, healed", "ok ok ok EIO EIO"},
	{"fsync: second write", "ok"},
	{"fsync: fsync, healed", "ok"},
	{"fsync: fdatasync, healed", "ok"},
	{"fsync: close", "ok"},
	{"close after fsync: write", "ok"},
	{"close after fsync: fsync", "EIO EIO EIO ok ok"},
	{"close after fsync: close", "ok ok ok EIO EIO"},
	{"close after fsync: stored", "ok"},
	{"O_SYNC: O_SYNC write", "EIO EIO EIO ok ok"},
	{"O_SYNC: O_SYNC close", "ok ok ok EIO EIO"},
	{"O_SYNC: O_SYNC write, healed", "ok"},
	{"O_SYNC: stored", "ok"},
	{"O_SYNC: O_SYNC close, healed", "ok"},
	{"O_SYNC: O_DSYNC write", "EIO EIO EIO ok ok"},
	{"O_SYNC: O_DSYNC close", "ok ok ok EIO EIO"},
	{"O_SYNC: O_DSYNC write, healed", "ok"},
	{"O_SYNC: stored", "ok"},
	{"O_SYNC: O_DSYNC close, healed", "ok"},
	{"syncfs: write", "ok"},
	{"syncfs: syncfs", "EIO EIO EIO ok ok"},
	{"syncfs: close", "ok ok ok EIO EIO"},
	{"syncfs: stored", "ok"},
	{"write: write", "ENOSPC ok ENOSPC ENOSPC ok"},
	{"write: fsync", "ok ENOSPC ok ok ok"},
	{"write: fsync, still failing", "ok ENOSPC ok ok ok"},
	{"write: fsync, healed", "ok"},
	{"write: write, healed", "ok ok ok ok ENOSPC"},
	{"write: second fsync, healed", "ok"},
	{"write: stored", "ok"},
	{"write: content", `"two" "one-two" "two" "two" "one-"`},
	{"write: close", "ok"},
	{"close: write", "ENOSPC ok ENOSPC ENOSPC ok"},
	{"close: close", "ok ENOSPC ok ok ENOSPC"},
	{"close: fsync, healed", "ok ENOSPC ok ok ok"},
	{"close: second fsync, healed", "ok"},
	{"close: stored", "ok"},
	{"close: size", "0 4 0 0 4"},
	{"close: second close", "ok"},
	{"flush: write", "ok"},
	{"flush: close", "EIO"},
	{"flush: stored", "ok"},
	{"two files, WRITE fails: a write", "ENOSPC ok ENOSPC ENOSPC ok"},
	{"two files, WRITE fails: a fsync", "ok ENOSPC ok ok ok"},
	{"two files, WRITE fails: c fsync, healed", "ok"},
	{"two files, WRITE fails: b fsync, healed", "ok ENOSPC ok ok ok"},
	{"two files, WRITE fails: b second fsync", "ok"},
	{"two files, WRITE fails: a second fsync", "ok"},
	{"two files, WRITE fails: close", "ok ok ok ok ENOSPC"},
	{"two files, WRITE fails: close", "ok"},
	{"two files, WRITE fails: close", "ok"},
	{"two files, FSYNC fails: a write", "ok"},
	{"two files, FSYNC fails: a fsync", "EIO EIO EIO ok ok"},
	{"two files, FSYNC fails: c fsync, healed", "ok"},
	{"two files, FSYNC fails: b fsync, healed", "ok EIO ok ok ok"},
	{"two files, FSYNC fails: b second fsync", "ok"},
	{"two files, FSYNC fails: a second fsync", "ok"},
	{"two files, FSYNC fails: close", "ok ok ok EIO EIO"},
	{"two files, FSYNC fails: close", "ok"},
	{"two files, FSYNC fails: close", "ok"},
	{"read-only file: write", "ok"},
	{"read-only file: fsync", "ok"},
	{"read-only file: close", "ok"},
	{"read-only file: close of the writer", "ok ok ok EIO EIO"},
	{"read-only file: stored", "ok"},
	{"map: shared", "ok"},
	{"map: private", "ok"},
	{"map: of a writable file, shared", "ENODEV ENODEV ENODEV ok ok"},
	{"map: of a writable file, private", "ENODEV ENODEV ENODEV ok ok"},
	{"map: writable, shared", "ENODEV ENODEV ENODEV ok ok"},
	{"map: all show write 1", "ok"},
	{"map: all show write 2", "ok"},
	{"map: all show write 3", "ok"},
	{"map: close", "ok"},
}

// faultySource makes an appliance of e2e/faulty's server and a source for it.
func faultySource(t *testing.T) (source string, flags []string) {
	t.Helper()
	harness.NeedRoot(t)
	dir := env.TempDir(t)
	root, images := filepath.Join(dir, "root"), filepath.Join(dir, "images")
	source = filepath.Join(dir, "source")
	for _, d := range []string{root, filepath.Join(images, "faulty"), filepath.Join(source, "tree")} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	program, err := os.ReadFile(env.Binary(t, "faulty"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(root, "faulty"), program, 0o755); err != nil {
		t.Fatal(err)
	}
	manifest := fmt.Sprintf(`name = "faulty"
description = "a directory that fails on demand"
command = ["/faulty", "serve", "${source}", "${mountpoint}"]
mount = "fd"
isolation = "process"
coherence = "exclusive"
source = "directory"
root = %q
`, root)
	if err := os.WriteFile(filepath.Join(images, "faulty", "appliance.toml"), []byte(manifest), 0o644); err != nil {
		t.Fatal(err)
	}
	t.Setenv("FSVA_IMAGES", images)
	return source, []string{"--appliance", "faulty", "--source", source}
}

// TestSyncErrors has an FS server fail at WRITE, FSYNC and FLUSH, and looks at what an application gets to know of it,
// when, and whether what it is told is safe is where it should be.
func TestSyncErrors(t *testing.T) {
	d := env.Docker(t)
	for column, mode := range syncModes {
		t.Run(mode.name, func(t *testing.T) {
			source, flags := faultySource(t)
			v := env.Serve(t, volumeName(t), append(flags, mode.flags...)...)
			out := d.Must(t, harness.Container{
				Mounts: []string{filepath.Dir(env.Binary(t, "faulty")) + ":/tools:ro", source + ":/source", v.Mount("/data")},
				Args:   []string{"/tools/faulty", "probe", "/data", "/source"},
			})
			lines := strings.Split(strings.TrimSuffix(out, "\n"), "\n")
			if len(lines) != len(syncErrors) {
				t.Fatalf("%d lines, want %d:\n%s", len(lines), len(syncErrors), out)
			}
			for i, e := range syncErrors {
				want := strings.Fields(e.want)
				if line := e.step + ": " + want[column%len(want)]; lines[i] != line {
					t.Errorf("%q, want %q", lines[i], line)
				}
			}
		})
	}
}

// requestCounts are the numbers of requests that a volume has had.
type requestCounts struct {
	RPCs, FUSE map[string]struct{ Requests int }
}

func countRequests(t *testing.T, v *harness.Volume) (c requestCounts) {
	t.Helper()
	r := env.FSVA(t, "stat", v.Name, "--json")
	if err := json.Unmarshal([]byte(r.Stdout), &c); err != nil || c.FUSE == nil {
		t.Fatalf("fsva stat --json: %v\n%s%s", err, r.Stdout, r.Stderr)
	}
	return c
}

// TestSyncRequests verifies that each open, write, sync and close of an application is a request of its own where
// sandboxes do not share file handles, which is what makes the result its own. Where they do, a sync is two: for the
// handle that is read from, and the one that is written to.
func TestSyncRequests(t *testing.T) {
	d := env.Docker(t)
	// What e2e/faulty's count does.
	apart := map[string]int{"OpenCreateAt": 1, "OpenAt": 2, "PWrite": 4, "FSync": 4, "Flush": 2, "Close": 3}
	sharing := map[string]int{"OpenCreateAt": 1, "OpenAt": 0, "PWrite": 4, "FSync": 8, "Flush": 2, "Close": 0}
	for _, mode := range syncModes {
		t.Run(mode.name, func(t *testing.T) {
			_, flags := faultySource(t)
			v := env.Serve(t, volumeName(t), append(flags, mode.flags...)...)
			c := d.Start(t, harness.Container{
				Mounts: []string{filepath.Dir(env.Binary(t, "faulty")) + ":/tools:ro", v.Mount("/data")},
			})
			before := countRequests(t, v)
			if r := c.Exec(t, "/tools/faulty", "count", "/data"); r.Code != 0 {
				t.Fatalf("exit code %d: %s%s", r.Code, r.Stdout, r.Stderr)
			}
			after := countRequests(t, v)
			want := apart
			if strings.HasPrefix(mode.name, "exclusive") {
				want = sharing
			}
			for name, n := range want {
				if got := after.RPCs[name].Requests - before.RPCs[name].Requests; got != n {
					t.Errorf("%d %s RPCs, want %d", got, name, n)
				}
			}
			for name, n := range map[string]int{"WRITE": 4, "FSYNC": want["FSync"], "FLUSH": 2} {
				if got := after.FUSE[name].Requests - before.FUSE[name].Requests; got != n {
					t.Errorf("%d %s requests to the FS server, want %d", got, name, n)
				}
			}
		})
	}
}
