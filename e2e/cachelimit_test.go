// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"fsva/e2e/harness"
)

// cacheStat is what the test wants of fsva stat --json, by its documented names.
type cacheStat struct {
	CacheLimit *struct {
		Configured, Effective int64
		Watching, WatchError  string
	}
	Gofer *struct {
		Clients int
		Cache   *struct {
			Limit, Resident, Donated, Dirty int64
			Hits, Misses, Fills             uint64
			BytesFilled                     int64
			Evictions, Donations            uint64
		}
	}
	RPCs, FUSE map[string]struct {
		Requests uint64
		Latency  struct {
			Count, MaxNs uint64
			Buckets      [][2]uint64
		}
	}
}

func statOf(t *testing.T, v *harness.Volume) cacheStat {
	t.Helper()
	r := env.FSVA(t, "stat", v.Name, "--json")
	var s cacheStat
	if err := json.Unmarshal([]byte(r.Stdout), &s); err != nil || s.Gofer == nil || s.Gofer.Cache == nil || s.CacheLimit == nil {
		t.Fatalf("fsva stat --json: %v\n%s%s", err, r.Stdout, r.Stderr)
	}
	return s
}

// ctl sets the limit and returns what it printed.
func ctl(t *testing.T, v *harness.Volume, limit string) string {
	t.Helper()
	r := env.FSVA(t, "ctl", v.Name, "cache-limit", limit)
	if r.Code != 0 || r.Stderr != "" {
		t.Fatalf("fsva ctl: exit code %d\n%s%s", r.Code, r.Stdout, r.Stderr)
	}
	return r.Stdout
}

// randomImage makes a squashfs image of files called 0, 1, …, each of size random bytes, and returns its path. options are
// for mksquashfs.
func randomImage(t *testing.T, seed [32]byte, files int, size int64, options ...string) string {
	t.Helper()
	mk := harness.NeedCommand(t, "mksquashfs", "squashfs-tools")
	dir := env.TempDir(t)
	tree, img := filepath.Join(dir, "tree"), filepath.Join(dir, "img.squashfs")
	if err := os.Mkdir(tree, 0o755); err != nil {
		t.Fatal(err)
	}
	source := rand.NewChaCha8(seed)
	b := make([]byte, size)
	for i := range files {
		source.Read(b) // never fails
		if err := os.WriteFile(filepath.Join(tree, fmt.Sprint(i)), b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	harness.Must(t, append([]string{mk, tree, img, "-quiet", "-no-progress"}, options...)...)
	return img
}

// TestCacheLimit reads a volume that is larger than its cache, then makes the cache larger, and smaller again, while
// containers use it.
func TestCacheLimit(t *testing.T) {
	const (
		mib   = int64(1) << 20
		files = 8
		size  = 2 * mib
	)
	harness.NeedCommand(t, "squashfuse_ll", "squashfuse")
	d := env.Docker(t)
	img := randomImage(t, [32]byte{}, files, size)
	v := env.Serve(t, volumeName(t), "--appliance", "squashfs", "--source", img, "--cache-limit", "5M")

	readAll := func() { d.Shell(t, "cat /data/* | wc -c", v.Mount("/data")) }
	// idle waits until no container is attached any more, which the volume learns after docker run returns.
	idle := func() cacheStat {
		t.Helper()
		for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
			s := statOf(t, v)
			if s.Gofer.Clients == 0 {
				return s
			}
			if time.Now().After(deadline) {
				t.Fatalf("%d clients stay", s.Gofer.Clients)
			}
		}
	}

	readAll()
	small := idle()
	c := small.Gofer.Cache
	if small.CacheLimit.Configured != 5*mib || small.CacheLimit.Effective > 5*mib {
		t.Errorf("limit: %+v", small.CacheLimit)
	}
	if c.Resident > 5*mib || c.Evictions == 0 || c.BytesFilled < files*size || c.Fills == 0 || c.Hits+c.Misses == 0 || c.Dirty != 0 {
		t.Errorf("16 MiB read with a cache of 5 MiB: %+v", c)
	}
	for name, ops := range map[string]uint64{"OpenAt": small.RPCs["OpenAt"].Requests, "PRead": small.RPCs["PRead"].Requests, "READ": small.FUSE["READ"].Requests} {
		if ops == 0 {
			t.Errorf("no %s was counted", name)
		}
	}
	if l := small.FUSE["READ"].Latency; l.Count != small.FUSE["READ"].Requests || l.MaxNs == 0 || len(l.Buckets) == 0 {
		t.Errorf("latency of READ: %+v", l)
	}
	if l := small.CacheLimit; (l.Watching == "") == (l.WatchError == "") {
		t.Errorf("memory pressure: %+v", l)
	}

	if got := ctl(t, v, "64M"); !strings.HasPrefix(got, "cache limit 64 MiB") {
		t.Errorf("printed %q", got)
	}
	readAll()
	large := idle()
	if c := large.Gofer.Cache; c.Resident < files*size || c.Evictions != small.Gofer.Cache.Evictions {
		t.Errorf("16 MiB read with a cache of 64 MiB: %+v, before %+v", c, small.Gofer.Cache)
	}
	if large.RPCs["OpenAt"].Requests < small.RPCs["OpenAt"].Requests+files {
		t.Errorf("opens: %d, then %d", small.RPCs["OpenAt"].Requests, large.RPCs["OpenAt"].Requests)
	}

	// All of it is there, so it is handed out, and stays in the container's hands.
	running := d.Start(t, harness.Container{Mounts: []string{v.Mount("/data")}})
	running.Shell(t, "cat /data/* >/dev/null")
	if got := ctl(t, v, "1MiB"); !strings.HasPrefix(got, "cache limit 1 MiB; clients hold 16 MiB") {
		t.Errorf("printed %q", got)
	}
	if c := statOf(t, v).Gofer.Cache; c.Limit != mib || c.Donated < files*size || c.Resident < c.Donated {
		t.Errorf("a container holds all files: %+v", c)
	}
	running.Shell(t, "cmp /data/0 /data/0 && cat /data/7 >/dev/null")
	running.Stop(t)
	idle()
	if got := ctl(t, v, "2M"); got != "cache limit 2 MiB\n" {
		t.Errorf("printed %q", got)
	}
	after := statOf(t, v).Gofer.Cache
	if after.Resident > 2*mib || after.Donated != 0 || after.Evictions <= large.Gofer.Cache.Evictions {
		t.Errorf("after the container: %+v", after)
	}

	if r := env.FSVA(t, "stat", v.Name); !strings.Contains(r.Stdout, "cache limit: ") || !strings.Contains(r.Stdout, "RPCs of clients") {
		t.Errorf("fsva stat:\n%s%s", r.Stdout, r.Stderr)
	}
	ctl(t, v, "default")
	if l := statOf(t, v).CacheLimit; l.Configured <= 64*mib {
		t.Errorf("default limit: %+v", l)
	}
	for limit, code := range map[string]int{"2MB": 2, "0": 2, "-5": 2, "12": 2} {
		if r := env.FSVA(t, "ctl", v.Name, "cache-limit", limit); r.Code != code || strings.Count(r.Stderr, "\n") != 1 {
			t.Errorf("ctl %s: exit code %d, %q", limit, r.Code, r.Stderr)
		}
	}
}

// TestNoCacheToLimit is about a volume that keeps no file data.
func TestNoCacheToLimit(t *testing.T) {
	v := serve(t, volumeName(t), "mem")
	if r := env.FSVA(t, "ctl", v.Name, "cache-limit", "64M"); r.Code != 1 || !strings.Contains(r.Stderr, "no cache") || strings.Count(r.Stderr, "\n") != 1 {
		t.Errorf("exit code %d, %q", r.Code, r.Stderr)
	}
}
