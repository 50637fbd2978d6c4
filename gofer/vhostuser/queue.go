// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package vhostuser

import (
	"errors"
	"fmt"
	"sync"
)

// Queue is one virtqueue of a connection. Its exported methods are safe for concurrent use.
type Queue struct {
	conn  *Conn
	index int

	mu sync.Mutex
	// ring is valid while running, and until the last chain is back. Guarded by mu.
	ring ring
	// running: chains may be taken. Guarded by mu.
	running bool
	// broken is why no more chains are taken before the queue is started again. Guarded by mu.
	broken error
	// turn is the number of the goroutine whose turn it is to wait for kicks; kicked says that it is in Handler.Kick.
	// Guarded by mu.
	turn   uint64
	kicked bool
	// call and err are the VMM's descriptors for interrupts and for errors, or nil. Guarded by mu.
	call, err *eventfd
	// drained is signalled when the last chain is back.
	drained sync.Cond
	// free are chains to be used again, at most as many as the ring has descriptors. Guarded by mu.
	free []*Chain

	// What follows belongs to the connection's goroutine.

	num     uint16 // 0: not set
	base    uint16
	addrs   *ringAddrs // nil: not set
	kick    *eventfd
	enabled bool
	started bool
	// halt ends the wait for kicks; not nil while started.
	halt *eventfd
	// waiters are the goroutines that wait for kicks or are in Handler.Kick, in which there can be several (Detach).
	waiters sync.WaitGroup
}

// Index returns the queue's number.
func (q *Queue) Index() int { return q.index }

// Base returns the entry of the available ring, modulo 2^16, that the queue began with: 0 for a driver that has just
// started, and usually not for one that was paused or whose VMM has connected again. For calls from Handler.Kick only.
func (q *Queue) Base() uint16 { return q.base }

// Running reports whether the queue runs: false from before Handler.Stop is called until it is started again.
func (q *Queue) Running() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.running
}

// Take returns the next chain that the driver has made available. nil means that there is none, or that the queue is
// stopped: Handler.Kick is called when that has changed. It never blocks for long.
func (q *Queue) Take() *Chain {
	q.mu.Lock()
	defer q.mu.Unlock()
	if !q.running || q.broken != nil {
		return nil
	}
	var c *Chain
	if n := len(q.free); n > 0 {
		c, q.free = q.free[n-1], q.free[:n-1]
	} else {
		c = &Chain{q: q}
	}
	ok, err := q.take(c)
	if err != nil {
		q.breakLocked(err)
	}
	if !ok {
		q.free = append(q.free, c)
		return nil
	}
	c.mem = q.ring.mem.incRef()
	return c
}

// take is ring.take with faults as errors.
func (q *Queue) take(c *Chain) (ok bool, err error) {
	defer q.ring.mem.recoverFault(accessing(), &err)
	return q.ring.take(c)
}

// give returns c to the driver.
func (q *Queue) give(c *Chain, n int) {
	if n < 0 || n > c.writableLen {
		panic(fmt.Sprintf("vhostuser: %d bytes written to a chain of %d", n, c.writableLen))
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.broken == nil {
		interrupt, err := q.giveLocked(c.head, uint32(n))
		if err != nil {
			q.breakLocked(err)
		}
		if interrupt {
			q.call.signal()
		}
	} else {
		q.ring.inUse--
	}
	c.mem.decRef()
	c.mem = nil
	c.reset()
	if len(q.free) < int(q.ring.num) {
		q.free = append(q.free, c)
	}
	if q.ring.inUse == 0 {
		q.drained.Broadcast()
	}
}

// giveLocked is ring.give with faults as errors. The chain counts as returned also if it fails.
func (q *Queue) giveLocked(head uint16, n uint32) (interrupt bool, err error) {
	inUse := q.ring.inUse
	defer func() { q.ring.inUse = inUse - 1 }()
	defer q.ring.mem.recoverFault(accessing(), &err)
	return q.ring.give(head, n)
}

// breakLocked stops the queue until it is started again.
func (q *Queue) breakLocked(err error) {
	if q.broken == nil {
		q.broken = err
		q.conn.log.Warn("virtqueue stopped", "queue", q.index, "err", err)
		q.err.signal()
	}
}

// ready reports whether the VMM has said all that starting takes, and that it may start.
func (q *Queue) ready() bool {
	return !q.started && q.kick != nil && q.num != 0 && q.addrs != nil && q.conn.mem != nil &&
		(q.enabled || q.conn.features.Load()&featureProtocol == 0)
}

// start makes the queue run.
func (q *Queue) start() error {
	features := q.conn.features.Load()
	if features&FeatureVersion1 == 0 {
		return errors.New("driver is not a virtio 1 driver")
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	q.ring = ring{num: q.num, eventIdx: features&featureEventIdx != 0}
	if err := q.ring.place(q.conn.mem, *q.addrs); err != nil {
		return fmt.Errorf("queue %d: %w", q.index, err)
	}
	if err := q.startRing(); err != nil {
		return fmt.Errorf("queue %d: %w", q.index, err)
	}
	halt, err := makeEventfd()
	if err != nil {
		return fmt.Errorf("queue %d: %w", q.index, err)
	}
	q.halt = halt
	q.ring.mem.incRef()
	q.free = nil
	q.broken = nil
	q.running = true
	q.started = true
	q.waitLocked()
	return nil
}

func (q *Queue) startRing() (err error) {
	defer q.ring.mem.recoverFault(accessing(), &err)
	q.ring.start(q.base)
	return nil
}

// waitLocked starts a goroutine whose turn it is.
func (q *Queue) waitLocked() {
	q.turn++
	q.kicked = true
	turn := q.turn
	q.waiters.Go(func() { q.wait(turn) })
}

// wait calls the handler at the start and at each kick, until stop, or until it is somebody else's turn.
func (q *Queue) wait(turn uint64) {
	// A reconnecting VMM has requests in the ring for which there will be no kick.
	for {
		q.conn.handler.Kick(q)
		if !q.setKicked(turn, false) {
			return
		}
		kicked, err := q.kick.wait(q.halt)
		if err != nil {
			q.mu.Lock()
			q.breakLocked(fmt.Errorf("kick: %w", err))
			q.mu.Unlock()
		}
		if !kicked {
			return
		}
		q.setKicked(turn, true)
	}
}

// setKicked says where the goroutine with the given number is, and reports whether it is its turn.
func (q *Queue) setKicked(turn uint64, kicked bool) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if turn != q.turn {
		return false
	}
	q.kicked = kicked
	return true
}

// Detach is for a handler that finds that a Kick of this queue takes long: if one is under way, another goroutine calls
// Kick from now on, beginning at once, as if that one had returned. It reports whether it did that. A handler that
// calls it must expect as many calls of Kick at a time.
func (q *Queue) Detach() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	// Once the queue stops, stop may be waiting for the last of the waiters.
	if !q.running || !q.kicked {
		return false
	}
	q.waitLocked()
	return true
}

// stop ends what start began, and returns when the device has returned all chains.
func (q *Queue) stop() {
	if !q.started {
		return
	}
	q.mu.Lock()
	q.running = false
	q.mu.Unlock()
	q.conn.handler.Stop(q)
	q.halt.signal()
	q.waiters.Wait()
	q.started = false
	q.halt.close()
	q.halt = nil
	q.mu.Lock()
	defer q.mu.Unlock()
	for q.ring.inUse > 0 {
		q.drained.Wait()
	}
	q.base = q.ring.next
	q.ring.mem.decRef()
	q.ring = ring{}
	q.free = nil
}

// moved finds a running queue's ring in another memory table, or at another address.
func (q *Queue) moved(mem *memory) error {
	if !q.started {
		return nil
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	old := q.ring.mem
	if err := q.ring.place(mem, *q.addrs); err != nil {
		return fmt.Errorf("queue %d: %w", q.index, err)
	}
	mem.incRef()
	old.decRef()
	return nil
}

// setCall takes ownership of e, which may be nil.
func (q *Queue) setCall(e *eventfd) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.call.close()
	q.call = e
	// Nobody was told of chains that were returned before: it costs an interrupt too many, or saves a hang.
	q.call.signal()
}

// setErr takes ownership of e, which may be nil.
func (q *Queue) setErr(e *eventfd) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.err.close()
	q.err = e
}

// setKick takes ownership of e. The queue must be stopped.
func (q *Queue) setKick(e *eventfd) {
	q.kick.close()
	q.kick = e
}

// close closes the queue's descriptors. The queue must be stopped.
func (q *Queue) close() {
	q.setCall(nil)
	q.setErr(nil)
	q.setKick(nil)
}
