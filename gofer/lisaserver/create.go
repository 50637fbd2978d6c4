// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package lisaserver

import (
	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/lisafs"

	"fsva/gofer/errno"
)

const (
	permMask = 0o7777
	// mkdirMask is what mkdir(2) lets through; set-group-ID comes from elsewhere.
	mkdirMask = 0o1777
	// specialMask are the bits that a change of owner takes from a file.
	specialMask = 0o7000
)

// wanted says how a file that is being created shall look.
type wanted struct {
	ftype uint32
	mode  uint32 // permMask bits; only specialMask ones are insisted on
	uid   lisafs.UID
	gid   lisafs.GID
}

// createIn runs make, which asks the file system to create name in directory fd
// and fills in out, and returns the new node with a ref for the caller. When the
// reply is unusable what was created is removed again.
func (fd *controlFD) createIn(name string, ftype uint32, out *fuse.EntryOut, make func() fuse.Status) (*node, error) {
	if !fd.n.isDir() {
		return nil, unix.ENOTDIR
	}
	if err := checkName(name); err != nil {
		return nil, err
	}
	fd.n.ns.Lock()
	defer fd.n.ns.Unlock()
	if err := errno.FromStatus(make()); err != nil {
		return nil, err
	}
	n, err := fd.c.srv.adopt(fd.n, out)
	if err == nil && n.ftype != ftype {
		n.decRef()
		err = unix.EIO
	}
	if err != nil {
		fd.undo(name, ftype)
		return nil, err
	}
	return n, nil
}

// undo removes name, which this server created a moment ago but cannot use.
//
// Preconditions: fd.n.ns is locked.
func (fd *controlFD) undo(name string, ftype uint32) {
	header := fd.n.header()
	var status fuse.Status
	if ftype == unix.S_IFDIR {
		status = fd.c.srv.fs.Rmdir(nil, &header, name)
	} else {
		status = fd.c.srv.fs.Unlink(nil, &header, name)
	}
	if status != fuse.OK {
		fd.c.srv.log.Warn("leftover of a failed creation", "name", name, "status", int32(status))
	}
}

// settle gives the new file n the owner and the special mode bits it shall have,
// if the file system did not do so by itself, and updates a, its attributes, to
// what they are then. A file system that does not let anyone change owners is
// right about its own files: what it says is what is reported.
func (fd *controlFD) settle(n *node, h *handle, w wanted, a *fuse.Attr) {
	s := fd.c.srv
	in := fuse.SetAttrIn{SetAttrInCommon: fuse.SetAttrInCommon{InHeader: n.header()}}
	if w.uid.Ok() && a.Uid != uint32(w.uid) {
		in.Valid |= fuse.FATTR_UID
		in.Uid = uint32(w.uid)
	}
	if w.gid.Ok() && a.Gid != uint32(w.gid) {
		in.Valid |= fuse.FATTR_GID
		in.Gid = uint32(w.gid)
	}
	chown := in.Valid != 0
	special := w.mode & specialMask
	lacks := func() bool { return n.ftype != unix.S_IFLNK && a.Mode&special != special }
	if lacks() {
		in.Valid |= fuse.FATTR_MODE
	}
	if in.Valid == 0 {
		return
	}
	if in.Valid&fuse.FATTR_MODE == 0 && special != 0 {
		in.Valid |= fuse.FATTR_MODE // The new owner must not take the bits away.
	}
	if h != nil && !h.virtual {
		in.Valid |= fuse.FATTR_FH
		in.Fh = h.fh
	}
	in.Mode = a.Mode | special
	if !s.setattrTo(n, &in, a) {
		s.refresh(n, h, a)
		return
	}
	if chown && lacks() {
		in.Valid &^= fuse.FATTR_UID | fuse.FATTR_GID
		in.Mode = a.Mode | special
		s.setattrTo(n, &in, a)
	}
}

// setattrTo does a SETATTR and reports whether it succeeded and a has the result.
func (s *Server) setattrTo(n *node, in *fuse.SetAttrIn, a *fuse.Attr) bool {
	var out fuse.AttrOut
	if status := s.fs.SetAttr(nil, in, &out); status != fuse.OK {
		s.log.Debug("owner or mode of a new file not set", "node", n.id, "status", int32(status))
		return false
	}
	return replaceAttr(n, a, &out.Attr)
}

// refresh reads n's attributes into a; a is left alone if that fails.
func (s *Server) refresh(n *node, h *handle, a *fuse.Attr) {
	in := fuse.GetAttrIn{InHeader: n.header()}
	if h != nil && !h.virtual {
		in.Flags_ |= fuse.FUSE_GETATTR_FH
		in.Fh_ = h.fh
	}
	var out fuse.AttrOut
	if s.fs.GetAttr(nil, &in, &out) == fuse.OK {
		replaceAttr(n, a, &out.Attr)
	}
}

// replaceAttr replaces a, n's attributes, if the new ones can be right.
func replaceAttr(n *node, a, new *fuse.Attr) bool {
	if n.checkAttr(new) != nil {
		return false
	}
	ino := a.Ino
	*a = *new
	if a.Ino == 0 {
		a.Ino = ino // Some SETATTR replies leave it out.
	}
	return true
}

// finish settles the new node and wraps it in a control FD.
//
// Preconditions: the FD is reserved. The caller's ref on n passes to the FD.
func (fd *controlFD) finish(n *node, w wanted, a *fuse.Attr) (*lisafs.ControlFD, lisafs.Statx, error) {
	fd.settle(n, nil, w, a)
	return fd.c.newControlFD(n).FD(), fd.c.srv.statx(n.id, a), nil
}

// OpenCreate implements lisafs.ControlFDImpl.OpenCreate.
func (fd *controlFD) OpenCreate(mode linux.FileMode, uid lisafs.UID, gid lisafs.GID, name string, flags uint32) (*lisafs.ControlFD, lisafs.Statx, *lisafs.OpenFD, int, error) {
	if err := fd.c.reserve(2); err != nil {
		return nil, lisafs.Statx{}, nil, -1, err
	}
	w := wanted{ftype: unix.S_IFREG, mode: uint32(mode) & permMask, uid: uid, gid: gid}
	n, h, a, err := fd.create(name, flags, w)
	if err != nil {
		fd.c.unreserve(2)
		return nil, lisafs.Statx{}, nil, -1, err
	}
	fd.settle(n, h, w, a)
	child := fd.c.newControlFD(n)
	open := &child.newOpenFD(h, flags).OpenFD
	return child.FD(), fd.c.srv.statx(n.id, a), open, -1, nil
}

// create creates and opens a regular file. The caller gets a ref on the node and
// the handle's first ref.
func (fd *controlFD) create(name string, flags uint32, w wanted) (*node, *handle, *fuse.Attr, error) {
	s := fd.c.srv
	flags &= unix.O_ACCMODE
	in := fuse.CreateIn{
		InHeader: fd.n.headerFor(w.uid, w.gid),
		Flags:    flags | unix.O_CREAT | unix.O_EXCL,
		Mode:     unix.S_IFREG | w.mode,
	}
	var out fuse.CreateOut
	created := false
	n, err := fd.createIn(name, unix.S_IFREG, &out.EntryOut, func() fuse.Status {
		status := s.fs.Create(nil, &in, name, &out)
		if created = status == fuse.OK; created {
			// The file system counts the handle even if we cannot use the node.
			if id := out.NodeId; id != 0 && (checkAttr(&out.Attr) != nil || id == fuse.FUSE_ROOT_ID || out.Attr.Mode&unix.S_IFMT != unix.S_IFREG) {
				s.fs.Release(nil, &fuse.ReleaseIn{InHeader: fuse.InHeader{NodeId: id}, Fh: out.Fh, Flags: flags})
			}
			return status
		}
		if status != fuse.ENOSYS {
			return status
		}
		mk := fuse.MknodIn{InHeader: in.InHeader, Mode: in.Mode}
		out = fuse.CreateOut{}
		return s.fs.Mknod(nil, &mk, name, &out.EntryOut)
	})
	if err != nil {
		return nil, nil, nil, err
	}
	if created {
		return n, fd.c.newHandle(n, &out.OpenOut, flags, false), &out.Attr, nil
	}
	h, err := fd.c.openNode(n, flags)
	if err != nil {
		fd.n.ns.Lock()
		fd.undo(name, unix.S_IFREG)
		fd.n.ns.Unlock()
		n.decRef()
		return nil, nil, nil, err
	}
	return n, h, &out.Attr, nil
}

// Mkdir implements lisafs.ControlFDImpl.Mkdir.
func (fd *controlFD) Mkdir(mode linux.FileMode, uid lisafs.UID, gid lisafs.GID, name string) (*lisafs.ControlFD, lisafs.Statx, error) {
	if err := fd.c.reserve(1); err != nil {
		return nil, lisafs.Statx{}, err
	}
	in := fuse.MkdirIn{InHeader: fd.n.headerFor(uid, gid), Mode: uint32(mode) & mkdirMask}
	var out fuse.EntryOut
	n, err := fd.createIn(name, unix.S_IFDIR, &out, func() fuse.Status {
		return fd.c.srv.fs.Mkdir(nil, &in, name, &out)
	})
	if err != nil {
		fd.c.unreserve(1)
		return nil, lisafs.Statx{}, err
	}
	return fd.finish(n, wanted{ftype: unix.S_IFDIR, mode: uint32(mode) & permMask, uid: uid, gid: gid}, &out.Attr)
}

// Mknod implements lisafs.ControlFDImpl.Mknod. Only regular files are created.
// EPERM for fifos and sockets makes the sentry create them in its own memory,
// where they work as such; in the file system they would be dead names, because
// no sentry connects to or opens them there.
func (fd *controlFD) Mknod(mode linux.FileMode, uid lisafs.UID, gid lisafs.GID, name string, _, _ uint32) (*lisafs.ControlFD, lisafs.Statx, error) {
	if mode.FileType() != linux.S_IFREG {
		return nil, lisafs.Statx{}, unix.EPERM
	}
	if err := fd.c.reserve(1); err != nil {
		return nil, lisafs.Statx{}, err
	}
	perm := uint32(mode) & permMask
	in := fuse.MknodIn{InHeader: fd.n.headerFor(uid, gid), Mode: unix.S_IFREG | perm}
	var out fuse.EntryOut
	n, err := fd.createIn(name, unix.S_IFREG, &out, func() fuse.Status {
		return fd.c.srv.fs.Mknod(nil, &in, name, &out)
	})
	if err != nil {
		fd.c.unreserve(1)
		return nil, lisafs.Statx{}, err
	}
	return fd.finish(n, wanted{ftype: unix.S_IFREG, mode: perm, uid: uid, gid: gid}, &out.Attr)
}

// Symlink implements lisafs.ControlFDImpl.Symlink.
func (fd *controlFD) Symlink(name, target string, uid lisafs.UID, gid lisafs.GID) (*lisafs.ControlFD, lisafs.Statx, error) {
	if err := checkTarget(target); err != nil {
		return nil, lisafs.Statx{}, err
	}
	if err := fd.c.reserve(1); err != nil {
		return nil, lisafs.Statx{}, err
	}
	header := fd.n.headerFor(uid, gid)
	var out fuse.EntryOut
	n, err := fd.createIn(name, unix.S_IFLNK, &out, func() fuse.Status {
		return fd.c.srv.fs.Symlink(nil, &header, target, name, &out)
	})
	if err != nil {
		fd.c.unreserve(1)
		return nil, lisafs.Statx{}, err
	}
	return fd.finish(n, wanted{ftype: unix.S_IFLNK, uid: uid, gid: gid}, &out.Attr)
}

// Link implements lisafs.ControlFDImpl.Link.
func (fd *controlFD) Link(dir lisafs.ControlFDImpl, name string) (*lisafs.ControlFD, lisafs.Statx, error) {
	to := dir.(*controlFD)
	if fd.n.isDir() {
		return nil, lisafs.Statx{}, unix.EPERM
	}
	if err := fd.c.reserve(1); err != nil {
		return nil, lisafs.Statx{}, err
	}
	in := fuse.LinkIn{InHeader: to.n.header(), Oldnodeid: fd.n.id}
	var out fuse.EntryOut
	n, err := to.createIn(name, fd.n.ftype, &out, func() fuse.Status {
		status := fd.c.srv.fs.Link(nil, &in, name, &out)
		if status == fuse.ENOSYS {
			status = fuse.EPERM // As on every file system without hard links.
		}
		return status
	})
	if err != nil {
		fd.c.unreserve(1)
		return nil, lisafs.Statx{}, err
	}
	return fd.c.newControlFD(n).FD(), fd.c.srv.statx(n.id, &out.Attr), nil
}

// BindAt implements lisafs.ControlFDImpl.BindAt. EPERM, and no other error,
// makes the sentry create the socket in its own memory, as for Mknod.
func (fd *controlFD) BindAt(string, uint32, linux.FileMode, lisafs.UID, lisafs.GID) (*lisafs.ControlFD, lisafs.Statx, *lisafs.BoundSocketFD, int, error) {
	return nil, lisafs.Statx{}, nil, -1, unix.EPERM
}
