// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package lisaserver

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/context"
	"gvisor.dev/gvisor/pkg/lisafs"
	glog "gvisor.dev/gvisor/pkg/log"
	"gvisor.dev/gvisor/pkg/unet"
)

// handlerPanics counts panics that lisafs recovered from in a handler.
var handlerPanics atomic.Int64

type panicDetector struct{}

func (panicDetector) Emit(_ int, _ glog.Level, _ time.Time, format string, v ...any) {
	if strings.Contains(format, "panic in handler") {
		handlerPanics.Add(1)
		fmt.Fprintf(os.Stderr, format+"\n", v...)
	}
}

func TestMain(m *testing.M) {
	unix.Umask(0)
	glog.SetLevel(glog.Warning)
	glog.SetTarget(panicDetector{})
	os.Exit(m.Run())
}

// fixture is a server of a loopback file system over a temporary directory.
type fixture struct {
	t   *testing.T
	dir string // what the file system shows, on the host
	fs  *countingFS
	srv *Server
	wg  sync.WaitGroup
}

// newFixture starts a server. When the test ends everything must be given back.
func newFixture(t *testing.T, o Options) *fixture {
	t.Helper()
	dir := t.TempDir()
	root, err := fs.NewLoopbackRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	return newFixtureFS(t, dir, fs.NewNodeFS(root, &fs.Options{}), o)
}

func newFixtureFS(t *testing.T, dir string, raw fuse.RawFileSystem, o Options) *fixture {
	t.Helper()
	f := &fixture{t: t, dir: dir, fs: newCountingFS(raw)}
	f.srv = New(f.fs, o)
	panics := handlerPanics.Load()
	t.Cleanup(func() {
		f.srv.Close()
		f.wg.Wait()
		f.fs.check(t)
		if st := f.srv.Stats(); st.Connections != 0 || st.ControlFDs != 0 || st.OpenFDs != 0 || st.Nodes != 0 {
			t.Errorf("after Close: %+v", st)
		}
		if n := handlerPanics.Load() - panics; n != 0 {
			t.Errorf("%d panics in handlers", n)
		}
	})
	return f
}

// client is a lisafs client with its root.
type client struct {
	t    *testing.T
	c    *lisafs.Client
	root lisafs.ClientFD
	ino  lisafs.Inode
}

var ctx = context.Background()

// connect mounts the server. The client is closed before the server.
func (f *fixture) connect(o ConnOptions) *client {
	f.t.Helper()
	c, err := f.tryConnect(o, true)
	if err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(c.c.Close)
	return c
}

func (f *fixture) tryConnect(o ConnOptions, channels bool) (*client, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	f.wg.Add(1)
	go func() {
		defer f.wg.Done()
		if err := f.srv.Serve(fds[0], o); err != nil && !errors.Is(err, ErrClosed) {
			f.t.Error(err)
		}
	}()
	sock, err := unet.NewSocket(fds[1])
	if err != nil {
		return nil, err
	}
	c, ino, hostFD, err := lisafs.NewClient(sock)
	if err != nil {
		return nil, err
	}
	if hostFD >= 0 {
		return nil, fmt.Errorf("got a host FD")
	}
	if channels {
		if err := c.StartChannels(); err != nil {
			return nil, err
		}
	}
	return &client{t: f.t, c: c, root: c.NewFD(ino.ControlFD), ino: ino}, nil
}

// walk walks from dir to path, all of which must exist.
func (c *client) walk(dir lisafs.ClientFD, path ...string) (lisafs.ClientFD, lisafs.Statx) {
	c.t.Helper()
	status, inodes, err := dir.WalkMultiple(ctx, path)
	if err != nil || status != lisafs.WalkSuccess || len(inodes) != len(path) {
		c.t.Fatalf("walk %q: status %v, %d inodes, error %v", path, status, len(inodes), err)
	}
	for _, ino := range inodes[:len(inodes)-1] {
		c.c.CloseFD(ctx, ino.ControlFD, false)
	}
	last := inodes[len(inodes)-1]
	return c.c.NewFD(last.ControlFD), last.Stat
}

// create creates a file for uid and gid and opens it for reading and writing.
func (c *client) create(dir lisafs.ClientFD, name string) (file, open lisafs.ClientFD) {
	c.t.Helper()
	ino, fd, hostFD, err := dir.OpenCreateAt(ctx, name, unix.O_RDWR, 0o644, 0, 0)
	if err != nil {
		c.t.Fatalf("create %q: %v", name, err)
	}
	if hostFD >= 0 {
		c.t.Fatalf("create %q donated FD %d", name, hostFD)
	}
	return c.c.NewFD(ino.ControlFD), c.c.NewFD(fd)
}

func (c *client) mkdir(dir lisafs.ClientFD, name string) lisafs.ClientFD {
	c.t.Helper()
	ino, err := dir.MkdirAt(ctx, name, 0o755, 0, 0)
	if err != nil {
		c.t.Fatalf("mkdir %q: %v", name, err)
	}
	return c.c.NewFD(ino.ControlFD)
}

func (c *client) open(file lisafs.ClientFD, flags uint32) lisafs.ClientFD {
	c.t.Helper()
	fd, hostFD, err := file.OpenAt(ctx, flags)
	if err != nil {
		c.t.Fatalf("open: %v", err)
	}
	if hostFD >= 0 {
		c.t.Fatalf("open donated FD %d", hostFD)
	}
	return c.c.NewFD(fd)
}

func (c *client) stat(fd lisafs.ClientFD) lisafs.Statx {
	c.t.Helper()
	var st lisafs.Statx
	if err := fd.StatTo(ctx, &st); err != nil {
		c.t.Fatalf("stat: %v", err)
	}
	return st
}

// list lists the open directory as the sentry does.
func (c *client) list(dir lisafs.ClientFD) map[string]lisafs.Dirent64 {
	c.t.Helper()
	names := make(map[string]lisafs.Dirent64)
	count := int32(-64 << 10)
	for {
		dirents, err := dir.Getdents64(ctx, count)
		if err != nil {
			c.t.Fatalf("getdents: %v", err)
		}
		if len(dirents) == 0 {
			return names
		}
		for _, d := range dirents {
			if _, dup := names[string(d.Name)]; dup {
				c.t.Errorf("getdents: %q twice", d.Name)
			}
			names[string(d.Name)] = d
		}
		count = 64 << 10
	}
}

func wantErrno(t *testing.T, what string, got error, want unix.Errno) {
	t.Helper()
	if got != want {
		t.Errorf("%s: got %v, want %v", what, got, want)
	}
}

func identityOfStat(st lisafs.Statx) identity {
	return identity{ino: st.Ino, major: st.DevMajor, minor: st.DevMinor}
}
