// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package lisaserver

import (
	"strings"

	"golang.org/x/sys/unix"
)

const (
	// maxName is the longest name, NAME_MAX. FUSE would carry 1024 bytes, but what servers answer to more than 255
	// differs, and no Linux file system has such names.
	maxName = 255
	// maxTarget is the longest symbolic link, PATH_MAX without its NUL.
	maxTarget = 4095
	// maxXattrName is XATTR_NAME_MAX.
	maxXattrName = 255
)

// checkName checks a name that the client sent, beyond lisafs, which refuses "",
// ".", ".." and slashes. FUSE ends names with a NUL, so one inside would turn the
// request into another one.
func checkName(name string) error {
	switch {
	case len(name) > maxName:
		return unix.ENAMETOOLONG
	case strings.IndexByte(name, 0) >= 0:
		return unix.EINVAL
	}
	return nil
}

// checkTarget checks what the client wants a symbolic link to hold.
func checkTarget(target string) error {
	switch {
	case target == "":
		return unix.ENOENT
	case len(target) > maxTarget:
		return unix.ENAMETOOLONG
	case strings.IndexByte(target, 0) >= 0:
		return unix.EINVAL
	}
	return nil
}

// checkXattrName checks an extended attribute's name, with getxattr(2)'s errnos.
func checkXattrName(name string) error {
	switch {
	case name == "" || len(name) > maxXattrName:
		return unix.ERANGE
	case strings.IndexByte(name, 0) >= 0:
		return unix.EINVAL
	}
	return nil
}

// okDirentName reports whether a name that the file system listed can be one.
func okDirentName(name string) bool {
	return name != "" && len(name) <= maxName && !strings.ContainsAny(name, "/\x00")
}
