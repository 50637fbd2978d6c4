// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"archive/tar"
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"fsva/e2e/harness"
	"fsva/gofer/entrycache"
	"fsva/gofer/regions"
)

// A scale tree has directories of so many files, and one command walks so many directories.
const (
	scaleDir   = 250
	scaleChunk = 40
)

// scaleFile returns the name of a file of a scale tree, which is also what is in it.
func scaleFile(i int) string { return fmt.Sprintf("%04d/%03d", i/scaleDir, i%scaleDir) }

// scaleImage makes a squashfs image of a scale tree, without making the tree: 1,000,000 files take 20 s.
func scaleImage(t *testing.T, files int) string {
	t.Helper()
	mk := harness.NeedCommand(t, "mksquashfs", "squashfs-tools")
	img := filepath.Join(env.TempDir(t), "img.squashfs")
	cmd := exec.Command(mk, "-", img, "-tar", "-quiet", "-no-progress", "-no-duplicates")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	var said strings.Builder
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	werr := writeScaleTree(in, files)
	if err := errors.Join(cmd.Wait(), werr); err != nil {
		t.Fatalf("mksquashfs: %v\n%s", err, said.String())
	}
	return img
}

// writeScaleTree writes a scale tree as a tar archive, and closes w.
func writeScaleTree(w io.WriteCloser, files int) error {
	buffered := bufio.NewWriterSize(w, 1<<20)
	archive := tar.NewWriter(buffered)
	for i := range files {
		name := scaleFile(i)
		if i%scaleDir == 0 {
			if err := archive.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: filepath.Dir(name) + "/", Mode: 0o755}); err != nil {
				return errors.Join(err, w.Close())
			}
		}
		if err := archive.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(name))}); err != nil {
			return errors.Join(err, w.Close())
		}
		if _, err := io.WriteString(archive, name); err != nil {
			return errors.Join(err, w.Close())
		}
	}
	return errors.Join(archive.Close(), buffered.Flush(), w.Close())
}

// footprint is what a volume and its only sandbox take.
type footprint struct {
	gofer, sentry       harness.Memory
	goferFDs, sentryFDs int
	stat                cacheStat
}

func (f footprint) String() string {
	mib := func(n int64) float64 { return float64(n) / (1 << 20) }
	return fmt.Sprintf("gofer RSS %.1f MiB (heap %.1f), %d descriptors; sentry RSS %.1f MiB (heap %.1f), %d descriptors; cache %.1f MiB",
		mib(f.gofer.RSS), mib(f.gofer.Anonymous), f.goferFDs, mib(f.sentry.RSS), mib(f.sentry.Anonymous), f.sentryFDs, mib(f.stat.Gofer.Cache.Resident))
}

const (
	// maxGoferHeap is more than all that the gofer may remember of files: the names in its entry cache and in listings,
	// the files in its buffer cache and those that a sandbox remembers, once more as much for the garbage collector, and
	// buffers for reads under way.
	maxGoferHeap = 2*(entrycache.DefaultMaxEntries*500+64<<10*200+regions.DefaultMaxFiles*700+20_000*1500) + 64<<20
	// maxSentryHeap is that of the sentry, besides its table of inode numbers: dentries, with garbage.
	maxSentryHeap = 2*20_000*4096 + 32<<20
	// sentryGrowth is what a file adds to that table, which gVisor never shortens, with garbage.
	sentryGrowth = 200
	// goferSlack is how far the gofer's heap, garbage included, may be from where it was.
	goferSlack = 64 << 20
)

// TestScale walks volumes of many files, and looks at what the gofer and the sentry keep of them: no more than their
// caches are meant to, however many files there are. And that a second pass over 5,000 files asks the gofer nothing.
//
// FSVA_SCALE_FILES adds 100,000 files, which takes a minute, and a size of its own; with 1000000 that takes up to 20 min.
// scripts/soak does so.
func TestScale(t *testing.T) {
	harness.NeedCommand(t, "squashfuse_ll", "squashfuse")
	sizes := []int{5_000}
	if text := os.Getenv("FSVA_SCALE_FILES"); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil || n < scaleDir {
			t.Fatalf("FSVA_SCALE_FILES: %q is no number of files", text)
		}
		sizes = append(sizes, 100_000, n)
	}
	for _, files := range sizes {
		t.Run(strconv.Itoa(files), func(t *testing.T) { testScale(t, files/scaleDir*scaleDir) })
	}
}

func testScale(t *testing.T, files int) {
	d := env.Docker(t)
	img := scaleImage(t, files)
	flags := []string{"--appliance", "squashfs", "--source", img}
	if files > 100_000 {
		flags = append(flags, "--cache-limit", "64M") // data comes and goes, too
	}
	v := env.Serve(t, volumeName(t), flags...)
	running := d.Start(t, harness.Container{Mounts: []string{v.Mount("/data")}})
	measure := func() footprint {
		t.Helper()
		gofer, sentry := v.Gofer(t), running.Sentry(t)
		f := footprint{gofer: harness.MemoryOf(t, gofer), sentry: harness.MemoryOf(t, sentry), stat: statOf(t, v)}
		f.goferFDs, f.sentryFDs = countFDs(t, gofer), countFDs(t, sentry)
		return f
	}
	// pass runs a busybox command, of which $d are the directories, on files from first on, and checks what comes of it.
	pass := func(first, last int, command string, wantEach int) {
		t.Helper()
		for ; first < last; first += scaleChunk * scaleDir {
			end := min(first+scaleChunk*scaleDir, last)
			var dirs []string
			for i := first; i < end; i += scaleDir {
				dirs = append(dirs, filepath.Dir(scaleFile(i)))
			}
			got := running.Shell(t, fmt.Sprintf("cd /data; d='%s'; %s", strings.Join(dirs, " "), command))
			if got = strings.TrimSpace(got); got != strconv.Itoa((end-first)*wantEach) {
				t.Fatalf("%s on files %d to %d: got %s, want %d for each", command, first, end, got, wantEach)
			}
		}
	}
	stat := func(first, last int) { pass(first, last, "find $d -type f -size -2 | wc -l", 1) }
	cat := func(first, last int) { pass(first, last, "for i in $d; do cat $i/*; done | wc -c", len(scaleFile(0))) }

	before := measure()
	t.Logf("before: %v", before)
	stat(0, files)
	t.Logf("after find and stat: %v", measure())
	cat(0, files/2)
	half := measure()
	t.Logf("after cat of the first half: %v", half)
	cat(files/2, files)
	after := measure()
	t.Logf("after cat of all: %v", after)
	t.Logf("for each file: gofer %d bytes, sentry %d bytes of heap", (after.gofer.Anonymous-before.gofer.Anonymous)/int64(files),
		(after.sentry.Anonymous-before.sentry.Anonymous)/int64(files))

	if after.gofer.Anonymous > maxGoferHeap {
		t.Errorf("the gofer's heap has %d bytes, more than %d", after.gofer.Anonymous, int64(maxGoferHeap))
	}
	if most := int64(maxSentryHeap + files*sentryGrowth); after.sentry.Anonymous > most {
		t.Errorf("the sentry's heap has %d bytes, more than %d", after.sentry.Anonymous, most)
	}
	if files/2 > 2*entrycache.DefaultMaxEntries { // the caches were full half-way
		if grown := after.gofer.Anonymous - half.gofer.Anonymous; grown > goferSlack {
			t.Errorf("the gofer's heap grew by %d bytes in the second half", grown)
		}
	}
	if c := after.stat.Gofer.Cache; c.Resident > c.Limit {
		t.Errorf("the cache holds %d bytes, more than %d", c.Resident, c.Limit)
	}
	for name, p := range map[string]struct {
		proc harness.Proc
		fds  int
	}{"gofer": {v.Gofer(t), after.goferFDs}, "sentry": {running.Sentry(t), after.sentryFDs}} {
		if most := fileLimit(t, p.proc) * 3 / 4; p.fds > most {
			t.Errorf("the %s has %d descriptors open, more than %d", name, p.fds, most)
		}
	}

	const again = 5000
	cat(0, again)
	second := requestsBetween(after.stat, measure().stat)
	t.Logf("requests of the sandbox for %d files again: %v", again, second)
	if files > again { // they are not remembered any more: one walk, one open with the data
		if n := second["Walk"] + second["OpenAt"]; n > again*5/2 || second["PRead"] > again/100 {
			t.Errorf("%d files again: %v", again, second)
		}
		return
	}
	for _, name := range []string{"Walk", "WalkStat", "FStat", "OpenAt", "PRead", "Getdents64"} {
		if second[name] > 0 {
			t.Errorf("%d files again: %d requests %s", again, second[name], name)
		}
	}
}

// fileLimit returns how many files a process may have open.
func fileLimit(t *testing.T, p harness.Proc) int {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/limits", p.PID))
	if err != nil {
		t.Fatal(err)
	}
	_, after, _ := strings.Cut(string(text), "Max open files")
	soft, _, _ := strings.Cut(strings.TrimSpace(after), " ")
	n, err := strconv.Atoi(soft)
	if err != nil {
		t.Fatalf("limits of %v: %v", p, err)
	}
	return n
}

// requestsBetween returns the requests of sandboxes, by name.
func requestsBetween(before, after cacheStat) map[string]uint64 {
	all := map[string]uint64{}
	for name, ops := range after.RPCs {
		if n := ops.Requests - before.RPCs[name].Requests; n > 0 {
			all[name] = n
		}
	}
	return all
}

func countFDs(t *testing.T, p harness.Proc) int {
	t.Helper()
	fds, err := harness.FDs(p.PID)
	if err != nil {
		t.Fatal(err)
	}
	return len(fds)
}
