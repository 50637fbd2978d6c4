// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package guest

import (
	"fmt"
	"io"
	"io/fs"
	"path"
	"strings"

	"golang.org/x/sys/unix"
)

// cpioWriter writes an archive of the form "newc", which the kernel takes for an initramfs: see the kernel's
// Documentation/driver-api/early-userspace/buffer-format.rst.
type cpioWriter struct {
	w    io.Writer
	ino  uint32
	dirs map[string]bool // the directories that are in the archive
}

const cpioTrailer = "TRAILER!!!"

// dir adds a directory and those above it, once.
func (c *cpioWriter) dir(name string) error {
	if name == "." || name == "/" || c.dirs[name] {
		return nil
	}
	if err := c.dir(path.Dir(name)); err != nil {
		return err
	}
	if c.dirs == nil {
		c.dirs = map[string]bool{}
	}
	c.dirs[name] = true
	return c.entry(name, unix.S_IFDIR|0o755, 0, nil)
}

// file adds a regular file of size bytes, which content must have.
func (c *cpioWriter) file(name string, perm fs.FileMode, size int64, content io.Reader) error {
	if err := c.dir(path.Dir(name)); err != nil {
		return err
	}
	return c.entry(name, unix.S_IFREG|uint32(perm.Perm()), size, content)
}

// symlink adds a symbolic link.
func (c *cpioWriter) symlink(name, target string) error {
	if err := c.dir(path.Dir(name)); err != nil {
		return err
	}
	return c.entry(name, unix.S_IFLNK|0o777, int64(len(target)), strings.NewReader(target))
}

// close writes what ends an archive. It does not close the writer below.
func (c *cpioWriter) close() error { return c.entry(cpioTrailer, 0, 0, nil) }

func (c *cpioWriter) entry(name string, mode uint32, size int64, content io.Reader) error {
	if size < 0 || size > 1<<32-1 {
		return fmt.Errorf("cpio: %s has %d bytes; a file may have 4 GiB", name, size)
	}
	if name != cpioTrailer {
		c.ino++
		name = strings.TrimPrefix(name, "/")
	}
	const nlink, fields = 1, 13
	values := [fields]uint32{0: c.ino, 1: mode, 4: nlink, 6: uint32(size), 11: uint32(len(name) + 1)}
	header := []byte("070701")
	for _, v := range values {
		header = fmt.Appendf(header, "%08X", v)
	}
	header = append(append(header, name...), 0)
	if _, err := c.w.Write(pad(header)); err != nil {
		return err
	}
	if size == 0 {
		return nil
	}
	if n, err := io.CopyN(c.w, content, size); err != nil {
		return fmt.Errorf("cpio: %s: %d of %d bytes: %w", name, n, size, err)
	}
	_, err := c.w.Write(make([]byte, -size&3))
	return err
}

// pad appends zeros up to a multiple of four bytes.
func pad(b []byte) []byte { return append(b, make([]byte, -len(b)&3)...) }
