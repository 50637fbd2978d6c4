// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package fusestream

import (
	"fmt"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"fsva/gofer/fusewire"
)

// readLink delivers what comes on a connection until it ends, and returns why.
func (r *Relay) readLink(l *link) error {
	var buf, data []byte
	for {
		m, err := l.read(&buf)
		if err != nil {
			return err
		}
		if m.kind == kindCompound {
			if err := r.landed(l, m.fuse); err != nil {
				return err
			}
			continue
		}
		if m.kind == kindNotification {
			r.mu.Lock()
			r.noticedLocked(m.fuse)
			r.mu.Unlock()
			if note := r.notification(m.fuse); note != nil {
				r.notes.put(note)
			}
			continue
		}
		if m.data != nil {
			// The kernel takes no data from a PCI BAR: writev fails with EFAULT, because the
			// mapping has no pages (VM_PFNMAP).
			data = append(data[:0], m.data...)
			m.data = data
			if err := l.release(m.window); err != nil {
				return err
			}
		}
		if err := r.reply(l, m); err != nil {
			return err
		}
	}
}

// reply delivers a reply to whoever waits for it.
func (r *Relay) reply(l *link, m message) error {
	unique := replyUnique(m.fuse)
	r.mu.Lock()
	if unique&ownUnique != 0 {
		c := r.calls[unique]
		delete(r.calls, unique)
		r.mu.Unlock()
		if c != nil && c.link == l {
			c.done <- append([]byte(nil), m.fuse...)
		}
		return nil
	}
	q := r.pending[unique]
	if q == nil && unique&interruptBit != 0 {
		// What the gofer says to an INTERRUPT goes to where the request came from.
		q = r.pending[unique&^interruptBit]
		r.mu.Unlock()
		if q != nil {
			if err := r.dev.write(q.dev, m.fuse, nil); err != nil && err != unix.ENOENT {
				r.opts.Log.Debug("answer INTERRUPT", "err", err)
			}
		}
		return nil
	}
	if q == nil || q.epoch != l.epoch {
		r.mu.Unlock()
		return fmt.Errorf("%w: reply to request %d, which was not sent", errFrame, unique)
	}
	undo, ok := r.acceptLocked(q, l, m.fuse)
	r.mu.Unlock()
	msg := m.fuse
	if !ok {
		r.opts.Log.Warn("a reply that cannot be", "op", q.opcode, "bytes", len(msg))
		msg, m.data = replyMessage(unique, unix.EIO, nil), nil
	}
	if wanted := r.answer(q, msg, m.data); undo != nil && (!wanted || !ok) {
		undo()
	}
	return nil
}

// acceptLocked takes note of what a reply says and puts the kernel's numbers in it. undo
// is what to do if the kernel does not want it any more; nil: nothing. ok is false if it
// cannot be the reply to the request.
func (r *Relay) acceptLocked(q *request, l *link, msg []byte) (undo func(), ok bool) {
	// Its sender may still use the message.
	get := func(at int) uint64 {
		for _, f := range q.saved[:q.n] {
			if f.at == at {
				return f.was
			}
		}
		return u64(q.msg, at)
	}
	failed, body := replyError(msg) != 0, msg[fusewire.OutHeaderSize:]
	t := &r.table
	n := t.nodes[get(atNode)]
	switch q.opcode {
	case fusewire.OpRelease, fusewire.OpReleaseDir:
		if hasArgs(q.msg, 8) {
			delete(t.files, get(atArg))
		}
		return nil, true
	}
	if failed || n == nil {
		return nil, failed || n != nil || get(atNode) == 0
	}
	switch q.opcode {
	case fusewire.OpLookup, fusewire.OpMknod, fusewire.OpMkdir, fusewire.OpSymlink, fusewire.OpLink, fusewire.OpCreate, fusewire.OpTmpfile:
		if len(body) < fusewire.EntryOutSize {
			return nil, false
		}
		name := nameAt(q.msg, nameOffset(q.opcode), 0)
		if q.opcode == fusewire.OpTmpfile {
			name = ""
		}
		child := r.entryLocked(n, name, body, l)
		if child == nil { // there is no such name
			return nil, q.opcode == fusewire.OpLookup
		}
		undo = func() { r.forget(func(t *nodeTable) { t.forget(child.id, 1) }) }
		if q.opcode == fusewire.OpCreate || q.opcode == fusewire.OpTmpfile {
			if len(body) < fusewire.EntryOutSize+openOutSize || !hasArgs(q.msg, 16) {
				return undo, false
			}
			f := r.openedLocked(child, false, u32(q.msg, atArg), body[fusewire.EntryOutSize:], l)
			forget := undo
			undo = func() { r.drop(f, l); forget() }
		}
	case fusewire.OpOpen, fusewire.OpOpenDir:
		if len(body) < openOutSize || !hasArgs(q.msg, 8) {
			return nil, false
		}
		f := r.openedLocked(n, q.opcode == fusewire.OpOpenDir, u32(q.msg, atArg), body, l)
		undo = func() { r.drop(f, l) }
	case fusewire.OpReadDirPlus:
		r.listedLocked(n, body, l)
	case fusewire.OpUnlink, fusewire.OpRmdir:
		t.removed(n, nameAt(q.msg, 0, 0))
	case fusewire.OpRename, fusewire.OpRename2:
		size := nameOffset(q.opcode)
		exchange := q.opcode == fusewire.OpRename2 && u32(q.msg, atArg2)&unix.RENAME_EXCHANGE != 0
		if to := t.nodes[get(atArg)]; to != nil {
			t.renamed(n, nameAt(q.msg, size, 0), to, nameAt(q.msg, size, 1), exchange)
		}
	case fusewire.OpWrite:
		n.writes++
		n.unsynced = true
	case fusewire.OpFsync:
		if n.writes == q.mark {
			n.unsynced = false
		}
	case fusewire.OpCopyFileRange, fusewire.OpCopyFileRange64:
		if to := t.nodes[get(56)]; to != nil {
			to.writes++
			to.unsynced = true
		}
	}
	return undo, true
}

// entryLocked takes note of an entry and puts the kernel's number in it. It returns nil
// if the entry says that there is no such name.
func (r *Relay) entryLocked(parent *node, name string, b []byte, l *link) *node {
	var out fuse.EntryOut
	copy(bytesOf(&out), b)
	if out.NodeId == 0 {
		return nil
	}
	n := r.table.entry(parent, name, out.NodeId, out.Ino, out.Mode, l.epoch, r.info.StableIno)
	n.granted += r.table.ahead.seen(out.NodeId)
	put64(b, 0, n.id)
	return n
}

// openedLocked takes note of an open file and puts the kernel's number in the reply.
func (r *Relay) openedLocked(n *node, dir bool, flags uint32, b []byte, l *link) *openFile {
	t := &r.table
	t.nextFile++
	f := &openFile{id: t.nextFile, node: n, dir: dir, flags: flags, server: u64(b, 0), epoch: l.epoch}
	t.files[f.id] = f
	put64(b, 0, f.id)
	return f
}

// listedLocked takes note of the entries of a READDIRPLUS.
func (r *Relay) listedLocked(dir *node, b []byte, l *link) {
	for {
		name, size := direntPlus(b)
		if size == 0 {
			return
		}
		if n := r.entryLocked(dir, name, b, l); n != nil && l.aheadOn() {
			r.table.listedByKernel(dir, n, b)
		}
		b = b[size:]
	}
}

// drop releases a file that the kernel does not want.
func (r *Relay) drop(f *openFile, l *link) {
	r.mu.Lock()
	delete(r.table.files, f.id)
	server, node := f.server, f.node.server
	r.mu.Unlock()
	r.release(l, node, server, f.dir)
}

// notification puts the kernel's numbers in a notification. It returns nil if the kernel
// does not have the node.
func (r *Relay) notification(msg []byte) []byte {
	msg = append([]byte(nil), msg...)
	node := func(at int) bool {
		if len(msg) < fusewire.OutHeaderSize+at+8 {
			return false
		}
		id := u64(msg, fusewire.OutHeaderSize+at)
		if id == rootID {
			return true
		}
		r.mu.Lock()
		defer r.mu.Unlock()
		n := r.table.byServer[id]
		if n != nil {
			put64(msg, fusewire.OutHeaderSize+at, n.id)
		}
		return n != nil
	}
	switch replyError(msg) {
	case fusewire.NoteInvalInode, fusewire.NoteInvalEntry:
		if node(0) {
			return msg
		}
	case fusewire.NoteDelete:
		if node(0) && node(8) {
			return msg
		}
	case fusewire.NoteIncEpoch: // of all nodes
		return msg
	}
	return nil
}
