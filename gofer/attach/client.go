// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package attach

import (
	"bytes"
	"errors"
	"fmt"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// clientTimeout bounds every step of a conversation on runsc's side. It is
// longer than serverTimeout, so that a gofer in trouble gets to say so.
const clientTimeout = 15 * time.Second

// Check asks the gofer of the volume in dir whether it would accept r as an
// attach. The error is a *RefusedError when it says no and ErrNotRunning when
// nobody answers. r.Version and r.Op are filled in.
func Check(dir string, r Request) error {
	r.Op = OpCheck
	conn, err := converse(dir, r, -1)
	if err != nil {
		return err
	}
	unix.Close(conn)
	return nil
}

// Attach hands lisafsFD (borrowed, the gofer gets a duplicate) to the gofer of
// the volume in dir and returns the connection, which reads end of file when
// the gofer stops serving; the caller owns it. Errors are as for Check.
//
// It uses plain system calls and paths relative to descriptors only: it runs
// in the mount namespace of runsc's gofer, which has /proc and little else,
// and dir may be longer than a socket address.
func Attach(dir string, r Request, lisafsFD int) (conn int, err error) {
	r.Op = OpAttach
	return converse(dir, r, lisafsFD)
}

// converse sends r, with fd unless it is negative, and returns the connection
// after an accepting reply.
func converse(dir string, r Request, fd int) (int, error) {
	r.Version = Version
	line, err := encodeLine(r)
	if err != nil {
		return -1, err
	}
	conn, err := dial(dir)
	if err != nil {
		return -1, err
	}
	if err := exchange(conn, line, fd); err != nil {
		unix.Close(conn)
		return -1, err
	}
	return conn, nil
}

// exchange sends line and reads the reply.
func exchange(conn int, line []byte, fd int) error {
	var oob []byte
	if fd >= 0 {
		oob = unix.UnixRights(fd)
	}
	for len(line) > 0 {
		var n int
		err := retryEINTR(func() (err error) {
			n, err = unix.SendmsgN(conn, line, oob, nil, unix.MSG_NOSIGNAL)
			return err
		})
		if err != nil {
			return conversationError("send to", err)
		}
		line, oob = line[n:], nil
	}
	var answer []byte
	buf := make([]byte, 4096)
	for !bytes.HasSuffix(answer, []byte("\n")) {
		var n int
		err := retryEINTR(func() (err error) {
			n, err = unix.Read(conn, buf)
			return err
		})
		if err != nil {
			return conversationError("receive from", err)
		}
		if n == 0 {
			return fmt.Errorf("%w: it closed the connection", ErrNotRunning)
		}
		if answer = append(answer, buf[:n]...); len(answer) > maxLine {
			return protocolErrorf("the gofer's reply is longer than %d bytes", maxLine)
		}
	}
	if err := decodeReply(answer); err != nil {
		return err
	}
	// The connection now waits for the end of the service.
	return setTimeouts(conn, 0)
}

// dial connects to the socket in dir: the very inode that was looked at and
// never a symbolic link's target.
func dial(dir string) (int, error) {
	path := filepath.Join(dir, SocketName)
	sock, err := unix.Open(path, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.ENOENT) {
		return -1, ErrNotRunning
	}
	if err != nil {
		return -1, fmt.Errorf("open %s: %w", path, err)
	}
	defer unix.Close(sock)
	var st unix.Stat_t
	if err := unix.Fstat(sock, &st); err != nil {
		return -1, fmt.Errorf("stat %s: %w", path, err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFSOCK {
		return -1, fmt.Errorf("%s is not a socket", path)
	}
	conn, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("socket: %w", err)
	}
	// The send timeout also bounds a connect to a full backlog.
	err = setTimeouts(conn, clientTimeout)
	if err == nil {
		err = retryEINTR(func() error {
			return unix.Connect(conn, &unix.SockaddrUnix{Name: "/proc/self/fd/" + strconv.Itoa(sock)})
		})
		if errors.Is(err, unix.ECONNREFUSED) || errors.Is(err, unix.ENOENT) {
			err = ErrNotRunning
		} else if err != nil {
			err = conversationError("connect to", err)
		}
	}
	if err != nil {
		unix.Close(conn)
		return -1, err
	}
	return conn, nil
}

func setTimeouts(conn int, d time.Duration) error {
	tv := unix.NsecToTimeval(d.Nanoseconds())
	for _, opt := range []int{unix.SO_RCVTIMEO, unix.SO_SNDTIMEO} {
		if err := unix.SetsockoptTimeval(conn, unix.SOL_SOCKET, opt, &tv); err != nil {
			return fmt.Errorf("set socket timeout: %w", err)
		}
	}
	return nil
}

// conversationError turns the errno of a step into what it means here.
func conversationError(step string, err error) error {
	switch {
	case errors.Is(err, unix.EAGAIN):
		return fmt.Errorf("the volume's gofer did not answer for %v", clientTimeout)
	case errors.Is(err, unix.EPIPE) || errors.Is(err, unix.ECONNRESET):
		return fmt.Errorf("%w: it closed the connection", ErrNotRunning)
	}
	return fmt.Errorf("%s the volume's gofer: %w", step, err)
}

func retryEINTR(f func() error) error {
	for {
		if err := f(); err != unix.EINTR {
			return err
		}
	}
}
