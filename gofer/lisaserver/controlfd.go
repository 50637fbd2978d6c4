// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package lisaserver

import (
	"bytes"
	"sync/atomic"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/lisafs"

	"fsva/gofer/errno"
)

// fuseSuperMagic is what statfs(2) reports as the type of a FUSE file system.
const fuseSuperMagic = 0x65735546

// controlFD implements lisafs.ControlFDImpl: a client's hold on one node.
type controlFD struct {
	lisafs.ControlFD

	// Immutable. The FD holds a ref on n.
	c *conn
	n *node

	// donated is how many descriptors of the file's data the client has until the
	// FD is closed.
	donated atomic.Int32
}

var _ lisafs.ControlFDImpl = (*controlFD)(nil)

// FD implements lisafs.ControlFDImpl.FD.
func (fd *controlFD) FD() *lisafs.ControlFD { return &fd.ControlFD }

// Close implements lisafs.ControlFDImpl.Close.
func (fd *controlFD) Close() {
	for range fd.donated.Load() {
		fd.c.returned(fd.n)
	}
	fd.n.decRef()
	fd.c.srv.stats.controlFDs.Add(-1)
	fd.c.unreserve(1)
}

// Renamed implements lisafs.ControlFDImpl.Renamed. Node ids survive renames.
func (fd *controlFD) Renamed() {}

// Stat implements lisafs.ControlFDImpl.Stat. It asks through an open file if the
// client has one: that works for files that have no name any more, and shows the
// effect of its writes in file systems where they take time.
func (fd *controlFD) Stat() (lisafs.Statx, error) {
	h := fd.n.borrow(fd.c, false)
	if h != nil {
		defer h.decRef()
	}
	return fd.c.srv.getattr(fd.n, h)
}

// getattr asks for n's attributes, through h unless that is nil.
func (s *Server) getattr(n *node, h *handle) (lisafs.Statx, error) {
	in := fuse.GetAttrIn{InHeader: n.header()}
	if h != nil && !h.virtual {
		in.Flags_ |= fuse.FUSE_GETATTR_FH
		in.Fh_ = h.fh
	}
	var out fuse.AttrOut
	if err := errno.FromStatus(s.fs.GetAttr(nil, &in, &out)); err != nil {
		return lisafs.Statx{}, err
	}
	if err := n.checkAttr(&out.Attr); err != nil {
		return lisafs.Statx{}, err
	}
	return s.statx(n.id, &out.Attr), nil
}

// checkAttr refuses attributes that cannot be n's. A sentry panics if a file that
// it knows changes its type.
func (n *node) checkAttr(a *fuse.Attr) error {
	if err := checkAttr(a); err != nil {
		return err
	}
	if a.Mode&unix.S_IFMT != n.ftype {
		return unix.EIO
	}
	return nil
}

// lookup looks name up in directory n. The caller gets a ref on the node.
func (s *Server) lookup(n *node, name string, out *fuse.EntryOut) (*node, error) {
	if !n.isDir() {
		return nil, unix.ENOTDIR
	}
	if err := checkName(name); err != nil {
		return nil, err
	}
	header := n.header()
	if s.parallelDirops {
		n.ns.RLock()
		defer n.ns.RUnlock()
	} else {
		n.ns.Lock()
		defer n.ns.Unlock()
	}
	if err := errno.FromStatus(s.fs.Lookup(nil, &header, name, out)); err != nil {
		return nil, err
	}
	if out.NodeId == 0 {
		return nil, unix.ENOENT // A negative entry, with a time to live.
	}
	return s.adopt(n, out)
}

// adopt takes the lookup count of an entry of directory parent and returns its
// node with a ref for the caller. An entry that cannot be right is forgotten.
func (s *Server) adopt(parent *node, out *fuse.EntryOut) (*node, error) {
	if out.NodeId == 0 {
		return nil, unix.EIO
	}
	err := checkAttr(&out.Attr)
	if out.NodeId == fuse.FUSE_ROOT_ID {
		err = unix.EIO // The root is in no directory.
	}
	if err != nil {
		s.fs.Forget(out.NodeId, 1)
		return nil, err
	}
	return s.nodes.acquire(nodeKey{id: out.NodeId, ftype: out.Attr.Mode & unix.S_IFMT}, parent)
}

// Walk implements lisafs.ControlFDImpl.Walk.
func (fd *controlFD) Walk(name string) (*lisafs.ControlFD, lisafs.Statx, error) {
	if err := fd.c.reserve(1); err != nil {
		return nil, lisafs.Statx{}, err
	}
	var out fuse.EntryOut
	n, err := fd.c.srv.lookup(fd.n, name, &out)
	if err != nil {
		fd.c.unreserve(1)
		return nil, lisafs.Statx{}, err
	}
	return fd.c.newControlFD(n).FD(), fd.c.srv.statx(n.id, &out.Attr), nil
}

// WalkStat implements lisafs.ControlFDImpl.WalkStat. The walk ends at the first
// name that does not exist and after anything that is not a directory; the
// client compares what it gets with what it knows.
func (fd *controlFD) WalkStat(path lisafs.StringArray, record func(lisafs.Statx)) error {
	if len(path) > 0 && path[0] == "" {
		st, err := fd.Stat()
		if err != nil {
			return err
		}
		record(st)
		path = path[1:]
	}
	s := fd.c.srv
	dir := fd.n
	defer func() {
		if dir != fd.n {
			dir.decRef()
		}
	}()
	for _, name := range path {
		if !dir.isDir() {
			break
		}
		var out fuse.EntryOut
		n, err := s.lookup(dir, name, &out)
		if err == unix.ENOENT {
			break
		}
		if err != nil {
			return err
		}
		record(s.statx(n.id, &out.Attr))
		if dir != fd.n {
			dir.decRef()
		}
		dir = n
	}
	return nil
}

// StatFS implements lisafs.ControlFDImpl.StatFS.
func (fd *controlFD) StatFS() (lisafs.StatFS, error) {
	header := fd.n.header()
	var out fuse.StatfsOut
	if err := errno.FromStatus(fd.c.srv.fs.StatFs(nil, &header, &out)); err != nil && err != unix.ENOSYS {
		return lisafs.StatFS{}, err
	}
	st := lisafs.StatFS{
		Type:            fuseSuperMagic,
		BlockSize:       int64(out.Frsize), // The unit of the counts.
		Blocks:          out.Blocks,
		BlocksFree:      out.Bfree,
		BlocksAvailable: out.Bavail,
		Files:           out.Files,
		FilesFree:       out.Ffree,
		NameLength:      uint64(out.NameLen),
	}
	if st.BlockSize == 0 {
		st.BlockSize = int64(out.Bsize)
	}
	if st.BlockSize == 0 {
		st.BlockSize = 4096
	}
	if st.NameLength == 0 {
		st.NameLength = unix.NAME_MAX
	}
	return st, nil
}

// Readlink implements lisafs.ControlFDImpl.Readlink.
func (fd *controlFD) Readlink(buf func(uint32) []byte) (uint16, error) {
	header := fd.n.header()
	target, status := fd.c.srv.fs.Readlink(nil, &header)
	if err := errno.FromStatus(status); err != nil {
		return 0, err
	}
	if i := bytes.IndexByte(target, 0); i >= 0 {
		target = target[:i]
	}
	if len(target) > maxTarget {
		return 0, unix.ENAMETOOLONG
	}
	return uint16(copy(buf(uint32(len(target))), target)), nil
}

// Connect implements lisafs.ControlFDImpl.Connect. Not reachable: the message is
// not supported.
func (fd *controlFD) Connect(uint32) (int, error) { return -1, unix.EOPNOTSUPP }

// ConnectWithCreds implements lisafs.ControlFDImpl.ConnectWithCreds. Not
// reachable.
func (fd *controlFD) ConnectWithCreds(uint32, lisafs.UID, lisafs.GID) (int, error) {
	return -1, unix.EOPNOTSUPP
}
