// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

// Package fusestream carries FUSE between a Linux machine's kernel and a gofer,
// over a stream: vsock, or a unix socket.
//
// The gofer's side is Server. Its peer is whoever connects and is NOT trusted:
// frames are bounded, the hello has a deadline and, if the volume has one, a secret;
// what is in a request is the business of package fusesession; requests in flight are
// bounded in number and in bytes, after which the connection is not read until some
// are done. A peer that breaks the protocol is cut off.
//
// The other side is Relay, the guest shim: it joins /dev/fuse to the stream. Its
// kernel is trusted, and so is the gofer, on which the guest depends for every byte
// of the volume anyway; but nothing the gofer sends crashes the shim. When the
// connection is lost the shim makes a new one, looks its nodes up again by path and
// opens its files again when they are used, and repeats requests that can be repeated.
// See replayable and Relay. Where nobody but its kernel changes the files, it fetches
// names and small files in compounds before they are asked for; see ahead.go.
//
// # Protocol
//
// Each side begins with its hello: the magic, a 32-bit length, JSON (see hello.go).
// Then there are frames, in either direction: a 32-bit length of what follows the
// header, a kind (8 bits), flags (8 bits), 16 bits of zero. Numbers are little endian,
// FUSE messages are in the byte order of both machines, which is little endian as well.
//
//	kind          from   body
//	request       shim   a FUSE request
//	reply         gofer  a FUSE reply; its unique ID says to what
//	notification  gofer  a FUSE notification
//	release       shim   offsets (64 bits each) of ranges of the window that were read
//	compound      shim   FUSE requests, carried out one after the other: OPEN, OPENDIR, READ,
//	                     READDIRPLUS, RELEASE, RELEASEDIR; the handle 2^64-1 is what the last
//	                     OPEN or OPENDIR among them returned
//	              gofer  the replies, in that order
//
// A shim sends compounds to a gofer whose hello says that it takes them.
//
// With flagWindow a request or reply begins with a reference, offset (64 bits), length
// (32 bits) and 32 bits of zero, to a part of the window, memory that both sides
// share. The bytes there are the end of the FUSE message, which counts them in its own
// length. Ranges for replies are lent by the gofer until the shim releases them; for
// the data of its requests the shim has a part of the window of its own, which the
// gofer's hello names. A window is used as long as there is room in it; otherwise, and
// without a window, data is in the frame.
//
// # Lock order
//
//	link.writeMu     held while a frame is written
//	Relay.mu         held over no I/O; guards what was fetched ahead, too
//
// Nobody holds both. Of the Server's locks nobody holds two.
package fusestream
