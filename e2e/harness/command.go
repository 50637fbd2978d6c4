// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package harness

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Result is a finished command.
type Result struct {
	Stdout, Stderr string
	Code           int // -1 when it was killed
	Elapsed        time.Duration
}

// Run runs a command to its end, at most timeout. It does not judge the exit code; it fails the test if the command
// cannot be started or takes too long.
func Run(t testing.TB, timeout time.Duration, env []string, args ...string) Result {
	t.Helper()
	r, err := run(timeout, nil, env, args...)
	if err != nil {
		t.Fatalf("%q: %v\n%s%s", args, err, r.Stdout, r.Stderr)
	}
	return r
}

// Try is Run for any goroutine, and returns the error.
func Try(timeout time.Duration, args ...string) (Result, error) {
	r, err := run(timeout, nil, nil, args...)
	if err != nil {
		err = fmt.Errorf("%q: %w\n%s%s", args, err, r.Stdout, r.Stderr)
	}
	return r, err
}

// Must runs a command and fails the test unless it succeeds. It returns the command's stdout.
func Must(t testing.TB, args ...string) string {
	t.Helper()
	r := Run(t, 5*time.Minute, nil, args...)
	if r.Code != 0 {
		t.Fatalf("%q: exit code %d\n%s%s", args, r.Code, r.Stdout, r.Stderr)
	}
	return r.Stdout
}

func run(timeout time.Duration, stdin []byte, env []string, args ...string) (Result, error) {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	var out, errOut bytes.Buffer
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Stdout, cmd.Stderr = &out, &errOut
	if stdin != nil {
		cmd.Stdin = bytes.NewReader(stdin)
	}
	if env != nil {
		cmd.Env = append(cmd.Environ(), env...)
	}
	cmd.WaitDelay = 5 * time.Second // a grandchild may hold the pipes
	start := time.Now()
	if err := startTied(cmd); err != nil {
		return Result{Code: -1}, err
	}
	started.Store(cmd.Process.Pid, struct{}{})
	err := cmd.Wait()
	started.Delete(cmd.Process.Pid)
	r := Result{Stdout: out.String(), Stderr: errOut.String(), Code: cmd.ProcessState.ExitCode(), Elapsed: time.Since(start)}
	if ctx.Err() != nil {
		return r, errors.New("still running after " + timeout.String() + ", killed")
	}
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		return r, err
	}
	return r, nil
}

// process is a command that runs in the background.
type process struct {
	cmd  *exec.Cmd
	out  lockedBuffer
	err  lockedBuffer
	done chan struct{} // closed when it has ended and been waited for
}

// startProcess starts a command in a session of its own. The caller ends it.
func startProcess(t testing.TB, env []string, args ...string) *process {
	t.Helper()
	return startProcessIn(t, &syscall.SysProcAttr{}, env, args...)
}

// startProcessIn is startProcess with further attributes.
func startProcessIn(t testing.TB, attr *syscall.SysProcAttr, env []string, args ...string) *process {
	t.Helper()
	p := &process{cmd: exec.Command(args[0], args[1:]...), done: make(chan struct{})}
	p.cmd.Stdout, p.cmd.Stderr = &p.out, &p.err
	p.cmd.Env = append(p.cmd.Environ(), env...)
	attr.Setsid = true
	p.cmd.SysProcAttr = attr
	p.cmd.WaitDelay = 5 * time.Second
	if err := startTied(p.cmd); err != nil {
		t.Fatalf("%q: %v", args, err)
	}
	started.Store(p.pid(), struct{}{})
	go func() {
		// The exit code is in ProcessState; a process that leaves its pipes to a child is caught by the leak checks.
		_ = p.cmd.Wait()
		started.Delete(p.pid())
		close(p.done)
	}()
	return p
}

func (p *process) pid() int { return p.cmd.Process.Pid }

func (p *process) output() string { return p.out.String() + p.err.String() }

// waitFor reports whether the process has ended within d.
func (p *process) waitFor(d time.Duration) bool {
	select {
	case <-p.done:
		return true
	case <-time.After(d):
		return false
	}
}

func (p *process) ended() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// kill ends the process and everything below it at once.
func (p *process) kill() {
	for _, d := range append(descendants(p.pid()), Proc{PID: p.pid()}) {
		// ESRCH: it ended meanwhile.
		_ = unix.Kill(d.PID, unix.SIGKILL)
	}
	<-p.done
}

// lockedBuffer is a bytes.Buffer that may be read while it is written, and keeps only the last megabyte.
type lockedBuffer struct {
	mu  sync.Mutex
	buf []byte // guarded by mu
}

const keepOutput = 1 << 20

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.buf = append(b.buf, p...)
	if over := len(b.buf) - keepOutput; over > 0 {
		b.buf = append(b.buf[:0], b.buf[over:]...)
	}
	return len(p), nil
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return string(b.buf)
}

// Background starts a server, waits until ready reports true, and ends the server, with everything below it, in the
// test's clean-up.
func Background(t testing.TB, ready func() bool, cmd *exec.Cmd) {
	t.Helper()
	p := startProcess(t, cmd.Env, cmd.Args...)
	t.Cleanup(func() {
		if p.ended() {
			t.Errorf("%s ended by itself: %v\n%s", cmd.Path, p.cmd.ProcessState, tail(p.output()))
			return
		}
		p.kill()
	})
	for deadline := time.Now().Add(20 * time.Second); !ready(); {
		if time.Now().After(deadline) || p.waitFor(20*time.Millisecond) {
			t.Fatalf("%s is not ready:\n%s", cmd.Path, p.output())
		}
	}
}
