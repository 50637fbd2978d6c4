// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package fusechannel

import (
	"encoding/binary"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"fsva/gofer/fusewire"
)

// A call is one request with its reply. Calls live in the channel's table and are reused; a call belongs to the method
// that took it from begin to end, except that the reader writes the reply into it while it is callInFlight or
// callClaimed.
type call struct {
	slot int // index in Channel.calls; immutable

	// in is the request: header, structure, names. It grows out of inline when names are long. Owner only.
	in     []byte
	inline [128]uint64 // uint64 for the alignment of the structures in it
	iov    []unix.Iovec
	iovBuf [8]unix.Iovec
	msg    unix.Msghdr

	// Shape of the reply that is wanted. Written by the owner under Channel.mu in begin, read by the reader.
	fixed int    // bytes of out that a success brings
	dst   []byte // room for what follows them

	// The reply. Written by the reader while callClaimed, read by the owner once callDone.
	out    [maxFixedOut / 8]uint64
	fixedN int // bytes of out that came
	n      int // bytes of dst that came
	status fuse.Status

	began time.Duration // see counters.begin; owner only

	// ready has a token when the owner has to look: the reply is there, the read role is handed over, or an INTERRUPT
	// is to be repeated.
	ready chan struct{}

	// Guarded by Channel.mu.
	unique     uint64
	state      callState
	role       callRole
	again      bool   // the server answered INTERRUPT with EAGAIN
	releases   uint64 // the node whose FORGETs wait for this call; 0: none
	prev, next *call
}

type callState uint8

const (
	callFree     callState = iota
	callInFlight           // a reply may come
	callClaimed            // the reader is copying the reply
	callDone               // status, out and dst are final
)

// callRole says who takes care of a call's reply.
type callRole uint8

const (
	roleRunning    callRole = iota // the owner will look by itself
	roleFollower                   // the owner waits on ready and is in Channel.waiters: can be made leader
	roleLeader                     // the owner has (or has been handed) the read role
	roleSelecting                  // the owner waits on ready and on its cancel channel
	roleUnattended                 // nobody waits: the reader ends the call
)

func newCall(slot int) *call {
	return &call{slot: slot, ready: make(chan struct{}, 1)}
}

// wake leaves a token in ready.
func (ca *call) wake() {
	select {
	case ca.ready <- struct{}{}:
	default:
	}
}

// header starts the request. The length is filled in by seal.
func (ca *call) header(opcode uint32, h *fuse.InHeader) {
	b := bytesOf(&ca.inline)[:fusewire.InHeaderSize]
	binary.NativeEndian.PutUint32(b[4:], opcode)
	binary.NativeEndian.PutUint64(b[8:], ca.unique)
	binary.NativeEndian.PutUint64(b[16:], h.NodeId)
	binary.NativeEndian.PutUint32(b[24:], h.Uid)
	binary.NativeEndian.PutUint32(b[28:], h.Gid)
	binary.NativeEndian.PutUint32(b[32:], h.Pid)
	binary.NativeEndian.PutUint32(b[36:], 0) // no extensions
	ca.in = b
	ca.iov = ca.iovBuf[:1]
}

// body appends the first n bytes of a request structure, which starts with the header.
func (ca *call) body(b []byte, n int) {
	ca.in = append(ca.in, b[fusewire.InHeaderSize:fusewire.InHeaderSize+n]...)
}

// str appends a string and its NUL.
func (ca *call) str(s string) {
	ca.in = append(ca.in, s...)
	ca.in = append(ca.in, 0)
}

// data appends bytes that are sent from where they are.
func (ca *call) data(b []byte) {
	if len(b) > 0 {
		ca.iov = append(ca.iov, iovec(b))
	}
}

// seal fills in the lengths. The request is complete after it.
func (ca *call) seal() {
	total := len(ca.in)
	for _, v := range ca.iov[1:] {
		total += int(v.Len)
	}
	binary.NativeEndian.PutUint32(ca.in, uint32(total))
	ca.iov[0] = iovec(ca.in)
}

// outBytes returns the fixed part of the reply.
func (ca *call) outBytes() []byte {
	return bytesOf(&ca.out)[:ca.fixedN]
}

// deliver takes a reply: errno is the header's error, payload what followed the header. It reports whether the reply
// was one that the request can have; if not, the status is EIO. The rules are those of fuse_dev_do_write and
// copy_out_args (fs/fuse/dev.c).
func (ca *call) deliver(errno int32, payload []byte) bool {
	ca.n, ca.fixedN = 0, 0
	switch {
	case errno > 0 || errno < -maxErrno:
	case errno < 0:
		if len(payload) == 0 {
			ca.status = fuse.Status(-errno)
			return true
		}
	case len(payload) < ca.fixed || len(payload)-ca.fixed > len(ca.dst):
	default:
		ca.fixedN = copy(bytesOf(&ca.out)[:ca.fixed], payload)
		ca.n = copy(ca.dst, payload[ca.fixedN:])
		ca.status = fuse.OK
		return true
	}
	ca.status = fuse.EIO
	return false
}
