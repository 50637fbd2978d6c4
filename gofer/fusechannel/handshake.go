// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package fusechannel

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"fsva/gofer/fusewire"
)

// initUnique is the unique id of INIT. No other request has it: see beginLocked.
const initUnique = 2

// handshake prepares the socket, sends INIT and judges the answer.
func (c *Channel) handshake(ctx context.Context) error {
	if typ, err := unix.GetsockoptInt(c.fd, unix.SOL_SOCKET, unix.SO_TYPE); err != nil {
		return fmt.Errorf("FUSE channel: %w", os.NewSyscallError("getsockopt", err))
	} else if typ != unix.SOCK_SEQPACKET {
		return fmt.Errorf("FUSE channel: socket type %d, want SOCK_SEQPACKET", typ)
	}
	if err := unix.SetNonblock(c.fd, false); err != nil {
		return fmt.Errorf("FUSE channel: %w", os.NewSyscallError("fcntl", err))
	}
	unix.CloseOnExec(c.fd)
	sndbuf, err := unix.GetsockoptInt(c.fd, unix.SOL_SOCKET, unix.SO_SNDBUF)
	if err != nil {
		return fmt.Errorf("FUSE channel: %w", os.NewSyscallError("getsockopt", err))
	}
	limit, err := messageLimit(sndbuf, max(c.opts.MaxWrite, pageSize))
	if err != nil {
		return fmt.Errorf("FUSE channel: %w", err)
	}
	// Room for the largest reply, and for a STORE notification of the same size.
	c.rbuf = make([]byte, fusewire.OutHeaderSize+max(limit, xattrValueMax)+pageSize)
	c.riov[0] = iovec(c.rbuf)

	offered := offeredCaps(c.opts)
	if err := c.sendInit(offered, limit); err != nil {
		return fmt.Errorf("FUSE channel: %w", err)
	}
	payload, err := c.awaitInit(ctx)
	if err != nil {
		return fmt.Errorf("FUSE channel: %w", err)
	}
	if c.proto, err = negotiate(payload, offered, limit); err != nil {
		return fmt.Errorf("FUSE channel: %w", err)
	}
	if c.opts.ParallelDirops {
		c.proto.caps |= fuse.CAP_PARALLEL_DIROPS
	}
	c.proto.maxRead = min(c.proto.maxRead, max(c.opts.MaxRead/pageSize*pageSize, pageSize))
	return nil
}

func (c *Channel) sendInit(offered uint64, limit int) error {
	ca := newCall(0)
	ca.unique = initUnique
	ca.header(fusewire.OpInit, &fuse.InHeader{})
	in := fuse.InitIn{
		Major:        protoMajor,
		Minor:        protoMinorMax,
		MaxReadAhead: uint32(offeredReadAhead(limit)),
		Flags:        uint32(offered),
		Flags2:       uint32(offered >> 32),
	}
	ca.body(bytesOf(&in), initInSize)
	ca.seal()
	if e := sendmsg(c.fd, &ca.msg, ca.iov, unix.MSG_DONTWAIT); e != 0 {
		if e == unix.EPIPE || e == unix.ECONNRESET {
			return errGone
		}
		return os.NewSyscallError("sendmsg", e)
	}
	c.stats.ops[fusewire.OpInit].Add(1)
	return nil
}

// awaitInit returns the payload of the answer to INIT, in c.rbuf. Notifications that come before it are dropped:
// nothing is cached yet.
func (c *Channel) awaitInit(ctx context.Context) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, c.opts.InitTimeout)
	defer cancel()
	// A shutdown of the reading side wakes recvmsg. It must not come later than this function: the caller may close the
	// descriptor, and its number may be another channel's then.
	shut := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		unix.Shutdown(c.fd, unix.SHUT_RD)
		close(shut)
	})
	stopped := func() bool {
		if stop() {
			close(shut)
			return true
		}
		<-shut
		return false
	}
	defer func() { stopped() }()
	start := time.Now()
	gaveUp := func(err error) error {
		if errors.Is(err, context.DeadlineExceeded) {
			return fmt.Errorf("the FS server did not answer INIT within %v", time.Since(start).Round(time.Millisecond))
		}
		return fmt.Errorf("waiting for the FS server's answer to INIT: %w", err)
	}
	for strangers := 0; ; strangers++ {
		n, truncated, e := recvmsg(c.fd, &c.rmsg, c.riov[:], 0)
		if err := ctx.Err(); err != nil && (n == 0 || e != 0) {
			return nil, gaveUp(err)
		}
		switch {
		case e == unix.ECONNRESET || e == 0 && n == 0:
			return nil, errors.New("the FS server closed the channel before it answered INIT")
		case e != 0:
			return nil, os.NewSyscallError("recvmsg", e)
		}
		h, payload, ok := parseReply(c.rbuf[:n], truncated)
		switch {
		case !ok || strangers > maxMalformed:
			return nil, errors.New("the FS server answered INIT with something that is not FUSE")
		case h.Unique == 0 && h.Status > 0:
			continue
		case h.Unique != initUnique:
			return nil, fmt.Errorf("the FS server answered request %d before INIT", h.Unique)
		case h.Status > 0 || h.Status < -maxErrno:
			return nil, fmt.Errorf("the FS server answered INIT with error number %d", h.Status)
		case h.Status != 0:
			return nil, fmt.Errorf("the FS server refused INIT: %w", unix.Errno(-h.Status))
		}
		if !stopped() {
			return nil, gaveUp(ctx.Err()) // the socket has been shut down
		}
		return payload, nil
	}
}

// parseReply splits a message from the server. ok is false when it cannot be a FUSE message; if it has a header, that
// is given nevertheless.
func parseReply(msg []byte, truncated bool) (h fuse.OutHeader, payload []byte, ok bool) {
	if len(msg) < fusewire.OutHeaderSize {
		return h, nil, false
	}
	h.Length = binary.NativeEndian.Uint32(msg)
	h.Status = int32(binary.NativeEndian.Uint32(msg[4:]))
	h.Unique = binary.NativeEndian.Uint64(msg[8:])
	return h, msg[fusewire.OutHeaderSize:], !truncated && uint64(h.Length) == uint64(len(msg))
}
