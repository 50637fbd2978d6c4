// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package fusesession

import (
	"math"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"fsva/gofer/fusewire"
)

func (s *Session) lookup(r *request) fuse.Status {
	st := newEntry(s, r, func(in *fuse.InHeader, name string, out *fuse.EntryOut) fuse.Status {
		return s.fs.Lookup(r.cancel, in, name, out)
	})
	if st == fuse.ENOENT && s.opts.Exclusive {
		// The client may remember that there is no such name.
		out := reply[fuse.EntryOut](r)
		s.fixEntry(out)
		return fuse.OK
	}
	return st
}

// attrHandle returns the flags and the handle with which the file system below is asked for
// attributes: the handle that the client names, if it has one there.
func (s *Session) attrHandle(r *request, flags uint32, fh uint64) (uint32, uint64, fuse.Status) {
	if flags&fuse.FUSE_GETATTR_FH == 0 {
		return 0, 0, fuse.OK
	}
	h, st := s.borrow(r, 0, fh, r.NodeId, false)
	if st != fuse.OK || h.virtual {
		return 0, 0, st
	}
	return fuse.FUSE_GETATTR_FH, h.fh, fuse.OK
}

func (s *Session) getAttr(r *request) fuse.Status {
	in, rest, ok := arg[fuse.GetAttrIn](r.msg)
	if !ok || len(rest) > 0 {
		return s.bad()
	}
	call := fuse.GetAttrIn{InHeader: r.InHeader}
	var st fuse.Status
	if call.Flags_, call.Fh_, st = s.attrHandle(r, in.Flags_, in.Fh_); st != fuse.OK {
		return st
	}
	out := reply[fuse.AttrOut](r)
	st = s.fs.GetAttr(r.cancel, &call, out)
	s.fixValid(&out.AttrValid, &out.AttrValidNsec)
	out.Attr.Flags = 0
	return st
}

func (s *Session) statx(r *request) fuse.Status {
	in, rest, ok := arg[fuse.StatxIn](r.msg)
	if !ok || len(rest) > 0 {
		return s.bad()
	}
	call := fuse.StatxIn{InHeader: r.InHeader, SxFlags: in.SxFlags, SxMask: in.SxMask}
	var st fuse.Status
	if call.GetattrFlags, call.Fh, st = s.attrHandle(r, in.GetattrFlags, in.Fh); st != fuse.OK {
		return st
	}
	out := reply[fuse.StatxOut](r)
	st = s.fs.Statx(r.cancel, &call, out)
	s.fixValid(&out.AttrValid, &out.AttrValidNsec)
	return st
}

func (s *Session) setAttr(r *request) fuse.Status {
	in, rest, ok := arg[fuse.SetAttrIn](r.msg)
	switch {
	case !ok || len(rest) > 0:
		return s.bad()
	case in.Valid&fuse.FATTR_SIZE != 0 && in.Size > math.MaxInt64,
		in.Valid&(fuse.FATTR_ATIME|fuse.FATTR_MTIME|fuse.FATTR_CTIME) != 0 &&
			max(in.Atimensec, in.Mtimensec, in.Ctimensec) >= nanosPerSec:
		return s.bad()
	}
	if r.ftypes[0] != unix.S_IFREG && in.Valid&fuse.FATTR_SIZE != 0 {
		return typeError(r.ftypes[0], unix.S_IFREG)
	}
	if r.ftypes[0] == unix.S_IFLNK && in.Valid&fuse.FATTR_MODE != 0 {
		return fuse.Status(unix.EOPNOTSUPP) // a link has no mode
	}
	in.Valid &= fattrAll
	if in.Valid&fuse.FATTR_LOCKOWNER != 0 {
		in.LockOwner = s.owner(in.LockOwner)
	}
	if in.Valid&fuse.FATTR_FH != 0 {
		h, st := s.borrow(r, 0, in.Fh, r.NodeId, false)
		if st != fuse.OK {
			return st
		}
		if in.Valid&fuse.FATTR_SIZE != 0 && !h.writable() {
			return fuse.EBADF
		}
		in.Fh = h.fh
		if h.virtual {
			in.Valid &^= fuse.FATTR_FH
		}
	}
	out := reply[fuse.AttrOut](r)
	st := s.fs.SetAttr(r.cancel, in, out)
	s.fixValid(&out.AttrValid, &out.AttrValidNsec)
	out.Attr.Flags = 0
	return st
}

func (s *Session) access(r *request) fuse.Status {
	in, rest, ok := arg[fuse.AccessIn](r.msg)
	if !ok || len(rest) > 0 {
		return s.bad()
	}
	if in.Mask&unix.W_OK != 0 && s.opts.ReadOnly {
		return fuse.EROFS
	}
	in.Mask &= unix.R_OK | unix.W_OK | unix.X_OK
	return s.fs.Access(r.cancel, in)
}

func (s *Session) readlink(r *request) fuse.Status {
	if len(r.msg) > fusewire.InHeaderSize {
		return s.bad()
	}
	target, st := s.fs.Readlink(r.cancel, &r.InHeader)
	if st == fuse.OK && len(target) > symlinkMax {
		return fuse.Status(unix.ENAMETOOLONG)
	}
	r.payload = target
	return st
}

func (s *Session) symlink(r *request) fuse.Status {
	var name, target string
	if !names(r.msg[fusewire.InHeaderSize:], &name, &target) {
		return s.bad()
	}
	if st := checkName(name); st != fuse.OK {
		return st
	}
	switch {
	case target == "":
		return fuse.ENOENT // symlink(2)
	case len(target) > symlinkMax:
		return fuse.Status(unix.ENAMETOOLONG)
	}
	if st := s.nodeRoom(); st != fuse.OK {
		return st
	}
	out := reply[fuse.EntryOut](r)
	return s.entry(s.fs.Symlink(r.cancel, &r.InHeader, target, name, out), out)
}

func (s *Session) mknod(r *request) fuse.Status {
	return newEntry(s, r, func(in *fuse.MknodIn, name string, out *fuse.EntryOut) fuse.Status {
		switch in.Mode & unix.S_IFMT {
		case unix.S_IFREG, unix.S_IFIFO, unix.S_IFSOCK:
		case unix.S_IFCHR: // a whiteout of overlayfs is no device
			if in.Rdev != 0 {
				return fuse.EPERM
			}
		case unix.S_IFBLK:
			return fuse.EPERM
		default:
			return s.bad()
		}
		return s.fs.Mknod(r.cancel, in, name, out)
	})
}

func (s *Session) mkdir(r *request) fuse.Status {
	return newEntry(s, r, func(in *fuse.MkdirIn, name string, out *fuse.EntryOut) fuse.Status {
		return s.fs.Mkdir(r.cancel, in, name, out)
	})
}

func (s *Session) link(r *request) fuse.Status {
	return newEntry(s, r, func(in *fuse.LinkIn, name string, out *fuse.EntryOut) fuse.Status {
		if st := s.pin2(r, in.Oldnodeid, 0); st != fuse.OK {
			return st
		}
		if r.ftypes[1] == unix.S_IFDIR {
			return fuse.EPERM
		}
		return s.fs.Link(r.cancel, in, name, out)
	})
}

func (s *Session) unlink(r *request) fuse.Status {
	name, st := entryName(r.msg[fusewire.InHeaderSize:])
	if st != fuse.OK {
		return st
	}
	return s.fs.Unlink(r.cancel, &r.InHeader, name)
}

func (s *Session) rmdir(r *request) fuse.Status {
	name, st := entryName(r.msg[fusewire.InHeaderSize:])
	if st != fuse.OK {
		return st
	}
	return s.fs.Rmdir(r.cancel, &r.InHeader, name)
}

func (s *Session) rename(r *request) fuse.Status {
	var call fuse.RenameIn
	var rest []byte
	if r.Opcode == fusewire.OpRename2 {
		in, b, ok := arg[fuse.RenameIn](r.msg)
		if !ok {
			return s.bad()
		}
		call, rest = *in, b
	} else {
		in, b, ok := arg[renameIn](r.msg)
		if !ok {
			return s.bad()
		}
		call, rest = fuse.RenameIn{InHeader: r.InHeader, Newdir: in.Newdir}, b
	}
	var from, to string
	if !names(rest, &from, &to) || call.Flags&^(unix.RENAME_NOREPLACE|unix.RENAME_EXCHANGE|unix.RENAME_WHITEOUT) != 0 {
		return s.bad()
	}
	for _, name := range []string{from, to} {
		if st := checkName(name); st != fuse.OK {
			return st
		}
	}
	if st := s.pin2(r, call.Newdir, unix.S_IFDIR); st != fuse.OK {
		return st
	}
	return s.fs.Rename(r.cancel, &call, from, to)
}

func (s *Session) statFs(r *request) fuse.Status {
	if len(r.msg) > fusewire.InHeaderSize {
		return s.bad()
	}
	out := reply[fuse.StatfsOut](r)
	return s.fs.StatFs(r.cancel, &r.InHeader, out)
}

func (s *Session) setXAttr(r *request) fuse.Status {
	in, rest, ok := arg[setXAttrIn](r.msg)
	if !ok || uint64(len(rest)) < uint64(in.Size) {
		return s.bad()
	}
	split := len(rest) - int(in.Size)
	name, st := xattrName(rest[:split])
	switch {
	case st != fuse.OK:
		return st
	case in.Size > xattrValueMax:
		return fuse.Status(unix.E2BIG)
	case in.Flags&^(unix.XATTR_CREATE|unix.XATTR_REPLACE) != 0:
		return fuse.EINVAL
	}
	call := fuse.SetXAttrIn{InHeader: r.InHeader, Size: in.Size, Flags: in.Flags}
	return s.fs.SetXAttr(r.cancel, &call, name, rest[split:])
}

func (s *Session) removeXAttr(r *request) fuse.Status {
	name, st := xattrName(r.msg[fusewire.InHeaderSize:])
	if st != fuse.OK {
		return st
	}
	return s.fs.RemoveXAttr(r.cancel, &r.InHeader, name)
}

func (s *Session) getXAttr(r *request) fuse.Status {
	in, rest, ok := arg[fuse.GetXAttrIn](r.msg)
	if !ok {
		return s.bad()
	}
	name, st := xattrName(rest)
	if st != fuse.OK {
		return st
	}
	return s.xattr(r, in.Size, func(dst []byte) (uint32, fuse.Status) {
		return s.fs.GetXAttr(r.cancel, &r.InHeader, name, dst)
	})
}

func (s *Session) listXAttr(r *request) fuse.Status {
	in, rest, ok := arg[fuse.GetXAttrIn](r.msg)
	if !ok || len(rest) > 0 {
		return s.bad()
	}
	return s.xattr(r, in.Size, func(dst []byte) (uint32, fuse.Status) {
		return s.fs.ListXAttr(r.cancel, &r.InHeader, dst)
	})
}

// xattr answers GETXATTR and LISTXATTR: with the size if the client has no room,
// else with the data.
func (s *Session) xattr(r *request, size uint32, get func(dst []byte) (uint32, fuse.Status)) fuse.Status {
	if size == 0 {
		n, st := get(nil)
		if st == fuse.ERANGE {
			st = fuse.OK // that there is no room is no news
		}
		reply[fuse.GetXAttrOut](r).Size = n
		return st
	}
	dst := s.buf(r, int(min(size, xattrValueMax)))
	n, st := get(dst)
	if st == fuse.OK && int(n) > len(dst) {
		return fuse.ERANGE
	}
	if st == fuse.OK {
		r.payload = dst[:n]
	}
	return st
}
