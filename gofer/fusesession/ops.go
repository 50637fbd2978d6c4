// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package fusesession

import (
	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"fsva/gofer/fusewire"
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
var operations = [fusewire.OpCount]operation{
	fusewire.OpLookup:          {name: "LOOKUP", run: (*Session).lookup, node: true, ftype: unix.S_IFDIR},
	fusewire.OpForget:          {name: "FORGET"},
	fusewire.OpGetAttr:         {name: "GETATTR", run: (*Session).getAttr, node: true},
	fusewire.OpSetAttr:         {name: "SETATTR", run: (*Session).setAttr, node: true, changes: true},
	fusewire.OpReadlink:        {name: "READLINK", run: (*Session).readlink, node: true, ftype: unix.S_IFLNK},
	fusewire.OpSymlink:         {name: "SYMLINK", run: (*Session).symlink, node: true, ftype: unix.S_IFDIR, changes: true},
	fusewire.OpMknod:           {name: "MKNOD", run: (*Session).mknod, node: true, ftype: unix.S_IFDIR, changes: true},
	fusewire.OpMkdir:           {name: "MKDIR", run: (*Session).mkdir, node: true, ftype: unix.S_IFDIR, changes: true},
	fusewire.OpUnlink:          {name: "UNLINK", run: (*Session).unlink, node: true, ftype: unix.S_IFDIR, changes: true},
	fusewire.OpRmdir:           {name: "RMDIR", run: (*Session).rmdir, node: true, ftype: unix.S_IFDIR, changes: true},
	fusewire.OpRename:          {name: "RENAME", run: (*Session).rename, node: true, ftype: unix.S_IFDIR, changes: true},
	fusewire.OpLink:            {name: "LINK", run: (*Session).link, node: true, ftype: unix.S_IFDIR, changes: true},
	fusewire.OpOpen:            {name: "OPEN", run: (*Session).open, node: true, ftype: unix.S_IFREG},
	fusewire.OpRead:            {name: "READ", run: (*Session).read, node: true},
	fusewire.OpWrite:           {name: "WRITE", run: (*Session).write, node: true, changes: true},
	fusewire.OpStatfs:          {name: "STATFS", run: (*Session).statFs, node: true},
	fusewire.OpRelease:         {name: "RELEASE", run: (*Session).release, node: true},
	fusewire.OpFsync:           {name: "FSYNC", run: (*Session).fsync, node: true},
	fusewire.OpSetXAttr:        {name: "SETXATTR", run: (*Session).setXAttr, node: true, changes: true},
	fusewire.OpGetXAttr:        {name: "GETXATTR", run: (*Session).getXAttr, node: true},
	fusewire.OpListXAttr:       {name: "LISTXATTR", run: (*Session).listXAttr, node: true},
	fusewire.OpRemoveXAttr:     {name: "REMOVEXATTR", run: (*Session).removeXAttr, node: true, changes: true},
	fusewire.OpFlush:           {name: "FLUSH", run: (*Session).flush, node: true},
	fusewire.OpInit:            {name: "INIT", run: (*Session).initialize, prompt: true},
	fusewire.OpOpenDir:         {name: "OPENDIR", run: (*Session).open, node: true, ftype: unix.S_IFDIR},
	fusewire.OpReadDir:         {name: "READDIR", run: (*Session).readDir, node: true, ftype: unix.S_IFDIR},
	fusewire.OpReleaseDir:      {name: "RELEASEDIR", run: (*Session).release, node: true},
	fusewire.OpFsyncDir:        {name: "FSYNCDIR", run: (*Session).fsync, node: true},
	fusewire.OpGetLk:           {name: "GETLK", run: (*Session).lock, node: true},
	fusewire.OpSetLk:           {name: "SETLK", run: (*Session).lock, node: true},
	fusewire.OpSetLkw:          {name: "SETLKW", run: (*Session).lock, node: true, prompt: true},
	fusewire.OpAccess:          {name: "ACCESS", run: (*Session).access, node: true},
	fusewire.OpCreate:          {name: "CREATE", run: (*Session).create, node: true, ftype: unix.S_IFDIR, changes: true},
	fusewire.OpInterrupt:       {name: "INTERRUPT", run: (*Session).interrupted, prompt: true, noReply: true},
	fusewire.OpDestroy:         {name: "DESTROY"},
	fusewire.OpIoctl:           {name: "IOCTL", run: (*Session).ioctl},
	fusewire.OpBatchForget:     {name: "BATCH_FORGET"},
	fusewire.OpFallocate:       {name: "FALLOCATE", run: (*Session).fallocate, node: true, changes: true},
	fusewire.OpReadDirPlus:     {name: "READDIRPLUS", run: (*Session).readDir, node: true, ftype: unix.S_IFDIR},
	fusewire.OpRename2:         {name: "RENAME2", run: (*Session).rename, node: true, ftype: unix.S_IFDIR, changes: true},
	fusewire.OpLseek:           {name: "LSEEK", run: (*Session).lseek, node: true},
	fusewire.OpCopyFileRange:   {name: "COPY_FILE_RANGE", run: (*Session).copyFileRange, node: true, changes: true},
	fusewire.OpTmpfile:         {name: "TMPFILE", run: (*Session).create, node: true, ftype: unix.S_IFDIR, changes: true},
	fusewire.OpStatx:           {name: "STATX", run: (*Session).statx, node: true},
	fusewire.OpCopyFileRange64: {name: "COPY_FILE_RANGE_64", run: (*Session).copyFileRange, node: true, changes: true},
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
