// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package fusestream

import (
	"encoding/binary"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"fsva/gofer/fusewire"
)

// errLost, as the errno of a step, says that the connection is lost: the step is done
// again on the next. It is none that a file system returns.
const errLost = unix.Errno(1 << 12)

// call is a request of the relay itself.
type call struct {
	link *link
	done chan []byte // the reply
}

// call sends a request of the relay's own and waits for the reply, whose body it
// returns.
func (r *Relay) call(q *request, l *link, opcode uint32, nodeID uint64, args []byte) ([]byte, unix.Errno) {
	b := make([]byte, overhead+fusewire.InHeaderSize, overhead+fusewire.InHeaderSize+len(args))
	b = append(b, args...)
	msg := b[overhead:]
	copy(msg[24:fusewire.InHeaderSize-4], q.msg[24:]) // on behalf of the same user
	binary.NativeEndian.PutUint32(msg[0:], uint32(len(msg)))
	binary.NativeEndian.PutUint32(msg[atOpcode:], opcode)
	put64(msg, atNode, nodeID)
	c := &call{link: l, done: make(chan []byte, 1)}
	r.mu.Lock()
	if r.link != l {
		r.mu.Unlock()
		return nil, errLost
	}
	r.own++
	unique := uint64(ownUnique) | r.own<<1
	put64(msg, atUnique, unique)
	r.calls[unique] = c
	changed := r.changed
	r.mu.Unlock()
	defer func() {
		r.mu.Lock()
		delete(r.calls, unique)
		r.mu.Unlock()
	}()
	if _, err := l.send(b); err != nil {
		l.conn.Close()
		return nil, errLost
	}
	select {
	case reply := <-c.done:
		if e := replyError(reply); e != 0 {
			return nil, unix.Errno(-e)
		}
		return reply[fusewire.OutHeaderSize:], 0
	case <-changed: // the only change there is of a connection is its end
		return nil, errLost
	}
}

// prepare makes the nodes and files of a request known on l.
func (r *Relay) prepare(q *request, l *link) unix.Errno {
	var room [4]target
	for _, t := range targets(q.msg, room[:0]) {
		id := u64(q.msg, t.at)
		var e unix.Errno
		if t.file {
			e = r.reopen(q, l, id)
		} else if id != 0 && id != rootID {
			r.mu.Lock()
			n := r.table.nodes[id]
			r.mu.Unlock()
			if n == nil {
				return unix.ESTALE
			}
			e = r.find(q, l, n, 0)
		}
		if e != 0 {
			return e
		}
	}
	return 0
}

// maxDepth bounds the directories above a node.
const maxDepth = 4096

// find looks a node up by its path, if it is not known on l.
func (r *Relay) find(q *request, l *link, n *node, depth int) unix.Errno {
	r.mu.Lock()
	parent, name := n.parent, n.name
	known := n.id == rootID || n.epoch == l.epoch
	r.mu.Unlock()
	if known {
		return 0
	}
	if parent == nil || depth > maxDepth {
		return unix.ESTALE // it has no name any more
	}
	if e := r.find(q, l, parent, depth+1); e != 0 {
		return e
	}
	r.mu.Lock()
	dir := parent.server
	r.mu.Unlock()
	body, e := r.call(q, l, fusewire.OpLookup, dir, append([]byte(name), 0))
	if e == unix.ENOENT {
		e = unix.ESTALE
	}
	if e != 0 {
		return e
	}
	var out fuse.EntryOut
	if copy(bytesOf(&out), body) < fusewire.EntryOutSize {
		return unix.EIO
	}
	if out.NodeId == 0 {
		return unix.ESTALE
	}
	r.mu.Lock()
	same := n.same(out.Ino, out.Mode&unix.S_IFMT, r.info.StableIno)
	if same && r.link == l {
		r.table.bind(n, out.NodeId, l.epoch)
	}
	r.mu.Unlock()
	if !same {
		r.forget(func(t *nodeTable) { t.gone = append(t.gone, forgotten{out.NodeId, 1, l.epoch}) })
		return unix.ESTALE
	}
	return 0
}

// reopen opens a file again, if it is not open on l.
func (r *Relay) reopen(q *request, l *link, id uint64) unix.Errno {
	r.mu.Lock()
	f := r.table.files[id]
	switch {
	case f == nil:
		r.mu.Unlock()
		return unix.EBADF
	case f.lost:
		r.mu.Unlock()
		return unix.EIO
	case f.epoch == l.epoch:
		r.mu.Unlock()
		return 0
	}
	n := f.node
	r.mu.Unlock()
	if e := r.find(q, l, n, 0); e != 0 {
		return e
	}
	r.mu.Lock()
	server := n.server
	if n.id == rootID {
		server = rootID
	}
	r.mu.Unlock()
	args := make([]byte, 8)
	binary.NativeEndian.PutUint32(args, f.flags&^(unix.O_CREAT|unix.O_EXCL|unix.O_TRUNC))
	opcode := uint32(fusewire.OpOpen)
	if f.dir {
		opcode = fusewire.OpOpenDir
	}
	body, e := r.call(q, l, opcode, server, args)
	if e != 0 {
		return e
	}
	if len(body) < openOutSize {
		return unix.EIO
	}
	fh := u64(body, 0)
	r.mu.Lock()
	// Another request may have done it, or the file may be closed.
	keep := r.table.files[id] == f && f.epoch != l.epoch && r.link == l
	if keep {
		f.server, f.epoch = fh, l.epoch
	}
	r.mu.Unlock()
	if !keep {
		r.release(l, server, fh, f.dir)
	}
	return 0
}

// release closes a file at the gofer. There is nobody to tell of an error.
func (r *Relay) release(l *link, node, fh uint64, dir bool) {
	b := make([]byte, overhead+fusewire.InHeaderSize+24)
	msg := b[overhead:]
	opcode := uint32(fusewire.OpRelease)
	if dir {
		opcode = fusewire.OpReleaseDir
	}
	binary.NativeEndian.PutUint32(msg[0:], uint32(len(msg)))
	binary.NativeEndian.PutUint32(msg[atOpcode:], opcode)
	put64(msg, atUnique, ownUnique)
	put64(msg, atNode, node)
	put64(msg, atArg, fh)
	if _, err := l.send(b); err != nil {
		l.conn.Close()
	}
}
