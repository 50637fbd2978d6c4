// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package vsock

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"fsva/gofer/vhostuser"
	"fsva/gofer/vsock/vsockproto"
)

// The virtqueues of a vsock device (virtio 1.2 §5.10.2).
const (
	queueRX    = 0 // towards the guest
	queueTX    = 1
	queueEvent = 2
	queues     = 3
)

// featureStream is the feature bit of stream sockets.
const featureStream = 1 << 0

// eventTransportReset tells a driver that its connections are gone and that its
// CID may be another one.
const eventTransportReset = 0

const (
	// connBuffer is how much unread data a connection can hold, as in Linux.
	connBuffer = 256 << 10
	// maxConns bounds a guest's connections, and so its buffers to 64 MiB.
	maxConns = 256
	// maxResets bounds the resets that wait for a guest that takes no packets.
	maxResets = 256
	// backlog bounds the connections that wait for Accept.
	backlog = 128
	// closeTimeout and dialTimeout are Linux' own.
	closeTimeout    = 8 * time.Second
	dialTimeout     = 2 * time.Second
	handoverTimeout = 5 * time.Second
	// maxVMMs bounds the VMMs that are connected: one, and others that wait.
	maxVMMs = 8
)

// Device is a virtio-vsock device for one guest, whose VMM is the front end of
// vhost-user: the host's side of AF_VSOCK in this process. What listens on its
// ports is reached by the guest as CID 2.
//
// When the VMM goes, or the guest's driver starts anew, all connections end with
// an error; listeners stay, for the next VMM.
//
// Lock order: mu, then what vhostuser locks.
type Device struct {
	cid uint32
	log *slog.Logger

	mu      sync.Mutex
	machine *vsockproto.Machine
	ports   map[uint32]*portListener
	// front is the VMM that is connected, nil if none is. Nothing but pump uses
	// its receive queue.
	front *front
	// gone is closed when front becomes nil.
	gone chan struct{}
	// handover is how long a VMM waits for its predecessor to hang up.
	handover time.Duration
	// timer runs expire; nil if no connection waits for its end.
	timer *time.Timer
	// err is set once the device is of no use any more.
	err error
}

// NewDevice returns the device of a guest with CID o.CID, which gets only the
// connections that o.Allow lets it have.
func NewDevice(o Options) (*Device, error) {
	cid := o.CID
	if cid == 0 {
		cid = CIDFirstGuest
	}
	if cid < CIDFirstGuest || cid == CIDNone {
		return nil, fmt.Errorf("CID %d: a guest's is from %d to %d", cid, CIDFirstGuest, CIDNone-1)
	}
	if !o.allows(cid) {
		return nil, fmt.Errorf("CID %d is not one of those that may connect", cid)
	}
	return &Device{
		cid: cid,
		log: o.logger().With("cid", cid),
		machine: vsockproto.New(vsockproto.Config{
			LocalCID: CIDHost, PeerCID: cid,
			BufferSize: connBuffer, MaxConns: maxConns, MaxResets: maxResets, CloseTimeout: closeTimeout,
		}),
		ports:    make(map[uint32]*portListener),
		handover: handoverTimeout,
	}, nil
}

// Serve lets a VMM connect to l, a unix socket, until ctx ends, then one that
// comes after it, and so on; then it returns nil. It returns an error if l fails.
// In both cases the device is of no use any more: its listeners are closed.
func (d *Device) Serve(ctx context.Context, l net.Listener) error {
	err := vhostuser.Serve(ctx, l, backend{d}, vhostuser.Options{MaxConns: maxVMMs, Log: d.log})
	d.mu.Lock()
	defer d.mu.Unlock()
	d.err = net.ErrClosed
	if err != nil {
		d.err = err
	}
	for _, p := range d.ports {
		p.closeLocked(d.err)
	}
	d.restart()
	if d.timer != nil {
		d.timer.Stop()
	}
	return err
}

// Listen accepts the guest's connections to port.
func (d *Device) Listen(port uint32) (net.Listener, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.err != nil {
		return nil, fmt.Errorf("listen on vsock port %d: %w", port, d.err)
	}
	if d.ports[port] != nil {
		return nil, fmt.Errorf("listen on vsock port %d: %w", port, unix.EADDRINUSE)
	}
	p := &portListener{d: d, port: port, queue: make(chan *conn, backlog), closed: make(chan struct{})}
	d.ports[port] = p
	return p, nil
}

// Dial connects to a port of the guest. If ctx has no deadline it gives up after
// 2 s, as Linux does.
func (d *Device) Dial(ctx context.Context, port uint32) (Conn, error) {
	if _, ok := ctx.Deadline(); !ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, dialTimeout)
		defer cancel()
	}
	c, err := d.dial(ctx, port)
	if err != nil {
		return nil, fmt.Errorf("connect to vsock:%d:%d: %w", d.cid, port, err)
	}
	return c, nil
}

func (d *Device) dial(ctx context.Context, port uint32) (*conn, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.err != nil {
		return nil, d.err
	}
	state, err := d.machine.Connect(port)
	if err != nil {
		return nil, err
	}
	c := newConn(d, state)
	d.pump()
	for !state.Open() && state.Err() == nil && ctx.Err() == nil && !state.EOF() {
		d.mu.Unlock()
		select {
		case <-c.writable:
		case <-ctx.Done():
		}
		d.mu.Lock()
	}
	switch {
	case state.Err() == vsockproto.ErrReset:
		return nil, unix.ECONNREFUSED
	case state.Err() != nil:
		return nil, state.Err()
	case state.Open() || state.EOF():
		return c, nil
	default:
		c.closeLocked()
		return nil, context.Cause(ctx)
	}
}

// restart ends all connections: there is nobody any more who knows them.
func (d *Device) restart() {
	for _, state := range d.machine.Restart() {
		wake(state, vsockproto.EventRead|vsockproto.EventWrite)
	}
	d.arm()
}

// arm makes sure that the machine's Expire is called in time, if it has to be.
func (d *Device) arm() {
	if d.timer != nil {
		return
	}
	if next := d.machine.Expire(time.Now()); !next.IsZero() {
		d.timer = time.AfterFunc(time.Until(next), d.expire)
	}
}

func (d *Device) expire() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.timer = nil
	d.arm()
	d.pump() // the resets
}

// running reports whether packets can be sent and received.
func (d *Device) running() bool {
	f := d.front
	return f != nil && f.began[queueRX] && f.began[queueTX] && !f.broken
}

// pump gives the guest the packets that wait for it, as long as it has room.
func (d *Device) pump() {
	if !d.running() {
		return
	}
	rx := d.front.conn.Queue(queueRX)
	for d.machine.Pending() && d.running() {
		chain := rx.Take()
		if chain == nil {
			return // until its Kick
		}
		if room := chain.WritableLen() - vsockproto.HeaderSize; room > 0 {
			n, err := d.send(chain, room)
			chain.Done(n)
			if err != nil {
				d.front.fail("sending to the guest", err)
			}
		} else {
			chain.Done(0)
			d.front.fail("sending to the guest", errors.New("receive buffer has no room for a packet"))
		}
	}
}

// send writes the next packet to chain, and returns its length.
func (d *Device) send(chain *vhostuser.Chain, room int) (int, error) {
	h, payload, sent, _ := d.machine.Next(room)
	var b [vsockproto.HeaderSize]byte
	h.Put(&b)
	if _, err := chain.Write(b[:]); err != nil {
		return 0, err
	}
	if _, err := chain.Write(payload); err != nil {
		return 0, err
	}
	if sent != nil {
		wake(sent, vsockproto.EventWrite)
	}
	return len(b) + len(payload), nil
}

// receive takes the next packet from the guest, and reports whether there was
// one that can be taken now.
func (d *Device) receive() bool {
	if !d.running() || d.machine.Congested() {
		return false
	}
	chain := d.front.conn.Queue(queueTX).Take()
	if chain == nil {
		return false
	}
	defer chain.Done(0)
	var b [vsockproto.HeaderSize]byte
	n, err := chain.Read(b[:])
	if err == nil && n < len(b) {
		err = fmt.Errorf("packet of %d bytes", n)
	}
	if err != nil {
		d.front.fail("receiving from the guest", err)
		return false
	}
	var h vsockproto.Header
	h.Parse(&b)
	state, ev, err := d.machine.Receive(&h, chain, chain.ReadableLen()-len(b))
	if err != nil {
		d.front.fail("receiving from the guest", err)
	}
	if ev == vsockproto.EventRequest {
		d.request(state)
	} else if ev != 0 {
		wake(state, ev)
	}
	return true
}

// request answers the guest's request for a connection.
func (d *Device) request(state *vsockproto.Conn) {
	p := d.ports[state.LocalPort()]
	if p == nil || len(p.queue) == cap(p.queue) {
		state.Reset()
		return
	}
	state.Accept()
	p.queue <- newConn(d, state) // has room: all who send hold d.mu
}

// wake tells a connection's users what has happened.
func wake(state *vsockproto.Conn, ev vsockproto.Event) {
	c, ok := state.Owner.(*conn)
	if !ok {
		return // refused
	}
	if ev&vsockproto.EventRead != 0 {
		signal(c.readable)
	}
	if ev&(vsockproto.EventWrite|vsockproto.EventOpen) != 0 {
		signal(c.writable)
	}
}

// signal wakes whoever waits on ch, or the next one to do so.
func signal(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}

// backend is the Device as vhostuser sees it.
type backend struct{ d *Device }

func (b backend) Features() uint64 { return featureStream }
func (b backend) Queues() int      { return queues }
func (b backend) Config() []byte   { return binary.LittleEndian.AppendUint64(nil, uint64(b.d.cid)) }

// Open makes c the device's front end once the one before it has gone.
func (b backend) Open(ctx context.Context, c *vhostuser.Conn) (vhostuser.Handler, error) {
	d := b.d
	d.mu.Lock()
	defer d.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, d.handover)
	defer cancel()
	for d.front != nil {
		gone := d.gone
		d.mu.Unlock()
		select {
		case <-gone:
		case <-ctx.Done():
		}
		d.mu.Lock()
		if d.front != nil && ctx.Err() != nil {
			return nil, errors.New("another VMM is connected to this guest's device")
		}
	}
	d.front, d.gone = &front{d: d, conn: c}, make(chan struct{})
	return d.front, nil
}

// front is the device for one VMM: a vhostuser.Handler. Its fields are guarded
// by Device.mu.
type front struct {
	d    *Device
	conn *vhostuser.Conn
	// began says of each queue that it runs and its start was looked at.
	began [queues]bool
	// broken: the guest has broken the rules, or its memory is gone. No more
	// packets until its driver starts the device again.
	broken bool
	// logged: it was said that the guest breaks rules; once is enough.
	logged bool
	// known: the driver that runs began with this front end, or was told that
	// its connections are gone.
	known bool
	// resetDue: the driver has to be told yet.
	resetDue bool
}

// fail stops the device until its queues are started again.
func (f *front) fail(what string, err error) {
	if f.broken {
		return
	}
	f.broken = true
	if !f.logged {
		f.logged = true
		f.d.log.Warn("vsock device stopped: "+what, "err", err)
	}
}

// Kick implements vhostuser.Handler.
func (f *front) Kick(q *vhostuser.Queue) {
	d := f.d
	more := true
	for more {
		d.mu.Lock()
		if i := q.Index(); !f.began[i] {
			f.began[i] = true
			f.begin(i, q.Base())
		}
		f.sendReset()
		// The receive queue's kick is also the end of congestion. Others that want
		// the device get it between two packets.
		d.pump()
		more = q.Index() != queueEvent && d.receive()
		d.pump()
		d.mu.Unlock()
	}
}

// begin looks at a queue that starts, at entry base of its ring.
func (f *front) begin(index int, base uint16) {
	f.broken = false
	if index != queueTX {
		return
	}
	switch {
	case base == 0:
		// A driver that has just started has no connections.
		f.d.restart()
	case !f.known:
		// It has, with a VMM or a process before this one.
		f.resetDue = true
	}
	f.known = true
}

// sendReset tells the driver that its connections are gone. A VMM may keep the
// event queue to itself, as QEMU does; then the driver learns it from RSTs.
func (f *front) sendReset() {
	if !f.resetDue {
		return
	}
	chain := f.conn.Queue(queueEvent).Take()
	if chain == nil {
		return
	}
	f.resetDue = false
	n, err := chain.Write(binary.LittleEndian.AppendUint32(nil, eventTransportReset))
	chain.Done(n)
	if err != nil {
		f.fail("sending an event", err)
	}
}

// Stop implements vhostuser.Handler. No chain is kept beyond mu.
func (f *front) Stop(q *vhostuser.Queue) {
	f.d.mu.Lock()
	defer f.d.mu.Unlock()
	f.began[q.Index()] = false
}

// Close implements vhostuser.Handler.
func (f *front) Close() {
	f.d.mu.Lock()
	defer f.d.mu.Unlock()
	f.d.front = nil
	close(f.d.gone)
	f.d.restart()
}

// deviceListener is a listener on a port of a Device of its own.
type deviceListener struct {
	net.Listener
	addr   Addr
	cancel context.CancelFunc
	served chan struct{} // closed when the device is done
}

// listenDevice serves a device on l, which it takes over.
func listenDevice(l net.Listener, a Addr, o Options) (net.Listener, error) {
	d, err := NewDevice(o)
	if err != nil {
		l.Close()
		return nil, err
	}
	p, err := d.Listen(o.port())
	if err != nil {
		l.Close()
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	dl := &deviceListener{Listener: p, addr: a, cancel: cancel, served: make(chan struct{})}
	go func() {
		defer close(dl.served)
		d.Serve(ctx, l) // its error is that of Accept
	}()
	return dl, nil
}

func (l *deviceListener) Addr() net.Addr { return l.addr }

// Close disconnects the VMM, and with it all connections.
func (l *deviceListener) Close() error {
	err := l.Listener.Close()
	l.cancel()
	<-l.served
	return err
}

// portListener accepts the guest's connections to one port.
type portListener struct {
	d    *Device
	port uint32
	// queue has the connections that nobody has accepted yet. Device.mu is held to
	// send.
	queue  chan *conn
	closed chan struct{}
	err    error // why it is closed; valid once closed is
}

func (p *portListener) Addr() net.Addr { return Addr{Kind: Kernel, CID: CIDHost, Port: p.port} }

func (p *portListener) Accept() (net.Conn, error) {
	select {
	case <-p.closed:
	case c := <-p.queue:
		return c, nil
	}
	return nil, &net.OpError{Op: "accept", Net: string(Kernel), Addr: p.Addr(), Err: p.err}
}

// Close implements net.Listener. Connections that nobody has accepted are reset.
func (p *portListener) Close() error {
	p.d.mu.Lock()
	defer p.d.mu.Unlock()
	p.closeLocked(net.ErrClosed)
	p.d.pump()
	return nil
}

// closeLocked closes the listener, for the reason err.
func (p *portListener) closeLocked(err error) {
	if p.d.ports[p.port] != p {
		return
	}
	delete(p.d.ports, p.port)
	p.err = err
	close(p.closed)
	for {
		select {
		case c := <-p.queue:
			c.closed = true
			c.state.Reset()
		default:
			return
		}
	}
}
