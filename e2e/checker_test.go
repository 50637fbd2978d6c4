// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"fsva/e2e/harness"
)

// checkerMode is one way to use a volume under load.
type checkerMode struct {
	name  string
	flags []string // of fsva serve, besides the source
	// containers share the volume; each runs so many processes of the checker.
	containers, processes int
	// medium makes the volume's source for a board and returns serve's flags for it, and the directory in which the
	// backing store is seen while the volume runs, or "".
	medium func(t *testing.T, c *checkerRun) (flags []string, backing string)
	// after returns a directory with the backing store's contents when the volume has stopped; nil: nothing changes.
	after func(t *testing.T, c *checkerRun) string
	// late has one more process change the backing store directly; such a change must be visible after this time.
	late time.Duration
	// lateServer: the FS server does that itself, and tells of it by notifications only.
	lateServer bool
	// mapWrites: mappings may be written. unmappable: mmap may fail with ENODEV.
	mapWrites, unmappable, readOnly bool
}

// behindTime is when changes from elsewhere must be visible: attributes are valid for a second (libfuse's default), the
// gofer compares them every second, and the machine may be busy.
const behindTime = 10 * time.Second

var checkerModes = []checkerMode{
	{name: "squashfs", flags: []string{"--appliance", "squashfs"}, containers: 3, processes: 2, medium: squashfsBoard, readOnly: true},
	{name: "ext4", flags: []string{"--appliance", "ext4"}, containers: 1, processes: 4, medium: ext4Board, after: ext4Tree, mapWrites: true},
	{name: "bindfs", flags: []string{"--appliance", "bindfs"}, containers: 1, processes: 4, medium: directoryBoard, after: directoryTree, mapWrites: true},
	{name: "bindfs-strict", flags: []string{"--appliance", "bindfs", "--strict-fsync"}, containers: 1, processes: 4, medium: directoryBoard,
		after: directoryTree, unmappable: true},
	{name: "bindfs-shared", flags: []string{"--appliance", "bindfs", "--coherence", "shared"}, containers: 3, processes: 2,
		medium: directoryBoard, after: directoryTree, late: behindTime, unmappable: true},
	{name: "ext4-writeback", flags: []string{"--appliance", "ext4", "--cache", "writeback"}, containers: 1, processes: 4,
		medium: ext4Board, after: ext4Tree, mapWrites: true},
	{name: "bindfs-writeback", flags: []string{"--appliance", "bindfs", "--cache", "writeback"}, containers: 1, processes: 4,
		medium: directoryBoard, after: directoryTree, mapWrites: true},
	{name: "notify", flags: []string{"--appliance", "notify", "--option", "bursts"}, containers: 1, processes: 4, medium: notifyBoard, after: directoryTree, mapWrites: true},
	{name: "notify-writeback", flags: []string{"--appliance", "notify", "--cache", "writeback", "--option", "bursts"}, containers: 1, processes: 4,
		medium: notifyBoard, after: directoryTree, mapWrites: true},
	{name: "notify-shared", flags: []string{"--appliance", "notify", "--coherence", "shared", "--option", "bursts"}, containers: 3, processes: 2,
		medium: notifyBoard, after: directoryTree, late: behindTime, lateServer: true, unmappable: true},
	{name: "notify-readonly", flags: []string{"--appliance", "notify", "--readonly", "--option", "bursts"}, containers: 3, processes: 2, medium: notifyBoard,
		readOnly: true},
}

// checkerRun is one run of the checker.
type checkerRun struct {
	checkerMode
	dir, board, tool string
	duration         time.Duration
	volume           *harness.Volume
	backing          string
}

// checkerDuration is how long each mode runs: FSVA_CHECKER_DURATION, or 30 s.
func checkerDuration(t *testing.T) time.Duration {
	text := os.Getenv("FSVA_CHECKER_DURATION")
	if text == "" {
		return 30 * time.Second
	}
	d, err := time.ParseDuration(text)
	if err != nil {
		t.Fatalf("FSVA_CHECKER_DURATION: %v", err)
	}
	return d
}

// checkerSeed is FSVA_CHECKER_SEED, or another number each time.
func checkerSeed(t *testing.T) uint64 {
	seed := uint64(time.Now().UnixNano())
	if text := os.Getenv("FSVA_CHECKER_SEED"); text != "" {
		var err error
		if seed, err = strconv.ParseUint(text, 10, 64); err != nil {
			t.Fatalf("FSVA_CHECKER_SEED: %v", err)
		}
	}
	t.Logf("FSVA_CHECKER_SEED=%d", seed)
	return seed
}

// TestChecker runs many processes that read and change files on a volume at random, with every mode that a volume has,
// while the cache's limit changes. The checker (package e2e/checker) knows what each byte must be. In the end, what the
// volume has stored is compared with that, too.
func TestChecker(t *testing.T) {
	env.Docker(t)
	t.Setenv("FSVA_IMAGES", notifyAppliance(t))
	for _, mode := range checkerModes {
		t.Run(mode.name, func(t *testing.T) {
			t.Parallel()
			c := startCheckerRun(t, mode, checkerDuration(t))
			found, did := c.run(t)
			if len(found) == 0 {
				did.worth(t, c)
				found = c.finish(t)
			}
			for _, f := range found {
				t.Error(f)
			}
		})
	}
}

// TestCheckerFinds runs the checker on an FS server that does something wrong now and then: it is found.
func TestCheckerFinds(t *testing.T) {
	env.Docker(t)
	t.Setenv("FSVA_IMAGES", notifyAppliance(t))
	for fault, modeName := range map[string]string{"flip": "notify", "lose": "notify-writeback", "tear": "notify", "silent": "notify-shared"} {
		t.Run(fault, func(t *testing.T) {
			t.Parallel()
			mode := checkerModes[slices.IndexFunc(checkerModes, func(m checkerMode) bool { return m.name == modeName })]
			mode.flags = append(slices.Clone(mode.flags), "--option", "fault="+fault)
			duration := 5 * time.Second
			if mode.lateServer { // several rounds
				duration, mode.late = 12*time.Second, 3*time.Second
			}
			c := startCheckerRun(t, mode, duration)
			found, _ := c.run(t)
			if len(found) == 0 {
				found = c.finish(t)
			}
			if !slices.ContainsFunc(found, func(f string) bool { return strings.Contains(f, "checker") }) {
				t.Errorf("nothing was found: %q", found)
			}
		})
	}
}

// startCheckerRun serves a volume for a mode.
func startCheckerRun(t *testing.T, mode checkerMode, duration time.Duration) *checkerRun {
	t.Helper()
	dir := env.TempDir(t)
	c := &checkerRun{checkerMode: mode, dir: dir, board: filepath.Join(dir, "board/board"), tool: env.Binary(t, "checker"), duration: duration}
	if err := os.Mkdir(filepath.Dir(c.board), 0o755); err != nil {
		t.Fatal(err)
	}
	late := 0
	if c.late > 0 {
		late = 1
	}
	args := []string{c.tool, "init", "-board", c.board, "-seed", fmt.Sprint(checkerSeed(t)),
		"-owners", fmt.Sprint(c.containers*c.processes + late), "-late", fmt.Sprint(late)}
	if c.readOnly {
		args = append(args, "-tree", directoryTree(t, c))
	}
	harness.Must(t, args...)
	flags, backing := c.medium(t, c)
	c.backing = backing
	c.volume = env.Serve(t, volumeName(t), append(flags, c.flags...)...)
	return c
}

// run runs the checker's processes to their end. It returns what they found, and what they did.
func (c *checkerRun) run(t *testing.T) (found []string, did checkerStats) {
	t.Helper()
	d := env.Docker(t)
	common := []string{"-duration", c.duration.String(), fmt.Sprintf("-map-writes=%v", c.mapWrites),
		fmt.Sprintf("-unmappable=%v", c.unmappable), fmt.Sprintf("-read-only=%v", c.readOnly)}
	timeout := c.duration + c.late + 5*time.Minute
	var wg sync.WaitGroup
	stats := checkerStats{}
	var mu sync.Mutex
	judge := func(who string, r harness.Result, err error) {
		mu.Lock()
		defer mu.Unlock()
		if err != nil {
			t.Error(err)
			return
		}
		if r.Code != 0 || r.Stderr != "" { // an owner tells what it did, even if another process has found the failure
			found = append(found, fmt.Sprintf("%s: exit code %d\n%s", who, r.Code, r.Stderr))
			return
		}
		stats.add(t, r.Stdout)
	}
	for i := range c.containers {
		wg.Go(func() {
			r, err := d.Try(harness.Container{
				Mounts:  []string{filepath.Dir(c.tool) + ":/tools:ro", filepath.Dir(c.board) + ":/board", c.volume.Mount("/data")},
				Timeout: timeout,
				Args: append([]string{"/tools/checker", "work", "-board", "/board/board", "-dir", "/data",
					"-from", fmt.Sprint(i * c.processes), "-to", fmt.Sprint((i + 1) * c.processes)}, common...),
			})
			judge(fmt.Sprintf("container %d", i), r, err)
		})
	}
	host := func(who string, args ...string) {
		wg.Go(func() {
			r, err := harness.Try(timeout, append([]string{c.tool, "work", "-board", c.board, "-dir", c.backing,
				"-duration", c.duration.String()}, args...)...)
			judge(who, r, err)
		})
	}
	owners := c.containers * c.processes
	if c.late > 0 && !c.lateServer {
		host("behind", "-from", fmt.Sprint(owners), "-to", fmt.Sprint(owners+1), "-readers", "0", "-late", c.late.String())
	}
	if c.backing != "" {
		host("backing store", "-from", "1000", "-to", "1001", "-readers", "1", "-peek")
	}
	done := make(chan struct{})
	go func() {
		wg.Wait()
		close(done)
	}()
	c.changeLimit(t, done)
	<-done
	t.Logf("%v", stats)
	return found, stats
}

// changeLimit changes the limit of the volume's cache every second, until done.
func (c *checkerRun) changeLimit(t *testing.T, done <-chan struct{}) {
	t.Helper()
	limits := []string{"1M", "64M", "4M", "default", "2M"}
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for i := 0; ; i++ {
		select {
		case <-done:
			return
		case <-tick.C:
		}
		if r := env.FSVA(t, "ctl", c.volume.Name, "cache-limit", limits[i%len(limits)]); r.Code != 0 {
			t.Errorf("fsva ctl: exit code %d\n%s%s", r.Code, r.Stdout, r.Stderr)
			return
		}
	}
}

// finish compares what a new container sees, and then the backing store, with the board. It returns what is wrong.
func (c *checkerRun) finish(t *testing.T) (found []string) {
	t.Helper()
	r := env.Docker(t).Run(t, harness.Container{
		Mounts:  []string{filepath.Dir(c.tool) + ":/tools:ro", filepath.Dir(c.board) + ":/board", c.volume.Mount("/data")},
		Timeout: 5 * time.Minute,
		Args: []string{"/tools/checker", "verify", "-board", "/board/board", "-dir", "/data", "-map", fmt.Sprintf("-unmappable=%v", c.unmappable),
			"-wait", (c.late + time.Minute).String()},
	})
	if r.Code != 0 {
		found = append(found, "in a new container: "+r.Stderr)
	}
	c.volume.Stop(t)
	if c.after == nil {
		return found
	}
	if r := harness.Run(t, 5*time.Minute, nil, c.tool, "verify", "-board", c.board, "-dir", c.after(t, c)); r.Code != 0 {
		found = append(found, "in the backing store: "+r.Stderr)
	}
	return found
}

// checkerStats adds up what the checker's processes did.
type checkerStats map[string]uint64

// add adds the lines that processes have printed.
func (s checkerStats) add(t *testing.T, lines string) {
	t.Helper()
	for line := range strings.Lines(lines) {
		var one map[string]uint64
		if err := json.Unmarshal([]byte(line), &one); err != nil {
			t.Errorf("the checker printed %q: %v", line, err)
			continue
		}
		for k, v := range one {
			s[k] += v
		}
	}
}

// worth verifies that a run did everything that its mode is about.
func (s checkerStats) worth(t *testing.T, c *checkerRun) {
	t.Helper()
	kinds := []string{"opens", "maps", "reads", "mapReads", "sizes", "listings", "exact", "faults"}
	if !c.readOnly {
		kinds = append(kinds, "writes", "truncates", "syncs", "names", "scratch", "inFlight")
	}
	if c.mapWrites {
		kinds = append(kinds, "mapWrites")
	}
	for _, k := range kinds {
		if s[k] == 0 {
			t.Errorf("no %s", k)
		}
	}
}

func squashfsBoard(t *testing.T, c *checkerRun) ([]string, string) {
	harness.NeedCommand(t, "squashfuse_ll", "squashfuse")
	mk := harness.NeedCommand(t, "mksquashfs", "squashfs-tools")
	img := filepath.Join(c.dir, "img")
	harness.Must(t, mk, directoryTree(t, c), img, "-quiet", "-no-progress")
	return []string{"--source", img}, ""
}

func ext4Board(t *testing.T, c *checkerRun) ([]string, string) {
	return ext4Source(t, c.dir, serverNamed(t, "ext4").tree).flags, ""
}

// ext4Tree unpacks the image, after a check of the file system.
func ext4Tree(t *testing.T, c *checkerRun) string {
	img, tree := filepath.Join(c.dir, "disk.ext4"), filepath.Join(c.dir, "unpacked")
	harness.Must(t, harness.NeedCommand(t, "e2fsck", "e2fsprogs"), "-fn", img)
	if err := os.Mkdir(tree, 0o755); err != nil {
		t.Fatal(err)
	}
	harness.Must(t, harness.NeedCommand(t, "debugfs", "e2fsprogs"), "-R", "rdump / "+tree, img)
	return tree
}

func directoryBoard(t *testing.T, c *checkerRun) ([]string, string) {
	harness.NeedCommand(t, "bindfs", "bindfs")
	dir := directoryTree(t, c)
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return []string{"--source", dir}, dir
}

// notifyBoard is a directory for the server that sends notifications. It sees the board, too.
func notifyBoard(t *testing.T, c *checkerRun) ([]string, string) {
	backing := directoryTree(t, c)
	if err := os.MkdirAll(backing, 0o755); err != nil {
		t.Fatal(err)
	}
	flags := []string{"--source", c.dir, "--option", "duration=" + c.duration.String()}
	if c.lateServer {
		flags = append(flags, "--option", "late="+c.late.String())
	}
	if c.readOnly {
		backing = ""
	}
	return flags, backing
}

// notifyAppliance makes an appliance of the checker's own FUSE server and returns the directory for FSVA_IMAGES.
func notifyAppliance(t *testing.T) string {
	t.Helper()
	dir := env.TempDir(t)
	root, image := filepath.Join(dir, "root"), filepath.Join(dir, "images/notify")
	for _, d := range []string{filepath.Join(root, "bin"), image} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	harness.Must(t, "cp", env.Binary(t, "checker"), filepath.Join(root, "bin/checker"))
	manifest := fmt.Sprintf(`name = "notify"
description = "a directory, with notifications"
command = ["/bin/checker", "serve", "-source", "${source}/backing", "-board", "${source}/board/board", "-mount", "${mountpoint}", "${options}"]
mount = "fd"
isolation = "process"
coherence = "exclusive"
source = "directory"
root = %q
capabilities = ["CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID"]

[[option]]
name = "fault"
description = "what to do wrong"
type = "string"
args = ["-fault=${value}"]

[[option]]
name = "bursts"
description = "many STOREs at once"
type = "bool"
args = ["-bursts"]

[[option]]
name = "late"
description = "change files, too"
type = "string"
args = ["-late=${value}"]

[[option]]
name = "duration"
description = "for how long"
type = "string"
args = ["-duration=${value}"]
`, root)
	if err := os.WriteFile(filepath.Join(image, "appliance.toml"), []byte(manifest), 0o644); err != nil {
		t.Fatal(err)
	}
	return filepath.Dir(image)
}

func directoryTree(_ *testing.T, c *checkerRun) string { return filepath.Join(c.dir, "backing") }
