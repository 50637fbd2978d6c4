// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package fusechannel

import (
	"errors"
	"fmt"
	"math"
	"runtime"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"fsva/gofer/fusewire"
)

// tickPeriod is how soon the background reader notices that nobody reads.
const tickPeriod = 2 * time.Millisecond

// await waits for the reply of a call that cannot be cancelled: it reads the socket itself if nobody else does.
func (c *Channel) await(ca *call) {
	c.mu.Lock()
	for ca.state != callDone {
		if !c.reading {
			c.reading = true
			ca.role = roleLeader
		}
		if ca.role == roleLeader {
			c.mu.Unlock()
			c.lead(ca)
			return
		}
		c.followLocked(ca)
		c.mu.Unlock()
		<-ca.ready
		c.mu.Lock()
	}
	if ca.role == roleLeader {
		// Handed the role just before the reply was found to be there (the channel failed).
		c.handOverLocked()
	}
	c.mu.Unlock()
}

// lead reads and delivers messages until ca has its reply, and hands the read role on.
//
// Precondition: the caller has the read role.
func (c *Channel) lead(ca *call) {
	for {
		n, truncated, err := c.receive(0)
		if err != nil {
			c.fail(err)
			c.mu.Lock()
			break
		}
		c.handle(n, truncated)
		c.mu.Lock()
		if ca.state == callDone {
			break
		}
		c.mu.Unlock()
	}
	c.handOverLocked()
	c.mu.Unlock()
}

// handOverLocked passes the read role to somebody who needs it, or gives it up.
func (c *Channel) handOverLocked() {
	if w := c.waiters; w != nil {
		c.unfollowLocked(w)
		w.role = roleLeader
		w.wake()
		return
	}
	if c.selecting > 0 {
		c.bg <- struct{}{} // cannot block: only the holder of the read role sends
		return
	}
	// A caller that has sent its request but does not wait yet will find the role free.
	c.reading = false
}

// followLocked puts ca at the end of the waiters.
func (c *Channel) followLocked(ca *call) {
	ca.role = roleFollower
	if c.waiters == nil {
		ca.prev, ca.next = ca, ca
		c.waiters = ca
		return
	}
	first := c.waiters
	ca.prev, ca.next = first.prev, first
	first.prev.next = ca
	first.prev = ca
}

// unfollowLocked takes ca out of the waiters.
func (c *Channel) unfollowLocked(ca *call) {
	if ca.next == ca {
		c.waiters = nil
	} else {
		ca.prev.next, ca.next.prev = ca.next, ca.prev
		if c.waiters == ca {
			c.waiters = ca.next
		}
	}
	ca.prev, ca.next = nil, nil
	ca.role = roleRunning
}

// receive reads one message into c.rbuf. The error, if any, ends the channel.
//
// Precondition: the caller has the read role.
func (c *Channel) receive(flags int) (n int, truncated bool, err error) {
	n, truncated, e := recvmsg(c.fd, &c.rmsg, c.riov[:], flags)
	switch {
	case e == unix.EAGAIN && flags&unix.MSG_DONTWAIT != 0:
		return 0, false, errWouldBlock
	case e == unix.ECONNRESET || e == 0 && n == 0:
		// SEQPACKET reports the end of the stream like an empty message; a server that sends one asked for it.
		return 0, false, errGone
	case e != 0:
		return 0, false, fmt.Errorf("receive from the FS server: %w", e)
	}
	return n, truncated, nil
}

var errWouldBlock = errors.New("no message")

// handle judges one message and gives it to whom it is for. It reports whether that was somebody who could have read
// it himself.
//
// Precondition: the caller has the read role.
func (c *Channel) handle(n int, truncated bool) (forSync bool) {
	c.stats.bytesIn.Add(uint64(n))
	h, payload, ok := parseReply(c.rbuf[:n], truncated)
	switch {
	case !ok && !truncated && uint64(h.Length) > uint64(n) && c.outstanding(h.Unique):
		c.fail(errSplit)
	case !ok && c.outstanding(h.Unique):
		// Its request has no better answer to hope for. No reply has this status, so it is EIO.
		h.Status = math.MaxInt32
		return c.takeReply(h, nil)
	case !ok:
		c.malformed("message of %d bytes with length %d", n, h.Length)
	case h.Unique == 0:
		c.takeNotification(h.Status, payload)
	case h.Unique&interruptBit != 0:
		c.takeInterruptReply(h, payload)
	default:
		return c.takeReply(h, payload)
	}
	return false
}

// errSplit ends the channel at once: what comes next would be file data taken for messages, which an application could
// have written. splice(2) into a socket does this with replies of more than 15 pages.
var errSplit = errors.New("the FS server sends a reply in several messages; it must not splice, or needs a smaller max_read")

// outstanding reports whether a request with this id waits for its reply.
func (c *Channel) outstanding(unique uint64) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.lookupLocked(unique) != nil
}

// takeReply delivers the reply to a request.
func (c *Channel) takeReply(h fuse.OutHeader, payload []byte) (forSync bool) {
	c.mu.Lock()
	ca := c.lookupLocked(h.Unique)
	if ca == nil {
		c.mu.Unlock()
		if h.Status == -int32(unix.ENOSYS) && len(payload) == 0 && c.forgets.refused(h.Unique) {
			// FORGETs have no reply, but libfuse-lite has one for every operation that it does not know.
			c.enosys[fusewire.OpBatchForget].Store(true)
			return false
		}
		c.stats.unknown.Add(1)
		c.malformed("reply to request %d, which is not outstanding", h.Unique)
		return false
	}
	ca.state = callClaimed
	c.mu.Unlock()

	// The call is claimed: its owner waits, and nobody else writes to it.
	good := ca.deliver(h.Status, payload)

	c.mu.Lock()
	c.doneLocked(ca)
	unattended := ca.role == roleUnattended
	forSync = !unattended && ca.role != roleSelecting
	if unattended {
		c.endLocked(ca)
	}
	c.mu.Unlock()
	if unattended {
		<-c.slots
	}
	if !good {
		c.malformed("reply with error %d and %d bytes does not fit its request", h.Status, len(payload))
	}
	return forSync
}

// lookupLocked returns the call that waits for the reply with this id, nil if there is none.
func (c *Channel) lookupLocked(unique uint64) *call {
	slot := unique >> 1 % maxInFlight
	if slot >= uint64(len(c.calls)) {
		return nil
	}
	ca := c.calls[slot]
	if ca.unique != unique || ca.state != callInFlight {
		return nil
	}
	return ca
}

// takeInterruptReply handles the answer to an INTERRUPT: EAGAIN says that the server has not met the request yet,
// ENOSYS that it knows no INTERRUPT. The request may be over by now.
func (c *Channel) takeInterruptReply(h fuse.OutHeader, payload []byte) {
	switch {
	case len(payload) != 0:
		c.malformed("answer to INTERRUPT with %d bytes", len(payload))
	case h.Status == -int32(unix.ENOSYS):
		c.noInterrupt.Store(true)
	case h.Status == -int32(unix.EAGAIN):
		c.mu.Lock()
		if ca := c.lookupLocked(h.Unique &^ interruptBit); ca != nil && ca.role == roleSelecting {
			ca.again = true
			ca.wake()
		}
		c.mu.Unlock()
	}
}

// malformed counts something that a correct server does not send, and stops the channel when it was once too often.
func (c *Channel) malformed(format string, args ...any) {
	n := c.stats.malformed.Add(1)
	c.log.warn("malformed message from the FS server", func() string { return fmt.Sprintf(format, args...) })
	if n >= maxMalformed {
		c.fail(fmt.Errorf("the FS server sent %d malformed messages", n))
	}
}

// backgroundReader has the read role when it was asked to take it or when nobody else wanted it for a while.
func (c *Channel) backgroundReader() {
	defer c.wg.Done()
	tick := time.NewTicker(tickPeriod)
	defer tick.Stop()
	var seen uint64
	for {
		select {
		case <-c.bg:
		case <-tick.C:
			c.mu.Lock()
			take := !c.reading && c.seq == seen
			if take {
				c.reading = true
			}
			seen = c.seq
			c.mu.Unlock()
			if !take {
				continue
			}
		case <-c.dead:
			return
		}
		tick.Stop()
		if !c.readInBackground() {
			return
		}
		tick.Reset(tickPeriod)
	}
}

// readInBackground reads until a caller is better placed to do it. It returns false when the channel has ended.
//
// Precondition: the caller has the read role. Postcondition: it no longer has.
func (c *Channel) readInBackground() bool {
	flags := 0
	for {
		n, truncated, err := c.receive(flags)
		if err == errWouldBlock {
			flags = 0
			// The goroutines just woken run on this thread's processor before it blocks in the kernel; else they
			// would wait for another thread.
			runtime.Gosched()
			continue
		}
		if err != nil {
			c.fail(err)
			c.mu.Lock()
			c.handOverLocked()
			c.mu.Unlock()
			return false
		}
		if forSync := c.handle(n, truncated); forSync {
			c.mu.Lock()
			if c.flying == 0 {
				// Its owner's next request can be read by itself.
				c.reading = false
				c.mu.Unlock()
				return true
			}
			c.mu.Unlock()
		}
		flags = unix.MSG_DONTWAIT
	}
}
