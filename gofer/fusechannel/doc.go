// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

// Package fusechannel speaks FUSE in the kernel's role to an FS server over a SOCK_SEQPACKET socket, and offers that
// server as a fuse.RawFileSystem.
//
// The peer is the FS server: third-party code that is NOT trusted. Whatever it sends is checked before use (message
// length, unique, error range, payload size, attributes, names), a reply that fails a check costs its own request an
// EIO, and too many of them stop the channel. Memory is bounded: one receive buffer, a bounded number of requests in
// flight, a bounded notification queue; no allocation has a length that the peer chose. The callers of the methods are
// our own code and are trusted, but the names and data that they hand on from applications are checked as well, so
// that a request is always framed as meant.
//
// Semantics follow fs/fuse of Linux: what ENOSYS means for each operation (enosys.go), which INIT flags are offered
// (negotiate.go), how dirents and entries are judged (dirent.go, check.go). Protocol minors 7.8 to 7.45.
//
// # Reading
//
// There is one read role for the socket. A caller without a cancel channel that finds it free takes it, and reads and
// delivers replies until its own has come: then a synchronous request costs no goroutine switch. When it leaves, it
// hands the role to another waiting caller. A background reader takes the role when nobody has had a use for it for a
// tick (so that notifications of an idle server are seen), and at once when a cancellable caller needs a reader.
//
// # Lock order
//
//	nodeLocks          one node's LOOKUPs and READDIRs, or READs, at a time for servers that need it; held over a request
//	  Channel.mu       read role, call table, waiters, failure; never held over I/O
//	  forgetQueue.mu   FORGETs that wait; never held over I/O
//	  notifyQueue.mu   notifications that wait; never held over I/O or a Notifier's method
//	  limitedLog.mu    never held over the logger
//
// Of the last four nobody holds two.
//
// # Not supported
//
// Splicing, io_uring, passthrough, DAX, poll, write-back caching, ID-mapped mounts, POSIX ACLs, security contexts and
// supplementary groups in creates, RESEND: none of them is offered. A server that replies with another major version
// than 7 is refused: no released server needs one. A server that splices its replies needs Options.MaxRead (errSplit).
//
// System calls in steady state: sendmsg, recvmsg, poll and shutdown.
package fusechannel
