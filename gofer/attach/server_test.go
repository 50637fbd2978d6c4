// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package attach

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// fakeGofer is a Handler that keeps what it accepts.
type fakeGofer struct {
	refuse error

	mu    sync.Mutex
	seen  []Request
	fds   []int
	conns []*os.File
}

func (g *fakeGofer) Check(r Request) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.seen = append(g.seen, r)
	return g.refuse
}

func (g *fakeGofer) Attach(r Request, fd int, conn *os.File) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.seen = append(g.seen, r)
	if g.refuse != nil {
		return g.refuse
	}
	g.fds = append(g.fds, fd)
	g.conns = append(g.conns, conn)
	return nil
}

// requests returns the requests so far.
func (g *fakeGofer) requests() []Request {
	g.mu.Lock()
	defer g.mu.Unlock()
	return slices.Clone(g.seen)
}

// lisafsFDs returns the descriptors accepted so far, still owned by g.
func (g *fakeGofer) lisafsFDs() []int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return slices.Clone(g.fds)
}

func (g *fakeGofer) closeAll() {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, fd := range g.fds {
		unix.Close(fd)
	}
	for _, c := range g.conns {
		c.Close()
	}
	g.fds, g.conns = nil, nil
}

// serve runs Serve over a fresh volume directory until the test ends, and
// checks that it leaves no descriptor behind.
func serve(t *testing.T, g *fakeGofer) (dir string) {
	t.Helper()
	warmPoller(t)
	before := openFDs(t)
	// Longer than a socket address.
	dir = filepath.Join(t.TempDir(), strings.Repeat("d", 120))
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	l, err := Listen(dir)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- Serve(ctx, l, g, slog.New(slog.DiscardHandler)) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Serve: got %v, want nil after cancel", err)
		}
		g.closeAll()
		if after := openFDs(t); after != before {
			t.Errorf("%d descriptors are open, were %d", after, before)
		}
	})
	return dir
}

// warmPoller makes Go's poller open its descriptors.
func warmPoller(t *testing.T) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	r.Close()
	w.Close()
}

func openFDs(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

func socketpair(t *testing.T) (a, b int) {
	t.Helper()
	p, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	return p[0], p[1]
}

func TestAttachHandsOver(t *testing.T) {
	g := &fakeGofer{}
	dir := serve(t, g)
	ours, theirs := socketpair(t)
	defer unix.Close(ours)
	conn, err := Attach(dir, Request{Container: "c1", Destination: "/data", ReadOnly: true}, theirs)
	unix.Close(theirs)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(conn)
	if want := (Request{Version: 1, Op: OpAttach, Container: "c1", Destination: "/data", ReadOnly: true}); g.requests()[0] != want {
		t.Errorf("gofer saw %+v, want %+v", g.requests()[0], want)
	}
	// What the gofer holds is the other end of ours.
	if _, err := unix.Write(g.lisafsFDs()[0], []byte("hello")); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 16)
	if n, err := unix.Read(ours, buf); err != nil || string(buf[:n]) != "hello" {
		t.Errorf("got %q, %v; want hello", buf[:n], err)
	}
	// The connection stays until the gofer lets go of it.
	if n, _, err := unix.Recvfrom(conn, buf, unix.MSG_DONTWAIT); err != unix.EAGAIN {
		t.Errorf("connection reads %d, %v; want EAGAIN", n, err)
	}
	g.closeAll()
	if n, err := unix.Read(conn, buf); n != 0 || err != nil {
		t.Errorf("connection reads %d, %v; want end of file", n, err)
	}
	if n, err := unix.Read(ours, buf); n != 0 || err != nil {
		t.Errorf("lisafs socket reads %d, %v; want end of file", n, err)
	}
}

func TestCheckAndRefusal(t *testing.T) {
	g := &fakeGofer{}
	dir := serve(t, g)
	if err := Check(dir, Request{Container: "c", Destination: "/d"}); err != nil {
		t.Fatal(err)
	}
	g.mu.Lock()
	g.refuse = errors.New("volume \"v\" is exclusive\nand in use")
	g.mu.Unlock()
	const want = `volume "v" is exclusive and in use`
	var refused *RefusedError
	if err := Check(dir, Request{}); !errors.As(err, &refused) || refused.Text != want {
		t.Errorf("Check: got %v, want %q", err, want)
	}
	a, b := socketpair(t)
	defer unix.Close(a)
	_, err := Attach(dir, Request{}, b)
	unix.Close(b)
	if !errors.As(err, &refused) || refused.Text != want {
		t.Errorf("Attach: got %v, want %q", err, want)
	}
	// Nobody else has kept the refused socket.
	if n, err := unix.Read(a, make([]byte, 1)); n != 0 || err != nil {
		t.Errorf("refused socket reads %d, %v; want end of file", n, err)
	}
}

func TestNotRunning(t *testing.T) {
	dir := t.TempDir()
	if err := Check(dir, Request{}); !errors.Is(err, ErrNotRunning) {
		t.Errorf("no socket: got %v, want ErrNotRunning", err)
	}
	l, err := Listen(dir)
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	if err := Check(dir, Request{}); !errors.Is(err, ErrNotRunning) {
		t.Errorf("dead gofer's socket: got %v, want ErrNotRunning", err)
	}
	// A new gofer takes the place of the dead one.
	if l, err = Listen(dir); err != nil {
		t.Fatal(err)
	}
	raw, err := l.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- Check(dir, Request{}) }()
	conn, err := accept(raw)
	if err != nil {
		t.Fatal(err)
	}
	unix.Close(conn)
	if err := <-done; !errors.Is(err, ErrNotRunning) {
		t.Errorf("gofer that hangs up: got %v, want ErrNotRunning", err)
	}
	l.Close()
}

func TestClientNeverFollowsSymlink(t *testing.T) {
	real := serve(t, &fakeGofer{})
	fake := t.TempDir()
	if err := os.Symlink(filepath.Join(real, SocketName), filepath.Join(fake, SocketName)); err != nil {
		t.Fatal(err)
	}
	if err := Check(fake, Request{}); err == nil || !strings.Contains(err.Error(), "is not a socket") {
		t.Errorf("got %v, want a refusal to connect", err)
	}
}

// TestServerBadPeers sends what no runsc sends; serve's cleanup proves that no
// descriptor is kept.
func TestServerBadPeers(t *testing.T) {
	g := &fakeGofer{}
	dir := serve(t, g)
	a, b := socketpair(t)
	defer unix.Close(a)
	defer unix.Close(b)
	null, err := unix.Open("/dev/null", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(null)
	const attach, check = `{"version":1,"op":"attach"}` + "\n", `{"version":1,"op":"check"}` + "\n"
	for _, tc := range []struct {
		name string
		line string
		fds  []int
		want string
	}{
		{"attach without descriptor", attach, nil, "without a descriptor"},
		{"attach with a file", attach, []int{null}, "no unix socket"},
		{"attach with two", attach, []int{a, b}, "more than one descriptor"},
		{"attach with many", attach, []int{a, b, a, b, a, b, a, b}, "more than one descriptor"},
		{"check with one", check, []int{a}, "came with a descriptor"},
		{"garbage", "GET / HTTP/1.1\r\n", nil, "bad message"},
		{"endless line", strings.Repeat("x", maxLine+1), nil, "longer than"},
		{"garbage with descriptor", "x\n", []int{a}, "bad message"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			conn, err := dial(dir)
			if err != nil {
				t.Fatal(err)
			}
			defer unix.Close(conn)
			var oob []byte
			if len(tc.fds) > 0 {
				oob = unix.UnixRights(tc.fds...)
			}
			if err := unix.Sendmsg(conn, []byte(tc.line), oob, nil, unix.MSG_NOSIGNAL); err != nil {
				t.Fatal(err)
			}
			buf := make([]byte, 4096)
			n, err := unix.Read(conn, buf)
			if err != nil || !strings.Contains(string(buf[:n]), tc.want) {
				t.Errorf("got %q, %v; want %q", buf[:n], err, tc.want)
			}
		})
	}
	if seen := g.requests(); len(seen) != 0 {
		t.Errorf("handler was called with %+v", seen)
	}
	// A descriptor in each of two pieces of one request.
	conn, err := dial(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(conn)
	for _, piece := range []string{attach[:5], attach[5:]} {
		if err := unix.Sendmsg(conn, []byte(piece), unix.UnixRights(a), nil, unix.MSG_NOSIGNAL); err != nil {
			t.Fatal(err)
		}
	}
	buf := make([]byte, 4096)
	if n, err := unix.Read(conn, buf); err != nil || !strings.Contains(string(buf[:n]), "more than one") {
		t.Errorf("got %q, %v", buf[:n], err)
	}
}

// TestServeStopsWithSilentPeers: peers that say nothing do not hold up the end
// of the service, nor others while it lasts.
func TestServeStopsWithSilentPeers(t *testing.T) {
	dir := serve(t, &fakeGofer{})
	var silent []int
	defer func() {
		for _, fd := range silent {
			unix.Close(fd)
		}
	}()
	for range maxConversations / 2 {
		fd, err := dial(dir)
		if err != nil {
			t.Fatal(err)
		}
		silent = append(silent, fd)
	}
	start := time.Now()
	if err := Check(dir, Request{}); err != nil {
		t.Fatal(err)
	}
	if d := time.Since(start); d >= serverTimeout {
		t.Errorf("a peer waited %v behind silent ones", d)
	}
}

func TestConcurrentAttach(t *testing.T) {
	g := &fakeGofer{}
	dir := serve(t, g)
	var wg sync.WaitGroup
	for range 3 * maxConversations {
		wg.Go(func() {
			p, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
			if err != nil {
				t.Error(err)
				return
			}
			defer unix.Close(p[0])
			defer unix.Close(p[1])
			conn, err := Attach(dir, Request{Container: "c"}, p[1])
			if err != nil {
				t.Error(err)
				return
			}
			unix.Close(conn)
		})
	}
	wg.Wait()
	if got, want := len(g.lisafsFDs()), 3*maxConversations; got != want {
		t.Errorf("got %d descriptors, want %d", got, want)
	}
}
