// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"errors"
	"log/syslog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"fsva/gofer/vsock"
)

func TestMountLog(t *testing.T) {
	path := filepath.Join(t.TempDir(), "syslog")
	daemon, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer daemon.Close()

	var stderr bytes.Buffer
	l, err := newMountLog("", &stderr)
	if err != nil {
		t.Fatal(err)
	}
	say := func(line string) {
		t.Helper()
		if _, err := l.Write([]byte(line)); err != nil {
			t.Errorf("%s: %v", line, err)
		}
	}
	say("one\n")
	if err := l.detach(func() (*syslog.Writer, error) { return syslog.Dial("unixgram", path, syslog.LOG_DAEMON, "fsva") }); err != nil {
		t.Fatal(err)
	}
	say("two\n")
	b := make([]byte, 1000)
	n, err := daemon.Read(b)
	if got := string(b[:n]); err != nil || !strings.HasSuffix(got, ": two\n") || !strings.Contains(got, "fsva[") {
		t.Errorf("syslog got %q, %v", got, err)
	}
	if stderr.String() != "one\n" {
		t.Errorf("stderr got %q", stderr.String())
	}

	l, err = newMountLog("", &stderr)
	if err != nil {
		t.Fatal(err)
	}
	if err := l.detach(func() (*syslog.Writer, error) { return nil, errors.New("no syslog") }); err == nil {
		t.Error("no error without syslog")
	}
	say("three\n")
	if stderr.String() != "one\nthree\n" {
		t.Errorf("stderr got %q", stderr.String())
	}
}

func TestMountLogFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	for _, line := range []string{"one\n", "two\n"} {
		l, err := newMountLog(path, nil)
		if err != nil {
			t.Fatal(err)
		}
		if err := l.detach(nil); err != nil { // stays with the file
			t.Fatal(err)
		}
		if _, err := l.Write([]byte(line)); err != nil {
			t.Fatal(err)
		}
		l.file.Close()
	}
	got, err := os.ReadFile(path)
	if err != nil || string(got) != "one\ntwo\n" {
		t.Errorf("%q, %v", got, err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info, err)
	}
	if _, err := newMountLog(filepath.Dir(path), nil); !errors.Is(err, unix.EISDIR) {
		t.Errorf("a directory: %v", err)
	}
}

// What goes wrong at first is explained.
func TestExplain(t *testing.T) {
	addr := vsock.Addr{Kind: vsock.Unix, Path: filepath.Join(t.TempDir(), "sock")}
	dial := func() error {
		c, err := vsock.Dial(t.Context(), addr, vsock.Options{})
		if err == nil {
			c.Close()
			t.Fatal("connected")
		}
		return explain(err, addr)
	}
	if err := dial(); !strings.Contains(err.Error(), "fsva serve --listen "+addr.String()+" makes this socket") || !errors.Is(err, unix.ENOENT) {
		t.Errorf("no socket: %v", err)
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: addr.Path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	l.Close()
	if err := dial(); !strings.Contains(err.Error(), "nothing listens there any more") {
		t.Errorf("a socket of nobody: %v", err)
	}
	if err := explain(unix.EPERM, addr); err != unix.EPERM {
		t.Errorf("EPERM: %v", err)
	}
}
