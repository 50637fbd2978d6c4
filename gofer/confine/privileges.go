// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package confine

import (
	"errors"
	"fmt"
	"syscall"

	"golang.org/x/sys/unix"
)

// Nobody is the user and group that a process without a need for files of its
// own runs as.
const Nobody = 65534

// FileCapabilities are what serving a directory of the host with its owners
// and modes takes: the set that runsc's own gofer keeps, without CAP_SYS_CHROOT.
var FileCapabilities = []int{
	unix.CAP_CHOWN,
	unix.CAP_DAC_OVERRIDE,
	unix.CAP_DAC_READ_SEARCH,
	unix.CAP_FOWNER,
	unix.CAP_FSETID,
}

// DropPrivileges leaves every thread of the process with the capabilities in
// keep (permitted and effective; the inheritable and ambient sets are empty
// and the bounding set is keep), sets no_new_privs, and makes the process
// undumpable so that a process with the same uid cannot trace it. Without
// capabilities to keep the process also becomes Nobody.
//
// Preconditions: CAP_SETPCAP, CAP_SETUID and CAP_SETGID. On an error the
// process must exit: threads may differ.
func DropPrivileges(keep ...int) error {
	var mask uint64
	for _, c := range keep {
		mask |= 1 << c
	}
	if err := dropBounding(mask); err != nil {
		return err
	}
	if err := syscall.Setgroups(nil); err != nil {
		return fmt.Errorf("drop supplementary groups: %w", err)
	}
	if mask == 0 {
		if err := syscall.Setresgid(Nobody, Nobody, Nobody); err != nil {
			return fmt.Errorf("change the group: %w", err)
		}
		if err := syscall.Setresuid(Nobody, Nobody, Nobody); err != nil {
			return fmt.Errorf("change the user: %w", err)
		}
	}
	if err := capset(mask); err != nil {
		return fmt.Errorf("set capabilities: %w", err)
	}
	if err := prctlAll(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL); err != nil {
		return fmt.Errorf("clear ambient capabilities: %w", err)
	}
	if err := prctlAll(unix.PR_SET_NO_NEW_PRIVS, 1); err != nil {
		return fmt.Errorf("set no_new_privs: %w", err)
	}
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("make the process undumpable: %w", err)
	}
	return nil
}

// dropBounding removes every capability not in mask from the bounding set of
// all threads, up to the last one the kernel knows.
func dropBounding(mask uint64) error {
	for c := 0; c < 64; c++ {
		_, err := unix.PrctlRetInt(unix.PR_CAPBSET_READ, uintptr(c), 0, 0, 0)
		if err == unix.EINVAL {
			return nil // prctl(2): c is above the last capability of this kernel.
		}
		if err != nil {
			return fmt.Errorf("read the bounding set: %w", err)
		}
		if mask&(1<<c) != 0 {
			continue
		}
		if err := prctlAll(unix.PR_CAPBSET_DROP, uintptr(c)); err != nil {
			return fmt.Errorf("drop capability %d from the bounding set: %w", c, err)
		}
	}
	return nil
}

// prctlAll calls prctl(2) on every thread.
func prctlAll(option, arg uintptr) error {
	_, _, errno := syscall.AllThreadsSyscall6(unix.SYS_PRCTL, option, arg, 0, 0, 0, 0)
	if errno == unix.ENOTSUP {
		return errors.New("this program was built with cgo and cannot give up privileges: build it with CGO_ENABLED=0, as make does")
	}
	if errno != 0 {
		return errno
	}
	return nil
}
