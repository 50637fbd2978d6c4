// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package fusechannel

import (
	"context"
	"encoding/binary"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"fsva/gofer/fusewire"
)

// TestDestroyOrder: what was forgotten and released reaches the server before DESTROY, whose answer is waited for.
func TestDestroyOrder(t *testing.T) {
	s := &script{serve: func(s *script, r request) {
		if r.opcode != fusewire.OpForget && r.opcode != fusewire.OpBatchForget {
			s.ok(r)
		}
	}}
	c := s.open(t, Options{})
	const nodes = 1000
	var wg sync.WaitGroup
	for g := range uint64(4) {
		wg.Go(func() {
			for i := range uint64(nodes) {
				c.Forget(2+i, 1+g)
			}
		})
	}
	c.Forget(fuse.FUSE_ROOT_ID, 1) // not counted by anybody
	c.Forget(0, 1)
	c.Release(nil, &fuse.ReleaseIn{InHeader: *node(2), Fh: 9})
	c.ReleaseDir(&fuse.ReleaseIn{InHeader: *node(1), Fh: 8})
	wg.Wait()
	destroy(t, c)

	s.mu.Lock()
	seen := s.seen
	s.mu.Unlock()
	last := seen[len(seen)-1]
	if last.opcode != fusewire.OpDestroy {
		t.Errorf("last request is %s", fusewire.OpNames[last.opcode])
	}
	counts := make(map[uint64]uint64)
	for _, r := range seen {
		switch r.opcode {
		case fusewire.OpForget:
			counts[r.node] += binary.NativeEndian.Uint64(r.body)
		case fusewire.OpBatchForget:
			if len(r.body) > 4096-fusewire.InHeaderSize {
				t.Errorf("BATCH_FORGET of %d bytes", r.length)
			}
			for b := r.body[8:]; len(b) > 0; b = b[16:] {
				counts[binary.NativeEndian.Uint64(b)] += binary.NativeEndian.Uint64(b[8:])
			}
		}
	}
	for id := range uint64(nodes) {
		if counts[id+2] != 1+2+3+4 {
			t.Fatalf("node %d forgotten %d times", id+2, counts[id+2])
		}
	}
	if len(counts) != nodes || len(s.requests(fusewire.OpRelease)) != 1 || len(s.requests(fusewire.OpReleaseDir)) != 1 {
		t.Errorf("%d nodes, %d RELEASE, %d RELEASEDIR", len(counts), len(s.requests(fusewire.OpRelease)), len(s.requests(fusewire.OpReleaseDir)))
	}
}

func TestDestroyTimesOut(t *testing.T) {
	c := serveWith(t, func(s *script, r request) {})
	c.Release(nil, &fuse.ReleaseIn{InHeader: *node(2)}) // never answered either
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if err := c.Destroy(ctx); err == nil || !strings.Contains(err.Error(), "did not answer DESTROY") {
		t.Errorf("error %v", err)
	}
	<-c.Done()
}

func TestDestroyOfTheDead(t *testing.T) {
	c := serveWith(t, func(s *script, r request) { unix.Shutdown(s.fd, unix.SHUT_RDWR) })
	getattr(c, 2)
	if err := c.Destroy(t.Context()); err == nil || strings.Contains(err.Error(), "\n") {
		t.Errorf("error %v", err)
	}
}

// TestForgetIsBounded: with a server that does not read, Forget waits when too many nodes do; the end of the channel
// lets it go.
func TestForgetIsBounded(t *testing.T) {
	var q forgetQueue
	q.init()
	for id := range uint64(forgetMax) {
		q.add(id+2, 1)
	}
	added := make(chan struct{})
	go func() { q.add(1<<40, 1); close(added) }()
	buf := q.take(nil)
	if len(buf) != forgetBatch {
		t.Errorf("took %d", len(buf))
	}
	<-added
	if n := len(q.pending); n != forgetMax-forgetBatch+1 {
		t.Errorf("%d wait", n)
	}
	for len(q.pending) < forgetMax {
		q.add(uint64(1<<41+len(q.pending)), 1)
	}
	done := make(chan struct{})
	go func() { q.add(1<<42, 1); q.flush(); close(done) }()
	q.close()
	<-done
}

// TestRmdirAfterRelease: a directory that a RELEASE under way keeps from being empty is removed when that is done; any
// other stays.
func TestRmdirAfterRelease(t *testing.T) {
	var mu sync.Mutex // guards what follows
	var release request
	rmdirs := 0
	s := &script{serve: func(s *script, r request) {
		mu.Lock()
		defer mu.Unlock()
		switch r.opcode {
		case fusewire.OpRelease:
			release = r // answered after the first RMDIR
		case fusewire.OpRmdir:
			if rmdirs++; rmdirs == 2 {
				s.ok(r)
				return
			}
			s.raw(message(r.unique, -int32(unix.ENOTEMPTY)))
			if rmdirs == 1 {
				s.ok(release)
			}
		}
	}}
	c := s.open(t, Options{})
	c.Release(nil, &fuse.ReleaseIn{InHeader: *node(5), Fh: 9})
	want(t, "RMDIR beside a RELEASE", c.Rmdir(nil, node(1), "dir"), fuse.OK)
	want(t, "RMDIR of a directory in use", c.Rmdir(nil, node(1), "dir"), fuse.Status(unix.ENOTEMPTY))
	mu.Lock()
	defer mu.Unlock()
	if rmdirs != 3 {
		t.Errorf("%d RMDIRs, want 3", rmdirs)
	}
}
