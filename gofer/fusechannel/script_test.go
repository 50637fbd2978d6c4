// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package fusechannel

import (
	"bytes"
	"encoding/binary"
	"sync"
	"testing"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"fsva/gofer/fusechannel/fusetest"
	"fsva/gofer/fusewire"
)

// request is one message that a scripted server got.
type request struct {
	length, opcode uint32
	unique, node   uint64
	uid, gid, pid  uint32
	body           []byte // what follows the header
}

// script is an FS server whose answers are made by a function.
type script struct {
	t  testing.TB
	fd int
	// init makes the payload of the answer to INIT; nil is defaultInit.
	init func(r request) []byte
	// serve is called for every other request. It answers with the methods below, now or later, from any goroutine.
	serve func(s *script, r request)

	mu   sync.Mutex
	seen []request
}

func initReply(minor uint32, flags uint64) []byte {
	out := fuse.InitOut{Major: 7, Minor: minor, MaxReadAhead: 1 << 20, MaxWrite: 128 << 10, MaxPages: 32, TimeGran: 1,
		Flags: uint32(flags), Flags2: uint32(flags >> 32)}
	return bytes.Clone(bytesOf(&out))
}

const scriptFlags = fuse.CAP_ASYNC_READ | fuse.CAP_PARALLEL_DIROPS | fuse.CAP_MAX_PAGES | fuse.CAP_ATOMIC_O_TRUNC |
	fuse.CAP_READDIRPLUS | fuse.CAP_EXPORT_SUPPORT | fuse.CAP_INIT_EXT

// start runs the script and returns the client's end of its channel.
func (s *script) start(t testing.TB) int {
	t.Helper()
	client, server := fusetest.SocketPair(t)
	s.t, s.fd = t, server
	var wg sync.WaitGroup
	wg.Go(s.run)
	t.Cleanup(func() {
		unix.Shutdown(server, unix.SHUT_RDWR)
		wg.Wait()
		unix.Close(server)
	})
	return client
}

// open starts the script and a channel to it.
func (s *script) open(t testing.TB, o Options) *Channel {
	t.Helper()
	c, err := New(t.Context(), s.start(t), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// serveWith opens a channel to a server that answers with f.
func serveWith(t testing.TB, f func(s *script, r request)) *Channel {
	t.Helper()
	return (&script{serve: f}).open(t, Options{})
}

func (s *script) run() {
	buf := make([]byte, 2<<20)
	for {
		n, _, _, _, err := unix.Recvmsg(s.fd, buf, nil, 0)
		if err == unix.EINTR {
			continue
		}
		if err != nil || n == 0 {
			return
		}
		b := bytes.Clone(buf[:n])
		u32 := func(off int) uint32 { return binary.NativeEndian.Uint32(b[off:]) }
		u64 := func(off int) uint64 { return binary.NativeEndian.Uint64(b[off:]) }
		r := request{length: u32(0), opcode: u32(4), unique: u64(8), node: u64(16), uid: u32(24), gid: u32(28), pid: u32(32), body: b[fusewire.InHeaderSize:]}
		if int(r.length) != n {
			s.t.Errorf("%s of %d bytes says it has %d", fusewire.OpNames[r.opcode], n, r.length)
		}
		s.mu.Lock()
		s.seen = append(s.seen, r)
		s.mu.Unlock()
		switch {
		case r.opcode == fusewire.OpInit && s.init != nil:
			s.ok(r, s.init(r))
		case r.opcode == fusewire.OpInit:
			s.ok(r, initReply(protoMinorMax, scriptFlags))
		default:
			s.serve(s, r)
		}
	}
}

// requests returns what has been received of an operation.
func (s *script) requests(opcode uint32) (rs []request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range s.seen {
		if r.opcode == opcode {
			rs = append(rs, r)
		}
	}
	return rs
}

// count returns how many requests have been received.
func (s *script) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.seen)
}

// raw sends one message as it is.
func (s *script) raw(msg []byte) {
	if err := unix.Sendmsg(s.fd, msg, nil, nil, unix.MSG_NOSIGNAL); err != nil && err != unix.EPIPE && err != unix.ECONNRESET {
		s.t.Errorf("script: sendmsg: %v", err)
	}
}

// message makes a reply or notification.
func message(unique uint64, status int32, payload ...[]byte) []byte {
	body := bytes.Join(payload, nil)
	h := fuse.OutHeader{Length: uint32(fusewire.OutHeaderSize + len(body)), Status: status, Unique: unique}
	return append(bytes.Clone(bytesOf(&h)), body...)
}

func (s *script) ok(r request, payload ...[]byte)    { s.raw(message(r.unique, 0, payload...)) }
func (s *script) fail(r request, e unix.Errno)       { s.raw(message(r.unique, -int32(e))) }
func (s *script) notify(code int32, parts ...[]byte) { s.raw(message(0, code, parts...)) }

// enc returns the wire bytes of a structure.
func enc[T any](v T) []byte { return bytes.Clone(bytesOf(&v)) }

func goodAttr(mode uint32) fuse.AttrOut {
	return fuse.AttrOut{AttrValid: 1, Attr: fuse.Attr{Ino: 7, Size: 100, Mode: mode, Nlink: 1}}
}

func goodEntry(id uint64, mode uint32) fuse.EntryOut {
	return fuse.EntryOut{NodeId: id, Generation: 1, EntryValid: 1, AttrValid: 1, Attr: goodAttr(mode).Attr}
}

// dirent returns the wire form of a dirent, plus with an entry before it if e is not nil.
func dirent(e *fuse.EntryOut, ino, off uint64, typ uint32, name string) []byte {
	var b []byte
	if e != nil {
		b = append(b, bytesOf(e)...)
	}
	h := struct {
		ino, off     uint64
		namelen, typ uint32
	}{ino, off, uint32(len(name)), typ}
	b = append(b, bytesOf(&h)...)
	b = append(b, name...)
	for len(b)%8 != 0 {
		b = append(b, 0)
	}
	return b
}
