// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

// Package vhostuser is the back end of the vhost-user protocol for any virtio device: a VMM connects to a unix socket,
// hands over the guest's memory and the eventfds of the device's virtqueues, and the device's driver in the guest then
// talks to this process without the VMM in between. What a device does with its queues is a Device and its Handler.
//
// Both peers are NOT trusted. The VMM can send any message with any descriptors; the guest can write all of its
// memory, rings and descriptors included, at any time. So: messages, descriptors and mappings are bounded; every field
// in guest memory is read once, into our memory, and the copy is checked and used; a chain of descriptors has at most
// 1024 of them and lies inside the memory table. What breaks a rule of the ring stops that queue until the device is
// reset, what breaks a rule of the protocol ends that connection. Neither is seen by other connections.
//
// # Guest memory that goes away
//
// The VMM can truncate a memory file that we have mapped, and then an access is a SIGBUS. All accesses of this
// package run with debug.SetPanicOnFault and turn a fault in guest memory into ErrFault. That does not help code that
// is given slices of guest memory and has no such guard, and may hold locks at that moment. So Chain.WriteSlices gives
// them out only for memory that cannot shrink (a memfd with F_SEAL_SHRINK, as QEMU's memory-backend-memfd makes it);
// for other memory a device copies through Chain.Read and Chain.Write. Memory files must be on tmpfs or hugetlbfs:
// a fault on any other file system may wait for somebody we don't trust.
//
// # Ownership
//
// A descriptor that arrives is closed on every path; memory files are closed as soon as they are mapped. A memory
// table is counted: the connection holds one reference, each running queue one, each chain one. A chain that a device
// has taken belongs to it until Chain.Done, and GET_VRING_BASE (the guest resets the device, or is paused) is answered
// when the queue's last chain is done: nothing is written to the guest's memory after that.
//
// # Lock order
//
//	Queue.mu     the ring and the call descriptor of one queue; never held over a method of Handler
//
// # Supported
//
// Split virtqueues, indirect descriptors, event index; protocol features MQ, REPLY_ACK, CONFIG, CONFIGURE_MEM_SLOTS.
// Not supported, and not offered: packed virtqueues, an IOMMU, logging of dirty pages (so no live migration), shared
// in-flight state, in-band notifications, postcopy, the back end's own request channel, big-endian guests.
//
// System calls in steady state: read and write of eventfds, epoll; for messages recvmsg, write, mmap, munmap, fstat,
// fstatfs and fcntl (F_GET_SEALS, F_SETFL).
package vhostuser
