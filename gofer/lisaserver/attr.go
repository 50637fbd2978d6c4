// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package lisaserver

import (
	"math"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/lisafs"
)

// Where an identity's number comes from; the upper bits of its device major.
const (
	fromNode   = iota // a FUSE node id
	fromIno           // st_ino, which the appliance vouches for
	fromDirent        // d_ino of a name nobody looked up; never equal to the others
)

// identity is what the sentry takes for a file's identity.
type identity struct {
	ino          uint64
	major, minor uint32
}

// identityOf returns the identity of the node with this id whose attributes say
// ino. A node id of 0 means that there is none, as in a plain READDIR.
func (s *Server) identityOf(id, ino uint64, ftype uint32) identity {
	var from uint32
	num := id
	switch {
	case s.opts.StableIno && ino != 0 && ino != math.MaxUint64:
		from, num = fromIno, ino
	case id == 0:
		from, num = fromDirent, ino
	default:
		from = fromNode
	}
	return identity{ino: num, major: from<<4 | ftype>>12, minor: s.opts.DevMinor}
}

// checkAttr refuses attributes that no file has, with EIO as the kernel does.
func checkAttr(a *fuse.Attr) error {
	switch a.Mode & unix.S_IFMT {
	case unix.S_IFREG, unix.S_IFDIR, unix.S_IFLNK, unix.S_IFCHR, unix.S_IFBLK, unix.S_IFIFO, unix.S_IFSOCK:
	default:
		return unix.EIO
	}
	if a.Size > math.MaxInt64 {
		return unix.EIO
	}
	return nil
}

// statx returns what the sentry is told about the node with this id.
//
// Preconditions: checkAttr accepts a.
func (s *Server) statx(id uint64, a *fuse.Attr) lisafs.Statx {
	who := s.identityOf(id, a.Ino, a.Mode&unix.S_IFMT)
	blksize := a.Blksize
	if blksize == 0 {
		blksize = 4096
	}
	return lisafs.Statx{
		Mask:      unix.STATX_BASIC_STATS,
		Blksize:   blksize,
		Nlink:     a.Nlink,
		UID:       a.Uid,
		GID:       a.Gid,
		Mode:      uint16(a.Mode),
		Ino:       who.ino,
		Size:      a.Size,
		Blocks:    a.Blocks,
		Atime:     timestamp(a.Atime, a.Atimensec),
		Mtime:     timestamp(a.Mtime, a.Mtimensec),
		Ctime:     timestamp(a.Ctime, a.Ctimensec),
		RdevMajor: unix.Major(uint64(a.Rdev)),
		RdevMinor: unix.Minor(uint64(a.Rdev)),
		DevMajor:  who.major,
		DevMinor:  who.minor,
	}
}

func timestamp(sec uint64, nsec uint32) lisafs.StatxTimestamp {
	return lisafs.StatxTimestamp{Sec: int64(sec), Nsec: min(nsec, 999_999_999)}
}
