// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package virtiofs

import (
	"context"
	"encoding/binary"
	"log/slog"
	"runtime"
	"sync"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"fsva/gofer/fusesession"
	"fsva/gofer/vhostuser"
)

// Opcodes that are told apart here, as in include/uapi/linux/fuse.h.
const (
	opInit      = 26
	opSetLkw    = 33
	opInterrupt = 36

	inHeaderSize  = 40
	outHeaderSize = 16

	// smallMessage is what most requests and many replies fit into.
	smallMessage = 4096
)

// guest is what one VMM's guest has. It implements vhostuser.Handler.
type guest struct {
	ctx   context.Context
	fs    fuse.RawFileSystem
	o     fusesession.Options
	log   *slog.Logger
	leave func()
	// most is the size of the longest message.
	most int

	// slots has one message for each request that is worked on.
	slots chan struct{}
	// hangup undoes what newGuest has asked ctx for.
	hangup func() bool

	mu sync.Mutex
	// session is the current one. Guarded by mu.
	session *fusesession.Session
	// used: an INIT was given to session. Guarded by mu.
	used bool
	// closed: there will be no new session. Guarded by mu.
	closed bool

	waitMu sync.Mutex
	// waits has the SETLKWs under way, by the unique id of their request. Guarded by waitMu.
	waits map[uint64]*vhostuser.Queue

	// paces are the request queues', by index.
	paces []pace

	small, large sync.Pool // *[]byte
}

func newGuest(ctx context.Context, fs fuse.RawFileSystem, o fusesession.Options, workers int, log *slog.Logger, leave func()) *guest {
	g := &guest{
		ctx: ctx, fs: fs, o: o, log: log, leave: leave,
		slots:   make(chan struct{}, workers),
		session: fusesession.New(fs, o),
		waits:   map[uint64]*vhostuser.Queue{},
	}
	g.paces = make([]pace, 1+maxRequestQueues)
	g.most = g.session.MaxMessage()
	g.small.New = func() any { b := make([]byte, smallMessage); return &b }
	g.large.New = func() any { b := make([]byte, g.most); return &b }
	// The requests under way keep the queues from stopping.
	g.hangup = context.AfterFunc(ctx, g.end)
	return g
}

// end closes the current session, and sees to it that there is no other.
func (g *guest) end() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.closed = true
	g.session.Close()
}

// Close implements vhostuser.Handler.Close.
func (g *guest) Close() {
	g.hangup()
	g.end()
	g.leave()
}

// Kick implements vhostuser.Handler.Kick.
func (g *guest) Kick(q *vhostuser.Queue) {
	if q.Index() == 0 {
		// FORGET and INTERRUPT don't block, and an INTERRUPT is of use only if it needs no slot.
		for c := q.Take(); c != nil; c = q.Take() {
			g.handle(c, nil)
		}
		return
	}
	p := &g.paces[q.Index()]
	for {
		g.slots <- struct{}{}
		c := q.Take()
		if c == nil {
			<-g.slots
			return
		}
		if !p.serial() {
			go g.handle(c, p)
			continue
		}
		mine := p.begin(q)
		g.handle(c, p)
		if !p.end(mine) {
			// Another goroutine has taken over.
			return
		}
	}
}

// Stop implements vhostuser.Handler.Stop.
func (g *guest) Stop(q *vhostuser.Queue) {
	var uniques []uint64
	g.waitMu.Lock()
	for unique, of := range g.waits {
		if of == q {
			uniques = append(uniques, unique)
		}
	}
	g.waitMu.Unlock()
	for _, unique := range uniques {
		// A request that is in the list may still be on its way into the session.
		for g.waiting(unique) && !g.interrupt(unique) {
			runtime.Gosched()
		}
	}
}

// waiting reports whether a request is one that waits for a lock.
func (g *guest) waiting(unique uint64) bool {
	g.waitMu.Lock()
	defer g.waitMu.Unlock()
	_, ok := g.waits[unique]
	return ok
}

// interrupt interrupts a request, and reports whether the session has it.
func (g *guest) interrupt(unique uint64) bool {
	msg := make([]byte, inHeaderSize+8)
	binary.NativeEndian.PutUint32(msg[0:], uint32(len(msg)))
	binary.NativeEndian.PutUint32(msg[4:], opInterrupt)
	binary.NativeEndian.PutUint64(msg[inHeaderSize:], unique)
	// Only EAGAIN has an answer.
	n, err := g.current(opInterrupt).Handle([][]byte{msg}, [][]byte{make([]byte, outHeaderSize)})
	return n == 0 && err == nil
}

// current returns the session for a request. INIT has one of its own: a guest that was reset begins again, and has
// nothing of what it had.
func (g *guest) current(opcode uint32) *fusesession.Session {
	g.mu.Lock()
	defer g.mu.Unlock()
	if opcode == opInit {
		if g.used && !g.closed {
			g.session.Close()
			g.session = fusesession.New(g.fs, g.o)
		}
		g.used = true
	}
	return g.session
}

// handle works on one request and returns its chain. p is the pace of a request that has a slot, and nil for one that
// has none.
func (g *guest) handle(c *vhostuser.Chain, p *pace) {
	size := c.ReadableLen() + c.WritableLen()
	start := time.Now()
	slot := p != nil
	n, err := g.reply(c, &slot)
	if err != nil {
		g.log.Debug("request of a guest", "err", err)
		n = 0
	}
	if p != nil {
		p.took(time.Since(start), size)
	}
	c.Done(n)
	if slot {
		<-g.slots
	}
}

// reply works on one request and returns the length of its reply. It may give the slot back.
func (g *guest) reply(c *vhostuser.Chain, slot *bool) (int, error) {
	// What is longer is cut, and the session refuses it because its header says so.
	in, free := g.buffer(min(c.ReadableLen(), g.most))
	defer free()
	if _, err := c.Read(in); err != nil {
		return 0, err
	}
	var opcode uint32
	if len(in) >= inHeaderSize {
		opcode = binary.NativeEndian.Uint32(in[4:])
	}
	s := g.current(opcode)
	if opcode == opSetLkw && len(in) <= smallMessage {
		unique := binary.NativeEndian.Uint64(in[8:])
		defer g.wait(unique, c.Queue())()
		if !c.Queue().Running() {
			// Stop hasn't seen it, or has.
			return interrupted(c, unique)
		}
		if *slot {
			*slot = false
			<-g.slots
		}
	}
	var inArray, outArray [34][]byte
	iov := append(inArray[:0], in)
	room := c.WritableLen()
	if out, ok := c.WriteSlices(outArray[:0], 0, room); ok {
		return s.Handle(iov, out)
	}
	out, freeOut := g.buffer(min(room, g.most))
	defer freeOut()
	n, err := s.Handle(iov, [][]byte{out})
	if err != nil {
		return 0, err
	}
	return c.Write(out[:n])
}

// interrupted answers a request that was not begun.
func interrupted(c *vhostuser.Chain, unique uint64) (int, error) {
	reply := make([]byte, outHeaderSize)
	errno := -int32(unix.EINTR)
	binary.NativeEndian.PutUint32(reply[0:], outHeaderSize)
	binary.NativeEndian.PutUint32(reply[4:], uint32(errno))
	binary.NativeEndian.PutUint64(reply[8:], unique)
	return c.Write(reply)
}

// buffer returns n bytes of memory, at most g.most, and what gives them back.
func (g *guest) buffer(n int) ([]byte, func()) {
	pool := &g.small
	if n > smallMessage {
		pool = &g.large
	}
	b := pool.Get().(*[]byte)
	return (*b)[:n], func() { pool.Put(b) }
}

// wait takes note of a request that waits for a lock, and returns what forgets it.
func (g *guest) wait(unique uint64, q *vhostuser.Queue) func() {
	g.waitMu.Lock()
	g.waits[unique] = q
	g.waitMu.Unlock()
	return func() {
		g.waitMu.Lock()
		delete(g.waits, unique)
		g.waitMu.Unlock()
	}
}
