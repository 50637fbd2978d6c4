// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package fusesession

import (
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"fsva/gofer/fusewire"
)

// capsAlways are the INIT flags that every client is offered.
const capsAlways = fuse.CAP_ASYNC_READ | fuse.CAP_BIG_WRITES |
	fuse.CAP_ASYNC_DIO | fuse.CAP_PARALLEL_DIROPS | fuse.CAP_MAX_PAGES | fuse.CAP_INIT_EXT | fuse.CAP_HAS_EXPIRE_ONLY

// maxBackground bounds what the client's kernel has in flight of its own accord,
// for example read-ahead.
const maxBackground = 64

// offers returns the INIT flags for a client.
func (s *Session) offers() uint64 {
	caps := uint64(capsAlways)
	if s.canPlus {
		caps |= fuse.CAP_READDIRPLUS | fuse.CAP_READDIRPLUS_AUTO
	}
	if s.canTrunc {
		caps |= fuse.CAP_ATOMIC_O_TRUNC
	}
	if s.canPosix {
		caps |= fuse.CAP_POSIX_LOCKS
	}
	if s.canFlock {
		caps |= fuse.CAP_FLOCK_LOCKS
	}
	if s.opts.Exclusive {
		caps |= fuse.CAP_CACHE_SYMLINKS
	} else {
		caps |= fuse.CAP_AUTO_INVAL_DATA
	}
	if s.opts.WriteBack {
		caps |= fuse.CAP_WRITEBACK_CACHE
	}
	return caps
}

// initialize answers INIT.
func (s *Session) initialize(r *request) fuse.Status {
	// Fields that an older client does not send are 0.
	var in fuse.InitIn
	if len(r.msg) < fusewire.InHeaderSize+initIn35Size {
		return s.bad()
	}
	copy(bytesOf(&in), r.msg)
	out := reply[fuse.InitOut](r)
	out.Major = protoMajor
	if in.Major > protoMajor {
		// The client sends another INIT with our major.
		return fuse.OK
	}
	if in.Major < protoMajor || in.Minor < protoMinorMin {
		return fuse.Status(unix.EPROTO)
	}
	if in.Flags&fuse.CAP_INIT_EXT == 0 {
		in.Flags2 = 0
	}
	caps := in.Flags64() & s.offers()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.state != stateNew {
		return s.bad()
	}
	s.state = stateReady
	s.flags, s.minor = caps, in.Minor
	out.Minor = min(in.Minor, protoMinorMax)
	out.MaxReadAhead = min(in.MaxReadAhead, uint32(s.opts.MaxIO))
	out.Flags, out.Flags2 = uint32(caps), uint32(caps>>32)
	out.MaxBackground, out.CongestionThreshold = maxBackground, maxBackground*3/4
	out.MaxWrite = uint32(s.opts.MaxIO)
	out.MaxPages = uint16(s.opts.MaxIO / pageSize)
	out.TimeGran = 1
	return fuse.OK
}

// keepTime is how long an exclusive client may keep what it was told.
const keepTime = uint64(24 * time.Hour / time.Second)

// fixValid sets how long the client may use what a reply says.
func (s *Session) fixValid(sec *uint64, nsec *uint32) {
	*sec, *nsec = 0, 0
	if s.opts.Exclusive {
		*sec = keepTime
	}
}

// openFlags returns the FOPEN_* flags for the client.
func (s *Session) openFlags(flags uint32, dir bool) uint32 {
	flags &= fuse.FOPEN_DIRECT_IO | fuse.FOPEN_KEEP_CACHE | fuse.FOPEN_NONSEEKABLE | fuse.FOPEN_CACHE_DIR |
		fuse.FOPEN_STREAM | fuse.FOPEN_NOFLUSH
	switch {
	case !s.opts.Exclusive:
		flags &^= fuse.FOPEN_KEEP_CACHE | fuse.FOPEN_CACHE_DIR
	case dir:
		flags |= fuse.FOPEN_KEEP_CACHE | fuse.FOPEN_CACHE_DIR
	case flags&fuse.FOPEN_DIRECT_IO == 0:
		flags |= fuse.FOPEN_KEEP_CACHE
	}
	return flags
}
