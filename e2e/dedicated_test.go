// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"fsva/e2e/harness"
)

// dedicated defines a dedicated volume and returns the directory that containers mount. The clean-up removes it.
func dedicated(t *testing.T, name string, flags ...string) string {
	t.Helper()
	harness.NeedRoot(t)
	r := env.FSVA(t, append([]string{"volume", "create", name, "--dedicated"}, flags...)...)
	if r.Code != 0 {
		t.Fatalf("fsva volume create: %s", r.Stderr)
	}
	t.Cleanup(func() {
		if r := env.FSVA(t, "volume", "rm", name); r.Code != 0 {
			t.Errorf("fsva volume rm: %s", r.Stderr)
		}
		if err := env.NothingLeft(name); err != nil {
			t.Error(err)
		}
	})
	return strings.TrimSpace(r.Stdout)
}

// instanceStatus is what the test needs of fsva ls --json.
type instanceStatus struct {
	Name    string   `json:"name"`
	PID     int      `json:"pid"`
	Gofer   int      `json:"goferPid"`
	Cgroups []string `json:"cgroups"`
}

// instances lists the instances of a dedicated volume.
func instances(t *testing.T, volume string) []instanceStatus {
	t.Helper()
	r := env.FSVA(t, "ls", "--json")
	if r.Code != 0 {
		t.Fatalf("fsva ls: %s", r.Stderr)
	}
	var all, found []instanceStatus
	if err := json.Unmarshal([]byte(r.Stdout), &all); err != nil {
		t.Fatalf("fsva ls --json: %v\n%s", err, r.Stdout)
	}
	for _, s := range all {
		if strings.HasPrefix(s.Name, volume+".") {
			found = append(found, s)
		}
	}
	return found
}

// oneInstance is the only instance of a dedicated volume.
func oneInstance(t *testing.T, volume string) instanceStatus {
	t.Helper()
	all := instances(t, volume)
	if len(all) != 1 {
		t.Fatalf("instances %+v, want one", all)
	}
	return all[0]
}

// noInstances waits for the end of processes that instances have, and checks that there are no instances any more.
func noInstances(t *testing.T, volume string, ending ...instanceStatus) {
	t.Helper()
	for _, i := range ending {
		harness.AwaitEnd(t, i.PID, 30*time.Second)
	}
	if all := instances(t, volume); len(all) > 0 {
		t.Fatalf("instances %+v, want none", all)
	}
}

// TestDedicatedEnds ends containers in every way there is. No instance outlives its container.
func TestDedicatedEnds(t *testing.T) {
	d := env.Docker(t)
	name := volumeName(t)
	dir := dedicated(t, name, "--appliance", "mem")
	mount := []string{dir + ":/data"}

	t.Run("two containers", func(t *testing.T) {
		a, b := d.Start(t, harness.Container{Mounts: mount}), d.Start(t, harness.Container{Mounts: mount})
		a.Shell(t, "echo a >/data/f")
		if out := b.Shell(t, "ls -A /data"); out != "" {
			t.Errorf("the second container sees the first one's file: %q", out)
		}
		running := instances(t, name)
		if len(running) != 2 {
			t.Fatalf("instances %+v, want two", running)
		}
		if r := env.FSVA(t, "volume", "rm", name); r.Code == 0 || !strings.Contains(r.Stderr, "2 containers have an instance") {
			t.Errorf("volume rm: %d %s", r.Code, r.Stderr)
		}
		// docker rm waits for the instance.
		a.Stop(t)
		left := oneInstance(t, name)
		b.Stop(t)
		noInstances(t, name)
		if left.Name != running[0].Name && left.Name != running[1].Name {
			t.Errorf("instance %q was not there before", left.Name)
		}
	})
	t.Run("exit", func(t *testing.T) {
		d.Shell(t, "echo x >/data/f; cat /data/f", mount...)
		noInstances(t, name)
	})
	t.Run("twice in one container", func(t *testing.T) {
		if out := d.Shell(t, "ls /a /b", dir+":/a:ro", dir+":/b:ro"); out != "/a:\n\n/b:\n" {
			t.Errorf("output %q", out)
		}
		noInstances(t, name)
	})
	t.Run("docker kill and restart", func(t *testing.T) {
		c := d.Start(t, harness.Container{Mounts: mount})
		first := oneInstance(t, name)
		if r := d.CLI(t, "kill", c.ID(t)); r.Code != 0 {
			t.Fatal(r.Stderr)
		}
		noInstances(t, name, first)
		if r := d.CLI(t, "start", c.ID(t)); r.Code != 0 {
			t.Fatal(r.Stderr)
		}
		c.Shell(t, "echo x >/data/f")
		again := oneInstance(t, name)
		if again.Name != first.Name || again.PID == first.PID {
			t.Errorf("instance %+v, then %+v; want another process of the same name", first, again)
		}
		c.Restart(t)
		if out := c.Shell(t, "ls -A /data"); out != "" {
			t.Errorf("a restarted container sees what an earlier instance had: %q", out)
		}
		c.Stop(t)
		noInstances(t, name)
	})
	t.Run("the gofer dies", func(t *testing.T) {
		c := d.Start(t, harness.Container{Mounts: mount})
		i := oneInstance(t, name)
		if err := unix.Kill(i.Gofer, unix.SIGKILL); err != nil {
			t.Fatal(err)
		}
		noInstances(t, name, i)
		if r := c.Exec(t, "ls", "/data"); r.Code == 0 {
			t.Error("the container still has the volume")
		}
		c.Restart(t)
		c.Shell(t, "echo x >/data/f")
		c.Stop(t)
		noInstances(t, name)
	})
	t.Run("the supervisor dies", func(t *testing.T) {
		c := d.Start(t, harness.Container{Mounts: mount})
		i := oneInstance(t, name)
		if err := unix.Kill(i.PID, unix.SIGKILL); err != nil {
			t.Fatal(err)
		}
		noInstances(t, name, i)
		c.Stop(t)
	})
}

// TestDedicatedRunsc makes containers without docker: one whose creator dies in between, one that is never deleted,
// and one whose run directory is lost.
func TestDedicatedRunsc(t *testing.T) {
	harness.NeedRoot(t)
	name := volumeName(t)
	dir := dedicated(t, name, "--appliance", "mem")
	runsc := env.Binary(t, "runsc")
	root := env.TempDir(t)
	t.Cleanup(func() { // runsc keeps a network namespace there
		if err := unix.Unmount(filepath.Join(root, "null-netns"), unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	environ := append(env.FSVAEnv(), os.Environ()...)
	// bundle makes a bundle whose program is args.
	bundle := func(t *testing.T, args ...string) string {
		b := env.TempDir(t)
		config := map[string]any{
			"ociVersion": "1.0.0",
			"process":    map[string]any{"args": args, "cwd": "/", "env": []string{"PATH=/bin:/usr/bin"}},
			"root":       map[string]any{"path": "/", "readonly": true},
			"mounts": []map[string]any{
				{"type": "bind", "source": "/usr", "destination": "/usr", "options": []string{"rbind", "ro"}},
				{"Type": "bind", "Source": dir, "Destination": "/mnt", "options": []string{"rbind"}},
			},
			"linux": map[string]any{"namespaces": []map[string]any{{"type": "pid"}, {"type": "network"}, {"type": "mount"}}},
		}
		// runsc takes no "/" as a container's root.
		if err := os.Mkdir(filepath.Join(b, "root"), 0o755); err != nil {
			t.Fatal(err)
		}
		for _, link := range []string{"bin", "lib", "lib64"} {
			if err := os.Symlink("usr/"+link, filepath.Join(b, "root", link)); err != nil {
				t.Fatal(err)
			}
		}
		for _, sub := range []string{"usr", "mnt"} {
			if err := os.Mkdir(filepath.Join(b, "root", sub), 0o755); err != nil {
				t.Fatal(err)
			}
		}
		config["root"] = map[string]any{"path": filepath.Join(b, "root")}
		data, err := json.Marshal(config)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(b, "config.json"), data, 0o600); err != nil {
			t.Fatal(err)
		}
		return b
	}
	run := func(t *testing.T, args ...string) harness.Result {
		t.Helper()
		all := append([]string{runsc, "--root=" + root, "--network=none", "--ignore-cgroups", "--platform=systrap"}, args...)
		// Not the test's pipes: a container that runs on has them open.
		script := `out=$(mktemp); "$@" >"$out" 2>&1 </dev/null; code=$?; cat "$out"; rm "$out"; exit $code`
		return harness.Run(t, time.Minute, environ, append([]string{"sh", "-c", script, "sh"}, all...)...)
	}
	ok := func(t *testing.T, args ...string) {
		t.Helper()
		if r := run(t, args...); r.Code != 0 {
			t.Fatalf("runsc %q: %d\n%s", args, r.Code, r.Stdout)
		}
	}
	t.Run("run, the same bundle twice", func(t *testing.T) {
		b := bundle(t, "sh", "-c", "ls -A /mnt; echo x >/mnt/f")
		for range 2 {
			if r := run(t, "run", "--bundle="+b, "c-run"); r.Code != 0 || r.Stdout != "" {
				t.Fatalf("runsc run: %d %q", r.Code, r.Stdout)
			}
		}
		for _, i := range instances(t, name) { // it ends with runsc, a little later
			noInstances(t, name, i)
		}
	})
	t.Run("a program that is not there", func(t *testing.T) {
		if r := run(t, "run", "--bundle="+bundle(t, "/nonexistent"), "c-absent"); r.Code == 0 {
			t.Errorf("runsc run succeeded: %s", r.Stdout)
		}
		for _, i := range instances(t, name) {
			noInstances(t, name, i)
		}
	})
	t.Run("created, never started, deleted", func(t *testing.T) {
		ok(t, "create", "--bundle="+bundle(t, "true"), "c-created")
		oneInstance(t, name)
		ok(t, "delete", "c-created")
		noInstances(t, name)
	})
	t.Run("the sandbox dies, nobody deletes", func(t *testing.T) {
		b := bundle(t, "sleep", "3600")
		ok(t, "create", "--bundle="+b, "c-dies")
		ok(t, "start", "c-dies")
		i := oneInstance(t, name)
		r := run(t, "state", "c-dies")
		var state struct {
			Pid int `json:"pid"`
		}
		if err := json.Unmarshal([]byte(r.Stdout), &state); err != nil || state.Pid == 0 {
			t.Fatalf("runsc state: %v\n%s", err, r.Stdout)
		}
		if err := unix.Kill(state.Pid, unix.SIGKILL); err != nil {
			t.Fatal(err)
		}
		noInstances(t, name, i)
		ok(t, "delete", "--force", "c-dies")
	})
	t.Run("the run directory is lost", func(t *testing.T) {
		b := bundle(t, "sleep", "3600")
		ok(t, "create", "--bundle="+b, "c-lost")
		ok(t, "start", "c-lost")
		i := oneInstance(t, name)
		aside := env.RunDir + ".lost"
		if err := os.Rename(env.RunDir, aside); err != nil {
			t.Fatal(err)
		}
		ok(t, "delete", "--force", "c-lost")
		harness.AwaitEnd(t, i.PID, 30*time.Second)
		if err := errors.Join(os.RemoveAll(env.RunDir), os.Rename(aside, env.RunDir)); err != nil {
			t.Fatal(err)
		}
		noInstances(t, name)
	})
	t.Run("the creator dies", func(t *testing.T) {
		b := bundle(t, "sleep", "3600")
		// It is killed when the instance is there, wherever it is then.
		script := `"$@" </dev/null >/dev/null 2>&1 & p=$!
			until ls "$FSVA_RUNDIR"/volumes | grep -q "^$NAME[.]"; do kill -0 $p || exit 3; sleep 0.01; done
			kill -9 $p; wait $p; [ $? = 137 ]`
		r := harness.Run(t, time.Minute, append(environ, "NAME="+name), "sh", "-c", script, "sh",
			runsc, "--root="+root, "--network=none", "--ignore-cgroups", "create", "--bundle="+b, "c-killed")
		if r.Code != 0 {
			t.Fatalf("%d %s", r.Code, r.Stderr)
		}
		for _, i := range instances(t, name) {
			noInstances(t, name, i)
		}
		run(t, "delete", "--force", "c-killed") // there may be nothing to delete
	})
}

// TestDedicatedLimits verifies that an instance's processes are in a cgroup that has the definition's limits, and that
// the cgroup goes with the instance, even a killed one.
func TestDedicatedLimits(t *testing.T) {
	d := env.Docker(t)
	name := volumeName(t)
	dir := t.TempDir()
	mount := dedicated(t, name, "--appliance", "bindfs", "--source", dir, "--cpus", "1.5", "--memory", "512M", "--pids", "300")
	c := d.Start(t, harness.Container{Mounts: []string{mount + ":/data"}})
	c.Shell(t, "echo x >/data/f")
	i := oneInstance(t, name)
	if len(i.Cgroups) == 0 {
		t.Fatal("no cgroups")
	}
	want := map[string]string{
		"cpu.cfs_quota_us": "150000", "memory.limit_in_bytes": "536870912", "pids.max": "300", // version 1
		"cpu.max": "150000 100000", "memory.max": "536870912", // version 2
	}
	limits := 0
	for _, dir := range i.Cgroups {
		for file, value := range want {
			data, err := os.ReadFile(filepath.Join(dir, file))
			if errors.Is(err, os.ErrNotExist) {
				continue
			}
			if got := strings.TrimSpace(string(data)); err != nil || got != value {
				t.Errorf("%s/%s is %q, %v; want %s", dir, file, got, err, value)
			}
			limits++
		}
		procs, err := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
		if err != nil {
			t.Fatal(err)
		}
		for _, pid := range []int{i.PID, i.Gofer} {
			if !strings.Contains("\n"+string(procs), fmt.Sprintf("\n%d\n", pid)) {
				t.Errorf("%s has not the process %d: %q", dir, pid, procs)
			}
		}
		// The FS server's sandbox is among them.
		if n := len(strings.Fields(string(procs))); n < 4 {
			t.Errorf("%s has %d processes", dir, n)
		}
	}
	if limits != 3 {
		t.Errorf("%d limits in %v", limits, i.Cgroups)
	}
	c.Stop(t)
	noInstances(t, name)
	for _, dir := range i.Cgroups {
		if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s is left (%v)", dir, err)
		}
	}

	c = d.Start(t, harness.Container{Mounts: []string{mount + ":/data"}})
	i = oneInstance(t, name)
	if err := unix.Kill(i.PID, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	noInstances(t, name, i) // fsva ls cleans up
	for _, dir := range i.Cgroups {
		if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s is left after a kill (%v)", dir, err)
		}
	}
}

// TestDedicatedExclusive gives an image that one process may write to one container at a time, and for reading to many.
func TestDedicatedExclusive(t *testing.T) {
	d := env.Docker(t)
	name := volumeName(t)
	s := serverNamed(t, "ext4")
	src := s.source(t, env.TempDir(t), s.tree)
	dir := dedicated(t, name, append([]string{"--appliance", "ext4"}, src.flags...)...)
	a := d.Start(t, harness.Container{Mounts: []string{dir + ":/data"}})
	a.Shell(t, "echo kept >/data/f")
	r := d.Run(t, harness.Container{Mounts: []string{dir + ":/data"}, Args: []string{"true"}})
	if r.Code == 0 {
		t.Error("two containers write to one image")
	}
	wantLine(t, r.Stderr, name, "exclusive", "another container")
	a.Stop(t)
	b := d.Start(t, harness.Container{Mounts: []string{dir + ":/data:ro"}})
	c := d.Start(t, harness.Container{Mounts: []string{dir + ":/data:ro"}})
	for _, reader := range []*harness.Running{b, c} {
		if out := reader.Shell(t, "cat /data/f"); out != "kept\n" {
			t.Errorf("read %q", out)
		}
	}
	b.Stop(t)
	c.Stop(t)
	noInstances(t, name)
}

// TestDedicatedRefuses mounts directories that claim to be dedicated volumes, and volumes that cannot start. Each is
// one line of error, and starts nothing.
func TestDedicatedRefuses(t *testing.T) {
	d := env.Docker(t)
	name := volumeName(t)
	source := filepath.Join(env.TempDir(t), "dir")
	if err := os.Mkdir(source, 0o755); err != nil {
		t.Fatal(err)
	}
	dir := dedicated(t, name, "--appliance", "dir", "--source", source)
	// What a container can do to a directory that it has as data.
	copied := env.TempDir(t)
	info, err := os.ReadFile(filepath.Join(dir, "volume.json"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(copied, "volume.json"), info, 0o644); err != nil {
		t.Fatal(err)
	}
	refused := func(mount string, texts ...string) {
		t.Helper()
		r := d.Run(t, harness.Container{Mounts: []string{mount + ":/data"}, Args: []string{"true"}})
		if r.Code == 0 {
			t.Errorf("docker run with %s succeeded", mount)
		}
		wantLine(t, r.Stderr, texts...)
		noInstances(t, name)
	}
	refused(copied, "not the directory of a dedicated volume")
	refused(filepath.Join(filepath.Dir(dir), "undefined-volume"), `no dedicated volume "undefined-volume" is defined`)
	if err := os.Remove(filepath.Join(filepath.Dir(dir), "undefined-volume")); err != nil { // docker has made it
		t.Error(err)
	}
	if err := os.Rename(source, source+".away"); err != nil {
		t.Fatal(err)
	}
	refused(dir, fmt.Sprintf("cannot mount volume %q", name), source, "no such file")
	if r := env.FSVA(t, "serve", name); r.Code != 1 || !strings.Contains(r.Stderr, "is dedicated") {
		t.Errorf("fsva serve: %d %s", r.Code, r.Stderr)
	}
}

// TestVolumeCommands defines, serves and removes a volume.
func TestVolumeCommands(t *testing.T) {
	d := env.Docker(t)
	name := volumeName(t)
	source := env.TempDir(t)
	fails := func(code int, text string, args ...string) {
		t.Helper()
		r := env.FSVA(t, args...)
		if r.Code != code || !strings.Contains(r.Stderr, text) || strings.Count(r.Stderr, "\n") != 1 {
			t.Errorf("fsva %q: %d %q, want %d, one line with %q", args, r.Code, r.Stderr, code, text)
		}
	}
	fails(1, `unknown appliance "dri"`, "volume", "create", name, "--appliance", "dri")
	fails(1, "no such file", "volume", "create", name, "--appliance", "dir", "--source", source+"/none")
	fails(1, `no options`, "volume", "create", name, "--appliance", "dir", "--source", source, "-o", "x=1")
	fails(2, "memory limit 1 MiB is below", "volume", "create", name, "--appliance", "dir", "--source", source, "--memory", "1M")
	fails(1, "no such volume is defined", "volume", "inspect", name)
	if r := env.FSVA(t, "volume", "create", name, "--appliance", "dir", "--source", source, "--memory", "256M"); r.Code != 0 || r.Stdout != filepath.Join(env.RunDir, "volumes", name)+"\n" {
		t.Fatalf("create: %+v", r)
	}
	fails(1, "defined already", "volume", "create", name, "--appliance", "dir", "--source", source)
	fails(2, "--source contradicts the definition", "serve", name, "--source", "/")
	v := env.Serve(t, name, "--source", source)
	d.Shell(t, "echo x >/data/f", v.Mount("/data"))
	fails(1, "already served by pid "+strconv.Itoa(v.PID()), "volume", "rm", name)
	var got []struct{ Name, State, Source string }
	if r := env.FSVA(t, "volume", "inspect", name); r.Code != 0 || json.Unmarshal([]byte(r.Stdout), &got) != nil || len(got) != 1 ||
		got[0].State != "ready" || got[0].Source != source {
		t.Errorf("inspect: %+v, %+v", r, got)
	}
	if r := env.FSVA(t, "volume", "rm", "--force", name); r.Code != 0 || r.Stderr != "" {
		t.Errorf("rm --force: %+v", r)
	}
	v.Ended(t)
	fails(1, "no such volume is defined", "volume", "rm", name)
	fails(2, "--appliance is missing", "serve", name)
	if _, err := os.Stat(filepath.Join(source, "f")); err != nil {
		t.Error(err)
	}
}
