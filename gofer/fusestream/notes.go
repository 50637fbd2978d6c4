// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package fusestream

import "sync"

// noteQueue holds notifications on their way to the kernel. It grows as needed: who
// puts them there must not wait for the kernel, and the gofer bounds their number.
type noteQueue struct {
	mu    sync.Mutex
	notes [][]byte // guarded by mu
	ready chan struct{}
}

func newNoteQueue() noteQueue { return noteQueue{ready: make(chan struct{}, 1)} }

func (q *noteQueue) put(msg []byte) {
	q.mu.Lock()
	q.notes = append(q.notes, msg)
	q.mu.Unlock()
	select {
	case q.ready <- struct{}{}:
	default:
	}
}

// take returns all there are.
func (q *noteQueue) take() [][]byte {
	q.mu.Lock()
	defer q.mu.Unlock()
	all := q.notes
	q.notes = nil
	return all
}
