// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package vsock

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// socketPath returns a path short enough for a socket.
func socketPath(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "vsock")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return filepath.Join(dir, "s")
}

func listen(t *testing.T, a Addr, o Options) net.Listener {
	t.Helper()
	l, err := Listen(a, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

func accept(t *testing.T, l net.Listener) Conn {
	t.Helper()
	c, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c.(Conn)
}

// exchange checks both directions and the half-close of a pair of ends.
func exchange(t *testing.T, a, b Conn) {
	t.Helper()
	const ping, pong = "to the listener", "and back"
	if _, err := io.WriteString(a, ping); err != nil {
		t.Fatal(err)
	}
	if err := a.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(b); err != nil || string(got) != ping {
		t.Fatalf("the listener's side read %q, %v, want %q", got, err, ping)
	}
	if _, err := io.WriteString(b, pong); err != nil {
		t.Fatal(err)
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(a); err != nil || string(got) != pong {
		t.Fatalf("the dialer's side read %q, %v, want %q", got, err, pong)
	}
}

func TestUnix(t *testing.T) {
	a := Addr{Kind: Unix, Path: socketPath(t)}
	l := listen(t, a, Options{Allow: []uint32{7}})
	if st, err := os.Stat(a.Path); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("the socket's mode: %v, %v, want 0600", st.Mode(), err)
	}
	c, err := Dial(t.Context(), a, Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	server := accept(t, l)
	if c.PeerCID() != CIDNone || server.PeerCID() != CIDNone {
		t.Errorf("peers' CIDs %d and %d, want none", c.PeerCID(), server.PeerCID())
	}
	exchange(t, c, server)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(a.Path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("after Close the socket's file is still there: %v", err)
	}
	if _, err := l.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Accept after Close: %v, want net.ErrClosed", err)
	}
}

func TestBindReplacesOnlyAStaleSocket(t *testing.T) {
	a := Addr{Kind: Unix, Path: socketPath(t)}
	f, err := Bind(a, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Bind(a, Options{}); !errors.Is(err, unix.EADDRINUSE) {
		t.Errorf("Bind where somebody listens: %v, want EADDRINUSE", err)
	}
	f.Close()
	if f, err = Bind(a, Options{}); err != nil {
		t.Fatalf("Bind where nobody listens any more: %v", err)
	}
	f.Close()
	if err := os.Remove(a.Path); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(a.Path, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Bind(a, Options{}); !errors.Is(err, unix.EADDRINUSE) {
		t.Errorf("Bind over a file: %v, want EADDRINUSE", err)
	}
	if b, err := os.ReadFile(a.Path); err != nil || string(b) != "precious" {
		t.Errorf("the file in the way: %q, %v", b, err)
	}
}

func TestFileListenerTakesOnlyItsKind(t *testing.T) {
	o := Options{}
	f, err := Bind(Addr{Kind: VhostUser, Path: socketPath(t)}, o)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	tcp, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer tcp.Close()
	tf, err := tcp.(*net.TCPListener).File()
	if err != nil {
		t.Fatal(err)
	}
	defer tf.Close()
	for _, tc := range []struct {
		name string
		f    *os.File
		a    Addr
		o    Options
	}{
		{"vhost-user with a host's CID", f, Addr{Kind: VhostUser, Path: "x"}, Options{CID: 2}},
		{"vhost-user with a CID that is not on the list", f, Addr{Kind: VhostUser, Path: "x"}, Options{Allow: []uint32{4}}},
		{"vhost-user on a TCP socket", tf, Addr{Kind: VhostUser, Path: "x"}, o},
		{"kernel on a unix socket", f, Addr{Kind: Kernel, Port: 1}, o},
		{"unix on a TCP socket", tf, Addr{Kind: Unix, Path: "x"}, o},
		{"hybrid without a CID, and a list", f, Addr{Kind: Hybrid, Path: "x"}, Options{Allow: []uint32{3}}},
		{"hybrid with a CID that is not on the list", f, Addr{Kind: Hybrid, Path: "x"}, Options{CID: 4, Allow: []uint32{3}}},
	} {
		if l, err := FileListener(tc.f, tc.a, tc.o); err == nil {
			l.Close()
			t.Errorf("%s: no error", tc.name)
		}
	}
}

// A guest connects to port 9 of its host: the VMM connects to PATH_9.
func TestHybridListen(t *testing.T) {
	a, o := Addr{Kind: Hybrid, Path: socketPath(t)}, Options{Port: 9, CID: 5, Allow: []uint32{5}}
	l := listen(t, a, o)
	c, err := net.Dial("unix", a.Path+"_9")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	server := accept(t, l)
	if server.PeerCID() != 5 {
		t.Errorf("the guest's CID is %d, want 5", server.PeerCID())
	}
	exchange(t, unixConn{c.(*net.UnixConn), CIDNone}, server)
}

// vmm answers one CONNECT with reply, and then sends back what it reads.
func vmm(t *testing.T, path, reply string) {
	t.Helper()
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		c, err := l.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		r := bufio.NewReader(c)
		if line, err := r.ReadString('\n'); err != nil || line != "CONNECT 9\n" {
			t.Errorf("the VMM was told %q, %v", line, err)
			return
		}
		if _, err := io.WriteString(c, reply); err != nil || reply == "" {
			return
		}
		io.Copy(c, r)
	}()
	t.Cleanup(func() { l.Close(); <-done })
}

func TestHybridDial(t *testing.T) {
	a := Addr{Kind: Hybrid, Path: socketPath(t)}
	// The guest's first bytes come with the answer.
	vmm(t, a.Path, "OK 1073741824\nhello ")
	c, err := Dial(t.Context(), a, Options{Port: 9, CID: 3})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if c.PeerCID() != 3 {
		t.Errorf("the guest's CID is %d, want 3", c.PeerCID())
	}
	if _, err := io.WriteString(c, "world"); err != nil {
		t.Fatal(err)
	}
	if err := c.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(c); err != nil || string(got) != "hello world" {
		t.Errorf("read %q, %v, want %q", got, err, "hello world")
	}
}

func TestHybridDialRefused(t *testing.T) {
	for _, tc := range []struct {
		reply   string
		refused bool // with ECONNREFUSED, rather than as nonsense
	}{
		{"", true},
		{"\n", false},
		{"OK\n", false},
		{"OK x\n", false},
		{"OK -1\n", false},
		{"NO 1\n", false},
		{"OK 4294967296\n", false},
		{strings.Repeat("x", 100), false},
	} {
		a := Addr{Kind: Hybrid, Path: socketPath(t)}
		vmm(t, a.Path, tc.reply)
		c, err := Dial(t.Context(), a, Options{Port: 9})
		if err == nil {
			c.Close()
			t.Errorf("answer %q: no error", tc.reply)
		} else if errors.Is(err, unix.ECONNREFUSED) != tc.refused || strings.Contains(err.Error(), "\n") {
			t.Errorf("answer %q: %v", tc.reply, err)
		}
	}
}

func TestHybridDialEndsWithItsContext(t *testing.T) {
	a := Addr{Kind: Hybrid, Path: socketPath(t)}
	l, err := net.Listen("unix", a.Path) // and it never answers
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if _, err := Dial(ctx, a, Options{}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Dial: %v, want the context's error", err)
	}
}

func TestDialErrors(t *testing.T) {
	for _, a := range []Addr{
		{Kind: Kernel, CID: CIDNone, Port: 1},
		{Kind: VhostUser, Path: "/x"},
		{Kind: Unix, Path: "/nonexistent/x"},
		{Kind: Hybrid, Path: "/nonexistent/x"},
		{},
	} {
		if c, err := Dial(t.Context(), a, Options{}); err == nil {
			c.Close()
			t.Errorf("Dial(%s): no error", a)
		}
	}
}

// Not a byte of the guest's is taken for the VMM's.
func FuzzHybridReply(f *testing.F) {
	f.Add([]byte("OK 1024\nhello"))
	f.Add([]byte("\n"))
	f.Fuzz(func(t *testing.T, in []byte) {
		r := bytes.NewReader(in)
		line, err := readLine(r)
		taken := in[:len(in)-r.Len()]
		if len(taken) > maxHybridReply {
			t.Errorf("%d bytes were read", len(taken))
		}
		if err == nil && line+"\n" != string(taken) {
			t.Errorf("the line is %q, the bytes %q", line, taken)
		}
	})
}
