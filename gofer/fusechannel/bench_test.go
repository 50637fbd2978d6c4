// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package fusechannel

import (
	"encoding/binary"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"fsva/gofer/fusechannel/fusetest"
	"fsva/gofer/fusewire"
)

// echoEnv makes the test binary an echo server on descriptor 3, see echoServer.
const echoEnv = "FSVA_TEST_ECHO_SERVER"

func TestMain(m *testing.M) {
	if os.Getenv(echoEnv) != "" {
		echoServer(3)
		os.Exit(0)
	}
	if strings.HasPrefix(filepath.Base(os.Args[0]), "fusermount") {
		// libfuse asks for a mount: it gets descriptor 3, see TestBindfs. Or for an unmount, without _FUSE_COMMFD.
		if comm, err := strconv.Atoi(os.Getenv("_FUSE_COMMFD")); err == nil {
			if err := unix.Sendmsg(comm, []byte{0}, unix.UnixRights(3), nil, 0); err != nil {
				fmt.Fprintln(os.Stderr, err)
				os.Exit(1)
			}
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// echoServer answers every request of a FUSE channel in the least possible time: INIT properly, READ with zeros, FORGET
// not at all, and the others as if they were GETATTR.
func echoServer(fd int) {
	runtime.LockOSThread()
	in, out := make([]byte, 1<<20+4096), make([]byte, 1<<20+4096)
	riov, wiov := []unix.Iovec{iovec(in)}, []unix.Iovec{{}}
	var rmsg, wmsg unix.Msghdr
	var attr fuse.AttrOut
	attr.Mode = unix.S_IFREG | 0o644
	copy(out[fusewire.OutHeaderSize:], bytesOf(&attr))
	for {
		n, _, e := recvmsg(fd, &rmsg, riov, 0)
		if e != 0 || n == 0 {
			return
		}
		size := attrOutSize
		switch binary.NativeEndian.Uint32(in[4:]) {
		case fusewire.OpInit:
			reply := fuse.InitOut{Major: protoMajor, Minor: protoMinorMax, MaxWrite: 1 << 20, MaxPages: 256,
				Flags: fuse.CAP_ASYNC_READ | fuse.CAP_PARALLEL_DIROPS | fuse.CAP_MAX_PAGES}
			size = initOutSize
			b := make([]byte, fusewire.OutHeaderSize+initOutSize)
			copy(b[fusewire.OutHeaderSize:], bytesOf(&reply))
			finishReply(b, in)
			wiov[0] = iovec(b)
			sendmsg(fd, &wmsg, wiov, 0)
			continue
		case fusewire.OpForget, fusewire.OpBatchForget:
			continue
		case fusewire.OpRead:
			size = int(binary.NativeEndian.Uint32(in[fusewire.InHeaderSize+16:]))
		case fusewire.OpRelease, fusewire.OpDestroy:
			size = 0
		}
		b := out[:fusewire.OutHeaderSize+size]
		finishReply(b, in)
		wiov[0] = iovec(b)
		if sendmsg(fd, &wmsg, wiov, 0) != 0 {
			return
		}
	}
}

func finishReply(b, request []byte) {
	binary.NativeEndian.PutUint32(b, uint32(len(b)))
	binary.NativeEndian.PutUint32(b[4:], 0)
	copy(b[8:16], request[8:16])
}

// startEcho starts an echo server in a process of its own and returns the client's end of its channel.
func startEcho(b testing.TB) int {
	b.Helper()
	client, server := fusetest.SocketPair(b)
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), echoEnv+"=1")
	f := os.NewFile(uintptr(server), "channel")
	cmd.ExtraFiles = []*os.File{f}
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	f.Close()
	b.Cleanup(func() { cmd.Wait() }) // it ends when the client's end is closed, by cleanups that run before
	return client
}

func openEcho(b testing.TB) *Channel {
	b.Helper()
	c, err := New(b.Context(), startEcho(b), Options{})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(c.Close)
	return c
}

func getAttrLoop(b testing.TB, c *Channel, n int) {
	in := fuse.GetAttrIn{InHeader: *root()}
	var out fuse.AttrOut
	for range n {
		if st := c.GetAttr(nil, &in, &out); st != fuse.OK {
			b.Fatal(st)
		}
	}
}

// pingPong is the least that a GETATTR costs: a message of its size out, one of its reply's size in.
func pingPong(b testing.TB, fd, n int) {
	var msg unix.Msghdr
	out, in := make([]byte, fusewire.InHeaderSize+16), make([]byte, 4096)
	binary.NativeEndian.PutUint32(out[4:], fusewire.OpGetAttr)
	oiov, iiov := []unix.Iovec{iovec(out)}, []unix.Iovec{iovec(in)}
	for range n {
		if e := sendmsg(fd, &msg, oiov, 0); e != 0 {
			b.Fatal(e)
		}
		if got, _, e := recvmsg(fd, &msg, iiov, 0); e != 0 || got != fusewire.OutHeaderSize+attrOutSize {
			b.Fatal(got, e)
		}
	}
}

func openPing(b testing.TB) int {
	fd := startEcho(b)
	b.Cleanup(func() { unix.Close(fd) })
	return fd
}

func BenchmarkGetAttr(b *testing.B) {
	c := openEcho(b)
	getAttrLoop(b, c, 100)
	b.ReportAllocs()
	b.ResetTimer()
	getAttrLoop(b, c, b.N)
}

func BenchmarkPingPong(b *testing.B) {
	fd := openPing(b)
	pingPong(b, fd, 100)
	b.ResetTimer()
	pingPong(b, fd, b.N)
}

// takeReadRole makes the caller the channel's only reader, until it gives the role back. No call may be made meanwhile.
func takeReadRole(b testing.TB, c *Channel) (giveBack func()) {
	for {
		c.mu.Lock()
		if !c.reading {
			c.reading = true
			c.mu.Unlock()
			return func() {
				c.mu.Lock()
				c.handOverLocked()
				c.mu.Unlock()
			}
		}
		c.mu.Unlock()
		getAttrLoop(b, c, 1) // the background reader has the role and gives it up after this
	}
}

// BenchmarkGetAttrVsPingPong runs both in turns, so that the machine's mood hits both, and reports the ratio.
//
// Both use the same socket and the same server. Client and server together need one processor, and an operation costs
// five times as much while the scheduler has them on two (each reply then wakes an idle processor). With a server for
// each, even two bare ping-pongs in turns differ by half: it is the scheduler that is measured.
func BenchmarkGetAttrVsPingPong(b *testing.B) {
	c := openEcho(b)
	getAttrLoop(b, c, 100)
	const turn = 20
	var ga, pp time.Duration
	b.ResetTimer()
	for i := 0; i < b.N; i += turn {
		t0 := time.Now()
		getAttrLoop(b, c, turn)
		ga += time.Since(t0)
		giveBack := takeReadRole(b, c)
		t0 = time.Now()
		pingPong(b, c.fd, turn)
		pp += time.Since(t0)
		giveBack()
	}
	rounds := float64((b.N + turn - 1) / turn * turn)
	b.ReportMetric(float64(ga.Nanoseconds())/rounds, "getattr-ns")
	b.ReportMetric(float64(pp.Nanoseconds())/rounds, "pingpong-ns")
	b.ReportMetric(float64(ga)/float64(pp), "ratio")
}

func BenchmarkGetAttrParallel(b *testing.B) {
	for _, p := range []int{2, 4, 16} {
		b.Run(fmt.Sprint(p), func(b *testing.B) {
			c := openEcho(b)
			b.SetParallelism((p + runtime.GOMAXPROCS(0) - 1) / runtime.GOMAXPROCS(0))
			b.ReportAllocs()
			b.ResetTimer()
			b.RunParallel(func(pb *testing.PB) {
				in := fuse.GetAttrIn{InHeader: *root()}
				var out fuse.AttrOut
				for pb.Next() {
					if st := c.GetAttr(nil, &in, &out); st != fuse.OK {
						b.Error(st)
					}
				}
			})
		})
	}
}

// BenchmarkGetAttrCancellable is the path of callers with a cancel channel.
func BenchmarkGetAttrCancellable(b *testing.B) {
	c := openEcho(b)
	cancel := make(chan struct{})
	in := fuse.GetAttrIn{InHeader: *root()}
	var out fuse.AttrOut
	b.ReportAllocs()
	b.ResetTimer()
	for range b.N {
		if st := c.GetAttr(cancel, &in, &out); st != fuse.OK {
			b.Fatal(st)
		}
	}
}

func BenchmarkRead(b *testing.B) {
	for _, size := range []int{4 << 10, 128 << 10, 1 << 20} {
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			c := openEcho(b)
			buf := make([]byte, size)
			in := fuse.ReadIn{InHeader: *node(2), Size: uint32(size)}
			b.SetBytes(int64(size))
			b.ReportAllocs()
			b.ResetTimer()
			for range b.N {
				if _, st := c.Read(nil, &in, buf); st != fuse.OK {
					b.Fatal(st)
				}
			}
		})
	}
}
