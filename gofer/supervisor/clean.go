// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package supervisor

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"fsva/gofer/attach"
	"fsva/gofer/cgroup"
)

// Names in a volume's private directory.
const (
	privateRoot   = "root"   // where the FS server's root is mounted, in its mount namespace
	privateBundle = "bundle" // runsc's bundle
	privateVolume = "volume" // becomes Dirs.Volume when the volume is ready
)

// removeFiles removes all files of a volume but its lock. It removes only what
// it knows, and directories only when they are empty, so that a mistake, or a
// mount that should not be there, costs no data.
//
// Preconditions: the caller holds the name's lock and no process of the volume
// is alive.
func removeFiles(d Dirs, name string) error {
	private := d.private(name)
	return join(
		removeVolumeDir(d.Volume(name)),
		remove(filepath.Join(d.control(), controlSocket(name))),
		removeVolumeDir(filepath.Join(private, privateVolume)),
		remove(filepath.Join(private, privateBundle, "config.json")),
		remove(filepath.Join(private, privateBundle)),
		remove(filepath.Join(private, privateRoot)),
		remove(private),
	)
}

// removeVolumeDir removes a directory that holds volume.json and gofer.sock, or
// part of that.
func removeVolumeDir(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, e := range entries {
		n := e.Name()
		if n == attach.InfoName || n == attach.SocketName || strings.HasPrefix(n, "."+attach.InfoName+".") {
			if err := remove(filepath.Join(dir, n)); err != nil {
				return err
			}
		}
	}
	err = remove(dir)
	if errors.Is(err, unix.ENOTEMPTY) {
		return fmt.Errorf("%s holds files that are not FSVA's: move them away", dir)
	}
	return err
}

// remove is os.Remove for what may not be there.
func remove(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// cleanName removes everything that a dead supervisor has left of a volume.
//
// Preconditions: the caller holds the name's lock.
func cleanName(ctx context.Context, d Dirs, name, runsc string) error {
	if err := deleteSandbox(ctx, runsc, d.runscRoot(name), containerID(name)); err != nil {
		return fmt.Errorf("remove what is left of the sandbox %s: %w", containerID(name), err)
	}
	if err := cgroup.Remove(d.group(name)); err != nil {
		return err
	}
	return removeFiles(d, name)
}

// controlled returns the volume whose control socket has that name, if it is one.
func controlled(socket string) (name string, ok bool) {
	name, ok = strings.CutSuffix(socket, controlSocket(""))
	return name, ok && validName.MatchString(name)
}

// names lists all volumes that have left any trace, sorted.
func (d Dirs) names() ([]string, error) {
	seen := map[string]bool{}
	for _, dir := range []string{"locks", "control", "private", "runsc", "volumes"} {
		entries, err := os.ReadDir(filepath.Join(d.Run, dir))
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		for _, e := range entries {
			n := e.Name()
			if dir == "control" {
				var ok bool
				if n, ok = controlled(n); !ok {
					continue
				}
			}
			if validName.MatchString(n) {
				seen[n] = true
			}
		}
	}
	return sortedKeys(seen), nil
}

// cleanLeftovers removes what dead supervisors have left and returns the names
// of the living.
func cleanLeftovers(ctx context.Context, d Dirs) (alive []string, err error) {
	names, err := d.names()
	if err != nil || len(names) == 0 {
		return nil, err
	}
	// docker makes a missing directory that it is to mount, and nothing else.
	if err := d.create(); err != nil {
		return nil, err
	}
	unlock, err := d.lockNames()
	if err != nil {
		return nil, err
	}
	defer unlock()
	var errs []error
	for _, name := range names {
		l, err := acquire(d.lock(name))
		var used *inUseError
		switch {
		case errors.As(err, &used):
			alive = append(alive, name)
			continue
		case err == nil:
			err = join(cleanName(ctx, d, name, ""), l.release())
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("clean up after volume %q: %w", name, err))
		}
	}
	return alive, join(errs...)
}
