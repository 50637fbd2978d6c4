// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package pressure

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"fsva/gofer/cgroup"
)

const (
	// triggerWindow is the kernel's period of observation. Only multiples of 2 s
	// are open to everybody (Documentation/accounting/psi.rst). An event comes
	// once in each window at most.
	triggerWindow = 2 * time.Second
	// triggerStall is how long, within a window, some task has to have waited for
	// memory.
	triggerStall = 150 * time.Millisecond
)

// Trigger tells when memory is short. It is the kernel's: pressure stall
// information, of this process's cgroup if it has its own, else of the machine. That
// counts tasks that wait for page cache which was dropped too early, such as by
// proactive reclaim, too: with a quarter of the machine's memory available, and no
// limit on the cgroup, it is no reason to give any up.
type Trigger struct {
	fd   int
	path string
	// plenty tells whether stalls that the kernel saw are no reason to give memory
	// up; nil: never.
	plenty func() bool
}

// NewTrigger arms one. The error says why it cannot be: an old kernel, one with
// psi=0, or no right to.
func NewTrigger() (*Trigger, error) { return machine("/").newTrigger() }

func (m machine) newTrigger() (*Trigger, error) {
	var paths []string
	var errs []error
	switch v2, _, err := cgroup.Find(string(m)); {
	case err != nil:
		errs = append(errs, err)
	case v2.Point != "":
		paths = append(paths, filepath.Join(v2.Own, "memory.pressure"))
	}
	for _, p := range append(paths, "/proc/pressure/memory") {
		fd, err := arm(m.path(p))
		if err == nil {
			return &Trigger{fd: fd, path: p, plenty: m.plenty}, nil
		}
		errs = append(errs, err)
	}
	// The last one is about the machine, which is what most people can change.
	return nil, errs[len(errs)-1]
}

func arm(path string) (int, error) {
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("open %s: %w", path, err)
	}
	text := fmt.Sprintf("some %d %d\x00", triggerStall.Microseconds(), triggerWindow.Microseconds())
	if _, err := unix.Write(fd, []byte(text)); err != nil {
		unix.Close(fd)
		return -1, fmt.Errorf("set a trigger in %s: %w", path, err)
	}
	return fd, nil
}

// Path is the file that is watched.
func (t *Trigger) Path() string { return t.path }

// Close ends the trigger.
//
// Preconditions: Watch is not running.
func (t *Trigger) Close() error { return unix.Close(t.fd) }

// errGone is Watch's error when there is nothing to watch any more.
var errGone = errors.New("the kernel ended the trigger, because its cgroup is gone")

// Watch calls event each time that memory is short. It returns nil once ctx ends.
// It takes a thread, because the Go runtime does not wait for POLLPRI.
func (t *Trigger) Watch(ctx context.Context, event func()) error {
	stop, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return fmt.Errorf("eventfd: %w", err)
	}
	stopped := make(chan struct{})
	cancel := context.AfterFunc(ctx, func() {
		defer close(stopped)
		// Cannot fail: the counter is 0.
		_, _ = unix.Write(stop, binary.NativeEndian.AppendUint64(nil, 1))
	})
	defer func() {
		if !cancel() {
			<-stopped // it does not use stop any more
		}
		unix.Close(stop)
	}()
	for {
		fds := []unix.PollFd{{Fd: int32(t.fd), Events: unix.POLLPRI}, {Fd: int32(stop), Events: unix.POLLIN}}
		if _, err := unix.Poll(fds, -1); err == unix.EINTR {
			continue
		} else if err != nil {
			return fmt.Errorf("poll %s: %w", t.path, err)
		}
		switch {
		case ctx.Err() != nil:
			return nil
		case fds[0].Revents&(unix.POLLERR|unix.POLLNVAL) != 0:
			return errGone
		case fds[0].Revents&unix.POLLPRI != 0:
			if t.plenty == nil || !t.plenty() {
				event()
			}
		}
	}
}
