// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package vhostuser

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"sync/atomic"
)

// Features of virtio devices in general, and of vhost-user (bit 30, which virtio leaves alone).
const (
	featureIndirect = 1 << 28
	featureEventIdx = 1 << 29
	featureProtocol = 1 << 30
	// FeatureVersion1 is what all drivers have negotiated that get to use a queue.
	FeatureVersion1 = 1 << 32

	offeredFeatures = featureIndirect | featureEventIdx | featureProtocol | FeatureVersion1
)

// Protocol features.
const (
	protocolMQ                = 1 << 0
	protocolReplyAck          = 1 << 3
	protocolConfig            = 1 << 9
	protocolConfigureMemSlots = 1 << 15

	offeredProtocol = protocolMQ | protocolReplyAck | protocolConfig | protocolConfigureMemSlots
)

// Conn is the connection of one VMM, which is one instance of the device. Its exported methods are safe for concurrent
// use.
type Conn struct {
	sock    *net.UnixConn
	dev     Device
	log     *slog.Logger
	handler Handler
	queues  []*Queue

	// features are those that the driver has acknowledged.
	features atomic.Uint64

	// What follows belongs to the connection's goroutine.

	protocol uint64
	mem      *memory // nil: not set
}

// Features returns the features that the driver has acknowledged, those of this package included. They are known, and
// don't change, while a queue is running.
func (c *Conn) Features() uint64 { return c.features.Load() }

// Queue returns a queue by its number, which must be less than the device's number of queues.
func (c *Conn) Queue(i int) *Queue { return c.queues[i] }

// newConn borrows sock.
func newConn(sock *net.UnixConn, dev Device, log *slog.Logger) *Conn {
	c := &Conn{sock: sock, dev: dev, log: log, queues: make([]*Queue, dev.Queues())}
	for i := range c.queues {
		q := &Queue{conn: c, index: i}
		q.drained.L = &q.mu
		c.queues[i] = q
	}
	return c
}

// serve handles the VMM's requests until it hangs up or breaks the protocol, or sock is closed.
func (c *Conn) serve(ctx context.Context) (err error) {
	ctx, cancel := context.WithCancel(ctx)
	if c.handler, err = c.dev.Open(ctx, c); err != nil {
		cancel()
		return fmt.Errorf("open the device: %w", err)
	}
	defer c.close()
	defer cancel()
	for {
		m, err := receive(c.sock)
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		if err := c.request(m); err != nil {
			return err
		}
	}
}

// close stops all queues and gives back all that the VMM has sent.
func (c *Conn) close() {
	c.stop()
	c.handler.Close()
	for _, q := range c.queues {
		q.close()
	}
	if c.mem != nil {
		c.mem.decRef()
	}
}

func (c *Conn) stop() {
	for _, q := range c.queues {
		q.stop()
	}
}

// request handles one request, and answers it. An error ends the connection.
func (c *Conn) request(m *message) error {
	defer m.closeFDs()
	switch m.request {
	case reqSetMemTable, reqAddMemReg, reqRemMemReg, reqSetVringKick, reqSetVringCall, reqSetVringErr:
	default:
		if len(m.fds) > 0 {
			return fmt.Errorf("request %d with %d descriptors", m.request, len(m.fds))
		}
	}
	answer, err := c.get(m)
	if answer == nil && err == nil {
		err = c.set(m)
		if m.flags&flagNeedReply != 0 && c.protocol&protocolReplyAck != 0 {
			answer = make([]byte, 8)
			if err != nil {
				order.PutUint64(answer, 1)
			}
		}
	}
	if answer != nil {
		err = errors.Join(err, reply(c.sock, m, answer))
	}
	return err
}

// get handles the requests that have an answer of their own. It returns nil for others.
func (c *Conn) get(m *message) ([]byte, error) {
	number := func(v uint64) ([]byte, error) {
		if len(m.payload) != 0 {
			return nil, fmt.Errorf("request %d with %d bytes", m.request, len(m.payload))
		}
		return order.AppendUint64(nil, v), nil
	}
	switch m.request {
	case reqGetFeatures:
		return number(c.dev.Features() | offeredFeatures)
	case reqGetProtocolFeatures:
		return number(offeredProtocol)
	case reqGetQueueNum:
		return number(uint64(len(c.queues)))
	case reqGetMaxMemSlots:
		return number(maxRegions)
	case reqGetVringBase:
		index, _, err := m.parseVringState()
		if err != nil {
			return nil, err
		}
		q, err := c.queue(index)
		if err != nil {
			return nil, err
		}
		q.stop()
		// The VMM sends it again before the queue may run again.
		q.setKick(nil)
		return order.AppendUint32(order.AppendUint32(nil, index), uint32(q.base)), nil
	case reqGetConfig:
		return c.config(m)
	}
	return nil, nil
}

// config answers GET_CONFIG: offset, size and flags, and that many bytes.
func (c *Conn) config(m *message) ([]byte, error) {
	if len(m.payload) < 12 {
		return nil, fmt.Errorf("request %d with %d bytes", m.request, len(m.payload))
	}
	config := c.dev.Config()
	offset, size := uint64(order.Uint32(m.payload)), uint64(order.Uint32(m.payload[4:]))
	if offset+size > uint64(len(config)) || size != uint64(len(m.payload)-12) {
		// The specification's way to say no: an answer without a payload.
		return []byte{}, nil
	}
	answer := append([]byte(nil), m.payload...)
	copy(answer[12:], config[offset:offset+size])
	return answer, nil
}

// set handles the other requests.
func (c *Conn) set(m *message) error {
	switch m.request {
	case reqSetOwner:
		return nil
	case reqResetOwner:
		c.stop()
		return nil
	case reqSetFeatures:
		return c.setFeatures(m)
	case reqSetProtocolFeatures:
		v, err := m.u64()
		if err != nil {
			return err
		}
		if v&^offeredProtocol != 0 {
			return fmt.Errorf("protocol features %#x were not offered", v&^offeredProtocol)
		}
		c.protocol = v
		return nil
	case reqSetMemTable:
		return c.setMemTable(m)
	case reqAddMemReg:
		return c.addMemReg(m)
	case reqRemMemReg:
		return c.remMemReg(m)
	case reqSetVringNum, reqSetVringBase, reqSetVringEnable:
		return c.setVringState(m)
	case reqSetVringAddr:
		return c.setVringAddr(m)
	case reqSetVringKick, reqSetVringCall, reqSetVringErr:
		return c.setVringFD(m)
	case reqSetConfig:
		return errors.New("the device's configuration can't be changed")
	}
	return fmt.Errorf("request %d is not known", m.request)
}

func (c *Conn) setFeatures(m *message) error {
	v, err := m.u64()
	if err != nil {
		return err
	}
	if unknown := v &^ (c.dev.Features() | offeredFeatures); unknown != 0 {
		return fmt.Errorf("features %#x were not offered", unknown)
	}
	for _, q := range c.queues {
		if q.started && v != c.features.Load() {
			return errors.New("features change while a queue runs")
		}
	}
	c.features.Store(v)
	return nil
}

// setMemory makes mem the current table. It takes over one reference, also if it fails.
func (c *Conn) setMemory(mem *memory) error {
	for _, q := range c.queues {
		if err := q.moved(mem); err != nil {
			mem.decRef()
			return err
		}
	}
	if c.mem != nil {
		c.mem.decRef()
	}
	c.mem = mem
	return c.startReady()
}

func (c *Conn) setMemTable(m *message) error {
	regions, err := m.parseMemTable()
	if err != nil {
		return err
	}
	mem := newMemory(nil)
	for i, r := range regions {
		if mem, err = add(mem, m.fds[i], r); err != nil {
			return err
		}
	}
	return c.setMemory(mem)
}

// add returns mem with r, in the file fd, which it borrows. It takes over the reference on mem.
func add(mem *memory, fd int, r memRegion) (*memory, error) {
	defer mem.decRef()
	mapped, err := mapRegion(fd, r.guest, r.user, r.size, r.offset)
	if err != nil {
		return nil, err
	}
	return mem.with(mapped)
}

func (c *Conn) addMemReg(m *message) error {
	r, err := m.parseMemReg()
	if err != nil {
		return err
	}
	if len(m.fds) != 1 {
		return fmt.Errorf("memory region with %d descriptors", len(m.fds))
	}
	mem := newMemory(nil)
	if c.mem != nil {
		mem = c.mem.incRef()
	}
	if mem, err = add(mem, m.fds[0], r); err != nil {
		return err
	}
	return c.setMemory(mem)
}

func (c *Conn) remMemReg(m *message) error {
	// QEMU has sent the region's descriptor along, and no longer does.
	r, err := m.parseMemReg()
	if err != nil {
		return err
	}
	if len(m.fds) > 1 {
		return fmt.Errorf("memory region with %d descriptors", len(m.fds))
	}
	if c.mem == nil {
		return errors.New("no memory region to remove")
	}
	mem, err := c.mem.without(r.guest, r.user, r.size)
	if err != nil {
		return err
	}
	return c.setMemory(mem)
}

func (c *Conn) queue(index uint32) (*Queue, error) {
	if uint64(index) >= uint64(len(c.queues)) {
		return nil, fmt.Errorf("queue %d of %d", index, len(c.queues))
	}
	return c.queues[index], nil
}

func (c *Conn) setVringState(m *message) error {
	index, num, err := m.parseVringState()
	if err != nil {
		return err
	}
	q, err := c.queue(index)
	if err != nil {
		return err
	}
	if m.request == reqSetVringEnable {
		if num > 1 {
			return fmt.Errorf("queue %d: enabled with %d", index, num)
		}
		if q.enabled = num == 1; !q.enabled {
			q.stop()
		}
		return c.startReady()
	}
	if q.started {
		return fmt.Errorf("queue %d: request %d while it runs", index, m.request)
	}
	if m.request == reqSetVringBase {
		if num > 0xffff {
			return fmt.Errorf("queue %d: base %d", index, num)
		}
		q.base = uint16(num)
		return nil
	}
	if num == 0 || num > maxQueueSize || num&(num-1) != 0 {
		return fmt.Errorf("queue %d: %d descriptors", index, num)
	}
	q.num = uint16(num)
	return c.startReady()
}

func (c *Conn) setVringAddr(m *message) error {
	index, at, err := m.parseVringAddr()
	if err != nil {
		return err
	}
	q, err := c.queue(index)
	if err != nil {
		return err
	}
	q.addrs = &at
	if q.started {
		return q.moved(c.mem)
	}
	return c.startReady()
}

func (c *Conn) setVringFD(m *message) error {
	index, has, err := m.parseVringFD()
	if err != nil {
		return err
	}
	q, err := c.queue(index)
	if err != nil {
		return err
	}
	var e *eventfd
	if has {
		if e, err = newEventfd(m.takeFD()); err != nil {
			return fmt.Errorf("queue %d: request %d: %w", index, m.request, err)
		}
	}
	switch m.request {
	case reqSetVringCall:
		q.setCall(e)
	case reqSetVringErr:
		q.setErr(e)
	case reqSetVringKick:
		if e == nil {
			return fmt.Errorf("queue %d: polling is not supported", index)
		}
		q.stop()
		q.setKick(e)
		return c.startReady()
	}
	return nil
}

// startReady starts the queues that have become ready.
func (c *Conn) startReady() error {
	for _, q := range c.queues {
		if q.ready() {
			if err := q.start(); err != nil {
				return err
			}
		}
	}
	return nil
}

// hangUpOnDone hangs up when ctx ends, which wakes the goroutine that reads from sock. It returns what to call when that
// isn't needed any more.
func hangUpOnDone(ctx context.Context, sock *net.UnixConn) func() bool {
	return context.AfterFunc(ctx, func() {
		// They fail if the VMM was faster.
		_ = sock.CloseRead()
		_ = sock.CloseWrite()
	})
}
