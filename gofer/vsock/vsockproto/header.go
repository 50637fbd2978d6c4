// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package vsockproto

import (
	"encoding/binary"
	"fmt"
)

// HeaderSize is the length in bytes of a packet's header.
const HeaderSize = 44

// TypeStream is the only type of socket here.
const TypeStream uint16 = 1

// Op is what a packet is for (virtio 1.2 §5.10.6).
type Op uint16

// The operations.
const (
	OpRequest       Op = 1
	OpResponse      Op = 2
	OpRst           Op = 3
	OpShutdown      Op = 4
	OpRW            Op = 5
	OpCreditUpdate  Op = 6
	OpCreditRequest Op = 7
)

func (o Op) String() string {
	names := [...]string{"INVALID", "REQUEST", "RESPONSE", "RST", "SHUTDOWN", "RW", "CREDIT_UPDATE", "CREDIT_REQUEST"}
	if int(o) < len(names) {
		return names[o]
	}
	return fmt.Sprintf("op %d", uint16(o))
}

// Flags of OpShutdown: what its sender will not do any more.
const (
	ShutdownReceive uint32 = 1
	ShutdownSend    uint32 = 2
	ShutdownBoth           = ShutdownReceive | ShutdownSend
)

// Header is a packet's header. The payload of an OpRW follows it.
type Header struct {
	SrcCID, DstCID   uint64
	SrcPort, DstPort uint32
	Len              uint32 // of the payload
	Type             uint16
	Op               Op
	Flags            uint32
	// BufAlloc is the size of the sender's receive buffer for this connection,
	// FwdCnt how many bytes have left it so far, modulo 2^32.
	BufAlloc, FwdCnt uint32
}

// Parse sets h from its written form. Every value of b is a header.
func (h *Header) Parse(b *[HeaderSize]byte) {
	le := binary.LittleEndian
	h.SrcCID, h.DstCID = le.Uint64(b[0:]), le.Uint64(b[8:])
	h.SrcPort, h.DstPort = le.Uint32(b[16:]), le.Uint32(b[20:])
	h.Len = le.Uint32(b[24:])
	h.Type, h.Op = le.Uint16(b[28:]), Op(le.Uint16(b[30:]))
	h.Flags = le.Uint32(b[32:])
	h.BufAlloc, h.FwdCnt = le.Uint32(b[36:]), le.Uint32(b[40:])
}

// Put writes h to b.
func (h *Header) Put(b *[HeaderSize]byte) {
	le := binary.LittleEndian
	le.PutUint64(b[0:], h.SrcCID)
	le.PutUint64(b[8:], h.DstCID)
	le.PutUint32(b[16:], h.SrcPort)
	le.PutUint32(b[20:], h.DstPort)
	le.PutUint32(b[24:], h.Len)
	le.PutUint16(b[28:], h.Type)
	le.PutUint16(b[30:], uint16(h.Op))
	le.PutUint32(b[32:], h.Flags)
	le.PutUint32(b[36:], h.BufAlloc)
	le.PutUint32(b[40:], h.FwdCnt)
}
