// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	runc "github.com/containerd/go-runc"
)

// fakeCommands ends each command with the status.
type fakeCommands struct {
	status int
	err    error
}

func (f *fakeCommands) Start(*exec.Cmd) (chan runc.Exit, error)     { return nil, nil }
func (f *fakeCommands) Wait(*exec.Cmd, chan runc.Exit) (int, error) { return f.status, f.err }

// fakeChildren has one subscriber at a time.
type fakeChildren struct {
	events       chan runc.Exit
	unsubscribed chan chan runc.Exit
}

func (f *fakeChildren) Subscribe() chan runc.Exit    { return f.events }
func (f *fakeChildren) Unsubscribe(c chan runc.Exit) { f.unsubscribed <- c }

func TestExits(t *testing.T) {
	const gone, pid = 128, 1000
	commands := &fakeCommands{}
	children := &fakeChildren{make(chan runc.Exit), make(chan chan runc.Exit)}
	x := &exits{ProcessMonitor: commands, children: children, timeout: time.Minute, sandboxes: map[string]*sandbox{}}
	pidFile := filepath.Join(t.TempDir(), "pid")
	if err := os.WriteFile(pidFile, []byte(strconv.Itoa(pid)), 0o600); err != nil {
		t.Fatal(err)
	}
	// run ends a command of runsc with the status, and returns what the shim is told.
	run := func(status int, args ...string) (int, string) {
		t.Helper()
		commands.status = status
		var out bytes.Buffer
		cmd := exec.Command("runsc", append([]string{"--root=/r", "--debug"}, args...)...)
		cmd.Stdout = &out
		got, err := x.Wait(cmd, nil)
		if err != nil {
			t.Fatalf("%q: %v", args, err)
		}
		return got, out.String()
	}
	create := func(id string) {
		t.Helper()
		if status, _ := run(0, "create", "--bundle", "/b", "--pid-file", pidFile, id); status != 0 {
			t.Errorf("create: %d", status)
		}
	}

	create("first")
	create("second") // of the same sandbox
	if status, out := run(gone, "wait", "second"); status != gone || out != "" {
		t.Errorf("a second container: %d, %q", status, out)
	}
	if status, out := run(0, "wait", "first"); status != 0 || out != "" {
		t.Errorf("runsc wait that succeeds: %d, %q", status, out)
	}
	go func() {
		children.events <- runc.Exit{Pid: pid + 1, Status: 4}
		children.events <- runc.Exit{Pid: pid, Status: 3}
		<-children.unsubscribed
	}()
	if status, out := run(gone, "wait", "first"); status != 0 || out != `{"exitStatus":3,"id":"first"}`+"\n" {
		t.Errorf("a container that is gone: %d, %q", status, out)
	}
	run(0, "delete", "first")
	if status, out := run(gone, "wait", "first"); status != gone || out != "" {
		t.Errorf("a deleted container: %d, %q", status, out)
	}

	// A sandbox that has not ended: runsc wait has failed for another reason.
	x.timeout = time.Millisecond
	create("stays")
	if status, out := run(gone, "wait", "stays"); status != gone || out != "" {
		t.Errorf("a container that runs: %d, %q", status, out)
	}
	if status, out := run(gone, "wait", "--checkpoint", "stays"); status != gone || out != "" {
		t.Errorf("runsc wait --checkpoint: %d, %q", status, out)
	}
	run(gone, "create", "--pid-file", pidFile, "fails")
	if x.get("fails") != nil {
		t.Error("a container that could not be created is known")
	}
	commands.err = errors.New("no such process")
	if _, err := x.Wait(exec.Command("runsc", "wait", "stays"), nil); err != commands.err {
		t.Errorf("got %v", err)
	}
	close(children.events)
	<-children.unsubscribed
}
