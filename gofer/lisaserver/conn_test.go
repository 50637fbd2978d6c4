// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package lisaserver

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/lisafs"
	glog "gvisor.dev/gvisor/pkg/log"
)

// rawConn is a client that speaks lisafs' socket protocol by hand.
type rawConn struct {
	t    *testing.T
	sock *os.File
}

func (f *fixture) rawConnect(o ConnOptions) *rawConn {
	f.t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		f.t.Fatal(err)
	}
	f.wg.Add(1)
	go func() {
		defer f.wg.Done()
		if err := f.srv.Serve(fds[0], o); err != nil && !errors.Is(err, ErrClosed) {
			f.t.Error(err)
		}
	}()
	r := &rawConn{t: f.t, sock: os.NewFile(uintptr(fds[1]), "client")}
	f.t.Cleanup(func() { r.sock.Close() })
	return r
}

func header(size uint32, m lisafs.MID) []byte {
	var h [sockHeaderLen]byte
	binary.LittleEndian.PutUint32(h[:], size)
	binary.LittleEndian.PutUint16(h[4:], uint16(m))
	return h[:]
}

// call sends a message and returns the response's id and payload.
func (r *rawConn) call(m lisafs.MID, payload []byte) (lisafs.MID, []byte, error) {
	if _, err := r.sock.Write(append(header(uint32(len(payload)), m), payload...)); err != nil {
		return 0, nil, err
	}
	return readMessage(r.sock)
}

func readMessage(from io.Reader) (lisafs.MID, []byte, error) {
	var h [sockHeaderLen]byte
	if _, err := io.ReadFull(from, h[:]); err != nil {
		return 0, nil, err
	}
	body := make([]byte, binary.LittleEndian.Uint32(h[:]))
	_, err := io.ReadFull(from, body)
	return lisafs.MID(binary.LittleEndian.Uint16(h[4:])), body, err
}

func TestOversizedMessageEndsTheConnection(t *testing.T) {
	f := newFixture(t, Options{})
	for _, size := range []uint32{defaultMaxIO + messageOverhead + 1, 1 << 31, 1<<32 - 8, 1<<32 - 1} {
		r := f.rawConnect(ConnOptions{})
		if m, _, err := r.call(lisafs.Mount, nil); err != nil || m != lisafs.Mount {
			t.Fatalf("mount: message %d, %v", m, err)
		}
		if _, err := r.sock.Write(header(size, lisafs.PWrite)); err != nil {
			t.Fatal(err)
		}
		if _, _, err := readMessage(r.sock); !errors.Is(err, io.EOF) {
			t.Errorf("after a message of %d bytes: %v, want EOF", size, err)
		}
	}
}

func TestUnsupportedMessages(t *testing.T) {
	f := newFixture(t, Options{})
	r := f.rawConnect(ConnOptions{})
	for _, m := range []lisafs.MID{lisafs.Connect, lisafs.Listen, lisafs.Accept, lisafs.ConnectWithCreds, 1000, 65535} {
		got, body, err := r.call(m, make([]byte, 64))
		if err != nil || got != lisafs.Error || binary.LittleEndian.Uint32(body) != uint32(unix.EOPNOTSUPP) {
			t.Errorf("message %d: answer %d %v, %v", m, got, body, err)
		}
	}
	if got, body, err := r.call(lisafs.Error, nil); err != nil || got != lisafs.Error || len(body) != 4 {
		t.Errorf("error as a request: %d %v, %v", got, body, err)
	}
}

func TestClientCannotSendDescriptors(t *testing.T) {
	f := newFixture(t, Options{})
	r := f.rawConnect(ConnOptions{})
	if _, err := r.sock.Write(header(0, lisafs.Channel)); err != nil {
		t.Fatal(err)
	}
	rc, err := r.sock.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	_, fds, err := receive(rc, make([]byte, 100), make([]byte, unix.CmsgSpace(8*4)))
	if err != nil || len(fds) != 2 {
		t.Fatalf("channel: %d descriptors, %v", len(fds), err)
	}
	defer unix.Close(fds[0])
	defer unix.Close(fds[1])
	if err := unix.Sendmsg(fds[1], nil, unix.UnixRights(0), nil, unix.MSG_NOSIGNAL); err != unix.EPIPE {
		t.Errorf("sending a descriptor on the channel's socket: %v, want EPIPE", err)
	}
	if err := unix.Sendmsg(int(r.sock.Fd()), header(0, lisafs.Mount), unix.UnixRights(0, 1, 2), nil, 0); err != nil {
		t.Fatal(err)
	}
	if m, _, err := readMessage(r.sock); err != nil || m != lisafs.Mount {
		t.Errorf("mount with descriptors: %d, %v", m, err)
	}
}

func TestFDLimit(t *testing.T) {
	f := newFixture(t, Options{MaxFDs: 4})
	c := f.connect(ConnOptions{})
	a := c.mkdir(c.root, "a")
	b := c.mkdir(c.root, "b")
	_, _, _, err := c.root.OpenCreateAt(ctx, "file", unix.O_RDWR, 0o644, 0, 0)
	wantErrno(t, "create needs two", err, unix.ENFILE)
	open := c.open(a, unix.O_RDONLY)
	_, err = c.root.Walk(ctx, "a")
	wantErrno(t, "walk", err, unix.ENFILE)
	_, _, err = b.OpenAt(ctx, unix.O_RDONLY)
	wantErrno(t, "open", err, unix.ENFILE)
	_, err = c.root.MkdirAt(ctx, "c", 0o755, 0, 0)
	wantErrno(t, "mkdir", err, unix.ENFILE)
	open.Close(ctx, true)
	if _, err := c.root.Walk(ctx, "a"); err != nil {
		t.Errorf("walk after a close: %v", err)
	}
}

func TestEverythingIsReleasedWithTheConnection(t *testing.T) {
	f := newFixture(t, Options{})
	c := f.connect(ConnOptions{})
	dir := c.mkdir(c.root, "dir")
	for i := range 50 {
		sub := c.mkdir(dir, fmt.Sprint(i))
		_, open := c.create(sub, "file")
		if _, err := open.Write(ctx, []byte("data"), 0); err != nil {
			t.Fatal(err)
		}
		c.list(c.open(sub, unix.O_RDONLY))
	}
	flushes := f.fs.count("FLUSH")
	c.c.Close() // As if the sandbox was killed.
	f.wg.Wait()
	if n := f.fs.count("FLUSH") - flushes; n != 50 {
		t.Errorf("%d of 50 written files flushed", n)
	}
	f.fs.check(t)
}

// hungFS hangs in GETATTR until it is told to go on.
type hungFS struct {
	fuse.RawFileSystem
	entered chan struct{}
	goOn    chan struct{}
}

func (h *hungFS) Lookup(cancel <-chan struct{}, in *fuse.InHeader, name string, out *fuse.EntryOut) fuse.Status {
	close(h.entered)
	<-h.goOn
	return fuse.Status(unix.ENOTCONN)
}

func TestShutdownWithAHungFileSystem(t *testing.T) {
	f, chatty := newChattyFixture(t, Options{})
	h := &hungFS{chatty.RawFileSystem, make(chan struct{}), make(chan struct{})}
	chatty.RawFileSystem = h
	c := f.connect(ConnOptions{})
	var walked sync.WaitGroup
	walked.Add(1)
	go func() {
		defer walked.Done()
		if _, err := c.root.Walk(ctx, "x"); err == nil {
			t.Error("walk of a hung file system succeeded")
		}
	}()
	<-h.entered
	short, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
	defer cancel()
	if err := f.srv.Shutdown(short); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Shutdown: %v, want a deadline", err)
	}
	walked.Wait() // The client does not wait for the file system.
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fds[1])
	if err := f.srv.Serve(fds[0], ConnOptions{}); err != ErrClosed {
		t.Errorf("Serve after Shutdown: %v", err)
	}
	close(h.goOn)
	f.srv.Close()
}

func TestCloseWithoutConnections(t *testing.T) {
	f := newFixture(t, Options{})
	f.srv.Close()
	f.srv.Close()
}

// TestManyClients lets clients work on the same files at the same time.
func TestManyClients(t *testing.T) {
	f := newFixture(t, Options{})
	const clients, workers, rounds = 4, 3, 60
	var wg sync.WaitGroup
	for i := range clients {
		c := f.connect(ConnOptions{Container: fmt.Sprint(i)})
		for w := range workers {
			wg.Add(1)
			go func() {
				defer wg.Done()
				scramble(c, rand.New(rand.NewPCG(uint64(i), uint64(w))), rounds)
			}()
		}
	}
	wg.Wait()
}

// scramble does random things to a few names in the root. Errors are expected,
// as others do the same.
func scramble(c *client, r *rand.Rand, rounds int) {
	name := func() string { return fmt.Sprintf("n%d", r.IntN(6)) }
	for range rounds {
		dir := c.root
		if ino, err := c.root.Walk(ctx, name()); err == nil {
			fd := c.c.NewFD(ino.ControlFD)
			defer fd.Close(ctx, r.IntN(2) == 0)
			if ino.Stat.Mode&unix.S_IFMT == unix.S_IFDIR {
				dir = fd
			}
		}
		switch r.IntN(10) {
		case 0:
			if ino, err := dir.MkdirAt(ctx, name(), 0o755, 1, 1); err == nil {
				c.c.CloseFD(ctx, ino.ControlFD, false)
			}
		case 1, 2:
			ino, open, _, err := dir.OpenCreateAt(ctx, name(), unix.O_RDWR, 0o644, 1, 1)
			if err != nil {
				break
			}
			fd := c.c.NewFD(open)
			fd.Write(ctx, []byte("data"), uint64(r.IntN(100)))
			fd.Read(ctx, make([]byte, 100), 0)
			var st lisafs.Statx
			fd.StatTo(ctx, &st)
			c.c.CloseFD(ctx, open, false)
			c.c.CloseFD(ctx, ino.ControlFD, true)
		case 3:
			dir.UnlinkAt(ctx, name(), 0)
		case 4:
			c.root.UnlinkAt(ctx, name(), unix.AT_REMOVEDIR)
		case 5:
			dir.RenameAt(ctx, name(), c.root.ID(), name(), uint32(r.IntN(3)))
		case 6:
			c.root.RenameAt(ctx, name(), dir.ID(), name(), 0)
		case 7:
			open, _, err := dir.OpenAt(ctx, unix.O_RDONLY)
			if err != nil {
				break
			}
			fd := c.c.NewFD(open)
			for count := int32(-4096); ; count = 4096 {
				if d, err := fd.Getdents64(ctx, count); err != nil || len(d) == 0 {
					break
				}
			}
			fd.Close(ctx, true)
		case 8:
			c.root.WalkStat(ctx, []string{"", name(), name()})
		case 9:
			// Through whatever handle another worker has open just now.
			var st lisafs.Statx
			dir.StatTo(ctx, &st)
			ino, err := c.root.Walk(ctx, name())
			if err != nil {
				break
			}
			fd := c.c.NewFD(ino.ControlFD)
			fd.StatTo(ctx, &st)
			fd.SetStat(ctx, &linux.Statx{Mask: unix.STATX_SIZE | unix.STATX_MODE, Size: uint64(r.IntN(100)), Mode: 0o644})
			fd.Close(ctx, false)
		}
	}
}

func TestGvisorLogIsLimited(t *testing.T) {
	var out strings.Builder
	now := time.Unix(1000, 0)
	g := &gvisorLog{log: slog.New(slog.NewTextHandler(&out, nil)), left: gvisorLogBurst, now: func() time.Time { return now }}
	for range 1000 {
		g.Emit(0, glog.Warning, now, "bad thing %d", 7)
	}
	if n := strings.Count(out.String(), "bad thing 7"); n != gvisorLogBurst {
		t.Errorf("%d lines, want %d", n, gvisorLogBurst)
	}
	now = now.Add(gvisorLogEvery)
	g.Emit(0, glog.Warning, now, "later")
	if !strings.Contains(out.String(), "later") || !strings.Contains(out.String(), "dropped=980") {
		t.Errorf("after a second: %q", out.String()[len(out.String())-200:])
	}
}
