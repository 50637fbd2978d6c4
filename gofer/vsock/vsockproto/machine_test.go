// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package vsockproto

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

const (
	guestCID = 7
	hostPort = 3782
	peerPort = 1025
)

var testConfig = Config{LocalCID: 2, PeerCID: guestCID, BufferSize: 1 << 16, MaxConns: 4, MaxResets: 3, CloseTimeout: 8 * time.Second}

// body is a payload in memory.
type body struct{ *bytes.Reader }

func (b body) Read(p []byte) (int, error) {
	n, err := b.Reader.Read(p)
	if err == io.EOF {
		err = nil
	}
	return n, err
}

// link is a machine and the guest at its other end, by hand.
type link struct {
	t *testing.T
	m *Machine
}

func newLink(t *testing.T) *link { return &link{t, New(testConfig)} }

// from is a packet's header as the guest sends it.
func from(op Op) Header {
	return Header{SrcCID: guestCID, DstCID: 2, SrcPort: peerPort, DstPort: hostPort, Type: TypeStream, Op: op, BufAlloc: 1000}
}

// send lets the machine receive a packet, and returns what it changed.
func (l *link) send(h Header, payload string) (*Conn, Event) {
	l.t.Helper()
	if h.Op == OpRW && h.Len == 0 {
		h.Len = uint32(len(payload))
	}
	c, ev, err := l.m.Receive(&h, body{bytes.NewReader([]byte(payload))}, len(payload))
	if err != nil {
		l.t.Fatal(err)
	}
	return c, ev
}

// open opens a connection that the guest asks for.
func (l *link) open() *Conn {
	l.t.Helper()
	c, ev := l.send(from(OpRequest), "")
	if ev != EventRequest {
		l.t.Fatalf("a request is event %d, want %d", ev, EventRequest)
	}
	c.Accept()
	l.want(OpResponse)
	return c
}

// next returns the machine's next packet; Op 0 stands for none.
func (l *link) next() (Header, string) {
	l.t.Helper()
	pending := l.m.Pending()
	h, p, _, ok := l.m.Next(4096)
	if pending != ok {
		l.t.Fatalf("Pending is %v and Next says %v", pending, ok)
	}
	return h, string(p)
}

// want takes the machine's packets, which must have these operations, and
// returns the last one.
func (l *link) want(ops ...Op) Header {
	l.t.Helper()
	var h Header
	for i, op := range ops {
		if h, _ = l.next(); h.Op != op {
			l.t.Fatalf("packet %d of %v is %v", i, ops, h.Op)
		}
	}
	if h, _ := l.next(); h.Op != 0 {
		l.t.Fatalf("after %v there is also %v", ops, h.Op)
	}
	return h
}

// wantViolation checks that the connection has been reset because of the guest.
func (l *link) wantViolation(c *Conn, ev Event) {
	l.t.Helper()
	if ev != EventRead|EventWrite || c.Err() != ErrProtocol || c.Open() || l.m.Stats().Violations != 1 {
		l.t.Errorf("event %d, error %v, open %v, %d violations; want both events, ErrProtocol, closed, 1", ev, c.Err(), c.Open(), l.m.Stats().Violations)
	}
	l.want(OpRst)
	if l.m.Len() != 0 {
		l.t.Error("the connection is still in the table")
	}
}

func read(c *Conn, n int) string {
	p := make([]byte, n)
	return string(p[:c.Read(p)])
}

func TestHeaderIsWrittenAsSpecified(t *testing.T) {
	h := Header{SrcCID: 0x0102030405060708, DstCID: 9, SrcPort: 0x0a0b0c0d, DstPort: 0x0e0f1011, Len: 0x12131415,
		Type: 0x1617, Op: 0x1819, Flags: 0x1a1b1c1d, BufAlloc: 0x1e1f2021, FwdCnt: 0x22232425}
	want := [HeaderSize]byte{8, 7, 6, 5, 4, 3, 2, 1, 9, 0, 0, 0, 0, 0, 0, 0, 0xd, 0xc, 0xb, 0xa, 0x11, 0x10, 0xf, 0xe,
		0x15, 0x14, 0x13, 0x12, 0x17, 0x16, 0x19, 0x18, 0x1d, 0x1c, 0x1b, 0x1a, 0x21, 0x20, 0x1f, 0x1e, 0x25, 0x24, 0x23, 0x22}
	var b [HeaderSize]byte
	h.Put(&b)
	if b != want {
		t.Errorf("got %x, want %x", b, want)
	}
}

func FuzzHeader(f *testing.F) {
	f.Add(make([]byte, HeaderSize))
	f.Fuzz(func(t *testing.T, in []byte) {
		var b, again [HeaderSize]byte
		copy(b[:], in)
		var h Header
		h.Parse(&b)
		h.Put(&again)
		if b != again {
			t.Errorf("%x is parsed as %+v, which is written %x", b, h, again)
		}
	})
}

func TestRequestIsAnsweredByResponse(t *testing.T) {
	l := newLink(t)
	c, ev := l.send(from(OpRequest), "")
	if ev != EventRequest || c.Open() || c.LocalPort() != hostPort || c.PeerPort() != peerPort {
		t.Fatalf("event %d, open %v, ports %d and %d", ev, c.Open(), c.LocalPort(), c.PeerPort())
	}
	c.Accept()
	want := Header{SrcCID: 2, DstCID: guestCID, SrcPort: hostPort, DstPort: peerPort, Type: TypeStream, Op: OpResponse, BufAlloc: testConfig.BufferSize}
	got, _ := l.next()
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("the response (-want +got):\n%s", d)
	}
	if !c.Open() || !c.Writable() {
		t.Error("the connection is not open after Accept")
	}
}

func TestRequestIsRefusedByRst(t *testing.T) {
	l := newLink(t)
	c, _ := l.send(from(OpRequest), "")
	c.Reset()
	l.want(OpRst)
	if l.m.Len() != 0 {
		t.Error("a refused connection stays in the table")
	}
}

func TestConnect(t *testing.T) {
	l := newLink(t)
	c, err := l.m.Connect(peerPort)
	if err != nil {
		t.Fatal(err)
	}
	h := l.want(OpRequest)
	if h.DstPort != peerPort || h.SrcPort != c.LocalPort() || h.BufAlloc != testConfig.BufferSize || c.Open() {
		t.Errorf("the request %+v of port %d, open %v", h, c.LocalPort(), c.Open())
	}
	answer := from(OpResponse)
	answer.DstPort = h.SrcPort
	if got, ev := l.send(answer, ""); got != c || ev != EventOpen || !c.Open() {
		t.Errorf("response: event %d, open %v", ev, c.Open())
	}
	c.Offer([]byte("x"))
	l.want(OpRW) // the response has given credit
}

func TestConnectRefused(t *testing.T) {
	l := newLink(t)
	c, _ := l.m.Connect(peerPort)
	h := l.want(OpRequest)
	answer := from(OpRst)
	answer.DstPort = h.SrcPort
	if _, ev := l.send(answer, ""); ev != EventRead|EventWrite || c.Err() != ErrReset || l.m.Len() != 0 {
		t.Errorf("event %d, error %v, %d connections", ev, c.Err(), l.m.Len())
	}
	l.want() // an RST is not answered
}

func TestConnectAnsweredByDataIsAViolation(t *testing.T) {
	l := newLink(t)
	c, _ := l.m.Connect(peerPort)
	answer := from(OpRW)
	answer.DstPort = l.want(OpRequest).SrcPort
	_, ev := l.send(answer, "x")
	l.wantViolation(c, ev)
}

func TestConnectGivenUpIsReset(t *testing.T) {
	l := newLink(t)
	c, _ := l.m.Connect(peerPort)
	h := l.want(OpRequest)
	c.Reset()
	l.want(OpRst)
	// The guest's answer comes too late.
	answer := from(OpResponse)
	answer.DstPort = h.SrcPort
	l.send(answer, "")
	l.want(OpRst)
}

func TestConnectTakesFreePorts(t *testing.T) {
	l := newLink(t)
	l.m.nextPort = 1<<32 - 2
	a, _ := l.m.Connect(peerPort)
	b, _ := l.m.Connect(peerPort)
	l.m.nextPort = a.LocalPort()
	c, _ := l.m.Connect(peerPort)
	if a.LocalPort() != 1<<32-2 || b.LocalPort() != firstPort || c.LocalPort() != firstPort+1 {
		t.Errorf("ports %d, %d and %d", a.LocalPort(), b.LocalPort(), c.LocalPort())
	}
}

func TestPacketsWithoutConnectionAreAnsweredByRst(t *testing.T) {
	for _, tc := range []struct {
		name string
		edit func(*Header)
		rst  bool
	}{
		{"data", func(h *Header) {}, true},
		{"response", func(h *Header) { h.Op = OpResponse }, true},
		{"shutdown", func(h *Header) { h.Op = OpShutdown }, true},
		{"credit update", func(h *Header) { h.Op = OpCreditUpdate }, true},
		{"credit request", func(h *Header) { h.Op = OpCreditRequest }, true},
		{"invalid operation", func(h *Header) { h.Op = 0 }, true},
		{"unknown operation", func(h *Header) { h.Op = 99 }, true},
		{"request of another type", func(h *Header) { h.Op, h.Type = OpRequest, 2 }, true},
		{"request to another CID", func(h *Header) { h.Op, h.DstCID = OpRequest, 1<<40 }, true},
		{"rst", func(h *Header) { h.Op = OpRst }, false},
		{"rst of another type", func(h *Header) { h.Op, h.Type = OpRst, 9 }, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			l := newLink(t)
			h := from(OpRW)
			h.Len = 1
			tc.edit(&h)
			if c, ev := l.send(h, "x"); c != nil || ev != 0 {
				t.Errorf("it changed connection %v: %d", c, ev)
			}
			if s := l.m.Stats(); s.Unmatched != 1 {
				t.Errorf("%d unmatched packets, want 1", s.Unmatched)
			}
			if !tc.rst {
				l.want()
				return
			}
			got := l.want(OpRst)
			want := Header{SrcCID: h.DstCID, DstCID: guestCID, SrcPort: hostPort, DstPort: peerPort, Type: h.Type, Op: OpRst}
			if d := cmp.Diff(want, got); d != "" {
				t.Errorf("(-want +got):\n%s", d)
			}
		})
	}
}

// A packet of another type does not reach the stream with the same ports.
func TestOtherTypesDontReachAStream(t *testing.T) {
	l := newLink(t)
	c := l.open()
	h := from(OpRW)
	h.Type = 2
	l.send(h, "x")
	if l.want(OpRst).Type != 2 || !c.Open() || c.Buffered() != 0 {
		t.Errorf("open %v, %d bytes", c.Open(), c.Buffered())
	}
}

func TestForgedSourceIsDropped(t *testing.T) {
	for _, cid := range []uint64{0, 2, guestCID + 1, guestCID | 1<<32, 1<<64 - 1} {
		l := newLink(t)
		c := l.open()
		h := from(OpRst)
		h.SrcCID = cid
		l.send(h, "")
		if s := l.m.Stats(); !c.Open() || s.Dropped != 1 {
			t.Errorf("CID %d: open %v, %d dropped", cid, c.Open(), s.Dropped)
		}
		l.want()
	}
}

func TestResetsAreBounded(t *testing.T) {
	l := newLink(t)
	for i := range 10 {
		if l.m.Congested() != (i >= testConfig.MaxResets) {
			t.Errorf("after %d packets: congested %v", i, l.m.Congested())
		}
		l.send(from(OpRW), "x")
	}
	if s := l.m.Stats(); s.Unanswered != uint64(10-testConfig.MaxResets) || len(l.m.resets) != testConfig.MaxResets {
		t.Errorf("%d unanswered, %d wait", s.Unanswered, len(l.m.resets))
	}
	l.want(OpRst, OpRst, OpRst)
	if l.m.Congested() {
		t.Error("still congested after all is sent")
	}
}

func TestConnectionsAreBounded(t *testing.T) {
	l := newLink(t)
	for i := range testConfig.MaxConns {
		h := from(OpRequest)
		h.SrcPort += uint32(i)
		c, _ := l.send(h, "")
		// Those count that wait for their RST to be sent.
		if i == 0 {
			c.Reset()
		}
	}
	if _, err := l.m.Connect(1); err != ErrTooMany {
		t.Errorf("Connect: %v, want ErrTooMany", err)
	}
	h := from(OpRequest)
	h.SrcPort = 99
	if c, ev := l.send(h, ""); c != nil || ev != 0 {
		t.Errorf("one more is event %d", ev)
	}
	l.want(OpRst, OpRst)
	if c, _ := l.send(h, ""); c == nil {
		t.Error("after one is gone there is no place")
	}
}

func TestData(t *testing.T) {
	l := newLink(t)
	c := l.open()
	for _, s := range []string{"one ", "", "two"} {
		wantEv := EventRead
		if s == "" {
			wantEv = 0
		}
		if got, ev := l.send(from(OpRW), s); ev != wantEv || got != c {
			t.Errorf("data %q is event %d", s, ev)
		}
	}
	if got := read(c, 5); got != "one t" {
		t.Errorf("read %q", got)
	}
	if got := read(c, 5); got != "wo" || c.Buffered() != 0 {
		t.Errorf("read %q, %d left", got, c.Buffered())
	}
}

// What is longer than the header says is none of the connection's bytes.
func TestBytesBehindThePayloadAreNotRead(t *testing.T) {
	l := newLink(t)
	c := l.open()
	h := from(OpRW)
	h.Len = 2
	l.send(h, "abcd")
	if got := read(c, 9); got != "ab" {
		t.Errorf("read %q", got)
	}
}

func TestViolations(t *testing.T) {
	full := string(make([]byte, testConfig.BufferSize))
	for _, tc := range []struct {
		name   string
		before func(*link)
		edit   func(*Header)
		data   string
	}{
		{name: "more data than granted", data: full + "x"},
		{name: "more data than is left", before: func(l *link) { l.send(from(OpRW), full[1:]) }, data: "xx"},
		{name: "length that wraps", edit: func(h *Header) { h.Len = 1<<32 - 1 }, data: "x"},
		{name: "payload shorter than its length", edit: func(h *Header) { h.Len = 2 }, data: "x"},
		{name: "data after shutdown", before: func(l *link) {
			h := from(OpShutdown)
			h.Flags = ShutdownSend
			l.send(h, "")
		}, data: "x"},
		{name: "second request", edit: func(h *Header) { h.Op = OpRequest }},
		{name: "response to no request", edit: func(h *Header) { h.Op = OpResponse }},
		{name: "invalid operation", edit: func(h *Header) { h.Op = 0 }},
		{name: "unknown operation", edit: func(h *Header) { h.Op = 8 }},
		{name: "credit for what was not sent", edit: func(h *Header) { h.Op, h.FwdCnt = OpCreditUpdate, 1 }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			l := newLink(t)
			c := l.open()
			if tc.before != nil {
				tc.before(l)
			}
			h := from(OpRW)
			if tc.edit != nil {
				tc.edit(&h)
			}
			_, ev := l.send(h, tc.data)
			l.wantViolation(c, ev)
		})
	}
}

// What had arrived before a violation or a reset can be read.
func TestDataBeforeResetIsKept(t *testing.T) {
	l := newLink(t)
	c := l.open()
	l.send(from(OpRW), "data")
	l.send(from(OpRst), "")
	if c.Err() != ErrReset || c.EOF() || c.Open() {
		t.Errorf("error %v, EOF %v, open %v", c.Err(), c.EOF(), c.Open())
	}
	if got := read(c, 9); got != "data" {
		t.Errorf("read %q", got)
	}
	l.want() // no credit for the dead, and no RST for an RST
}

var errBody = errors.New("memory is gone")

type badBody struct{}

func (badBody) Read(p []byte) (int, error) { return len(p) / 2, errBody }

func TestFailingBodyResetsTheConnection(t *testing.T) {
	l := newLink(t)
	c := l.open()
	h := from(OpRW)
	h.Len = 10
	if _, ev, err := l.m.Receive(&h, badBody{}, 10); err != errBody || ev != EventRead|EventWrite || c.Open() {
		t.Errorf("event %d, error %v, open %v", ev, err, c.Open())
	}
	l.want(OpRst)
}

func TestCreditIsGivenBackAfterAQuarter(t *testing.T) {
	l := newLink(t)
	c := l.open()
	quarter := int(testConfig.BufferSize / 4)
	l.send(from(OpRW), string(make([]byte, 2*quarter)))
	read(c, quarter-1)
	l.want()
	read(c, 1)
	if h := l.want(OpCreditUpdate); h.FwdCnt != uint32(quarter) || h.BufAlloc != testConfig.BufferSize {
		t.Errorf("credit update %+v, want %d bytes", h, quarter)
	}
	// Data carries it as well.
	read(c, quarter)
	c.Offer([]byte("x"))
	h, _ := l.next()
	if h.Op == OpCreditUpdate {
		h, _ = l.next()
	}
	if h.Op != OpRW || h.FwdCnt != uint32(2*quarter) {
		t.Errorf("data with %+v", h)
	}
	l.want()
}

func TestCreditRequestIsAnswered(t *testing.T) {
	l := newLink(t)
	c := l.open()
	l.send(from(OpRW), "abc")
	read(c, 2)
	l.send(from(OpCreditRequest), "")
	if h := l.want(OpCreditUpdate); h.FwdCnt != 2 {
		t.Errorf("credit for %d bytes, want 2", h.FwdCnt)
	}
}

func TestDataWaitsForCredit(t *testing.T) {
	l := newLink(t)
	c := l.open() // which has granted 1000
	c.Offer(make([]byte, 1500))
	h, p := l.next()
	if h.Op != OpRW || len(p) != 1000 || h.Len != 1000 || c.Offered() != 500 {
		t.Fatalf("sent %v of %d bytes, %d left", h.Op, len(p), c.Offered())
	}
	l.want(OpCreditRequest) // once
	update := from(OpCreditUpdate)
	l.send(update, "")
	l.want() // the answer gave none
	update.FwdCnt = 300
	l.send(update, "")
	if h, p := l.next(); h.Op != OpRW || len(p) != 300 {
		t.Fatalf("sent %v of %d bytes", h.Op, len(p))
	}
	l.want(OpCreditRequest)
	update.FwdCnt, update.BufAlloc = 1000, 1<<32-1
	l.send(update, "")
	_, last, sent, _ := l.m.Next(4096)
	if len(last) != 200 || sent != c {
		t.Errorf("sent %d bytes, the last ones: %v", len(last), sent == c)
	}
	if c.window() != maxPeerBuffer-500 {
		t.Errorf("window %d of a buffer of 4 GiB", c.window())
	}
}

func TestDataFitsTheReceiveBuffer(t *testing.T) {
	l := newLink(t)
	c := l.open()
	c.Offer([]byte("abc"))
	var got []string
	for l.m.Pending() {
		_, p, _, _ := l.m.Next(2)
		got = append(got, string(p))
	}
	if d := cmp.Diff([]string{"ab", "c"}, got); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
}

// The peer may make its buffer smaller than what it has granted.
func TestShrunkenBufferGivesNoCredit(t *testing.T) {
	l := newLink(t)
	c := l.open()
	c.Offer(make([]byte, 2000))
	l.want(OpRW, OpCreditRequest)
	update := from(OpCreditUpdate)
	update.BufAlloc, update.FwdCnt = 10, 900
	l.send(update, "")
	l.want()
	if c.window() != 0 || !c.Open() {
		t.Errorf("window %d, open %v", c.window(), c.Open())
	}
	update.FwdCnt = 1000
	l.send(update, "")
	if h, p := l.next(); h.Op != OpRW || len(p) != 10 {
		t.Errorf("sent %v of %d bytes", h.Op, len(p))
	}
}

// Two processors of the guest may send their packets in another order than they
// have looked at the counter.
func TestCreditOutOfOrderIsIgnored(t *testing.T) {
	l := newLink(t)
	c := l.open()
	c.Offer(make([]byte, 800))
	l.want(OpRW)
	update := from(OpCreditUpdate)
	update.FwdCnt = 800
	l.send(update, "")
	update.FwdCnt = 500
	l.send(update, "")
	if c.window() != 1000 || !c.Open() {
		t.Errorf("window %d, open %v", c.window(), c.Open())
	}
}

func TestCountersWrap(t *testing.T) {
	l := newLink(t)
	c := l.open()
	const before = 1<<32 - 100
	c.txCnt, c.peerFwd = before, before
	c.rxCnt, c.fwdCnt, c.toldFwd = before, before, before

	l.send(from2(OpRW, before), string(make([]byte, testConfig.BufferSize)))
	if n := len(read(c, 1<<17)); n != int(testConfig.BufferSize) {
		t.Fatalf("read %d bytes", n)
	}
	if h := l.want(OpCreditUpdate); h.FwdCnt != testConfig.BufferSize-100 {
		t.Errorf("forwarded %d", h.FwdCnt)
	}
	c.Offer(make([]byte, 1200))
	l.want(OpRW, OpCreditRequest)
	if c.txCnt != 900 {
		t.Errorf("sent %d", c.txCnt)
	}
	l.send(from2(OpCreditUpdate, 900), "")
	l.want(OpRW)
	if _, ev := l.send(from2(OpCreditUpdate, 1101), ""); ev == 0 {
		t.Error("credit for what was not sent, after a wrap")
	}
}

func from2(op Op, fwd uint32) Header {
	h := from(op)
	h.FwdCnt = fwd
	return h
}

func TestPeerHalfCloses(t *testing.T) {
	l := newLink(t)
	c := l.open()
	l.send(from(OpRW), "last")
	h := from(OpShutdown)
	h.Flags = ShutdownSend
	if _, ev := l.send(h, ""); ev&EventRead == 0 {
		t.Errorf("event %d", ev)
	}
	if !c.EOF() || !c.Open() || !c.Writable() || read(c, 9) != "last" {
		t.Errorf("EOF %v, open %v, writable %v", c.EOF(), c.Open(), c.Writable())
	}
	c.Offer([]byte("answer"))
	l.want(OpRW)
	// Flags that are not repeated stay set.
	h.Flags = ShutdownReceive
	if _, ev := l.send(h, ""); ev&EventWrite == 0 || c.Writable() {
		t.Errorf("event %d, writable %v", ev, c.Writable())
	}
	l.want(OpRst)
	if c.Err() != nil || l.m.Len() != 0 {
		t.Errorf("a clean end is %v", c.Err())
	}
}

func TestPeerDoesNotReceive(t *testing.T) {
	l := newLink(t)
	c := l.open()
	c.Offer(make([]byte, 2000))
	l.want(OpRW, OpCreditRequest)
	h := from(OpShutdown)
	h.Flags = ShutdownReceive | 1<<31 // an unknown flag means nothing
	if _, ev := l.send(h, ""); ev&EventWrite == 0 || c.Writable() || !c.Open() || c.EOF() {
		t.Errorf("event %d, writable %v, open %v, EOF %v", ev, c.Writable(), c.Open(), c.EOF())
	}
}

func TestPeerClosesWithDataUnread(t *testing.T) {
	l := newLink(t)
	c := l.open()
	l.send(from(OpRW), "unread")
	h := from(OpShutdown)
	h.Flags = ShutdownBoth
	l.send(h, "")
	l.want(OpRst)
	if !c.EOF() || c.Err() != nil || read(c, 9) != "unread" {
		t.Errorf("EOF %v, error %v", c.EOF(), c.Err())
	}
}

func TestCloseWriteComesAfterTheData(t *testing.T) {
	l := newLink(t)
	c := l.open()
	c.Offer(make([]byte, 1500))
	c.CloseWrite()
	l.want(OpRW, OpCreditRequest)
	l.send(from2(OpCreditUpdate, 1000), "")
	if h := l.want(OpRW, OpShutdown); h.Flags != ShutdownSend {
		t.Errorf("flags %d", h.Flags)
	}
	if c.Writable() || !c.Open() {
		t.Errorf("writable %v, open %v", c.Writable(), c.Open())
	}
	l.send(from2(OpRW, 1000), "still")
	if read(c, 9) != "still" {
		t.Error("the other direction has ended")
	}
}

func TestClose(t *testing.T) {
	l := newLink(t)
	now := time.Unix(1000, 0)
	c := l.open()
	c.Offer(make([]byte, 2000))
	l.want(OpRW, OpCreditRequest)
	c.Close(now)
	l.send(from2(OpCreditUpdate, 1000), "")
	if h := l.want(OpShutdown); h.Flags != ShutdownBoth {
		t.Errorf("flags %d", h.Flags)
	}
	if n := c.Withdraw(); n != 1000 {
		t.Errorf("%d bytes were not sent, want 1000", n)
	}
	// Packets that were on their way change nothing.
	for _, op := range []Op{OpRW, OpCreditRequest, OpCreditUpdate} {
		l.send(from(op), "x")
	}
	h := from(OpShutdown)
	h.Flags = ShutdownSend
	l.send(h, "")
	l.want()
	if l.m.Expire(now) != now.Add(testConfig.CloseTimeout) || l.m.Len() != 1 {
		t.Error("it does not wait for the peer's RST")
	}
	l.send(from(OpRst), "")
	if l.m.Len() != 0 || !l.m.Expire(now).IsZero() {
		t.Errorf("%d connections after the peer's RST", l.m.Len())
	}
}

func TestCloseAfterCloseWriteTellsBoth(t *testing.T) {
	l := newLink(t)
	c := l.open()
	c.CloseWrite()
	l.want(OpShutdown)
	c.Close(time.Unix(0, 0))
	if h := l.want(OpShutdown); h.Flags != ShutdownBoth {
		t.Errorf("flags %d", h.Flags)
	}
}

func TestCloseTimesOut(t *testing.T) {
	l := newLink(t)
	now := time.Unix(1000, 0)
	c := l.open()
	c.Close(now)
	l.want(OpShutdown)
	l.m.Expire(now.Add(testConfig.CloseTimeout - 1))
	l.want()
	if next := l.m.Expire(now.Add(testConfig.CloseTimeout)); !next.IsZero() {
		t.Errorf("next expiry %v", next)
	}
	l.want(OpRst)
	if l.m.Len() != 0 {
		t.Error("still in the table")
	}
}

func TestBothClose(t *testing.T) {
	l := newLink(t)
	c := l.open()
	c.Close(time.Unix(0, 0))
	l.want(OpShutdown)
	h := from(OpShutdown)
	h.Flags = ShutdownBoth
	l.send(h, "")
	l.want(OpRst)
	if l.m.Len() != 0 {
		t.Error("still in the table")
	}
}

// A connection whose RST was not sent yet is reset by one of the peer, too.
func TestPeersRstSavesOurs(t *testing.T) {
	l := newLink(t)
	l.open().Reset()
	l.send(from(OpRW), "x")
	l.send(from(OpRst), "")
	l.want()
	if l.m.Len() != 0 {
		t.Error("still in the table")
	}
}

func TestRestart(t *testing.T) {
	l := newLink(t)
	a := l.open()
	l.send(from(OpRW), "kept")
	b, _ := l.m.Connect(1)
	h := from(OpRW)
	h.DstPort = 1
	l.send(h, "x")
	if gone := l.m.Restart(); len(gone) != 2 || a.Err() != ErrGone || b.Err() != ErrGone {
		t.Errorf("%d connections, errors %v and %v", len(gone), a.Err(), b.Err())
	}
	l.want()
	if l.m.Len() != 0 || read(a, 9) != "kept" {
		t.Error("the table is not empty, or data is lost")
	}
	l.open() // with the same ports
}

// The connections take turns, so one that has much to send does not hold up
// the others.
func TestConnectionsTakeTurns(t *testing.T) {
	l := newLink(t)
	var conns []*Conn
	for i := range 3 {
		h := from(OpRequest)
		h.SrcPort, h.BufAlloc = uint32(i), 1<<20
		c, _ := l.send(h, "")
		c.Accept()
		conns = append(conns, c)
	}
	l.want(OpResponse, OpResponse, OpResponse)
	for _, c := range conns {
		c.Offer(make([]byte, 3*4096))
	}
	var turns []uint32
	for l.m.Pending() {
		h, _ := l.next()
		turns = append(turns, h.DstPort)
	}
	if d := cmp.Diff([]uint32{0, 1, 2, 0, 1, 2, 0, 1, 2}, turns); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
}

// Two machines, one at each end, with random users: every byte arrives, in
// order, and every connection ends.
func TestTwoMachines(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	host := Config{LocalCID: 2, PeerCID: guestCID, BufferSize: 5000, MaxConns: 8, MaxResets: 8, CloseTimeout: time.Hour}
	guest := host
	guest.LocalCID, guest.PeerCID, guest.BufferSize = guestCID, 2, 3000
	ends := [2]*Machine{New(host), New(guest)}
	const total = 100_000
	// A stream is one direction of a connection; its bytes are a function of
	// their position.
	type stream struct {
		c              *Conn
		sent, received int
		eof            bool
	}
	at := func(i int) byte { return byte(i ^ i>>8) }
	var streams [2][]*stream
	add := func(i int, c *Conn) {
		s := &stream{c: c}
		c.Owner = s
		streams[i] = append(streams[i], s)
	}
	move := func(i int) bool { // one packet from end i to the other
		h, p, _, ok := ends[i].Next(1 + r.IntN(700))
		if !ok {
			return false
		}
		c, ev, err := ends[1-i].Receive(&h, body{bytes.NewReader(bytes.Clone(p))}, len(p))
		if err != nil {
			t.Fatal(err)
		}
		if ev == EventRequest {
			c.Accept()
			add(1-i, c)
		}
		return true
	}
	for i := range 4 {
		c, err := ends[i%2].Connect(uint32(i))
		if err != nil {
			t.Fatal(err)
		}
		add(i%2, c)
	}
	step := func(i int, s *stream) bool { // a user does something; false if it is done
		c := s.c
		if !c.EOF() || c.Buffered() > 0 {
			p := make([]byte, r.IntN(1000))
			p = p[:c.Read(p)]
			for _, b := range p {
				if b != at(s.received) {
					t.Fatalf("byte %d is wrong", s.received)
				}
				s.received++
			}
		}
		s.eof = c.EOF() && c.Buffered() == 0
		if c.Writable() && c.Offered() == 0 {
			if s.sent == total {
				c.CloseWrite()
			} else {
				p := make([]byte, min(total-s.sent, r.IntN(4000)))
				for j := range p {
					p[j] = at(s.sent + j)
				}
				s.sent += len(p)
				c.Offer(p)
			}
		}
		return !s.eof || s.sent < total
	}
	for busy := true; busy; {
		busy = false
		for i := range ends {
			for _, s := range streams[i] {
				busy = step(i, s) || busy
			}
			for range r.IntN(8) {
				move(i)
			}
		}
	}
	for i := range ends {
		if len(streams[i]) != 4 {
			t.Errorf("end %d has %d streams, want 4", i, len(streams[i]))
		}
		for _, s := range streams[i] {
			if s.received != total {
				t.Errorf("end %d received %d bytes, want %d", i, s.received, total)
			}
			s.c.Close(time.Unix(0, 0))
		}
	}
	for move(0) || move(1) {
	}
	for i, m := range ends {
		if m.Len() != 0 || m.Stats() != (Stats{Unmatched: m.Stats().Unmatched}) {
			t.Errorf("end %d: %d connections left, %+v", i, m.Len(), m.Stats())
		}
	}
}

// FuzzMachine sends packets and has users of the connections do things. What
// the machine keeps stays within its bounds, and what it sends within the
// credit it was given.
func FuzzMachine(f *testing.F) {
	f.Add([]byte{0, 1, 0, 0, 0, 1, 5, 9, 0, 0, 3, 2, 8})
	f.Add([]byte{0, 1, 0, 0, 0, 0, 5, 255, 1, 0, 0, 4, 3, 0, 0, 4, 1, 9, 12, 14, 16, 18})
	f.Fuzz(func(t *testing.T, in []byte) {
		config := Config{LocalCID: 2, PeerCID: guestCID, BufferSize: 600, MaxConns: 3, MaxResets: 2, CloseTimeout: 10}
		m := New(config)
		var conns []*Conn
		byteAt := func() byte {
			if len(in) == 0 {
				return 0
			}
			b := in[0]
			in = in[1:]
			return b
		}
		now := time.Unix(0, 0)
		for len(in) > 0 {
			switch what := byteAt(); {
			case what < 128: // a packet
				h := from(Op(byteAt()))
				a, b := byteAt(), byteAt()
				h.SrcPort, h.DstPort = uint32(a&3), firstPort+uint32(a>>2&3)
				h.SrcCID += uint64(a >> 7)
				h.Len, h.Flags = uint32(b)*uint32(what), uint32(b)
				h.BufAlloc = uint32(what) * 40
				h.FwdCnt = uint32(int8(byteAt())) * 8
				size := int(h.Len) - int(byteAt()&1)
				c, ev, err := m.Receive(&h, body{bytes.NewReader(make([]byte, max(0, size)))}, size)
				if err != nil {
					t.Fatal(err)
				}
				if ev == EventRequest {
					if conns = append(conns, c); a&64 == 0 {
						c.Accept()
					} else {
						c.Reset()
					}
				}
			case what < 140:
				if c, err := m.Connect(uint32(what & 3)); err == nil {
					conns = append(conns, c)
				} else if m.Len() < config.MaxConns {
					t.Fatal(err)
				}
			case what < 160:
				now = now.Add(time.Duration(byteAt()))
				m.Expire(now)
			case what < 161:
				m.Restart()
				if m.Len() != 0 || m.Pending() {
					t.Fatal("something is left after Restart")
				}
			case what < 200:
				if h, p, _, ok := m.Next(1 + int(byteAt())); ok && (len(p) != int(h.Len) || h.Op != OpRW && len(p) > 0) {
					t.Fatalf("%d bytes with %+v", len(p), h)
				}
			case len(conns) > 0:
				c := conns[int(byteAt())%len(conns)]
				switch what & 7 {
				case 0:
					c.Close(now)
				case 1:
					c.CloseWrite()
				case 2:
					c.Reset()
				case 3:
					c.Withdraw()
				case 4, 5:
					c.Read(make([]byte, byteAt()))
				default:
					if c.Writable() && c.Offered() == 0 {
						c.Offer(make([]byte, 1+int(byteAt())*4))
					}
				}
			}
			if m.Len() > config.MaxConns || len(m.resets) > config.MaxResets {
				t.Fatalf("%d connections, %d resets", m.Len(), len(m.resets))
			}
			for _, c := range m.conns {
				if c.buf.n > int(config.BufferSize) || len(c.buf.b) > 4096 || c.rxCnt-c.fwdCnt != uint32(c.buf.n) && c.state == stateOpen {
					t.Fatalf("%d bytes are buffered, %d arrived and %d read", c.buf.n, c.rxCnt, c.fwdCnt)
				}
				if c.txCnt-c.peerFwd > maxPeerBuffer {
					t.Fatalf("%d bytes on their way", c.txCnt-c.peerFwd)
				}
			}
		}
		// With nothing new, it comes to an end.
		for i := 0; m.Pending(); i++ {
			if i > 1000 {
				t.Fatal("no end of packets")
			}
			m.Next(64)
		}
	})
}
