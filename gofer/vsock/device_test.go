// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package vsock

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"fsva/gofer/vhostuser/vhosttest"
	"fsva/gofer/vsock/vsockproto"
)

const (
	testCID  = 7
	testPort = 3782
	peerPort = 1025
	// rxRoom is the payload that a receive buffer of the driver has room for.
	rxRoom = 1000
)

// serve serves a device until the test ends, and returns it and its socket.
func serve(t *testing.T) (*Device, string) {
	t.Helper()
	d, err := NewDevice(Options{CID: testCID, Allow: []uint32{testCID}})
	if err != nil {
		t.Fatal(err)
	}
	path := socketPath(t)
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- d.Serve(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		d.mu.Lock()
		defer d.mu.Unlock()
		if n := d.machine.Len(); n > 0 || d.front != nil {
			t.Errorf("after Serve %d connections are left, and a front end: %v", n, d.front != nil)
		}
	})
	return d, path
}

func listenOn(t *testing.T, d *Device, port uint32) net.Listener {
	t.Helper()
	l, err := d.Listen(port)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// driver is the guest's driver and what uses it, by hand.
type driver struct {
	t      *testing.T
	v      *vhosttest.VMM
	rx, tx *vhosttest.Queue
}

// drive connects a VMM whose driver has n receive buffers.
func drive(t *testing.T, path string, n int) *driver {
	t.Helper()
	v := vhosttest.Dial(t, path, vhosttest.Options{})
	g := &driver{t: t, v: v, rx: v.Queue(queueRX, 64), tx: v.Queue(queueTX, 64)}
	g.provide(n)
	return g
}

// provide adds receive buffers.
func (g *driver) provide(n int) {
	g.t.Helper()
	for range n {
		g.rx.Add(g.rx.NewBuf(nil, vsockproto.HeaderSize+rxRoom))
	}
	g.rx.ForceKick()
}

// header is one of a packet of the connection between peerPort and testPort.
func header(op vsockproto.Op) vsockproto.Header {
	return vsockproto.Header{SrcCID: testCID, DstCID: uint64(CIDHost), SrcPort: peerPort, DstPort: testPort,
		Type: vsockproto.TypeStream, Op: op, BufAlloc: 1 << 20}
}

func (g *driver) send(h vsockproto.Header, payload string) {
	g.t.Helper()
	h.Len = uint32(len(payload))
	var b [vsockproto.HeaderSize]byte
	h.Put(&b)
	g.tx.Do(append(b[:], payload...), 0)
}

// receive returns the next packet, and gives its buffer back.
func (g *driver) receive() (vsockproto.Header, string) {
	g.t.Helper()
	b := g.rx.Wait()
	var raw [vsockproto.HeaderSize]byte
	var h vsockproto.Header
	if copy(raw[:], b.Out[:b.Written]); b.Written < len(raw) {
		g.t.Fatalf("packet of %d bytes", b.Written)
	}
	h.Parse(&raw)
	payload := string(b.Out[len(raw):b.Written])
	if int(h.Len) != len(payload) {
		g.t.Fatalf("packet %+v has %d bytes of payload", h, len(payload))
	}
	g.rx.Send(b)
	return h, payload
}

func (g *driver) want(op vsockproto.Op) (vsockproto.Header, string) {
	g.t.Helper()
	h, payload := g.receive()
	if h.Op != op || h.SrcCID != uint64(CIDHost) || h.DstCID != testCID {
		g.t.Fatalf("the guest got %+v, want %v", h, op)
	}
	return h, payload
}

// connect connects the guest to testPort, where l listens.
func (g *driver) connect(l net.Listener) Conn {
	g.t.Helper()
	g.send(header(vsockproto.OpRequest), "")
	g.want(vsockproto.OpResponse)
	return accept(g.t, l)
}

func readFull(t *testing.T, c net.Conn, n int) string {
	t.Helper()
	b := make([]byte, n)
	if _, err := io.ReadFull(c, b); err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// async runs f and returns where its error comes.
func async(f func() error) <-chan error {
	done := make(chan error, 1)
	go func() { done <- f() }()
	return done
}

func TestDeviceConfig(t *testing.T) {
	d, err := NewDevice(Options{CID: 0x01020304})
	if err != nil {
		t.Fatal(err)
	}
	if got := (backend{d}).Config(); !bytes.Equal(got, []byte{4, 3, 2, 1, 0, 0, 0, 0}) {
		t.Errorf("configuration space %x", got)
	}
	for _, cid := range []uint32{1, 2, CIDNone} {
		if _, err := NewDevice(Options{CID: cid}); err == nil {
			t.Errorf("a guest has CID %d", cid)
		}
	}
	if _, err := NewDevice(Options{CID: 5, Allow: []uint32{}}); err == nil {
		t.Error("a guest that may not connect has a device")
	}
}

func TestGuestConnects(t *testing.T) {
	d, path := serve(t)
	l := listenOn(t, d, testPort)
	g := drive(t, path, 8)
	c := g.connect(l)
	if c.PeerCID() != testCID || c.RemoteAddr().String() != "vsock:7:1025" || c.LocalAddr().String() != "vsock:2:3782" {
		t.Errorf("CID %d, from %s to %s", c.PeerCID(), c.RemoteAddr(), c.LocalAddr())
	}
	g.send(header(vsockproto.OpRW), "hello")
	if got := readFull(t, c, 5); got != "hello" {
		t.Errorf("read %q", got)
	}
	if n, err := io.WriteString(c, "world"); n != 5 || err != nil {
		t.Errorf("wrote %d, %v", n, err)
	}
	if _, got := g.want(vsockproto.OpRW); got != "world" {
		t.Errorf("the guest read %q", got)
	}
	// The guest's half is closed first.
	h := header(vsockproto.OpShutdown)
	h.Flags, h.FwdCnt = vsockproto.ShutdownSend, 5
	g.send(h, "")
	if n, err := c.Read(make([]byte, 1)); n != 0 || err != io.EOF {
		t.Errorf("read %d bytes, %v, want EOF", n, err)
	}
	if _, err := io.WriteString(c, "!"); err != nil {
		t.Error(err)
	}
	g.want(vsockproto.OpRW)
	if err := c.CloseWrite(); err != nil {
		t.Error(err)
	}
	if h, _ := g.want(vsockproto.OpShutdown); h.Flags != vsockproto.ShutdownSend {
		t.Errorf("flags %d", h.Flags)
	}
	if _, err := io.WriteString(c, "!"); !errors.Is(err, unix.EPIPE) {
		t.Errorf("write after CloseWrite: %v, want EPIPE", err)
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	if h, _ := g.want(vsockproto.OpShutdown); h.Flags != vsockproto.ShutdownBoth {
		t.Errorf("flags %d", h.Flags)
	}
	g.send(header(vsockproto.OpRst), "")
	for _, err := range []error{c.Close(), c.CloseWrite(), c.SetDeadline(time.Time{})} {
		if !errors.Is(err, net.ErrClosed) {
			t.Errorf("after Close: %v, want net.ErrClosed", err)
		}
	}
	if _, err := c.Read(nil); !errors.Is(err, net.ErrClosed) {
		t.Errorf("read after Close: %v", err)
	}
}

func TestPortsAnswer(t *testing.T) {
	d, path := serve(t)
	l := listenOn(t, d, testPort)
	if _, err := d.Listen(testPort); !errors.Is(err, unix.EADDRINUSE) {
		t.Errorf("second listener: %v, want EADDRINUSE", err)
	}
	g := drive(t, path, 8)
	nobody := header(vsockproto.OpRequest)
	nobody.DstPort++
	g.send(nobody, "")
	if h, _ := g.want(vsockproto.OpRst); h.SrcPort != testPort+1 || h.DstPort != peerPort {
		t.Errorf("RST from port %d to %d", h.SrcPort, h.DstPort)
	}
	// Connections that nobody accepts are bounded, and reset with their listener.
	h := header(vsockproto.OpRequest)
	for i := range uint32(backlog) {
		h.SrcPort = i
		g.send(h, "")
		g.want(vsockproto.OpResponse)
	}
	h.SrcPort = backlog
	g.send(h, "")
	g.want(vsockproto.OpRst)
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	for range backlog {
		g.want(vsockproto.OpRst)
	}
	if _, err := l.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Accept after Close: %v, want net.ErrClosed", err)
	}
	g.send(header(vsockproto.OpRequest), "")
	g.want(vsockproto.OpRst)
	listenOn(t, d, testPort)
}

func TestDial(t *testing.T) {
	d, path := serve(t)
	g := drive(t, path, 8)
	for _, answer := range []vsockproto.Op{vsockproto.OpResponse, vsockproto.OpRst} {
		var c Conn
		done := async(func() (err error) {
			c, err = d.Dial(t.Context(), 99)
			return err
		})
		h, _ := g.want(vsockproto.OpRequest)
		if h.DstPort != 99 {
			t.Errorf("request to port %d", h.DstPort)
		}
		reply := header(answer)
		reply.SrcPort, reply.DstPort = 99, h.SrcPort
		g.send(reply, "")
		err := <-done
		if answer == vsockproto.OpRst {
			if !errors.Is(err, unix.ECONNREFUSED) {
				t.Errorf("refused: %v, want ECONNREFUSED", err)
			}
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(c, "x"); err != nil {
			t.Error(err)
		}
		g.want(vsockproto.OpRW)
		c.Close()
		g.want(vsockproto.OpShutdown)
	}
}

func TestDialGivesUp(t *testing.T) {
	d, path := serve(t)
	g := drive(t, path, 8)
	ctx, cancel := context.WithCancelCause(t.Context())
	why := errors.New("no patience")
	done := async(func() error { _, err := d.Dial(ctx, 99); return err })
	h, _ := g.want(vsockproto.OpRequest)
	cancel(why)
	if err := <-done; !errors.Is(err, why) {
		t.Errorf("Dial: %v", err)
	}
	// The answer comes too late.
	g.want(vsockproto.OpRst)
	reply := header(vsockproto.OpResponse)
	reply.SrcPort, reply.DstPort = 99, h.SrcPort
	g.send(reply, "")
	g.want(vsockproto.OpRst)
}

func TestWriteWaitsForReceiveBuffers(t *testing.T) {
	d, path := serve(t)
	l := listenOn(t, d, testPort)
	g := drive(t, path, 1)
	g.send(header(vsockproto.OpRequest), "")
	g.rx.Wait() // the response; its buffer is not given back
	c := accept(t, l)
	data := strings.Repeat("0123456789", rxRoom) // ten packets
	done := async(func() error { _, err := io.WriteString(c, data); return err })
	// Both directions don't wait for each other.
	g.send(header(vsockproto.OpRW), "ping")
	readFull(t, c, 4)
	g.provide(1)
	var got strings.Builder
	for got.Len() < len(data) {
		_, payload := g.want(vsockproto.OpRW)
		got.WriteString(payload)
	}
	if err := <-done; err != nil || got.String() != data {
		t.Errorf("write: %v, the data arrived: %v", err, got.String() == data)
	}
}

func TestWriteWithoutCreditStallsNobody(t *testing.T) {
	d, path := serve(t)
	l := listenOn(t, d, testPort)
	g := drive(t, path, 8)
	h := header(vsockproto.OpRequest)
	h.SrcPort, h.BufAlloc = 1, 10
	g.send(h, "")
	g.want(vsockproto.OpResponse)
	slow := accept(t, l)
	fast := g.connect(l)

	type result struct {
		n   int
		err error
	}
	done := make(chan result, 1)
	go func() {
		n, err := slow.Write(make([]byte, 100))
		done <- result{n, err}
	}()
	if h, _ := g.want(vsockproto.OpRW); h.Len != 10 || h.DstPort != 1 {
		t.Errorf("packet of %d bytes for port %d", h.Len, h.DstPort)
	}
	g.want(vsockproto.OpCreditRequest)
	if _, err := io.WriteString(fast, "go"); err != nil {
		t.Error(err)
	}
	if h, _ := g.want(vsockproto.OpRW); h.DstPort != peerPort {
		t.Errorf("a packet for port %d", h.DstPort)
	}
	if err := slow.SetWriteDeadline(time.Now()); err != nil {
		t.Error(err)
	}
	if r := <-done; r.n != 10 || !errors.Is(r.err, os.ErrDeadlineExceeded) {
		t.Errorf("wrote %d, %v, want 10 and a timeout", r.n, r.err)
	}
	// Credit that comes now is for what is written now.
	update := header(vsockproto.OpCreditUpdate)
	update.SrcPort, update.BufAlloc, update.FwdCnt = 1, 10, 10
	g.send(update, "")
	if err := slow.SetWriteDeadline(time.Time{}); err != nil {
		t.Error(err)
	}
	if _, err := io.WriteString(slow, "again"); err != nil {
		t.Error(err)
	}
	if _, got := g.want(vsockproto.OpRW); got != "again" {
		t.Errorf("the guest read %q", got)
	}
}

func TestReadDeadline(t *testing.T) {
	d, path := serve(t)
	l := listenOn(t, d, testPort)
	g := drive(t, path, 8)
	c := g.connect(l)
	for _, at := range []time.Time{time.Unix(1, 0), time.Now().Add(time.Millisecond)} {
		if err := c.SetReadDeadline(at); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("read: %v, want a timeout", err)
		}
	}
	if err := c.SetReadDeadline(time.Time{}); err != nil {
		t.Fatal(err)
	}
	g.send(header(vsockproto.OpRW), "x")
	readFull(t, c, 1)
}

func TestCloseEndsReadAndWrite(t *testing.T) {
	d, path := serve(t)
	l := listenOn(t, d, testPort)
	g := drive(t, path, 8)
	h := header(vsockproto.OpRequest)
	h.BufAlloc = 3
	g.send(h, "")
	g.want(vsockproto.OpResponse)
	c := accept(t, l)
	reading := async(func() error { _, err := c.Read(make([]byte, 1)); return err })
	writing := async(func() error {
		n, err := c.Write(make([]byte, 10))
		if n != 3 {
			t.Errorf("wrote %d bytes, want 3", n)
		}
		return err
	})
	g.want(vsockproto.OpRW)
	g.want(vsockproto.OpCreditRequest)
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	for _, done := range []<-chan error{reading, writing} {
		if err := <-done; !errors.Is(err, net.ErrClosed) {
			t.Errorf("got %v, want net.ErrClosed", err)
		}
	}
	g.want(vsockproto.OpShutdown)
}

func TestGuestResetsConnection(t *testing.T) {
	d, path := serve(t)
	l := listenOn(t, d, testPort)
	g := drive(t, path, 8)
	c := g.connect(l)
	g.send(header(vsockproto.OpRW), "last")
	g.send(header(vsockproto.OpRst), "")
	if got := readFull(t, c, 4); got != "last" {
		t.Errorf("read %q", got)
	}
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, unix.ECONNRESET) {
		t.Errorf("read: %v, want ECONNRESET", err)
	}
	if _, err := io.WriteString(c, "x"); !errors.Is(err, unix.ECONNRESET) {
		t.Errorf("write: %v, want ECONNRESET", err)
	}
}

// A guest whose memory for answers is full is heard again when it has room.
func TestCongestionEnds(t *testing.T) {
	d, path := serve(t)
	l := listenOn(t, d, testPort)
	g := drive(t, path, 0)
	h := header(vsockproto.OpRW)
	h.SrcPort++
	for range maxResets {
		g.send(h, "")
	}
	// Nobody takes this one until the answers are on their way.
	var b [vsockproto.HeaderSize]byte
	h = header(vsockproto.OpRequest)
	h.Put(&b)
	g.tx.Send(g.tx.NewBuf(b[:], 0))
	g.provide(8)
	for range maxResets {
		g.want(vsockproto.OpRst)
	}
	g.want(vsockproto.OpResponse)
	g.tx.Wait()
	accept(t, l)
}

// A driver that starts again knows nothing of the connections before, one that
// was only paused does.
func TestDriverRestartAndPause(t *testing.T) {
	d, path := serve(t)
	l := listenOn(t, d, testPort)
	g := drive(t, path, 8)
	c := g.connect(l)
	rx, tx := g.rx.Stop(), g.tx.Stop()
	// What is written meanwhile waits.
	done := async(func() error { _, err := io.WriteString(c, "x"); return err })
	g.rx.Start(rx)
	g.tx.Start(tx)
	g.want(vsockproto.OpRW)
	if err := <-done; err != nil {
		t.Error(err)
	}
	g.send(header(vsockproto.OpRW), "y")
	readFull(t, c, 1)

	g.rx.Stop()
	g.tx.Stop()
	g.rx, g.tx = g.v.Queue(queueRX, 64), g.v.Queue(queueTX, 64)
	g.provide(8)
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, vsockproto.ErrGone) {
		t.Errorf("read: %v, want ErrGone", err)
	}
	g.connect(l)
}

// A driver that runs while its VMM connects anew is told by an event.
func TestReconnectedDriverIsTold(t *testing.T) {
	d, path := serve(t)
	l := listenOn(t, d, testPort)
	g := drive(t, path, 8)
	c := g.connect(l)
	g.v.Close()
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, vsockproto.ErrGone) {
		t.Errorf("read: %v, want ErrGone", err)
	}

	v := vhosttest.Dial(t, path, vhosttest.Options{})
	g = &driver{t: t, v: v, rx: v.Queue(queueRX, 64)}
	g.provide(8)
	event := v.Queue(queueEvent, 4)
	event.Send(event.NewBuf(nil, 8))
	// This test's queues are new, those of a driver would not be: so there is one
	// entry before this driver's first.
	tx := v.Unstarted(queueTX, 64)
	tx.PutAvailIdx(1)
	tx.Start(1)
	if b := event.Wait(); b.Written != 4 || !bytes.Equal(b.Out[:4], make([]byte, 4)) {
		t.Errorf("the event is %x", b.Out[:b.Written])
	}
}

// There is no event for a driver that starts.
func TestNewDriverIsNotTold(t *testing.T) {
	_, path := serve(t)
	v := vhosttest.Dial(t, path, vhosttest.Options{})
	event := v.Queue(queueEvent, 4)
	event.Send(event.NewBuf(nil, 8))
	g := &driver{t: t, v: v, rx: v.Queue(queueRX, 64), tx: v.Queue(queueTX, 64)}
	g.provide(1)
	g.send(header(vsockproto.OpRW), "")
	g.want(vsockproto.OpRst)
	event.Stop()
	if b := event.Poll(); b != nil {
		t.Errorf("an event of %d bytes", b.Written)
	}
}

func TestOneVMMAtATime(t *testing.T) {
	d, path := serve(t)
	d.mu.Lock()
	d.handover = time.Millisecond
	d.mu.Unlock()
	l := listenOn(t, d, testPort)
	first := drive(t, path, 8)
	first.connect(l)
	second := async(func() error {
		c, err := net.Dial("unix", path)
		if err != nil {
			return err
		}
		defer c.Close()
		_, err = c.Read(make([]byte, 1))
		return err
	})
	if err := <-second; err != io.EOF {
		t.Errorf("second VMM: %v, want to be disconnected", err)
	}
	d.mu.Lock()
	d.handover = vhosttest.Patience
	d.mu.Unlock()
	first.v.Close()
	drive(t, path, 8).connect(l)
}

func TestBadDriverStopsItsDeviceOnly(t *testing.T) {
	for _, tc := range []struct {
		name string
		do   func(g *driver)
	}{
		{"short packet", func(g *driver) { g.tx.Send(g.tx.NewBuf(make([]byte, 43), 0)) }},
		{"receive buffer without room", func(g *driver) {
			g.rx.Add(g.rx.NewBuf(nil, vsockproto.HeaderSize))
			g.rx.ForceKick()
			h := header(vsockproto.OpRW)
			var b [vsockproto.HeaderSize]byte
			h.Put(&b)
			g.tx.Send(g.tx.NewBuf(b[:], 0))
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			d, path := serve(t)
			l := listenOn(t, d, testPort)
			g := drive(t, path, 0)
			tc.do(g)
			g.tx.Wait()
			g.rx.Stop()
			g.tx.Stop()
			g.rx, g.tx = g.v.Queue(queueRX, 64), g.v.Queue(queueTX, 64)
			g.provide(8)
			g.connect(l)
		})
	}
}

// The VMM takes the guest's memory away while its device is in use.
func TestMemoryIsTakenAway(t *testing.T) {
	d, path := serve(t)
	l := listenOn(t, d, testPort)
	v := vhosttest.Dial(t, path, vhosttest.Options{Unsealed: true})
	g := &driver{t: t, v: v, rx: v.Queue(queueRX, 64), tx: v.Queue(queueTX, 64)}
	g.provide(8)
	c := g.connect(l)
	if err := v.File.Truncate(0); err != nil {
		t.Fatal(err)
	}
	done := async(func() error { _, err := c.Write(make([]byte, 100)); return err })
	v.Sock.Close()
	if err := <-done; !errors.Is(err, vsockproto.ErrGone) {
		t.Errorf("write: %v, want ErrGone", err)
	}
	drive(t, path, 8).connect(l)
}

func TestServeEndsListenersAndConnections(t *testing.T) {
	a := Addr{Kind: VhostUser, Path: socketPath(t)}
	l, err := Listen(a, Options{Port: testPort, CID: testCID})
	if err != nil {
		t.Fatal(err)
	}
	if l.Addr() != a {
		t.Errorf("the listener's address is %s", l.Addr())
	}
	g := drive(t, a.Path, 8)
	c := g.connect(l)
	accepting := async(func() error { _, err := l.Accept(); return err })
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	if err := <-accepting; !errors.Is(err, net.ErrClosed) {
		t.Errorf("Accept: %v, want net.ErrClosed", err)
	}
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, vsockproto.ErrGone) {
		t.Errorf("read: %v, want ErrGone", err)
	}
	if _, err := os.Lstat(a.Path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the socket's file is still there: %v", err)
	}
}

// FuzzDevice sends packets that are wrong somewhere, and takes few answers. A
// driver that starts after that is served.
func FuzzDevice(f *testing.F) {
	f.Add([]byte{0})
	f.Add([]byte{45, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 4, 7, 7})
	f.Fuzz(func(t *testing.T, in []byte) {
		d, path := serve(t)
		l := listenOn(t, d, testPort)
		g := drive(t, path, 4)
		for i := 0; i < 32 && len(in) > 0; i++ {
			n := min(int(in[0]), len(in)-1)
			packet, rest := in[1:1+n], in[1+n:]
			in = rest
			h := header(vsockproto.OpRequest)
			var b [vsockproto.HeaderSize]byte
			h.Put(&b)
			wire := append(b[:], packet...)
			for j, x := range packet[:min(n, len(b))] {
				wire[j] ^= x
			}
			g.tx.Add(g.tx.NewBuf(wire, 0))
			g.tx.ForceKick()
		}
		g.rx.Stop()
		g.tx.Stop()
		g.rx, g.tx = g.v.Queue(queueRX, 64), g.v.Queue(queueTX, 64)
		g.provide(8)
		g.connect(l)
	})
}
