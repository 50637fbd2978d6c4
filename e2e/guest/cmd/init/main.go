// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

// Command init is the first process of a test guest. It loads the kernel modules that /modules/list names, in that
// order, mounts what every program expects, and serves the tests by package agent until the virtual machine ends. It
// writes to the console what went wrong, and then stops the machine.
package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"fsva/e2e/guest/agent"
)

func main() {
	if os.Getpid() != 1 {
		if err := serve(); err != nil {
			fmt.Fprintf(os.Stderr, "agent: %v\n", err)
			os.Exit(1)
		}
		return
	}
	err := prepare()
	if err == nil {
		err = superviseAgent()
	}
	fmt.Fprintf(os.Stderr, "init: %v; powering off\n", err)
	unix.Sync()
	err = unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART) // which ends QEMU, because of -no-reboot
	fmt.Fprintf(os.Stderr, "init: reboot: %v\n", err)
}

func prepare() error {
	if err := leaveRootfs(); err != nil {
		return err
	}
	for _, m := range []struct{ source, target, fstype, data string }{
		{"devtmpfs", "/dev", "devtmpfs", "mode=0755"},
		{"proc", "/proc", "proc", ""},
		{"sysfs", "/sys", "sysfs", ""},
		{"tmpfs", "/tmp", "tmpfs", "mode=1777"},
		{"tmpfs", "/run", "tmpfs", "mode=0755"},
		{"tmpfs", "/dev/shm", "tmpfs", "mode=1777"},
	} {
		if err := os.MkdirAll(m.target, 0o755); err != nil {
			return err
		}
		if err := unix.Mount(m.source, m.target, m.fstype, 0, m.data); err != nil {
			return fmt.Errorf("mount %s: %w", m.target, err)
		}
	}
	for name, target := range map[string]string{"fd": "/proc/self/fd", "stdin": "/proc/self/fd/0", "stdout": "/proc/self/fd/1", "stderr": "/proc/self/fd/2"} {
		if err := os.Symlink(target, filepath.Join("/dev", name)); err != nil {
			return err
		}
	}
	list, err := os.ReadFile("/modules/list")
	if err != nil {
		return err
	}
	for name := range strings.Lines(string(list)) {
		if err := load(filepath.Join("/modules", strings.TrimSpace(name))); err != nil {
			return err
		}
	}
	return errors.Join(os.Setenv("PATH", "/bin:/sbin"), os.Setenv("HOME", "/root"))
}

// leaveRootfs makes a bind mount of the initramfs the root. From the initramfs itself, which is no mount that can be
// moved, pivot_root(2) is not possible, and with that no gofer.
func leaveRootfs() error {
	const root = "/.root"
	if err := os.Mkdir(root, 0o755); err != nil {
		return err
	}
	if err := unix.Mount("/", root, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("bind the root: %w", err)
	}
	if err := unix.Chdir(root); err != nil {
		return err
	}
	if err := unix.Mount(".", "/", "", unix.MS_MOVE, ""); err != nil {
		return fmt.Errorf("move the root: %w", err)
	}
	return errors.Join(unix.Chroot("."), unix.Chdir("/"))
}

// load loads a kernel module.
func load(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := unix.FinitModule(int(f.Fd()), "", 0); err != nil && err != unix.EEXIST {
		return fmt.Errorf("load %s: %w", path, err)
	}
	return nil
}

// superviseAgent starts this program again as the agent and waits for all processes that become children of the first one,
// until the agent ends.
func superviseAgent() error {
	p, err := os.StartProcess("/proc/self/exe", []string{"agent"}, &os.ProcAttr{Env: os.Environ(), Files: []*os.File{os.Stdin, os.Stdout, os.Stderr}})
	if err != nil {
		return err
	}
	for {
		var status unix.WaitStatus
		pid, err := unix.Wait4(-1, &status, 0, nil)
		switch {
		case err == unix.EINTR:
		case err != nil:
			return fmt.Errorf("wait: %w", err)
		case pid == p.Pid:
			return fmt.Errorf("the agent has ended: status %#x", int(status))
		}
	}
}

func serve() error {
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		return err
	}
	path, err := port()
	if err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	// The first write waits until the host's end is there; a read before that would see the end of the stream.
	return agent.Serve(f, f, agent.Hello{Kernel: unix.ByteSliceToString(name.Release[:])})
}

// port returns the device of the agent's virtio-serial port. The kernel learns its name from the device some time after
// the driver was loaded, and tells nobody: hence the look every few milliseconds.
func port() (string, error) {
	const patience = 10 * time.Second
	for deadline := time.Now().Add(patience); ; {
		names, err := filepath.Glob("/sys/class/virtio-ports/*/name")
		if err != nil {
			return "", err
		}
		for _, path := range names {
			if name, err := os.ReadFile(path); err == nil && string(bytes.TrimSpace(name)) == agent.PortName {
				return filepath.Join("/dev", filepath.Base(filepath.Dir(path))), nil
			}
		}
		if time.Now().After(deadline) {
			return "", fmt.Errorf("no virtio-serial port %s after %v; ports: %q", agent.PortName, patience, names)
		}
		time.Sleep(5 * time.Millisecond)
	}
}
