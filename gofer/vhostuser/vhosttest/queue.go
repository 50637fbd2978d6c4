// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package vhosttest

import (
	"encoding/binary"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"fsva/gofer/vhostuser/internal/sharedmem"
)

// Queue is the driver's side of one virtqueue.
type Queue struct {
	t     testing.TB
	v     *VMM
	index int
	num   int

	// Desc, Avail and Used are the ring's parts, for tests that break its rules.
	Desc, Avail, Used []byte

	kick, call, err *os.File

	free     []uint16 // descriptors
	availIdx uint16
	lastUsed uint16
	pending  map[uint16]*Buf

	// Indirect puts each chain into an indirect table.
	Indirect bool
	// Segment is how long one descriptor's buffer is at most; 0: not bounded.
	Segment int
	// Kicks counts the kicks that the device wanted.
	Kicks int
}

// Buf is a chain that the driver has made available.
type Buf struct {
	// In is what the device can read, Out what it can write: memory of the guest.
	In, Out []byte
	// Written is how many bytes the device says that it has written.
	Written int
	// Data is anything of the test's.
	Data any

	inOff, outOff int
	descs         []uint16
	table         int
}

// Queue makes queue i with num descriptors, and starts it.
func (v *VMM) Queue(i, num int) *Queue {
	v.t.Helper()
	q := v.Unstarted(i, num)
	q.Start(0)
	return q
}

// Unstarted makes queue i with num descriptors.
func (v *VMM) Unstarted(i, num int) *Queue {
	v.t.Helper()
	q := &Queue{t: v.t, v: v, index: i, num: num, pending: map[uint16]*Buf{}}
	part := func(n int) []byte {
		off := v.alloc(n, 4096)
		return v.Mem[off : off+n : off+n]
	}
	q.Desc, q.Avail, q.Used = part(16*num), part(6+2*num), part(6+8*num)
	for d := range num {
		q.free = append(q.free, uint16(d))
	}
	q.kick, q.call, q.err = eventfd(v.t), eventfd(v.t), eventfd(v.t)
	return q
}

func eventfd(t testing.TB) *os.File {
	t.Helper()
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		t.Fatal(err)
	}
	f := os.NewFile(uintptr(fd), "eventfd")
	t.Cleanup(func() { f.Close() })
	return f
}

func (q *Queue) user(b []byte) uint64 {
	return UserBase + uint64(sharedmem.Address(b)-sharedmem.Address(q.v.Mem))
}

// Start tells the back end all about the queue; the available ring's entry base is the first that it takes.
func (q *Queue) Start(base int) {
	q.t.Helper()
	i := uint32(q.index)
	q.v.Tell(reqSetVringNum, state(i, uint32(q.num)))
	q.v.Tell(reqSetVringBase, state(i, uint32(base)))
	q.SendAddr()
	withFD := func(request uint32, f *os.File) {
		rc, err := f.SyscallConn()
		if err != nil {
			q.t.Fatal(err)
		}
		err = rc.Control(func(fd uintptr) { q.v.Tell(request, u64(uint64(i)), int(fd)) })
		if err != nil {
			q.t.Fatal(err)
		}
	}
	withFD(reqSetVringErr, q.err)
	withFD(reqSetVringCall, q.call)
	withFD(reqSetVringKick, q.kick)
	q.v.Tell(reqSetVringEnable, state(i, 1))
}

// SendAddr tells the back end where the ring is.
func (q *Queue) SendAddr() {
	q.t.Helper()
	b := order.AppendUint32(nil, uint32(q.index))
	b = order.AppendUint32(b, 0)
	for _, part := range [][]byte{q.Desc, q.Used, q.Avail} {
		b = order.AppendUint64(b, q.user(part))
	}
	q.v.Tell(reqSetVringAddr, order.AppendUint64(b, 0))
}

// Stop stops the queue and returns the entry of the available ring that would be the next.
func (q *Queue) Stop() int {
	q.t.Helper()
	answer := q.v.Ask(reqGetVringBase, state(uint32(q.index), 0))
	return int(order.Uint32(answer[4:]))
}

// NewBuf takes memory for a chain: in is copied to it, and the device may write out bytes. It can be sent, got back and
// sent again.
func (q *Queue) NewBuf(in []byte, out int) *Buf {
	q.t.Helper()
	b := &Buf{}
	b.inOff = q.v.alloc(len(in), 16)
	b.In = q.v.Mem[b.inOff : b.inOff+len(in)]
	copy(b.In, in)
	b.outOff = q.v.alloc(out, 16)
	b.Out = q.v.Mem[b.outOff : b.outOff+out]
	if q.Indirect {
		b.table = q.v.alloc(16*len(q.segments(b)), 16)
	}
	return b
}

type segment struct {
	off, n int
	write  bool
}

func (q *Queue) segments(b *Buf) []segment {
	var s []segment
	add := func(off, n int, write bool) {
		for n > 0 {
			m := n
			if q.Segment > 0 {
				m = min(n, q.Segment)
			}
			s = append(s, segment{off, m, write})
			off += m
			n -= m
		}
	}
	add(b.inOff, len(b.In), false)
	add(b.outOff, len(b.Out), true)
	return s
}

// PutDesc writes a descriptor.
func PutDesc(table []byte, i int, addr uint64, length uint32, flags, next uint16) {
	d := table[16*i:]
	binary.LittleEndian.PutUint64(d[0:], addr)
	binary.LittleEndian.PutUint32(d[8:], length)
	binary.LittleEndian.PutUint16(d[12:], flags)
	binary.LittleEndian.PutUint16(d[14:], next)
}

// Add makes b available without a kick.
func (q *Queue) Add(b *Buf) {
	q.t.Helper()
	segs := q.segments(b)
	n := len(segs)
	if q.Indirect {
		n = 1
	}
	if len(q.free) < n {
		q.t.Fatalf("queue %d has no %d descriptors left", q.index, n)
	}
	b.descs = append(b.descs[:0], q.free[len(q.free)-n:]...)
	q.free = q.free[:len(q.free)-n]
	put := func(table []byte, at func(i int) uint16) {
		for i, s := range segs {
			var flags, next uint16
			if s.write {
				flags = 2
			}
			if i < len(segs)-1 {
				flags |= 1
				next = at(i + 1)
			}
			PutDesc(table, int(at(i)), GuestBase+uint64(s.off), uint32(s.n), flags, next)
		}
	}
	if q.Indirect {
		put(q.v.Mem[b.table:], func(i int) uint16 { return uint16(i) })
		PutDesc(q.Desc, int(b.descs[0]), GuestBase+uint64(b.table), uint32(16*len(segs)), 4, 0)
	} else {
		put(q.Desc, func(i int) uint16 { return b.descs[i] })
	}
	q.pending[b.descs[0]] = b
	q.AddHead(b.descs[0])
}

// AddHead makes the chain at a descriptor available, whatever that is.
func (q *Queue) AddHead(head uint16) {
	binary.LittleEndian.PutUint16(q.Avail[4+2*(int(q.availIdx)%q.num):], head)
	q.availIdx++
	q.PutAvailIdx(q.availIdx)
}

// PutAvailIdx writes the available ring's index.
func (q *Queue) PutAvailIdx(idx uint16) {
	if !sharedmem.Store16(q.Avail, 2, idx) {
		q.t.Fatal("the available index can't be written")
	}
}

// Kick kicks the device if it wants that: if it waits for a chain that was added since the last call.
func (q *Queue) Kick() {
	q.t.Helper()
	if q.v.Features&(1<<29) != 0 {
		event := sharedmem.Load16(q.Used, 4+8*q.num)
		// Whoever waits for the chain before the next one, or an earlier one that is still in the ring.
		if int(q.availIdx-event-1) >= q.num {
			return
		}
	}
	q.ForceKick()
}

// ForceKick kicks the device.
func (q *Queue) ForceKick() {
	q.t.Helper()
	q.Kicks++
	if _, err := q.kick.Write(order.AppendUint64(nil, 1)); err != nil {
		q.t.Fatal(err)
	}
}

// Send makes b available and kicks the device.
func (q *Queue) Send(b *Buf) {
	q.t.Helper()
	q.Add(b)
	q.Kick()
}

// Poll returns the next chain that the device has returned, or nil.
func (q *Queue) Poll() *Buf {
	q.t.Helper()
	if sharedmem.Load16(q.Used, 2) == q.lastUsed {
		return nil
	}
	e := q.Used[4+8*(int(q.lastUsed)%q.num):]
	id, n := binary.LittleEndian.Uint32(e), binary.LittleEndian.Uint32(e[4:])
	q.lastUsed++
	b := q.pending[uint16(id)]
	if b == nil || id > 0xffff {
		q.t.Fatalf("queue %d: the device returns chain %d, which it hasn't got", q.index, id)
	}
	delete(q.pending, uint16(id))
	q.free = append(q.free, b.descs...)
	b.Written = int(n)
	return b
}

// Wait returns the next chain that the device returns, and waits for interrupts for it.
func (q *Queue) Wait() *Buf {
	q.t.Helper()
	if err := q.call.SetReadDeadline(time.Now().Add(Patience)); err != nil {
		q.t.Fatal(err)
	}
	var count [8]byte
	for {
		if q.v.Features&(1<<29) != 0 && !sharedmem.Store16(q.Avail, 4+2*q.num, q.lastUsed) {
			q.t.Fatal("used_event can't be written")
		}
		if b := q.Poll(); b != nil {
			return b
		}
		if _, err := q.call.Read(count[:]); err != nil {
			q.t.Fatalf("queue %d: waiting for an interrupt: %v", q.index, err)
		}
	}
}

// WaitErr returns when the device has said that the queue is broken.
func (q *Queue) WaitErr() {
	q.t.Helper()
	if err := q.err.SetReadDeadline(time.Now().Add(Patience)); err != nil {
		q.t.Fatal(err)
	}
	var count [8]byte
	if _, err := q.err.Read(count[:]); err != nil {
		q.t.Fatalf("queue %d: waiting for an error: %v", q.index, err)
	}
}

// Do sends in and returns what the device has written, out bytes at most. It takes memory that isn't given back.
func (q *Queue) Do(in []byte, out int) []byte {
	q.t.Helper()
	q.Send(q.NewBuf(in, out))
	b := q.Wait()
	return b.Out[:b.Written]
}
