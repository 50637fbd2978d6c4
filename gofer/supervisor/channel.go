// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package supervisor

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// channelBuffer is what a socket of the FUSE channel may hold: a request of the
// largest size and its neighbours.
const channelBuffer = 4 << 20

// newChannel returns both ends of a FUSE channel.
func newChannel() (gofer, server *os.File, err error) {
	p, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("create the FUSE channel: %w", err)
	}
	gofer, server = os.NewFile(uintptr(p[0]), "FUSE channel"), os.NewFile(uintptr(p[1]), "FUSE channel")
	for _, fd := range p {
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, channelBuffer); err != nil {
			gofer.Close()
			server.Close()
			return nil, nil, fmt.Errorf("size the FUSE channel: %w", err)
		}
	}
	return gofer, server, nil
}
