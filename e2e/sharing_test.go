// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"fsva/e2e/harness"
)

// mapEnv names a directory: this executable, run in a container with it, maps the directory's files (see mapFiles).
const mapEnv = "FSVA_E2E_MAP"

// mapFiles maps every file of dir, touches each page, prints how many bytes that were, and keeps them until it is killed.
func mapFiles(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	total, sum := 0, byte(0)
	for _, e := range entries {
		f, err := os.Open(filepath.Join(dir, e.Name()))
		if err != nil {
			return err
		}
		info, err := f.Stat()
		if err != nil {
			return err
		}
		data, err := unix.Mmap(int(f.Fd()), 0, int(info.Size()), unix.PROT_READ, unix.MAP_SHARED)
		if err != nil {
			return fmt.Errorf("map %s: %w", f.Name(), err)
		}
		for i := 0; i < len(data); i += os.Getpagesize() {
			sum += data[i]
		}
		total += len(data)
		if err := f.Close(); err != nil { // the mapping stays
			return err
		}
	}
	if _, err := fmt.Println("mapped", total, "bytes, sum", sum); err != nil {
		return err
	}
	for {
		if err := unix.Pause(); err != unix.EINTR {
			return err
		}
	}
}

// TestSharing has sandboxes map all of one read-only volume and looks at the memory of the machine: the data must be there
// once, however many there are.
func TestSharing(t *testing.T) {
	const (
		mib       = int64(1) << 20
		files     = 4
		size      = 50 * mib
		data      = files * size
		sandboxes = 8
		// own is more than what a sandbox needs for itself, and less than a copy of the data.
		own = data / 2
	)
	harness.NeedCommand(t, "squashfuse_ll", "squashfuse")
	d := env.Docker(t)
	img := randomImage(t, [32]byte{1}, files, size, "-noD", "-noF", "-no-xattrs")
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	v := env.Serve(t, volumeName(t), "--appliance", "squashfs", "--source", img, "--cache-limit", "512M")

	// state is what the machine has in memory because of the volume and its sandboxes.
	type state struct {
		regions  int64          // the memory of all regions
		volume   harness.Memory // supervisor, gofer, FS server
		sandbox  harness.Memory // the sandboxes together
		smallest int64          // region RSS of the sandbox that has least
	}
	var running []*harness.Running
	measure := func() state {
		t.Helper()
		procs := v.Processes()
		s := state{volume: harness.MemoryOf(t, procs...), smallest: data}
		for _, r := range running {
			own := r.Processes(t)
			m := harness.MemoryOf(t, own...)
			s.sandbox.Add(m)
			s.smallest = min(s.smallest, m.RegionRSS)
			procs = append(procs, own...)
		}
		s.regions = harness.RegionMemory(t, procs...)
		t.Logf("%d sandboxes: regions %d MiB, their PSS %d MiB (RSS %d MiB); whole PSS: sandboxes %d MiB, volume %d MiB", len(running),
			s.regions/mib, (s.sandbox.RegionPSS+s.volume.RegionPSS)/mib, s.sandbox.RegionRSS/mib, s.sandbox.PSS/mib, s.volume.PSS/mib)
		return s
	}
	start := func() {
		t.Helper()
		r := d.Start(t, harness.Container{Mounts: []string{v.Mount("/data") + ":ro", self + ":/t/map:ro"}})
		running = append(running, r)
		out := r.Shell(t, `mkfifo /tmp/said
			`+mapEnv+`=/data /t/map >/tmp/said 2>&1 & head -n 1 /tmp/said`)
		if !strings.HasPrefix(out, fmt.Sprint("mapped ", data, " bytes")) {
			t.Fatalf("the container says %q", out)
		}
	}

	// Whoever opens a large file before the gofer has all of it may get no descriptor, and then keeps a copy of its own.
	d.Shell(t, "cat /data/* >/dev/null", v.Mount("/data")+":ro")
	start()
	one := measure()
	for len(running) < sandboxes {
		start()
	}
	many := measure()

	if one.regions < data || one.sandbox.RegionPSS < data {
		t.Errorf("one sandbox maps %d of %d bytes of regions, of which %d are in memory", one.sandbox.RegionPSS, data, one.regions)
	}
	if many.smallest < data {
		t.Errorf("a sandbox maps %d of %d bytes", many.smallest, data)
	}
	for _, m := range []struct {
		what      string
		one, many int64
	}{
		{"memory of the regions", one.regions, many.regions},
		{"PSS of mapped regions", one.sandbox.RegionPSS + one.volume.RegionPSS, many.sandbox.RegionPSS + many.volume.RegionPSS},
	} {
		if m.many*10 > m.one*11 {
			t.Errorf("%s: %d bytes for one sandbox, %d for %d", m.what, m.one, m.many, sandboxes)
		}
	}
	// Nor is there a copy elsewhere.
	if each := (many.sandbox.PSS - many.sandbox.RegionPSS) / sandboxes; each > own {
		t.Errorf("each of %d sandboxes has %d bytes besides the regions", sandboxes, each)
	}
	if many.volume.PSS > one.volume.PSS+own {
		t.Errorf("the volume's processes grew from %d to %d bytes", one.volume.PSS, many.volume.PSS)
	}
}
