// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package lisaserver

import (
	"sync/atomic"
	"testing"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// failingSync is a file system whose FSYNC fails while it is told to.
type failingSync struct {
	fuse.RawFileSystem
	errno atomic.Int32
}

func (f *failingSync) Fsync(cancel <-chan struct{}, in *fuse.FsyncIn) fuse.Status {
	if e := f.errno.Load(); e != 0 {
		return fuse.Status(e)
	}
	return f.RawFileSystem.Fsync(cancel, in)
}

// What a client drops at fsync it gets at the next write or close, once for each
// open file whose fsync failed.
func TestLostSyncErrorIsReportedLater(t *testing.T) {
	for _, loses := range []bool{false, true} {
		for _, by := range []string{"write", "flush"} {
			dir := t.TempDir()
			root, err := fs.NewLoopbackRoot(dir)
			if err != nil {
				t.Fatal(err)
			}
			below := &failingSync{RawFileSystem: fs.NewNodeFS(root, &fs.Options{})}
			c := newFixtureFS(t, dir, below, Options{}).connect(ConnOptions{SharesHandles: loses})
			_, file := c.create(c.root, "synced")
			_, other := c.create(c.root, "other")
			if _, err := file.Write(ctx, []byte("data"), 0); err != nil {
				t.Fatal(err)
			}
			below.errno.Store(int32(unix.ENOSPC))
			wantErrno(t, "fsync", file.Sync(ctx), unix.ENOSPC)
			wantErrno(t, "the sentry's second fsync", file.Sync(ctx), unix.ENOSPC)
			below.errno.Store(0)

			try := func() error {
				if by == "write" {
					_, err := file.Write(ctx, []byte("more"), 0)
					return err
				}
				return file.Flush(ctx)
			}
			err = try()
			if loses {
				wantErrno(t, by+" after the lost error", err, unix.ENOSPC)
			} else if err != nil {
				t.Errorf("%s after an error that was seen: %v", by, err)
			}
			if err := try(); err != nil {
				t.Errorf("second %s: %v", by, err)
			}
			if _, err := other.Write(ctx, []byte("x"), 0); err != nil {
				t.Errorf("another file: %v", err)
			}
		}
	}
}
