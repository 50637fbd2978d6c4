// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

// Package lisaserver serves a fuse.RawFileSystem to gVisor sentries over lisafs.
//
// There are two peers and neither is trusted. The lisafs client is the sentry of
// an application's sandbox and is taken to be hostile: whatever it sends, the
// worst that happens is that its own requests fail or its own connection ends.
// The file system behind the RawFileSystem may be a third party's process; its
// replies are checked before they are used, because a sentry panics when, for
// instance, the type of a file changes under it.
//
// # Identity
//
// A node is a FUSE node id that this server holds lookup counts for. Node ids
// and file handles never come from the lisafs client: it names FDIDs, which
// lisafs checks. What the sentry takes for an inode is (major, minor, ino): minor
// is Options.DevMinor, ino the node id (or the file's st_ino with
// Options.StableIno), and major says where the number comes from and of which
// type the file is, so that two different nodes are never equal. None of this is
// visible to applications: the sentry makes up its own device numbers.
//
// # Reference model
//
//   - A ControlFD holds one ref on its node. An open handle holds one ref on its
//     node for as long as the file system has it open. A directory holds one on
//     its parent, as a kernel's dcache does.
//   - A node collects the lookup counts that the file system granted for it and
//     returns all of them with one Forget when its last ref is gone. The root has
//     no lookup count.
//   - A handle is counted: its OpenFD holds one ref, and so does each request
//     that borrowed it (see node.borrow). The last one sends RELEASE.
//   - Every lookup count in a reply either ends in a node or is forgotten before
//     the RPC returns.
//
// Each ControlFD gets a lisafs.Node of its own that is no part of a tree. lisafs
// uses its tree to keep host paths safe and to refuse work on deleted files; node
// ids need neither, and files that are open and unlinked keep working this way.
//
// # Lock order
//
//	lisafs renameMu (per connection) > lisafs opMu (per ControlFD)
//	  Server.renameMu
//	    node.ns, the lower node id first
//	      nodeTable.mu
//	  dirStream.mu
//	    node.mu
//	      nodeTable.mu
//
// node.ns is held across calls into the file system, as the kernel holds a
// directory's lock; nodeTable.mu and node.mu never are.
//
// # Not supported
//
// Unix sockets (Connect, Listen, Accept) and fifos: the sentry makes its
// own when the server answers EPERM, and only those work as endpoints inside the
// sandbox. Device nodes cannot be created and special files cannot be opened.
// Extended attribute values end at 65,535 bytes, the most lisafs can carry. File
// locks are the sentry's own.
package lisaserver
