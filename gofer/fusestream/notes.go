// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package fusestream

import "sync"

// noteQueue holds notifications on their way to the kernel, or to a client. Who puts
// them there does not wait for either.
type noteQueue struct {
	limit int // 0: it grows as needed
	mu    sync.Mutex
	notes [][]byte // guarded by mu
	ready chan struct{}
}

func newNoteQueue(limit int) noteQueue { return noteQueue{limit: limit, ready: make(chan struct{}, 1)} }

// put reports whether there was room.
func (q *noteQueue) put(msg []byte) bool {
	q.mu.Lock()
	full := q.limit > 0 && len(q.notes) >= q.limit
	if !full {
		q.notes = append(q.notes, msg)
	}
	q.mu.Unlock()
	if full {
		return false
	}
	select {
	case q.ready <- struct{}{}:
	default:
	}
	return true
}

// next takes a notification, nil if there is none. It takes one only, so that those
// that wait while it is passed on are all in the queue, whose length is bounded.
func (q *noteQueue) next() []byte {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.notes) == 0 {
		q.notes = nil
		return nil
	}
	msg := q.notes[0]
	q.notes[0] = nil
	q.notes = q.notes[1:]
	return msg
}
