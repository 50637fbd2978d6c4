// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

// Package confine takes away everything the gofer does not need before it
// reads the first byte that an FS server, a sandbox or a guest sent: the
// host's file tree, every capability it was not given, the way to new
// privileges, and all system calls that are not on a list.
//
// The caller is trusted (it is the gofer's own start-up code); what runs after
// it is not. The three steps are taken in this order, each once per process:
// EnterRoot, DropPrivileges, InstallFilter. None can be undone.
//
// The process must be built without cgo, as fsva is: changing credentials on
// all threads relies on syscall.AllThreadsSyscall.
package confine

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// newRootMount is where the new root is mounted before pivot_root(2). Any
// directory would do; this one exists on every Linux machine and never holds
// the source of a volume. Sources are opened before it is covered.
const newRootMount = "/sys"

// Bind makes one file or directory of the host visible in the new root.
type Bind struct {
	// Host is an absolute path, resolved (symlinks followed) before the root
	// changes.
	Host string
	// Path is where it appears: absolute, clean, not "/".
	Path string
	// ReadOnly refuses writes through this bind, whatever its file system
	// allows.
	ReadOnly bool
}

// Tmpfs makes an empty, writable file system in memory visible in the new root.
type Tmpfs struct {
	// Path is where it appears: absolute, clean, not "/".
	Path string
	// Size bounds its contents, in bytes; 0 means half of the memory, as
	// tmpfs(5) does.
	Size int64
	// Owner is the user who owns its root directory.
	Owner int
	// Exec lets its files be mapped executable, by whoever gets a descriptor.
	Exec bool
}

// Root is all that a confined process sees of any file tree.
type Root struct {
	Binds []Bind
	Tmpfs []Tmpfs
}

// EnterRoot replaces the root directory of the process by a read-only one that
// holds nothing but r.
//
// Preconditions: the process is alone in its mount namespace, has
// CAP_SYS_ADMIN, and /proc is mounted. On an error the process must exit: its
// root may be half built.
func EnterRoot(r Root) error {
	// Opened first: the paths of the host mean nothing once the root is built.
	fds := make([]int, len(r.Binds))
	for i, b := range r.Binds {
		fd, err := unix.Open(b.Host, unix.O_PATH|unix.O_CLOEXEC, 0)
		if err != nil {
			return fmt.Errorf("open %q: %w", b.Host, err)
		}
		defer unix.Close(fd)
		fds[i] = fd
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	flags := uintptr(unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC)
	if err := unix.Mount("fsva", newRootMount, "tmpfs", flags, "mode=0755,size=1m"); err != nil {
		return fmt.Errorf("mount the new root: %w", err)
	}
	for i, b := range r.Binds {
		if err := bindFD(fds[i], b); err != nil {
			return fmt.Errorf("bind %q at %q: %w", b.Host, b.Path, err)
		}
	}
	for _, t := range r.Tmpfs {
		if err := mountTmpfs(t); err != nil {
			return fmt.Errorf("mount a tmpfs at %q: %w", t.Path, err)
		}
	}
	if err := unix.Chdir(newRootMount); err != nil {
		return fmt.Errorf("enter the new root: %w", err)
	}
	// pivot_root(2), "pivot_root(".", ".")": the old root ends up mounted over
	// the new one and is detached from there.
	if err := unix.PivotRoot(".", "."); err != nil {
		return fmt.Errorf("pivot_root: %w", err)
	}
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		return fmt.Errorf("detach the old root: %w", err)
	}
	if err := unix.Chdir("/"); err != nil {
		return fmt.Errorf("chdir to the new root: %w", err)
	}
	if err := unix.Mount("", "/", "", flags|unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY, ""); err != nil {
		return fmt.Errorf("make the new root read-only: %w", err)
	}
	return nil
}

// target returns where path of the new root is while it is being built.
func target(path string) (string, error) {
	if !filepath.IsAbs(path) || path != filepath.Clean(path) || path == "/" {
		return "", fmt.Errorf("%q is not a clean absolute path below /", path)
	}
	return newRootMount + path, nil
}

// bindFD attaches the file or directory behind the O_PATH descriptor fd.
func bindFD(fd int, b Bind) error {
	at, err := target(b.Path)
	if err != nil {
		return err
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return fmt.Errorf("fstat: %w", err)
	}
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		err = os.MkdirAll(at, 0o755)
	} else {
		if err = os.MkdirAll(filepath.Dir(at), 0o755); err == nil {
			err = os.WriteFile(at, nil, 0o600)
		}
	}
	if err != nil {
		return err
	}
	// Recursive, as a bind mount of a user's directory is expected to be.
	if err := unix.Mount(fmt.Sprintf("/proc/self/fd/%d", fd), at, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("bind: %w", err)
	}
	attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV | unix.MOUNT_ATTR_NOEXEC}
	if b.ReadOnly {
		attr.Attr_set |= unix.MOUNT_ATTR_RDONLY
	}
	if err := unix.MountSetattr(-1, at, unix.AT_RECURSIVE, &attr); err != nil {
		return fmt.Errorf("set mount flags: %w", err)
	}
	return nil
}

func mountTmpfs(t Tmpfs) error {
	at, err := target(t.Path)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(at, 0o755); err != nil {
		return err
	}
	opts := []string{"mode=0755", fmt.Sprintf("uid=%d", t.Owner)}
	if t.Size > 0 {
		opts = append(opts, fmt.Sprintf("size=%d", t.Size))
	}
	flags := uintptr(unix.MS_NOSUID | unix.MS_NODEV)
	if !t.Exec {
		flags |= unix.MS_NOEXEC
	}
	return unix.Mount("fsva", at, "tmpfs", flags, strings.Join(opts, ","))
}
