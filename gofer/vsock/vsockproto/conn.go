// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package vsockproto

import "time"

// state is where a connection is in its life.
type state uint8

const (
	stateRequested  state = iota // by the peer; ours to accept or to reset
	stateConnecting              // by us; the peer's to accept
	stateOpen
	stateClosing   // closed by us; waits for the peer's RST
	stateResetting // over; the peer has to get an RST yet
	stateClosed    // over, and not in the table any more
)

// owed is a set of packets that the peer has to get.
type owed uint8

const (
	oweRequest owed = 1 << iota
	oweResponse
	// oweCredit is an update that any other packet replaces, oweAnswer one that
	// the peer has asked for.
	oweCredit
	oweAnswer
)

// Conn is the state of a connection.
type Conn struct {
	// Owner is for whoever drives the machine.
	Owner any

	m     *Machine
	key   key
	state state
	err   error // why it ended, nil after a clean end
	owed  owed

	// deadline is that of stateClosing.
	deadline time.Time

	// What the peer sends. rxCnt bytes have arrived so far, fwdCnt have left the
	// buffer, and toldFwd is the last value of fwdCnt that the peer was told.
	buf                    buffer
	rxCnt, fwdCnt, toldFwd uint32
	peerShut               uint32 // Shutdown flags the peer has sent

	// What we send. txCnt bytes have been sent so far; of the peer's buffer of
	// peerBuf bytes, peerFwd bytes have left.
	out                     []byte
	txCnt, peerBuf, peerFwd uint32
	shut, shutSent          uint32 // Shutdown flags wanted, and sent
	// asked says that the peer was asked for credit since it last gave some.
	asked bool

	// Links of Machine.ready.
	before, after *Conn
	listed        bool
}

// LocalPort is our port.
func (c *Conn) LocalPort() uint32 { return c.key.local }

// PeerPort is the guest's port.
func (c *Conn) PeerPort() uint32 { return c.key.peer }

// Open reports whether the connection is established: not before the peer has
// accepted, not after a reset, a close, or the peer's SHUTDOWN of both
// directions.
func (c *Conn) Open() bool { return c.state == stateOpen }

// Err returns why the connection has ended: nil while it has not, and after a
// clean end.
func (c *Conn) Err() error { return c.err }

// Buffered returns how many bytes wait to be read.
func (c *Conn) Buffered() int { return c.buf.n }

// EOF reports that the peer has said, and not only by a reset, that no more data
// will arrive than what is buffered.
func (c *Conn) EOF() bool { return c.peerShut&ShutdownSend != 0 }

// Writable reports that what is offered may yet be sent.
func (c *Conn) Writable() bool {
	return c.state == stateOpen && c.peerShut&ShutdownReceive == 0 && c.shut&ShutdownSend == 0
}

// Accept answers an EventRequest.
func (c *Conn) Accept() {
	if c.state == stateRequested {
		c.state = stateOpen
		c.owe(oweResponse)
	}
}

// Read moves data that have arrived to p.
func (c *Conn) Read(p []byte) int {
	n := c.buf.read(p)
	c.fwdCnt += uint32(n)
	if c.state == stateOpen && c.peerShut&ShutdownSend == 0 && c.fwdCnt-c.toldFwd >= c.m.config.BufferSize/4 {
		c.owe(oweCredit)
	}
	return n
}

// Offer gives the machine bytes to send, as the peer gives credit and takes
// packets. They must not change until Withdraw, or until EventWrite says that
// all are sent. Nothing may be on offer already, and the connection must be
// Writable.
func (c *Conn) Offer(p []byte) {
	c.out = p
	c.wake()
}

// Offered returns how many bytes are on offer and not sent.
func (c *Conn) Offered() int { return len(c.out) }

// Withdraw takes back what was offered and has not been sent, and returns how
// many bytes that are.
func (c *Conn) Withdraw() int {
	n := len(c.out)
	c.out = nil
	return n
}

// CloseWrite tells the peer, after what is on offer, that no more data will come.
func (c *Conn) CloseWrite() {
	if c.state == stateOpen {
		c.shut |= ShutdownSend
		c.wake()
	}
}

// Close ends the connection: what is on offer is not sent any more, what has
// arrived is dropped, and the peer is told. Until it has answered, Expire has to
// be called.
func (c *Conn) Close(now time.Time) {
	c.buf = buffer{}
	switch c.state {
	case stateOpen:
		c.state = stateClosing
		c.deadline = now.Add(c.m.config.CloseTimeout)
		c.shut = ShutdownBoth
		c.wake()
	case stateRequested, stateConnecting:
		c.abort(nil)
	}
}

// Reset ends the connection, and refuses one that was requested, with an RST.
func (c *Conn) Reset() {
	if c.state < stateResetting {
		c.abort(nil)
	}
}

// abort ends the connection with err; the peer gets an RST.
func (c *Conn) abort(err error) {
	c.end(err)
	c.state = stateResetting
	c.wake()
}

// end makes err the reason of the end, if there is none yet.
func (c *Conn) end(err error) {
	if c.state < stateClosing {
		c.err = err
	}
}

// violation is abort for a peer that broke a rule.
func (c *Conn) violation() Event {
	c.m.stats.Violations++
	c.abort(ErrProtocol)
	return EventRead | EventWrite
}

// receive takes a packet of this connection.
func (c *Conn) receive(h *Header, body Body, size int) (Event, error) {
	if c.state == stateResetting {
		// The peer will learn of the end from our RST; its own makes that
		// unnecessary.
		if h.Op == OpRst {
			c.m.remove(c)
		}
		return 0, nil
	}
	if h.Op == OpRst {
		c.end(ErrReset)
		c.m.remove(c)
		return EventRead | EventWrite, nil
	}
	if c.state == stateClosing {
		// Our SHUTDOWN is on its way, and the peer does not know yet. If it closes
		// at the same time, both wait for an RST.
		if h.Op == OpShutdown && h.Flags&ShutdownBoth == ShutdownBoth {
			c.abort(nil)
		}
		return 0, nil
	}
	if !c.credit(h) {
		return c.violation(), nil
	}
	if c.state == stateConnecting && h.Op == OpResponse {
		c.state = stateOpen
		return EventOpen, nil
	} else if c.state != stateOpen {
		return c.violation(), nil
	}
	switch h.Op {
	case OpRW:
		return c.receiveData(h, body, size)
	case OpCreditUpdate:
		return 0, nil
	case OpCreditRequest:
		c.owe(oweAnswer)
		return 0, nil
	case OpShutdown:
		return c.receiveShutdown(h.Flags), nil
	}
	return c.violation(), nil
}

// credit takes note of the peer's buffer, and reports false if the peer has
// forwarded bytes that were never sent.
func (c *Conn) credit(h *Header) bool {
	ahead := h.FwdCnt - c.peerFwd
	switch inFlight := c.txCnt - c.peerFwd; {
	case ahead <= inFlight:
		c.peerFwd = h.FwdCnt
	case ahead < 1<<31:
		return false
	}
	c.peerBuf = min(h.BufAlloc, maxPeerBuffer)
	if c.window() > 0 {
		c.asked = false
		c.wake()
	}
	return true
}

// window returns how many bytes the peer can take now.
func (c *Conn) window() uint32 {
	inFlight := c.txCnt - c.peerFwd
	if inFlight >= c.peerBuf {
		return 0
	}
	return c.peerBuf - inFlight
}

func (c *Conn) receiveData(h *Header, body Body, size int) (Event, error) {
	granted := c.m.config.BufferSize - (c.rxCnt - c.fwdCnt)
	if c.peerShut&ShutdownSend != 0 || h.Len > granted || size < 0 || uint64(h.Len) > uint64(size) {
		return c.violation(), nil
	}
	if h.Len == 0 {
		return 0, nil
	}
	n, err := c.buf.fill(body, int(h.Len))
	c.rxCnt += uint32(n)
	if err != nil || n != int(h.Len) {
		return c.violation(), err
	}
	return EventRead, nil
}

func (c *Conn) receiveShutdown(flags uint32) Event {
	c.peerShut |= flags & ShutdownBoth
	if c.peerShut == ShutdownBoth {
		c.abort(nil)
	}
	return EventRead | EventWrite
}

// owe adds packets that the peer has to get.
func (c *Conn) owe(o owed) {
	c.owed |= o
	c.wake()
}

// wake puts the connection on the list of those with something to send, if it
// has.
func (c *Conn) wake() {
	if !c.listed && c.state != stateClosed && c.hasNext() {
		c.m.ready.push(c)
	}
}

// hasNext reports whether next would return a packet.
func (c *Conn) hasNext() bool {
	switch c.state {
	case stateResetting:
		return true
	case stateRequested:
		return false
	}
	if c.owed != 0 {
		return true
	}
	if c.state == stateOpen && len(c.out) > 0 {
		return c.window() > 0 || !c.asked
	}
	return c.shut&^c.shutSent != 0
}

// canSend reports whether there are data and credit for it.
func (c *Conn) canSend() bool { return c.state == stateOpen && len(c.out) > 0 && c.window() > 0 }

// next takes the next packet off the connection, which hasNext: its operation
// and its payload of at most room bytes.
func (c *Conn) next(room int) (Op, []byte) {
	switch {
	case c.state == stateResetting:
		return OpRst, nil
	case c.owed&oweRequest != 0:
		c.owed &^= oweRequest
		return OpRequest, nil
	case c.owed&oweResponse != 0:
		c.owed &^= oweResponse
		return OpResponse, nil
	case c.owed&(oweCredit|oweAnswer) != 0:
		c.owed &^= oweCredit | oweAnswer
		return OpCreditUpdate, nil
	case c.canSend():
		n := min(len(c.out), room, maxPayload, int(c.window()))
		payload := c.out[:n:n]
		c.out = c.out[n:]
		c.txCnt += uint32(n)
		return OpRW, payload
	case c.state == stateOpen && len(c.out) > 0:
		c.asked = true
		return OpCreditRequest, nil
	default:
		c.shutSent = c.shut
		return OpShutdown, nil
	}
}

// header returns that of the connection's next packet, with the credit it tells.
func (c *Conn) header(op Op) Header {
	c.toldFwd = c.fwdCnt
	c.owed &^= oweCredit
	return Header{
		SrcCID: uint64(c.m.config.LocalCID), DstCID: uint64(c.m.config.PeerCID),
		SrcPort: c.key.local, DstPort: c.key.peer,
		Type: TypeStream, Op: op, BufAlloc: c.m.config.BufferSize, FwdCnt: c.fwdCnt,
	}
}
