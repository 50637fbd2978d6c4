// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package fusestream

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"

	"fsva/gofer/fusesession"
	"fsva/gofer/fusewire"
)

// serverConn is one client of a Server.
type serverConn struct {
	srv     *Server
	conn    net.Conn
	session *fusesession.Session
	budget  *budget

	window Window // nil: none
	writes extent // the client's part of it

	writeMu sync.Mutex // serialises frames

	notes noteQueue // that wait to be sent

	cutReason atomic.Pointer[error] // why we have cut the client off, outside of read

	done chan struct{} // closed when the connection has ended
	wg   sync.WaitGroup
}

// errGone says that the connection has ended; read finds out why.
var errGone = errors.New("the connection has ended")

var errLagging = errors.New("the client does not take its notifications")

// readBuffer is the buffer for small frames, in bytes.
const readBuffer = 64 << 10

// maxRequests is how many requests of one client are read ahead: as many as may be in
// the file system, and as many that wait for a lock.
func maxRequests(o fusesession.Options) int {
	if o.MaxInFlight > 0 {
		return 2*o.MaxInFlight + 1
	}
	return 1025
}

// serve reads requests until the connection ends, and returns why it did.
func (c *serverConn) serve() error {
	c.wg.Add(1)
	go c.sendNotes()
	err := c.read()
	c.conn.Close()
	c.budget.close()
	close(c.done)
	c.session.Close() // also interrupts what is at work
	c.wg.Wait()
	c.closeWindow()
	if reason := c.cutReason.Load(); reason != nil {
		return *reason
	}
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

// cutOff ends the connection.
func (c *serverConn) cutOff(reason error) {
	c.cutReason.CompareAndSwap(nil, &reason)
	c.conn.Close()
}

func (c *serverConn) closeWindow() {
	if c.window == nil {
		return
	}
	if err := c.window.Close(); err != nil {
		c.srv.opts.Log.Warn("give a window back", "err", err)
	}
}

// read handles frames until one is malformed or there are no more.
func (c *serverConn) read() error {
	r := bufio.NewReaderSize(c.conn, readBuffer)
	for {
		h, err := readHeader(r)
		if err != nil {
			return err
		}
		body := make([]byte, h.length)
		if _, err := io.ReadFull(r, body); err != nil {
			return fmt.Errorf("%w: cut off: %w", errFrame, err)
		}
		switch h.kind {
		case kindRequest:
			err = c.request(body, h.window)
		case kindRelease:
			err = c.released(body)
		case kindCompound:
			err = c.compound(body)
		default:
			err = fmt.Errorf("%w: kind %d from a client", errFrame, h.kind)
		}
		if err != nil {
			return err
		}
	}
}

// released ends leases of the window.
func (c *serverConn) released(offsets []byte) error {
	for ; len(offsets) > 0; offsets = offsets[8:] {
		off := int64(binary.LittleEndian.Uint64(offsets))
		if c.window == nil || c.ownsPart(off) || !c.window.Release(off) {
			return fmt.Errorf("%w: release of what was not lent", errFrame)
		}
	}
	return nil
}

// ownsPart reports whether off is in the client's part of the window.
func (c *serverConn) ownsPart(off int64) bool {
	return off >= c.writes.Off && off-c.writes.Off < c.writes.Length
}

// request begins a request. body is not used by others.
func (c *serverConn) request(body []byte, windowed bool) error {
	if windowed {
		ref, msg, err := takeReference(body)
		if err != nil {
			return err
		}
		if c.window == nil || !c.ownsPart(ref.off) || int64(ref.length) > c.writes.Length-(ref.off-c.writes.Off) || ref.length+len(msg) > maxMessage {
			return fmt.Errorf("%w: data outside of the client's window", errFrame)
		}
		data := c.window.Data(ref.off, ref.length)
		if data == nil {
			return fmt.Errorf("%w: data outside of the window", errFrame)
		}
		// The client can change the window at any time: from now on only the copy counts.
		body = append(append(make([]byte, 0, len(msg)+len(data)), msg...), data...)
	}
	if len(body) < fusewire.InHeaderSize {
		return fmt.Errorf("%w: request of %d bytes", errFrame, len(body))
	}
	room := replyRoom(body)
	if prompt(opcodeOf(body)) {
		// In order, and without a wait.
		return c.handle(body, room)
	}
	// What a request that waits for a lock takes must not keep the one that unlocks out.
	cost := len(body) + room
	if !c.budget.take(cost) {
		return net.ErrClosed
	}
	c.wg.Add(1)
	go func() {
		defer c.wg.Done()
		defer c.budget.giveBack(cost)
		if err := c.handle(body, room); err != nil && err != errGone {
			c.cutOff(err)
		}
	}()
	return nil
}

// handle carries a request out and sends the reply.
func (c *serverConn) handle(body []byte, room int) error {
	var lease int64
	var data []byte
	leased := false
	if c.window != nil && opcodeOf(body) == fusewire.OpRead && room-fusewire.OutHeaderSize >= windowMin {
		lease, data, leased = c.window.Lease(room - fusewire.OutHeaderSize)
	}
	size := room
	if leased {
		size = fusewire.OutHeaderSize
	}
	buf := make([]byte, overhead+size)
	out := [][]byte{buf[overhead:]}
	if leased {
		out = append(out, data)
	}
	n, err := c.session.Handle([][]byte{body}, out)
	frame := header{length: n, kind: kindReply}
	begin := referenceSize // of the frame, in buf
	switch {
	case err != nil || n == 0:
		if leased {
			c.window.Release(lease)
		}
		return err
	case leased && n-fusewire.OutHeaderSize >= windowMin:
		frame.window, frame.length = true, referenceSize+fusewire.OutHeaderSize
		begin = 0
		reference{lease, n - fusewire.OutHeaderSize}.put(buf[headerSize:])
		n = fusewire.OutHeaderSize
	case leased:
		// Little was read: it goes in the frame, and nothing has to be released.
		buf = append(buf[:overhead+fusewire.OutHeaderSize], data[:n-fusewire.OutHeaderSize]...)
		c.window.Release(lease)
	}
	frame.put(buf[begin:])
	return c.write(buf[begin : overhead+n])
}

// write sends a frame.
func (c *serverConn) write(b []byte) error {
	c.writeMu.Lock()
	defer c.writeMu.Unlock()
	if _, err := c.conn.Write(b); err != nil {
		c.conn.Close()
		return errGone
	}
	return nil
}

// notify queues a notification; see fusesession.Options.Notify.
func (c *serverConn) notify(msg []byte) {
	if !c.notes.put(msg) {
		c.cutOff(errLagging)
	}
}

// sendNotes is the goroutine that sends notifications.
func (c *serverConn) sendNotes() {
	defer c.wg.Done()
	for {
		select {
		case <-c.notes.ready:
		case <-c.done:
			return
		}
		for msg := c.notes.next(); msg != nil; msg = c.notes.next() {
			b := make([]byte, headerSize, headerSize+len(msg))
			header{length: len(msg), kind: kindNotification}.put(b)
			if c.write(append(b, msg...)) != nil {
				return // the reader sees the end of the connection, too
			}
		}
	}
}
