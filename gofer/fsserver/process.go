// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package fsserver

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path"

	"golang.org/x/sys/unix"
)

// maskedProc are files below /proc that tell about, or reach, the whole
// machine. The rest of it is read-only.
var maskedProc = []string{"/proc/kcore", "/proc/keys", "/proc/kmsg", "/proc/latency_stats", "/proc/sched_debug", "/proc/timer_list", "/proc/kallsyms", "/proc/kpagecount", "/proc/kpageflags", "/proc/sysrq-trigger"}

// maskedProcDirs are directories of that kind.
var maskedProcDirs = []string{"/proc/acpi", "/proc/asound", "/proc/bus", "/proc/driver", "/proc/irq", "/proc/scsi", "/proc/sysvipc"}

// devices are the files of /dev, each a bind of the host's. /dev/fuse only has
// to be openable: libfuse opens it before it asks the helper.
var devices = map[string]string{
	"null": "/dev/null", "zero": "/dev/zero", "full": "/dev/full",
	"random": "/dev/random", "urandom": "/dev/urandom", "tty": "/dev/tty",
	"fuse": "/dev/null",
}

var devLinks = map[string]string{
	"fd": "/proc/self/fd", "stdin": "/proc/self/fd/0", "stdout": "/proc/self/fd/1", "stderr": "/proc/self/fd/2",
}

// execProcess makes the tree the root of this process, gives up all privileges
// and becomes the server. The process must be alone in the namespaces of
// CloneFlags.
func execProcess(c *Config, t *tree) error {
	if err := t.mountScratch(c); err != nil {
		return err
	}
	for _, b := range c.Binds {
		if err := t.bind(b.Host, b.Target, b.ReadOnly); err != nil {
			return err
		}
	}
	if err := t.mountProc(); err != nil {
		return err
	}
	if err := t.mountDev(); err != nil {
		return err
	}
	if err := unix.Sethostname([]byte(hostname(c.Volume))); err != nil {
		return fmt.Errorf("set the hostname: %w", err)
	}
	if err := t.enter(); err != nil {
		return err
	}
	env := c.environ()
	bin, err := lookPath(c.Argv[0], env)
	if err != nil {
		return err
	}
	mask, err := capabilityMask(c.Capabilities)
	if err != nil {
		return err
	}
	if err := passChannel(); err != nil {
		return err
	}
	if err := dropPrivileges(mask); err != nil {
		return err
	}
	// The supervisor set it already; giving up credentials may clear it.
	if err := unix.Prctl(unix.PR_SET_PDEATHSIG, uintptr(unix.SIGKILL), 0, 0, 0); err != nil {
		return fmt.Errorf("set the parent death signal: %w", err)
	}
	// Modes come complete from the applications: not one bit is for the server's
	// own umask to clear.
	unix.Umask(0)
	return fmt.Errorf("run %s: %w", bin, unix.Exec(bin, c.Argv, env))
}

// mountScratch mounts the writable, private directories.
func (t *tree) mountScratch(c *Config) error {
	for _, m := range scratchMounts(c) {
		err := t.at(m.path, func(fd int) error {
			return wrap("mount", m.path, unix.Mount("fsva-scratch", fdPath(fd), "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, m.options))
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// scratchMount is a tmpfs in the FS server's root.
type scratchMount struct{ path, options string }

// scratchMounts lists them for either isolation.
func scratchMounts(c *Config) []scratchMount {
	ms := []scratchMount{
		{"/tmp", "mode=1777,size=1g"},
		{"/run", "mode=0755,size=64m"},
		{"/root", "mode=0700,size=64m"},
	}
	if c.Root == HostRoot {
		ms = append(ms, scratchMount{"/var", "mode=0755,size=1g"})
	}
	return ms
}

// mountProc mounts the new PID namespace's /proc. uid 0 may write to much of it
// without any capability, so it is read-only.
func (t *tree) mountProc() error {
	return t.at("/proc", func(fd int) error {
		if err := unix.Mount("proc", fdPath(fd), "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC|unix.MS_RDONLY, ""); err != nil {
			return fmt.Errorf("mount /proc: %w", err)
		}
		for _, p := range maskedProc {
			err := t.at(p, func(fd int) error {
				return bindAttr("/dev/null", fd, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY | unix.MOUNT_ATTR_NOEXEC})
			})
			if err != nil && !errors.Is(err, unix.ENOENT) {
				return err
			}
		}
		for _, p := range maskedProcDirs {
			err := t.at(p, func(fd int) error {
				return wrap("mask", p, unix.Mount("fsva-hidden", fdPath(fd), "tmpfs", unix.MS_RDONLY|unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "mode=0555,size=4k"))
			})
			if err != nil && !errors.Is(err, unix.ENOENT) {
				return err
			}
		}
		return nil
	})
}

// mountDev builds a minimal /dev.
func (t *tree) mountDev() error {
	err := t.at("/dev", func(fd int) error {
		return wrap("mount", "/dev", unix.Mount("fsva-dev", fdPath(fd), "tmpfs", unix.MS_NOSUID|unix.MS_NOEXEC, "mode=0755,size=64k"))
	})
	if err != nil {
		return err
	}
	for name, host := range devices {
		target := path.Join("/dev", name)
		if err := t.mountpoint(target, false /* dir */); err != nil {
			return err
		}
		err := t.at(target, func(fd int) error {
			return bindAttr(host, fd, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NOEXEC, Propagation: unix.MS_PRIVATE})
		})
		if err != nil {
			return err
		}
	}
	if err := t.mountpoint("/dev/shm", true /* dir */); err != nil {
		return err
	}
	err = t.at("/dev", func(dir int) error {
		for name, to := range devLinks {
			if err := unix.Symlinkat(to, dir, name); err != nil {
				return wrap("link", path.Join("/dev", name), err)
			}
		}
		return unix.MountSetattr(dir, "", unix.AT_EMPTY_PATH, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY})
	})
	if err != nil {
		return err
	}
	return t.at("/dev/shm", func(fd int) error {
		return wrap("mount", "/dev/shm", unix.Mount("fsva-shm", fdPath(fd), "tmpfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "mode=1777,size=64m"))
	})
}

// enter makes the tree, read-only, the root of the process and lets go of
// everything else.
func (t *tree) enter() error {
	if err := unix.MountSetattr(t.fd, "", unix.AT_EMPTY_PATH, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}); err != nil {
		return fmt.Errorf("make the FS server's root read-only: %w", err)
	}
	if err := unix.Fchdir(t.fd); err != nil {
		return fmt.Errorf("enter the FS server's root: %w", err)
	}
	// pivot_root(".", ".") stacks the old root on the new one (pivot_root(2)).
	if err := unix.PivotRoot(".", "."); err != nil {
		return fmt.Errorf("change the root: %w", err)
	}
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		return fmt.Errorf("let go of the host's root: %w", err)
	}
	if err := unix.Chdir("/"); err != nil {
		return fmt.Errorf("enter the new root: %w", err)
	}
	return nil
}

// lookPath finds the server in its root by the PATH of env.
func lookPath(name string, env []string) (string, error) {
	for _, e := range env {
		if p, ok := cutPATH(e); ok {
			if err := os.Setenv("PATH", p); err != nil {
				return "", err
			}
		}
	}
	bin, err := exec.LookPath(name)
	if errors.Is(err, exec.ErrNotFound) || errors.Is(err, os.ErrNotExist) {
		return "", fmt.Errorf("%s: not found in the appliance's root", name)
	}
	return bin, err
}

func cutPATH(e string) (string, bool) {
	if len(e) < 5 || e[:5] != "PATH=" {
		return "", false
	}
	return e[5:], true
}

// hostname is a volume's name as a legal hostname.
func hostname(volume string) string {
	b := []byte(volume)
	for i, c := range b {
		if c == '_' || c == '.' {
			b[i] = '-'
		}
	}
	return string(b[:min(len(b), 63)])
}
