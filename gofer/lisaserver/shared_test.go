// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package lisaserver

import (
	"testing"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/abi/linux"
)

// TestSetStatShared: what fails, even in part, fails the request, because the
// sentry does not look at the mask.
func TestSetStatShared(t *testing.T) {
	f, chatty := newChattyFixture(t, Options{Shared: true})
	c := f.connect(ConnOptions{})
	file, _ := c.create(c.root, "file")
	set := linux.Statx{Mask: unix.STATX_MODE | unix.STATX_SIZE, Mode: 0o600, Size: 5}
	if mask, failure, err := file.SetStat(ctx, &set); mask != 0 || failure != nil || err != nil {
		t.Errorf("failed %#x, %v, %v", mask, failure, err)
	}
	chatty.setAttr = func(in *fuse.SetAttrIn) fuse.Status {
		if in.Valid&fuse.FATTR_SIZE != 0 {
			return fuse.Status(unix.ENOSPC)
		}
		return fuse.OK
	}
	_, _, err := file.SetStat(ctx, &set)
	wantErrno(t, "setstat", err, unix.ENOSPC)
}

// TestRemoveShared: the type is checked here, in case the file system does not.
func TestRemoveShared(t *testing.T) {
	f := newFixture(t, Options{Shared: true})
	c := f.connect(ConnOptions{})
	c.create(c.root, "file")
	c.mkdir(c.root, "dir")
	before := f.fs.count("UNLINK") + f.fs.count("RMDIR")
	wantErrno(t, "rmdir of a file", c.root.UnlinkAt(ctx, "file", unix.AT_REMOVEDIR), unix.ENOTDIR)
	wantErrno(t, "unlink of a directory", c.root.UnlinkAt(ctx, "dir", 0), unix.EISDIR)
	wantErrno(t, "unlink of nothing", c.root.UnlinkAt(ctx, "none", 0), unix.ENOENT)
	if n := f.fs.count("UNLINK") + f.fs.count("RMDIR") - before; n != 0 {
		t.Errorf("the file system was asked %d times", n)
	}
	for name, flags := range map[string]uint32{"file": 0, "dir": unix.AT_REMOVEDIR} {
		if err := c.root.UnlinkAt(ctx, name, flags); err != nil {
			t.Errorf("remove %s: %v", name, err)
		}
	}
}

// TestBind: the errno that makes the sentry create a socket of its own.
func TestBind(t *testing.T) {
	f := newFixture(t, Options{})
	c := f.connect(ConnOptions{})
	_, _, err := c.root.BindAt(ctx, linux.SOCK_STREAM, "socket", 0o666, 0, 0)
	wantErrno(t, "bind", err, unix.EPERM)
}
