// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package attach

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// serverTimeout bounds a conversation on the gofer's side.
const serverTimeout = 10 * time.Second

// maxConversations bounds the conversations at one time; more peers wait in
// the socket's backlog.
const maxConversations = 32

const backlog = 128

// Handler is the gofer's policy. Its methods are called from several
// goroutines, must return within 5 seconds or so, and say no with an error whose
// text, one line, is shown to the user.
type Handler interface {
	// Check reports whether an attach as r describes it would be accepted.
	Check(r Request) error
	// Attach starts to serve lisafsFD and returns. When it returns nil it has
	// taken ownership of lisafsFD and conn, and keeps conn open, without using
	// it, for exactly as long as it serves. When it returns an error it has
	// taken nothing.
	Attach(r Request, lisafsFD int, conn *os.File) error
}

// Listen makes the socket of the volume in dir, mode 0600, in place of one
// that a dead gofer has left. The caller owns the returned listener, which is
// non-blocking and close-on-exec, and keeps two gofers from sharing dir.
func Listen(dir string) (*os.File, error) {
	path := filepath.Join(dir, SocketName)
	dirFD, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", dir, err)
	}
	defer unix.Close(dirFD)
	if err := unix.Unlinkat(dirFD, SocketName, 0); err != nil && err != unix.ENOENT {
		return nil, fmt.Errorf("remove old %s: %w", path, err)
	}
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("socket: %w", err)
	}
	// A socket address holds 108 bytes, dir may be longer. Nobody can connect
	// before listen, hence chmod comes in time.
	err = unix.Bind(fd, &unix.SockaddrUnix{Name: "/proc/self/fd/" + strconv.Itoa(dirFD) + "/" + SocketName})
	if err == nil {
		err = unix.Fchmodat(dirFD, SocketName, 0o600, 0)
	}
	if err == nil {
		err = unix.Listen(fd, backlog)
	}
	if err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	return os.NewFile(uintptr(fd), path), nil
}

// Serve answers requests on listener, a listening unix stream socket that it
// takes ownership of, until ctx ends. It returns when its last conversation
// has ended: nil after the end of ctx, otherwise why accepting stopped.
//
// Serve needs the system calls accept4, recvmsg, write, getsockopt, fcntl,
// close and those of Go's poller; it can run under a filter.
func Serve(ctx context.Context, listener *os.File, h Handler, log *slog.Logger) error {
	// listener may have come through exec as a blocking descriptor; the poller
	// takes a file only if it is non-blocking when the os.File is made.
	lfd, err := unix.FcntlInt(listener.Fd(), unix.F_DUPFD_CLOEXEC, 3)
	name := listener.Name()
	listener.Close()
	if err != nil {
		return fmt.Errorf("duplicate listener: %w", err)
	}
	if err := unix.SetNonblock(lfd, true); err != nil {
		unix.Close(lfd)
		return fmt.Errorf("set listener non-blocking: %w", err)
	}
	l := os.NewFile(uintptr(lfd), name)
	defer l.Close()
	raw, err := l.SyscallConn()
	if err != nil {
		return fmt.Errorf("listener: %w", err)
	}

	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	stop := context.AfterFunc(ctx, func() { l.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	slots := make(chan struct{}, maxConversations)
	for {
		select {
		case slots <- struct{}{}:
		case <-ctx.Done():
			return nil
		}
		conn, err := accept(raw)
		if ctx.Err() != nil {
			if err == nil {
				unix.Close(conn)
			}
			return nil
		}
		if err == unix.ECONNABORTED {
			<-slots
			continue
		}
		if err != nil {
			return fmt.Errorf("accept on %s: %w", name, err)
		}
		wg.Go(func() {
			defer func() { <-slots }()
			serveConn(ctx, os.NewFile(uintptr(conn), "attach connection"), h, log)
		})
	}
}

type rawConn interface {
	Read(func(fd uintptr) (done bool)) error
	Write(func(fd uintptr) (done bool)) error
}

// accept waits for a connection; running out of descriptors is waited out,
// because the conversations that hold them end by themselves.
func accept(raw rawConn) (conn int, err error) {
	for {
		perr := raw.Read(func(fd uintptr) bool {
			err = retryEINTR(func() (err error) {
				conn, _, err = unix.Accept4(int(fd), unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK)
				return err
			})
			return err != unix.EAGAIN
		})
		if perr != nil {
			return -1, perr
		}
		if err != unix.EMFILE && err != unix.ENFILE && err != unix.ENOMEM {
			return conn, err
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// serveConn holds one conversation on conn, which it owns.
func serveConn(ctx context.Context, conn *os.File, h Handler, log *slog.Logger) {
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(serverTimeout)); err != nil {
		log.Warn("attach: no deadline on connection", "err", err)
		return
	}
	stop := context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()

	r, fd, err := readRequest(conn)
	defer func() {
		if fd >= 0 {
			unix.Close(fd)
		}
	}()
	if err == nil {
		switch {
		case r.Op == OpCheck && fd >= 0:
			err = protocolErrorf("a check came with a descriptor")
		case r.Op == OpCheck:
			err = h.Check(r)
		default:
			if err = checkLisafsFD(fd); err == nil {
				if err = handOver(h, r, fd, conn); err == nil {
					fd = -1
				}
			}
		}
	}
	var answer reply
	var bad *protocolError
	switch {
	case err == nil:
	case errors.Is(err, errNoRequest):
		return
	case errors.As(err, &bad):
		log.Warn("attach: bad request", "err", err)
		fallthrough
	default:
		answer.Error = cleanText(err.Error())
	}
	line, err := encodeLine(answer)
	if err == nil {
		_, err = conn.Write(line)
	}
	if err != nil {
		// An attached client that is gone ends its lisafs socket, too.
		log.Debug("attach: reply not delivered", "container", r.Container, "err", err)
	}
}

// handOver gives the handler a duplicate of conn: the reply is written to ours
// after the handler has accepted, and by then it may have closed its own.
func handOver(h Handler, r Request, fd int, conn *os.File) error {
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	dup := -1
	if cerr := raw.Control(func(c uintptr) {
		dup, err = unix.FcntlInt(c, unix.F_DUPFD_CLOEXEC, 3)
	}); cerr != nil {
		return cerr
	}
	if err != nil {
		return fmt.Errorf("duplicate connection: %w", err)
	}
	f := os.NewFile(uintptr(dup), "attach connection")
	if err := h.Attach(r, fd, f); err != nil {
		f.Close()
		return err
	}
	return nil
}

// checkLisafsFD refuses what cannot be a lisafs socket.
func checkLisafsFD(fd int) error {
	if fd < 0 {
		return protocolErrorf("an attach came without a descriptor")
	}
	if domain, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DOMAIN); err != nil || domain != unix.AF_UNIX {
		return protocolErrorf("an attach came with a descriptor that is no unix socket")
	}
	return nil
}

// errNoRequest: the peer has sent no whole request; there is nobody to answer.
var errNoRequest = errors.New("connection ended before a request")

// readRequest reads one line and at most one descriptor, which the caller owns
// whatever the error.
func readRequest(conn *os.File) (Request, int, error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return Request{}, -1, err
	}
	in := receiver{fd: -1}
	for {
		more, err := in.step(raw)
		if err != nil {
			return Request{}, in.fd, err
		}
		if more {
			continue
		}
		r, err := decodeRequest(in.line)
		return r, in.fd, err
	}
}

// receiver collects a request.
type receiver struct {
	line []byte
	fd   int // the descriptor received, or -1; owned
}

// step receives once and reports whether the line is still incomplete.
func (in *receiver) step(raw rawConn) (more bool, err error) {
	buf := make([]byte, 4096)
	// Room for one descriptor is room for two (alignment); the kernel drops
	// those beyond.
	oob := make([]byte, unix.CmsgSpace(4))
	var n, oobn, flags int
	perr := raw.Read(func(fd uintptr) bool {
		err = retryEINTR(func() (err error) {
			n, oobn, flags, _, err = unix.Recvmsg(int(fd), buf, oob, unix.MSG_CMSG_CLOEXEC)
			return err
		})
		return err != unix.EAGAIN
	})
	if perr != nil || err != nil {
		return false, errNoRequest
	}
	fds, err := parseRights(oob[:oobn])
	for _, fd := range fds {
		if in.fd < 0 {
			in.fd = fd
			continue
		}
		unix.Close(fd)
		err = protocolErrorf("more than one descriptor")
	}
	if flags&unix.MSG_CTRUNC != 0 {
		err = protocolErrorf("more than one descriptor")
	}
	if err != nil {
		return false, err
	}
	if n == 0 {
		return false, errNoRequest
	}
	in.line = append(in.line, buf[:n]...)
	if len(in.line) > maxLine {
		return false, protocolErrorf("request is longer than %d bytes", maxLine)
	}
	return bytes.IndexByte(in.line, '\n') < 0, nil
}

// parseRights returns every descriptor in oob, also beside an error.
func parseRights(oob []byte) ([]int, error) {
	if len(oob) == 0 {
		return nil, nil
	}
	msgs, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil, protocolErrorf("bad control message: %v", err)
	}
	var fds []int
	for i := range msgs {
		got, err := unix.ParseUnixRights(&msgs[i])
		if err != nil {
			return fds, protocolErrorf("unexpected control message: %v", err)
		}
		fds = append(fds, got...)
	}
	return fds, nil
}
