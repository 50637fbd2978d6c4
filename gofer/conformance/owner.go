// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package conformance

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// The executable that runs the checks also runs parts of them in other processes: it calls Helper first.
const (
	helperEnv    = "FSVA_CHECK_HELPER"
	helperDirEnv = "FSVA_CHECK_DIR"
	helperHello  = "hello"
	helperCreate = "create"
	helperRead   = "read"
	helperLock   = "lock"
	helloText    = "hello from the volume\n"
)

// Someone who is not root and owns nothing.
const otherUID, otherGID = 12345, 23456

var ownerChecks = []Check{
	{"owner/of-new-files", func(dir string) error {
		if err := os.Chmod(dir, 0o777); err != nil {
			return err
		}
		if err := asOther(helperCreate, dir); err != nil {
			return err
		}
		var errs []error
		for _, name := range []string{"file", "dir", "link"} {
			errs = append(errs, wantOwner(filepath.Join(dir, name), otherUID, otherGID))
		}
		return errors.Join(errs...)
	}},
	{"owner/refuses-others", func(dir string) error {
		p := filepath.Join(dir, "f")
		if err := os.WriteFile(p, []byte("secret"), 0o600); err != nil {
			return err
		}
		if err := asOther(helperRead, p); err == nil || !strings.Contains(err.Error(), "permission denied") {
			return fmt.Errorf("read of a 0600 file of root by another user: %v, want permission denied", err)
		}
		return nil
	}},
}

// Helper runs the part of a check that needs a process of its own, and exits, if this process was started for one.
// Every executable that runs the checks calls it first.
func Helper() {
	mode := os.Getenv(helperEnv)
	if mode == "" {
		return
	}
	if err := help(mode, os.Getenv(helperDirEnv)); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

func help(mode, path string) error {
	switch mode {
	case helperHello:
		_, err := os.Stdout.WriteString(helloText)
		return err
	case helperCreate:
		return errors.Join(
			os.WriteFile(filepath.Join(path, "file"), []byte("mine"), 0o644),
			os.Mkdir(filepath.Join(path, "dir"), 0o755),
			os.Symlink("file", filepath.Join(path, "link")))
	case helperRead:
		_, err := os.ReadFile(path)
		return err
	case helperLock:
		f, err := os.OpenFile(path, os.O_RDWR, 0)
		if err != nil {
			return err
		}
		defer f.Close()
		if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != unix.EAGAIN {
			return fmt.Errorf("flock of a locked file: %v, want EAGAIN", err)
		}
		lk := unix.Flock_t{Type: unix.F_WRLCK}
		if err := unix.FcntlFlock(f.Fd(), unix.F_SETLK, &lk); err != unix.EAGAIN && err != unix.EACCES {
			return fmt.Errorf("fcntl lock of a locked file: %v, want EAGAIN", err)
		}
		return nil
	}
	return fmt.Errorf("unknown helper mode %q", mode)
}

// asOther runs a helper as a user who is not root. The error carries what the helper printed.
func asOther(mode, path string) error {
	return spawn(mode, path, &syscall.Credential{Uid: otherUID, Gid: otherGID})
}

func spawn(mode, path string, cred *syscall.Credential) error {
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = []string{helperEnv + "=" + mode, helperDirEnv + "=" + path}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: cred}
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("helper %s: %w: %s", mode, err, strings.TrimSpace(string(out)))
	}
	return nil
}

var lockChecks = []Check{
	{"lock/between-processes", func(dir string) error {
		f, err := os.Create(filepath.Join(dir, "f"))
		if err != nil {
			return err
		}
		defer f.Close()
		if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
			return fmt.Errorf("flock: %w", err)
		}
		lk := unix.Flock_t{Type: unix.F_WRLCK}
		if err := unix.FcntlFlock(f.Fd(), unix.F_SETLK, &lk); err != nil {
			return fmt.Errorf("fcntl lock: %w", err)
		}
		return spawn(helperLock, f.Name(), nil)
	}},
}
