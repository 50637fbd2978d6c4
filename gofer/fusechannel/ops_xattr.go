// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package fusechannel

import (
	"strings"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"fsva/gofer/fusewire"
)

// GetXAttr implements fuse.RawFileSystem. An empty dest asks for the value's size. With ERANGE the size is what a
// buffer needs, if the server tells.
func (c *Channel) GetXAttr(cancel <-chan struct{}, header *fuse.InHeader, attr string, dest []byte) (uint32, fuse.Status) {
	if st := checkXAttrName(attr); st != fuse.OK {
		return 0, st
	}
	n, st := c.xattr(cancel, fusewire.OpGetXAttr, header, attr, dest, xattrValueMax)
	if st == fuse.ERANGE && len(dest) > 0 {
		if need, st := c.xattr(cancel, fusewire.OpGetXAttr, header, attr, nil, xattrValueMax); st == fuse.OK {
			n = need
		}
	}
	return n, st
}

// ListXAttr implements fuse.RawFileSystem. An empty dest asks for the list's size. With ERANGE the size is what a
// buffer needs, if the server tells.
func (c *Channel) ListXAttr(cancel <-chan struct{}, header *fuse.InHeader, dest []byte) (uint32, fuse.Status) {
	n, st := c.xattr(cancel, fusewire.OpListXAttr, header, "", dest, xattrListMax)
	if st == fuse.OK && len(dest) > 0 && !goodXAttrList(dest[:n]) {
		return 0, c.badReply(fusewire.OpListXAttr)
	}
	if st == fuse.ERANGE && len(dest) > 0 {
		if need, st := c.xattr(cancel, fusewire.OpListXAttr, header, "", nil, xattrListMax); st == fuse.OK {
			n = need
		}
	}
	return n, st
}

// xattr performs GETXATTR or LISTXATTR, which are two operations each: with room for data the reply is the data,
// without it is a size.
func (c *Channel) xattr(cancel <-chan struct{}, opcode uint32, h *fuse.InHeader, attr string, dest []byte, limit uint32) (uint32, fuse.Status) {
	if c.missing(opcode) {
		return 0, enosysMeans[opcode]
	}
	s := shape{fixed: getXAttrOutSize}
	if len(dest) > 0 {
		dest = dest[:min(len(dest), int(limit))]
		s = shape{dst: dest}
	}
	ca, st := c.begin(cancel, opcode, h, s)
	if st != fuse.OK {
		return 0, st
	}
	in := fuse.GetXAttrIn{Size: uint32(len(dest))}
	ca.body(bytesOf(&in), 8)
	if attr != "" {
		ca.str(attr)
	}
	st = c.finish(cancel, opcode, ca)
	n := uint32(ca.n)
	if st == fuse.OK && len(dest) == 0 {
		var out fuse.GetXAttrOut
		copy(bytesOf(&out), ca.outBytes())
		n = min(out.Size, limit)
	}
	c.end(ca)
	if st != fuse.OK {
		return 0, c.remember(opcode, st)
	}
	return n, fuse.OK
}

// SetXAttr implements fuse.RawFileSystem.
func (c *Channel) SetXAttr(cancel <-chan struct{}, input *fuse.SetXAttrIn, attr string, data []byte) fuse.Status {
	if c.opts.ReadOnly {
		return fuse.EROFS
	}
	if st := checkXAttrName(attr); st != fuse.OK {
		return st
	}
	// A server's buffer has room for max_write and a page; see fuse_dev_do_read for E2BIG.
	if len(data) > xattrValueMax || setXAttrInSize+len(attr)+1+len(data) > c.proto.maxWrite+rwInSize {
		return fuse.Status(unix.E2BIG)
	}
	if c.missing(fusewire.OpSetXAttr) {
		return enosysMeans[fusewire.OpSetXAttr]
	}
	ca, st := c.begin(cancel, fusewire.OpSetXAttr, &input.InHeader, shape{})
	if st != fuse.OK {
		return st
	}
	in := *input
	in.Size = uint32(len(data))
	ca.body(bytesOf(&in), c.proto.setXAttrIn())
	ca.str(attr)
	ca.data(data)
	st = c.finish(cancel, fusewire.OpSetXAttr, ca)
	c.end(ca)
	return c.remember(fusewire.OpSetXAttr, st)
}

// RemoveXAttr implements fuse.RawFileSystem.
func (c *Channel) RemoveXAttr(cancel <-chan struct{}, header *fuse.InHeader, attr string) fuse.Status {
	if c.opts.ReadOnly {
		return fuse.EROFS
	}
	if st := checkXAttrName(attr); st != fuse.OK {
		return st
	}
	if c.missing(fusewire.OpRemoveXAttr) {
		return enosysMeans[fusewire.OpRemoveXAttr]
	}
	return c.remember(fusewire.OpRemoveXAttr, c.simple(cancel, fusewire.OpRemoveXAttr, header, attr))
}

// checkTarget judges the target of a symbolic link that goes out in a request.
func checkTarget(target string) fuse.Status {
	switch {
	case target == "":
		return fuse.ENOENT
	case len(target) > symlinkMax:
		return fuse.Status(unix.ENAMETOOLONG)
	case strings.IndexByte(target, 0) >= 0:
		return fuse.EINVAL
	}
	return fuse.OK
}
