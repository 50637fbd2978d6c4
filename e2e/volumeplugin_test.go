// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"fsva/e2e/harness"
	"fsva/gofer/fusemount"
	"fsva/gofer/supervisor"
)

// volumePlugin is `fsva volume-plugin` and the daemon that uses it.
type volumePlugin struct {
	t       *testing.T // whose end is theirs
	env     *harness.Env
	docker  *harness.Docker
	service *harness.Service
	// driver is the plugin's name. docker looks for its socket in one place only.
	driver, socket string
}

// startVolumePlugin starts both, with directories of their own.
func startVolumePlugin(t *testing.T) *volumePlugin {
	e := env.Apart(t)
	p := &volumePlugin{t: t, env: e, docker: e.Docker(t)}
	p.driver = filepath.Base(env.Dir) + "-" + filepath.Base(e.Dir)
	p.socket = filepath.Join(harness.PluginDir, p.driver+".sock")
	t.Cleanup(func() {
		if err := os.Remove(p.socket); err != nil && !os.IsNotExist(err) {
			t.Error(err)
		}
	})
	p.start()
	return p
}

func (p *volumePlugin) start() {
	p.t.Helper()
	p.env.Binary(p.t, "runsc") // it stands beside fsva
	p.service = harness.Start(p.t, p.env.FSVAEnv(), p.env.Binary(p.t, "fsva"), "volume-plugin", "--socket", p.socket)
	harness.Await(p.t, time.Minute, p.service, func() bool { return strings.Contains(p.service.Output(), "ready at") })
}

// restart ends the plugin with a signal and starts it again.
func (p *volumePlugin) restart(t *testing.T, how unix.Signal) {
	t.Helper()
	p.service.End(t, how)
	p.start()
}

// ok runs a docker command that must succeed.
func (p *volumePlugin) ok(t *testing.T, args ...string) string {
	t.Helper()
	r := p.docker.CLI(t, args...)
	if r.Code != 0 {
		t.Fatalf("docker %q: exit code %d: %s%s\nplugin: %s", args, r.Code, r.Stdout, r.Stderr, p.service.Output())
	}
	return strings.TrimSpace(r.Stdout)
}

// refused runs a docker command that must fail with one line that has the words.
func (p *volumePlugin) refused(t *testing.T, args []string, words ...string) {
	t.Helper()
	r := p.docker.CLI(t, args...)
	if r.Code == 0 {
		t.Fatalf("docker %q: want an error", args)
	}
	line, _, _ := strings.Cut(r.Stderr, "\n")
	for _, w := range words {
		if !strings.Contains(line, w) {
			t.Errorf("docker %q: %q does not say %q", args, r.Stderr, w)
		}
	}
}

// create defines a volume, removed when the test ends.
func (p *volumePlugin) create(t *testing.T, name string, options ...string) {
	t.Helper()
	p.ok(t, p.createArgs(name, options...)...)
	t.Cleanup(func() { p.ok(t, "volume", "rm", name) })
}

func (p *volumePlugin) createArgs(name string, options ...string) []string {
	args := []string{"volume", "create", "-d", p.driver}
	for _, o := range options {
		args = append(args, "-o", o)
	}
	return append(args, name)
}

// ls returns the state of each volume that is being served, by `fsva ls`.
func (p *volumePlugin) ls(t *testing.T) map[string]supervisor.Status {
	t.Helper()
	r := p.env.FSVA(t, "ls", "--json")
	var all []supervisor.Status
	if err := json.Unmarshal([]byte(r.Stdout), &all); err != nil || r.Code != 0 {
		t.Fatalf("fsva ls: exit code %d, %v: %s%s", r.Code, err, r.Stdout, r.Stderr)
	}
	m := map[string]supervisor.Status{}
	for _, s := range all {
		m[s.Name] = s
	}
	return m
}

// wantServed fails the test unless exactly these volumes are being served.
func (p *volumePlugin) wantServed(t *testing.T, names ...string) {
	t.Helper()
	all := p.ls(t)
	var got []string
	for name, s := range all {
		if s.State != supervisor.Serving {
			t.Errorf("volume %s is %s", name, s.StateText())
		}
		got = append(got, name)
	}
	slices.Sort(got)
	if !slices.Equal(got, names) {
		t.Fatalf("fsva ls says %q, want %q\nplugin: %s", got, names, p.service.Output())
	}
}

// pause is a container that waits and can be stopped at once.
func pause(mounts ...string) harness.Container {
	return harness.Container{Mounts: mounts, Flags: []string{"--stop-signal=KILL"}}
}

func TestVolumePlugin(t *testing.T) {
	p := startVolumePlugin(t)

	t.Run("life", func(t *testing.T) {
		source := t.TempDir()
		p.create(t, "life", "appliance=dir", "source="+source, "coherence=shared")
		p.ok(t, p.createArgs("life", "appliance=dir", "source="+source, "coherence=shared")...)
		if got := p.ok(t, "volume", "ls", "-q", "-f", "driver="+p.driver); got != "life" {
			t.Errorf("docker volume ls: %q", got)
		}
		p.wantServed(t)
		p.docker.Shell(t, "echo hello >/data/file", "life:/data")
		p.wantServed(t)
		if b, err := os.ReadFile(filepath.Join(source, "file")); err != nil || string(b) != "hello\n" {
			t.Errorf("in the source: %q, %v", b, err)
		}
		one := p.docker.Start(t, pause("life:/data"))
		two := p.docker.Start(t, pause("life:/data:ro"))
		p.wantServed(t, "life")
		if got := two.Shell(t, "cat /data/file; echo x 2>/dev/null >/data/y || echo refused"); got != "hello\nrefused\n" {
			t.Errorf("in the second container: %q", got)
		}
		inspect := p.ok(t, "volume", "inspect", "life")
		for _, want := range []string{`"appliance": "dir"`, `"mounts": 2`, `"state": "ready"`, `"Mountpoint": "` + p.env.RunDir + "/volumes/life"} {
			if !strings.Contains(inspect, want) {
				t.Errorf("docker volume inspect does not say %s: %s", want, inspect)
			}
		}
		if r := p.env.FSVA(t, "volume", "rm", "life"); r.Code != 1 || !strings.Contains(r.Stderr, "life") {
			t.Errorf("fsva volume rm of what is mounted: exit code %d, %s", r.Code, r.Stderr)
		}
		p.refused(t, []string{"volume", "rm", "life"}, "in use")
		one.Stop(t)
		p.wantServed(t, "life")
		two.Stop(t)
		p.wantServed(t)
	})

	t.Run("errors", func(t *testing.T) {
		p.refused(t, p.createArgs("bad"), `volume "bad" is not defined`, "appliance=")
		p.refused(t, p.createArgs("bad", "appliance=squash"), `unknown appliance "squash"`)
		p.refused(t, p.createArgs("bad", "appliance=squashfs", "source=/no/such/file"), "/no/such/file")
		p.refused(t, p.createArgs("bad", "appliance=mem", "colour=blue"), `no option "colour"`)
		p.refused(t, p.createArgs("bad name", "appliance=mem"), "bad name")
		if got := p.ok(t, "volume", "ls", "-q", "-f", "driver="+p.driver); got != "" {
			t.Errorf("docker volume ls after errors: %q", got)
		}
		// It can be defined, and not be served.
		image := filepath.Join(t.TempDir(), "image.tar")
		if err := os.WriteFile(image, bytes.Repeat([]byte("no tar "), 1000), 0o644); err != nil {
			t.Fatal(err)
		}
		p.create(t, "broken", "appliance=tar", "source="+image)
		p.refused(t, []string{"run", "--rm", "--runtime=runsc", "--network=none", "-v", "broken:/data", harness.ImageBase, "true"}, "broken", "tar")
		p.wantServed(t)
		// docker does not ask to create what there is already, whatever the options.
		if r := p.env.FSVA(t, "volume", "create", "ours", "--appliance", "mem", "--option", "size=1M"); r.Code != 0 {
			t.Fatal(r.Stderr)
		}
		p.create(t, "ours", "appliance=mem", "size=2M")
		if r := p.env.FSVA(t, "volume", "inspect", "ours"); !strings.Contains(r.Stdout, "size=1M") {
			t.Errorf("fsva volume inspect: %s%s", r.Stdout, r.Stderr)
		}
	})

	t.Run("plugin restarts", func(t *testing.T) {
		p.create(t, "stays", "appliance=mem", "coherence=shared")
		one := p.docker.Start(t, pause("stays:/data"))
		one.Shell(t, "echo hello >/data/file")
		for _, how := range []unix.Signal{unix.SIGTERM, unix.SIGKILL} {
			p.restart(t, how)
			p.wantServed(t, "stays")
			if got := p.docker.Shell(t, "cat /data/file", "stays:/data"); got != "hello\n" {
				t.Errorf("after %v: %q", how, got)
			}
			p.wantServed(t, "stays")
		}
		one.Stop(t)
		p.wantServed(t)
	})

	t.Run("dockerd restarts", func(t *testing.T) {
		source := t.TempDir()
		p.create(t, "again", "appliance=dir", "source="+source)
		one := p.docker.Start(t, pause("again:/data"))
		for i, how := range []unix.Signal{unix.SIGTERM, unix.SIGKILL} {
			p.wantServed(t, "again")
			p.docker.Restart(t, how)
			// One that is killed does not unmount, and its successor neither: the plugin finds that out.
			harness.Await(t, time.Minute, p.service, func() bool { return how == unix.SIGTERM || len(p.ls(t)) == 0 })
			p.wantServed(t)
			one.Restart(t)
			one.Shell(t, fmt.Sprintf("echo hello >/data/file%d", i))
		}
		one.Stop(t)
		p.wantServed(t)
	})

	t.Run("supervisor dies", func(t *testing.T) {
		source := t.TempDir()
		p.create(t, "dies", "appliance=dir", "source="+source, "coherence=shared")
		one := p.docker.Start(t, pause("dies:/data"))
		two := p.docker.Start(t, pause("dies:/data"))
		s := p.ls(t)["dies"]
		if err := unix.Kill(s.PID, unix.SIGKILL); err != nil {
			t.Fatal(err)
		}
		harness.AwaitEnd(t, s.PID, 10*time.Second)
		p.wantServed(t)
		if r := two.Exec(t, "ls", "/data"); r.Code == 0 {
			t.Error("a container reads what nobody serves")
		}
		one.Restart(t)
		p.wantServed(t, "dies")
		one.Shell(t, "echo hello >/data/file")
		two.Restart(t)
		if got := two.Shell(t, "cat /data/file"); got != "hello\n" {
			t.Errorf("after the second container's restart: %q", got)
		}
		one.Stop(t)
		two.Stop(t)
		p.wantServed(t)
	})

	t.Run("dedicated", func(t *testing.T) {
		p.create(t, "own", "appliance=mem", "dedicated=true", "memory=256M")
		one := p.docker.Start(t, pause("own:/data"))
		two := p.docker.Start(t, pause("own:/data"))
		one.Shell(t, "echo hello >/data/file")
		if got := two.Shell(t, "ls /data"); got != "" {
			t.Errorf("in the second container's own volume: %q", got)
		}
		all := p.ls(t)
		for name := range all {
			if !strings.HasPrefix(name, "own.") || len(all) != 2 {
				t.Errorf("fsva ls says %v, want two instances", all)
			}
		}
		p.refused(t, []string{"volume", "rm", "own"}, "in use")
		one.Stop(t)
		two.Stop(t)
		p.wantServed(t)
	})

	t.Run("runc", func(t *testing.T) {
		harness.NeedKernelFUSE(t)
		source := t.TempDir()
		p.create(t, "both", "appliance=dir", "source="+source, "coherence=shared", "runc=true")
		dir := filepath.Join(p.env.RunDir, "plugin/host/both")
		one := p.docker.Start(t, harness.Container{Runtime: "runc", Mounts: []string{"both:/data"}, Flags: []string{"--stop-signal=KILL"}})
		one.Shell(t, "echo hello >/data/file")
		if mounted, err := fusemount.Mounted(dir); err != nil || !mounted {
			t.Errorf("mounted on the host: %v, %v", mounted, err)
		}
		p.restart(t, unix.SIGTERM)
		if got := p.docker.Shell(t, "cat /data/file", "both:/data"); got != "hello\n" {
			t.Errorf("in a container of runsc: %q", got)
		}
		one.Shell(t, "cat /data/file")
		// The mount comes back when the next container has the volume served again.
		pid := p.ls(t)["both"].PID
		if err := unix.Kill(pid, unix.SIGKILL); err != nil {
			t.Fatal(err)
		}
		harness.AwaitEnd(t, pid, 10*time.Second)
		if got := p.docker.Shell(t, "cat /data/file", "both:/data"); got != "hello\n" {
			t.Errorf("in a container after the supervisor's death: %q", got)
		}
		if got := one.Shell(t, "cat /data/file"); got != "hello\n" {
			t.Errorf("in the first container after the supervisor's death: %q", got)
		}
		one.Stop(t)
		p.wantServed(t)
		if mounted, err := fusemount.Mounted(dir); err != nil || mounted {
			t.Errorf("still mounted on the host: %v, %v", mounted, err)
		}
	})
}
