// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package vsockpeer

import (
	"bytes"
	"net"
	"path/filepath"
	"testing"
)

func TestUnixSocket(t *testing.T) {
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		Serve(l, func(err error) { t.Error(err) })
	}()
	defer func() { l.Close(); <-done }()
	for name, call := range map[string]func(Conn) error{
		"download": func(c Conn) error { return Download(c, 1<<20+3) },
		"nothing":  func(c Conn) error { return Download(c, 0) },
		"upload":   func(c Conn) error { return Upload(c, 1<<20+3) },
		"ping":     func(c Conn) error { _, err := Ping(c, 10); return err },
	} {
		c, err := net.Dial("unix", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		if err := call(c.(Conn)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		c.Close()
	}
}

func TestWrongDataIsFound(t *testing.T) {
	b := make([]byte, 1024)
	fill(b, 0)
	if n, err := receive(bytes.NewReader(b)); n != 1024 || err != nil {
		t.Errorf("%d bytes, %v", n, err)
	}
	b[1000]++
	if _, err := receive(bytes.NewReader(b)); err == nil {
		t.Error("wrong data is taken for right")
	}
}
