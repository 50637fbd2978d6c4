// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package vhostuser

import (
	"encoding/binary"
	"errors"
	"fmt"

	"fsva/gofer/vhostuser/internal/sharedmem"
)

// Virtio 1.2 §2.7, split virtqueues.
const (
	descSize = 16

	descNext     = 1
	descWrite    = 2
	descIndirect = 4

	availNoInterrupt = 1

	// maxQueueSize bounds a ring, and the descriptors of one chain with those of its indirect table. It is what QEMU
	// has.
	maxQueueSize = 1024
)

// errRing is what a driver does wrong with its ring. The queue stops until the device is reset.
var errRing = errors.New("driver broke the rules of its queue")

// ring is the device's side of a split virtqueue: pure code over mapped memory. The guest may change all of that
// memory at any time. Methods may fault (see memory.recoverFault). Not safe for concurrent use.
type ring struct {
	mem *memory
	num uint16
	// desc, avail and used are the three parts, of exactly the length that num and eventIdx make it.
	desc, avail, used []byte
	eventIdx          bool

	next    uint16 // the avail ring's entry that is taken next, counted from the beginning
	usedIdx uint16 // as the used ring has it, or will have
	inUse   uint16 // chains taken and not returned
	// signalled is usedIdx as of the last interrupt, if signalledOK.
	signalled   uint16
	signalledOK bool
}

// ringAddrs is where a ring is, in the VMM's address space.
type ringAddrs struct{ desc, avail, used uint64 }

// place finds the ring's parts in mem. On failure the ring is as it was.
func (r *ring) place(mem *memory, at ringAddrs) error {
	event := uint64(0)
	if r.eventIdx {
		event = 2
	}
	n := uint64(r.num)
	desc, err := mem.findUser(at.desc, descSize*n)
	if err != nil {
		return fmt.Errorf("descriptor table: %w", err)
	}
	avail, err := mem.findUser(at.avail, 4+2*n+event)
	if err != nil {
		return fmt.Errorf("available ring: %w", err)
	}
	used, err := mem.findUser(at.used, 4+8*n+event)
	if err != nil {
		return fmt.Errorf("used ring: %w", err)
	}
	// §2.7: descriptors are aligned to 16 bytes, the used ring to 4, the available ring to 2.
	if sharedmem.Address(desc)%16 != 0 || sharedmem.Address(avail)%2 != 0 || sharedmem.Address(used)%4 != 0 {
		return errors.New("ring is not aligned")
	}
	r.mem, r.desc, r.avail, r.used = mem, desc, avail, used
	return nil
}

// start begins to take chains at an entry of the available ring, and to return them where the used ring says.
func (r *ring) start(base uint16) {
	r.next = base
	r.usedIdx = sharedmem.Load16(r.used, 2)
	r.inUse = 0
	r.signalledOK = false
}

// take fills c with the next chain, or reports false if there is none. In that case the driver has been asked to kick
// when there is one again.
func (r *ring) take(c *Chain) (bool, error) {
	idx := sharedmem.Load16(r.avail, 2)
	if idx == r.next {
		if !r.eventIdx {
			return false, nil
		}
		if !sharedmem.Store16(r.used, 4+8*int(r.num), r.next) {
			return false, fmt.Errorf("%w: avail_event can't be written", errRing)
		}
		// The driver may have looked at avail_event before it was written, or written its index after we looked.
		if idx = sharedmem.Load16(r.avail, 2); idx == r.next {
			return false, nil
		}
	}
	if idx-r.next > r.num {
		return false, fmt.Errorf("%w: %d chains available in a ring of %d", errRing, idx-r.next, r.num)
	}
	if r.inUse >= r.num {
		return false, fmt.Errorf("%w: more chains than descriptors", errRing)
	}
	head := sharedmem.Load16(r.avail, 4+2*int(r.next%r.num))
	if err := r.walk(head, c); err != nil {
		return false, err
	}
	c.head = head
	r.next++
	r.inUse++
	return true, nil
}

// walk collects the buffers of the chain at head.
func (r *ring) walk(head uint16, c *Chain) error {
	c.reset()
	table := r.desc
	at := head
	left := int(r.num) // descriptors that the chain may still have
	indirect := false
	var total uint64
	for {
		if uint64(at)*descSize >= uint64(len(table)) {
			return fmt.Errorf("%w: descriptor %d of %d", errRing, at, len(table)/descSize)
		}
		if left == 0 {
			return fmt.Errorf("%w: chain is too long or has a loop", errRing)
		}
		left--
		// Our copy: the guest can change the descriptor while we look at it.
		var d [descSize]byte
		copy(d[:], table[int(at)*descSize:])
		addr := binary.LittleEndian.Uint64(d[0:])
		length := binary.LittleEndian.Uint32(d[8:])
		flags := binary.LittleEndian.Uint16(d[12:])
		next := binary.LittleEndian.Uint16(d[14:])

		if flags&descIndirect != 0 {
			if indirect || flags&descNext != 0 {
				return fmt.Errorf("%w: indirect descriptor in an indirect table, or with a next one", errRing)
			}
			if length == 0 || length%descSize != 0 || length > maxQueueSize*descSize {
				return fmt.Errorf("%w: indirect table of %d bytes", errRing, length)
			}
			// A table that is in two regions would be two tables for us; no driver has one.
			b := r.mem.find(addr)
			if uint64(len(b)) < uint64(length) {
				return fmt.Errorf("%w: indirect table at %#x is outside of memory", errRing, addr)
			}
			table, at, left, indirect = b[:length], 0, int(length/descSize), true
			continue
		}
		if length == 0 {
			return fmt.Errorf("%w: empty buffer", errRing)
		}
		if total += uint64(length); total > 1<<32-1 {
			return fmt.Errorf("%w: chain of more than 4 GiB", errRing)
		}
		if err := r.collect(c, addr, length, flags&descWrite != 0); err != nil {
			return err
		}
		if flags&descNext == 0 {
			return nil
		}
		at = next
	}
}

// collect adds one buffer to c. A buffer may reach from one region into the next.
func (r *ring) collect(c *Chain, addr uint64, length uint32, write bool) error {
	if !write && len(c.writable) > 0 {
		// §2.7.4.2: all that the device reads is before all that it writes.
		return fmt.Errorf("%w: readable buffer after a writable one", errRing)
	}
	for length > 0 {
		b := r.mem.find(addr)
		if len(b) == 0 {
			return fmt.Errorf("%w: buffer at %#x is outside of memory", errRing, addr)
		}
		n := uint32(min(uint64(length), uint64(len(b))))
		b = b[:n:n]
		if write {
			c.writable = join(c.writable, b)
			c.writableLen += int(n)
		} else {
			c.readable = join(c.readable, b)
			c.readableLen += int(n)
		}
		addr += uint64(n)
		length -= n
	}
	return nil
}

// join appends b to list, or makes the last slice longer if b comes right behind it in memory: drivers have a descriptor
// for each page, and pages that belong together are often neighbours.
func join(list [][]byte, b []byte) [][]byte {
	if i := len(list) - 1; i >= 0 {
		if joined, ok := sharedmem.Join(list[i], b); ok {
			list[i] = joined
			return list
		}
	}
	return append(list, b)
}

// give returns a chain to the driver, n bytes of it written, and reports whether the driver wants an interrupt.
func (r *ring) give(head uint16, n uint32) (interrupt bool, err error) {
	var e [8]byte
	binary.LittleEndian.PutUint32(e[0:], uint32(head))
	binary.LittleEndian.PutUint32(e[4:], n)
	copy(r.used[4+8*int(r.usedIdx%r.num):], e[:])
	r.usedIdx++
	r.inUse--
	// The index is written after the entry and the data, and before we look at what the driver wants.
	if !sharedmem.Store16(r.used, 2, r.usedIdx) {
		return false, fmt.Errorf("%w: used index can't be written", errRing)
	}
	if !r.eventIdx {
		return sharedmem.Load16(r.avail, 0)&availNoInterrupt == 0, nil
	}
	event := sharedmem.Load16(r.avail, 4+2*int(r.num))
	old, known := r.signalled, r.signalledOK
	// §2.7.7.2: has usedIdx gone past event since the last interrupt? Without one there is no "since".
	if known && r.usedIdx-event-1 >= r.usedIdx-old {
		return false, nil
	}
	r.signalled, r.signalledOK = r.usedIdx, true
	return true, nil
}
