// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package supervisor

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// Reserve keeps everybody from serving the name until release is called. The error
// wraps ErrInUse if somebody does.
func Reserve(d Dirs, name string) (release func() error, err error) {
	if err := CheckName(name); err != nil {
		return nil, err
	}
	if err := d.create(); err != nil {
		return nil, err
	}
	unlock, err := d.lockNames()
	if err != nil {
		return nil, err
	}
	defer unlock()
	l, err := acquire(d.lock(name))
	if err != nil {
		return nil, err
	}
	return l.release, nil
}

// Served reports whether a supervisor has the name, even if it does not answer yet,
// or no more.
func Served(d Dirs, name string) (bool, error) {
	unlock, err := d.lockNames() // or a new supervisor might take us for another one
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ENOTDIR) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer unlock()
	f, err := os.Open(d.lock(name))
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer f.Close()
	err = flock(f, unix.LOCK_SH|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return true, nil
	}
	return false, err
}

// Names lists the volumes that have, or have left, any trace in d.Run, sorted.
func Names(d Dirs) ([]string, error) { return d.names() }
