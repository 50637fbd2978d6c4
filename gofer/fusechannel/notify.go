// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package fusechannel

import (
	"encoding/binary"
	"math"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"fsva/gofer/fusewire"
)

// notification is one parsed notification. Which fields matter depends on code.
type notification struct {
	code       int32
	node       uint64 // INVAL_INODE, STORE, RETRIEVE; parent of INVAL_ENTRY and DELETE
	child      uint64 // DELETE
	off        int64  // INVAL_INODE, STORE, RETRIEVE; not negative for the latter two
	length     int64  // INVAL_INODE
	size       uint32 // RETRIEVE
	unique     uint64 // RETRIEVE
	expireOnly bool   // INVAL_ENTRY
	name       string // INVAL_ENTRY, DELETE
	data       []byte // STORE; points into the message until own was called
	nodes      []uint64
}

// parseNotification judges a notification as fuse_notify of fs/fuse/dev.c does. data is not copied, names are.
func parseNotification(code int32, b []byte) (n notification, ok bool) {
	n.code = code
	u64 := func(off int) uint64 { return binary.NativeEndian.Uint64(b[off:]) }
	u32 := func(off int) uint32 { return binary.NativeEndian.Uint32(b[off:]) }
	switch code {
	case fusewire.NotePoll: // struct fuse_notify_poll_wakeup_out
		return n, len(b) == 8
	case fusewire.NoteInvalInode: // struct fuse_notify_inval_inode_out
		if len(b) != 24 {
			return n, false
		}
		n.node, n.off, n.length = u64(0), int64(u64(8)), int64(u64(16))
		return n, true
	case fusewire.NoteInvalEntry: // struct fuse_notify_inval_entry_out, name
		if len(b) < 16 {
			return n, false
		}
		n.node, n.expireOnly = u64(0), u32(12)&fuse.EXPIRE_ONLY != 0
		n.name, ok = noteName(b[16:], u32(8))
		return n, ok
	case fusewire.NoteDelete: // struct fuse_notify_delete_out, name
		if len(b) < 24 {
			return n, false
		}
		n.node, n.child = u64(0), u64(8)
		n.name, ok = noteName(b[24:], u32(16))
		return n, ok
	case fusewire.NoteStore: // struct fuse_notify_store_out, data
		if len(b) < 24 || uint64(len(b)-24) != uint64(u32(16)) {
			return n, false
		}
		n.node, n.off, n.data = u64(0), int64(u64(8)), b[24:]
		return n, n.off >= 0 && n.off <= math.MaxInt64-int64(len(n.data))
	case fusewire.NoteRetrieve: // struct fuse_notify_retrieve_out
		if len(b) != 32 {
			return n, false
		}
		n.unique, n.node, n.off, n.size = u64(0), u64(8), int64(u64(16)), u32(24)
		return n, n.off >= 0
	case fusewire.NoteResend, fusewire.NoteIncEpoch:
		return n, len(b) == 0
	case fusewire.NotePrune: // struct fuse_notify_prune_out, node ids
		if len(b) < 16 || uint64(len(b)-16) != uint64(u32(0))*8 {
			return n, false
		}
		n.data = b[16:]
		return n, true
	}
	return n, false
}

// noteName returns the name in b, which must be namelen bytes and a last one, as fuse_notify_inval_entry demands; what
// the last one is does not matter there.
func noteName(b []byte, namelen uint32) (string, bool) {
	if uint64(len(b)) != uint64(namelen)+1 || namelen == 0 || namelen > nameMax {
		return "", false
	}
	name := string(b[:namelen])
	return name, checkName(name) == fuse.OK
}

// own makes the notification independent of the message it was parsed from.
func (n *notification) own() {
	switch n.code {
	case fusewire.NoteStore:
		n.data = append([]byte(nil), n.data...)
	case fusewire.NotePrune:
		n.nodes = make([]uint64, len(n.data)/8)
		for i := range n.nodes {
			n.nodes[i] = binary.NativeEndian.Uint64(n.data[8*i:])
		}
		n.data = nil
	}
}

// takeNotification parses a notification and queues it.
//
// Precondition: the caller has the read role; payload is in c.rbuf.
func (c *Channel) takeNotification(code int32, payload []byte) {
	n, ok := parseNotification(code, payload)
	if !ok {
		c.stats.refused.Add(1)
		c.malformed("notification %d with %d bytes", code, len(payload))
		return
	}
	c.stats.notes[code].Add(1)
	if code == fusewire.NotePoll {
		return // nobody polls
	}
	if code == fusewire.NoteResend {
		// Not offered (HAS_RESEND): requests are not kept for it.
		c.stats.refused.Add(1)
		return
	}
	if c.notifier.Load() == nil && code != fusewire.NoteRetrieve {
		c.stats.refused.Add(1)
		return
	}
	n.own()
	if err := c.notes.put(n, c.dead); err != nil {
		c.fail(err)
	}
}

// dispatchNotifications is the goroutine that calls the Notifier.
func (c *Channel) dispatchNotifications() {
	defer c.wg.Done()
	ca := newCall(0)
	for {
		n, ok := c.notes.get(c.dead)
		if !ok {
			return
		}
		c.dispatch(ca, n)
	}
}

func (c *Channel) dispatch(ca *call, n notification) {
	var to Notifier
	if p := c.notifier.Load(); p != nil {
		to = *p
	}
	if n.code == fusewire.NoteRetrieve {
		c.answerRetrieve(ca, to, n)
		return
	}
	if to == nil {
		c.stats.refused.Add(1)
		return
	}
	switch n.code {
	case fusewire.NoteInvalInode:
		to.InvalInode(n.node, n.off, n.length)
	case fusewire.NoteInvalEntry:
		to.InvalEntry(n.node, n.name, n.expireOnly)
	case fusewire.NoteDelete:
		to.Delete(n.node, n.child, n.name)
	case fusewire.NoteStore:
		if st := to.Store(n.node, uint64(n.off), n.data); st != fuse.OK {
			c.stats.refused.Add(1)
		}
	case fusewire.NoteIncEpoch:
		if e, ok := to.(EpochNotifier); ok {
			e.IncEpoch()
		} else {
			c.stats.refused.Add(1)
		}
	case fusewire.NotePrune:
		if p, ok := to.(PruneNotifier); ok {
			p.Prune(n.nodes)
		} else {
			c.stats.refused.Add(1)
		}
	}
}

// answerRetrieve sends what the Notifier has. When it has nothing, or there is none, the answer is empty: Linux tells
// the server with an error of its write(2), which a socket does not have, and without an answer it might wait forever.
func (c *Channel) answerRetrieve(ca *call, to Notifier, n notification) {
	size := min(n.size, uint32(c.proto.maxWrite))
	var data []byte
	if to != nil {
		got, st := to.Retrieve(n.node, uint64(n.off), size)
		if st == fuse.OK {
			data = got[:min(len(got), int(size))]
		} else {
			c.stats.refused.Add(1)
		}
	} else {
		c.stats.refused.Add(1)
	}
	ca.unique = n.unique
	ca.header(fusewire.OpNotifyReply, &fuse.InHeader{NodeId: n.node})
	in := fuse.NotifyRetrieveIn{Offset: uint64(n.off), Size: uint32(len(data))}
	ca.body(bytesOf(&in), 40)
	ca.data(data)
	ca.seal()
	c.stats.ops[fusewire.OpNotifyReply].Add(1)
	if e := sendmsg(c.fd, &ca.msg, ca.iov, 0); e != 0 && e != unix.EPIPE && e != unix.ECONNRESET {
		c.log.warn("NOTIFY_REPLY not sent", func() string { return e.Error() })
	}
	clear(ca.iov)
}
