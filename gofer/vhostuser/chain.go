// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package vhostuser

// Chain is one chain of descriptors that a device has taken from a queue: first what the device may read, then what it
// may write. Read and Write copy and keep a position each. Whoever has taken a chain must call Done, once; a Chain is
// not safe for concurrent use, and not to be touched after Done.
type Chain struct {
	q    *Queue
	mem  *memory // holds one reference
	head uint16

	readable, writable       [][]byte
	readableLen, writableLen int

	in, out cursor
}

// cursor is a position in a list of slices.
type cursor struct{ slice, off int }

func (c *Chain) reset() {
	clear(c.readable)
	clear(c.writable)
	c.readable, c.writable = c.readable[:0], c.writable[:0]
	c.readableLen, c.writableLen = 0, 0
	c.in, c.out = cursor{}, cursor{}
}

// Queue returns the queue that the chain is from.
func (c *Chain) Queue() *Queue { return c.q }

// ReadableLen is how many bytes the driver gave the device to read.
func (c *Chain) ReadableLen() int { return c.readableLen }

// WritableLen is how many bytes the device may write.
func (c *Chain) WritableLen() int { return c.writableLen }

// Read copies the next bytes that the driver has sent into p: fewer than len(p) only at the end of them, and 0 there.
// The guest may change them at any time, so bytes that are read again may be others. The error is ErrFault.
func (c *Chain) Read(p []byte) (n int, err error) {
	defer c.mem.recoverFault(accessing(), &err)
	return c.in.move(c.readable, p, func(guest, p []byte) int { return copy(p, guest) }), nil
}

// Write copies p to where the device may write next: less than p only at the end of that. The error is ErrFault.
func (c *Chain) Write(p []byte) (n int, err error) {
	defer c.mem.recoverFault(accessing(), &err)
	return c.out.move(c.writable, p, func(guest, p []byte) int { return copy(guest, p) }), nil
}

// move applies cp to p and the slices from the cursor on.
func (at *cursor) move(slices [][]byte, p []byte, cp func(guest, p []byte) int) int {
	n := 0
	for n < len(p) && at.slice < len(slices) {
		m := cp(slices[at.slice][at.off:], p[n:])
		n += m
		at.skip(slices, m)
	}
	return n
}

// skip moves the cursor within its slice, or to the beginning of the next.
func (at *cursor) skip(slices [][]byte, n int) {
	if at.off += n; at.off == len(slices[at.slice]) {
		at.slice, at.off = at.slice+1, 0
	}
}

// Skip moves the position of Write by n bytes, or to the end. Without it a header that is known last can't be written
// first.
func (c *Chain) Skip(n int) {
	for n > 0 && c.out.slice < len(c.writable) {
		m := min(n, len(c.writable[c.out.slice])-c.out.off)
		c.out.skip(c.writable, m)
		n -= m
	}
}

// Rewind moves the position of Write back to the beginning.
func (c *Chain) Rewind() { c.out = cursor{} }

// WriteSlices appends to dst the guest memory of the n bytes at off of what the device may write, as slices, and
// reports false if there aren't as many or if that memory may go away (see the package's comment): then Write is the
// way. Until Done whoever has the slices may write to them; what is read from them may be anything, because the guest
// can write them, too.
func (c *Chain) WriteSlices(dst [][]byte, off, n int) ([][]byte, bool) {
	if off < 0 || n < 0 || n > c.writableLen || off > c.writableLen-n || !c.mem.sealed {
		return dst, false
	}
	for _, s := range c.writable {
		if n == 0 {
			break
		}
		if off >= len(s) {
			off -= len(s)
			continue
		}
		s = s[off:]
		off = 0
		s = s[:min(n, len(s)):min(n, len(s))]
		n -= len(s)
		dst = append(dst, s)
	}
	return dst, true
}

// Done returns the chain to the driver: n bytes of what it may write have been written, from the beginning. It may be
// called from any goroutine, also when the queue is being stopped, and never blocks for long.
func (c *Chain) Done(n int) { c.q.give(c, n) }
