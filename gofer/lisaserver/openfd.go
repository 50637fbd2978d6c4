// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package lisaserver

import (
	"math"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/lisafs"

	"fsva/gofer/errno"
)

// openFD implements lisafs.OpenFDImpl: a client's open file or directory.
type openFD struct {
	lisafs.OpenFD

	// Immutable.
	c *conn
	n *node
	h *handle    // regular files; the FD holds the handle's first ref
	d *dirStream // directories
	// donated says that the client got a descriptor of the file's data and has it
	// until the FD is closed.
	donated bool
}

var _ lisafs.OpenFDImpl = (*openFD)(nil)

// Open implements lisafs.ControlFDImpl.Open. Special files cannot be opened: the
// sentry serves those it can by itself.
func (fd *controlFD) Open(flags uint32) (*lisafs.OpenFD, int, error) {
	switch fd.n.ftype {
	case unix.S_IFREG, unix.S_IFDIR:
	default:
		return nil, -1, unix.EPERM
	}
	if err := fd.c.reserve(1); err != nil {
		return nil, -1, err
	}
	h, err := fd.c.openNode(fd.n, flags)
	if err != nil {
		fd.c.unreserve(1)
		return nil, -1, err
	}
	o := fd.newOpenFD(h, flags)
	return &o.OpenFD, fd.donate(o, flags), nil
}

// donate returns a descriptor of the file's data for the client, or -1. Only
// plain reading gets one: a sentry that has one with a writable open would write
// to it instead of to the file system.
func (fd *controlFD) donate(o *openFD, flags uint32) int {
	s, c := fd.c.srv, fd.c
	if s.donor == nil || o.h == nil || flags != unix.O_RDONLY || o.h.fopen&fuse.FOPEN_DIRECT_IO != 0 {
		return -1
	}
	if c.donated.Add(1) > int64(c.opts.Descriptors) {
		c.donated.Add(-1)
		return -1
	}
	data, ok := s.donor.Donate(fd.n.id, o.h.fh)
	if !ok {
		c.donated.Add(-1)
		return -1
	}
	if c.opts.SharesHandles {
		fd.donated.Add(1)
	} else {
		o.donated = true
	}
	return data
}

// returned tells that the client does not use a descriptor of n's data any more.
func (c *conn) returned(n *node) {
	c.srv.donor.Return(n.id)
	c.donated.Add(-1)
}

// newOpenFD returns an open FD for h.
//
// Preconditions: the caller reserved it. The handle's first ref passes to the FD.
func (fd *controlFD) newOpenFD(h *handle, flags uint32) *openFD {
	o := &openFD{c: fd.c, n: h.n}
	if h.n.isDir() {
		o.d = newDirStream(h)
	} else {
		o.h = h
	}
	fd.c.srv.stats.openFDs.Add(1)
	o.OpenFD.Init(&fd.ControlFD, flags, o)
	return o
}

// FD implements lisafs.OpenFDImpl.FD.
func (fd *openFD) FD() *lisafs.OpenFD { return &fd.OpenFD }

// Close implements lisafs.OpenFDImpl.Close.
func (fd *openFD) Close() {
	if fd.donated {
		fd.c.returned(fd.n)
	}
	if fd.d != nil {
		fd.d.close()
	} else {
		fd.h.close()
	}
	fd.c.srv.stats.openFDs.Add(-1)
	fd.c.unreserve(1)
}

// Renamed implements lisafs.OpenFDImpl.Renamed.
func (fd *openFD) Renamed() {}

// Stat implements lisafs.OpenFDImpl.Stat.
func (fd *openFD) Stat() (lisafs.Statx, error) {
	// fd holds a ref on fd.h; lisafs holds one on fd, which keeps the node.
	return fd.c.srv.getattr(fd.n, fd.h)
}

// Sync implements lisafs.OpenFDImpl.Sync.
func (fd *openFD) Sync() error {
	if fd.d != nil {
		return fd.d.sync()
	}
	err := fd.h.sync()
	if err != nil && fd.c.opts.SharesHandles {
		fd.h.lostError.Store(int32(errno.Errno(err)))
	}
	return err
}

// Flush implements lisafs.OpenFDImpl.Flush.
func (fd *openFD) Flush() error {
	if fd.d != nil {
		return nil
	}
	if err := fd.h.flush(); err != nil {
		return err
	}
	return fd.h.takeLostError()
}

// Read implements lisafs.OpenFDImpl.Read. A reply shorter than asked for is the
// end of the file, as the kernel sees it.
func (fd *openFD) Read(buf []byte, off uint64) (uint64, error) {
	if fd.d != nil {
		return 0, unix.EISDIR
	}
	if !inFile(off, len(buf)) {
		return 0, unix.EINVAL
	}
	var done int
	for done < len(buf) {
		part := buf[done:]
		part = part[:min(len(part), fd.c.srv.maxRead)]
		n, err := fd.readOnce(part, off+uint64(done))
		if err != nil {
			if done > 0 {
				break // The next read meets the error again.
			}
			return 0, err
		}
		done += n
		if n < len(part) {
			break
		}
	}
	fd.c.srv.stats.bytesRead.Add(uint64(done))
	return uint64(done), nil
}

func (fd *openFD) readOnce(buf []byte, off uint64) (int, error) {
	in := fuse.ReadIn{
		InHeader: fd.n.header(),
		Fh:       fd.h.fh,
		Offset:   off,
		Size:     uint32(len(buf)),
		Flags:    fd.h.flags,
	}
	res, status := fd.c.srv.fs.Read(nil, &in, buf)
	if err := errno.FromStatus(status); err != nil {
		return 0, err
	}
	if res == nil {
		return 0, nil
	}
	defer res.Done()
	data, status := res.Bytes(buf)
	if err := errno.FromStatus(status); err != nil {
		return 0, err
	}
	if len(data) > len(buf) {
		return 0, unix.EIO
	}
	if len(data) > 0 && &data[0] != &buf[0] {
		copy(buf, data)
	}
	return len(data), nil
}

// Write implements lisafs.OpenFDImpl.Write. When something was written before an
// error, the count is returned and the error left for the next attempt.
func (fd *openFD) Write(buf []byte, off uint64) (uint64, error) {
	if fd.d != nil {
		return 0, unix.EISDIR
	}
	if !inFile(off, len(buf)) {
		return 0, unix.EFBIG
	}
	if err := fd.h.takeLostError(); err != nil {
		return 0, err
	}
	if len(buf) > 0 {
		fd.h.dirty.Store(true)
	}
	var done int
	for done < len(buf) {
		part := buf[done:]
		part = part[:min(len(part), fd.c.srv.maxWrite)]
		in := fuse.WriteIn{
			InHeader: fd.n.header(),
			Fh:       fd.h.fh,
			Offset:   off + uint64(done),
			Size:     uint32(len(part)),
			Flags:    fd.h.flags,
		}
		n, status := fd.c.srv.fs.Write(nil, &in, part)
		err := errno.FromStatus(status)
		if err == nil && (n == 0 || int(n) > len(part)) {
			err = unix.EIO
		}
		if err != nil {
			if done > 0 {
				break
			}
			return 0, err
		}
		done += int(n)
	}
	fd.c.srv.stats.bytesWritten.Add(uint64(done))
	return uint64(done), nil
}

// Allocate implements lisafs.OpenFDImpl.Allocate.
func (fd *openFD) Allocate(mode, off, length uint64) error {
	if fd.d != nil {
		return unix.EISDIR
	}
	if mode > math.MaxUint32 {
		return unix.EOPNOTSUPP
	}
	if length == 0 || off > math.MaxInt64 || length > math.MaxInt64 {
		return unix.EINVAL
	}
	if off+length > math.MaxInt64 {
		return unix.EFBIG
	}
	fd.h.dirty.Store(true)
	in := fuse.FallocateIn{
		InHeader: fd.n.header(),
		Fh:       fd.h.fh,
		Offset:   off,
		Length:   length,
		Mode:     uint32(mode),
	}
	return errno.FromStatus(notSupported(fd.c.srv.fs.Fallocate(nil, &in)))
}

// inFile reports whether n bytes at off are within what a file can hold.
func inFile(off uint64, n int) bool {
	return off <= math.MaxInt64 && uint64(n) <= math.MaxInt64-off
}
