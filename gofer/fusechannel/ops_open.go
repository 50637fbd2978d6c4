// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package fusechannel

import (
	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"fsva/gofer/fusewire"
)

// open performs OPEN or OPENDIR.
func (c *Channel) open(cancel <-chan struct{}, opcode uint32, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	ca, st := c.begin(cancel, opcode, &in.InHeader, shape{fixed: openOutSize})
	if st != fuse.OK {
		return st
	}
	ca.body(bytesOf(in), 8)
	st = c.finish(cancel, opcode, ca)
	if st == fuse.OK {
		copy(bytesOf(out), ca.outBytes())
		fixOpen(out)
	}
	c.end(ca)
	return st
}

// fixOpen drops what was not negotiated.
func fixOpen(out *fuse.OpenOut) {
	out.OpenFlags &^= fuse.FOPEN_PASSTHROUGH
	out.BackingID = 0
}

// Open implements fuse.RawFileSystem. O_TRUNC is a SETATTR after the OPEN for servers without ATOMIC_O_TRUNC. For a
// server without OPEN it succeeds with handle 0, which Release then keeps to itself, and KEEP_CACHE (fuse_file_open in
// fs/fuse/file.c).
func (c *Channel) Open(cancel <-chan struct{}, input *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	if c.opts.ReadOnly && (input.Flags&unix.O_ACCMODE != unix.O_RDONLY || input.Flags&unix.O_TRUNC != 0) {
		return fuse.EROFS
	}
	in := *input
	in.Flags &^= unix.O_CREAT | unix.O_EXCL | unix.O_NOCTTY
	in.Mode = 0 // OPEN_KILL_SUIDGID needs HANDLE_KILLPRIV_V2
	truncate := in.Flags&unix.O_TRUNC != 0 && !c.Has(fuse.CAP_ATOMIC_O_TRUNC)
	if truncate {
		in.Flags &^= unix.O_TRUNC
	}
	opened := false
	if !c.missing(fusewire.OpOpen) {
		st := c.open(cancel, fusewire.OpOpen, &in, out)
		if c.remember(fusewire.OpOpen, st) != fuse.ENOSYS {
			if st != fuse.OK {
				return st
			}
			opened = true
		}
	}
	if !opened {
		*out = fuse.OpenOut{OpenFlags: fuse.FOPEN_KEEP_CACHE}
		truncate = input.Flags&unix.O_TRUNC != 0
	}
	if truncate {
		set := fuse.SetAttrIn{SetAttrInCommon: fuse.SetAttrInCommon{InHeader: in.InHeader, Valid: fuse.FATTR_SIZE}}
		var attr fuse.AttrOut
		if st := c.SetAttr(cancel, &set, &attr); st != fuse.OK {
			if opened {
				c.Release(nil, &fuse.ReleaseIn{InHeader: in.InHeader, Fh: out.Fh, Flags: in.Flags})
			}
			return st
		}
	}
	return fuse.OK
}

// Create implements fuse.RawFileSystem. For a server without CREATE it is MKNOD and OPEN (fuse_atomic_open in
// fs/fuse/dir.c); should the latter fail, the file stays, as in Linux, and its lookup is given back here.
func (c *Channel) Create(cancel <-chan struct{}, input *fuse.CreateIn, name string, out *fuse.CreateOut) fuse.Status {
	if c.opts.ReadOnly {
		return fuse.EROFS
	}
	if st := checkName(name); st != fuse.OK {
		return st
	}
	in := *input
	in.Mode = c.masked(in.Mode&0o7777|unix.S_IFREG, in.Umask)
	in.Flags = in.Flags&^unix.O_NOCTTY | unix.O_CREAT // always there in Linux; servers pass the flags to open(2)
	if !c.Has(fuse.CAP_ATOMIC_O_TRUNC) {
		in.Flags &^= unix.O_TRUNC // it is new
	}
	in.OpenFlags = 0
	if !c.missing(fusewire.OpCreate) {
		st := c.create(cancel, fusewire.OpCreate, &in, name, out)
		if c.remember(fusewire.OpCreate, st) != fuse.ENOSYS {
			return st
		}
	}
	mknod := fuse.MknodIn{InHeader: in.InHeader, Mode: in.Mode, Umask: in.Umask}
	if st := c.Mknod(cancel, &mknod, name, &out.EntryOut); st != fuse.OK {
		return st
	}
	open := fuse.OpenIn{InHeader: in.InHeader, Flags: in.Flags &^ unix.O_TRUNC}
	open.NodeId = out.EntryOut.NodeId
	if st := c.Open(cancel, &open, &out.OpenOut); st != fuse.OK {
		c.Forget(out.EntryOut.NodeId, 1)
		return st
	}
	return fuse.OK
}

// Tmpfile implements fuse.RawFileSystem. A server that lacks it is EOPNOTSUPP.
func (c *Channel) Tmpfile(cancel <-chan struct{}, input *fuse.CreateIn, out *fuse.CreateOut) fuse.Status {
	if c.opts.ReadOnly {
		return fuse.EROFS
	}
	if c.missing(fusewire.OpTmpfile) {
		return enosysMeans[fusewire.OpTmpfile]
	}
	in := *input
	in.Mode = c.masked(in.Mode&0o7777|unix.S_IFREG, in.Umask)
	in.OpenFlags = 0
	// Linux sends the name of the anonymous dentry, which is "/".
	return c.remember(fusewire.OpTmpfile, c.create(cancel, fusewire.OpTmpfile, &in, "/", out))
}

// create performs CREATE or TMPFILE.
func (c *Channel) create(cancel <-chan struct{}, opcode uint32, in *fuse.CreateIn, name string, out *fuse.CreateOut) fuse.Status {
	ca, st := c.begin(cancel, opcode, &in.InHeader, shape{fixed: c.proto.entryOut() + openOutSize})
	if st != fuse.OK {
		return st
	}
	ca.body(bytesOf(in), c.proto.mknodIn())
	ca.str(name)
	st = c.finish(cancel, opcode, ca)
	if st == fuse.OK {
		*out = fuse.CreateOut{}
		got := ca.outBytes()
		copy(bytesOf(&out.EntryOut), got[:c.proto.entryOut()])
		copy(bytesOf(&out.OpenOut), got[c.proto.entryOut():])
		fixOpen(&out.OpenOut)
	}
	c.end(ca)
	if st != fuse.OK {
		return st
	}
	if st = c.entry(opcode, &out.EntryOut, unix.S_IFREG); st != fuse.OK {
		rel := fuse.ReleaseIn{InHeader: in.InHeader, Fh: out.OpenOut.Fh, Flags: in.Flags}
		rel.NodeId = out.EntryOut.NodeId
		c.release(fusewire.OpRelease, &rel)
	}
	return st
}

// Release implements fuse.RawFileSystem. It does not wait for the server.
func (c *Channel) Release(_ <-chan struct{}, input *fuse.ReleaseIn) {
	if c.missing(fusewire.OpOpen) {
		return
	}
	c.release(fusewire.OpRelease, input)
}

// ReleaseAndWait is Release for callers who go on when the server has closed the file. They hold a lookup of the node
// until then.
func (c *Channel) ReleaseAndWait(input *fuse.ReleaseIn) {
	if c.missing(fusewire.OpOpen) {
		return
	}
	c.plain(nil, fusewire.OpRelease, &input.InHeader, bytesOf(input), 24)
}

// release sends RELEASE or RELEASEDIR. It has no result that anybody could use, so nobody waits for it, as in Linux.
func (c *Channel) release(opcode uint32, input *fuse.ReleaseIn) {
	ca, st := c.begin(nil, opcode, &input.InHeader, shape{})
	if st != fuse.OK {
		return
	}
	ca.body(bytesOf(input), 24)
	ca.releases = input.NodeId
	c.forgets.hold(input.NodeId)
	c.unattended(ca)
}
