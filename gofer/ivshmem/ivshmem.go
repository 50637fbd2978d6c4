// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

// Package ivshmem is the server of QEMU's inter-VM shared memory device
// (docs/specs/ivshmem-spec in QEMU): it gives a hypervisor the memory that its
// guest sees as BAR 2 of a PCI device.
//
//	qemu … -chardev socket,id=w,path=PATH -device ivshmem-doorbell,chardev=w
//
// The peer is a hypervisor. The protocol goes one way, so nothing that the peer
// says is looked at. Each peer gets memory of its own and learns of no other: no
// doorbell is ever rung. (QEMU insists on a vector, the default, but not on an
// eventfd for it.)
package ivshmem

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// protocolVersion is the first message.
	protocolVersion = 0
	// peerID is the second, the ID of the peer: all are alone, so all have this.
	peerID = 0
	// memoryFollows is the message that carries the memory.
	memoryFollows = -1
)

// greetTimeout bounds the time that a peer takes to accept 24 bytes.
const greetTimeout = 10 * time.Second

// Serve gives memory to the hypervisor at the other end of conn and returns when
// that is gone, which is nil, or when ctx ends. Both descriptors stay the caller's.
func Serve(ctx context.Context, conn *net.UnixConn, memory *os.File) error {
	stop := context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	if err := conn.SetWriteDeadline(time.Now().Add(greetTimeout)); err != nil {
		return err
	}
	if ctx.Err() != nil { // the end may have been before the deadline
		return ctx.Err()
	}
	for _, m := range []struct {
		value  int64
		rights []byte
	}{
		{protocolVersion, nil},
		{peerID, nil},
		{memoryFollows, unix.UnixRights(int(memory.Fd()))},
	} {
		b := binary.LittleEndian.AppendUint64(nil, uint64(m.value))
		if _, _, err := conn.WriteMsgUnix(b, m.rights, nil); ctx.Err() != nil {
			return ctx.Err()
		} else if err != nil {
			return fmt.Errorf("greet an ivshmem peer: %w", err)
		}
	}
	return waitGone(ctx, conn)
}

// waitGone returns when the peer has closed conn. A peer has nothing to say; one
// that does is cut off.
func waitGone(ctx context.Context, conn *net.UnixConn) error {
	n, err := conn.Read(make([]byte, 1))
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case n > 0:
		return errors.New("an ivshmem peer sends data")
	case err == io.EOF || errors.Is(err, unix.ECONNRESET):
		return nil
	}
	return err
}
