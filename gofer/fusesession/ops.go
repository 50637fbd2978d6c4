// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package fusesession

import (
	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// operation is how the session carries out one opcode.
type operation struct {
	name string
	// run calls the file system and fills in the reply.
	run func(*Session, *request) fuse.Status
	// node says that NodeId must be a node of the client.
	node bool
	// ftype is the type that the node must have; 0: any.
	ftype uint32
	// changes says that a read-only client may not do it. Those that only may
	// change something decide by themselves.
	changes bool
	// prompt says that it does not take a place among the requests at work.
	prompt bool
	// noReply says that success has no reply.
	noReply bool
}

// operations by opcode. FORGET, BATCH_FORGET and DESTROY are handled apart.
var operations = [opCount]operation{
	opLookup:          {name: "LOOKUP", run: (*Session).lookup, node: true, ftype: unix.S_IFDIR},
	opForget:          {name: "FORGET"},
	opGetAttr:         {name: "GETATTR", run: (*Session).getAttr, node: true},
	opSetAttr:         {name: "SETATTR", run: (*Session).setAttr, node: true, changes: true},
	opReadlink:        {name: "READLINK", run: (*Session).readlink, node: true, ftype: unix.S_IFLNK},
	opSymlink:         {name: "SYMLINK", run: (*Session).symlink, node: true, ftype: unix.S_IFDIR, changes: true},
	opMknod:           {name: "MKNOD", run: (*Session).mknod, node: true, ftype: unix.S_IFDIR, changes: true},
	opMkdir:           {name: "MKDIR", run: (*Session).mkdir, node: true, ftype: unix.S_IFDIR, changes: true},
	opUnlink:          {name: "UNLINK", run: (*Session).unlink, node: true, ftype: unix.S_IFDIR, changes: true},
	opRmdir:           {name: "RMDIR", run: (*Session).rmdir, node: true, ftype: unix.S_IFDIR, changes: true},
	opRename:          {name: "RENAME", run: (*Session).rename, node: true, ftype: unix.S_IFDIR, changes: true},
	opLink:            {name: "LINK", run: (*Session).link, node: true, ftype: unix.S_IFDIR, changes: true},
	opOpen:            {name: "OPEN", run: (*Session).open, node: true, ftype: unix.S_IFREG},
	opRead:            {name: "READ", run: (*Session).read, node: true},
	opWrite:           {name: "WRITE", run: (*Session).write, node: true, changes: true},
	opStatfs:          {name: "STATFS", run: (*Session).statFs, node: true},
	opRelease:         {name: "RELEASE", run: (*Session).release, node: true},
	opFsync:           {name: "FSYNC", run: (*Session).fsync, node: true},
	opSetXAttr:        {name: "SETXATTR", run: (*Session).setXAttr, node: true, changes: true},
	opGetXAttr:        {name: "GETXATTR", run: (*Session).getXAttr, node: true},
	opListXAttr:       {name: "LISTXATTR", run: (*Session).listXAttr, node: true},
	opRemoveXAttr:     {name: "REMOVEXATTR", run: (*Session).removeXAttr, node: true, changes: true},
	opFlush:           {name: "FLUSH", run: (*Session).flush, node: true},
	opInit:            {name: "INIT", run: (*Session).initialize, prompt: true},
	opOpenDir:         {name: "OPENDIR", run: (*Session).open, node: true, ftype: unix.S_IFDIR},
	opReadDir:         {name: "READDIR", run: (*Session).readDir, node: true, ftype: unix.S_IFDIR},
	opReleaseDir:      {name: "RELEASEDIR", run: (*Session).release, node: true},
	opFsyncDir:        {name: "FSYNCDIR", run: (*Session).fsync, node: true},
	opGetLk:           {name: "GETLK", run: (*Session).lock, node: true},
	opSetLk:           {name: "SETLK", run: (*Session).lock, node: true},
	opSetLkw:          {name: "SETLKW", run: (*Session).lock, node: true, prompt: true},
	opAccess:          {name: "ACCESS", run: (*Session).access, node: true},
	opCreate:          {name: "CREATE", run: (*Session).create, node: true, ftype: unix.S_IFDIR, changes: true},
	opInterrupt:       {name: "INTERRUPT", run: (*Session).interrupted, prompt: true, noReply: true},
	opDestroy:         {name: "DESTROY"},
	opIoctl:           {name: "IOCTL", run: (*Session).ioctl},
	opBatchForget:     {name: "BATCH_FORGET"},
	opFallocate:       {name: "FALLOCATE", run: (*Session).fallocate, node: true, changes: true},
	opReadDirPlus:     {name: "READDIRPLUS", run: (*Session).readDir, node: true, ftype: unix.S_IFDIR},
	opRename2:         {name: "RENAME2", run: (*Session).rename, node: true, ftype: unix.S_IFDIR, changes: true},
	opLseek:           {name: "LSEEK", run: (*Session).lseek, node: true},
	opCopyFileRange:   {name: "COPY_FILE_RANGE", run: (*Session).copyFileRange, node: true, changes: true},
	opTmpfile:         {name: "TMPFILE", run: (*Session).create, node: true, ftype: unix.S_IFDIR, changes: true},
	opStatx:           {name: "STATX", run: (*Session).statx, node: true},
	opCopyFileRange64: {name: "COPY_FILE_RANGE_64", run: (*Session).copyFileRange, node: true, changes: true},
}

// interrupted carries out INTERRUPT. EAGAIN makes the client's kernel send it again,
// if the request is still to come.
func (s *Session) interrupted(r *request) fuse.Status {
	in, rest, ok := arg[fuse.InterruptIn](r.msg)
	if !ok || len(rest) > 0 {
		return s.bad()
	}
	if !s.interrupt(in.Unique) {
		return fuse.EAGAIN
	}
	return fuse.OK
}

// ioctl refuses: none reaches the host.
func (s *Session) ioctl(*request) fuse.Status { return fuse.Status(unix.ENOTTY) }

// pin2 pins the second node of a request.
func (s *Session) pin2(r *request, id uint64, ftype uint32) fuse.Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := s.tab.pin(id)
	if n == nil {
		return fuse.Status(unix.ESTALE)
	}
	r.nodes[1], r.ftypes[1] = n, n.ftype
	return typeError(n.ftype, ftype)
}

// borrow finds a handle of the request's: the i-th of those it has.
func (s *Session) borrow(r *request, i int, fh, nodeID uint64, dir bool) (*handle, fuse.Status) {
	s.mu.Lock()
	defer s.mu.Unlock()
	h := s.tab.borrow(fh, nodeID, dir)
	if h == nil {
		return nil, fuse.EBADF
	}
	r.handles[i] = h
	return h, fuse.OK
}

func (h *handle) readable() bool { return h.flags&unix.O_ACCMODE != unix.O_WRONLY }
func (h *handle) writable() bool { return h.flags&unix.O_ACCMODE != unix.O_RDONLY }

// reader and writer are borrow for files that are open for it.
func (s *Session) reader(r *request, i int, fh, nodeID uint64) (*handle, fuse.Status) {
	h, st := s.borrow(r, i, fh, nodeID, false)
	if st == fuse.OK && !h.readable() {
		st = fuse.EBADF
	}
	return h, st
}

func (s *Session) writer(r *request, i int, fh, nodeID uint64) (*handle, fuse.Status) {
	h, st := s.borrow(r, i, fh, nodeID, false)
	if st == fuse.OK && !h.writable() {
		st = fuse.EBADF
	}
	return h, st
}

// owner is how the file system knows one of the client's lock owners.
func (s *Session) owner(client uint64) uint64 { return client ^ s.ownerKey }

// nodeRoom reports whether the client may have another node.
func (s *Session) nodeRoom() fuse.Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.tab.nodes) >= s.opts.MaxNodes {
		return fuse.Status(unix.ENFILE)
	}
	return fuse.OK
}

// entry takes note of an entry that the file system has returned with st and makes it one
// for the client.
func (s *Session) entry(st fuse.Status, out *fuse.EntryOut) fuse.Status {
	if st != fuse.OK {
		return st
	}
	if out.NodeId == fuse.FUSE_ROOT_ID {
		return fuse.EIO
	}
	if out.NodeId != 0 {
		s.mu.Lock()
		s.tab.granted(out.NodeId, out.Mode)
		s.mu.Unlock()
	}
	s.fixEntry(out)
	return fuse.OK
}

func (s *Session) fixEntry(out *fuse.EntryOut) {
	s.fixValid(&out.EntryValid, &out.EntryValidNsec)
	s.fixValid(&out.AttrValid, &out.AttrValidNsec)
	out.Attr.Flags = 0
}

// newEntry is for operations that make a name: it parses the message, whose
// structure is T, calls, and returns the entry.
func newEntry[T any](s *Session, r *request, call func(in *T, name string, out *fuse.EntryOut) fuse.Status) fuse.Status {
	in, rest, ok := arg[T](r.msg)
	if !ok {
		return s.bad()
	}
	name, st := entryName(rest)
	if st != fuse.OK {
		return st
	}
	if st := s.nodeRoom(); st != fuse.OK {
		return st
	}
	out := reply[fuse.EntryOut](r)
	return s.entry(call(in, name, out), out)
}
