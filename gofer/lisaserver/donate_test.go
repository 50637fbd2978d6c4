// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package lisaserver

import (
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// lender gives out a descriptor for each file.
type lender struct {
	fuse.RawFileSystem
	out atomic.Int32
}

func (l *lender) Donate(uint64, uint64) (int, bool) {
	fd, err := unix.Open("/dev/null", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, false
	}
	l.out.Add(1)
	return fd, true
}

func (l *lender) Return(uint64) { l.out.Add(-1) }

// A sentry that shares handles goes on using the descriptor after it has replaced
// the open FD by a writable one.
func TestWhenADescriptorIsReturned(t *testing.T) {
	for _, shares := range []bool{false, true} {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "file"), []byte("data"), 0o644); err != nil {
			t.Fatal(err)
		}
		root, err := fs.NewLoopbackRoot(dir)
		if err != nil {
			t.Fatal(err)
		}
		l := &lender{RawFileSystem: fs.NewNodeFS(root, &fs.Options{})}
		f := newFixtureFS(t, dir, l, Options{})
		f.srv.donor = l // the fixture's counting layer has no such method
		c := f.connect(ConnOptions{SharesHandles: shares, Descriptors: 1})
		file, _ := c.walk(c.root, "file")
		open := func(flags uint32) (closeIt func(), got bool) {
			t.Helper()
			id, host, err := file.OpenAt(ctx, flags)
			if err != nil {
				t.Fatal(err)
			}
			if host >= 0 {
				unix.Close(host)
			}
			fd := c.c.NewFD(id)
			return func() { fd.Close(ctx, true) }, host >= 0
		}
		closeFirst, got := open(unix.O_RDONLY)
		if !got || l.out.Load() != 1 {
			t.Fatalf("no descriptor, or %d", l.out.Load())
		}
		closeSecond, got := open(unix.O_RDWR)
		if got {
			t.Error("a descriptor with a writable open")
		}
		closeFirst()
		if n := l.out.Load(); (n == 1) != shares {
			t.Errorf("shares handles %v: %d descriptors are out after close", shares, n)
		}
		_, got = open(unix.O_RDONLY) // the client may have one
		if got == shares {
			t.Errorf("shares handles %v: a second descriptor: %v", shares, got)
		}
		closeSecond()
		file.Close(ctx, true)
		f.srv.Close()
		if n := l.out.Load(); n != 0 {
			t.Errorf("%d descriptors are out when the client is gone", n)
		}
	}
}
