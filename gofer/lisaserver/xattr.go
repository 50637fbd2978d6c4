// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package lisaserver

import (
	"math"
	"strings"
	"sync"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/lisafs"

	"fsva/gofer/errno"
)

const (
	// maxXattr is the longest value that fits lisafs' 16-bit length; Linux
	// allows one byte more.
	maxXattr = math.MaxUint16
	// maxXattrList is XATTR_LIST_MAX.
	maxXattrList = 64 << 10
)

// selinuxXattr is the label of a file. GNU ls asks for that of each file it lists,
// but for a file system's first only if that answers EOPNOTSUPP, as it does where
// there is no SELinux. There is none in a sandbox: this is our answer, too, in the
// place of ENODATA, until a file with a label is seen.
const selinuxXattr = "security.selinux"

// xattrBufs holds buffers for values and lists. File systems fill these and not
// the client's memory, which could change under them.
var xattrBufs = sync.Pool{New: func() any { return new([maxXattrList]byte) }}

// GetXattr implements lisafs.ControlFDImpl.GetXattr. For size 0 it gives the
// whole value: the client wants its length.
func (fd *controlFD) GetXattr(name string, size uint32, value func(uint32) []byte) (uint16, error) {
	if err := checkXattrName(name); err != nil {
		return 0, err
	}
	buf := xattrBufs.Get().(*[maxXattrList]byte)
	defer xattrBufs.Put(buf)
	room := maxXattr
	if size != 0 {
		room = min(room, int(size))
	}
	header := fd.n.header()
	n, status := fd.c.srv.fs.GetXAttr(nil, &header, name, buf[:room])
	if name == selinuxXattr {
		switch {
		case status.Ok():
			fd.c.srv.labelled.Store(true)
		case status == fuse.ENOATTR && !fd.c.srv.labelled.Load():
			return 0, unix.EOPNOTSUPP
		}
	}
	if status == fuse.ERANGE && room == maxXattr {
		return 0, unix.E2BIG // The client's buffer would do, lisafs' messages do not.
	}
	if err := errno.FromStatus(notSupported(status)); err != nil {
		return 0, err
	}
	if int(n) > room {
		return 0, unix.EIO
	}
	return uint16(copy(value(n), buf[:n])), nil
}

// setXattrHandler refuses values that do not fit their 16-bit length before
// lisafs' handler takes what is left of it for the value.
func setXattrHandler(c *lisafs.Connection, comm lisafs.Communicator, payloadLen uint32) (uint32, error) {
	var req lisafs.FSetXattrReq
	if rest, ok := req.CheckedUnmarshal(comm.PayloadBuf(payloadLen)); ok && len(rest) > 0 {
		return 0, unix.E2BIG
	}
	return lisafs.FSetXattrHandler(c, comm, payloadLen)
}

// SetXattr implements lisafs.ControlFDImpl.SetXattr.
func (fd *controlFD) SetXattr(name, value string, flags uint32) error {
	if err := checkXattrName(name); err != nil {
		return err
	}
	if flags&^(unix.XATTR_CREATE|unix.XATTR_REPLACE) != 0 {
		return unix.EINVAL
	}
	in := fuse.SetXAttrIn{InHeader: fd.n.header(), Size: uint32(len(value)), Flags: flags}
	return errno.FromStatus(notSupported(fd.c.srv.fs.SetXAttr(nil, &in, name, []byte(value))))
}

// ListXattr implements lisafs.ControlFDImpl.ListXattr. The size is a hint that
// it does not need.
func (fd *controlFD) ListXattr(uint64) (lisafs.StringArray, error) {
	buf := xattrBufs.Get().(*[maxXattrList]byte)
	defer xattrBufs.Put(buf)
	header := fd.n.header()
	n, status := fd.c.srv.fs.ListXAttr(nil, &header, buf[:])
	if err := errno.FromStatus(notSupported(status)); err != nil {
		return nil, err
	}
	if int(n) > len(buf) {
		return nil, unix.EIO
	}
	var names lisafs.StringArray
	for _, name := range strings.Split(string(buf[:n]), "\x00") {
		if name != "" && len(name) <= maxXattrName {
			names = append(names, name)
		}
	}
	return names, nil
}

// RemoveXattr implements lisafs.ControlFDImpl.RemoveXattr.
func (fd *controlFD) RemoveXattr(name string) error {
	if err := checkXattrName(name); err != nil {
		return err
	}
	header := fd.n.header()
	return errno.FromStatus(notSupported(fd.c.srv.fs.RemoveXAttr(nil, &header, name)))
}
