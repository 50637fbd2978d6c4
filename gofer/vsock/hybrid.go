// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package vsock

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// maxHybridReply bounds the line with which a VMM answers: "OK ", ten digits
// and the newline, with room to spare.
const maxHybridReply = 32

// hybridConnect asks the VMM at the other end of c for a connection to port in
// its guest. After it the bytes on c are the guest's.
func hybridConnect(ctx context.Context, c net.Conn, port uint32) error {
	// A read that blocks is ended by a deadline in the past.
	stop := context.AfterFunc(ctx, func() { c.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	line, err := func() (string, error) {
		if _, err := fmt.Fprintf(c, "CONNECT %d\n", port); err != nil {
			return "", err
		}
		return readLine(c)
	}()
	switch {
	case !stop():
		return context.Cause(ctx)
	case errors.Is(err, io.EOF) || errors.Is(err, unix.ECONNRESET) || errors.Is(err, unix.EPIPE):
		// The way in which VMMs refuse.
		return fmt.Errorf("port %d of the guest: %w", port, unix.ECONNREFUSED)
	case err != nil:
		return fmt.Errorf("port %d of the guest: %w", port, err)
	}
	number, ok := strings.CutPrefix(line, "OK ")
	if _, err := strconv.ParseUint(number, 10, 32); !ok || err != nil {
		return fmt.Errorf("port %d of the guest: the VMM answered %q", port, line)
	}
	return nil
}

// readLine reads up to a newline and not a byte more: what follows is the
// guest's.
func readLine(r io.Reader) (string, error) {
	line := make([]byte, 0, maxHybridReply)
	for len(line) < maxHybridReply {
		n, err := r.Read(line[len(line) : len(line)+1])
		if n == 0 && err != nil {
			return "", err
		}
		line = line[:len(line)+n]
		if n == 1 && line[len(line)-1] == '\n' {
			return string(line[:len(line)-1]), nil
		}
	}
	return "", fmt.Errorf("the VMM answered with more than a line: %q", line)
}
