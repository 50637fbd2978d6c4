// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package harness

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// guardedEnv names the temporary directory in the environment of the child that runs the tests.
const guardedEnv = "FSVA_E2E_DIR"

// Main runs the tests of a package below a guardian and returns the exit code for TestMain. start is called in the
// process that runs the tests, before them. Without root there is no guardian and no Env: start gets nil, and tests
// skip by NeedRoot.
func Main(run func() int, start func(*Env)) int {
	if os.Geteuid() != 0 {
		start(nil)
		return run()
	}
	dir := os.Getenv(guardedEnv)
	if dir == "" {
		code, err := guard()
		if err != nil {
			progress("%v", err)
			return max(code, 1)
		}
		return code
	}
	if err := os.Unsetenv(guardedEnv); err != nil {
		progress("%v", err)
		return 1
	}
	code, err := runTests(dir, run, start)
	if err != nil {
		progress("left behind: %v", err)
		return max(code, 1)
	}
	return code
}

// runTests is the child's side.
func runTests(dir string, run func() int, start func(*Env)) (int, error) {
	// Orphans become children of this process, where they are seen.
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return 1, fmt.Errorf("PR_SET_CHILD_SUBREAPER: %w", err)
	}
	env, err := newEnv(dir)
	if err != nil {
		return 1, err
	}
	start(env)
	code := run()
	return code, errors.Join(env.close(), noOrphans())
}

// guard is the guardian's side: it starts this executable again, waits for it, and cleans up after it.
func guard() (int, error) {
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return 1, fmt.Errorf("PR_SET_CHILD_SUBREAPER: %w", err)
	}
	dir, err := os.MkdirTemp("", "fsva-e2e-")
	if err != nil {
		return 1, err
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		return 1, err
	}
	self, err := os.Executable()
	if err != nil {
		return 1, err
	}
	cmd := exec.Command(self, os.Args[1:]...)
	cmd.Env = append(os.Environ(), guardedEnv+"="+dir)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	// The parent-death signal is tied to the thread that started the child, so that thread must stay.
	runtime.LockOSThread()
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: unix.CLONE_NEWNS, Pdeathsig: unix.SIGKILL}
	// Until everything is cleaned up none of them ends this process: timeout(1) sends two, and people more.
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, unix.SIGINT, unix.SIGTERM, unix.SIGHUP, unix.SIGQUIT)
	if err := cmd.Start(); err != nil {
		return 1, err
	}
	go func() {
		for s := range signals {
			// An error means that it has ended.
			_ = cmd.Process.Signal(s)
		}
	}()
	waitErr := cmd.Wait()
	code := cmd.ProcessState.ExitCode()
	if code < 0 {
		code = 1
	}
	var exit *exec.ExitError
	if waitErr != nil && !errors.As(waitErr, &exit) {
		return code, waitErr
	}
	return code, sweep(dir)
}

// sweep ends, by their ids, the processes the tests left, removes what docker and runsc keep outside dir, then dir. It
// returns an error if there was anything to end.
func sweep(dir string) error {
	var left []string
	for deadline := time.Now().Add(20 * time.Second); ; {
		procs := descendants(os.Getpid())
		alive := 0
		for _, p := range procs {
			if p.State == 'Z' {
				continue
			}
			alive++
			left = append(left, p.String())
			if err := unix.Kill(p.PID, unix.SIGKILL); err != nil && err != unix.ESRCH {
				left = append(left, fmt.Sprintf("kill %d: %v", p.PID, err))
			}
		}
		reap()
		if len(procs) == 0 {
			break
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("processes that do not end: %v", procs)
		}
		waitChild(200 * time.Millisecond)
	}
	errs := []error{removeCgroups(filepath.Base(dir)), noMountsBelow(dir), removePlugins(filepath.Base(dir))}
	if errs[1] == nil {
		errs = append(errs, os.RemoveAll(dir))
	}
	if len(left) > 0 {
		errs = append(errs, fmt.Errorf("the tests left %d processes, now ended:\n  %s", len(left), strings.Join(left, "\n  ")))
	}
	return errors.Join(errs...)
}

// PluginDir is where docker looks for the sockets of its plugins. Those of tests have names that begin like their Env's
// directory.
const PluginDir = "/run/docker/plugins"

// removePlugins removes the sockets of this run.
func removePlugins(name string) error {
	sockets, err := filepath.Glob(filepath.Join(PluginDir, name+"-*.sock"))
	if err != nil {
		return err
	}
	var errs []error
	for _, s := range sockets {
		errs = append(errs, os.Remove(s))
	}
	return errors.Join(errs...)
}

// waitChild waits for the next child of this process to end, or for d to pass. It reaps nothing.
func waitChild(d time.Duration) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			err := unix.Waitid(unix.P_ALL, 0, nil, unix.WEXITED|unix.WNOWAIT, nil)
			if err != unix.EINTR {
				return
			}
		}
	}()
	select {
	case <-done:
	case <-time.After(d):
	}
}

// removeCgroups removes the cgroup directories named for this run; docker leaves their parent.
func removeCgroups(name string) error {
	var errs []error
	for _, pattern := range []string{"/sys/fs/cgroup/" + name, "/sys/fs/cgroup/*/" + name} {
		dirs, err := filepath.Glob(pattern)
		if err != nil {
			return err
		}
		for _, d := range dirs {
			if err := unix.Rmdir(d); err != nil {
				errs = append(errs, fmt.Errorf("cgroup %s: %w", d, err))
			}
		}
	}
	return errors.Join(errs...)
}
