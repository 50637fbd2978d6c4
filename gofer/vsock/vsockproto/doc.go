// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

// Package vsockproto is one end of a virtio-vsock link (virtio 1.2 §5.10):
// packets, connections and their credit, as a state machine without I/O, locks
// or clock. A device gives it what its guest sends ([Machine.Receive]), and asks
// it for what the guest should get, one packet for each receive buffer
// ([Machine.Next]).
//
// The peer is a guest, and not trusted. What it can make the machine keep is
// bounded: connections, the bytes that wait in each, and the resets that wait
// for packets that belong to none. Nothing is queued for a peer that takes
// nothing: each connection remembers which packets it owes, and data stays with
// whoever sends it until there is a receive buffer for it.
//
// # Rules
//
// Where the specification leaves a choice, this is it:
//
//   - A packet that does not come from the peer's CID is dropped. One for
//     another CID than ours, of another type than stream, or of no connection is
//     answered by RST, unless it is an RST.
//   - Whoever breaks a rule on a connection gets it reset: more data than was
//     granted, data after its SHUTDOWN said that there is none, a payload
//     shorter than the header says, a second REQUEST or RESPONSE, an unknown
//     operation, credit for bytes that were never sent.
//   - Two packets of a connection may carry their credit out of order, because
//     a kernel with several processors sends them so: a count of forwarded bytes
//     that is behind the last one is ignored. A buffer that shrinks below what
//     is on its way gives no credit; it does not wrap.
//   - Credit is given back when a quarter of the buffer has been read, and when
//     asked for. It is asked for once when there is data and no credit.
//   - SHUTDOWN with both flags is answered by RST at once; what has arrived can
//     still be read. We send it to close, and if no RST comes in 8 s, as in
//     Linux, we send RST. Until then the addresses are in use.
//
// Not supported: datagrams and SOCK_SEQPACKET.
package vsockproto
