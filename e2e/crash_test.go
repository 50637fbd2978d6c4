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
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"fsva/e2e/harness"
)

// TestFsyncSurvivesCrash writes records in a container, in several ways, and kills the gofer and the FS server at any
// moment. Every record whose fsync had returned by then is in the backing store; also when the volume is served again.
//
// An fsync that is under way at that moment is another matter. On a strict-fsync volume it fails, so all that ever
// returned counts. Otherwise the sentry hides its error (docs/limits.md), so only what returned before counts.
func TestFsyncSurvivesCrash(t *testing.T) {
	env.Docker(t)
	for _, appliance := range []string{"bindfs", "ext4"} {
		for mode, flags := range map[string][]string{
			"through": nil, "back": {"--cache", "writeback"}, "strict": {"--cache", "writeback", "--strict-fsync"},
		} {
			for _, first := range []string{"gofer", "server"} {
				t.Run(fmt.Sprintf("%s/%s/%s", appliance, mode, first), func(t *testing.T) {
					t.Parallel()
					crash(t, appliance, flags, first)
				})
			}
		}
	}
}

// crash kills a volume while records are written, the gofer or the server first.
func crash(t *testing.T, appliance string, flags []string, first string) {
	d := env.Docker(t)
	c := &checkerRun{dir: env.TempDir(t), tool: env.Binary(t, "checker")}
	medium, contents := directoryBoard, directoryTree
	if appliance == "ext4" {
		medium, contents = ext4Board, ext4Tree
	}
	notes := filepath.Join(c.dir, "notes")
	if err := os.Mkdir(notes, 0o755); err != nil {
		t.Fatal(err)
	}
	mediumFlags, _ := medium(t, c)
	strict := slices.Contains(flags, "--strict-fsync")
	flags = slices.Concat([]string{"--appliance", appliance}, mediumFlags, flags)
	v := env.Serve(t, volumeName(t), flags...)
	container := func(v *harness.Volume, args ...string) harness.Container {
		return harness.Container{
			Mounts:  []string{filepath.Dir(c.tool) + ":/tools:ro", notes + ":/notes", v.Mount("/data")},
			Args:    append([]string{"/tools/checker", "records", "-dir", "/data"}, args...),
			Timeout: 3 * time.Minute,
		}
	}
	var r harness.Result
	var runErr error
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		r, runErr = d.Try(container(v, "-acked", "/notes/all", "-started", "/notes/started", fmt.Sprintf("-mapped=%v", !strict)))
	}()
	awaitFile(t, filepath.Join(notes, "started"), time.Minute)
	time.Sleep(rand.N(2 * time.Second)) // any moment will do
	all := filepath.Join(notes, "all")
	acked := filepath.Join(notes, "acked")
	before, err := os.ReadFile(all)
	if err != nil {
		t.Fatal(err)
	}
	killVolume(t, v, first)
	<-ended
	if runErr != nil || r.Code != 1 {
		t.Fatalf("records: %v, exit code %d\n%s%s", runErr, r.Code, r.Stdout, r.Stderr)
	}
	t.Logf("the writers ended with: %s", r.Stderr)
	v.Stop(t)
	if strict {
		if before, err = os.ReadFile(all); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(acked, before, 0o644); err != nil {
		t.Fatal(err)
	}
	if appliance == "ext4" {
		if r := harness.Run(t, time.Minute, nil, harness.NeedCommand(t, "e2fsck", "e2fsprogs"), "-fy", filepath.Join(c.dir, "disk.ext4")); r.Code > 1 {
			t.Fatalf("e2fsck: exit code %d\n%s%s", r.Code, r.Stdout, r.Stderr)
		}
	}
	t.Logf("in the backing store: %s", harness.Must(t, c.tool, "records", "-verify", "-dir", contents(t, c), "-acked", acked, "-all", all))
	d.Must(t, container(env.Serve(t, volumeName(t)+"-again", flags...), "-verify", "-acked", "/notes/acked", "-all", "/notes/all"))
}

// killVolume kills a volume's gofer and FS server, without giving the second time to notice that the first is gone.
func killVolume(t *testing.T, v *harness.Volume, first string) {
	t.Helper()
	var pids struct{ GoferPID, ServerPID int }
	r := env.FSVA(t, "stat", v.Name, "--json")
	if err := json.Unmarshal([]byte(r.Stdout), &pids); err != nil || pids.GoferPID == 0 || pids.ServerPID == 0 {
		t.Fatalf("fsva stat --json: %v, %+v\n%s%s", err, pids, r.Stdout, r.Stderr)
	}
	order := []int{pids.GoferPID, pids.ServerPID}
	for _, p := range v.Processes() { // with what is below the server: its sandbox
		if p.PID != v.PID() && p.PID != pids.GoferPID && p.PID != pids.ServerPID {
			order = append(order, p.PID)
		}
	}
	if first == "server" {
		order = append(order[1:], pids.GoferPID)
	}
	for _, pid := range order {
		if err := unix.Kill(pid, unix.SIGKILL); err != nil && err != unix.ESRCH {
			t.Fatal(err)
		}
	}
}

// awaitFile waits until a file is there.
func awaitFile(t *testing.T, path string, timeout time.Duration) {
	t.Helper()
	for deadline := time.Now().Add(timeout); ; time.Sleep(20 * time.Millisecond) {
		if _, err := os.Stat(path); err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("no %s after %v", path, timeout)
		}
	}
}
