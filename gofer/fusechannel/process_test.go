// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package fusechannel

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"

	"fsva/gofer/fusechannel/fusetest"
)

// startServer runs an FS server with a channel as its descriptor 3, which it takes for its FUSE device when its
// mountpoint is /dev/fd/3, and opens the channel. The cleanup waits for the server's exit.
func startServer(t *testing.T, name string, args ...string) *Channel {
	t.Helper()
	client, server := fusetest.SocketPair(t)
	cmd := exec.Command(name, args...)
	f := os.NewFile(uintptr(server), "channel")
	cmd.ExtraFiles = []*os.File{f}
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	f.Close()
	exited := make(chan struct{})
	go func() { cmd.Wait(); close(exited) }()
	t.Cleanup(func() {
		select {
		case <-exited:
		case <-time.After(10 * time.Second):
			t.Errorf("%s runs on after the end of its channel", name)
			cmd.Process.Kill()
			<-exited
		}
		if t.Failed() {
			t.Logf("%s: %s", name, out.Bytes())
		}
	})
	c, err := New(t.Context(), client, Options{InitTimeout: 10 * time.Second})
	if err != nil {
		t.Fatalf("%v; %s: %s", err, name, out.Bytes())
	}
	t.Cleanup(c.Close)
	return c
}

// testTree makes a directory with files of many sizes and returns it with their content.
func testTree(t *testing.T) (string, map[string][]byte) {
	t.Helper()
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	rnd := rand.New(rand.NewPCG(1, 2))
	files := make(map[string][]byte)
	for _, size := range []int{0, 1, 4095, 4096, 4097, 65536, 70000, 131072, 131073, 1 << 20, 3<<20 + 17} {
		b := make([]byte, size)
		for i := range b {
			b[i] = byte(rnd.Uint32())
		}
		name := fmt.Sprintf("f%d", size)
		files[name] = b
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir, files
}

// checkTree reads everything through the channel, from several goroutines.
func checkTree(t *testing.T, c *Channel, files map[string][]byte) {
	t.Helper()
	names, _ := list(t, c, fuse.FUSE_ROOT_ID, false, 4096)
	for name := range files {
		if _, ok := names[name]; !ok {
			t.Errorf("%s is not in %v", name, names)
		}
	}
	var wg sync.WaitGroup
	for range 3 {
		for name, data := range files {
			wg.Go(func() {
				var e fuse.EntryOut
				if st := c.Lookup(nil, root(), name, &e); st != fuse.OK || e.Size != uint64(len(data)) {
					t.Errorf("lookup %s: %v, size %d", name, st, e.Size)
					return
				}
				defer c.Forget(e.NodeId, 1)
				var op fuse.OpenOut
				if st := c.Open(nil, &fuse.OpenIn{InHeader: *node(e.NodeId)}, &op); st != fuse.OK {
					t.Errorf("open %s: %v", name, st)
					return
				}
				defer c.Release(nil, &fuse.ReleaseIn{InHeader: *node(e.NodeId), Fh: op.Fh})
				buf := make([]byte, len(data)+10)
				r, st := c.Read(nil, &fuse.ReadIn{InHeader: *node(e.NodeId), Fh: op.Fh, Size: uint32(len(buf))}, buf)
				if st != fuse.OK {
					t.Errorf("read %s: %v", name, st)
					return
				}
				if got, _ := r.Bytes(nil); !bytes.Equal(got, data) {
					t.Errorf("read %s: %d bytes that differ from the %d in the file", name, len(got), len(data))
				}
			})
		}
	}
	wg.Wait()
	if s := c.Stats(); s.Malformed != 0 {
		t.Errorf("stats: %+v", s)
	}
}

func destroy(t *testing.T, c *Channel) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := c.Destroy(ctx); err != nil {
		t.Error(err)
	}
}

func need(t *testing.T, tools ...string) {
	t.Helper()
	for _, tool := range tools {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("%s is not installed", tool)
		}
	}
}

// TestSquashfuse talks to a distribution's own low-level libfuse server.
func TestSquashfuse(t *testing.T) {
	need(t, "squashfuse_ll", "mksquashfs")
	dir, files := testTree(t)
	image := filepath.Join(t.TempDir(), "image")
	if out, err := exec.Command("mksquashfs", dir, image, "-quiet", "-no-progress").CombinedOutput(); err != nil {
		t.Fatalf("mksquashfs: %v: %s", err, out)
	}
	c := startServer(t, "squashfuse_ll", "-f", image, "/dev/fd/3")
	checkTree(t, c, files)
	destroy(t, c)
}

// TestBindfs talks to a high-level libfuse server that reads and writes. Its mountpoint has to be a directory, so it
// gets its device from a fusermount3, which this test binary is in the server's mount namespace (see TestMain).
func TestBindfs(t *testing.T) {
	need(t, "bindfs", "unshare", "setpriv")
	if os.Getuid() != 0 {
		t.Skip("needs root for a mount namespace")
	}
	const script = `mount --bind "$1" /usr/bin/fusermount3 && mount --bind /dev/null /dev/fuse && exec setpriv --reuid=65534 --regid=65534 --clear-groups bindfs -f "$2" "$3"`
	dir, files := testTree(t)
	exe := filepath.Join(t.TempDir(), "helper") // the test binary may be where nobody else can look
	if b, err := os.ReadFile(os.Args[0]); err != nil {
		t.Fatal(err)
	} else if err := os.WriteFile(exe, b, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(dir, 65534, 65534); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(filepath.Dir(dir), 0o755); err != nil {
		t.Fatal(err)
	}
	mnt := t.TempDir()
	c := startServer(t, "unshare", "-m", "sh", "-c", script, "sh", exe, dir, mnt)
	checkTree(t, c, files)
	for _, size := range []int{1, 4096, 100_000, 131072, 1 << 20} {
		name := fmt.Sprintf("w%d", size)
		var cr fuse.CreateOut
		must(t, "create", c.Create(nil, &fuse.CreateIn{InHeader: *root(), Flags: uint32(os.O_RDWR), Mode: 0o644}, name, &cr))
		h := *node(cr.EntryOut.NodeId)
		data := bytes.Repeat([]byte{byte(size), 2, 3}, size)[:size]
		n, st := c.Write(nil, &fuse.WriteIn{InHeader: h, Fh: cr.Fh}, data)
		must(t, "write", st)
		if int(n) != size {
			t.Errorf("wrote %d of %d", n, size)
		}
		if got := readAll(t, c, h.NodeId, cr.Fh, 0, size+1); !bytes.Equal(got, data) {
			t.Errorf("read %d bytes that differ from the %d written", len(got), size)
		}
		must(t, "flush", c.Flush(nil, &fuse.FlushIn{InHeader: h, Fh: cr.Fh}))
		c.Release(nil, &fuse.ReleaseIn{InHeader: h, Fh: cr.Fh})
	}
	destroy(t, c)
	if got, err := os.ReadFile(filepath.Join(dir, "w131072")); err != nil || len(got) != 131072 {
		t.Errorf("%d bytes, %v", len(got), err)
	}
}
