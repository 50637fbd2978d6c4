// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package lisaserver

import (
	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/lisafs"

	"fsva/gofer/errno"
)

// Unlink implements lisafs.ControlFDImpl.Unlink.
func (fd *controlFD) Unlink(name string, flags uint32) error {
	if err := checkName(name); err != nil {
		return err
	}
	if fd.c.srv.opts.Shared {
		if err := fd.removable(name, flags); err != nil {
			return err
		}
	}
	header := fd.n.header()
	fd.n.ns.Lock()
	defer fd.n.ns.Unlock()
	switch flags {
	case 0:
		return errno.FromStatus(fd.c.srv.fs.Unlink(nil, &header, name))
	case unix.AT_REMOVEDIR:
		return errno.FromStatus(fd.c.srv.fs.Rmdir(nil, &header, name))
	}
	return unix.EINVAL
}

// removable reports why name cannot be removed with these flags: kernels never
// ask a FUSE server for UNLINK of a directory or RMDIR of another file, and some
// do it. A sentry in shared mode may not know what name is.
func (fd *controlFD) removable(name string, flags uint32) error {
	var out fuse.EntryOut
	n, err := fd.c.srv.lookup(fd.n, name, &out)
	if err != nil {
		return err
	}
	defer n.decRef()
	switch {
	case flags == 0 && n.isDir():
		return unix.EISDIR
	case flags == unix.AT_REMOVEDIR && !n.isDir():
		return unix.ENOTDIR
	}
	return nil
}

// RenameAt implements lisafs.ControlFDImpl.RenameAt.
func (fd *controlFD) RenameAt(oldName string, newDir lisafs.ControlFDImpl, newName string) error {
	return fd.c.srv.rename(fd.n, oldName, newDir.(*controlFD).n, newName, 0)
}

// RenameAt2 implements lisafs.ControlFDImpl.RenameAt2.
func (fd *controlFD) RenameAt2(oldName string, newDir lisafs.ControlFDImpl, newName string, flags uint32) error {
	return fd.c.srv.rename(fd.n, oldName, newDir.(*controlFD).n, newName, flags)
}

func (s *Server) rename(from *node, oldName string, to *node, newName string, flags uint32) error {
	switch flags {
	case 0, unix.RENAME_NOREPLACE, unix.RENAME_EXCHANGE:
	default:
		return unix.EINVAL
	}
	if err := checkName(oldName); err != nil {
		return err
	}
	if err := checkName(newName); err != nil {
		return err
	}
	if from == to {
		from.ns.Lock()
		defer from.ns.Unlock()
		return s.renameLocked(from, oldName, to, newName, flags)
	}
	return s.renameAcross(from, oldName, to, newName, flags)
}

// renameAcross renames from one directory to another. Kernels never ask a FUSE
// server to move a directory into itself, and many would do it; so what is moved
// is looked up and tested.
func (s *Server) renameAcross(from *node, oldName string, to *node, newName string, flags uint32) error {
	s.renameMu.Lock()
	defer s.renameMu.Unlock()
	moved, err := s.movedDir(from, oldName, to)
	if err != nil {
		return err
	}
	if moved != nil {
		defer moved.decRef()
	}
	var back *node
	if flags == unix.RENAME_EXCHANGE {
		if back, err = s.movedDir(to, newName, from); err != nil {
			return err
		}
		if back != nil {
			defer back.decRef()
		}
	}
	unlock := lockDirs(from, to)
	err = s.renameLocked(from, oldName, to, newName, flags)
	unlock()
	if err != nil {
		return err
	}
	if moved != nil {
		moved.move(to)
	}
	if back != nil {
		back.move(from)
	}
	return nil
}

// movedDir looks up name in dir. If it is a directory the caller gets a ref on
// it, or EINVAL if directory to is it or lies below it; nil if it is not one.
//
// Preconditions: renameMu is locked.
func (s *Server) movedDir(dir *node, name string, to *node) (*node, error) {
	var out fuse.EntryOut
	n, err := s.lookup(dir, name, &out)
	if err != nil {
		return nil, err
	}
	if n.isDir() && !to.below(n) {
		return n, nil
	}
	n.decRef()
	if n.isDir() {
		return nil, unix.EINVAL
	}
	return nil, nil
}

// renameLocked asks the file system to rename.
//
// Preconditions: both directories' ns are locked.
func (s *Server) renameLocked(from *node, oldName string, to *node, newName string, flags uint32) error {
	in := fuse.RenameIn{InHeader: from.header(), Newdir: to.id, Flags: flags}
	status := s.fs.Rename(nil, &in, oldName, newName)
	if status == fuse.ENOSYS && flags != 0 {
		status = fuse.EINVAL // No RENAME2: what the kernel says then.
	}
	if status.Ok() {
		s.renames.Add(1)
	}
	return errno.FromStatus(status)
}
