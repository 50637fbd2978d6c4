// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package fusechannel

import (
	"fmt"

	"github.com/hanwen/go-fuse/v2/fuse"

	"fsva/gofer/fusewire"
)

// baseCaps are the INIT flags that are always offered. Each is honoured here or by whoever sits above the channel, or
// asks nothing of us; servers exist that stop when a flag of a modern kernel is missing, so harmless ones are in.
//
// Left out on purpose: SPLICE_* (the channel is a socket, one message per reply), WRITEBACK_CACHE (the server would
// leave mtime and size to us), POSIX_ACL (checks and inheritance would be ours), HANDLE_KILLPRIV_V2 (the KILL_SUIDGID
// flags need the credentials of the writer, which requests here do not carry), SECURITY_CTX, CREATE_SUPP_GROUP,
// MAP_ALIGNMENT, SUBMOUNTS, HAS_INODE_DAX, PASSTHROUGH, ALLOW_IDMAP, OVER_IO_URING, REQUEST_TIMEOUT, HAS_RESEND.
const baseCaps = uint64(0) |
	fuse.CAP_ASYNC_READ | // without it, reads of one node are sent one at a time
	fuse.CAP_ATOMIC_O_TRUNC | // without it, Open strips O_TRUNC and sends SETATTR
	fuse.CAP_EXPORT_SUPPORT | // permits LOOKUP of "." and ".."; nobody has to
	fuse.CAP_BIG_WRITES | // implied since Linux 4.20
	fuse.CAP_DONT_MASK | // without it, the umask is applied here
	fuse.CAP_IOCTL_DIR |
	fuse.CAP_AUTO_INVAL_DATA | // for the caches above: Has tells
	fuse.CAP_READDIRPLUS | // without it, ReadDirPlus is ENOSYS
	fuse.CAP_READDIRPLUS_AUTO | // for the caller: Has tells
	fuse.CAP_ASYNC_DIO | // direct reads and writes are always independent here
	fuse.CAP_NO_OPEN_SUPPORT | // ENOSYS to OPEN is remembered
	fuse.CAP_PARALLEL_DIROPS | // without it, LOOKUP and READDIR of one directory are sent one at a time
	fuse.CAP_HANDLE_KILLPRIV | // for the caller: Has tells
	fuse.CAP_ABORT_ERROR | // a statement about /dev/fuse reads after an abort; means nothing on a socket
	fuse.CAP_MAX_PAGES |
	fuse.CAP_CACHE_SYMLINKS | // for the caches above: Has tells
	fuse.CAP_NO_OPENDIR_SUPPORT | // ENOSYS to OPENDIR is remembered
	fuse.CAP_EXPLICIT_INVAL_DATA | // for the caches above: Has tells
	fuse.CAP_SETXATTR_EXT |
	fuse.CAP_INIT_EXT |
	fuse.CAP_HAS_EXPIRE_ONLY |
	fuse.CAP_DIRECT_IO_ALLOW_MMAP | // for the caller: Has tells
	fuse.CAP_NO_EXPORT_SUPPORT // for the caller: Has tells

const lockCaps = uint64(fuse.CAP_POSIX_LOCKS | fuse.CAP_FLOCK_LOCKS)

// offeredCaps returns the INIT flags for o.
func offeredCaps(o Options) uint64 {
	caps := baseCaps
	if o.Locks {
		caps |= lockCaps
	}
	return caps
}

// protocol is what both sides agreed on. It is immutable after negotiation.
type protocol struct {
	minor    uint32
	caps     uint64 // offered and accepted
	maxWrite int    // data in one WRITE
	maxRead  int    // data in one READ or dirent reply
	init     fuse.InitOut
}

// negotiate judges the server's answer to INIT: payload is what followed the reply's header, offered the flags that
// were sent, limit the most data that one message may carry (whole pages, at least one).
//
// It follows process_init_reply of fs/fuse/inode.c: a short answer is zero-filled, a larger minor version than ours is
// lowered, flags that were not offered are dropped.
func negotiate(payload []byte, offered uint64, limit int) (protocol, error) {
	if len(payload) < initOut5Size || len(payload) > initOutSize {
		return protocol{}, fmt.Errorf("INIT answer has %d bytes, want %d to %d", len(payload), initOut5Size, initOutSize)
	}
	var out fuse.InitOut
	copy(bytesOf(&out), payload)
	if out.Major != protoMajor {
		return protocol{}, fmt.Errorf("server speaks FUSE %d.%d, need %d.%d or later", out.Major, out.Minor, protoMajor, protoMinorMin)
	}
	if out.Minor < protoMinorMin {
		return protocol{}, fmt.Errorf("server speaks FUSE %d.%d, need %d.%d or later", out.Major, out.Minor, protoMajor, protoMinorMin)
	}
	p := protocol{minor: min(out.Minor, protoMinorMax)}

	flags := uint64(out.Flags)
	if flags&fuse.CAP_INIT_EXT != 0 && offered&fuse.CAP_INIT_EXT != 0 {
		flags |= uint64(out.Flags2) << 32
	}
	p.caps = flags & offered
	if p.minor < 21 {
		p.caps &^= fuse.CAP_READDIRPLUS | fuse.CAP_READDIRPLUS_AUTO
	}
	if p.caps&fuse.CAP_READDIRPLUS == 0 {
		p.caps &^= fuse.CAP_READDIRPLUS_AUTO
	}

	pages := defaultPages
	if p.caps&fuse.CAP_MAX_PAGES != 0 {
		pages = max(int(out.MaxPages), 1)
	}
	p.maxRead = min(pages*pageSize, limit)
	p.maxWrite = min(max(int(min(out.MaxWrite, maxMaxWrite)), minMaxWrite), p.maxRead)

	if out.TimeGran == 0 || out.TimeGran > nanosPerSecond {
		out.TimeGran = 1
	}
	p.init = fuse.InitOut{
		Major:               protoMajor,
		Minor:               p.minor,
		MaxReadAhead:        min(out.MaxReadAhead, uint32(offeredReadAhead(limit))),
		Flags:               uint32(p.caps),
		Flags2:              uint32(p.caps >> 32),
		MaxBackground:       out.MaxBackground,
		CongestionThreshold: out.CongestionThreshold,
		MaxWrite:            uint32(p.maxWrite),
		TimeGran:            out.TimeGran,
		MaxPages:            uint16(p.maxRead / pageSize),
	}
	return p, nil
}

func offeredReadAhead(limit int) int {
	return max(limit, defaultRahead)
}

// messageLimit returns the most data, in bytes and whole pages, that fits in one message of a socket with this send
// buffer next to a request's header and structure, and that is at most want.
//
// unix(7) refuses a message longer than the send buffer less 32 bytes with EMSGSIZE.
func messageLimit(sndbuf, want int) (int, error) {
	const overhead = 32 + fusewire.InHeaderSize + rwInSize
	n := min(sndbuf-overhead, want) / pageSize * pageSize
	if n < pageSize {
		return 0, fmt.Errorf("the socket's send buffer of %d bytes is too small for a FUSE request", sndbuf)
	}
	return n, nil
}

func (p *protocol) has(cap uint64) bool { return p.caps&cap == cap }

// The methods below give the sizes that depend on the minor version.

func (p *protocol) entryOut() int {
	if p.minor < 9 {
		return entryOut8Size
	}
	return fusewire.EntryOutSize
}

func (p *protocol) attrOut() int {
	if p.minor < 9 {
		return attrOut8Size
	}
	return attrOutSize
}

func (p *protocol) getAttrIn() int {
	if p.minor < 9 {
		return 0
	}
	return 16
}

func (p *protocol) rwIn() int {
	if p.minor < 9 {
		return rwIn8Size
	}
	return rwInSize
}

func (p *protocol) lkIn() int {
	if p.minor < 9 {
		return lkIn8Size
	}
	return lkInSize
}

// mknodIn is the size of MKNOD's and of CREATE's structure.
func (p *protocol) mknodIn() int {
	if p.minor < 12 {
		return mknodIn11Size
	}
	return mknodInSize
}

func (p *protocol) setXAttrIn() int {
	if !p.has(fuse.CAP_SETXATTR_EXT) {
		return setXAttrInCompat
	}
	return setXAttrInSize
}
