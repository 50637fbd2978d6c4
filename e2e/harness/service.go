// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package harness

import (
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Service is a command that runs in the background, with what it starts, until the test ends or it is killed.
type Service struct{ p *process }

// Start starts a command. The test's clean-up kills it and everything below it; that it ended before is no failure.
func Start(t testing.TB, env []string, args ...string) *Service {
	t.Helper()
	s := &Service{p: startProcess(t, env, args...)}
	t.Cleanup(s.Kill)
	return s
}

// PID returns the process id.
func (s *Service) PID() int { return s.p.pid() }

// Output returns the end of what it wrote to stdout, then of what it wrote to stderr.
func (s *Service) Output() string { return tail(s.p.out.String()) + tail(s.p.err.String()) }

// Done is closed when it has ended.
func (s *Service) Done() <-chan struct{} { return s.p.done }

// End sends it a signal, it alone, and waits for its end. What it started goes on.
func (s *Service) End(t testing.TB, how unix.Signal) {
	t.Helper()
	if err := s.p.cmd.Process.Signal(how); err != nil {
		t.Fatalf("%s: %v\n%s", s.p.cmd.Path, err, s.Output())
	}
	if !s.p.waitFor(time.Minute) {
		t.Fatalf("%s does not end by %v:\n%s", s.p.cmd.Path, how, s.Output())
	}
}

// Kill ends it and everything below it by SIGKILL, and waits for its end.
func (s *Service) Kill() {
	if !s.p.ended() {
		s.p.kill()
	}
}

// Await waits until ready reports true, and fails the test if that takes longer than timeout or the service ends before.
func Await(t testing.TB, timeout time.Duration, s *Service, ready func() bool) {
	t.Helper()
	for deadline := time.Now().Add(timeout); !ready(); {
		if time.Now().After(deadline) || s.p.waitFor(10*time.Millisecond) {
			t.Fatalf("%s is not ready:\n%s", s.p.cmd.Path, s.Output())
		}
	}
}
