// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"bufio"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"fsva/e2e/harness"
)

// TestImages goes the way of an image that was made elsewhere: there is none, it is imported, a volume runs in it, it
// cannot be removed then, and can be afterwards.
func TestImages(t *testing.T) {
	harness.NeedRoot(t)
	state := env.TempDir(t)
	environ := []string{"FSVA_STATEDIR=" + state, "FSVA_RUNDIR=" + env.RunDir}
	fsva := func(args ...string) harness.Result {
		t.Helper()
		return harness.Run(t, time.Minute, environ, append([]string{env.Binary(t, "fsva")}, args...)...)
	}
	refused := func(want string, args ...string) {
		t.Helper()
		if r := fsva(args...); r.Code != 1 || r.Stderr != "fsva: "+want+"\n" {
			t.Errorf("fsva %s: exit code %d, %q, want %q", strings.Join(args, " "), r.Code, r.Stderr, want)
		}
	}
	name := volumeName(t)
	source := env.TempDir(t)
	refused(`appliance "bindfs" has no image yet: fsva image build bindfs`, "serve", name, "--appliance", "bindfs", "--source", source)
	refused(`there is no image "bindfs"`, "image", "rm", "bindfs")
	refused(`appliance "mem" needs no image: its server is fsva itself`, "image", "build", "mem")

	var image struct{ Root string }
	r := env.FSVA(t, "image", "inspect", "bindfs")
	if err := json.Unmarshal([]byte(r.Stdout), &image); err != nil {
		t.Fatalf("fsva image inspect bindfs: %v\n%s%s", err, r.Stdout, r.Stderr)
	}
	tarball := filepath.Join(env.TempDir(t), "root.tar")
	harness.Must(t, "tar", "-C", image.Root, "-cf", tarball, ".")
	if r := fsva("image", "import", "bindfs", tarball); r.Code != 0 {
		t.Fatalf("import: exit code %d: %s", r.Code, r.Stderr)
	}
	v := env.ServeWith(t, environ[:1], name, "--appliance", "bindfs", "--source", source)
	refused(`image "bindfs" is in use: stop the volumes that run in it first (fsva ls)`, "image", "rm", "bindfs")
	if r := fsva("image", "ls"); !strings.HasSuffix(r.Stdout, "imported  yes\n") {
		t.Errorf("fsva image ls:\n%s", r.Stdout)
	}
	v.Stop(t)
	if r := fsva("image", "rm", "bindfs"); r.Code != 0 {
		t.Errorf("rm: exit code %d: %s", r.Code, r.Stderr)
	}
	if r := fsva("image", "ls", "--json"); r.Stdout != "[]\n" {
		t.Errorf("fsva image ls --json: %s", r.Stdout)
	}

	// An image without the program is another appliance's.
	empty := filepath.Join(env.TempDir(t), "empty.tar")
	harness.Must(t, "tar", "-C", source, "-cf", empty, ".")
	if r := fsva("image", "import", "bindfs", empty); r.Code != 0 {
		t.Fatalf("import: exit code %d: %s", r.Code, r.Stderr)
	}
	if r := fsva("serve", name, "--appliance", "bindfs", "--source", source); r.Code != 1 || !strings.Contains(r.Stderr, "bindfs is not in its root") {
		t.Errorf("an image of another appliance: exit code %d: %s", r.Code, r.Stderr)
	}
}

// TestImageBuildInterrupted ends a build as ctrl-C does: one line, nothing left, no process of it alive.
func TestImageBuildInterrupted(t *testing.T) {
	harness.NeedRoot(t)
	harness.NeedCommand(t, "mmdebstrap", "mmdebstrap")
	state := env.TempDir(t)
	cmd := exec.Command(env.Binary(t, "fsva"), "image", "build", "squashfs")
	cmd.Env = append(os.Environ(), "FSVA_STATEDIR="+state)
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var lines []string
	for in := bufio.NewScanner(stderr); in.Scan(); {
		lines = append(lines, in.Text())
		if in.Text() == "image squashfs: downloading packages" {
			if err := cmd.Process.Signal(unix.SIGINT); err != nil {
				t.Error(err)
			}
		}
	}
	if err := cmd.Wait(); err == nil || cmd.ProcessState.ExitCode() != 1 {
		t.Errorf("it ended with %v, want exit code 1", err)
	}
	if len(lines) == 0 || lines[len(lines)-1] != `fsva: build image "squashfs": interrupted, nothing has changed` {
		t.Errorf("it said:\n%s", strings.Join(lines, "\n"))
	}
	if left, err := os.ReadDir(filepath.Join(state, "images", "tmp")); err != nil || len(left) != 0 {
		t.Errorf("left: %v, %v", left, err)
	}
	if _, err := os.Stat(filepath.Join(state, "images", "index.json")); err == nil {
		t.Error("there is an image")
	}
	r := harness.Run(t, time.Minute, nil, "pgrep", "-f", state)
	if r.Code == 0 {
		t.Errorf("processes left: %s", r.Stdout)
	}
}
