// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package vmserver

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"fsva/gofer/attach"
	"fsva/gofer/fusechannel"
	"fsva/gofer/listen"
	"fsva/gofer/serving"
)

// export exports a directory until stop is called.
func export(t *testing.T, dir string, l listen.Spec) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ready, done := make(chan struct{}), make(chan error, 1)
	go func() {
		done <- serving.Export(ctx, serving.ExportConfig{
			Dir: dir, Name: "export", Coherence: attach.Exclusive, Listen: []listen.Spec{l},
			Ready: func() { close(ready) }, Log: slog.New(slog.NewTextHandler(t.Output(), nil)),
		})
	}()
	select {
	case <-ready:
	case err := <-done:
		t.Fatalf("Export: %v", err)
	}
	stopped := false
	stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Export: %v", err)
		}
		if _, err := os.Lstat(l.Path); !os.IsNotExist(err) {
			t.Errorf("the socket after the end: %v", err)
		}
	}
	t.Cleanup(stop)
	return stop
}

// A channel reaches the files of an export, one that comes later, and one that comes
// again.
func TestServe(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root: the files' owners are the callers'")
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "a"), []byte("hello"), 0o644); err != nil {
		t.Fatal(err)
	}
	text := "unix:" + filepath.Join(t.TempDir(), "sock")
	source, err := listen.ParseSource(text)
	if err != nil {
		t.Fatal(err)
	}
	l, err := listen.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	p, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() {
		served <- Serve(context.Background(), source, false, p[1], slog.New(slog.NewTextHandler(t.Output(), nil)))
	}()
	stop := export(t, dir, l)
	channel, err := fusechannel.New(context.Background(), p[0], fusechannel.Options{InitTimeout: 30 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	defer channel.Close()

	read := func(nodeID uint64) {
		t.Helper()
		var open fuse.OpenOut
		if st := channel.Open(nil, &fuse.OpenIn{InHeader: fuse.InHeader{NodeId: nodeID}}, &open); st != fuse.OK {
			t.Fatalf("open: %v", st)
		}
		in := fuse.ReadIn{InHeader: fuse.InHeader{NodeId: nodeID}, Fh: open.Fh, Size: 4096}
		result, st := channel.Read(nil, &in, make([]byte, 4096))
		if st != fuse.OK {
			t.Fatalf("read: %v", st)
		}
		b, st := result.Bytes(make([]byte, 4096))
		if st != fuse.OK || string(b) != "hello" {
			t.Errorf("read %q, %v", b, st)
		}
		result.Done()
		channel.Release(nil, &fuse.ReleaseIn{InHeader: in.InHeader, Fh: open.Fh})
	}
	var entry fuse.EntryOut
	if st := channel.Lookup(nil, &fuse.InHeader{NodeId: fuse.FUSE_ROOT_ID}, "a", &entry); st != fuse.OK {
		t.Fatalf("lookup: %v", st)
	}
	read(entry.NodeId)
	var made fuse.EntryOut
	if st := channel.Mkdir(nil, &fuse.MkdirIn{InHeader: fuse.InHeader{NodeId: fuse.FUSE_ROOT_ID}, Mode: 0o711}, "d", &made); st != fuse.OK {
		t.Fatalf("mkdir: %v", st)
	}
	if info, err := os.Stat(filepath.Join(dir, "d")); err != nil || info.Mode() != os.ModeDir|0o711 {
		t.Errorf("made: %v, %v", info, err)
	}

	stop()
	export(t, dir, l)
	read(entry.NodeId)

	if err := channel.Destroy(t.Context()); err != nil {
		t.Errorf("destroy: %v", err)
	}
	if err := <-served; err != nil {
		t.Errorf("Serve: %v", err)
	}
}
