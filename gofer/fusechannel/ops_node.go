// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package fusechannel

import (
	"bytes"
	"math"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"fsva/gofer/fusewire"
)

// Lookup implements fuse.RawFileSystem. OK with a node id of 0 says that there is no such name, and that this may be
// cached for out's entry timeout. "." and ".." are sent if the server has EXPORT_SUPPORT; only they may name the root.
func (c *Channel) Lookup(cancel <-chan struct{}, header *fuse.InHeader, name string, out *fuse.EntryOut) fuse.Status {
	dots := (name == "." || name == "..") && c.Has(fuse.CAP_EXPORT_SUPPORT)
	if !dots {
		if st := checkName(name); st != fuse.OK {
			return st
		}
	}
	unlock, st := c.dirLocks.lock(cancel, header.NodeId)
	if st != fuse.OK {
		return st
	}
	defer unlock()
	ca, st := c.begin(cancel, fusewire.OpLookup, header, shape{fixed: c.proto.entryOut()})
	if st != fuse.OK {
		return st
	}
	ca.str(name)
	st = c.finish(cancel, fusewire.OpLookup, ca)
	if st == fuse.OK {
		*out = fuse.EntryOut{}
		copy(bytesOf(out), ca.outBytes())
	}
	c.end(ca)
	if st != fuse.OK {
		return st
	}
	if out.NodeId == 0 {
		*out = fuse.EntryOut{EntryValid: out.EntryValid, EntryValidNsec: out.EntryValidNsec}
		fixValid(&out.EntryValid, &out.EntryValidNsec)
		return fuse.OK
	}
	if dots && out.NodeId == fuse.FUSE_ROOT_ID {
		if !fixAttr(&out.Attr) {
			return c.badReply(fusewire.OpLookup)
		}
		fixValid(&out.EntryValid, &out.EntryValidNsec)
		fixValid(&out.AttrValid, &out.AttrValidNsec)
		return fuse.OK
	}
	return c.entry(fusewire.OpLookup, out, 0)
}

// entry judges the entry in a successful reply; typ, unless 0, is the file type it must have. An unusable one is EIO,
// and given back to the server, which has counted it.
func (c *Channel) entry(opcode uint32, out *fuse.EntryOut, typ uint32) fuse.Status {
	if fixEntry(out) && (typ == 0 || out.Attr.Mode&unix.S_IFMT == typ) {
		return fuse.OK
	}
	c.Forget(out.NodeId, 1)
	return c.badReply(opcode)
}

// badReply counts a reply whose content is unusable and returns what its caller gets.
func (c *Channel) badReply(opcode uint32) fuse.Status {
	c.stats.errs[opcode].Add(1)
	c.malformed("unusable content in the reply to %s", fusewire.OpNames[opcode])
	return fuse.EIO
}

// GetAttr implements fuse.RawFileSystem.
func (c *Channel) GetAttr(cancel <-chan struct{}, input *fuse.GetAttrIn, out *fuse.AttrOut) fuse.Status {
	return c.attr(cancel, fusewire.OpGetAttr, &input.InHeader, bytesOf(input), c.proto.getAttrIn(), out)
}

// SetAttr implements fuse.RawFileSystem. FATTR_KILL_SUIDGID is never sent (see baseCaps).
func (c *Channel) SetAttr(cancel <-chan struct{}, input *fuse.SetAttrIn, out *fuse.AttrOut) fuse.Status {
	if c.opts.ReadOnly {
		return fuse.EROFS
	}
	in := *input
	in.Valid &^= fuse.FATTR_KILL_SUIDGID
	if c.proto.minor < 23 {
		in.Valid &^= fuse.FATTR_CTIME
	}
	if c.proto.minor < 9 {
		explicitTimes(&in, time.Now())
	}
	return c.attr(cancel, fusewire.OpSetAttr, &in.InHeader, bytesOf(&in), 88, out)
}

// explicitTimes replaces "now" by a time, for servers that do not know FATTR_*_NOW.
func explicitTimes(in *fuse.SetAttrIn, now time.Time) {
	if in.Valid&fuse.FATTR_ATIME_NOW != 0 {
		in.Atime, in.Atimensec = uint64(now.Unix()), uint32(now.Nanosecond())
	}
	if in.Valid&fuse.FATTR_MTIME_NOW != 0 {
		in.Mtime, in.Mtimensec = uint64(now.Unix()), uint32(now.Nanosecond())
	}
	in.Valid &^= fuse.FATTR_ATIME_NOW | fuse.FATTR_MTIME_NOW | fuse.FATTR_LOCKOWNER
}

// attr performs an operation that replies with attributes.
func (c *Channel) attr(cancel <-chan struct{}, opcode uint32, h *fuse.InHeader, in []byte, n int, out *fuse.AttrOut) fuse.Status {
	ca, st := c.begin(cancel, opcode, h, shape{fixed: c.proto.attrOut()})
	if st != fuse.OK {
		return st
	}
	ca.body(in, n)
	st = c.finish(cancel, opcode, ca)
	if st == fuse.OK {
		*out = fuse.AttrOut{}
		copy(bytesOf(out), ca.outBytes())
	}
	c.end(ca)
	if st != fuse.OK {
		return st
	}
	if !fixAttr(&out.Attr) {
		return c.badReply(opcode)
	}
	fixValid(&out.AttrValid, &out.AttrValidNsec)
	return fuse.OK
}

// Statx implements fuse.RawFileSystem. For a server without STATX the answer is made of GETATTR's, with the basic
// fields in its mask.
func (c *Channel) Statx(cancel <-chan struct{}, input *fuse.StatxIn, out *fuse.StatxOut) fuse.Status {
	if !c.missing(fusewire.OpStatx) {
		ca, st := c.begin(cancel, fusewire.OpStatx, &input.InHeader, shape{fixed: statxOutSize})
		if st != fuse.OK {
			return st
		}
		ca.body(bytesOf(input), 24)
		st = c.finish(cancel, fusewire.OpStatx, ca)
		if st == fuse.OK {
			copy(bytesOf(out), ca.outBytes())
		}
		c.end(ca)
		switch {
		case st == fuse.OK && !fixStatx(out):
			return c.badReply(fusewire.OpStatx)
		case st != fuse.ENOSYS:
			return st
		}
		c.remember(fusewire.OpStatx, st)
	}
	get := fuse.GetAttrIn{InHeader: input.InHeader, Flags_: input.GetattrFlags, Fh_: input.Fh}
	var attr fuse.AttrOut
	st := c.GetAttr(cancel, &get, &attr)
	if st == fuse.OK {
		*out = statxFromAttr(&attr)
	}
	return st
}

// fixStatx is fixAttr for STATX: only what the mask says is there is judged (fuse_do_statx in fs/fuse/dir.c).
func fixStatx(out *fuse.StatxOut) bool {
	if out.Mask&unix.STATX_TYPE != 0 && !goodMode(uint32(out.Mode)) {
		return false
	}
	if out.Mask&unix.STATX_SIZE != 0 && out.Size > math.MaxInt64 {
		return false
	}
	for _, t := range []*fuse.SxTime{&out.Atime, &out.Btime, &out.Ctime, &out.Mtime} {
		t.Nsec = min(t.Nsec, nanosPerSecond-1)
	}
	fixValid(&out.AttrValid, &out.AttrValidNsec)
	return true
}

func statxFromAttr(a *fuse.AttrOut) fuse.StatxOut {
	out := fuse.StatxOut{AttrValid: a.AttrValid, AttrValidNsec: a.AttrValidNsec}
	out.Mask = unix.STATX_BASIC_STATS
	out.Blksize = a.Blksize
	out.Nlink = a.Nlink
	out.Uid, out.Gid = a.Uid, a.Gid
	out.Mode = uint16(a.Mode)
	out.Ino, out.Size, out.Blocks = a.Ino, a.Size, a.Blocks
	out.Atime = fuse.SxTime{Sec: a.Atime, Nsec: a.Atimensec}
	out.Mtime = fuse.SxTime{Sec: a.Mtime, Nsec: a.Mtimensec}
	out.Ctime = fuse.SxTime{Sec: a.Ctime, Nsec: a.Ctimensec}
	// FUSE carries device numbers in the kernel's 32-bit encoding: 12 bits of major between the minor's parts.
	out.RdevMajor = a.Rdev >> 8 & 0xfff
	out.RdevMinor = a.Rdev&0xff | a.Rdev>>12&0xfff00
	return out
}

// Access implements fuse.RawFileSystem.
func (c *Channel) Access(cancel <-chan struct{}, input *fuse.AccessIn) fuse.Status {
	if c.opts.ReadOnly && input.Mask&fuse.W_OK != 0 {
		return fuse.EROFS
	}
	return c.plainOnce(cancel, fusewire.OpAccess, &input.InHeader, bytesOf(input), 8)
}

// Readlink implements fuse.RawFileSystem.
func (c *Channel) Readlink(cancel <-chan struct{}, header *fuse.InHeader) ([]byte, fuse.Status) {
	bufp := c.dirBufs.Get().(*[]byte)
	defer c.dirBufs.Put(bufp)
	buf := (*bufp)[:symlinkMax]
	ca, st := c.begin(cancel, fusewire.OpReadlink, header, shape{dst: buf})
	if st != fuse.OK {
		return nil, st
	}
	st = c.finish(cancel, fusewire.OpReadlink, ca)
	buf = buf[:ca.n]
	c.end(ca)
	switch {
	case st != fuse.OK:
		return nil, st
	case !goodLink(buf):
		return nil, c.badReply(fusewire.OpReadlink)
	}
	return bytes.Clone(buf), fuse.OK
}

// StatFs implements fuse.RawFileSystem.
func (c *Channel) StatFs(cancel <-chan struct{}, header *fuse.InHeader, out *fuse.StatfsOut) fuse.Status {
	ca, st := c.begin(cancel, fusewire.OpStatfs, header, shape{fixed: statfsOutSize})
	if st != fuse.OK {
		return st
	}
	st = c.finish(cancel, fusewire.OpStatfs, ca)
	if st == fuse.OK {
		copy(bytesOf(out), ca.outBytes())
	}
	c.end(ca)
	return st
}
