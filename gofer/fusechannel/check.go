// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package fusechannel

import (
	"bytes"
	"math"
	"strings"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// checkName judges a name that goes out in a request: it must be one path component.
func checkName(name string) fuse.Status {
	switch {
	case name == "":
		return fuse.ENOENT
	case len(name) > nameMax:
		return fuse.Status(unix.ENAMETOOLONG)
	case name == "." || name == ".." || strings.IndexByte(name, '/') >= 0 || strings.IndexByte(name, 0) >= 0:
		return fuse.EINVAL
	}
	return fuse.OK
}

// checkXAttrName judges an attribute name that goes out in a request.
func checkXAttrName(name string) fuse.Status {
	switch {
	case name == "" || len(name) > xattrNameMax:
		return fuse.ERANGE // as xattr(7) system calls do
	case strings.IndexByte(name, 0) >= 0:
		return fuse.EINVAL
	}
	return fuse.OK
}

// goodMode reports whether mode has one of the seven file types.
func goodMode(mode uint32) bool {
	switch mode & unix.S_IFMT {
	case unix.S_IFREG, unix.S_IFDIR, unix.S_IFLNK, unix.S_IFCHR, unix.S_IFBLK, unix.S_IFIFO, unix.S_IFSOCK:
		return true
	}
	return false
}

// fixAttr judges attributes from a server as fuse_invalid_attr does (fs/fuse/dir.c) and clamps their nanoseconds as
// fuse_change_attributes_common does. It reports whether they are usable.
func fixAttr(a *fuse.Attr) bool {
	if !goodMode(a.Mode) || a.Size > math.MaxInt64 {
		return false
	}
	a.Atimensec = min(a.Atimensec, nanosPerSecond-1)
	a.Mtimensec = min(a.Mtimensec, nanosPerSecond-1)
	a.Ctimensec = min(a.Ctimensec, nanosPerSecond-1)
	return true
}

// maxValidSec is the longest validity, in seconds, that still fits in a time.Duration together with its nanoseconds.
const maxValidSec = math.MaxInt64/1_000_000_000 - 1

// fixValid clamps a validity time from a server, as fuse_time_to_jiffies does.
func fixValid(sec *uint64, nsec *uint32) {
	*sec = min(*sec, maxValidSec)
	*nsec = min(*nsec, nanosPerSecond-1)
}

// fixEntry judges an entry that names an existing node (not a negative one).
func fixEntry(e *fuse.EntryOut) bool {
	if e.NodeId == 0 || e.NodeId == fuse.FUSE_ROOT_ID || !fixAttr(&e.Attr) {
		return false
	}
	fixValid(&e.EntryValid, &e.EntryValidNsec)
	fixValid(&e.AttrValid, &e.AttrValidNsec)
	return true
}

// goodLink reports whether b may be the target of a symbolic link.
func goodLink(b []byte) bool {
	return len(b) <= symlinkMax && bytes.IndexByte(b, 0) < 0
}

// goodXAttrList reports whether b is a sequence of NUL-terminated names (fuse_verify_xattr_list in fs/fuse/xattr.c).
func goodXAttrList(b []byte) bool {
	for len(b) > 0 {
		n := bytes.IndexByte(b, 0)
		if n <= 0 {
			return false
		}
		b = b[n+1:]
	}
	return true
}
