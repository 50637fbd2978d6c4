// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package harness

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Containerd is a daemon of a test's own, with all it keeps in one directory.
type Containerd struct {
	// ConfigFile is the daemon's configuration. Dir holds it, and more beside it. Immutable.
	ConfigFile, Dir string

	ctr  string
	env  []string // of the daemon, and so of its shims
	proc *process
}

// containerdNamespace is what ctr works in; it also names the cgroups of containers.
const containerdNamespace = "fsva-e2e"

// NewContainerd prepares a daemon that finds shims in shimDir; it does not run yet. Its configuration is as Debian's
// package has it, with other directories.
func (e *Env) NewContainerd(t testing.TB, shimDir string) *Containerd {
	t.Helper()
	NeedRoot(t)
	NeedCommand(t, "containerd", "containerd")
	dir := e.TempDir(t)
	c := &Containerd{
		Dir: dir, ConfigFile: filepath.Join(dir, "config.toml"),
		ctr: NeedCommand(t, "ctr", "containerd"), env: append(e.FSVAEnv(), "PATH="+shimDir+":"+os.Getenv("PATH")),
	}
	text := fmt.Sprintf(`version = 2

[plugins]
  [plugins."io.containerd.grpc.v1.cri"]
    [plugins."io.containerd.grpc.v1.cri".cni]
      bin_dir = "%[1]s/cni"
      conf_dir = "%[1]s/cni"
  [plugins."io.containerd.internal.v1.opt"]
    path = "%[1]s/opt"
`, dir)
	if err := os.WriteFile(c.ConfigFile, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return c
}

// Start starts the daemon, and returns when it answers. The test's clean-up ends it.
func (c *Containerd) Start(t testing.TB) {
	t.Helper()
	c.proc = startProcessIn(t, shimNamespaces(t), c.env, "containerd", "--config", c.ConfigFile,
		"--root", filepath.Join(c.Dir, "root"), "--state", filepath.Join(c.Dir, "state"), "--address", c.address())
	proc := c.proc
	t.Cleanup(func() {
		if c.proc == proc {
			c.Stop(t)
		}
	})
	for deadline := time.Now().Add(time.Minute); ; {
		r, err := run(10*time.Second, nil, nil, c.ctr, "--address", c.address(), "version")
		if err == nil && r.Code == 0 {
			return
		}
		if time.Now().After(deadline) || c.proc.waitFor(50*time.Millisecond) {
			t.Fatalf("containerd does not answer: %v %s\n%s", err, r.Stderr, tail(c.proc.output()))
		}
	}
}

// shimNamespaces are the namespaces for containerd. gVisor's shim insists on lowering its OOM score, which takes
// CAP_SYS_RESOURCE; it only goes without in a user namespace, so where root has not that capability, it gets one, in
// which all users but the last are themselves.
func shimNamespaces(t testing.TB) *syscall.SysProcAttr {
	t.Helper()
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		t.Fatal(err)
	}
	if data[0].Effective&(1<<unix.CAP_SYS_RESOURCE) != 0 {
		return &syscall.SysProcAttr{}
	}
	all := []syscall.SysProcIDMap{{Size: 1<<32 - 2}}
	return &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWUSER | unix.CLONE_NEWNS, UidMappings: all, GidMappings: all, GidMappingsEnableSetgroups: true}
}

func (c *Containerd) address() string { return filepath.Join(c.Dir, "sock") }

// Stop ends the daemon. Containers that run go on.
func (c *Containerd) Stop(t testing.TB) {
	t.Helper()
	proc := c.proc
	c.proc = nil
	if err := proc.cmd.Process.Signal(unix.SIGTERM); err != nil {
		t.Errorf("containerd: %v", err)
	}
	if !proc.waitFor(stopTimeout) {
		t.Errorf("containerd does not stop; killing it\n%s", tail(proc.output()))
		proc.kill()
	}
}

// Log returns what the daemon has printed.
func (c *Containerd) Log() string { return c.proc.output() }

// Ctr runs a command of ctr, at most a minute. It does not judge the exit code.
func (c *Containerd) Ctr(t testing.TB, args ...string) Result {
	t.Helper()
	return Run(t, time.Minute, nil, append([]string{c.ctr, "--address", c.address(), "--namespace", containerdNamespace}, args...)...)
}

// Must is Ctr for a command that has to succeed. It returns what it prints.
func (c *Containerd) Must(t testing.TB, args ...string) string {
	t.Helper()
	r := c.Ctr(t, args...)
	if r.Code != 0 {
		t.Fatalf("ctr %s: exit code %d\n%s%s", strings.Join(args, " "), r.Code, r.Stdout, r.Stderr)
	}
	return r.Stdout
}

// Remove kills a container, if it runs, and removes it.
func (c *Containerd) Remove(t testing.TB, id string) {
	t.Helper()
	c.Ctr(t, "task", "rm", "--force", id)
	if r := c.Ctr(t, "container", "rm", id); r.Code != 0 {
		t.Errorf("ctr container rm %s: %s", id, r.Stderr)
	}
}

// RunscRoot makes a directory for a runsc's --root. runsc leaves a network namespace mounted in it.
func (e *Env) RunscRoot(t testing.TB) string {
	t.Helper()
	dir := e.TempDir(t)
	t.Cleanup(func() { unmountNullNetns(t, dir) })
	return dir
}

// unmountNullNetns unmounts what runsc leaves in its --root, if it has been used.
func unmountNullNetns(t testing.TB, root string) {
	err := unix.Unmount(filepath.Join(root, "null-netns"), unix.MNT_DETACH)
	if err != nil && err != unix.ENOENT && err != unix.EINVAL {
		t.Errorf("unmount null-netns in %s: %v", root, err)
	}
}

// BusyboxRoot makes a root file system with busybox in the test's own directory.
func (e *Env) BusyboxRoot(t testing.TB) string {
	t.Helper()
	busybox := NeedCommand(t, "busybox", "busybox-static")
	root := filepath.Join(e.TempDir(t), "rootfs")
	if err := makeRoot(root); err != nil {
		t.Fatal(err)
	}
	box, err := os.ReadFile(busybox)
	if err != nil {
		t.Fatal(err)
	}
	bin := filepath.Join(root, "bin")
	if err := os.Mkdir(bin, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(bin, "busybox"), box, 0o755); err != nil {
		t.Fatal(err)
	}
	for applet := range strings.Lines(Must(t, busybox, "--list")) {
		if applet = strings.TrimSpace(applet); applet != "busybox" {
			if err := os.Symlink("busybox", filepath.Join(bin, applet)); err != nil {
				t.Fatal(err)
			}
		}
	}
	return root
}
