// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

// Package vsock connects virtual machines and their host with streams: one
// pair of interfaces, net.Listener and [Conn], over each way to get AF_VSOCK.
//
//   - vsock: the kernel's own AF_VSOCK sockets, inside a guest or on a host
//     with vhost_vsock.
//   - hybrid-vsock: the unix sockets of Firecracker and Cloud Hypervisor, which
//     have the virtio device in the VMM.
//   - vhost-user-vsock: the virtio device in this process ([Device]),
//     for QEMU on hosts without vhost_vsock.
//   - unix: a plain unix socket, for clients on the host.
//
// The peers are guests and their VMMs; neither is trusted. A listener gives out
// connections only of the CIDs that it is for, and what a peer may make it keep
// has a bound. What travels on a connection is not this package's business.
//
// Deadlines, concurrency and Close of a [Conn] are as in net.Conn.
package vsock
