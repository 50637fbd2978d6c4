// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package fusestream

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// device is the kernel's side: the FUSE device and its clones. A reply goes to the
// one that its request was read from; the kernel keeps a list for each.
type device struct {
	fds []int
	// polls: the only descriptor does not block, and awaitRequest waits for it.
	polls bool
}

// fuseDevIocClone is FUSE_DEV_IOC_CLONE.
const fuseDevIocClone = 0x8004e500

// newDevice takes ownership of fd, a mounted FUSE device, and adds clones to it, as
// many as n says. Kernels that cannot clone have one reader.
func newDevice(fd, n int) *device {
	d := &device{fds: []int{fd}}
	for len(d.fds) < n {
		clone, err := unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC, 0)
		if err != nil {
			break
		}
		if err := unix.IoctlSetPointerInt(clone, fuseDevIocClone, fd); err != nil {
			unix.Close(clone)
			break
		}
		d.fds = append(d.fds, clone)
	}
	// With several readers all would be woken for each request.
	d.polls = len(d.fds) == 1 && unix.SetNonblock(fd, true) == nil
	return d
}

// awaitRequest waits until there may be a request.
//
// The next one comes soon, as a rule: when its process has seen our answer to the last.
// A goroutine that waits in a blocking call gives its place in the scheduler away after
// 20 µs, and takes it back later: on a machine with one processor that costs more
// switches between threads than the request itself. So for a short time it waits as if it
// was working.
func (d *device) awaitRequest() error {
	fds := []unix.PollFd{{Fd: int32(d.fds[0]), Events: unix.POLLIN}}
	if n, err := pollBriefly(fds); n > 0 || err == unix.EINTR {
		return nil
	}
	for {
		if _, err := unix.Poll(fds, -1); err != unix.EINTR {
			return os.NewSyscallError("poll", err)
		}
	}
}

// errUnmounted says that there is no mount any more.
var errUnmounted = errors.New("unmounted")

// read reads the next request to buf, from the i-th descriptor.
func (d *device) read(i int, buf []byte) (int, error) {
	for {
		if d.polls {
			if err := d.awaitRequest(); err != nil {
				return 0, fmt.Errorf("wait for the FUSE device: %w", err)
			}
		}
		n, err := unix.Read(d.fds[i], buf)
		switch err {
		case nil:
			if n == 0 {
				return 0, errUnmounted // a socket in the device's place was closed
			}
			return n, nil
		case unix.EINTR, unix.EAGAIN, unix.ENOENT: // ENOENT: it was aborted meanwhile
			continue
		case unix.ENODEV, unix.ECONNABORTED:
			return 0, errUnmounted
		}
		return 0, fmt.Errorf("read the FUSE device: %w", os.NewSyscallError("read", err))
	}
}

// write sends a reply, or a notification, in up to two pieces.
func (d *device) write(i int, msg, data []byte) error {
	for {
		var err error
		if len(data) == 0 {
			_, err = unix.Write(d.fds[i], msg)
		} else {
			_, err = unix.Writev(d.fds[i], [][]byte{msg, data})
		}
		if err != unix.EINTR && err != unix.EAGAIN {
			return err
		}
	}
}

// close closes the descriptors. Nobody uses them any more.
func (d *device) close() {
	for _, fd := range d.fds {
		unix.Close(fd)
	}
}
