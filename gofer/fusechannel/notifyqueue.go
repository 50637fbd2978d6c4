// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package fusechannel

import (
	"errors"
	"sync"
	"time"
)

const (
	notesMax      = 4096    // notifications that wait
	noteBytesMax  = 8 << 20 // memory that their data and names may take
	noteOverhead  = 128     // what each one takes besides
	notesDeadline = 30 * time.Second
)

var errNotesStuck = errors.New("notifications of the FS server were not taken in time")

// notifyQueue holds notifications between the reader and the goroutine that dispatches them, in order. It is bounded:
// a reader that finds it full waits, which makes the server wait.
type notifyQueue struct {
	filled  chan struct{} // has a token when the queue may be non-empty
	drained chan struct{} // has a token when there may be room

	deadline time.Duration // how long put waits for room; immutable

	mu    sync.Mutex
	notes []notification
	bytes int
}

func (q *notifyQueue) init() {
	q.filled = make(chan struct{}, 1)
	q.drained = make(chan struct{}, 1)
	q.deadline = notesDeadline
}

func (n *notification) cost() int {
	return noteOverhead + len(n.name) + len(n.data) + 8*len(n.nodes)
}

// put appends n. It waits for room; the error says that none was made in time. Only the reader calls it.
func (q *notifyQueue) put(n notification, dead <-chan struct{}) error {
	var timer *time.Timer
	var late <-chan time.Time
	for {
		q.mu.Lock()
		// An empty queue takes anything: one message is bounded by the receive buffer.
		if len(q.notes) == 0 || len(q.notes) < notesMax && q.bytes+n.cost() <= noteBytesMax {
			q.notes = append(q.notes, n)
			q.bytes += n.cost()
			q.mu.Unlock()
			poke(q.filled)
			return nil
		}
		q.mu.Unlock()
		if timer == nil {
			timer = time.NewTimer(q.deadline)
			defer timer.Stop()
			late = timer.C
		}
		select {
		case <-q.drained:
		case <-dead:
			return nil
		case <-late:
			return errNotesStuck
		}
	}
}

// get removes the oldest notification. It waits for one; ok is false when dead is closed.
func (q *notifyQueue) get(dead <-chan struct{}) (n notification, ok bool) {
	for {
		select {
		case <-dead:
			return n, false
		default:
		}
		q.mu.Lock()
		if len(q.notes) > 0 {
			n = q.notes[0]
			q.notes[0] = notification{}
			q.notes = q.notes[1:]
			q.bytes -= n.cost()
			q.mu.Unlock()
			poke(q.drained)
			return n, true
		}
		q.notes = nil
		q.mu.Unlock()
		select {
		case <-q.filled:
		case <-dead:
			return n, false
		}
	}
}
