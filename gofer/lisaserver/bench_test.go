// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package lisaserver

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/lisafs"
	"gvisor.dev/gvisor/pkg/unet"
)

// BenchmarkRPC compares requests with calling the file system without lisafs.
func BenchmarkRPC(b *testing.B) {
	dir := b.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "file"), make([]byte, 64<<10), 0o644); err != nil {
		b.Fatal(err)
	}
	loop, err := fs.NewLoopbackRoot(dir)
	if err != nil {
		b.Fatal(err)
	}
	raw := fs.NewNodeFS(loop, &fs.Options{})
	srv := New(raw, Options{})
	defer srv.Close()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		b.Fatal(err)
	}
	go srv.Serve(fds[0], ConnOptions{})
	sock, err := unet.NewSocket(fds[1])
	if err != nil {
		b.Fatal(err)
	}
	c, ino, _, err := lisafs.NewClient(sock)
	if err != nil {
		b.Fatal(err)
	}
	defer c.Close()
	root := c.NewFD(ino.ControlFD)
	stat := func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			var st lisafs.Statx
			if err := root.StatTo(ctx, &st); err != nil {
				b.Fatal(err)
			}
		}
	}
	b.Run("stat/direct", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			in := fuse.GetAttrIn{InHeader: fuse.InHeader{NodeId: fuse.FUSE_ROOT_ID}}
			var out fuse.AttrOut
			if st := raw.GetAttr(nil, &in, &out); st != fuse.OK {
				b.Fatal(st)
			}
		}
	})
	b.Run("stat/socket", stat)
	if err := c.StartChannels(); err != nil {
		b.Fatal(err)
	}
	b.Run("stat/channel", stat)
	b.Run("walk+close/channel", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			child, err := root.Walk(ctx, "file")
			if err != nil {
				b.Fatal(err)
			}
			c.CloseFD(ctx, child.ControlFD, false)
		}
	})
	child, err := root.Walk(ctx, "file")
	if err != nil {
		b.Fatal(err)
	}
	file := c.NewFD(child.ControlFD)
	id, _, err := file.OpenAt(ctx, unix.O_RDONLY)
	if err != nil {
		b.Fatal(err)
	}
	open := c.NewFD(id)
	b.Run("read64k/channel", func(b *testing.B) {
		b.ReportAllocs()
		buf := make([]byte, 64<<10)
		b.SetBytes(int64(len(buf)))
		for b.Loop() {
			if n, err := open.Read(ctx, buf, 0); err != nil || int(n) != len(buf) {
				b.Fatal(n, err)
			}
		}
	})
}
