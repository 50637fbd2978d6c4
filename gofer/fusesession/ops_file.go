// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package fusesession

import (
	"math"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"fsva/gofer/fusewire"
)

// openMask are the flags of open(2) that a file system is told of.
const openMask = unix.O_ACCMODE | unix.O_APPEND | unix.O_TRUNC | unix.O_DIRECT | unix.O_SYNC | unix.O_NOATIME |
	unix.O_NONBLOCK | unix.O_DIRECTORY | unix.O_NOFOLLOW | largeFile | fmodeExec

// largeFile is O_LARGEFILE as kernels see it on 64-bit machines.
const largeFile = 0x8000

// openArgs judges the flags of an OPEN or CREATE and returns those for the file
// system.
func (s *Session) openArgs(flags uint32, create bool) (uint32, fuse.Status) {
	mask := uint32(openMask)
	if create {
		mask |= unix.O_CREAT | unix.O_EXCL
	}
	flags &= mask
	if flags&unix.O_ACCMODE == unix.O_ACCMODE {
		return 0, fuse.EINVAL
	}
	if s.opts.ReadOnly && flags&(unix.O_ACCMODE|unix.O_TRUNC) != unix.O_RDONLY {
		return 0, fuse.EROFS
	}
	if s.flags&fuse.CAP_ATOMIC_O_TRUNC == 0 && !create {
		flags &^= unix.O_TRUNC // a SETATTR comes
	}
	if s.flags&fuse.CAP_WRITEBACK_CACHE != 0 {
		// The client's kernel reads pages before it writes to them, and knows the
		// end of the file better than we do.
		if flags&unix.O_ACCMODE == unix.O_WRONLY {
			flags = flags&^unix.O_ACCMODE | unix.O_RDWR
		}
		flags &^= unix.O_APPEND
	}
	return flags, fuse.OK
}

// reserve makes room for a handle; unreserve gives it back.
func (s *Session) reserve() fuse.Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.tab.handles)+s.tab.reserved >= s.opts.MaxHandles {
		return fuse.Status(unix.ENFILE)
	}
	s.tab.reserved++
	return fuse.OK
}

func (s *Session) unreserve() {
	s.mu.Lock()
	s.tab.reserved--
	s.mu.Unlock()
}

// opened makes a handle of what the file system has returned. isNew: so is its node.
func (s *Session) opened(h *handle, nodeID uint64, isNew bool, out *fuse.OpenOut) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if isNew {
		s.tab.granted(nodeID, unix.S_IFREG)
	}
	// The node is there: the request keeps it, or it is new.
	h.node = s.tab.nodes[nodeID]
	h.node.pins++
	h.fh = out.Fh
	s.tab.open(h)
	out.Fh, out.OpenFlags, out.BackingID = h.id, s.openFlags(out.OpenFlags, h.dir), 0
}

func (s *Session) open(r *request) fuse.Status {
	in, rest, ok := arg[fuse.OpenIn](r.msg)
	if !ok || len(rest) > 0 {
		return s.bad()
	}
	dir := r.Opcode == fusewire.OpOpenDir
	flags, st := s.openArgs(in.Flags, false)
	if st != fuse.OK {
		return st
	}
	if st := s.reserve(); st != fuse.OK {
		return st
	}
	defer s.unreserve()
	call := fuse.OpenIn{InHeader: r.InHeader, Flags: flags}
	out := reply[fuse.OpenOut](r)
	if dir {
		st = s.fs.OpenDir(r.cancel, &call, out)
	} else {
		st = s.fs.Open(r.cancel, &call, out)
	}
	virtual := st == fuse.ENOSYS
	if virtual {
		*out = fuse.OpenOut{}
		if dir || s.opts.Exclusive {
			out.OpenFlags = fuse.FOPEN_KEEP_CACHE | fuse.FOPEN_CACHE_DIR
		}
	} else if st != fuse.OK {
		return st
	}
	s.opened(&handle{dir: dir, virtual: virtual, flags: flags}, r.NodeId, false, out)
	return fuse.OK
}

func (s *Session) create(r *request) fuse.Status {
	in, rest, ok := arg[fuse.CreateIn](r.msg)
	if !ok {
		return s.bad()
	}
	var name string
	if !names(rest, &name) {
		return s.bad()
	}
	if r.Opcode == fusewire.OpCreate { // TMPFILE's is "/"
		if st := checkName(name); st != fuse.OK {
			return st
		}
	}
	flags, st := s.openArgs(in.Flags, r.Opcode == fusewire.OpCreate)
	if st != fuse.OK {
		return st
	}
	if st := s.nodeRoom(); st != fuse.OK {
		return st
	}
	if st := s.reserve(); st != fuse.OK {
		return st
	}
	defer s.unreserve()
	call := *in
	call.Flags, call.OpenFlags = flags, 0
	out := reply[fuse.CreateOut](r)
	if r.Opcode == fusewire.OpCreate {
		st = s.fs.Create(r.cancel, &call, name, out)
	} else {
		st = s.fs.Tmpfile(r.cancel, &call, out)
	}
	if st != fuse.OK {
		return st
	}
	if out.NodeId == 0 || out.NodeId == fuse.FUSE_ROOT_ID {
		return fuse.EIO
	}
	// Whoever opens the file again has no use for the other flags.
	flags &^= unix.O_CREAT | unix.O_EXCL | unix.O_TRUNC
	s.opened(&handle{flags: flags}, out.NodeId, true, &out.OpenOut)
	s.fixEntry(&out.EntryOut)
	return fuse.OK
}

func (s *Session) release(r *request) fuse.Status {
	in, rest, ok := arg[fuse.ReleaseIn](r.msg)
	if !ok || len(rest) > 0 {
		return s.bad()
	}
	freed := fuse.ReleaseIn{
		InHeader:     fuse.InHeader{Caller: r.Caller},
		ReleaseFlags: in.ReleaseFlags & (fuse.RELEASE_FLUSH | releaseFlockUnlock),
		LockOwner:    s.owner(in.LockOwner),
	}
	var g garbage
	s.mu.Lock()
	h := s.tab.handles[in.Fh]
	ok = h != nil && h.node.id == r.NodeId && h.dir == (r.Opcode == fusewire.OpReleaseDir)
	if ok {
		s.tab.release(h, &freed, &g)
	}
	s.mu.Unlock()
	if !ok {
		return fuse.EBADF
	}
	s.giveBack(&g)
	return fuse.OK
}

func (s *Session) read(r *request) fuse.Status {
	in, rest, ok := arg[fuse.ReadIn](r.msg)
	if !ok || len(rest) > 0 || int64(in.Size) > int64(s.opts.MaxIO) || in.Offset > math.MaxInt64-uint64(in.Size) {
		return s.bad()
	}
	size := int(in.Size)
	if fusewire.OutHeaderSize+size > r.room {
		return s.bad() // a short reply would be the end of the file
	}
	h, st := s.reader(r, 0, in.Fh, r.NodeId)
	if st != fuse.OK {
		return st
	}
	call := fuse.ReadIn{
		InHeader: r.InHeader, Fh: h.fh, Offset: in.Offset, Size: in.Size,
		ReadFlags: in.ReadFlags & fuse.READ_LOCKOWNER, LockOwner: s.owner(in.LockOwner), Flags: h.flags,
	}
	dst := r.payloadRoom(size)
	if dst == nil {
		dst = s.buf(r, size)
	}
	res, st := s.fs.Read(r.cancel, &call, dst)
	if st != fuse.OK {
		return st
	}
	if res == nil {
		return fuse.OK
	}
	defer res.Done()
	data, st := res.Bytes(dst)
	if st != fuse.OK {
		return st
	}
	if len(data) > size {
		return fuse.EIO
	}
	r.payload = data
	if room := r.payloadRoom(len(data)); room != nil && !within(data, room) {
		copy(room, data)
		r.payload, r.inPlace = room[:len(data)], true
	} else if room != nil {
		r.inPlace = true
	} else if len(data) > 0 && !within(data, dst) {
		// What the result refers to is gone with Done.
		r.payload = append([]byte(nil), data...)
	}
	return fuse.OK
}

func (s *Session) write(r *request) fuse.Status {
	in, data, ok := arg[fuse.WriteIn](r.msg)
	if !ok || uint64(in.Size) != uint64(len(data)) || len(data) > s.opts.MaxIO || in.Offset > math.MaxInt64-uint64(len(data)) {
		return s.bad()
	}
	h, st := s.writer(r, 0, in.Fh, r.NodeId)
	if st != fuse.OK {
		return st
	}
	s.mu.Lock()
	h.dirty = true
	s.mu.Unlock()
	call := fuse.WriteIn{
		InHeader: r.InHeader, Fh: h.fh, Offset: in.Offset, Size: in.Size,
		WriteFlags: in.WriteFlags & (fuse.WRITE_CACHE | fuse.WRITE_LOCKOWNER),
		LockOwner:  s.owner(in.LockOwner), Flags: h.flags,
	}
	n, st := s.fs.Write(r.cancel, &call, data)
	if n > in.Size {
		return fuse.EIO
	}
	reply[fuse.WriteOut](r).Size = n
	return st
}

func (s *Session) flush(r *request) fuse.Status {
	in, rest, ok := arg[fuse.FlushIn](r.msg)
	if !ok || len(rest) > 0 {
		return s.bad()
	}
	h, st := s.borrow(r, 0, in.Fh, r.NodeId, false)
	if st != fuse.OK {
		return st
	}
	owner := s.owner(in.LockOwner)
	s.mu.Lock()
	h.dirty = false
	if _, ok := h.owners[owner]; ok { // FLUSH unlocks
		delete(h.owners, owner)
		s.tab.owners--
	}
	s.mu.Unlock()
	return s.fs.Flush(r.cancel, &fuse.FlushIn{InHeader: r.InHeader, Fh: h.fh, LockOwner: owner})
}

func (s *Session) fsync(r *request) fuse.Status {
	in, rest, ok := arg[fuse.FsyncIn](r.msg)
	if !ok || len(rest) > 0 {
		return s.bad()
	}
	dir := r.Opcode == fusewire.OpFsyncDir
	h, st := s.borrow(r, 0, in.Fh, r.NodeId, dir)
	if st != fuse.OK {
		return st
	}
	call := fuse.FsyncIn{InHeader: r.InHeader, Fh: h.fh, FsyncFlags: in.FsyncFlags & fsyncDataSync}
	if dir {
		return s.fs.FsyncDir(r.cancel, &call)
	}
	return s.fs.Fsync(r.cancel, &call)
}

func (s *Session) fallocate(r *request) fuse.Status {
	in, rest, ok := arg[fuse.FallocateIn](r.msg)
	if !ok || len(rest) > 0 || in.Offset > math.MaxInt64 || in.Length > math.MaxInt64-in.Offset {
		return s.bad()
	}
	h, st := s.writer(r, 0, in.Fh, r.NodeId)
	if st != fuse.OK {
		return st
	}
	call := fuse.FallocateIn{InHeader: r.InHeader, Fh: h.fh, Offset: in.Offset, Length: in.Length, Mode: in.Mode}
	return s.fs.Fallocate(r.cancel, &call)
}

func (s *Session) lseek(r *request) fuse.Status {
	in, rest, ok := arg[fuse.LseekIn](r.msg)
	if !ok || len(rest) > 0 || in.Offset > math.MaxInt64 {
		return s.bad()
	}
	if in.Whence != unix.SEEK_DATA && in.Whence != unix.SEEK_HOLE {
		return fuse.EINVAL // the others are the client's kernel's
	}
	h, st := s.borrow(r, 0, in.Fh, r.NodeId, false)
	if st != fuse.OK {
		return st
	}
	call := fuse.LseekIn{InHeader: r.InHeader, Fh: h.fh, Offset: in.Offset, Whence: in.Whence}
	return s.fs.Lseek(r.cancel, &call, reply[fuse.LseekOut](r))
}

func (s *Session) copyFileRange(r *request) fuse.Status {
	in, rest, ok := arg[fuse.CopyFileRangeIn](r.msg)
	if !ok || len(rest) > 0 || max(in.OffIn, in.OffOut) > math.MaxInt64 || in.Flags != 0 {
		return s.bad()
	}
	if st := s.pin2(r, in.NodeIdOut, unix.S_IFREG); st != fuse.OK {
		return st
	}
	from, st := s.reader(r, 0, in.FhIn, r.NodeId)
	if st != fuse.OK {
		return st
	}
	to, st := s.writer(r, 1, in.FhOut, in.NodeIdOut)
	if st != fuse.OK {
		return st
	}
	call := *in
	call.FhIn, call.FhOut = from.fh, to.fh
	// The file system counts in 32 bits.
	call.Len = min(in.Len, math.MaxInt32&^(pageSize-1), math.MaxInt64-max(in.OffIn, in.OffOut))
	n, st := s.fs.CopyFileRange(r.cancel, &call)
	if r.Opcode == fusewire.OpCopyFileRange {
		reply[fuse.WriteOut](r).Size = n
	} else {
		reply[fuse.CopyFileRangeOut](r).BytesCopied = uint64(n)
	}
	return st
}

// lock carries out GETLK, SETLK and SETLKW.
func (s *Session) lock(r *request) fuse.Status {
	in, rest, ok := arg[fuse.LkIn](r.msg)
	if !ok || len(rest) > 0 || in.LkFlags&^fuse.LK_FLOCK != 0 || in.Lk.Start > in.Lk.End || in.Lk.End > math.MaxInt64 ||
		in.Lk.Typ != unix.F_RDLCK && in.Lk.Typ != unix.F_WRLCK && in.Lk.Typ != unix.F_UNLCK {
		return s.bad()
	}
	flock := in.LkFlags&fuse.LK_FLOCK != 0
	if flock && !s.canFlock || !flock && !s.canPosix {
		return fuse.ENOSYS
	}
	h, st := s.borrow(r, 0, in.Fh, r.NodeId, false)
	if st != fuse.OK {
		return st
	}
	call := *in
	call.Fh, call.Owner = h.fh, s.owner(in.Owner)
	if r.Opcode == fusewire.OpGetLk {
		return s.fs.GetLk(r.cancel, &call, reply[fuse.LkOut](r))
	}
	if in.Lk.Typ != unix.F_UNLCK && !s.lockOwner(h, call.Owner, flock) {
		return fuse.Status(unix.ENOLCK)
	}
	if r.Opcode == fusewire.OpSetLkw {
		return s.fs.SetLkw(r.cancel, &call)
	}
	return s.fs.SetLk(r.cancel, &call)
}

// lockOwner remembers who may hold a lock, to release it when the client is gone.
func (s *Session) lockOwner(h *handle, owner uint64, flock bool) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if flock {
		h.flocked, h.flocker = true, owner
		return true
	}
	if _, ok := h.owners[owner]; ok {
		return true
	}
	if s.tab.owners >= maxLockOwners {
		return false
	}
	if h.owners == nil {
		h.owners = make(map[uint64]struct{})
	}
	h.owners[owner] = struct{}{}
	s.tab.owners++
	return true
}
