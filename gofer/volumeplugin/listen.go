// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package volumeplugin

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"
)

// DefaultSocket is where docker looks for a plugin of the name fsva.
const DefaultSocket = "/run/docker/plugins/fsva.sock"

// firstFD is the first descriptor that a service manager passes (sd_listen_fds(3)).
const firstFD = 3

// Inherited returns the socket that the service manager passed, nil if it passed none,
// and keeps it from children.
func Inherited() (net.Listener, error) {
	pid, fds := os.Getenv("LISTEN_PID"), os.Getenv("LISTEN_FDS")
	for _, name := range []string{"LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"} {
		if err := os.Unsetenv(name); err != nil {
			return nil, err
		}
	}
	if fds == "" || pid != strconv.Itoa(os.Getpid()) {
		return nil, nil
	}
	n, err := strconv.Atoi(fds)
	switch {
	case err != nil || n < 0:
		return nil, fmt.Errorf("LISTEN_FDS %q is no number of sockets", fds)
	case n == 0:
		return nil, nil
	case n > 1:
		return nil, fmt.Errorf("the service manager passes %d sockets; the plugin has one", n)
	}
	unix.CloseOnExec(firstFD)
	f := os.NewFile(firstFD, "socket")
	defer f.Close()
	l, err := net.FileListener(f)
	if err != nil {
		return nil, fmt.Errorf("the socket from the service manager: %w", err)
	}
	if _, ok := l.(*net.UnixListener); !ok {
		l.Close()
		return nil, fmt.Errorf("the socket from the service manager is of %s, not of unix", l.Addr().Network())
	}
	return l, nil
}

// Listen makes the socket at path, for root only. One that nobody listens on is
// replaced. Closing the listener removes the socket.
func Listen(path string) (net.Listener, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, err
	}
	c, err := net.Dial("unix", path)
	switch {
	case err == nil:
		c.Close()
		return nil, fmt.Errorf("another program listens on %s", path)
	case errors.Is(err, unix.ECONNREFUSED):
		if err := os.Remove(path); err != nil {
			return nil, err
		}
	case !errors.Is(err, unix.ENOENT):
		return nil, err
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(path, 0o600); err != nil {
		l.Close()
		return nil, err
	}
	return l, nil
}
