// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package fusechannel

import (
	"slices"
	"sync"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"

	"fsva/gofer/fusewire"
)

const (
	// forgetBatch is the most nodes in one BATCH_FORGET. With its headers it fits in 4 KiB, which every server can
	// read.
	forgetBatch = 250
	// forgetDelay is how long a FORGET may wait for company.
	forgetDelay = 5 * time.Millisecond
	// forgetMax bounds the nodes that wait. It is reached only when the server does not read; Forget waits then.
	forgetMax = 1 << 16
)

// forgetQueue collects FORGETs. Nodes that are forgotten more than once while they wait are merged. A node with a RELEASE
// under way waits for its reply: Linux keeps the inode until then (fs/fuse/file.c, fuse_release_end), and a server with
// several threads that sees FORGET first loses the node under its own feet (libfuse aborts).
type forgetQueue struct {
	wake chan struct{} // has a token when there is something to send
	full chan struct{} // has a token when there is a batch to send, or a flush waits

	mu      sync.Mutex
	cond    sync.Cond // the queue has been sent
	pending map[uint64]uint64
	held    map[uint64]int // RELEASEs under way, by node
	sending bool
	closed  bool
	// batches are the latest BATCH_FORGETs by their unique ids, oldest first, for servers that turn out not to know it.
	batches []sentBatch
}

// sentBatch is a BATCH_FORGET on the wire.
type sentBatch struct {
	unique uint64
	nodes  []forgetOne
}

// keptBatches is how many BATCH_FORGETs are remembered. A server that does not know it answers the first, before many
// more are sent.
const keptBatches = 16

// sent remembers a batch.
func (q *forgetQueue) sent(unique uint64, nodes []forgetOne) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.batches) == keptBatches {
		q.batches = slices.Delete(q.batches, 0, 1)
	}
	q.batches = append(q.batches, sentBatch{unique, slices.Clone(nodes)})
}

// refused queues the nodes of a batch that the server did not take again. It reports whether there was such a batch.
func (q *forgetQueue) refused(unique uint64) bool {
	q.mu.Lock()
	i := slices.IndexFunc(q.batches, func(b sentBatch) bool { return b.unique == unique })
	if i < 0 {
		q.mu.Unlock()
		return false
	}
	if !q.closed {
		for _, n := range q.batches[i].nodes {
			q.pending[n.nodeID] += n.nlookup
		}
	}
	q.batches = slices.Delete(q.batches, i, i+1)
	q.mu.Unlock()
	poke(q.wake)
	return true
}

func (q *forgetQueue) init() {
	q.wake = make(chan struct{}, 1)
	q.full = make(chan struct{}, 1)
	q.cond.L = &q.mu
	q.pending = make(map[uint64]uint64)
	q.held = make(map[uint64]int)
}

// hold keeps the node's FORGETs back until unhold.
func (q *forgetQueue) hold(nodeID uint64) {
	q.mu.Lock()
	q.held[nodeID]++
	q.mu.Unlock()
}

func (q *forgetQueue) unhold(nodeID uint64) {
	q.mu.Lock()
	waiting := false
	if q.held[nodeID]--; q.held[nodeID] == 0 {
		delete(q.held, nodeID)
		_, waiting = q.pending[nodeID]
		if len(q.held) == 0 {
			q.cond.Broadcast()
		}
	}
	q.mu.Unlock()
	if waiting {
		poke(q.wake)
	}
}

// releasing reports whether a RELEASE is under way.
func (q *forgetQueue) releasing() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.held) > 0
}

// releaseWait bounds awaitReleases: others may send RELEASEs all the time.
const releaseWait = time.Second

// awaitReleases waits until no RELEASE is under way, at most releaseWait.
func (q *forgetQueue) awaitReleases() {
	expired := false
	timer := time.AfterFunc(releaseWait, func() {
		q.mu.Lock()
		expired = true
		q.mu.Unlock()
		q.cond.Broadcast()
	})
	defer timer.Stop()
	q.mu.Lock()
	defer q.mu.Unlock()
	for len(q.held) > 0 && !expired && !q.closed {
		q.cond.Wait()
	}
}

func poke(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}

func (q *forgetQueue) add(nodeID, nlookup uint64) {
	q.mu.Lock()
	for len(q.pending) >= forgetMax && !q.closed {
		q.cond.Wait()
	}
	if q.closed {
		q.mu.Unlock()
		return
	}
	q.pending[nodeID] += nlookup
	n := len(q.pending)
	q.mu.Unlock()
	if n == 1 {
		poke(q.wake)
	}
	if n >= forgetBatch {
		poke(q.full)
	}
}

// take returns at most forgetBatch pending FORGETs that may be sent. q.sending is true until the next take: so when there are none and
// nothing is being sent, everything is on the wire.
func (q *forgetQueue) take(buf []forgetOne) []forgetOne {
	q.mu.Lock()
	defer q.mu.Unlock()
	buf = buf[:0]
	for id, n := range q.pending {
		if len(buf) == forgetBatch {
			break
		}
		if q.held[id] > 0 {
			continue
		}
		buf = append(buf, forgetOne{id, n})
		delete(q.pending, id)
	}
	q.sending = len(buf) > 0
	q.cond.Broadcast()
	return buf
}

// flush waits until everything that was added before is on the wire, or until the queue is closed.
func (q *forgetQueue) flush() {
	poke(q.wake)
	poke(q.full)
	q.mu.Lock()
	defer q.mu.Unlock()
	for (len(q.pending) > 0 || q.sending) && !q.closed {
		q.cond.Wait()
		poke(q.full)
	}
}

// close lets everybody go. Nothing is sent any more.
func (q *forgetQueue) close() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = true
	q.pending = nil
	q.cond.Broadcast()
}

// forgetOne is struct fuse_forget_one.
type forgetOne struct {
	nodeID, nlookup uint64
}

// sendForgets is the goroutine that empties the queue.
func (c *Channel) sendForgets() {
	defer c.wg.Done()
	defer c.forgets.close()
	q := &c.forgets
	timer := time.NewTimer(forgetDelay)
	timer.Stop()
	buf := make([]forgetOne, 0, forgetBatch)
	ca := newCall(0)
	for {
		select {
		case <-q.wake:
		case <-c.dead:
			return
		}
		timer.Reset(forgetDelay)
		select {
		case <-timer.C:
		case <-q.full:
			timer.Stop()
		case <-c.dead:
			return
		}
		for {
			buf = q.take(buf)
			if len(buf) == 0 {
				break
			}
			c.forgetNow(ca, buf)
		}
	}
}

// forgetNow sends FORGETs as the server's version allows. There is no reply to wait for, and nothing to do about an
// error: the channel ends when its reader sees it.
func (c *Channel) forgetNow(ca *call, batch []forgetOne) {
	c.stats.forgets.Add(uint64(len(batch)))
	ca.unique = c.freshUnique()
	if len(batch) > 1 && c.proto.minor >= 16 && !c.enosys[fusewire.OpBatchForget].Load() {
		c.forgets.sent(ca.unique, batch)
		ca.header(fusewire.OpBatchForget, &fuse.InHeader{})
		head := struct{ count, dummy uint32 }{count: uint32(len(batch))}
		ca.in = append(ca.in, bytesOf(&head)...)
		for i := range batch {
			ca.in = append(ca.in, bytesOf(&batch[i])...)
		}
		c.stats.ops[fusewire.OpBatchForget].Add(1)
		ca.seal()
		sendmsg(c.fd, &ca.msg, ca.iov, 0)
		return
	}
	for i := range batch {
		ca.header(fusewire.OpForget, &fuse.InHeader{NodeId: batch[i].nodeID})
		ca.in = append(ca.in, bytesOf(&batch[i].nlookup)...)
		c.stats.ops[fusewire.OpForget].Add(1)
		ca.seal()
		sendmsg(c.fd, &ca.msg, ca.iov, 0)
		ca.unique = c.freshUnique()
	}
}

// freshUnique returns an id for a request that has no reply.
func (c *Channel) freshUnique() uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.seq++
	// No call has this sequence number, so no reply can match it.
	return c.seq * maxInFlight << 1
}

// Forget implements fuse.RawFileSystem. It takes note and returns; the server is told within a few milliseconds, in one
// message for many nodes.
func (c *Channel) Forget(nodeID, nlookup uint64) {
	if nlookup == 0 || nodeID == 0 || nodeID == fuse.FUSE_ROOT_ID {
		return
	}
	c.forgets.add(nodeID, nlookup)
}
