// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package top

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"testing"
	"time"

	"github.com/creack/pty"
	"golang.org/x/sys/unix"
)

// TestMain lets the test binary be the program on the other side of a terminal.
func TestMain(m *testing.M) {
	if how := os.Getenv("FSVA_TEST_TOP"); how != "" {
		os.Exit(liveForTest(how))
	}
	os.Exit(m.Run())
}

func liveForTest(how string) int {
	tty, err := os.OpenFile("/dev/tty", os.O_RDWR, 0)
	if err != nil {
		fmt.Println(err)
		return 3
	}
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGTERM, unix.SIGHUP)
	defer stop()
	o := Options{Interval: 20 * time.Millisecond, Take: fake()}
	if how == "hang" {
		o.Take = func(ctx context.Context) (Sample, error) {
			<-ctx.Done()
			return Sample{}, ctx.Err()
		}
	}
	if how == "panic" {
		defer func() { fmt.Println("panic:", recover()) }()
		o.Order.column = 1000
	}
	if err := Live(ctx, tty, o); err != nil {
		fmt.Println(err)
		return 1
	}
	return 0
}

// session is a program on a terminal.
type session struct {
	t      *testing.T
	cmd    *exec.Cmd
	master *os.File
	tty    *os.File // our own open file of the terminal, which stays
	before unix.Termios
	chunks chan string
	text   string
}

func start(t *testing.T, how string) *session {
	t.Helper()
	s := &session{t: t, chunks: make(chan string)}
	var err error
	if s.master, s.tty, err = pty.Open(); err != nil {
		t.Skipf("no pseudo terminals here: %v", err)
	}
	t.Cleanup(func() { s.master.Close(); s.tty.Close() })
	s.resize(100, 20)
	s.before = s.termios()
	s.cmd = exec.Command(os.Args[0])
	s.cmd.Env = append(os.Environ(), "FSVA_TEST_TOP="+how)
	s.cmd.Stdin, s.cmd.Stdout, s.cmd.Stderr = s.tty, s.tty, s.tty
	s.cmd.SysProcAttr = &unix.SysProcAttr{Setsid: true, Setctty: true}
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.cmd.Process.Kill() })
	go func() {
		defer close(s.chunks)
		buf := make([]byte, 4096)
		for {
			n, err := s.master.Read(buf)
			if err != nil {
				return
			}
			s.chunks <- string(buf[:n])
		}
	}()
	return s
}

func (s *session) termios() unix.Termios {
	s.t.Helper()
	v, err := unix.IoctlGetTermios(int(s.tty.Fd()), unix.TCGETS)
	if err != nil {
		s.t.Fatal(err)
	}
	return *v
}

func (s *session) resize(width, height uint16) {
	s.t.Helper()
	if err := pty.Setsize(s.master, &pty.Winsize{Rows: height, Cols: width}); err != nil {
		s.t.Fatal(err)
	}
}

// until waits for a frame that is as wanted, and returns it.
func (s *session) until(what string, ok func(lines []string) bool) {
	s.t.Helper()
	deadline := time.After(30 * time.Second)
	for {
		for {
			_, after, found := strings.Cut(s.text, home)
			frame, rest, ended := strings.Cut(after, toEnd)
			if !found || !ended {
				break
			}
			s.text = rest
			if ok(frameLines(frame)) {
				return
			}
		}
		select {
		case c, open := <-s.chunks:
			if !open {
				s.t.Fatalf("%s: the terminal ended after %q", what, s.text)
			}
			s.text += c
		case <-deadline:
			s.t.Fatalf("%s: not seen; the last was %q", what, s.text)
		}
	}
}

// press types text.
func (s *session) press(text string) {
	s.t.Helper()
	if _, err := s.master.WriteString(text); err != nil {
		s.t.Fatal(err)
	}
}

// ends waits for the program, and checks that the terminal is as it was.
func (s *session) ends(status int) {
	s.t.Helper()
	done := make(chan error, 1)
	go func() { done <- s.cmd.Wait() }()
	deadline := time.After(30 * time.Second)
	for waiting := true; waiting; {
		select {
		case c := <-s.chunks:
			s.text += c
		case <-done:
			waiting = false
		case <-deadline:
			s.t.Fatal("it does not end")
		}
	}
	for !strings.Contains(s.text, leave) { // what is still in the terminal
		select {
		case c := <-s.chunks:
			s.text += c
		case <-deadline:
			s.t.Fatalf("the screen was not given back: %q", s.text)
		}
	}
	if got := s.cmd.ProcessState.ExitCode(); got != status {
		s.t.Errorf("status %d, want %d: %q", got, status, s.text)
	}
	if got := s.termios(); got != s.before {
		s.t.Errorf("terminal\ngot  %+v\nwant %+v", got, s.before)
	}
}

// first is the volume on top.
func first(lines []string) string {
	if len(lines) < 3 {
		return ""
	}
	name, _, _ := strings.Cut(lines[2], " ")
	return name
}

func TestLive(t *testing.T) {
	s := start(t, "fake")
	s.until("the volumes by name", func(l []string) bool { return first(l) == "busy" && strings.Contains(l[0], "by name") })
	s.press("R")
	s.until("the reverse", func(l []string) bool { return first(l) == "restarted" && strings.Contains(l[0], "reversed") })
	s.press("o")
	s.until("by rate", func(l []string) bool { return first(l) == "busy" && strings.Contains(l[0], "by ops") })
	s.resize(30, 5)
	s.until("a small screen", func(l []string) bool { return len(l) == 5 && len(l[0]) == 30 && first(l) == "busy" })
	s.press("\x1b[B")
	s.until("the next volume", func(l []string) bool { return len(l) == 5 && first(l) == "idle" })
	s.resize(200, 50)
	s.until("a large screen", func(l []string) bool { return len(l) == 8 && len(l[1]) == 200 })
	s.press("q")
	s.ends(0)
}

func TestTerminalIsRestored(t *testing.T) {
	for _, tc := range []struct {
		name, how string
		end       func(*session)
		status    int
	}{
		{"interrupt key", "fake", func(s *session) { s.press("\x03") }, 0},
		{"signal", "fake", func(s *session) { s.cmd.Process.Signal(unix.SIGTERM) }, 0},
		{"while a volume hangs", "hang", func(s *session) { s.press("q") }, 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := start(t, tc.how)
			s.until("a frame", func(l []string) bool { return len(l) > 1 })
			tc.end(s)
			s.ends(tc.status)
		})
	}
	t.Run("panic", func(t *testing.T) {
		s := start(t, "panic")
		s.ends(0)
		if !strings.Contains(s.text, "index out of range") {
			t.Errorf("got %q", s.text)
		}
	})
}
