// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package fusechannel

import (
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"fsva/gofer/fusewire"
)

// Pauses between INTERRUPTs for one request that the server answered with EAGAIN.
const (
	interruptPause    = time.Millisecond
	interruptPauseMax = 100 * time.Millisecond
)

// awaitOrInterrupt waits for the reply of a call; when cancel fires it sends INTERRUPT, repeats that as long as the
// server answers EAGAIN, and goes on waiting.
func (c *Channel) awaitOrInterrupt(cancel <-chan struct{}, ca *call) {
	c.mu.Lock()
	if ca.state != callDone {
		ca.role = roleSelecting
		c.selecting++
		if !c.reading {
			c.reading = true
			c.bg <- struct{}{} // cannot block: only the holder of the read role sends
		}
	}
	var timer *time.Timer
	var again <-chan time.Time
	pause := interruptPause
	for ca.state != callDone {
		if ca.again {
			ca.again = false
			if timer == nil {
				timer = time.NewTimer(pause)
			} else {
				timer.Reset(pause)
			}
			again = timer.C
			pause = min(2*pause, interruptPauseMax)
		}
		c.mu.Unlock()
		select {
		case <-ca.ready:
		case <-cancel:
			cancel = nil
			c.interrupt(ca.unique)
		case <-again:
			again = nil
			c.interrupt(ca.unique)
		}
		c.mu.Lock()
	}
	c.mu.Unlock()
	if timer != nil {
		timer.Stop()
	}
}

// interrupt sends INTERRUPT for the request with this id. When the socket is full it is left out: a server that does
// not read would not see it either.
func (c *Channel) interrupt(unique uint64) {
	if c.noInterrupt.Load() {
		return
	}
	ca := &call{unique: unique | interruptBit}
	ca.header(fusewire.OpInterrupt, &fuse.InHeader{})
	in := fuse.InterruptIn{Unique: unique}
	ca.body(bytesOf(&in), 8)
	ca.seal()
	c.stats.ops[fusewire.OpInterrupt].Add(1)
	if e := sendmsg(c.fd, &ca.msg, ca.iov, unix.MSG_DONTWAIT); e == unix.EAGAIN {
		c.mu.Lock()
		if t := c.lookupLocked(unique); t != nil {
			t.again = true // the caller tries again after a pause
		}
		c.mu.Unlock()
	}
}
