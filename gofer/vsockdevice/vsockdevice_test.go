// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package vsockdevice

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"fsva/gofer/vhostuser/vhosttest"
	"fsva/gofer/vsock"
)

// pair returns two connected sockets.
func pair(t *testing.T) (a, b *net.UnixConn) {
	t.Helper()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(t.TempDir(), "s"), Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if a, err = net.DialUnix("unix", nil, l.Addr().(*net.UnixAddr)); err != nil {
		t.Fatal(err)
	}
	if b, err = l.AcceptUnix(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.Close(); b.Close() })
	return a, b
}

// What is passed while there is no gofer reaches the next one, and the ends of a
// joined connection reach each other.
func TestHandoff(t *testing.T) {
	want := Config{CID: 9, Port: 77}
	device, gofer, err := Handoff(want)
	if err != nil {
		t.Fatal(err)
	}
	defer device.Close()
	b := make([]byte, maxConfig)
	n, err := device.Read(b)
	if err != nil {
		t.Fatal(err)
	}
	var got Config
	if err := json.Unmarshal(b[:n], &got); err != nil || got != want {
		t.Fatalf("configuration %+v, %v", got, err)
	}
	fd, err := unix.Dup(int(gofer.Fd()))
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd) // the supervisor's copy

	first, err := NewListener(gofer, 9)
	if err != nil {
		t.Fatal(err)
	}
	first.Close()
	if _, err := first.Accept(); err == nil {
		t.Error("a closed listener accepts")
	}
	guest, kernel := pair(t)
	ours, err := pass(device)
	if err != nil {
		t.Fatal(err)
	}
	joined := make(chan struct{})
	go func() {
		defer close(joined)
		join(conn{kernel, 9}, ours)
	}()

	dup, err := unix.Dup(fd)
	if err != nil {
		t.Fatal(err)
	}
	second, err := NewListener(os.NewFile(uintptr(dup), "hand-off"), 9)
	if err != nil {
		t.Fatal(err)
	}
	defer second.Close()
	c, err := second.Accept()
	if err != nil {
		t.Fatal(err)
	}
	if cid := c.(vsock.Conn).PeerCID(); cid != 9 {
		t.Errorf("connection of CID %d", cid)
	}
	data := bytes.Repeat([]byte("guest"), 1<<18)
	go func() {
		guest.Write(data)
		guest.CloseWrite()
	}()
	if got, err := io.ReadAll(c); err != nil || !bytes.Equal(got, data) {
		t.Errorf("gofer reads %d bytes, %v", len(got), err)
	}
	if _, err := c.Write([]byte("answer")); err != nil { // after the other direction's end
		t.Error(err)
	}
	c.Close()
	if got, err := io.ReadAll(guest); err != nil || string(got) != "answer" {
		t.Errorf("guest reads %q, %v", got, err)
	}
	<-joined
	device.Close()
	if _, err := second.Accept(); err != io.EOF {
		t.Errorf("after the end of the device: %v", err)
	}
}

// The device serves a hypervisor, and ends.
func TestServe(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	device, gofer, err := Handoff(Config{})
	if err != nil {
		t.Fatal(err)
	}
	defer gofer.Close()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		done <- serve(ctx, Config{CID: 5, Port: 9}, l, device, slog.New(slog.NewTextHandler(t.Output(), nil)))
	}()
	vm := vhosttest.Dial(t, path, vhosttest.Options{})
	if b := vm.Config(0, 8); b[0] != 5 {
		t.Errorf("the guest's CID is %d", b)
	}
	cancel()
	if err := <-done; err != nil {
		t.Errorf("serve: %v", err)
	}
}
