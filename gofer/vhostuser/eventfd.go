// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package vhostuser

import (
	"errors"
	"fmt"
	"io"

	"golang.org/x/sys/unix"
)

// eventfd is a kick, call or error descriptor that the VMM has sent, or one of our own. It doesn't use the runtime's
// poller: a goroutine that waits in a system call, on a thread of its own, takes fewer switches between threads for
// each kick. Methods are not safe for use at the same time as close.
type eventfd struct{ fd int }

// newEventfd takes ownership of fd, also if it fails.
func newEventfd(fd int) (*eventfd, error) {
	var st unix.Stat_t
	err := unix.Fstat(fd, &st)
	if err == nil {
		switch st.Mode & unix.S_IFMT {
		case 0, unix.S_IFIFO, unix.S_IFSOCK: // an eventfd is an anonymous inode, without a type
			err = unix.SetNonblock(fd, true)
		default:
			// It may block, however it is set, and then nobody could wake us.
			err = errors.New("not an eventfd")
		}
	}
	if err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("eventfd: %w", err)
	}
	return &eventfd{fd: fd}, nil
}

// makeEventfd makes one of our own.
func makeEventfd() (*eventfd, error) {
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("eventfd: %w", err)
	}
	return &eventfd{fd: fd}, nil
}

// signal does nothing on nil. EAGAIN means that the counter is full, so the peer has a reason to wake up already; any
// other error is the peer's own doing, and it waits in vain.
func (e *eventfd) signal() {
	if e != nil {
		for writeCount(e.fd) == unix.EINTR {
		}
	}
}

// close does nothing on nil.
func (e *eventfd) close() {
	if e != nil {
		// Closing an eventfd has no error that matters.
		unix.Close(e.fd)
	}
}

// wait returns true when e was signalled, and false when stop was. Only e is reset.
func (e *eventfd) wait(stop *eventfd) (bool, error) {
	fds := []unix.PollFd{{Fd: int32(e.fd), Events: unix.POLLIN}, {Fd: int32(stop.fd), Events: unix.POLLIN}}
	for {
		if _, err := unix.Poll(fds, -1); err == unix.EINTR {
			continue
		} else if err != nil {
			return false, fmt.Errorf("poll: %w", err)
		}
		if fds[1].Revents != 0 {
			return false, nil
		}
		switch n, err := readCount(e.fd); {
		case err == unix.EINTR || err == unix.EAGAIN && fds[0].Revents == unix.POLLIN:
			// Somebody else has read it.
		case err != 0:
			return false, fmt.Errorf("read: %w", err)
		case n == 0:
			return false, io.EOF
		default:
			return true, nil
		}
	}
}
