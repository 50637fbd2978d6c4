// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package fusechannel

import (
	"math"
	"slices"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"fsva/gofer/fusewire"
)

// Read implements fuse.RawFileSystem. It reads into buf, at most input.Size bytes, with as many requests as needed; a
// short reply is the end of the file. What was read before an error is returned without it.
func (c *Channel) Read(cancel <-chan struct{}, input *fuse.ReadIn, buf []byte) (fuse.ReadResult, fuse.Status) {
	buf = buf[:min(len(buf), int(input.Size))]
	unlock, st := c.ioLocks.lock(cancel, input.NodeId)
	if st != fuse.OK {
		return nil, st
	}
	defer unlock()
	in := *input
	in.Padding = 0
	done := 0
	for {
		part := buf[done:min(len(buf), done+c.proto.maxRead)]
		in.Size = uint32(len(part))
		ca, st := c.begin(cancel, fusewire.OpRead, &in.InHeader, shape{dst: part})
		if st != fuse.OK {
			return readResult(buf[:done], st)
		}
		ca.body(bytesOf(&in), c.proto.rwIn())
		st = c.finish(cancel, fusewire.OpRead, ca)
		n := ca.n
		c.end(ca)
		if st != fuse.OK {
			return readResult(buf[:done], st)
		}
		done += n
		in.Offset += uint64(n)
		c.stats.bytesRead.Add(uint64(n))
		if n < len(part) || done == len(buf) {
			return readResult(buf[:done], fuse.OK)
		}
	}
}

func readResult(b []byte, st fuse.Status) (fuse.ReadResult, fuse.Status) {
	if st != fuse.OK && len(b) == 0 {
		return nil, st
	}
	return fuse.ReadResultData(b), fuse.OK
}

// Write implements fuse.RawFileSystem. It writes with as many requests as needed; a short reply ends it. What was
// written before an error is returned without it.
func (c *Channel) Write(cancel <-chan struct{}, input *fuse.WriteIn, data []byte) (uint32, fuse.Status) {
	return c.Writev(cancel, input, [][]byte{data})
}

// maxPieces is how many pieces of data are sent without a copy; sendmsg takes 1024 with the request.
const maxPieces = 512

// Writev implements fuse.RawFileSystem: Write with data in several pieces, which are not copied.
func (c *Channel) Writev(cancel <-chan struct{}, input *fuse.WriteIn, data [][]byte) (uint32, fuse.Status) {
	if c.opts.ReadOnly {
		return 0, fuse.EROFS
	}
	left := 0
	for _, d := range data {
		left += len(d)
	}
	if len(data) > maxPieces {
		data = [][]byte{slices.Concat(data...)}
	}
	in := *input
	in.WriteFlags &^= fuse.WRITE_KILL_SUIDGID
	in.Padding = 0
	src := pieces{data: data}
	chunk := c.proto.maxWrite
	var done uint32
	for {
		ca, st := c.begin(cancel, fusewire.OpWrite, &in.InHeader, shape{fixed: writeOutSize})
		if st != fuse.OK {
			return partial(done, st)
		}
		part := min(left, chunk)
		in.Size = uint32(part)
		ca.body(bytesOf(&in), c.proto.rwIn())
		mark := src
		src.take(part, ca.data)
		st = c.finish(cancel, fusewire.OpWrite, ca)
		var out fuse.WriteOut
		copy(bytesOf(&out), ca.outBytes())
		c.end(ca)
		if st == fuse.Status(unix.ENOMEM) && part > pageSize {
			// The kernel found no memory for so large a message. (A server that means it gets asked again.)
			src, chunk = mark, max(part/2/pageSize*pageSize, pageSize)
			continue
		}
		switch {
		case st != fuse.OK:
			return partial(done, st)
		case out.Size > uint32(part):
			return partial(done, c.badReply(fusewire.OpWrite))
		}
		done += out.Size
		left -= part
		in.Offset += uint64(out.Size)
		c.stats.bytesWritten.Add(uint64(out.Size))
		if out.Size < uint32(part) || left == 0 {
			return done, fuse.OK
		}
	}
}

func partial(done uint32, st fuse.Status) (uint32, fuse.Status) {
	if done > 0 {
		return done, fuse.OK
	}
	return 0, st
}

// pieces walks over data that is in several slices.
type pieces struct {
	data [][]byte
	off  int // in data[0]
}

// take passes the next n bytes to add, slice by slice.
func (p *pieces) take(n int, add func([]byte)) {
	for n > 0 && len(p.data) > 0 {
		d := p.data[0][p.off:]
		if len(d) > n {
			add(d[:n])
			p.off += n
			return
		}
		add(d)
		n -= len(d)
		p.data, p.off = p.data[1:], 0
	}
}

// Lseek implements fuse.RawFileSystem for SEEK_DATA and SEEK_HOLE; the others need no server. A server without LSEEK
// has files without holes (fuse_file_llseek in fs/fuse/file.c).
func (c *Channel) Lseek(cancel <-chan struct{}, in *fuse.LseekIn, out *fuse.LseekOut) fuse.Status {
	if !c.missing(fusewire.OpLseek) {
		ca, st := c.begin(cancel, fusewire.OpLseek, &in.InHeader, shape{fixed: lseekOutSize})
		if st != fuse.OK {
			return st
		}
		ca.body(bytesOf(in), 24)
		st = c.finish(cancel, fusewire.OpLseek, ca)
		if st == fuse.OK {
			copy(bytesOf(out), ca.outBytes())
		}
		c.end(ca)
		switch {
		case st == fuse.OK && out.Offset > math.MaxInt64:
			return c.badReply(fusewire.OpLseek)
		case st != fuse.ENOSYS:
			return st
		}
		c.remember(fusewire.OpLseek, st)
	}
	get := fuse.GetAttrIn{InHeader: in.InHeader, Flags_: fuse.FUSE_GETATTR_FH, Fh_: in.Fh}
	if c.missing(fusewire.OpOpen) {
		get.Flags_, get.Fh_ = 0, 0
	}
	var attr fuse.AttrOut
	if st := c.GetAttr(cancel, &get, &attr); st != fuse.OK {
		return st
	}
	switch {
	case in.Whence != unix.SEEK_DATA && in.Whence != unix.SEEK_HOLE:
		return fuse.EINVAL
	case in.Offset >= attr.Size:
		return fuse.Status(unix.ENXIO)
	case in.Whence == unix.SEEK_HOLE:
		out.Offset = attr.Size
	default:
		out.Offset = in.Offset
	}
	return fuse.OK
}

// CopyFileRange implements fuse.RawFileSystem.
func (c *Channel) CopyFileRange(cancel <-chan struct{}, input *fuse.CopyFileRangeIn) (uint32, fuse.Status) {
	if c.opts.ReadOnly {
		return 0, fuse.EROFS
	}
	if c.missing(fusewire.OpCopyFileRange) {
		return 0, enosysMeans[fusewire.OpCopyFileRange]
	}
	in := *input
	in.Len = min(in.Len, math.MaxUint32&^(pageSize-1)) // the reply's size has 32 bits
	ca, st := c.begin(cancel, fusewire.OpCopyFileRange, &in.InHeader, shape{fixed: writeOutSize})
	if st != fuse.OK {
		return 0, st
	}
	ca.body(bytesOf(&in), 56)
	st = c.finish(cancel, fusewire.OpCopyFileRange, ca)
	var out fuse.WriteOut
	copy(bytesOf(&out), ca.outBytes())
	c.end(ca)
	switch {
	case st != fuse.OK:
		return 0, c.remember(fusewire.OpCopyFileRange, st)
	case uint64(out.Size) > in.Len:
		return 0, c.badReply(fusewire.OpCopyFileRange)
	}
	return out.Size, fuse.OK
}

// Fallocate implements fuse.RawFileSystem.
func (c *Channel) Fallocate(cancel <-chan struct{}, input *fuse.FallocateIn) fuse.Status {
	if c.opts.ReadOnly {
		return fuse.EROFS
	}
	return c.plainOnce(cancel, fusewire.OpFallocate, &input.InHeader, bytesOf(input), 32)
}

// Flush implements fuse.RawFileSystem.
func (c *Channel) Flush(cancel <-chan struct{}, input *fuse.FlushIn) fuse.Status {
	return c.plainOnce(cancel, fusewire.OpFlush, &input.InHeader, bytesOf(input), 24)
}

// Fsync implements fuse.RawFileSystem.
func (c *Channel) Fsync(cancel <-chan struct{}, input *fuse.FsyncIn) fuse.Status {
	return c.plainOnce(cancel, fusewire.OpFsync, &input.InHeader, bytesOf(input), 16)
}

// Ioctl implements fuse.RawFileSystem, for restricted ioctls: at most len(outbuf) bytes come back. A server without
// IOCTL is ENOTTY.
func (c *Channel) Ioctl(cancel <-chan struct{}, input *fuse.IoctlIn, inbuf []byte, output *fuse.IoctlOut, outbuf []byte) fuse.Status {
	enotty := fuse.Status(unix.ENOTTY)
	if c.missing(fusewire.OpIoctl) || input.Flags&fuse.IOCTL_DIR != 0 && c.proto.minor < 18 {
		return enotty
	}
	if input.Flags&fuse.IOCTL_UNRESTRICTED != 0 || len(inbuf) > c.proto.maxWrite || len(outbuf) > c.proto.maxRead {
		return fuse.EINVAL
	}
	ca, st := c.begin(cancel, fusewire.OpIoctl, &input.InHeader, shape{fixed: ioctlOutSize, dst: outbuf})
	if st != fuse.OK {
		return st
	}
	in := *input
	in.InSize, in.OutSize = uint32(len(inbuf)), uint32(len(outbuf))
	ca.body(bytesOf(&in), 32)
	ca.data(inbuf)
	st = c.finish(cancel, fusewire.OpIoctl, ca)
	if st == fuse.OK {
		copy(bytesOf(output), ca.outBytes())
	}
	c.end(ca)
	if st == fuse.OK && output.Flags&fuse.IOCTL_RETRY != 0 {
		return c.badReply(fusewire.OpIoctl) // for unrestricted ioctls only
	}
	return c.remember(fusewire.OpIoctl, st)
}

// GetLk implements fuse.RawFileSystem. Without Options.Locks, or when the server did not take the offer, all lock
// operations are ENOSYS: locks are the client's own.
func (c *Channel) GetLk(cancel <-chan struct{}, input *fuse.LkIn, out *fuse.LkOut) fuse.Status {
	if !c.Has(fuse.CAP_POSIX_LOCKS) {
		return fuse.ENOSYS
	}
	ca, st := c.begin(cancel, fusewire.OpGetLk, &input.InHeader, shape{fixed: lkOutSize})
	if st != fuse.OK {
		return st
	}
	ca.body(bytesOf(input), c.proto.lkIn())
	st = c.finish(cancel, fusewire.OpGetLk, ca)
	if st == fuse.OK {
		copy(bytesOf(out), ca.outBytes())
	}
	c.end(ca)
	if st == fuse.OK && !goodLock(&out.Lk) {
		return c.badReply(fusewire.OpGetLk)
	}
	return st
}

// goodLock judges a lock as convert_fuse_file_lock of fs/fuse/file.c does.
func goodLock(l *fuse.FileLock) bool {
	switch l.Typ {
	case unix.F_UNLCK:
		return true
	case unix.F_RDLCK, unix.F_WRLCK:
		return l.Start <= math.MaxInt64 && l.End <= math.MaxInt64 && l.End >= l.Start
	}
	return false
}

// SetLk implements fuse.RawFileSystem; see GetLk.
func (c *Channel) SetLk(cancel <-chan struct{}, input *fuse.LkIn) fuse.Status {
	return c.setLk(cancel, fusewire.OpSetLk, input)
}

// SetLkw implements fuse.RawFileSystem; see GetLk.
func (c *Channel) SetLkw(cancel <-chan struct{}, input *fuse.LkIn) fuse.Status {
	return c.setLk(cancel, fusewire.OpSetLkw, input)
}

func (c *Channel) setLk(cancel <-chan struct{}, opcode uint32, input *fuse.LkIn) fuse.Status {
	need := uint64(fuse.CAP_POSIX_LOCKS)
	if input.LkFlags&fuse.LK_FLOCK != 0 {
		need = fuse.CAP_FLOCK_LOCKS
	}
	if !c.Has(need) {
		return fuse.ENOSYS
	}
	return c.plain(cancel, opcode, &input.InHeader, bytesOf(input), c.proto.lkIn())
}
