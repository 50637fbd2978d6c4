// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package fsserver

import (
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// tree is the root file system under construction. Every path below is
// absolute and meant inside of it.
type tree struct {
	dir string
	fd  int // O_PATH descriptor of dir
}

// newTree mounts an empty tmpfs on dir.
func newTree(dir string) (*tree, error) {
	if err := unix.Mount("fsva-root", dir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=0755,size=4m"); err != nil {
		return nil, fmt.Errorf("mount the FS server's root on %s: %w", dir, err)
	}
	fd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", dir, err)
	}
	return &tree{dir: dir, fd: fd}, nil
}

// scratch are the directories that every FS server may write to.
var scratch = []string{"/tmp", "/run", "/root"}

// populate builds everything that is the same under every isolation. Sources
// and scratch file systems get their mountpoints only.
func (t *tree) populate(c *Config) error {
	hide, err := resolvedPaths(c.Hide)
	if err != nil {
		return err
	}
	if c.Root == HostRoot {
		err = t.bindHost(hide)
	} else {
		err = t.bindImage(c.Root, hide)
	}
	if err == nil && c.Root != HostRoot && c.HostNetwork {
		err = t.bindNames()
	}
	if err != nil {
		return err
	}
	for _, dir := range append([]string{"/dev", "/proc", "/var", volumeDir, binDir}, scratch...) {
		if err := t.mountpoint(dir, true /* dir */); err != nil {
			return err
		}
	}
	if err := t.bindHelpers(c); err != nil {
		return err
	}
	for _, b := range c.Binds {
		fi, err := os.Stat(b.Host)
		if err != nil {
			return err
		}
		if err := t.mountpoint(b.Target, fi.IsDir()); err != nil {
			return err
		}
	}
	return nil
}

// bindHelpers puts our binary in the place of fusermount and fusermount3: first
// on PATH, and over the ones that libfuse and others look for by full path.
func (t *tree) bindHelpers(c *Config) error {
	for _, name := range []string{"fusermount", "fusermount3"} {
		target := path.Join(binDir, name)
		if err := t.mountpoint(target, false /* dir */); err != nil {
			return err
		}
		if err := t.bind(c.Helper, target, true /* readOnly */); err != nil {
			return err
		}
		for _, dir := range []string{"/bin", "/usr/bin", "/usr/local/bin"} {
			fd, err := t.resolve(path.Join(dir, name))
			if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) {
				continue
			}
			if err != nil {
				return fmt.Errorf("open %s/%s in the FS server's root: %w", dir, name, err)
			}
			err = bindTo(c.Helper, fd, true /* readOnly */)
			unix.Close(fd)
			if err != nil {
				return err
			}
		}
	}
	if c.Shim == "" {
		return nil
	}
	if err := t.mountpoint(shimPath, false /* dir */); err != nil {
		return err
	}
	return t.bind(c.Shim, shimPath, true /* readOnly */)
}

// notFromImage are the top-level names of an appliance's root that it does not
// provide itself.
var notFromImage = map[string]bool{
	"dev": true, "proc": true, "sys": true, "tmp": true, "run": true, "root": true,
	"mnt": true, "media": true, "lost+found": true, "boot": true,
	"fsva": true, "source": true, "volume": true,
}

// bindImage shows a directory as the root.
func (t *tree) bindImage(root string, hide []string) error {
	entries, err := os.ReadDir(root)
	if err != nil {
		return fmt.Errorf("appliance root: %w", err)
	}
	for _, e := range entries {
		if notFromImage[e.Name()] {
			continue
		}
		if err := t.show(filepath.Join(root, e.Name()), "/"+e.Name(), hide); err != nil {
			return err
		}
	}
	return nil
}

// bindNames shows this machine's way to resolve host names to a server that has
// its network, in the place of the files that its root has for that.
func (t *tree) bindNames() error {
	for _, p := range []string{"/etc/hosts", "/etc/resolv.conf"} {
		real, err := filepath.EvalSymlinks(p)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		// A root without such a file cannot be given one: it is read-only.
		if err := t.bind(real, p, true /* readOnly */); err != nil && !errors.Is(err, unix.ENOENT) {
			return err
		}
	}
	return nil
}

// show makes one entry of an appliance's root visible at target: a link as a
// copy of it, a file or directory as a read-only bind, anything else not.
func (t *tree) show(host, target string, hide []string) error {
	fi, err := os.Lstat(host)
	if err != nil {
		return err
	}
	switch {
	case fi.Mode()&os.ModeSymlink != 0:
		to, err := os.Readlink(host)
		if err != nil {
			return err
		}
		if err := t.mountpoint(path.Dir(target), true /* dir */); err != nil {
			return err
		}
		return t.at(path.Dir(target), func(dir int) error {
			return wrap("link", target, unix.Symlinkat(to, dir, path.Base(target)))
		})
	case fi.IsDir(), fi.Mode().IsRegular():
		if err := t.mountpoint(target, fi.IsDir()); err != nil {
			return err
		}
		if err := t.bind(host, target, true /* readOnly */); err != nil {
			return err
		}
		return t.mask(host, target, hide)
	}
	return nil
}

// mask covers those of the hidden host paths that a bind of host at target
// brought in.
func (t *tree) mask(host, target string, hide []string) error {
	real, err := filepath.EvalSymlinks(host)
	if err != nil {
		return err
	}
	for _, h := range hide {
		rel, err := filepath.Rel(real, h)
		if err != nil || rel == ".." || strings.HasPrefix(rel, "../") {
			continue
		}
		fd, err := t.resolve(path.Join(target, rel))
		if err != nil {
			return fmt.Errorf("hide %s: %w", h, err)
		}
		err = unix.Mount("fsva-hidden", fdPath(fd), "tmpfs", unix.MS_RDONLY|unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "mode=0555,size=4k")
		unix.Close(fd)
		if err != nil {
			return fmt.Errorf("hide %s: %w", h, err)
		}
	}
	return nil
}

// resolvedPaths resolves links in those of paths that exist.
func resolvedPaths(paths []string) ([]string, error) {
	var out []string
	for _, p := range paths {
		r, err := filepath.EvalSymlinks(p)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		out = append(out, r)
	}
	return out, nil
}

// resolve opens a path (O_PATH), following links but never out of the tree. The
// caller owns the descriptor.
func (t *tree) resolve(p string) (int, error) {
	return unix.Openat2(t.fd, p, &unix.OpenHow{
		Flags:   unix.O_PATH | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS,
	})
}

// at calls f with an O_PATH descriptor of p.
func (t *tree) at(p string, f func(fd int) error) error {
	fd, err := t.resolve(p)
	if err != nil {
		return wrap("open", p, err)
	}
	defer unix.Close(fd)
	return f(fd)
}

// mountpoint makes sure that p exists, as a directory or as an empty file, and
// that its parents do. What exists is left as it is.
func (t *tree) mountpoint(p string, dir bool) error {
	if p == "/" {
		return nil
	}
	if fd, err := t.resolve(p); err == nil {
		unix.Close(fd)
		return nil
	} else if !errors.Is(err, unix.ENOENT) {
		return wrap("open", p, err)
	}
	if err := t.mountpoint(path.Dir(p), true /* dir */); err != nil {
		return err
	}
	return t.at(path.Dir(p), func(parent int) error {
		if dir {
			return wrap("create", p, unix.Mkdirat(parent, path.Base(p), 0o755))
		}
		fd, err := unix.Openat(parent, path.Base(p), unix.O_CREAT|unix.O_EXCL|unix.O_RDONLY|unix.O_CLOEXEC, 0o444)
		if err != nil {
			return wrap("create", p, err)
		}
		return unix.Close(fd)
	})
}

// bind mounts host, links followed, with all that is mounted below it, on p.
func (t *tree) bind(host, p string, readOnly bool) error {
	return t.at(p, func(fd int) error { return bindTo(host, fd, readOnly) })
}

// wrap adds an operation on a path of the tree to an error.
func wrap(op, p string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s %s in the FS server's root: %w", op, p, err)
}

// bindTo mounts host on what targetFD, an O_PATH descriptor, refers to. Set-uid
// bits and device files in it do not work.
func bindTo(host string, targetFD int, readOnly bool) error {
	attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV, Propagation: unix.MS_PRIVATE}
	if readOnly {
		attr.Attr_set |= unix.MOUNT_ATTR_RDONLY
	}
	return bindAttr(host, targetFD, &attr)
}

// bindAttr is bindTo with all attributes given, for the whole copied subtree.
func bindAttr(host string, targetFD int, attr *unix.MountAttr) error {
	fd, err := unix.OpenTree(unix.AT_FDCWD, host, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_RECURSIVE)
	if err != nil {
		return fmt.Errorf("bind %s: %w", host, err)
	}
	defer unix.Close(fd)
	if err := unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH|unix.AT_RECURSIVE, attr); err != nil {
		return fmt.Errorf("set mount attributes of %s: %w", host, err)
	}
	if err := unix.MoveMount(fd, "", targetFD, "", unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_EMPTY_PATH); err != nil {
		return fmt.Errorf("bind %s in the FS server's root: %w", host, err)
	}
	return nil
}

// fdPath names what a descriptor refers to for calls that take only a path.
func fdPath(fd int) string { return fmt.Sprintf("/proc/self/fd/%d", fd) }
