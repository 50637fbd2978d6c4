// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package lisaserver

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

const (
	// sockHeaderLen is the size of a message header on a lisafs socket: the
	// payload's length as uint32, the message id as uint16, and padding.
	sockHeaderLen = 8
	// maxDonated is the most descriptors passed with one response; lisafs' own
	// limit is 255 and its largest use is 2.
	maxDonated = 8
)

// guard stands between a client's socket and lisafs, because lisafs believes
// what a message header says: it would allocate up to 4 GiB for one, and index
// out of range for the largest lengths. The guard passes requests of bounded
// size only, without descriptors. It also makes the descriptor socket of each
// channel, which goes to the client in a response, one-way: lisafs leaks
// descriptors that a client sends there with a message it does not know.
//
// This costs a copy and a thread switch for requests on the socket. Clients use
// it for Mount and Channel, and when all their shared memory channels are busy.
type guard struct {
	peer  *os.File // the client's socket; owned
	inner *os.File // our end of the pair whose other end lisafs has; owned
	max   uint32
	log   *slog.Logger
	wg    sync.WaitGroup
}

// newGuard returns a guard for the client's socket fd, which it takes ownership
// of in every case, and the socket for lisafs, which the caller owns.
func newGuard(fd int, maxMessage uint32, log *slog.Logger) (*guard, int, error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		unix.Close(fd)
		return nil, -1, fmt.Errorf("lisafs guard: socketpair: %w", err)
	}
	for _, s := range []int{fd, pair[0]} {
		if err := unix.SetNonblock(s, true); err != nil {
			unix.Close(fd)
			unix.Close(pair[0])
			unix.Close(pair[1])
			return nil, -1, fmt.Errorf("lisafs guard: socket %d: %w", s, err)
		}
	}
	unix.CloseOnExec(fd)
	return &guard{
		peer:  os.NewFile(uintptr(fd), "lisafs client"),
		inner: os.NewFile(uintptr(pair[0]), "lisafs guard"),
		max:   maxMessage,
		log:   log,
	}, pair[1], nil
}

// start copies in both directions until either side ends.
func (g *guard) start() {
	copier := func(what string, copyAll func() error) {
		defer g.wg.Done()
		if err := copyAll(); err != nil {
			g.log.Warn("lisafs client cut off", "direction", what, "error", err)
		}
		g.hangUp()
	}
	g.wg.Add(2)
	go copier("requests", g.requests)
	go copier("responses", g.responses)
}

// hangUp ends both connections without closing a descriptor.
func (g *guard) hangUp() {
	shutdown(g.peer)
	shutdown(g.inner)
}

// close waits for the copiers and closes the sockets. hangUp must come first.
func (g *guard) close() {
	g.wg.Wait()
	g.peer.Close()
	g.inner.Close()
}

func shutdown(f *os.File) {
	if rc, err := f.SyscallConn(); err == nil {
		// ENOTCONN, the only error there can be, means that it is done.
		_ = rc.Control(func(fd uintptr) { _ = unix.Shutdown(int(fd), unix.SHUT_RDWR) })
	}
}

// ended reports whether err is how a socket that was shut down ends.
func ended(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, unix.EPIPE) ||
		errors.Is(err, unix.ECONNRESET) || errors.Is(err, os.ErrClosed)
}

// requests copies whole messages from the client to lisafs. Descriptors that
// come with them are dropped by read(2).
func (g *guard) requests() error {
	buf := make([]byte, sockHeaderLen, 4096)
	for {
		buf = buf[:sockHeaderLen]
		if _, err := io.ReadFull(g.peer, buf); err != nil {
			if ended(err) {
				return nil
			}
			return err
		}
		// Host byte order, which is little-endian wherever gVisor runs.
		size := binary.LittleEndian.Uint32(buf)
		if size > g.max {
			return fmt.Errorf("message of %d bytes, at most %d allowed", size, g.max)
		}
		if need := sockHeaderLen + int(size); need > cap(buf) {
			buf = append(make([]byte, 0, need), buf...)
		}
		buf = buf[:sockHeaderLen+int(size)]
		if _, err := io.ReadFull(g.peer, buf[sockHeaderLen:]); err != nil {
			if ended(err) {
				return nil
			}
			return err
		}
		if _, err := g.inner.Write(buf); err != nil {
			if ended(err) {
				return nil
			}
			return err
		}
	}
}

// responses copies bytes and descriptors from lisafs to the client.
func (g *guard) responses() error {
	from, err := g.inner.SyscallConn()
	if err != nil {
		return err
	}
	to, err := g.peer.SyscallConn()
	if err != nil {
		return err
	}
	buf := make([]byte, 64<<10)
	oob := make([]byte, unix.CmsgSpace(maxDonated*4))
	for {
		n, fds, err := receive(from, buf, oob)
		if err == nil && n > 0 {
			for _, fd := range fds {
				// Fails on anything but a socket, as it should.
				_ = unix.Shutdown(fd, unix.SHUT_WR)
			}
			err = send(to, buf[:n], fds)
		}
		for _, fd := range fds {
			unix.Close(fd)
		}
		if err != nil {
			if ended(err) {
				return nil
			}
			return err
		}
		if n == 0 {
			return nil
		}
	}
}

// receive waits for data and returns its length with the descriptors that came
// along, which the caller owns.
func receive(from syscall.RawConn, buf, oob []byte) (n int, fds []int, err error) {
	var oobn int
	if e := from.Read(func(fd uintptr) bool {
		n, oobn, _, _, err = unix.Recvmsg(int(fd), buf, oob, unix.MSG_CMSG_CLOEXEC|unix.MSG_DONTWAIT)
		return err != unix.EAGAIN && err != unix.EINTR
	}); e != nil {
		return 0, nil, e
	}
	if err != nil {
		return 0, nil, err
	}
	if oobn == 0 {
		return n, nil, nil
	}
	msgs, err := unix.ParseSocketControlMessage(oob[:oobn])
	if err != nil {
		return 0, nil, err
	}
	for i := range msgs {
		got, err := unix.ParseUnixRights(&msgs[i])
		if err != nil {
			continue // Not descriptors.
		}
		fds = append(fds, got...)
	}
	return n, fds, nil
}

// send sends all of data, with the descriptors attached to its first part.
func send(to syscall.RawConn, data []byte, fds []int) error {
	var oob []byte
	if len(fds) > 0 {
		oob = unix.UnixRights(fds...)
	}
	var err error
	for len(data) > 0 {
		var n int
		if e := to.Write(func(fd uintptr) bool {
			n, err = unix.SendmsgN(int(fd), data, oob, nil, unix.MSG_NOSIGNAL|unix.MSG_DONTWAIT)
			return err != unix.EAGAIN && err != unix.EINTR
		}); e != nil {
			return e
		}
		if err != nil {
			return err
		}
		data, oob = data[n:], nil
	}
	return nil
}
