// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package serving

import (
	"archive/zip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	gctx "gvisor.dev/gvisor/pkg/context"

	"fsva/gofer/attach"
	"fsva/gofer/supervisor/goferproto"
)

// ask sends a request and returns its reply.
func (g *gofer) ask(t *testing.T, r goferproto.Request) goferproto.Reply {
	t.Helper()
	if err := g.conn.SendRequest(r); err != nil {
		t.Fatal(err)
	}
	got := g.reply(t)
	if got.ID != r.ID {
		t.Fatalf("reply %d to request %d", got.ID, r.ID)
	}
	return got
}

// A read-only archive has a cache: its limit is the one of the configuration, and
// then the one that was set. What a client holds stays.
func TestCacheLimit(t *testing.T) {
	dir := t.TempDir()
	archive := filepath.Join(dir, "a.zip")
	f, err := os.Create(archive)
	if err != nil {
		t.Fatal(err)
	}
	z := zip.NewWriter(f)
	for _, name := range []string{"held", "read"} {
		w, err := z.Create(name)
		if err == nil {
			_, err = w.Write(make([]byte, 100<<10))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	g := startGofer(t, goferproto.Config{
		InProcess: "zip", Source: "/source/a.zip", CacheLimit: 1 << 20,
		Volume: attach.Info{Coherence: attach.Exclusive, ReadOnly: true},
		Binds:  []goferproto.Bind{{Host: archive, Target: "/source/a.zip", ReadOnly: true}},
	})
	if r := g.reply(t); r.Ready == nil || !r.Ready.Cache {
		t.Fatalf("got %+v, want readiness with a cache", r)
	}
	c, root := g.mount(t, attach.Request{Container: "one", Destination: "/data", ReadOnly: true, Descriptors: 10})
	open := func(name string) (hostFD int, closeFile func()) {
		t.Helper()
		_, inodes, err := root.WalkMultiple(gctx.Background(), []string{name})
		if err != nil || len(inodes) != 1 {
			t.Fatalf("walk to %s: %v", name, err)
		}
		file := c.NewFD(inodes[0].ControlFD)
		id, hostFD, err := file.OpenAt(gctx.Background(), unix.O_RDONLY)
		if err != nil {
			t.Fatal(err)
		}
		opened := c.NewFD(id)
		return hostFD, func() { opened.Close(gctx.Background(), true /* flush */) }
	}
	held, _ := open("held")
	if held < 0 {
		t.Fatal("no descriptor for a file that fits")
	}
	defer unix.Close(held)
	read, closeRead := open("read")
	unix.Close(read)
	closeRead()

	r := g.ask(t, goferproto.Request{ID: 1, Op: goferproto.OpStat})
	if s := r.Stat.Cache; s == nil || s.Limit != 1<<20 || s.Files != 2 || s.DonatedFiles != 1 || s.Donations != 2 ||
		s.BytesFilled != 200<<10 || s.Evictions != 0 {
		t.Errorf("before: %+v", s)
	}
	r = g.ask(t, goferproto.Request{ID: 2, Op: goferproto.OpCacheLimit, Bytes: 50 << 10})
	if s := r.Cache; s == nil || s.Limit != 50<<10 || s.Files != 1 || s.Resident != s.Donated || s.Donated < 100<<10 || s.Evictions != 1 {
		t.Errorf("after: %+v, %s", s, r.Error)
	}
	r = g.ask(t, goferproto.Request{ID: 3, Op: goferproto.OpRPCs})
	if op := r.Ops["OpenAt"]; op.Requests != 2 || op.Errors != 0 || op.Latency.Count != 2 || len(op.Latency.Buckets) == 0 {
		t.Errorf("RPCs: %+v", r.Ops)
	}
	if r = g.ask(t, goferproto.Request{ID: 4, Op: goferproto.OpFUSE}); r.Ops != nil || r.Error != "" {
		t.Errorf("FUSE requests without an FS server: %+v", r)
	}
	if r = g.ask(t, goferproto.Request{ID: 5, Op: "dance"}); !strings.Contains(r.Error, "dance") {
		t.Errorf("unknown request: %+v", r)
	}
}

func TestNoCache(t *testing.T) {
	g := startGofer(t, goferproto.Config{InProcess: "mem", CacheLimit: 1 << 20})
	if r := g.reply(t); r.Ready == nil || r.Ready.Cache {
		t.Fatalf("got %+v, want readiness without a cache", r)
	}
	if r := g.ask(t, goferproto.Request{ID: 1, Op: goferproto.OpCacheLimit, Bytes: 1}); r.Cache != nil || !strings.Contains(r.Error, "no cache") {
		t.Errorf("got %+v", r)
	}
	if r := g.ask(t, goferproto.Request{ID: 2, Op: goferproto.OpStat}); r.Stat == nil || r.Stat.Cache != nil {
		t.Errorf("got %+v", r)
	}
}
