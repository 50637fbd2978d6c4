// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package lisaserver

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

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
		st.Connections != 1 || st.OpenFDs != 0 || st.ControlFDs != 2 || st.RPCs == 0 {
		t.Errorf("stats: %+v", st)
	}
}
