// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package vhostuser

import (
	"fmt"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"fsva/gofer/vhostuser/internal/sharedmem"
)

// eventfd is a kick, call or error descriptor that the VMM has sent.
type eventfd struct {
	f  *os.File
	rc syscall.RawConn
	// write is what signal runs; kept so that signal doesn't allocate.
	write func(fd uintptr)
}

// newEventfd takes ownership of fd, also if it fails.
func newEventfd(fd int) (*eventfd, error) {
	if err := unix.SetNonblock(fd, true); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("eventfd: %w", err)
	}
	f := os.NewFile(uintptr(fd), "eventfd")
	// A file that can't be polled may block, however it is set, and then nobody could wake its reader.
	if err := f.SetReadDeadline(time.Time{}); err != nil {
		f.Close()
		return nil, fmt.Errorf("not an eventfd: %w", err)
	}
	rc, err := f.SyscallConn()
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("eventfd: %w", err)
	}
	e := &eventfd{f: f, rc: rc}
	one := make([]byte, 8)
	one[0] = 1
	if sharedmem.BigEndian {
		one[0], one[7] = 0, 1
	}
	e.write = func(fd uintptr) {
		// EAGAIN means that the counter is full, so the peer has a reason to wake up already. Any other error is the
		// peer's own doing, and it waits in vain.
		for {
			if _, err := unix.Write(int(fd), one); err != unix.EINTR {
				return
			}
		}
	}
	return e, nil
}

// signal does nothing on nil.
func (e *eventfd) signal() {
	if e != nil {
		// Fails only after close.
		_ = e.rc.Control(e.write)
	}
}

// close does nothing on nil.
func (e *eventfd) close() {
	if e != nil {
		// Closing an eventfd has no error that matters.
		_ = e.f.Close()
	}
}
