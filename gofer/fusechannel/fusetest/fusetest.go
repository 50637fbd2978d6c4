// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

// Package fusetest serves go-fuse file systems over a socketpair, so that tests have an FS server to talk to without
// /dev/fuse, a mount or another process.
package fusetest

import (
	"io"
	"log"
	"sync"
	"testing"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

const (
	workers = 8
	// bufSize is enough for a request or reply with 1 MiB of data.
	bufSize = 1<<20 + 8192
	sockBuf = 4 << 20
)

// SocketPair returns the two ends of a FUSE channel: SOCK_SEQPACKET, close-on-exec, with 4 MiB buffers where the
// process may set them. The caller owns both.
func SocketPair(t testing.TB) (client, server int) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatalf("socketpair: %v", err)
	}
	for _, fd := range fds {
		for force, plain := range map[int]int{unix.SO_SNDBUFFORCE: unix.SO_SNDBUF, unix.SO_RCVBUFFORCE: unix.SO_RCVBUF} {
			if unix.SetsockoptInt(fd, unix.SOL_SOCKET, force, sockBuf) != nil {
				// Not root: net.core.wmem_max bounds it.
				if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, plain, sockBuf); err != nil {
					t.Fatalf("setsockopt: %v", err)
				}
			}
		}
	}
	return fds[0], fds[1]
}

// Serve starts serving fs and returns the client's end of the channel, which the caller owns. The server stops when
// that is closed or shut down, or else when the test ends; the test's cleanup waits for it.
func Serve(t testing.TB, fs fuse.RawFileSystem) (clientFD int) {
	t.Helper()
	return ServeOptions(t, fs, &fuse.MountOptions{MaxWrite: 1 << 20, Logger: log.New(io.Discard, "", 0)})
}

// ServeOptions is Serve with the server's options.
func ServeOptions(t testing.TB, fs fuse.RawFileSystem, opts *fuse.MountOptions) (clientFD int) {
	t.Helper()
	client, server := SocketPair(t)
	ps := fuse.NewProtocolServer(fs, opts)
	var wg sync.WaitGroup
	// INIT changes the protocol server's state, so the other workers start after the first request.
	wg.Go(func() {
		s := newWorker(ps, server)
		if !s.serve() {
			return
		}
		for range workers - 1 {
			wg.Go(newWorker(ps, server).run)
		}
		s.run()
	})
	t.Cleanup(func() {
		unix.Shutdown(server, unix.SHUT_RDWR) // wakes the workers
		wg.Wait()
		unix.Close(server)
	})
	return client
}

// worker answers requests, one at a time.
type worker struct {
	ps      *fuse.ProtocolServer
	fd      int
	in, out []byte
}

func newWorker(ps *fuse.ProtocolServer, fd int) *worker {
	return &worker{ps: ps, fd: fd, in: make([]byte, bufSize), out: make([]byte, bufSize)}
}

// run serves until the client is gone.
func (w *worker) run() {
	for w.serve() {
	}
}

// serve answers one request. It returns false when the client is gone.
func (w *worker) serve() bool {
	n, _, _, _, err := unix.Recvmsg(w.fd, w.in, nil, 0)
	for err == unix.EINTR {
		n, _, _, _, err = unix.Recvmsg(w.fd, w.in, nil, 0)
	}
	if err != nil || n == 0 {
		return false
	}
	m, st := w.ps.HandleRequest([][]byte{w.in[:n]}, [][]byte{w.out})
	if st != fuse.OK || m == 0 {
		return true // no reply: FORGET, INTERRUPT, or a request that the server logged
	}
	err = unix.Sendmsg(w.fd, w.out[:m], nil, nil, unix.MSG_NOSIGNAL)
	for err == unix.EINTR {
		err = unix.Sendmsg(w.fd, w.out[:m], nil, nil, unix.MSG_NOSIGNAL)
	}
	return err == nil
}
