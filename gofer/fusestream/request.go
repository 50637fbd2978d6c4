// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package fusestream

import (
	"encoding/binary"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"fsva/gofer/fusewire"
)

// ownUnique is set in the unique IDs of the relay's own requests. The kernel counts
// from 0.
const ownUnique = 1 << 63

// interruptBit is FUSE_INT_REQ_BIT: set in an INTERRUPT's own unique ID.
const interruptBit = 1

// request is one of the kernel's, from the time it is read until it is answered.
type request struct {
	// Immutable.
	unique uint64
	opcode uint32
	dev    int // where it came from
	msg    []byte
	cancel chan struct{} // closed by an INTERRUPT while it waits for a connection

	// Guarded by Relay.mu.
	epoch    uint64 // the connection that it was sent on; 0: none yet
	writing  bool   // its sender uses buf
	canceled bool
	slot     int64  // in the window, -1: none
	on       *link  // the connection that slot belongs to
	mark     uint64 // of FSYNC: the node's writes when it was sent
	answered bool
	changes  bool // counts in ahead.changing
	parked   bool // waits for a flight

	// buf is the message as it was sent: overhead bytes of room, then msg with the
	// gofer's numbers. The kernel's numbers are in saved.
	buf   []byte
	saved [4]field
	n     int // fields in saved
	big   *[]byte
}

// field is a number in a message that was replaced.
type field struct {
	at  int
	was uint64
}

// target says where a request names a node or a file.
type target struct {
	at   int
	file bool
	of   int // where the file's node is
}

// targets returns where the message names nodes and files.
func targets(msg []byte, into []target) []target {
	into = append(into, target{at: atNode})
	arg := func(at int, file bool, of int) {
		if len(msg) >= at+8 {
			into = append(into, target{at: at, file: file, of: of})
		}
	}
	switch opcodeOf(msg) {
	case fusewire.OpRename, fusewire.OpRename2, fusewire.OpLink:
		arg(atArg, false, 0)
	case fusewire.OpRead, fusewire.OpWrite, fusewire.OpRelease, fusewire.OpReleaseDir, fusewire.OpFsync, fusewire.OpFsyncDir, fusewire.OpFlush, fusewire.OpReadDir, fusewire.OpReadDirPlus,
		fusewire.OpGetLk, fusewire.OpSetLk, fusewire.OpSetLkw, fusewire.OpFallocate, fusewire.OpLseek:
		arg(atArg, true, atNode)
	case fusewire.OpCopyFileRange, fusewire.OpCopyFileRange64:
		arg(atArg, true, atNode)
		arg(56, false, 0)
		arg(64, true, 56)
	case fusewire.OpGetAttr, fusewire.OpStatx:
		if hasArgs(msg, 16) && u32(msg, atArg)&fuse.FUSE_GETATTR_FH != 0 {
			arg(atArg2, true, atNode)
		}
	case fusewire.OpSetAttr:
		if hasArgs(msg, 16) && u32(msg, atArg)&fuse.FATTR_FH != 0 {
			arg(atArg2, true, atNode)
		}
	}
	return into
}

// replayable reports whether a request whose connection was lost, so that it may or may
// not have been carried out, can be sent once more with the same outcome as if it had
// been sent once. Others fail with EIO: their effect is not known.
//
// Data is written again to the same place, unless the file system chooses the place
// (O_APPEND). What takes data away is repeated only where nobody else can have written in
// between.
func replayable(msg []byte, f *openFile, exclusive bool) bool {
	switch opcodeOf(msg) {
	case fusewire.OpLookup, fusewire.OpGetAttr, fusewire.OpReadlink, fusewire.OpStatfs, fusewire.OpRead, fusewire.OpReadDir, fusewire.OpReadDirPlus, fusewire.OpAccess, fusewire.OpGetXAttr,
		fusewire.OpListXAttr, fusewire.OpLseek, fusewire.OpGetLk, fusewire.OpStatx, fusewire.OpOpenDir, fusewire.OpFlush, fusewire.OpFsync, fusewire.OpFsyncDir:
		return true
	case fusewire.OpOpen:
		return hasArgs(msg, 8) && u32(msg, atArg)&unix.O_TRUNC == 0
	case fusewire.OpWrite:
		return f != nil && f.flags&unix.O_APPEND == 0
	case fusewire.OpSetAttr:
		return exclusive || hasArgs(msg, 16) && u32(msg, atArg)&fuse.FATTR_SIZE == 0
	case fusewire.OpFallocate:
		return exclusive
	case fusewire.OpSetXAttr:
		return hasArgs(msg, 8) && u32(msg, atArg+4) == 0
	}
	return false
}

// names splits the NUL-terminated names that follow the structure of size bytes.
func nameAt(msg []byte, size, i int) string {
	if !hasArgs(msg, size) {
		return ""
	}
	b := msg[fusewire.InHeaderSize+size:]
	for {
		end := 0
		for end < len(b) && b[end] != 0 {
			end++
		}
		if i == 0 || end == len(b) {
			return string(b[:end])
		}
		b, i = b[end+1:], i-1
	}
}

// nameOffset is the size of the structure before the name in requests that make or
// look up a name.
func nameOffset(opcode uint32) int {
	switch opcode {
	case fusewire.OpMknod, fusewire.OpCreate, fusewire.OpTmpfile, fusewire.OpRename2:
		return 16
	case fusewire.OpMkdir, fusewire.OpLink, fusewire.OpRename:
		return 8
	}
	return 0
}

// readDevice is a reader of the kernel's requests, from one descriptor.
func (r *Relay) readDevice(i int) error {
	big := r.buffers.Get().(*[]byte)
	for {
		n, err := r.dev.read(i, (*big)[overhead:])
		if err != nil {
			return err
		}
		if n < fusewire.InHeaderSize {
			continue // no kernel sends it
		}
		q := &request{dev: i, slot: -1}
		if n <= 8192 {
			q.buf = append(make([]byte, 0, overhead+n), (*big)[:overhead+n]...)
		} else {
			q.buf, q.big = (*big)[:overhead+n], big
			big = r.buffers.Get().(*[]byte)
		}
		q.msg = q.buf[overhead:]
		q.unique, q.opcode = uniqueOf(q.msg), opcodeOf(q.msg)
		r.handle(q)
	}
}

// handle begins a request. It does not wait for a connection.
func (r *Relay) handle(q *request) {
	switch q.opcode {
	case fusewire.OpForget:
		if hasArgs(q.msg, 8) {
			r.forget(func(t *nodeTable) { t.forget(nodeOf(q.msg), u64(q.msg, atArg)) })
		}
		return
	case fusewire.OpBatchForget:
		r.forget(func(t *nodeTable) {
			if !hasArgs(q.msg, 8) {
				return
			}
			b := q.msg[atArg2:]
			for range min(int(u32(q.msg, atArg)), len(b)/16) {
				t.forget(u64(b, 0), u64(b, 8))
				b = b[16:]
			}
		})
		return
	case fusewire.OpInterrupt:
		if hasArgs(q.msg, 8) {
			r.interrupt(q)
		}
		return
	case fusewire.OpDestroy:
		r.answer(q, replyMessage(q.unique, 0, nil), nil)
		return
	}
	q.cancel = make(chan struct{})
	r.begin(q)
}

// begin answers a request, or sends it, or has it wait. It does not wait for a
// connection.
func (r *Relay) begin(q *request) {
	var a local
	e, ready := unix.Errno(0), false
	r.mu.Lock()
	if q.answered { // it was parked and is interrupted
		r.mu.Unlock()
		return
	}
	r.pending[q.unique] = q
	l := r.link
	if l != nil {
		a = r.localLocked(q, l)
	}
	q.parked = a.state == parked
	if a.state == remote && !q.changes && changes(q.msg) {
		r.changingLocked(q)
	}
	if a.state == remote && l != nil {
		ready, e = r.translateLocked(q, l)
	}
	r.mu.Unlock()
	switch {
	case a.state == answered:
		if !r.answer(q, a.reply, nil) && a.undo != nil {
			a.undo()
		}
	case a.state == parked:
	case e != 0:
		r.fail(q, e)
	case ready:
		r.transmit(q, l)
	default:
		go r.sendLater(q)
	}
	for _, f := range a.flights {
		l.sendFlight(f)
	}
}

// sendLater sends a request when there is a connection and its nodes and files are
// known there.
func (r *Relay) sendLater(q *request) {
	for {
		l, e := r.wait(q.cancel)
		if e == 0 {
			e = r.prepare(q, l)
		}
		if e == errLost {
			continue
		}
		if e != 0 {
			r.fail(q, e)
			return
		}
		r.mu.Lock()
		ready := false
		if r.link == l {
			ready, e = r.translateLocked(q, l)
		}
		r.mu.Unlock()
		if e != 0 {
			r.fail(q, e)
			return
		}
		if ready {
			r.transmit(q, l)
			return
		}
	}
}

// translateLocked puts the gofer's numbers in the message and makes it one that is sent on
// l. ready is false if nodes or files are not known on l yet.
func (r *Relay) translateLocked(q *request, l *link) (ready bool, e unix.Errno) {
	if q.canceled {
		return false, unix.EINTR
	}
	var room [4]target
	var replace [4]field
	all := targets(q.msg, room[:0])
	for i, t := range all {
		id := u64(q.msg, t.at)
		if t.file {
			f := r.table.files[id]
			switch {
			case f == nil:
				return false, unix.EBADF
			case f.lost:
				return false, unix.EIO
			case f.epoch != l.epoch:
				return false, 0
			case f.suspect && (q.opcode == fusewire.OpFsync || q.opcode == fusewire.OpFlush):
				f.suspect = false
				return false, unix.EIO
			}
			if (q.opcode == fusewire.OpSetLk || q.opcode == fusewire.OpSetLkw) && t.at == atArg {
				f.locked = true
			}
			replace[i] = field{t.at, f.server}
			continue
		}
		if id == 0 { // operations on the file system as such
			replace[i] = field{t.at, 0}
			continue
		}
		n := r.table.nodes[id]
		switch {
		case n == nil:
			return false, unix.ESTALE
		case n.id == rootID:
			replace[i] = field{t.at, rootID}
		case n.epoch != l.epoch:
			return false, 0
		default:
			replace[i] = field{t.at, n.server}
		}
		if q.opcode == fusewire.OpFsync && t.at == atNode {
			q.mark = n.writes
		}
	}
	q.n = len(all)
	for i, f := range replace[:q.n] {
		q.saved[i] = field{f.at, u64(q.msg, f.at)}
		put64(q.msg, f.at, f.was)
	}
	q.epoch, q.writing, q.on = l.epoch, true, l
	return true, 0
}

// restoreLocked puts the kernel's numbers back.
func (q *request) restoreLocked() {
	for _, f := range q.saved[:q.n] {
		put64(q.msg, f.at, f.was)
	}
	q.n = 0
}

// transmit sends a translated request.
func (r *Relay) transmit(q *request, l *link) {
	slot, err := l.send(q.buf)
	if err != nil {
		l.conn.Close() // its reader takes care of it
	}
	r.mu.Lock()
	q.writing, q.slot = false, slot
	answered := q.answered
	lost := r.link != l
	r.mu.Unlock()
	switch {
	case answered:
		r.free(q)
	case lost:
		r.settle(q)
	}
}

// settle decides about a request whose connection is lost.
func (r *Relay) settle(q *request) {
	r.mu.Lock()
	if q.answered {
		r.mu.Unlock()
		return
	}
	q.restoreLocked()
	q.epoch, q.slot, q.on = 0, -1, nil
	var f *openFile
	if q.opcode == fusewire.OpWrite && hasArgs(q.msg, 8) {
		f = r.table.files[u64(q.msg, atArg)]
	}
	again := replayable(q.msg, f, r.info.Exclusive)
	r.mu.Unlock()
	switch {
	case q.opcode == fusewire.OpRelease || q.opcode == fusewire.OpReleaseDir:
		r.released(q)
		r.answer(q, replyMessage(q.unique, 0, nil), nil)
	case again:
		go r.sendLater(q)
	default:
		notes := uncertain(q.msg)
		r.fail(q, unix.EIO)
		for _, note := range notes {
			r.notes.put(note)
		}
	}
}

// uncertain returns the notifications that have the kernel look again at the names
// and directories that a request may have changed. After EIO it goes on believing what
// it knew.
func uncertain(msg []byte) (notes [][]byte) {
	look := func(dir uint64, name string) {
		inode := make([]byte, fusewire.OutHeaderSize+24)
		put64(inode, fusewire.OutHeaderSize, dir)
		notes = append(notes, entryNote(dir, name), notification(inode, fusewire.NoteInvalInode))
	}
	op := opcodeOf(msg)
	switch op {
	case fusewire.OpCreate, fusewire.OpMknod, fusewire.OpMkdir, fusewire.OpSymlink, fusewire.OpLink, fusewire.OpUnlink, fusewire.OpRmdir:
		look(nodeOf(msg), nameAt(msg, nameOffset(op), 0))
	case fusewire.OpRename, fusewire.OpRename2:
		if hasArgs(msg, nameOffset(op)) {
			look(nodeOf(msg), nameAt(msg, nameOffset(op), 0))
			look(u64(msg, atArg), nameAt(msg, nameOffset(op), 1))
		}
	}
	return notes
}

// entryNote is FUSE_NOTIFY_INVAL_ENTRY.
func entryNote(dir uint64, name string) []byte {
	msg := make([]byte, fusewire.OutHeaderSize+16, fusewire.OutHeaderSize+16+len(name)+1)
	put64(msg, fusewire.OutHeaderSize, dir)
	binary.NativeEndian.PutUint32(msg[fusewire.OutHeaderSize+8:], uint32(len(name)))
	return notification(append(append(msg, name...), 0), fusewire.NoteInvalEntry)
}

// notification completes the header of a notification.
func notification(msg []byte, code int32) []byte {
	binary.NativeEndian.PutUint32(msg, uint32(len(msg)))
	binary.NativeEndian.PutUint32(msg[4:], uint32(code))
	return msg
}

// fail answers a request with an error.
func (r *Relay) fail(q *request, e unix.Errno) {
	if q.opcode == fusewire.OpRelease || q.opcode == fusewire.OpReleaseDir {
		// There is nothing to release where it is not open.
		r.released(q)
		e = 0
	}
	r.answer(q, replyMessage(q.unique, e, nil), nil)
}

// released takes a file off the table.
func (r *Relay) released(q *request) {
	if !hasArgs(q.msg, 8) {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.table.files, u64(q.msg, atArg))
}

// answer sends the reply to the kernel and ends the request. It reports whether the
// kernel still wanted it.
func (r *Relay) answer(q *request, msg, data []byte) bool {
	r.mu.Lock()
	if q.answered {
		r.mu.Unlock()
		return true
	}
	q.answered = true
	if q.changes {
		r.table.ahead.changing--
		r.table.ahead.changes++
	}
	if r.pending[q.unique] == q {
		delete(r.pending, q.unique)
	}
	writing := q.writing
	r.mu.Unlock()
	err := r.dev.write(q.dev, msg, data)
	if err != nil && err != unix.ENOENT && err != unix.ENODEV {
		r.opts.Log.Warn("the kernel does not take a reply", "op", q.opcode, "err", err)
		if err := r.dev.write(q.dev, replyMessage(q.unique, unix.EIO, nil), nil); err != nil {
			r.opts.Log.Debug("nor an error", "err", err)
		}
	}
	if !writing {
		r.free(q)
	}
	return err == nil
}

// free gives back what an answered request used.
func (r *Relay) free(q *request) {
	if q.on != nil {
		q.on.freeSlot(q.slot)
	}
	if q.big != nil {
		r.buffers.Put(q.big)
		q.big = nil
	}
}

// replyMessage makes a reply: an error, or body.
func replyMessage(unique uint64, e unix.Errno, body []byte) []byte {
	b := make([]byte, fusewire.OutHeaderSize, fusewire.OutHeaderSize+len(body))
	binary.NativeEndian.PutUint32(b[0:], uint32(fusewire.OutHeaderSize+len(body)))
	binary.NativeEndian.PutUint32(b[4:], uint32(-int32(e)))
	binary.NativeEndian.PutUint64(b[8:], unique)
	return append(b, body...)
}

// interrupt carries out an INTERRUPT: at once for a request that waits, else the gofer
// is told.
func (r *Relay) interrupt(in *request) {
	r.mu.Lock()
	q := r.pending[u64(in.msg, atArg)]
	var l *link
	waits := false
	switch {
	case q == nil:
	case q.epoch == 0 && !q.canceled:
		q.canceled = true
		close(q.cancel)
		waits = q.parked
	default:
		l = r.link
	}
	r.mu.Unlock()
	if waits {
		r.fail(q, unix.EINTR)
	}
	if q == nil {
		// It may be on its way to us. If it has been answered, the kernel refuses this.
		if err := r.dev.write(in.dev, replyMessage(in.unique, unix.EAGAIN, nil), nil); err != nil && err != unix.ENOENT {
			r.opts.Log.Debug("answer INTERRUPT", "err", err)
		}
		return
	}
	if l != nil {
		if _, err := l.send(in.buf); err != nil {
			l.conn.Close()
		}
	}
}

// forget changes the table and tells the gofer of what nobody needs any more.
func (r *Relay) forget(change func(*nodeTable)) {
	r.mu.Lock()
	change(&r.table)
	l := r.link
	gone := r.table.gone
	r.table.gone = nil
	r.mu.Unlock()
	if l == nil {
		return
	}
	// Many fit in one message, and its reply is none.
	const most = 4096
	for len(gone) > 0 {
		part := gone[:min(len(gone), most)]
		gone = gone[len(part):]
		b := make([]byte, overhead+fusewire.InHeaderSize+8, overhead+fusewire.InHeaderSize+8+16*len(part))
		n := 0
		for _, f := range part {
			if f.epoch == l.epoch {
				b = binary.NativeEndian.AppendUint64(b, f.server)
				b = binary.NativeEndian.AppendUint64(b, f.lookups)
				n++
			}
		}
		if n == 0 {
			continue
		}
		msg := b[overhead:]
		binary.NativeEndian.PutUint32(msg[0:], uint32(len(msg)))
		binary.NativeEndian.PutUint32(msg[atOpcode:], fusewire.OpBatchForget)
		put64(msg, atUnique, ownUnique)
		binary.NativeEndian.PutUint32(msg[atArg:], uint32(n))
		if _, err := l.send(b); err != nil {
			l.conn.Close()
			return
		}
	}
}
