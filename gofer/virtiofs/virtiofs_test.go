// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package virtiofs

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"fsva/gofer/fusesession"
	"fsva/gofer/vhostuser/vhosttest"
)

// counting is a loopback file system that counts open files, and in which a lock is never free.
type counting struct {
	fuse.RawFileSystem
	open atomic.Int64
	// locking has a message for each SETLKW that waits.
	locking chan struct{}
	// meeting, if not nil, is what each READ waits at until all are there.
	meeting atomic.Pointer[sync.WaitGroup]
}

func newCounting(t testing.TB, dir string) *counting {
	t.Helper()
	root, err := fs.NewLoopbackRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	return &counting{RawFileSystem: fs.NewNodeFS(root, &fs.Options{}), locking: make(chan struct{})}
}

func (c *counting) Open(cancel <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	st := c.RawFileSystem.Open(cancel, in, out)
	if st == fuse.OK {
		c.open.Add(1)
	}
	return st
}

func (c *counting) Release(cancel <-chan struct{}, in *fuse.ReleaseIn) {
	c.RawFileSystem.Release(cancel, in)
	c.open.Add(-1)
}

func (c *counting) Read(cancel <-chan struct{}, in *fuse.ReadIn, buf []byte) (fuse.ReadResult, fuse.Status) {
	if m := c.meeting.Load(); m != nil {
		m.Done()
		m.Wait()
	}
	return c.RawFileSystem.Read(cancel, in, buf)
}

func (c *counting) SetLkw(cancel <-chan struct{}, _ *fuse.LkIn) fuse.Status {
	c.locking <- struct{}{}
	<-cancel
	return fuse.EINTR
}

// serve runs the device, and returns the path of its socket and what ends it.
func serve(t testing.TB, fs fuse.RawFileSystem, o Options) (path string, stop func()) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	o.Log = slog.New(slog.NewTextHandler(t.Output(), nil))
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := Serve(ctx, l, fs, o); err != nil {
			t.Errorf("Serve: %v", err)
		}
	}()
	stop = func() {
		cancel()
		<-done
	}
	t.Cleanup(stop)
	return path, stop
}

// kernel is a driver that sends FUSE requests.
type kernel struct {
	t              testing.TB
	v              *vhosttest.VMM
	hiprio, normal *vhosttest.Queue
	unique         uint64
}

func boot(t testing.TB, path string, o vhosttest.Options) *kernel {
	t.Helper()
	v := vhosttest.Dial(t, path, o)
	k := &kernel{t: t, v: v, hiprio: v.Queue(0, 64), normal: v.Queue(1, 64)}
	k.init()
	return k
}

func (k *kernel) init() {
	k.t.Helper()
	body := append(num(uint32(7), uint32(38), uint32(128<<10), uint32(fuse.CAP_MAX_PAGES|fuse.CAP_POSIX_LOCKS)), make([]byte, 48)...)
	if _, errno := k.call(opInit, 0, body, 64); errno != 0 {
		k.t.Fatalf("INIT: %v", errno)
	}
}

// num returns numbers as they are in messages.
func num(vs ...any) (b []byte) {
	for _, v := range vs {
		b, _ = binary.Append(b, binary.NativeEndian, v)
	}
	return b
}

func (k *kernel) message(opcode uint32, node uint64, body []byte) []byte {
	k.unique += 2
	m := num(uint32(inHeaderSize+len(body)), opcode, k.unique, node, uint32(os.Getuid()), uint32(os.Getgid()), uint32(1), uint32(0))
	return append(m, body...)
}

// call sends a request, and returns what follows the header of the reply, which may have as many as out bytes.
func (k *kernel) call(opcode uint32, node uint64, body []byte, out int) ([]byte, unix.Errno) {
	k.t.Helper()
	return k.parse(k.normal.Do(k.message(opcode, node, body), outHeaderSize+out))
}

func (k *kernel) parse(reply []byte) ([]byte, unix.Errno) {
	k.t.Helper()
	if len(reply) < outHeaderSize || int(binary.NativeEndian.Uint32(reply)) != len(reply) || binary.NativeEndian.Uint64(reply[8:]) != k.unique {
		k.t.Fatalf("bad reply %x", reply)
	}
	return reply[outHeaderSize:], unix.Errno(-int32(binary.NativeEndian.Uint32(reply[4:])))
}

const (
	opLookup  = 1
	opForget  = 2
	opOpen    = 14
	opRead    = 15
	opWrite   = 16
	opRelease = 18
)

// open looks up a file in the root and opens it.
func (k *kernel) open(name string, flags uint32) (node, fh uint64) {
	k.t.Helper()
	entry, errno := k.call(opLookup, 1, append([]byte(name), 0), 128)
	if errno != 0 {
		k.t.Fatalf("LOOKUP of %s: %v", name, errno)
	}
	node = binary.NativeEndian.Uint64(entry)
	open, errno := k.call(opOpen, node, num(flags, uint32(0)), 16)
	if errno != 0 {
		k.t.Fatalf("OPEN of %s: %v", name, errno)
	}
	return node, binary.NativeEndian.Uint64(open)
}

func readBody(fh, off uint64, n int) []byte {
	return num(fh, off, uint32(n), uint32(0), uint64(0), uint32(0), uint32(0))
}

func TestReadWrite(t *testing.T) {
	for _, tc := range []struct {
		name    string
		o       vhosttest.Options
		segment int
	}{
		{"one piece", vhosttest.Options{}, 0},
		{"in pages", vhosttest.Options{}, 4096},
		{"odd pieces, regions", vhosttest.Options{Regions: 8}, 9999},
		{"unsealed", vhosttest.Options{Unsealed: true}, 4096},
	} {
		t.Run(tc.name, func(t *testing.T) {
			dir := t.TempDir()
			data := make([]byte, 300<<10)
			for i := range data {
				data[i] = byte(i * i >> 7)
			}
			if err := os.WriteFile(filepath.Join(dir, "file"), data, 0o644); err != nil {
				t.Fatal(err)
			}
			fs := newCounting(t, dir)
			path, _ := serve(t, fs, Options{})
			k := boot(t, path, tc.o)
			k.normal.Segment = tc.segment
			node, fh := k.open("file", unix.O_RDWR)
			for _, at := range []struct{ off, n, want int }{
				{0, 128 << 10, 128 << 10}, {5000, 100, 100}, {290 << 10, 128 << 10, 10 << 10}, {1 << 20, 4096, 0},
			} {
				got, errno := k.call(opRead, node, readBody(fh, uint64(at.off), at.n), at.n)
				if errno != 0 || len(got) != at.want || !bytes.Equal(got, data[min(at.off, len(data)):min(at.off, len(data))+at.want]) {
					t.Errorf("READ of %d at %d: %d bytes, or others, %v", at.n, at.off, len(got), errno)
				}
			}
			patch := bytes.Repeat([]byte("patch"), 20000)
			body := num(fh, uint64(1000), uint32(len(patch)), uint32(0), uint64(0), uint32(0), uint32(0))
			if got, errno := k.call(opWrite, node, append(body, patch...), 8); errno != 0 || int(binary.NativeEndian.Uint32(got)) != len(patch) {
				t.Errorf("WRITE: %x, %v", got, errno)
			}
			copy(data[1000:], patch)
			if got, err := os.ReadFile(filepath.Join(dir, "file")); err != nil || !bytes.Equal(got, data) {
				t.Errorf("other bytes in the file, %v", err)
			}
			if _, errno := k.call(opRelease, node, num(fh, uint32(0), uint32(0), uint64(0)), 0); errno != 0 {
				t.Errorf("RELEASE: %v", errno)
			}
			if n := fs.open.Load(); n != 0 {
				t.Errorf("%d files open", n)
			}
			k.hiprio.Send(k.hiprio.NewBuf(k.message(opForget, node, num(uint64(1))), 0))
			if b := k.hiprio.Wait(); b.Written != 0 {
				t.Errorf("FORGET: %d bytes of reply", b.Written)
			}
			if _, errno := k.call(opOpen, node, num(uint32(0), uint32(0)), 16); errno != unix.ESTALE {
				t.Errorf("OPEN of a node that was forgotten: %v", errno)
			}
			k.v.Close()
		})
	}
}

// TestGoes checks that what a guest had is given back when it mounts again, and when its VMM goes.
func TestGoes(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "file"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	fs := newCounting(t, dir)
	left := make(chan struct{})
	path, _ := serve(t, fs, Options{Enter: func(o fusesession.Options) (fusesession.Options, func(), error) {
		o.ReadOnly = true
		return o, func() { close(left) }, nil
	}})
	k := boot(t, path, vhosttest.Options{})
	node, fh := k.open("file", unix.O_RDONLY)
	if _, errno := k.call(opOpen, node, num(uint32(unix.O_RDWR), uint32(0)), 16); errno != unix.EROFS {
		t.Errorf("OPEN for writing: %v", errno)
	}
	k.init()
	if n := fs.open.Load(); n != 0 {
		t.Errorf("%d files open after another INIT", n)
	}
	if _, errno := k.call(opRead, node, readBody(fh, 0, 1), 1); errno != unix.ESTALE {
		t.Errorf("READ of an old handle: %v", errno)
	}
	k.open("file", unix.O_RDONLY)
	k.open("file", unix.O_RDONLY)
	k.v.Close()
	<-left
	if n := fs.open.Load(); n != 0 {
		t.Errorf("%d files open after the VMM has gone", n)
	}
}

func TestRefused(t *testing.T) {
	path, _ := serve(t, newCounting(t, t.TempDir()), Options{Enter: func(o fusesession.Options) (fusesession.Options, func(), error) {
		return o, nil, errors.New("not you")
	}})
	c, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if n, err := c.Read(make([]byte, 1)); err == nil {
		t.Errorf("read %d bytes", n)
	}
}

// TestLocks lets more requests wait for a lock than there are workers: other requests go on, a pause interrupts them, and
// so does the end.
func TestLocks(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "file"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	fs := newCounting(t, dir)
	path, stop := serve(t, fs, Options{Workers: 1, Session: fusesession.Options{Locks: true}})
	k := boot(t, path, vhosttest.Options{})
	node, fh := k.open("file", unix.O_RDWR)
	lock := num(fh, uint64(1), uint64(0), uint64(1), uint32(unix.F_WRLCK), uint32(1), uint32(0), uint32(0))
	wait := func(n int) {
		for range n {
			k.normal.Send(k.normal.NewBuf(k.message(opSetLkw, node, lock), outHeaderSize))
			<-fs.locking
		}
	}
	wait(3)
	k.hiprio.Do(k.message(opForget, 99, num(uint64(1))), 0)
	other := k.normal.NewBuf(k.message(opRead, node, readBody(fh, 0, 1)), outHeaderSize+1)
	k.normal.Send(other)
	if b := k.normal.Wait(); b != other {
		t.Fatal("READ is not the first to be answered")
	}
	base := k.normal.Stop()
	for range 3 {
		b := k.normal.Poll()
		if b == nil {
			t.Fatal("stopped with requests under way")
		}
		if errno := unix.Errno(-int32(binary.NativeEndian.Uint32(b.Out[4:]))); errno != unix.EINTR {
			t.Errorf("SETLKW: %v", errno)
		}
	}
	k.normal.Start(base)
	if _, errno := k.call(opRead, node, readBody(fh, 0, 1), 1); errno != 0 {
		t.Errorf("READ after a pause: %v", errno)
	}
	wait(2)
	stop()
	k.v.WaitHangup()
	if n := fs.open.Load(); n != 0 {
		t.Errorf("%d files open after the end", n)
	}
}

// TestSideBySide has requests that wait for each other: each must be begun while the ones before it are under way,
// whatever the pace of the queue was. One after the other they would wait for ever.
func TestSideBySide(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "file"), []byte("data"), 0o644); err != nil {
		t.Fatal(err)
	}
	fs := newCounting(t, dir)
	path, _ := serve(t, fs, Options{})
	k := boot(t, path, vhosttest.Options{})
	node, fh := k.open("file", unix.O_RDONLY)
	const n = 16
	var bufs []*vhosttest.Buf
	for range n {
		bufs = append(bufs, k.normal.NewBuf(k.message(opRead, node, readBody(fh, 0, 4)), outHeaderSize+4))
	}
	for range 3 {
		for range 50 { // quick requests
			if _, errno := k.call(opLookup, 1, []byte("file\x00"), 128); errno != 0 {
				t.Fatalf("LOOKUP: %v", errno)
			}
		}
		var meeting sync.WaitGroup
		meeting.Add(n)
		fs.meeting.Store(&meeting)
		for _, b := range bufs {
			k.normal.Send(b)
		}
		for range n {
			if b := k.normal.Wait(); string(b.Out[outHeaderSize:b.Written]) != "data" {
				t.Fatalf("got %q", b.Out[:b.Written])
			}
		}
	}
	if base := k.normal.Stop(); base != int(k.unique/2)+(3-1)*n {
		t.Errorf("stopped at %d after %d requests", base, int(k.unique/2)+(3-1)*n)
	}
}

// TestNonsense sends what no kernel does.
func TestNonsense(t *testing.T) {
	path, _ := serve(t, newCounting(t, t.TempDir()), Options{})
	k := boot(t, path, vhosttest.Options{})
	for _, q := range []*vhosttest.Queue{k.normal, k.hiprio} {
		for _, tc := range []struct {
			name string
			in   []byte
			out  int
		}{
			{"short", make([]byte, 39), 100},
			{"nothing to read", nil, 100},
			{"no room", k.message(opLookup, 1, []byte("x\x00")), 1},
			{"another length", append(k.message(opLookup, 1, []byte("x\x00")), 0), 200},
			{"too long", k.message(opWrite, 1, make([]byte, 2<<20)), 16},
		} {
			if got := q.Do(tc.in, tc.out); len(got) != 0 {
				t.Errorf("%s: got %x", tc.name, got)
			}
		}
	}
	if _, errno := k.call(opLookup, 1, []byte("x\x00"), 128); errno != unix.ENOENT {
		t.Errorf("LOOKUP: %v", errno)
	}
}

func TestConfig(t *testing.T) {
	path, _ := serve(t, newCounting(t, t.TempDir()), Options{Tag: "volume", RequestQueues: 3})
	v := vhosttest.Dial(t, path, vhosttest.Options{})
	want := append([]byte("volume"), make([]byte, 30)...)
	want = append(want, 3, 0, 0, 0)
	if got := v.Config(0, 40); !bytes.Equal(got, want) {
		t.Errorf("got %q", got)
	}
}
