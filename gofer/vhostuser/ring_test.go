// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package vhostuser

import (
	"encoding/binary"
	"errors"
	"testing"

	"golang.org/x/sys/unix"

	"fsva/gofer/vhostuser/internal/sharedmem"
)

// pureRing is a ring of 8 in mapped memory of three pages: its parts at 0, 256 and 512, and the guest's memory in two
// regions that meet at 4096, from 0 to 12288.
func pureRing(t testing.TB, eventIdx bool) (*ring, []byte) {
	t.Helper()
	mem, err := unix.Mmap(-1, 0, 3*4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	if err != nil {
		t.Fatal(err)
	}
	m := &mapping{data: mem, unmap: unix.Munmap}
	m.refs.Store(2)
	table := newMemory([]region{
		{guest: 4096, user: 1<<40 + 4096, data: mem[4096:], m: m},
		{guest: 0, user: 1 << 40, data: mem[:4096:4096], m: m},
	})
	t.Cleanup(table.decRef)
	r := &ring{num: 8, eventIdx: eventIdx}
	if err := r.place(table, ringAddrs{1 << 40, 1<<40 + 256, 1<<40 + 512}); err != nil {
		t.Fatal(err)
	}
	r.start(0)
	return r, mem
}

func TestRingPlace(t *testing.T) {
	r, _ := pureRing(t, true)
	const at = 1 << 40
	for _, tc := range []struct {
		name string
		at   ringAddrs
		ok   bool
	}{
		{"as it was", ringAddrs{at, at + 256, at + 512}, true},
		{"in the other region", ringAddrs{at + 4096, at + 256, at + 512}, true},
		{"descriptors over the end", ringAddrs{at + 3*4096 - 112, at + 256, at + 512}, false},
		{"descriptors in two regions", ringAddrs{at + 4096 - 64, at + 256, at + 512}, false},
		{"available over the end", ringAddrs{at, at + 3*4096 - 20, at + 512}, false},
		{"used over the end", ringAddrs{at, at + 256, at + 3*4096 - 68}, false},
		{"odd used", ringAddrs{at, at + 256, at + 514}, false},
		{"odd available", ringAddrs{at, at + 257, at + 512}, false},
		{"odd descriptors", ringAddrs{at + 8, at + 256, at + 512}, false},
		{"nowhere", ringAddrs{0, 0, 0}, false},
		{"wraps", ringAddrs{^uint64(15), at + 256, at + 512}, false},
	} {
		if err := r.place(r.mem, tc.at); (err == nil) != tc.ok {
			t.Errorf("%s: got %v", tc.name, err)
		}
	}
}

// TestRingInterrupt follows used_event around the wrap of the index.
func TestRingInterrupt(t *testing.T) {
	r, mem := pureRing(t, true)
	avail := mem[256:]
	used := mem[512:]
	sharedmem.Store16(used, 2, 0xfffe)
	sharedmem.Store16(avail, 2, 0xfffe)
	r.start(0xfffe)
	binary.LittleEndian.PutUint32(mem[8:], 16) // descriptor 0: 16 bytes at 0
	for i, tc := range []struct {
		event uint16
		want  bool
	}{
		{0xfffe, true}, // the first, always
		{0xfffe, false},
		{0x0000, true},
		{0x0003, false},
		{0x0003, false},
		{0x0003, true},
		{0x0004, true},
		{0x0004, false},
	} {
		sharedmem.Store16(avail, 2, r.next+1)
		sharedmem.Store16(avail, 4+16, tc.event)
		var c Chain
		if ok, err := r.take(&c); !ok || err != nil {
			t.Fatalf("step %d: got %v, %v", i, ok, err)
		}
		got, err := r.give(c.head, 0)
		if got != tc.want || err != nil {
			t.Errorf("step %d: used %#x, event %#x: got %v, %v", i, r.usedIdx, tc.event, got, err)
		}
	}
	if got := sharedmem.Load16(used, 2); got != 6 {
		t.Errorf("used index %d", got)
	}
	var c Chain
	if ok, err := r.take(&c); ok || err != nil {
		t.Fatalf("empty ring: got %v, %v", ok, err)
	}
	if got := sharedmem.Load16(used, 4+64); got != r.next {
		t.Errorf("avail_event %d instead of %d", got, r.next)
	}
}

// TestRingTooManyChains makes one chain available again and again while the device has it.
func TestRingTooManyChains(t *testing.T) {
	r, mem := pureRing(t, false)
	binary.LittleEndian.PutUint32(mem[8:], 16)
	for i := range 8 {
		sharedmem.Store16(mem[256:], 2, uint16(i+1))
		if ok, err := r.take(&Chain{}); !ok || err != nil {
			t.Fatalf("chain %d: got %v, %v", i, ok, err)
		}
	}
	sharedmem.Store16(mem[256:], 2, 9)
	if _, err := r.take(&Chain{}); !errors.Is(err, errRing) {
		t.Errorf("got %v", err)
	}
}

// FuzzRing takes and returns chains of a ring that is arbitrary bytes.
func FuzzRing(f *testing.F) {
	valid := make([]byte, 1024)
	binary.LittleEndian.PutUint64(valid[0:], 4000) // across both regions
	binary.LittleEndian.PutUint32(valid[8:], 200)
	binary.LittleEndian.PutUint16(valid[12:], descNext)
	binary.LittleEndian.PutUint16(valid[14:], 1)
	binary.LittleEndian.PutUint64(valid[16:], 8000)
	binary.LittleEndian.PutUint32(valid[24:], 200)
	binary.LittleEndian.PutUint16(valid[28:], descWrite)
	binary.LittleEndian.PutUint16(valid[256+2:], 1)
	f.Add(valid, true)
	indirect := append([]byte(nil), valid...)
	copy(indirect[768:], valid[:32])
	binary.LittleEndian.PutUint64(indirect[0:], 768)
	binary.LittleEndian.PutUint32(indirect[8:], 32)
	binary.LittleEndian.PutUint16(indirect[12:], descIndirect)
	f.Add(indirect, false)
	cycle := append([]byte(nil), valid...)
	binary.LittleEndian.PutUint16(cycle[28:], descNext)
	f.Add(cycle, true)
	f.Fuzz(func(t *testing.T, data []byte, eventIdx bool) {
		r, mem := pureRing(t, eventIdx)
		copy(mem, data)
		r.start(0)
		for range 20 {
			var c Chain
			ok, err := r.take(&c)
			if err != nil && !errors.Is(err, errRing) {
				t.Fatal(err)
			}
			if !ok {
				return
			}
			n := 0
			for _, list := range [][][]byte{c.readable, c.writable} {
				for _, s := range list {
					if len(s) == 0 || sharedmem.Address(s) < sharedmem.Address(mem) ||
						sharedmem.Address(s)+uintptr(len(s)) > sharedmem.Address(mem)+uintptr(len(mem)) {
						t.Fatalf("buffer of %d bytes outside of memory", len(s))
					}
					n += len(s)
				}
			}
			if n != c.readableLen+c.writableLen || n == 0 || len(c.readable)+len(c.writable) > 2*maxQueueSize {
				t.Fatalf("%d bytes in %d buffers, counted %d and %d", n, len(c.readable)+len(c.writable), c.readableLen, c.writableLen)
			}
			if _, err := r.give(c.head, 0); err != nil {
				t.Fatal(err)
			}
		}
	})
}
