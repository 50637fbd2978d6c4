// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package vsock

import (
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"fsva/gofer/vsock/vsockproto"
)

// conn is a connection of a Device.
//
// Lock order: reading or writing, Device.mu.
type conn struct {
	d     *Device
	state *vsockproto.Conn // guarded by d.mu

	// reading and writing are held by a Read and a Write: others wait for them.
	reading, writing sync.Mutex
	// readable and writable get a token when something has changed.
	readable, writable chan struct{}

	// The rest is guarded by d.mu.

	closed                      bool
	readDeadline, writeDeadline deadline
}

func newConn(d *Device, state *vsockproto.Conn) *conn {
	c := &conn{d: d, state: state, readable: make(chan struct{}, 1), writable: make(chan struct{}, 1)}
	state.Owner = c
	return c
}

func (c *conn) PeerCID() uint32 { return c.d.cid }

func (c *conn) LocalAddr() net.Addr {
	return Addr{Kind: Kernel, CID: CIDHost, Port: c.state.LocalPort()}
}

func (c *conn) RemoteAddr() net.Addr {
	return Addr{Kind: Kernel, CID: c.d.cid, Port: c.state.PeerPort()}
}

// opError returns err as net's connections do.
func (c *conn) opError(op string, err error) error {
	if err == nil || err == io.EOF {
		return err
	}
	return &net.OpError{Op: op, Net: string(Kernel), Source: c.LocalAddr(), Addr: c.RemoteAddr(), Err: err}
}

// usable returns why nothing can be done with the connection before its
// deadline dl any more.
func (c *conn) usable(dl *deadline) error {
	switch {
	case c.closed:
		return net.ErrClosed
	case dl.passed:
		return os.ErrDeadlineExceeded
	}
	return nil
}

// broken returns the error of a connection that has ended, for a user who wants
// more of it than it had.
func (c *conn) broken() error {
	switch err := c.state.Err(); {
	case err == nil:
		return unix.EPIPE
	case errors.Is(err, vsockproto.ErrReset):
		return unix.ECONNRESET
	default:
		return err
	}
}

func (c *conn) Read(p []byte) (int, error) {
	c.reading.Lock()
	defer c.reading.Unlock()
	c.d.mu.Lock()
	defer c.d.mu.Unlock()
	for {
		if err := c.usable(&c.readDeadline); err != nil {
			return 0, c.opError("read", err)
		}
		if c.state.Buffered() > 0 || len(p) == 0 {
			n := c.state.Read(p)
			c.d.pump() // credit
			return n, nil
		}
		if c.state.EOF() {
			return 0, io.EOF
		}
		if !c.state.Open() {
			return 0, c.opError("read", c.broken())
		}
		c.d.mu.Unlock()
		<-c.readable
		c.d.mu.Lock()
	}
}

func (c *conn) Write(p []byte) (int, error) {
	c.writing.Lock()
	defer c.writing.Unlock()
	c.d.mu.Lock()
	defer c.d.mu.Unlock()
	if err := c.usable(&c.writeDeadline); err != nil {
		return 0, c.opError("write", err)
	}
	if !c.state.Writable() {
		return 0, c.opError("write", c.broken())
	}
	if len(p) == 0 {
		return 0, nil
	}
	// The bytes stay where they are until the guest has room: nothing is queued.
	c.state.Offer(p)
	c.d.pump()
	var err error
	for c.state.Offered() > 0 && err == nil {
		if !c.state.Writable() {
			err = c.broken()
			break
		}
		c.d.mu.Unlock()
		<-c.writable
		c.d.mu.Lock()
		err = c.usable(&c.writeDeadline)
	}
	left := c.state.Withdraw()
	if left == 0 {
		err = nil
	}
	return len(p) - left, c.opError("write", err)
}

// CloseWrite waits for a Write that is under way.
func (c *conn) CloseWrite() error {
	c.writing.Lock()
	defer c.writing.Unlock()
	c.d.mu.Lock()
	defer c.d.mu.Unlock()
	switch {
	case c.closed:
		return c.opError("close", net.ErrClosed)
	case !c.state.Open():
		return c.opError("close", unix.ENOTCONN)
	}
	c.state.CloseWrite()
	c.d.pump()
	return nil
}

// Close ends a Read and a Write that are under way. What Write has returned as
// written is on its way to the guest.
func (c *conn) Close() error {
	c.d.mu.Lock()
	defer c.d.mu.Unlock()
	if c.closed {
		return c.opError("close", net.ErrClosed)
	}
	c.closeLocked()
	return nil
}

func (c *conn) closeLocked() {
	c.closed = true
	c.readDeadline.stop()
	c.writeDeadline.stop()
	c.state.Close(time.Now())
	c.d.pump()
	c.d.arm()
	signal(c.readable)
	signal(c.writable)
}

func (c *conn) SetDeadline(t time.Time) error {
	return errors.Join(c.SetReadDeadline(t), c.SetWriteDeadline(t))
}

func (c *conn) SetReadDeadline(t time.Time) error {
	return c.setDeadline(&c.readDeadline, c.readable, t)
}

func (c *conn) SetWriteDeadline(t time.Time) error {
	return c.setDeadline(&c.writeDeadline, c.writable, t)
}

func (c *conn) setDeadline(dl *deadline, wake chan struct{}, t time.Time) error {
	c.d.mu.Lock()
	defer c.d.mu.Unlock()
	if c.closed {
		return c.opError("set", net.ErrClosed)
	}
	dl.set(&c.d.mu, wake, t)
	return nil
}

// deadline is a time after which nobody waits. Guarded by the mutex that set is
// given.
type deadline struct {
	passed bool
	timer  *time.Timer
}

// set changes the deadline to t, none if t is zero, and wakes whoever waits when
// it has passed.
func (dl *deadline) set(mu *sync.Mutex, wake chan struct{}, t time.Time) {
	dl.stop()
	dl.passed = false
	switch left := time.Until(t); {
	case t.IsZero():
	case left <= 0:
		dl.passed = true
		signal(wake)
	default:
		var timer *time.Timer
		timer = time.AfterFunc(left, func() {
			mu.Lock()
			defer mu.Unlock()
			if dl.timer == timer {
				dl.passed = true
				signal(wake)
			}
		})
		dl.timer = timer
	}
}

func (dl *deadline) stop() {
	if dl.timer != nil {
		dl.timer.Stop()
		dl.timer = nil
	}
}
