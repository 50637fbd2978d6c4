// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

// Package fusesession answers the FUSE requests of one client, byte for byte as
// they come from its kernel, from a fuse.RawFileSystem.
//
// The client is a virtual machine, or whoever connects: it is NOT trusted. A
// message is copied out of the client's reach before it is looked at, and
// nothing in it is believed: lengths and names are checked, node IDs must be
// ones that this client was given and has not forgotten, handles are numbers of
// the session's own, owners of locks are kept apart from those of other clients.
// What a client can hold is bounded: nodes, handles, lock owners, requests under
// way. Close gives everything back, as the client's kernel would have.
//
// What the client says about its users is believed: uid, gid and pid are those
// of its own kernel, which checks permissions (default_permissions).
//
// A transport (a byte stream, a virtqueue) hands each message to Handle, from as
// many goroutines as it likes, and carries notifications the other way.
//
// # Reference model
//
//   - A node has as many lookups as the client was told of and has not forgotten.
//     The file system is told of a FORGET when the client has forgotten the node
//     completely, no request uses it, and no handle of it is open.
//   - A handle is released when the client has released it and no request uses it.
//
// # Lock order
//
//	Session.mu   nodes, handles, requests; never held over a call of the file system
//
// # Not supported
//
// ioctl (ENOTTY), poll, BMAP, DAX, SYNCFS, passthrough, RETRIEVE, POSIX ACLs,
// request extensions (security contexts, supplementary groups), ID-mapped mounts,
// device nodes (EPERM; overlayfs's whiteouts are none). Minors before 7.23 are
// refused.
package fusesession
