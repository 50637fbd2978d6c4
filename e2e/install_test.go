// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"fsva/e2e/harness"
)

// install runs fsva install with the target's configuration file, and returns the undoing.
func install(t *testing.T, target, config string, flags ...string) (uninstall func()) {
	t.Helper()
	flags = append([]string{target, "--config-file", config}, flags...)
	r := env.FSVA(t, append([]string{"install"}, flags...)...)
	if r.Code != 0 {
		t.Fatalf("fsva install: %+v", r)
	}
	if !strings.Contains(r.Stdout, "\n+++ "+config+"\n") {
		t.Errorf("fsva install shows no difference of %s:\n%s", config, r.Stdout)
	}
	return func() {
		t.Helper()
		if r := env.FSVA(t, append([]string{"uninstall"}, flags...)...); r.Code != 0 {
			t.Errorf("fsva uninstall: %+v", r)
		}
	}
}

// TestInstallDocker gives a dockerd that runs one more runtime, uses it, and takes it away again.
func TestInstallDocker(t *testing.T) {
	const name = "installed"
	d := env.Docker(t)
	v := env.Serve(t, volumeName(t), "--appliance", "mem")
	before, err := os.ReadFile(d.ConfigFile())
	if err != nil {
		t.Fatal(err)
	}
	dry := env.FSVA(t, "install", "docker", "--config-file", d.ConfigFile(), "--runtime", name, "--runsc", env.Binary(t, "runsc"), "--dry-run")
	if now, err := os.ReadFile(d.ConfigFile()); err != nil || string(now) != string(before) || dry.Code != 0 {
		t.Fatalf("--dry-run: %+v; the file has %q, %v", dry, now, err)
	}
	uninstall := install(t, "docker", d.ConfigFile(), "--runtime", name, "--runsc", env.Binary(t, "runsc"))
	d.Reload(t, func(runtimes string) bool { return strings.Contains(runtimes, `"`+name+`"`) })
	out := d.Must(t, harness.Container{Runtime: name, Mounts: []string{v.Mount("/data")}, Args: []string{"sh", "-ec", "echo x >/data/f; cat /data/f"}})
	if out != "x\n" {
		t.Errorf("output %q", out)
	}
	uninstall()
	if now, err := os.ReadFile(d.ConfigFile()); err != nil || string(now) != string(before) {
		t.Errorf("after fsva uninstall the file has %q, %v", now, err)
	}
	d.Reload(t, func(runtimes string) bool { return !strings.Contains(runtimes, `"`+name+`"`) })
	out = d.Must(t, harness.Container{Mounts: []string{v.Mount("/data")}, Args: []string{"cat", "/data/f"}})
	if out != "x\n" {
		t.Errorf("with the runtime that was there before: output %q", out)
	}
}

// containerType is the annotation by which Kubernetes tells a pod's sandbox from its containers. gVisor's shim expects it: a
// container that has none gets no standard output, and ctr waits for ever.
const containerType = "io.kubernetes.cri.container-type="

// newContainerd starts containerd with our runtime installed, and returns ctr's arguments to run a busybox with it.
func newContainerd(t *testing.T) (c *harness.Containerd, runArgs func(detach bool, id string, flags []string, script string) []string) {
	t.Helper()
	// Beside each other, as installed.
	bin := env.TempDir(t)
	for _, name := range []string{"runsc", "containerd-shim-runsc-v1"} {
		if err := os.Symlink(env.Binary(t, name), filepath.Join(bin, name)); err != nil {
			t.Fatal(err)
		}
	}
	c = env.NewContainerd(t, bin)
	install(t, "containerd", c.ConfigFile, "--runsc", filepath.Join(bin, "runsc"))
	options := filepath.Join(c.Dir, "runsc.toml")
	text, err := os.ReadFile(options)
	if err != nil {
		t.Fatal(err)
	}
	changed := strings.ReplaceAll(string(text), "/var/log/runsc/", c.Dir+"/log/")
	changed = fmt.Sprintf("root = %q\n", env.RunscRoot(t)) + changed
	if err := os.WriteFile(options, []byte(changed), 0o644); err != nil {
		t.Fatal(err)
	}
	c.Start(t)
	return c, func(detach bool, id string, flags []string, script string) []string {
		args := []string{"run", "--rootfs", "--runtime", "io.containerd.runsc.v1", "--runtime-config-path", options}
		if detach {
			args = append(args, "--detach", "--null-io")
		} else {
			args = append(args, "--rm")
		}
		if !slices.ContainsFunc(flags, func(f string) bool { return strings.HasPrefix(f, containerType) }) {
			flags = append([]string{"--annotation", containerType + "sandbox"}, flags...)
		}
		return append(append(args, flags...), "--env", "PATH=/bin", env.BusyboxRoot(t), id, "/bin/sh", "-c", script)
	}
}

func bindFlag(v *harness.Volume, options string) []string {
	return []string{"--mount", "type=bind,src=" + v.Dir + ",dst=/data,options=" + options}
}

// awaitTask waits until ctr shows a task in a state.
func awaitTask(t *testing.T, c *harness.Containerd, id, state string) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		out := c.Must(t, "task", "ls")
		for line := range strings.Lines(out) {
			if f := strings.Fields(line); len(f) == 3 && f[0] == id && f[2] == state {
				return
			}
		}
		if time.Now().After(deadline) {
			t.Fatalf("task %s is not %s:\n%s", id, state, out)
		}
	}
}

// TestContainerd runs containers with volumes through a real containerd and our shim: to their end, killed, removed,
// and across a restart of containerd.
func TestContainerd(t *testing.T) {
	dir := env.Tmpfs(t)
	v := env.Serve(t, volumeName(t), "--appliance", "dir", "--source", dir, "--coherence", "exclusive")
	c, args := newContainerd(t)

	// What containers say is read from files: ctr takes the pipes away when a process has ended, and may not have read
	// them to the end. (On a busy machine it prints nothing in 1 of 100 cases, with runc, too.)
	run := func(id, options, script string, code int) string {
		t.Helper()
		r := c.Ctr(t, args(false, id, bindFlag(v, options), script)...)
		if r.Code != code {
			t.Errorf("container %s: exit code %d, want %d\n%s", id, r.Code, code, r.Stderr)
		}
		out, err := os.ReadFile(filepath.Join(dir, id))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			t.Fatal(err)
		}
		return string(out)
	}
	if out := run("once", "rbind", "echo one >/data/f; (cat /data/f; grep -c ' /data ' /proc/mounts) >/data/once", 0); out != "one\n1\n" {
		t.Errorf("output %q", out)
	}
	if b, err := os.ReadFile(filepath.Join(dir, "f")); err != nil || string(b) != "one\n" {
		t.Errorf("on the host: %q, %v", b, err)
	}
	run("ro", "rbind:ro", "(echo x >/data/g) 2>&1 | grep 'Read-only file system' && exit 30", 30)
	// Gone before the shim has asked for its status.
	run("fast", "rbind", "exit 3", 3)
	run("killed", "rbind", "kill -9 $$", 128+9)

	// A container that stays, and a second that may not write beside it.
	c.Must(t, args(true, "stays", bindFlag(v, "rbind"), "sleep 1000")...)
	awaitTask(t, c, "stays", "RUNNING")
	r := c.Ctr(t, args(false, "second", bindFlag(v, "rbind"), "true")...)
	if r.Code == 0 || !strings.Contains(r.Stderr, "in use by container stays") {
		t.Errorf("a second client: %+v", r)
	}
	c.Ctr(t, "container", "rm", "second") // ctr may have left it

	c.Stop(t)
	c.Start(t)
	awaitTask(t, c, "stays", "RUNNING")
	c.Must(t, "task", "exec", "--exec-id", "e1", "stays", "/bin/cp", "/data/f", "/data/e1")
	if b, err := os.ReadFile(filepath.Join(dir, "e1")); err != nil || string(b) != "one\n" {
		t.Errorf("after a restart of containerd: %q, %v", b, err)
	}

	// Killed and removed, it gives the volume back.
	c.Must(t, "task", "kill", "--signal", "SIGKILL", "stays")
	awaitTask(t, c, "stays", "STOPPED")
	c.Remove(t, "stays")
	if out := run("after", "rbind", "echo two >>/data/f; cat /data/f >/data/after", 0); out != "one\ntwo\n" {
		t.Errorf("output %q", out)
	}
}

// TestContainerdPod runs two containers in the sandbox of a third, as Kubernetes does, with one shared volume.
func TestContainerdPod(t *testing.T) {
	dir := env.Tmpfs(t)
	v := env.Serve(t, volumeName(t), "--appliance", "dir", "--source", dir, "--coherence", "shared")
	c, args := newContainerd(t)
	const sandbox = "io.kubernetes.cri.sandbox-id=pause"
	c.Must(t, args(true, "pause", []string{"--annotation", containerType + "sandbox", "--annotation", sandbox}, "sleep 1000")...)
	t.Cleanup(func() { c.Remove(t, "pause") })
	awaitTask(t, c, "pause", "RUNNING")

	member := append([]string{"--annotation", containerType + "container", "--annotation", sandbox}, bindFlag(v, "rbind")...)
	c.Must(t, args(true, "writer", member, "echo hello >/data/f; sleep 1000")...)
	t.Cleanup(func() { c.Remove(t, "writer") })
	c.Must(t, args(false, "reader", member, "while ! grep hello /data/f 2>/dev/null; do sleep 0.1; done; cp /data/f /data/g")...)
	if b, err := os.ReadFile(filepath.Join(dir, "g")); err != nil || string(b) != "hello\n" {
		t.Errorf("on the host: %q, %v", b, err)
	}
}

// TestBundle runs the example bundle of runsc-config, with nothing but runsc.
func TestBundle(t *testing.T) {
	shown := env.TempDir(t)
	if err := os.WriteFile(filepath.Join(shown, "a file"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	v := env.Serve(t, volumeName(t), "--appliance", "dir", "--source", shown, "--coherence", "exclusive")
	config, err := os.ReadFile(filepath.Join(env.Root, "runsc-config/oci-bundle/config.json"))
	if err != nil {
		t.Fatal(err)
	}
	text := strings.Replace(string(config), "/run/fsva/volumes/NAME", v.Dir, 1)
	if text == string(config) {
		t.Fatal("the example has no volume")
	}
	dir := filepath.Dir(env.BusyboxRoot(t)) // which is rootfs in it
	write := func(config string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, "config.json"), []byte(config), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	root := env.RunscRoot(t)
	runsc := func(args ...string) harness.Result {
		t.Helper()
		return harness.Run(t, time.Minute, nil, append([]string{env.Binary(t, "runsc"), "--root", root, "--network=none"}, args...)...)
	}
	example := func(id string) {
		t.Helper()
		write(text)
		if r := runsc("run", "--bundle", dir, id); r.Code != 0 || !strings.Contains(r.Stdout, " a file\n") {
			t.Errorf("got %+v", r)
		}
	}
	example("fsva-example")

	// A container whose program is missing is created, and fails to start; it keeps nothing.
	var spec map[string]any
	if err := json.Unmarshal([]byte(text), &spec); err != nil {
		t.Fatal(err)
	}
	spec["process"].(map[string]any)["args"] = []string{"/bin/missing"}
	missing, err := json.Marshal(spec)
	if err != nil {
		t.Fatal(err)
	}
	write(string(missing))
	if r := runsc("run", "--bundle", dir, "fsva-missing"); r.Code == 0 || !strings.Contains(r.Stderr, "failed to load /bin/missing") {
		t.Errorf("a missing program: %+v", r)
	}
	if r := runsc("list", "--quiet"); r.Code != 0 || r.Stdout != "" {
		t.Errorf("runsc list: %+v", r)
	}
	example("fsva-again") // one client at a time
}
