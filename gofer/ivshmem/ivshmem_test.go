// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package ivshmem

import (
	"context"
	"encoding/binary"
	"errors"
	"net"
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

// start serves memory to the returned connection.
func start(t *testing.T, ctx context.Context, memory *os.File) (peer *net.UnixConn, ended <-chan error) {
	t.Helper()
	p, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	var conns [2]*net.UnixConn
	for i, fd := range p {
		f := os.NewFile(uintptr(fd), "socket")
		c, err := net.FileConn(f)
		f.Close()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		conns[i] = c.(*net.UnixConn)
	}
	done := make(chan error, 1)
	go func() { done <- Serve(ctx, conns[0], memory) }()
	return conns[1], done
}

// receive returns the next message, and the descriptor that came with it or -1.
func receive(t *testing.T, c *net.UnixConn) (value int64, fd int) {
	t.Helper()
	b, oob := make([]byte, 8), make([]byte, unix.CmsgSpace(4))
	n, oobn, _, _, err := c.ReadMsgUnix(b, oob)
	if err != nil || n != len(b) {
		t.Fatalf("%d bytes, %v", n, err)
	}
	fd = -1
	if oobn > 0 {
		msgs, err := unix.ParseSocketControlMessage(oob[:oobn])
		if err != nil || len(msgs) != 1 {
			t.Fatalf("%d control messages, %v", len(msgs), err)
		}
		fds, err := unix.ParseUnixRights(&msgs[0])
		if err != nil || len(fds) != 1 {
			t.Fatalf("descriptors %v, %v", fds, err)
		}
		fd = fds[0]
		t.Cleanup(func() { unix.Close(fd) })
	}
	return int64(binary.LittleEndian.Uint64(b)), fd
}

func memory(t *testing.T) *os.File {
	t.Helper()
	fd, err := unix.MemfdCreate("test", unix.MFD_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	f := os.NewFile(uintptr(fd), "memory")
	t.Cleanup(func() { f.Close() })
	if err := f.Truncate(1 << 20); err != nil {
		t.Fatal(err)
	}
	return f
}

func TestPeerGetsMemory(t *testing.T) {
	mem := memory(t)
	peer, ended := start(t, context.Background(), mem)
	if v, fd := receive(t, peer); v != 0 || fd != -1 {
		t.Errorf("version %d with descriptor %d", v, fd)
	}
	if v, fd := receive(t, peer); v != 0 || fd != -1 {
		t.Errorf("ID %d with descriptor %d", v, fd)
	}
	v, fd := receive(t, peer)
	if v != -1 || fd < 0 {
		t.Fatalf("memory is announced by %d with descriptor %d", v, fd)
	}
	if _, err := unix.Pwrite(fd, []byte("hi"), 4096); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 2)
	if _, err := mem.ReadAt(b, 4096); err != nil || string(b) != "hi" {
		t.Errorf("memory has %q, %v", b, err)
	}
	peer.Close()
	if err := <-ended; err != nil {
		t.Errorf("after the end of the peer: %v", err)
	}
}

func TestTalkingPeerIsCutOff(t *testing.T) {
	peer, ended := start(t, context.Background(), memory(t))
	if _, err := peer.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; err == nil {
		t.Error("a peer that sends data was served to its end")
	}
}

func TestEndOfContext(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	peer, ended := start(t, ctx, memory(t))
	receive(t, peer)
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	ctx, cancel = context.WithCancel(context.Background())
	cancel()
	if _, ended = start(t, ctx, memory(t)); !errors.Is(<-ended, context.Canceled) {
		t.Error("served after the end of the context")
	}
}
