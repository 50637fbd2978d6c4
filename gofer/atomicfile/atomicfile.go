// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

// Package atomicfile replaces files in one step: who opens the name finds the old
// content or the new one, never a part.
//
// The directory is trusted: nobody else may rename or link anything in it.
package atomicfile

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// Options are what a file is to be beside its content.
type Options struct {
	// Mode has the permission bits, with set-ID and sticky bits, as chmod(2) takes
	// them. The umask does not count.
	Mode uint32
	// Owner is the file's owner, nil for the process's own.
	Owner *Owner
	// Durable says that Write returns only when content and name are on the disk.
	Durable bool
}

// Owner is a user and a group.
type Owner struct{ UID, GID int }

// marker is in the names of files that are not complete yet.
const marker = ".fsva-new-"

// Write makes data the content of the file at path, which need not exist; its
// directory must. A symbolic link at path is replaced, not followed.
//
// The error is a *fs.PathError about path. The file is then what it was, unless
// only its name could not be brought to the disk. A process that is killed may
// leave a file beside it, see Sweep.
func Write(path string, data []byte, o Options) error {
	if err := write(path, data, o); err != nil {
		// Not the name of the file that nobody has heard of.
		if p := (*fs.PathError)(nil); errors.As(err, &p) {
			err = p.Err
		} else if l := (*os.LinkError)(nil); errors.As(err, &l) {
			err = l.Err
		}
		return &fs.PathError{Op: "write", Path: path, Err: err}
	}
	return nil
}

func write(path string, data []byte, o Options) error {
	dir, base := filepath.Split(path)
	if dir == "" {
		dir = "."
	}
	f, err := os.CreateTemp(dir, "."+base+marker)
	if err != nil {
		return err
	}
	err = errors.Join(fill(f, data, o), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	if !o.Durable {
		return nil
	}
	return SyncDir(dir)
}

// fill makes f all that the file is to be.
func fill(f *os.File, data []byte, o Options) error {
	if _, err := f.Write(data); err != nil {
		return err
	}
	// Not without need: it takes a privilege. Before the mode: it drops set-ID bits.
	if w := o.Owner; w != nil && (w.UID != os.Geteuid() || w.GID != os.Getegid()) {
		if err := f.Chown(w.UID, w.GID); err != nil {
			return err
		}
	}
	if err := unix.Fchmod(int(f.Fd()), o.Mode); err != nil {
		return &fs.PathError{Op: "chmod", Path: f.Name(), Err: err}
	}
	if !o.Durable {
		return nil
	}
	return f.Sync()
}

// SyncDir brings the names in a directory to the disk.
func SyncDir(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// Sweep removes what processes that were killed in Write have left in a directory.
// The caller knows that nobody is writing there.
func Sweep(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	var errs []error
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), ".") && strings.Contains(e.Name(), marker) {
			if err := os.Remove(filepath.Join(dir, e.Name())); err != nil && !errors.Is(err, os.ErrNotExist) {
				errs = append(errs, err)
			}
		}
	}
	return errors.Join(errs...)
}
