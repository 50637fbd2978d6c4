// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package fusechannel

import (
	"bytes"
	"math"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"fsva/gofer/fusewire"
)

// TestLocks: offered only on request, and passed through then.
func TestLocks(t *testing.T) {
	held := fuse.FileLock{Start: 1, End: 9, Typ: unix.F_WRLCK, Pid: 4}
	s := &script{
		init: func(r request) []byte { return initReply(45, scriptFlags|fuse.CAP_POSIX_LOCKS|fuse.CAP_FLOCK_LOCKS) },
		serve: func(s *script, r request) {
			if r.opcode == fusewire.OpGetLk {
				lk := held
				if len(s.requests(fusewire.OpGetLk)) > 1 {
					lk.End = 0
				}
				s.ok(r, enc(fuse.LkOut{Lk: lk}))
			} else {
				s.fail(r, unix.EAGAIN)
			}
		}}
	c := s.open(t, Options{Locks: true})
	in := fuse.LkIn{InHeader: *node(2), Fh: 9, Owner: 7, Lk: fuse.FileLock{End: math.MaxInt64, Typ: unix.F_RDLCK}}
	var out fuse.LkOut
	must(t, "getlk", c.GetLk(nil, &in, &out))
	if out.Lk != held {
		t.Errorf("lock %+v", out.Lk)
	}
	want(t, "setlk", c.SetLk(nil, &in), fuse.EAGAIN)
	in.LkFlags = fuse.LK_FLOCK
	want(t, "setlkw", c.SetLkw(nil, &in), fuse.EAGAIN)
	if got := s.requests(fusewire.OpSetLkw)[0].body; !bytes.Equal(got, bytesOf(&in)[fusewire.InHeaderSize:]) {
		t.Errorf("SETLKW has %x", got)
	}
	want(t, "getlk of an inverted range", c.GetLk(nil, &in, &out), fuse.EIO)
}

func TestIoctlAndCopy(t *testing.T) {
	s := &script{serve: func(s *script, r request) {
		switch r.opcode {
		case fusewire.OpIoctl:
			s.ok(r, enc(fuse.IoctlOut{Result: -3}), []byte("ou"))
		case fusewire.OpCopyFileRange:
			s.ok(r, enc(fuse.WriteOut{Size: 5}))
		}
	}}
	c := s.open(t, Options{})
	buf := make([]byte, 4)
	var out fuse.IoctlOut
	must(t, "ioctl", c.Ioctl(nil, &fuse.IoctlIn{InHeader: *node(2), Cmd: 77}, []byte("input"), &out, buf))
	if out.Result != -3 || string(buf[:2]) != "ou" {
		t.Errorf("ioctl: %+v, %q", out, buf)
	}
	in := fuse.IoctlIn{Cmd: 77, InSize: 5, OutSize: 4}
	if got := s.requests(fusewire.OpIoctl)[0].body; string(got) != string(bytesOf(&in)[fusewire.InHeaderSize:])+"input" {
		t.Errorf("IOCTL has %q", got)
	}
	n, st := c.CopyFileRange(nil, &fuse.CopyFileRangeIn{InHeader: *node(2), Len: math.MaxUint64})
	if st != fuse.OK || n != 5 {
		t.Errorf("copy_file_range: %d, %v", n, st)
	}
	if got := s.requests(fusewire.OpCopyFileRange)[0].body[40:48]; !bytes.Equal(got, enc(uint64(math.MaxUint32&^(pageSize-1)))) {
		t.Errorf("length %x", got)
	}
}

// TestShortAndSplit: long reads and writes take several requests; a short reply ends them, an error after some success
// is not told.
func TestShortAndSplit(t *testing.T) {
	const chunk = 128 << 10
	var mu sync.Mutex // the race detector sees no order in socket messages
	var replies []int // sizes; -1 is an error
	s := &script{serve: func(s *script, r request) {
		mu.Lock()
		n := replies[0]
		replies = replies[1:]
		mu.Unlock()
		switch {
		case n < 0:
			s.fail(r, unix.ENOSPC)
		case r.opcode == fusewire.OpRead:
			s.ok(r, make([]byte, n))
		default:
			s.ok(r, enc(fuse.WriteOut{Size: uint32(n)}))
		}
	}}
	c := s.open(t, Options{})
	buf := make([]byte, 3*chunk)
	answer := func(sizes []int) (left int) {
		mu.Lock()
		defer mu.Unlock()
		left, replies = len(replies), sizes
		return left
	}
	for _, tc := range []struct {
		replies []int
		n       int
		st      fuse.Status
	}{
		{[]int{chunk, chunk, chunk}, 3 * chunk, fuse.OK},
		{[]int{chunk, 5}, chunk + 5, fuse.OK},
		{[]int{chunk, 0}, chunk, fuse.OK},
		{[]int{0}, 0, fuse.OK},
		{[]int{-1}, 0, fuse.Status(unix.ENOSPC)},
		{[]int{chunk, -1}, chunk, fuse.OK},
	} {
		answer(tc.replies)
		r, st := c.Read(nil, &fuse.ReadIn{InHeader: *node(2), Size: uint32(len(buf))}, buf)
		n := 0
		if r != nil {
			n = r.Size()
		}
		if left := answer(tc.replies); n != tc.n || st != tc.st || left != 0 {
			t.Errorf("read with %v: %d, %v, %d replies left", tc.replies, n, st, left)
		}
		w, st := c.Write(nil, &fuse.WriteIn{InHeader: *node(2)}, buf)
		if left := answer(nil); int(w) != tc.n || st != tc.st || left != 0 {
			t.Errorf("write with %v: %d, %v, %d replies left", tc.replies, w, st, left)
		}
	}
	// Many small pieces, on and off the borders of requests.
	answer([]int{chunk, chunk, 1000})
	data := make([][]byte, 0, 700)
	for left := 2*chunk + 1000; left > 0; left -= min(left, 777) {
		data = append(data, buf[:min(left, 777)])
	}
	n, st := c.Writev(nil, &fuse.WriteIn{InHeader: *node(2)}, data)
	if int(n) != 2*chunk+1000 || st != fuse.OK {
		t.Errorf("writev: %d, %v", n, st)
	}
}

// TestReleaseAndWait: it returns after the server has answered, not before.
func TestReleaseAndWait(t *testing.T) {
	var answered atomic.Bool
	c := serveWith(t, func(s *script, r request) {
		if r.opcode == fusewire.OpRelease {
			answered.Store(true)
			s.ok(r)
		}
	})
	c.ReleaseAndWait(&fuse.ReleaseIn{InHeader: *node(2), Fh: 9})
	if !answered.Load() {
		t.Error("the server has not seen it yet")
	}
}
