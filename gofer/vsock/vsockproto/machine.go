// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package vsockproto

import (
	"errors"
	"time"
)

// Errors of connections.
var (
	// ErrReset: the peer has aborted the connection, or refused it.
	ErrReset = errors.New("connection reset by the guest")
	// ErrProtocol: the peer broke a rule and the connection was reset.
	ErrProtocol = errors.New("the guest broke the vsock protocol")
	// ErrGone: the peer is not there any more, or has restarted.
	ErrGone = errors.New("the guest's device was reset")
	// ErrTooMany: the machine has as many connections as it may have.
	ErrTooMany = errors.New("too many connections of this guest")
)

const (
	// maxPayload is the largest payload of a packet we send, as in Linux.
	maxPayload = 64 << 10
	// maxPeerBuffer bounds the credit that we believe in, so that counters
	// modulo 2^32 stay in order.
	maxPeerBuffer = 1 << 30
	// firstPort is where the ports of our own connections begin.
	firstPort = 1 << 30
)

// Config is what a Machine is made of. All fields must be set.
type Config struct {
	// LocalCID and PeerCID are our own CID and the guest's.
	LocalCID, PeerCID uint32
	// BufferSize is what a connection can hold of unread data, in bytes, at most
	// 1 GiB.
	BufferSize uint32
	// MaxConns bounds the connections, in both directions and any state.
	MaxConns int
	// MaxResets bounds the resets that wait for packets without a connection.
	MaxResets int
	// CloseTimeout is how long a closed connection waits for the peer's RST.
	CloseTimeout time.Duration
}

// Stats count what was wrong with the peer's packets.
type Stats struct {
	// Dropped are packets with another source than the peer.
	Dropped uint64
	// Unmatched are packets that belong to no connection, RSTs included;
	// Unanswered those of them for which no reset could wait.
	Unmatched, Unanswered uint64
	// Violations are connections reset because the peer broke a rule.
	Violations uint64
}

// Machine is one end of a link. Not safe for concurrent use, with all of its
// connections.
type Machine struct {
	config Config
	conns  map[key]*Conn
	// ready has the connections that may have a packet to send, each once, in
	// the order of their turns.
	ready list
	// resets is a queue of packets to be answered by RST.
	resets   []reset
	nextPort uint32
	stats    Stats
}

// key names a connection. The CIDs are the machine's.
type key struct{ local, peer uint32 }

// reset is what an RST to a packet without connection says.
type reset struct {
	src              uint64
	srcPort, dstPort uint32
	typ              uint16
}

// Body is the payload of a packet. Read moves the next bytes to p, fewer than
// len(p) only at the end or with an error.
type Body interface {
	Read(p []byte) (n int, err error)
}

// Event says what a packet has changed for its connection's user.
type Event uint8

// The events, which may come together.
const (
	// EventRequest: the peer asks for a new connection. The receiver of the event
	// calls Accept or Reset.
	EventRequest Event = 1 << iota
	// EventOpen: the peer has accepted the connection.
	EventOpen
	// EventRead: there are data, or there will be none any more.
	EventRead
	// EventWrite: what was offered has been sent, or never will be.
	EventWrite
)

// New returns a Machine without connections.
func New(c Config) *Machine {
	return &Machine{config: c, conns: make(map[key]*Conn), nextPort: firstPort}
}

// Stats returns the counters.
func (m *Machine) Stats() Stats { return m.stats }

// Len returns the number of connections, those included that only wait for the
// peer to know that they are closed.
func (m *Machine) Len() int { return len(m.conns) }

// Congested reports that packets without a connection could not be answered
// any more: the caller should pass on no packets until Next has returned some.
func (m *Machine) Congested() bool { return len(m.resets) >= m.config.MaxResets }

// Receive takes a packet from the peer: its header, and size bytes of payload
// or what lies behind it. It returns the connection that the packet has changed,
// if any, and how. The error is that of body, whose connection has been reset.
func (m *Machine) Receive(h *Header, body Body, size int) (*Conn, Event, error) {
	if h.SrcCID != uint64(m.config.PeerCID) {
		m.stats.Dropped++
		return nil, 0, nil
	}
	c := m.conns[key{local: h.DstPort, peer: h.SrcPort}]
	if h.DstCID != uint64(m.config.LocalCID) || h.Type != TypeStream {
		c = nil
	} else if c == nil && h.Op == OpRequest && len(m.conns) < m.config.MaxConns {
		c = m.add(key{local: h.DstPort, peer: h.SrcPort}, stateRequested)
		if !c.credit(h) {
			c.violation()
			return nil, 0, nil
		}
		return c, EventRequest, nil
	}
	if c == nil {
		m.unmatched(h)
		return nil, 0, nil
	}
	ev, err := c.receive(h, body, size)
	return c, ev, err
}

// unmatched answers a packet that belongs to no connection.
func (m *Machine) unmatched(h *Header) {
	m.stats.Unmatched++
	if h.Op == OpRst {
		return
	}
	if m.Congested() {
		m.stats.Unanswered++
		return
	}
	m.resets = append(m.resets, reset{src: h.DstCID, srcPort: h.DstPort, dstPort: h.SrcPort, typ: h.Type})
}

// Pending reports whether Next has a packet.
func (m *Machine) Pending() bool {
	for c := m.ready.first; c != nil && !c.hasNext(); c = m.ready.first {
		m.ready.remove(c)
	}
	return len(m.resets) > 0 || m.ready.first != nil
}

// Next returns the next packet for a peer who has room for room bytes of
// payload, at least 1, and false if there is none. The connections take turns.
// The payload is part of what its connection offered, and valid until the
// machine is used again. The connection is returned when all it had offered is
// sent, which is an EventWrite.
func (m *Machine) Next(room int) (h Header, payload []byte, sent *Conn, ok bool) {
	if len(m.resets) > 0 {
		r := m.resets[0]
		if m.resets = m.resets[1:]; len(m.resets) == 0 {
			m.resets = nil // the memory of those that were sent
		}
		return Header{SrcCID: r.src, DstCID: uint64(m.config.PeerCID), SrcPort: r.srcPort, DstPort: r.dstPort, Type: r.typ, Op: OpRst},
			nil, nil, true
	}
	if !m.Pending() {
		return Header{}, nil, nil, false
	}
	c := m.ready.first
	m.ready.remove(c)
	op, payload := c.next(room)
	h = c.header(op)
	h.Len = uint32(len(payload))
	switch {
	case op == OpRst:
		m.remove(c)
	case op == OpShutdown:
		h.Flags = c.shutSent
	case op == OpRW && len(c.out) == 0:
		sent = c
	}
	c.wake()
	return h, payload, sent, true
}

// Connect begins a connection to a port of the peer. Its end is an EventOpen,
// or an error of the connection with EventWrite.
func (m *Machine) Connect(port uint32) (*Conn, error) {
	if len(m.conns) >= m.config.MaxConns {
		return nil, ErrTooMany
	}
	// There are more ports than connections, so one is free.
	for {
		k := key{local: m.nextPort, peer: port}
		if m.nextPort++; m.nextPort == 1<<32-1 {
			m.nextPort = firstPort
		}
		if m.conns[k] == nil {
			c := m.add(k, stateConnecting)
			c.owe(oweRequest)
			return c, nil
		}
	}
}

// Restart forgets everything: the peer is gone, or has restarted and knows
// nothing. It returns the connections, which have ended with ErrGone.
func (m *Machine) Restart() []*Conn {
	var gone []*Conn
	for _, c := range m.conns {
		c.end(ErrGone)
		m.remove(c)
		gone = append(gone, c)
	}
	m.resets = nil
	return gone
}

// Expire resets connections that were closed too long ago, and returns the
// time at which it has to be called again, zero if no connection waits.
func (m *Machine) Expire(now time.Time) (next time.Time) {
	for _, c := range m.conns {
		if c.state != stateClosing {
			continue
		}
		if !c.deadline.After(now) {
			c.abort(nil)
		} else if next.IsZero() || c.deadline.Before(next) {
			next = c.deadline
		}
	}
	return next
}

func (m *Machine) add(k key, s state) *Conn {
	c := &Conn{m: m, key: k, state: s}
	m.conns[k] = c
	return c
}

func (m *Machine) remove(c *Conn) {
	m.ready.remove(c)
	c.state = stateClosed
	delete(m.conns, c.key)
}

// list is a list of connections that are linked by their own fields.
type list struct{ first, last *Conn }

// push appends c, which must not be on the list.
func (l *list) push(c *Conn) {
	c.before, c.after, c.listed = l.last, nil, true
	if l.last != nil {
		l.last.after = c
	} else {
		l.first = c
	}
	l.last = c
}

// remove removes c if it is on the list.
func (l *list) remove(c *Conn) {
	if !c.listed {
		return
	}
	if c.before != nil {
		c.before.after = c.after
	} else {
		l.first = c.after
	}
	if c.after != nil {
		c.after.before = c.before
	} else {
		l.last = c.before
	}
	c.before, c.after, c.listed = nil, nil, false
}
