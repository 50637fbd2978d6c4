// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"bytes"
	"errors"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// pair returns a client whose agent runs in this process; what Serve returned comes when the stream is closed.
func pair(t *testing.T) (*Client, net.Conn, <-chan error) {
	t.Helper()
	host, guest := net.Pipe()
	served := make(chan error, 1)
	go func() { served <- Serve(guest, guest, Hello{Kernel: "6.1"}) }()
	c, err := NewClient(host)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { host.Close() })
	return c, host, served
}

func TestCommands(t *testing.T) {
	c, host, served := pair(t)
	if c.Hello.Kernel != "6.1" {
		t.Errorf("hello: got %+v", c.Hello)
	}
	for _, tc := range []struct {
		script         string
		stdout, stderr string
		code           int
	}{
		{"echo out; echo err >&2; exit 3", "out\n", "err\n", 3},
		{"cat", "input", "", 0},
		{`echo $NAME`, "value\n", "", 0},
		{"kill -9 $$", "", "", -1},
	} {
		r, err := c.Do(Request{Args: []string{"sh", "-c", tc.script}, Stdin: []byte("input"), Env: []string{"NAME=value"}, Timeout: time.Minute})
		if err != nil || string(r.Stdout) != tc.stdout || string(r.Stderr) != tc.stderr || r.Code != tc.code {
			t.Errorf("%s: got %q, %q, %d, %v; want %q, %q, %d", tc.script, r.Stdout, r.Stderr, r.Code, err, tc.stdout, tc.stderr, tc.code)
		}
	}
	if _, err := c.Do(Request{Args: []string{"/no/such/program"}, Timeout: time.Minute}); err == nil {
		t.Error("a program that does not exist runs")
	}
	if _, err := c.Do(Request{}); err == nil {
		t.Error("no command is no error")
	}
	if r, err := c.Do(Request{Args: []string{"sleep", "1000"}, Timeout: time.Millisecond}); err == nil || r.Code != -1 {
		t.Errorf("a command that takes too long: got %+v, %v", r, err)
	}
	host.Close()
	if err := <-served; err != nil {
		t.Errorf("Serve: %v", err)
	}
}

// A command that waits does not keep others from running.
func TestManyAtATime(t *testing.T) {
	c, _, _ := pair(t)
	fifo := filepath.Join(t.TempDir(), "fifo")
	if r, err := c.Do(Request{Args: []string{"mkfifo", fifo}, Timeout: time.Minute}); err != nil || r.Code != 0 {
		t.Fatalf("mkfifo: %+v, %v", r, err)
	}
	got := make(chan string, 1)
	go func() {
		r, err := c.Do(Request{Args: []string{"cat", fifo}, Timeout: time.Minute})
		if err != nil {
			t.Error(err)
		}
		got <- string(r.Stdout)
	}()
	if r, err := c.Do(Request{Args: []string{"sh", "-c", "echo word > " + fifo}, Timeout: time.Minute}); err != nil || r.Code != 0 {
		t.Fatalf("write: %+v, %v", r, err)
	}
	if s := <-got; s != "word\n" {
		t.Errorf("got %q", s)
	}
}

func TestFiles(t *testing.T) {
	c, _, _ := pair(t)
	path := filepath.Join(t.TempDir(), "new/file")
	content := bytes.Repeat([]byte{0, 255, '\n'}, 10000)
	if _, err := c.Do(Request{Write: path, Stdin: content, Mode: 0o600, Timeout: time.Minute}); err != nil {
		t.Fatal(err)
	}
	if r, err := c.Do(Request{Read: path, Timeout: time.Minute}); err != nil || !bytes.Equal(r.Stdout, content) {
		t.Errorf("got %d bytes, %v", len(r.Stdout), err)
	}
	if _, err := c.Do(Request{Read: path + "x", Timeout: time.Minute}); err == nil || !strings.Contains(err.Error(), "no such file") {
		t.Errorf("a file that does not exist: %v", err)
	}
}

// What waits for an answer is told when the guest ends, and so is what comes later.
func TestGuestEnds(t *testing.T) {
	host, guest := net.Pipe()
	go func() {
		if _, err := guest.Write([]byte("{}\n")); err != nil {
			t.Error(err)
		}
		if _, err := guest.Read(make([]byte, 1)); err != nil { // a request
			t.Error(err)
		}
		guest.Close()
	}()
	c, err := NewClient(host)
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if _, err := c.Do(Request{Args: []string{"true"}, Timeout: time.Minute}); !errors.Is(err, ErrGone) {
			t.Errorf("got %v", err)
		}
	}
}
