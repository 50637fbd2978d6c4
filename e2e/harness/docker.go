// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package harness

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Docker is a daemon of the tests' own: its socket, data, configuration and cgroups are all named for this run, and it
// touches neither iptables nor bridges, so containers need --network=none.
type Docker struct {
	env    *Env
	dir    string
	cli    string
	proc   *process
	cgroup string
	nextID atomic.Int64
}

// Images that Docker has. ImageBase is a busybox; ImageHost has only links into /usr, which MountUsr provides.
const (
	ImageBase = "fsva-base:latest"
	ImageHost = "fsva-host:latest"
)

// Runtimes that Docker has.
const (
	RuntimeOurs  = "runsc"
	RuntimeStock = "runsc-stock"
	// RuntimeStockExclusive is stock runsc with all bind mounts in the mode that exclusive volumes use.
	RuntimeStockExclusive = "runsc-stock-exclusive"
)

// MountUsr makes ImageHost usable: the machine's own programs, read-only.
const MountUsr = "/usr:/usr:ro"

// Docker returns the daemon, started when first asked for.
func (e *Env) Docker(t testing.TB) *Docker {
	t.Helper()
	NeedRoot(t)
	NeedCommand(t, "dockerd", "docker.io")
	NeedCommand(t, "containerd", "containerd")
	cli := NeedCommand(t, "docker", "docker.io")
	NeedCommand(t, "busybox", "busybox-static")
	e.dockerMu.Lock()
	defer e.dockerMu.Unlock()
	if e.docker == nil && e.dockerer == nil {
		e.docker, e.dockerer = e.startDocker(t, cli)
	}
	if e.dockerer != nil {
		t.Fatalf("docker: %v", e.dockerer)
	}
	return e.docker
}

func (e *Env) startDocker(t testing.TB, cli string) (*Docker, error) {
	runsc, err := e.binary("runsc")
	if err != nil {
		return nil, err
	}
	stock, err := e.binary("runsc-stock")
	if err != nil {
		return nil, err
	}
	d := &Docker{env: e, dir: filepath.Join(e.Dir, "docker"), cli: cli, cgroup: filepath.Base(e.Dir)}
	if err := os.MkdirAll(d.dir, 0o755); err != nil {
		return nil, err
	}
	// FSVA_E2E_RUNSC_ARGS adds flags to both runtimes, for debugging.
	extra := strings.Fields(os.Getenv("FSVA_E2E_RUNSC_ARGS"))
	config, err := json.Marshal(map[string]any{
		"runtimes": map[string]any{
			RuntimeOurs:  map[string]any{"path": runsc, "runtimeArgs": extra},
			RuntimeStock: map[string]any{"path": stock, "runtimeArgs": extra},
			RuntimeStockExclusive: map[string]any{"path": stock,
				"runtimeArgs": append([]string{"--directfs=false", "--file-access-mounts=exclusive"}, extra...)},
		},
		"storage-driver": "overlay2",
		"cgroup-parent":  "/" + d.cgroup,
	})
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(d.at("daemon.json"), config, 0o644); err != nil {
		return nil, err
	}
	if err := d.start(t); err != nil {
		return nil, err
	}
	return d, errors.Join(d.importBase(), d.importHost())
}

// start starts the daemon and waits until it answers.
func (d *Docker) start(t testing.TB) error {
	d.proc = startProcess(t, d.env.FSVAEnv(), "dockerd",
		"--config-file", d.at("daemon.json"), "-H", "unix://"+d.at("sock"), "--data-root", d.at("data"),
		"--exec-root", d.at("exec"), "--pidfile", d.at("pid"),
		"--iptables=false", "--ip6tables=false", "--bridge=none")
	if err := d.awaitReady(60 * time.Second); err != nil {
		d.proc.kill()
		return fmt.Errorf("%w\n%s", err, d.proc.output())
	}
	return nil
}

// Restart ends the daemon with a signal and starts it again. Nobody else may use it meanwhile. With SIGTERM it stops
// its containers.
func (d *Docker) Restart(t testing.TB, how unix.Signal) {
	t.Helper()
	below := descendants(d.proc.pid())
	if err := d.proc.cmd.Process.Signal(how); err != nil {
		t.Fatal(err)
	}
	if !d.proc.waitFor(time.Minute) {
		t.Fatalf("dockerd does not end by %v:\n%s", how, tail(d.proc.output()))
	}
	if left := awaitGone(below, time.Now().Add(10*time.Second)); len(left) > 0 {
		t.Fatalf("dockerd left %v", left)
	}
	reap() // a containerd that is a zombie is one that runs, for dockerd
	if err := d.start(t); err != nil {
		t.Fatal(err)
	}
}

// CLI runs a docker command. It does not judge the exit code.
func (d *Docker) CLI(t testing.TB, args ...string) Result {
	t.Helper()
	r, err := d.command(2*time.Minute, nil, args...)
	if err != nil {
		t.Fatalf("docker %q: %v\n%s", args, err, r.Stderr)
	}
	return r
}

// ConfigFile is the daemon's configuration file.
func (d *Docker) ConfigFile() string { return d.at("daemon.json") }

// Reload makes the daemon read its configuration again, and returns when its runtimes, as JSON, are as wanted.
func (d *Docker) Reload(t testing.TB, wanted func(runtimes string) bool) {
	t.Helper()
	if err := d.proc.cmd.Process.Signal(unix.SIGHUP); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		r, err := d.command(10*time.Second, nil, "info", "--format", "{{json .Runtimes}}")
		if err == nil && r.Code == 0 && wanted(r.Stdout) {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("docker's runtimes are not as they should be: %v %s%s", err, r.Stdout, r.Stderr)
		}
	}
}

func (d *Docker) at(name string) string { return filepath.Join(d.dir, name) }

// awaitReady asks the daemon until it answers; the CLI tells a daemon that does not listen yet from any other fault.
func (d *Docker) awaitReady(timeout time.Duration) error {
	for deadline := time.Now().Add(timeout); ; {
		r, err := d.command(10*time.Second, nil, "version")
		if err == nil && r.Code == 0 {
			return nil
		}
		if time.Now().After(deadline) || d.proc.waitFor(50*time.Millisecond) {
			return fmt.Errorf("dockerd does not answer: %v %s", err, r.Stderr)
		}
	}
}

func (d *Docker) command(timeout time.Duration, stdin []byte, args ...string) (Result, error) {
	env := []string{"DOCKER_HOST=unix://" + d.at("sock"), "DOCKER_CONFIG=" + d.at("config")}
	return run(timeout, stdin, env, append([]string{d.cli}, args...)...)
}

func (d *Docker) must(args ...string) error {
	r, err := d.command(time.Minute, nil, args...)
	if err == nil && r.Code != 0 {
		err = fmt.Errorf("exit code %d: %s", r.Code, r.Stderr)
	}
	if err != nil {
		return fmt.Errorf("docker %s: %w", strings.Join(args, " "), err)
	}
	return nil
}

func (d *Docker) importBase() error {
	root := d.at("base")
	if err := makeRoot(root); err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Join(root, "bin"), 0o755); err != nil {
		return err
	}
	r, err := run(10*time.Second, nil, nil, "busybox", "--list")
	if err != nil {
		return err
	}
	for applet := range strings.Lines(r.Stdout) {
		if applet = strings.TrimSpace(applet); applet == "busybox" {
			continue
		}
		if err := os.Symlink("busybox", filepath.Join(root, "bin", applet)); err != nil {
			return err
		}
	}
	r, err = run(10*time.Second, nil, nil, "sh", "-c", `cp "$(command -v busybox)" "$0"`, filepath.Join(root, "bin/busybox"))
	if err != nil || r.Code != 0 {
		return fmt.Errorf("copy busybox: %v %s", err, r.Stderr)
	}
	return d.importRoot(root, ImageBase)
}

func (d *Docker) importHost() error {
	root := d.at("host")
	if err := makeRoot(root); err != nil {
		return err
	}
	if err := os.Mkdir(filepath.Join(root, "usr"), 0o755); err != nil {
		return err
	}
	for _, name := range []string{"bin", "sbin", "lib", "lib64"} {
		if err := os.Symlink("usr/"+name, filepath.Join(root, name)); err != nil {
			return err
		}
	}
	return d.importRoot(root, ImageHost)
}

func makeRoot(root string) error {
	for _, dir := range []string{"etc", "proc", "sys", "dev", "tmp", "data", "t", "root"} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
			return err
		}
	}
	return errors.Join(
		os.Chmod(filepath.Join(root, "tmp"), 0o1777),
		os.WriteFile(filepath.Join(root, "etc/passwd"), []byte("root:x:0:0:root:/root:/bin/sh\n"), 0o644),
		os.WriteFile(filepath.Join(root, "etc/group"), []byte("root:x:0:\n"), 0o644))
}

func (d *Docker) importRoot(root, image string) error {
	archive := root + ".tar"
	r, err := run(time.Minute, nil, nil, "tar", "-C", root, "-cf", archive, ".")
	if err != nil || r.Code != 0 {
		return fmt.Errorf("tar: %v %s", err, r.Stderr)
	}
	return d.must("import", archive, image)
}

// stop ends the daemon and reports what it left.
func (d *Docker) stop() error {
	var errs []error
	r, err := d.command(30*time.Second, nil, "ps", "-aq")
	if err != nil {
		errs = append(errs, err)
	}
	for id := range strings.Lines(r.Stdout) {
		id = strings.TrimSpace(id)
		errs = append(errs, fmt.Errorf("container %s is left", id), d.must("rm", "-f", id))
	}
	below := descendants(d.proc.pid())
	if err := d.proc.cmd.Process.Signal(unix.SIGTERM); err != nil {
		errs = append(errs, err)
	}
	if !d.proc.waitFor(30 * time.Second) {
		errs = append(errs, errors.New("dockerd does not stop; killing it"))
		d.proc.kill()
	}
	for _, p := range awaitGone(below, time.Now().Add(10*time.Second)) {
		errs = append(errs, fmt.Errorf("dockerd left process %v", p))
	}
	found, err := mountsBelow(d.dir)
	if err != nil {
		errs = append(errs, err)
	}
	// dockerd keeps a bind mount of its data directory, and of named network namespaces, when it stops.
	for i := len(found) - 1; i >= 0; i-- {
		if err := unix.Unmount(found[i], unix.MNT_DETACH); err != nil {
			errs = append(errs, fmt.Errorf("unmount %s: %w", found[i], err))
		}
	}
	return errors.Join(errs...)
}
