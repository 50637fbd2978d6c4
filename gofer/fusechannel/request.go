// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package fusechannel

import (
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

const enotconn = fuse.Status(unix.ENOTCONN)

// shape says what a successful reply has to look like: fixed bytes of a structure, then at most len(dst) bytes of data,
// which go to dst.
type shape struct {
	fixed int
	dst   []byte
}

// begin takes a call and starts its request. It waits while too many requests are in flight, at most until cancel
// fires (EINTR). On OK the caller appends the request's structure and names and passes the call to finish or
// unattended, in any case.
func (c *Channel) begin(cancel <-chan struct{}, opcode uint32, h *fuse.InHeader, s shape) (*call, fuse.Status) {
	select {
	case c.slots <- struct{}{}:
	default:
		select {
		case c.slots <- struct{}{}:
		case <-cancel:
			return nil, fuse.EINTR
		case <-c.dead:
			return nil, enotconn
		}
	}
	c.mu.Lock()
	if c.err != nil {
		c.mu.Unlock()
		<-c.slots
		return nil, enotconn
	}
	ca := c.takeLocked()
	ca.fixed, ca.dst = s.fixed, s.dst
	ca.again = false
	ca.role = roleRunning
	ca.state = callInFlight
	c.flying++
	c.mu.Unlock()

	c.stats.begin(opcode, ca)
	ca.header(opcode, h)
	return ca, fuse.OK
}

// takeLocked returns a call of the table with a fresh unique id.
//
// The id holds the call's place in the table, so that no map is needed: a reply finds its call by index, and must then
// have the whole id. Ids are even (the odd ones are INTERRUPTs, as in Linux) and larger than INIT's.
//
// Precondition: the caller holds a token of c.slots.
func (c *Channel) takeLocked() *call {
	c.users++
	c.seq++
	var ca *call
	if n := len(c.free); n > 0 {
		ca, c.free = c.free[n-1], c.free[:n-1]
	} else {
		ca = newCall(len(c.calls))
		c.calls = append(c.calls, ca)
	}
	ca.unique = (c.seq*maxInFlight + uint64(ca.slot)) << 1
	return ca
}

// end gives a call back.
func (c *Channel) end(ca *call) {
	c.mu.Lock()
	c.endLocked(ca)
	c.mu.Unlock()
	<-c.slots
}

func (c *Channel) endLocked(ca *call) {
	ca.state = callFree
	ca.dst = nil
	clear(ca.iov)
	ca.iov = nil
	ca.in = nil
	if ca.releases != 0 {
		c.forgets.unhold(ca.releases)
		ca.releases = 0
	}
	select {
	case <-ca.ready: // a token nobody waited for
	default:
	}
	c.free = append(c.free, ca)
	c.unuseLocked()
}

// doneLocked makes a call's reply final and tells its owner.
func (c *Channel) doneLocked(ca *call) {
	ca.state = callDone
	c.flying--
	switch ca.role {
	case roleFollower:
		c.unfollowLocked(ca)
		ca.wake()
	case roleSelecting:
		c.selecting--
		ca.wake()
	}
}

// finish sends the request and waits for its reply. On return the reply is in the call, which the caller has to end
// after having read it.
//
// When cancel fires before the request is on the wire, the result is EINTR. After that the server is asked with
// INTERRUPT, and its reply is waited for: only the server knows what it has done (fs/fuse/dev.c, request_wait_answer).
// Most servers answer EINTR then.
func (c *Channel) finish(cancel <-chan struct{}, opcode uint32, ca *call) fuse.Status {
	ca.seal()
	if st := c.send(cancel, ca); st != fuse.OK {
		c.mu.Lock()
		if ca.state == callInFlight {
			ca.status = st
			c.doneLocked(ca)
			c.mu.Unlock()
		} else {
			// A server that guesses ids has answered already, or the channel has ended. Nothing was sent.
			c.mu.Unlock()
			c.await(ca)
			ca.status = st
		}
	} else if cancel == nil {
		c.await(ca)
	} else {
		c.awaitOrInterrupt(cancel, ca)
	}
	c.stats.finish(opcode, ca)
	return ca.status
}

// unattended sends the request and returns; the reply only frees the call.
func (c *Channel) unattended(ca *call) {
	ca.seal()
	st := c.send(nil, ca)
	c.mu.Lock()
	if ca.state == callInFlight && st == fuse.OK {
		ca.role = roleUnattended
		c.mu.Unlock()
		return
	}
	if ca.state == callInFlight {
		ca.status = st
		c.doneLocked(ca)
	}
	c.mu.Unlock()
	c.await(ca)
	c.end(ca)
}

// send puts a sealed request on the wire. Without a cancel channel it blocks in the kernel while the socket is full;
// with one it gives up with EINTR when that fires.
func (c *Channel) send(cancel <-chan struct{}, ca *call) fuse.Status {
	if cancel == nil {
		return sendStatus(sendmsg(c.fd, &ca.msg, ca.iov, 0))
	}
	for {
		select {
		case <-cancel:
			return fuse.EINTR
		default:
		}
		e := sendmsg(c.fd, &ca.msg, ca.iov, unix.MSG_DONTWAIT)
		if e != unix.EAGAIN {
			return sendStatus(e)
		}
		// cancel cannot wake poll, so it is looked at now and then. This is the case of a server that does not read.
		fds := []unix.PollFd{{Fd: int32(c.fd), Events: unix.POLLOUT}}
		if _, err := unix.Poll(fds, int(sendPollPeriod/time.Millisecond)); err != nil && err != unix.EINTR {
			return fuse.EIO
		}
	}
}

const sendPollPeriod = 20 * time.Millisecond

// sendStatus converts the result of sendmsg.
func sendStatus(e unix.Errno) fuse.Status {
	switch e {
	case 0:
		return fuse.OK
	case unix.EPIPE, unix.ECONNRESET, unix.ENOTCONN:
		return enotconn
	case unix.ENOBUFS, unix.ENOMEM:
		return fuse.Status(unix.ENOMEM)
	}
	return fuse.EIO
}

// simple performs an operation that has only a header and a name (unless empty), and no data in its reply.
func (c *Channel) simple(cancel <-chan struct{}, opcode uint32, h *fuse.InHeader, name string) fuse.Status {
	ca, st := c.begin(cancel, opcode, h, shape{})
	if st != fuse.OK {
		return st
	}
	if name != "" {
		ca.str(name)
	}
	st = c.finish(cancel, opcode, ca)
	c.end(ca)
	return st
}

// plain performs an operation that has one structure and no data in its reply.
func (c *Channel) plain(cancel <-chan struct{}, opcode uint32, h *fuse.InHeader, in []byte, n int) fuse.Status {
	ca, st := c.begin(cancel, opcode, h, shape{})
	if st != fuse.OK {
		return st
	}
	ca.body(in, n)
	st = c.finish(cancel, opcode, ca)
	c.end(ca)
	return st
}
