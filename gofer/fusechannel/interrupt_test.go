// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package fusechannel

import (
	"encoding/binary"
	"runtime"
	"testing"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"fsva/gofer/fusewire"
)

func cancellableGet(c *Channel, cancel chan struct{}) <-chan fuse.Status {
	res := make(chan fuse.Status, 1)
	go func() {
		var out fuse.AttrOut
		res <- c.GetAttr(cancel, &fuse.GetAttrIn{InHeader: *node(2)}, &out)
	}()
	return res
}

func TestInterrupt(t *testing.T) {
	arrived := make(chan struct{})
	var victim request
	s := &script{serve: func(s *script, r request) {
		switch r.opcode {
		case fusewire.OpInterrupt:
			if id := binary.NativeEndian.Uint64(r.body); id != victim.unique || r.unique != id|1 {
				t.Errorf("INTERRUPT %d of request %d, want %d", r.unique, id, victim.unique)
			}
			s.fail(victim, unix.EINTR)
		default:
			victim = r
			arrived <- struct{}{}
		}
	}}
	c := s.open(t, Options{})
	cancel := make(chan struct{})
	res := cancellableGet(c, cancel)
	<-arrived
	close(cancel)
	if st := <-res; st != fuse.EINTR {
		t.Errorf("%v, want EINTR", st)
	}
	// What is cancelled before it is sent is not sent.
	if st := <-cancellableGet(c, cancel); st != fuse.EINTR {
		t.Errorf("%v, want EINTR", st)
	}
	if n := len(s.requests(fusewire.OpGetAttr)); n != 1 {
		t.Errorf("%d GETATTR", n)
	}
}

// TestInterruptTooLate: the server's answer counts, not the wish.
func TestInterruptTooLate(t *testing.T) {
	arrived := make(chan struct{})
	var victim request
	c := serveWith(t, func(s *script, r request) {
		if r.opcode != fusewire.OpInterrupt {
			victim = r
			arrived <- struct{}{}
			return
		}
		s.ok(victim, enc(goodAttr(unix.S_IFREG)))
		s.raw(message(r.unique, -int32(unix.EAGAIN))) // the request is over: ignored
	})
	cancel := make(chan struct{})
	res := cancellableGet(c, cancel)
	<-arrived
	close(cancel)
	if st := <-res; st != fuse.OK {
		t.Errorf("%v, want OK", st)
	}
	if s := c.Stats(); s.Malformed != 0 {
		t.Errorf("malformed = %d", s.Malformed)
	}
}

func TestInterruptAgain(t *testing.T) {
	arrived := make(chan struct{})
	var victim request
	interrupts := 0
	s := &script{serve: func(s *script, r request) {
		if r.opcode != fusewire.OpInterrupt {
			victim = r
			arrived <- struct{}{}
			return
		}
		if interrupts++; interrupts < 4 {
			s.raw(message(r.unique, -int32(unix.EAGAIN)))
			return
		}
		s.fail(victim, unix.EINTR)
	}}
	c := s.open(t, Options{})
	cancel := make(chan struct{})
	res := cancellableGet(c, cancel)
	<-arrived
	close(cancel)
	if st := <-res; st != fuse.EINTR {
		t.Errorf("%v, want EINTR", st)
	}
	if n := len(s.requests(fusewire.OpInterrupt)); n != 4 {
		t.Errorf("%d INTERRUPTs, want 4", n)
	}
}

func TestNoInterrupt(t *testing.T) {
	arrived := make(chan request)
	refused := make(chan struct{}, 10)
	s := &script{serve: func(s *script, r request) {
		if r.opcode == fusewire.OpInterrupt {
			s.raw(message(r.unique, -int32(unix.ENOSYS)))
			refused <- struct{}{}
			return
		}
		arrived <- r
	}}
	c := s.open(t, Options{})
	for i := range 2 {
		cancel := make(chan struct{})
		res := cancellableGet(c, cancel)
		victim := <-arrived
		close(cancel)
		if i == 0 {
			<-refused
		}
		// A second request shows that the channel is free; its reply comes after the refusal.
		other := cancellableGet(c, make(chan struct{}))
		r := <-arrived
		s.ok(r, enc(goodAttr(unix.S_IFREG)))
		must(t, "other request", <-other)
		s.ok(victim, enc(goodAttr(unix.S_IFREG)))
		must(t, "interrupted request", <-res)
	}
	if n := len(s.requests(fusewire.OpInterrupt)); n != 1 {
		t.Errorf("%d INTERRUPTs, want 1", n)
	}
}

// TestInterruptGoFuse: with a real server the file system's cancel channel fires.
func TestInterruptGoFuse(t *testing.T) {
	b := &blockFS{RawFileSystem: fuse.NewDefaultRawFileSystem(), arrived: make(chan struct{})}
	c := open(t, b, Options{})
	cancel := make(chan struct{})
	res := cancellableGet(c, cancel)
	<-b.arrived
	close(cancel)
	if st := <-res; st != fuse.EINTR {
		t.Errorf("%v, want EINTR", st)
	}
}

// blockFS blocks GETATTR until it is cancelled.
type blockFS struct {
	fuse.RawFileSystem
	arrived chan struct{}
}

func (b *blockFS) GetAttr(cancel <-chan struct{}, in *fuse.GetAttrIn, out *fuse.AttrOut) fuse.Status {
	b.arrived <- struct{}{}
	<-cancel
	return fuse.EINTR
}

// TestCancelWhileSocketIsFull: a server that does not read must not hold cancellable callers.
func TestCancelWhileSocketIsFull(t *testing.T) {
	stop := make(chan struct{})
	c := serveWith(t, func(s *script, r request) { <-stop })
	defer close(stop)
	cancel := make(chan struct{})
	res := make(chan fuse.Status, 100)
	data := make([]byte, 128<<10)
	const n = 64 // 8 MiB, more than the socket holds
	for range n {
		go func() {
			_, st := c.Write(cancel, &fuse.WriteIn{InHeader: *node(2)}, data)
			res <- st
		}()
	}
	// Those that found room wait for the server; the others were not sent.
	for c.Stats().Ops["WRITE"] < n {
		runtime.Gosched()
	}
	close(cancel)
	if st := <-res; st != fuse.EINTR {
		t.Errorf("%v, want EINTR", st)
	}
}
