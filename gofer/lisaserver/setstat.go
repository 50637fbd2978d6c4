// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package lisaserver

import (
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/lisafs"

	"fsva/gofer/errno"
)

const (
	statxOwner = unix.STATX_UID | unix.STATX_GID
	statxTimes = unix.STATX_ATIME | unix.STATX_MTIME
)

// SetStat implements lisafs.ControlFDImpl.SetStat. It asks for everything at
// once. If that fails it asks for one attribute after the other, to find out
// which of them the file system refuses; the owner first, because a change of
// owner takes the set-user-ID bits away, and times after the size.
func (fd *controlFD) SetStat(req lisafs.SetStatReq) (uint32, error) {
	req, failed, firstErr := fd.settable(req)
	fail := func(mask uint32, err error) {
		failed |= mask
		if firstErr == nil {
			firstErr = err
		}
	}
	if req.Mask == 0 {
		return failed, firstErr
	}
	h := fd.n.borrow(fd.c, false)
	if h != nil {
		defer h.decRef()
	}
	err := fd.setattr(h, &req, req.Mask)
	switch {
	case err == nil:
		return failed, firstErr
	case allFail(err):
		fail(req.Mask, err)
		return failed, firstErr
	}
	groups := []uint32{statxOwner, unix.STATX_MODE, unix.STATX_SIZE, statxTimes}
	for _, group := range groups {
		mask := req.Mask & group
		if mask == 0 {
			continue
		}
		if mask != req.Mask {
			err = fd.setattr(h, &req, mask) // Otherwise err is its result already.
		}
		if err == nil {
			continue
		}
		if mask&(mask-1) == 0 {
			fail(mask, err)
			continue
		}
		for bit := uint32(1); bit <= mask; bit <<= 1 {
			if mask&bit == 0 {
				continue
			}
			if err := fd.setattr(h, &req, bit); err != nil {
				fail(bit, err)
			}
		}
	}
	return failed, firstErr
}

// setStatHandler is lisafs' handler, except that in shared mode a failure is the
// answer to the whole request: a sentry in that mode does not look at the failure
// mask and would tell the application that all went well
// (pkg/sentry/fsimpl/gofer/gofer.go, setStat). It caches no attributes, so it
// need not know which of them were set.
func (s *Server) setStatHandler(c *lisafs.Connection, comm lisafs.Communicator, payloadLen uint32) (uint32, error) {
	n, err := lisafs.SetStatHandler(c, comm, payloadLen)
	if err != nil || !s.opts.Shared {
		return n, err
	}
	// The client may write here too; it can only choose what it is told itself.
	var resp lisafs.SetStatResp
	resp.UnmarshalUnsafe(comm.PayloadBuf(n))
	switch {
	case resp.FailureMask == 0:
		return n, nil
	case resp.FailureErrNo == 0 || resp.FailureErrNo > maxErrno:
		return 0, unix.EIO
	}
	return 0, unix.Errno(resp.FailureErrNo)
}

// maxErrno is Linux' MAX_ERRNO.
const maxErrno = 4095

// allFail reports whether after err there is no point in asking for less.
func allFail(err error) bool {
	switch err {
	case unix.ENOENT, unix.ESTALE, unix.EROFS, unix.ENOTCONN, unix.ENODEV, unix.ECONNABORTED:
		return true
	}
	return false
}

// settable takes what cannot be set or need not be from the request. It returns
// the rest, which attributes fail, and why.
func (fd *controlFD) settable(req lisafs.SetStatReq) (lisafs.SetStatReq, uint32, error) {
	var failed uint32
	var firstErr error
	fail := func(mask uint32, err error) {
		req.Mask &^= mask
		failed |= mask
		if firstErr == nil {
			firstErr = err
		}
	}
	if req.Mask&unix.STATX_MODE != 0 && fd.n.ftype == unix.S_IFLNK {
		fail(unix.STATX_MODE, unix.EOPNOTSUPP) // No symbolic link has one on Linux.
	}
	if req.Mask&unix.STATX_SIZE != 0 {
		switch {
		case fd.n.isDir():
			fail(unix.STATX_SIZE, unix.EISDIR)
		case fd.n.ftype != unix.S_IFREG:
			fail(unix.STATX_SIZE, unix.EINVAL)
		case !inFile(req.Size, 0):
			fail(unix.STATX_SIZE, unix.EFBIG)
		}
	}
	// -1 means "leave it", as for chown(2).
	if !req.UID.Ok() {
		req.Mask &^= unix.STATX_UID
	}
	if !req.GID.Ok() {
		req.Mask &^= unix.STATX_GID
	}
	for _, t := range []struct {
		bit uint32
		ts  linux.Timespec
	}{{unix.STATX_ATIME, req.Atime}, {unix.STATX_MTIME, req.Mtime}} {
		switch {
		case req.Mask&t.bit == 0 || t.ts.Nsec == unix.UTIME_NOW:
		case t.ts.Nsec == unix.UTIME_OMIT:
			req.Mask &^= t.bit
		case t.ts.Nsec < 0 || t.ts.Nsec > 999_999_999:
			fail(t.bit, unix.EINVAL)
		}
	}
	return req, failed, firstErr
}

// setattr asks the file system to set those attributes of req that mask names.
// It goes through h, if there is one, so that files without a name work; for the
// size only through a handle that may write.
func (fd *controlFD) setattr(h *handle, req *lisafs.SetStatReq, mask uint32) error {
	in := fuse.SetAttrIn{SetAttrInCommon: fuse.SetAttrInCommon{InHeader: fd.n.header()}}
	if mask&unix.STATX_MODE != 0 {
		in.Valid |= fuse.FATTR_MODE
		in.Mode = fd.n.ftype | req.Mode&permMask
	}
	if mask&unix.STATX_UID != 0 {
		in.Valid |= fuse.FATTR_UID
		in.Uid = uint32(req.UID)
	}
	if mask&unix.STATX_GID != 0 {
		in.Valid |= fuse.FATTR_GID
		in.Gid = uint32(req.GID)
	}
	if mask&unix.STATX_SIZE != 0 {
		in.Valid |= fuse.FATTR_SIZE
		in.Size = req.Size
	}
	if mask&unix.STATX_ATIME != 0 {
		var now bool
		in.Atime, in.Atimensec, now = fuseTime(req.Atime)
		in.Valid |= fuse.FATTR_ATIME
		if now {
			in.Valid |= fuse.FATTR_ATIME_NOW
		}
	}
	if mask&unix.STATX_MTIME != 0 {
		var now bool
		in.Mtime, in.Mtimensec, now = fuseTime(req.Mtime)
		in.Valid |= fuse.FATTR_MTIME
		if now {
			in.Valid |= fuse.FATTR_MTIME_NOW
		}
	}
	if h != nil && !h.virtual && (h.writable() || mask&unix.STATX_SIZE == 0) {
		in.Valid |= fuse.FATTR_FH
		in.Fh = h.fh
		if mask&unix.STATX_SIZE != 0 {
			in.Valid |= fuse.FATTR_LOCKOWNER
			in.LockOwner = h.owner
		}
	}
	var out fuse.AttrOut
	return errno.FromStatus(fd.c.srv.fs.SetAttr(nil, &in, &out))
}

// fuseTime converts a time that settable let through. For UTIME_NOW it gives the
// time too, for servers that are too old for the flag.
func fuseTime(ts linux.Timespec) (sec uint64, nsec uint32, now bool) {
	if ts.Nsec == unix.UTIME_NOW {
		t := time.Now()
		return uint64(t.Unix()), uint32(t.Nanosecond()), true
	}
	return uint64(ts.Sec), uint32(ts.Nsec), false
}
