// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package vsockproto

// minBuffer is what a buffer has at least, once it has anything.
const minBuffer = 4 << 10

// buffer is a queue of bytes that have arrived and were not read yet. It grows
// as it has to; its owner bounds what is put in.
type buffer struct {
	b    []byte // a ring; its length is a power of two times minBuffer
	head int    // where the first byte is
	n    int    // how many there are
}

// fill appends n bytes of from, or fewer if from has fewer or fails.
func (q *buffer) fill(from Body, n int) (int, error) {
	q.grow(n)
	done := 0
	for done < n {
		tail := (q.head + q.n) % len(q.b)
		part := q.b[tail:min(len(q.b), tail+n-done)]
		m, err := from.Read(part)
		q.n += m
		done += m
		if err != nil || m < len(part) {
			return done, err
		}
	}
	return done, nil
}

// grow makes room for n more bytes.
func (q *buffer) grow(n int) {
	size := max(len(q.b), minBuffer)
	for size < q.n+n {
		size *= 2
	}
	if size == len(q.b) {
		return
	}
	b := make([]byte, size)
	copied := copy(b, q.b[q.head:min(len(q.b), q.head+q.n)])
	copy(b[copied:], q.b[:q.n-copied])
	q.b, q.head = b, 0
}

// read moves the first bytes to p and returns how many.
func (q *buffer) read(p []byte) int {
	done := 0
	for done < len(p) && q.n > 0 {
		m := copy(p[done:], q.b[q.head:min(len(q.b), q.head+q.n)])
		done += m
		q.n -= m
		q.head = (q.head + m) % len(q.b)
	}
	if q.n == 0 {
		q.head = 0
	}
	return done
}
