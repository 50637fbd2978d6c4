// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package vsockproto

import "testing"

// zeros is an endless payload.
type zeros struct{ b []byte }

func (z zeros) Read(p []byte) (int, error) { return copy(p, z.b), nil }

// BenchmarkReceive is what a packet of Linux' largest size costs from the guest
// to its reader, and BenchmarkCopy the two copies in it.
func BenchmarkReceive(b *testing.B) {
	config := testConfig
	config.BufferSize = 256 << 10
	m := New(config)
	h := from(OpRequest)
	c, _, _ := m.Receive(&h, nil, 0)
	c.Accept()
	h.Op, h.Len = OpRW, maxPayload
	payload, p := zeros{make([]byte, maxPayload)}, make([]byte, maxPayload)
	b.SetBytes(maxPayload)
	b.ReportAllocs()
	for b.Loop() {
		if _, ev, _ := m.Receive(&h, payload, maxPayload); ev != EventRead || c.Read(p) != maxPayload {
			b.Fatal(ev, c.Err())
		}
		for m.Pending() {
			m.Next(1)
		}
	}
}

func BenchmarkCopy(b *testing.B) {
	from, via, to := make([]byte, maxPayload), make([]byte, 256<<10), make([]byte, maxPayload)
	b.SetBytes(maxPayload)
	at := 0
	for b.Loop() {
		at = (at + copy(via[at:], from)) % len(via)
		copy(to, via[at:])
	}
}

// BenchmarkNext is what a packet of a receive buffer of Linux 6.1 costs.
func BenchmarkNext(b *testing.B) {
	m := New(testConfig)
	h := from(OpRequest)
	h.BufAlloc = 1 << 20
	c, _, _ := m.Receive(&h, nil, 0)
	c.Accept()
	m.Next(1)
	h.Op = OpCreditUpdate
	p := make([]byte, 4096)
	b.SetBytes(4096)
	b.ReportAllocs()
	for b.Loop() {
		c.Offer(p)
		_, _, sent, _ := m.Next(4096)
		h.FwdCnt += 4096
		if _, _, err := m.Receive(&h, nil, 0); sent != c || err != nil || !c.Open() {
			b.Fatal(err, c.Err())
		}
	}
}
