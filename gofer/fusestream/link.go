// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package fusestream

import (
	"bufio"
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"sync"
	"time"

	"fsva/gofer/fusewire"
)

// GuestWindow is a window as its guest sees it. Package window has one.
type GuestWindow interface {
	// Data returns the n bytes at off; nil if they are not all in the window.
	Data(off int64, n int) []byte
}

// link is one connection of a Relay to the gofer.
type link struct {
	conn   net.Conn
	r      *bufio.Reader
	epoch  uint64
	hello  serverHello
	window GuestWindow // nil: none
	// slots are the free places, of writeSlot bytes, in our part of the window.
	slots chan int64

	writeMu  sync.Mutex
	releases []byte // a frame of leases to give back, headroom included; guarded by writeMu
}

// writeSlot is room for the data of any WRITE.
const writeSlot = 1 << 20

// maxHeldReleases is how many leases wait for company before they are released.
const maxHeldReleases = 8

// dial makes a connection and greets the gofer.
func (r *Relay) dial(ctx context.Context) (*link, error) {
	ctx, cancel := context.WithTimeout(ctx, r.opts.DialTimeout)
	defer cancel()
	conn, err := r.opts.Dial(ctx)
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	l, err := r.greet(conn)
	if !stop() && err == nil {
		err = ctx.Err()
	}
	if err != nil {
		conn.Close()
		return nil, err
	}
	return l, nil
}

func (r *Relay) greet(conn net.Conn) (*link, error) {
	hello := clientHello{Version: Version, Volume: r.opts.Volume, Secret: r.opts.Secret, ReadOnly: r.opts.ReadOnly}
	for id := range r.opts.Windows {
		hello.Windows = append(hello.Windows, hex.EncodeToString(id[:]))
	}
	slices.Sort(hello.Windows)
	if err := writeHello(conn, hello); err != nil {
		return nil, fmt.Errorf("send the hello: %w", err)
	}
	l := &link{conn: conn, r: bufio.NewReaderSize(conn, readBuffer)}
	if err := readHello(l.r, &l.hello); err != nil {
		return nil, err
	}
	switch {
	case l.hello.Error != "" && l.hello.Final:
		return nil, fmt.Errorf("the volume %w this client: %s", ErrRefused, l.hello.Error)
	case l.hello.Error != "":
		return nil, fmt.Errorf("the volume does not take this client now: %s", l.hello.Error)
	case l.hello.Version != Version:
		return nil, fmt.Errorf("%w: version %d of the protocol", ErrRefused, l.hello.Version)
	}
	if l.hello.Window != "" {
		for id, w := range r.opts.Windows {
			if hex.EncodeToString(id[:]) == l.hello.Window {
				l.window = w
			}
		}
		if l.window == nil {
			return nil, errors.New("the gofer uses a window that this machine does not have")
		}
		n := int(min(max(l.hello.Writes.Length, 0), 1<<30) / writeSlot)
		l.slots = make(chan int64, n)
		for i := range n {
			off := l.hello.Writes.Off + int64(i)*writeSlot
			if l.window.Data(off, writeSlot) == nil {
				return nil, errors.New("the gofer's part of the window is outside of it")
			}
			l.slots <- off
		}
	}
	return l, nil
}

// send sends a request. buf is overhead bytes of room and the message, whose data, if
// it is a large WRITE, goes through the window if there is a slot. It returns the slot,
// which is to be freed with the reply; -1: none.
func (l *link) send(buf []byte) (slot int64, err error) {
	msg := buf[overhead:]
	begin := referenceSize
	h := header{length: len(msg), kind: kindRequest}
	slot = l.takeSlot(msg)
	if slot >= 0 {
		n := len(msg) - writeHead
		copy(l.window.Data(slot, n), msg[writeHead:])
		buf = buf[:overhead+writeHead]
		begin = 0
		h.window, h.length = true, referenceSize+writeHead
		reference{slot, n}.put(buf[headerSize:])
	}
	h.put(buf[begin:])
	l.writeMu.Lock()
	defer l.writeMu.Unlock()
	if len(l.releases) > 0 {
		if err := l.flushReleasesLocked(); err != nil {
			return slot, err
		}
	}
	_, err = l.conn.Write(buf[begin:])
	return slot, err
}

// sendFlight sends a compound.
func (l *link) sendFlight(f *flight) {
	header{length: len(f.frame) - headerSize, kind: kindCompound}.put(f.frame)
	l.writeMu.Lock()
	defer l.writeMu.Unlock()
	if _, err := l.conn.Write(f.frame); err != nil {
		l.conn.Close() // its reader takes care of it
	}
}

// takeSlot returns a place in the window for the data of a message; -1: none.
func (l *link) takeSlot(msg []byte) int64 {
	if l.window == nil || opcodeOf(msg) != fusewire.OpWrite || len(msg)-writeHead < windowMin || len(msg)-writeHead > writeSlot {
		return -1
	}
	select {
	case off := <-l.slots:
		return off
	default:
		return -1
	}
}

func (l *link) freeSlot(slot int64) {
	if slot >= 0 {
		l.slots <- slot
	}
}

// release gives a lease back, with the next request or when there are some. Without a
// release the gofer would run out of window and send data in frames.
func (l *link) release(off int64) error {
	l.writeMu.Lock()
	defer l.writeMu.Unlock()
	if len(l.releases) == 0 {
		l.releases = make([]byte, headerSize, headerSize+maxHeldReleases*8)
	}
	l.releases = binary.LittleEndian.AppendUint64(l.releases, uint64(off))
	if len(l.releases) < headerSize+maxHeldReleases*8 {
		return nil
	}
	return l.flushReleasesLocked()
}

func (l *link) flushReleasesLocked() error {
	header{length: len(l.releases) - headerSize, kind: kindRelease}.put(l.releases)
	_, err := l.conn.Write(l.releases)
	l.releases = l.releases[:0]
	return err
}

// message is a frame from the gofer.
type message struct {
	kind   kind
	fuse   []byte // valid until the next read; of a compound: all replies
	data   []byte // the rest of a reply, in the window; nil: none
	window int64  // where data is
}

// read reads the next frame to *buf, which grows as needed.
func (l *link) read(buf *[]byte) (m message, err error) {
	h, err := readHeader(l.r)
	if err != nil {
		return m, err
	}
	if h.kind != kindReply && h.kind != kindNotification && h.kind != kindCompound {
		return m, fmt.Errorf("%w: kind %d from a gofer", errFrame, h.kind)
	}
	if cap(*buf) < h.length {
		*buf = make([]byte, h.length)
	}
	b := (*buf)[:h.length]
	if _, err := io.ReadFull(l.r, b); err != nil {
		return m, fmt.Errorf("%w: cut off: %w", errFrame, err)
	}
	m.kind, m.fuse = h.kind, b
	if h.kind == kindCompound {
		return m, nil
	}
	if h.window {
		var ref reference
		if ref, m.fuse, err = takeReference(b); err != nil {
			return m, err
		}
		if l.window != nil {
			m.data, m.window = l.window.Data(ref.off, ref.length), ref.off
		}
		if m.data == nil {
			return m, fmt.Errorf("%w: data outside of the window", errFrame)
		}
	}
	if len(m.fuse) < fusewire.OutHeaderSize || int(u32(m.fuse, 0)) != len(m.fuse)+len(m.data) {
		return m, fmt.Errorf("%w: a message of %d bytes", errFrame, len(m.fuse))
	}
	return m, nil
}

// Times between attempts to connect.
const (
	minBackoff = 20 * time.Millisecond
	maxBackoff = time.Second
)
