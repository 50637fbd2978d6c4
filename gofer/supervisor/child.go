// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package supervisor

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// spawner starts processes that die with this one. PR_SET_PDEATHSIG is about
// the thread that forked, so all are forked from one thread that does not end
// before close.
type spawner struct {
	work chan func()
}

func newSpawner() *spawner {
	s := &spawner{work: make(chan func())}
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		for f := range s.work {
			f()
		}
	}()
	return s
}

// start is cmd.Start with a parent death signal.
func (s *spawner) start(cmd *exec.Cmd) error {
	cmd.SysProcAttr.Pdeathsig = unix.SIGKILL
	done := make(chan error)
	s.work <- func() { done <- cmd.Start() }
	return <-done
}

// close kills what is left of the processes.
func (s *spawner) close() { close(s.work) }

// child is one of the supervisor's processes.
type child struct {
	name string // for messages: "FS server", "gofer"
	cmd  *exec.Cmd
	out  *output
	log  *slog.Logger
	done chan struct{} // closed when the process is reaped and its output read
}

// startChild runs this very binary with one argument, in new namespaces and its
// own session (a terminal's ^C is for the supervisor), with files from
// descriptor 3 on. files stay the caller's.
func startChild(s *spawner, name, command string, flags uintptr, files []*os.File, log *slog.Logger) (*child, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("start the %s: %w", name, err)
	}
	defer w.Close()
	c := &child{name: name, out: newOutput(log, command), log: log, done: make(chan struct{})}
	c.cmd = exec.Command("/proc/self/exe", command)
	c.cmd.Args[0] = "fsva"
	c.cmd.Dir = "/"
	c.cmd.Stdout, c.cmd.Stderr = w, w
	c.cmd.ExtraFiles = files
	c.cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: flags, Setsid: true}
	if err := s.start(c.cmd); err != nil {
		r.Close()
		return nil, fmt.Errorf("start the %s: %w", name, err)
	}
	log.Debug("started", "process", command, "pid", c.pid())
	go c.reap(r)
	return c, nil
}

// reap owns the read end of the output pipe.
func (c *child) reap(r *os.File) {
	defer close(c.done)
	read := make(chan error, 1)
	go func() { read <- c.out.consume(r) }()
	err := c.cmd.Wait()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		c.log.Error("wait for a child", "process", c.name, "err", err)
	}
	// A grandchild that survives may hold the pipe open; what it has to say
	// does not matter any more.
	if err := r.SetReadDeadline(time.Now().Add(time.Second)); err != nil {
		c.log.Error("child output", "process", c.name, "err", err)
	}
	if err := <-read; err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
		c.log.Warn("read a child's output", "process", c.name, "err", err)
	}
	r.Close()
	c.log.Debug("ended", "process", c.name, "status", c.cmd.ProcessState.String())
}

func (c *child) pid() int { return c.cmd.Process.Pid }

// exited reports whether the process is gone.
func (c *child) exited() bool {
	select {
	case <-c.done:
		return true
	default:
		return false
	}
}

// status says how the process ended, when, and what it said last.
//
// Preconditions: done is closed.
func (c *child) status(when string) string {
	last := c.out.summary()
	var b strings.Builder
	b.WriteString(c.name)
	switch ws, _ := c.cmd.ProcessState.Sys().(syscall.WaitStatus); {
	case ws.Signaled():
		fmt.Fprintf(&b, " was killed by signal %d (%s)", ws.Signal(), unix.SignalName(ws.Signal()))
	default:
		fmt.Fprintf(&b, " exited with status %d", ws.ExitStatus())
	}
	if when != "" {
		b.WriteString(" " + when)
	}
	if last != "" {
		b.WriteString(": " + last)
	}
	return b.String()
}

// signal ignores processes that are gone.
func (c *child) signal(sig os.Signal) {
	if err := c.cmd.Process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		c.log.Error("signal a child", "process", c.name, "signal", sig, "err", err)
	}
}

// wait waits for the end of the process, at most until ctx ends.
func (c *child) wait(ctx context.Context) bool {
	select {
	case <-c.done:
		return true
	case <-ctx.Done():
		return c.exited()
	}
}

// end waits for the process to end by itself, then asks it to, then kills it,
// with grace between the steps. The end of hard skips the waiting.
func (c *child) end(hard context.Context, grace time.Duration) {
	for _, sig := range []os.Signal{nil, unix.SIGTERM} {
		if hard.Err() != nil {
			break
		}
		if sig != nil {
			c.log.Warn("child does not end, terminating it", "process", c.name, "pid", c.pid())
			c.signal(sig)
		}
		ctx, cancel := context.WithTimeout(hard, grace)
		ended := c.wait(ctx)
		cancel()
		if ended {
			return
		}
	}
	c.kill()
}

// kill ends the process now and waits for it.
func (c *child) kill() {
	c.signal(unix.SIGKILL)
	<-c.done
}
