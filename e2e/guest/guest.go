// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

// Package guest gives end-to-end tests Linux virtual machines: QEMU with software emulation, Debian's cloud kernel, and an
// initramfs with a static busybox, the programs under test and an agent that runs commands (package agent). A guest boots
// in a few seconds, has no network and no disk, and shares all of its memory with the host as vhost-user devices need it.
//
// The guest is trusted as the tests' own, but not to answer: every wait has a deadline, and QEMU is ended with the test.
package guest

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"fsva/e2e/guest/agent"
	"fsva/e2e/harness"
)

const (
	// bootTimeout is how long a guest may take until its agent answers; an idle machine takes about 5 s, a busy one many times that.
	bootTimeout = 4 * time.Minute
	// commandTimeout bounds commands that say nothing else. Emulated processors are slow.
	commandTimeout = 2 * time.Minute
	defaultMemory  = 512
)

// Config says what a guest has. The zero value of each field means the default.
type Config struct {
	// Memory is in MiB (512).
	Memory int
	// CPUs is the number of processors (1).
	CPUs int
	// Modules are the kernel modules to load besides those of the agent's port. What they need is loaded too.
	Modules []string
	// Files are further files of the guest: from their path there to the file on the host.
	Files map[string]string
	// Args are further arguments of QEMU: devices.
	Args []string
}

// Guest is a running virtual machine. Its methods may be called by many goroutines, those that take a testing.TB by the
// test's only.
type Guest struct {
	qemu    *harness.Service
	client  *agent.Client
	conn    net.Conn
	console string
	// Booted is how long it took until the agent answered. Immutable.
	Booted time.Duration
}

// Boot starts a guest and waits until its agent answers. The test's clean-up ends it, and prints its console if the test
// has failed.
func Boot(t testing.TB, e *harness.Env, c Config) *Guest {
	t.Helper()
	g, err := boot(t, e, c)
	if err != nil {
		console := "no console"
		if g != nil {
			console = g.Console()
		}
		t.Fatalf("guest: %v\n%s", err, console)
	}
	return g
}

func boot(t testing.TB, e *harness.Env, c Config) (*Guest, error) {
	t.Helper()
	harness.NeedCommand(t, "qemu-system-x86_64", "qemu-system-x86")
	kernel, err := FindKernel(filepath.Join(e.Root, "bin/guest"))
	if err != nil {
		return nil, err
	}
	dir := e.TempDir(t)
	initrd := filepath.Join(dir, "initramfs")
	if err := writeInitramfs(initrd, kernel, c, harness.NeedCommand(t, "busybox", "busybox-static"), e.Binary(t, "guest-init")); err != nil {
		return nil, fmt.Errorf("initramfs: %w", err)
	}
	port, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(dir, "agent"), Net: "unix"})
	if err != nil {
		return nil, err
	}
	defer port.Close()
	if err := port.SetDeadline(time.Now().Add(bootTimeout)); err != nil {
		return nil, err
	}

	g := &Guest{console: filepath.Join(dir, "console")}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("console of the guest:\n%s", g.Console())
		}
	})
	start := time.Now()
	g.qemu = harness.Start(t, nil, append(g.command(kernel, initrd, port.Addr().String(), c), c.Args...)...)
	// A QEMU that ends early is noticed here, and one that hangs by the deadline.
	ended := make(chan struct{})
	go func() {
		select {
		case <-g.qemu.Done():
			port.Close()
		case <-ended:
		}
	}()
	g.conn, err = port.AcceptUnix()
	close(ended)
	if err != nil {
		return g, fmt.Errorf("QEMU does not connect to the agent's port: %w\n%s", err, g.qemu.Output())
	}
	t.Cleanup(func() { g.conn.Close() })
	if err := g.conn.SetReadDeadline(start.Add(bootTimeout)); err != nil {
		return g, err
	}
	if g.client, err = agent.NewClient(g.conn); err != nil {
		return g, fmt.Errorf("%w\n%s", err, g.qemu.Output())
	}
	g.Booted = time.Since(start)
	return g, g.conn.SetReadDeadline(time.Time{})
}

// command is the QEMU command without the devices of the test.
func (g *Guest) command(kernel *Kernel, initrd, port string, c Config) []string {
	memory := c.Memory
	if memory == 0 {
		memory = defaultMemory
	}
	return []string{"qemu-system-x86_64",
		// The machine the test wants and nothing that its user configured; and no KVM, which is not there in most CI.
		"-no-user-config", "-nodefaults", "-display", "none", "-no-reboot",
		"-machine", "q35,memory-backend=mem", "-accel", "tcg", "-cpu", "max", "-smp", fmt.Sprint(max(c.CPUs, 1)),
		// vhost-user devices get this memory as a file descriptor.
		"-m", fmt.Sprint(memory), "-object", fmt.Sprintf("memory-backend-memfd,id=mem,size=%dM,share=on", memory),
		"-kernel", kernel.Image, "-initrd", initrd,
		// The agent's random numbers would wait for an emulated machine's entropy.
		"-append", "console=ttyS0 quiet panic=-1 mitigations=off random.trust_cpu=on rdinit=/init",
		"-chardev", "file,id=console,path=" + g.console, "-serial", "chardev:console",
		"-device", "virtio-serial-pci", "-chardev", "socket,id=agent,path=" + port, "-device", "virtserialport,chardev=agent,name=" + agent.PortName,
	}
}

// writeInitramfs makes the guest's root file system.
func writeInitramfs(path string, kernel *Kernel, c Config, busybox, init string) (err error) {
	out, err := os.Create(path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	archive := &cpioWriter{w: out}
	copyFile := func(name, from string) error {
		f, err := os.Open(from)
		if err != nil {
			return err
		}
		defer f.Close()
		info, err := f.Stat()
		if err != nil {
			return err
		}
		return archive.file(name, info.Mode(), info.Size(), f)
	}

	for name, from := range map[string]string{"/init": init, "/bin/busybox": busybox} {
		if err := copyFile(name, from); err != nil {
			return err
		}
	}
	applets, err := harness.Try(10*time.Second, busybox, "--list")
	if err != nil {
		return err
	}
	for applet := range strings.Lines(applets.Stdout) {
		if applet = strings.TrimSpace(applet); applet != "busybox" {
			if err := archive.symlink("/bin/"+applet, "busybox"); err != nil {
				return err
			}
		}
	}
	modules, err := kernel.loadOrder(append([]string{"virtio_pci", "virtio_console"}, c.Modules...))
	if err != nil {
		return err
	}
	var list strings.Builder
	for _, m := range modules {
		fmt.Fprintln(&list, filepath.Base(m))
		if err := copyFile("/modules/"+filepath.Base(m), m); err != nil {
			return err
		}
	}
	for name, content := range map[string]string{
		"/modules/list": list.String(),
		"/etc/passwd":   "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n",
		"/etc/group":    "root:x:0:\nnogroup:x:65534:\n",
	} {
		if err := archive.file(name, 0o644, int64(len(content)), strings.NewReader(content)); err != nil {
			return err
		}
	}
	for name, from := range c.Files {
		if err := copyFile(name, from); err != nil {
			return err
		}
	}
	return errors.Join(archive.dir("/root"), archive.dir("/mnt"), archive.close())
}

// Console returns what the guest's kernel and first process have printed.
func (g *Guest) Console() string {
	b, err := os.ReadFile(g.console)
	if err != nil {
		return err.Error()
	}
	const keep = 8000
	return string(b[max(0, len(b)-keep):])
}

// PID returns QEMU's process id.
func (g *Guest) PID() int { return g.qemu.PID() }

// Kernel returns the guest's kernel release.
func (g *Guest) Kernel() string { return g.client.Hello.Kernel }

// Kill ends the virtual machine by SIGKILL, as a crash of QEMU does, and waits for its end.
func (g *Guest) Kill(t testing.TB) {
	t.Helper()
	g.qemu.Kill()
}

// Command is what runs in a guest. The zero value of each field means the default.
type Command struct {
	Args    []string
	Env     []string
	Dir     string
	Stdin   []byte
	Timeout time.Duration // 2 minutes
}

// Try runs a command and does not judge its exit code; it returns an error if the command cannot be started, takes too
// long, or the guest ends.
func (g *Guest) Try(c Command) (harness.Result, error) {
	if c.Timeout == 0 {
		c.Timeout = commandTimeout
	}
	resp, err := g.client.Do(agent.Request{Args: c.Args, Env: c.Env, Dir: c.Dir, Stdin: c.Stdin, Timeout: c.Timeout})
	r := harness.Result{Stdout: string(resp.Stdout), Stderr: string(resp.Stderr), Code: resp.Code, Elapsed: resp.Elapsed}
	if err != nil {
		err = fmt.Errorf("in the guest: %.500q: %w\n%s%s", c.Args, err, r.Stdout, r.Stderr)
	}
	return r, err
}

// Run is Try, and fails the test for the error.
func (g *Guest) Run(t testing.TB, c Command) harness.Result {
	t.Helper()
	r, err := g.Try(c)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// Must runs a command, fails the test unless it exits with 0, and returns its stdout.
func (g *Guest) Must(t testing.TB, args ...string) string {
	t.Helper()
	r := g.Run(t, Command{Args: args})
	if r.Code != 0 {
		t.Fatalf("in the guest: %.500q: exit code %d\n%s%s", args, r.Code, r.Stdout, r.Stderr)
	}
	return r.Stdout
}

// Shell runs a busybox script and fails the test unless it succeeds.
func (g *Guest) Shell(t testing.TB, script string) string {
	t.Helper()
	return g.Must(t, "sh", "-ec", script)
}

// Write creates a file in the guest.
func (g *Guest) Write(t testing.TB, path string, content []byte, mode os.FileMode) {
	t.Helper()
	if _, err := g.client.Do(agent.Request{Write: path, Stdin: content, Mode: mode, Timeout: commandTimeout}); err != nil {
		t.Fatalf("in the guest: write %s: %v", path, err)
	}
}

// Read returns the content of a file in the guest.
func (g *Guest) Read(t testing.TB, path string) []byte {
	t.Helper()
	r, err := g.client.Do(agent.Request{Read: path, Timeout: commandTimeout})
	if err != nil {
		t.Fatalf("in the guest: read %s: %v", path, err)
	}
	return r.Stdout
}

// Job is a command that runs in the background.
type Job struct {
	done   chan struct{} // closed when result and err are set
	result harness.Result
	err    error
}

// Start runs a command in the background. Its time limit, or the end of the guest, ends it.
func (g *Guest) Start(c Command) *Job {
	j := &Job{done: make(chan struct{})}
	go func() {
		defer close(j.done)
		j.result, j.err = g.Try(c)
	}()
	return j
}

// Wait waits for the command's end.
func (j *Job) Wait() (harness.Result, error) {
	<-j.done
	return j.result, j.err
}

// Done is closed when the command has ended.
func (j *Job) Done() <-chan struct{} { return j.done }
