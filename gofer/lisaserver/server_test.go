// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package lisaserver

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

func TestCreateWriteReadBack(t *testing.T) {
	f := newFixture(t, Options{})
	c := f.connect(ConnOptions{})
	file, open := c.create(c.root, "file")
	want := bytes.Repeat([]byte("0123456789abcdef"), 200_000) // more than two messages
	n, err := open.Write(ctx, want, 0)
	if err != nil || int(n) != len(want) {
		t.Fatalf("write: %d, %v", n, err)
	}
	if err := open.Flush(ctx); err != nil {
		t.Error(err)
	}
	if err := open.Sync(ctx); err != nil {
		t.Error(err)
	}
	got := make([]byte, len(want)+100)
	n, err = open.Read(ctx, got, 0)
	if err != nil || int(n) != len(want) || !bytes.Equal(got[:n], want) {
		t.Fatalf("read: %d bytes, %v", n, err)
	}
	if st := c.stat(file); st.Size != uint64(len(want)) || st.Mode != unix.S_IFREG|0o644 {
		t.Errorf("stat: %v", &st)
	}
	onHost, err := os.ReadFile(filepath.Join(f.dir, "file"))
	if err != nil || !bytes.Equal(onHost, want) {
		t.Errorf("on host: %d bytes, %v", len(onHost), err)
	}
	open.Close(ctx, true)
	if st := f.srv.Stats(); st.BytesRead != uint64(len(want)) || st.BytesWritten != uint64(len(want)) ||
		st.Connections != 1 || st.OpenFDs != 0 || st.ControlFDs != 2 {
		t.Errorf("stats: %+v", st)
	}
	rpcs := f.srv.Stats().RPCs
	for _, name := range []string{"Mount", "OpenCreateAt", "PWrite", "FSync", "PRead"} {
		if op := rpcs[name]; op.Requests == 0 || op.Errors != 0 || op.Latency.Count != op.Requests || op.Latency.MaxNs == 0 {
			t.Errorf("%s: %+v", name, op)
		}
	}
	if op, ok := rpcs["UnlinkAt"]; ok {
		t.Errorf("counted without a request: %+v", op)
	}
	if err := c.root.UnlinkAt(ctx, "none", 0); err != unix.ENOENT {
		t.Errorf("unlink: %v", err)
	}
	if op := f.srv.Stats().RPCs["UnlinkAt"]; op.Requests != 1 || op.Errors != 1 {
		t.Errorf("failed request: %+v", op)
	}
}

// Every message that is handled has a name to be counted under.
func TestRPCNames(t *testing.T) {
	srv := New(fuse.NewDefaultRawFileSystem(), Options{})
	defer srv.Close()
	for m, h := range srv.handlers {
		if named := m < len(rpcNames) && rpcNames[m] != ""; named != (h != nil) {
			t.Errorf("message %d: handled %v, named %v", m, h != nil, named)
		}
	}
}
