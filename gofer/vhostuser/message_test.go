// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package vhostuser

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

// socketpair returns two connected unix sockets.
func socketpair(t testing.TB) (a, b *net.UnixConn) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	conn := func(fd int) *net.UnixConn {
		f := os.NewFile(uintptr(fd), "socket")
		defer f.Close()
		c, err := net.FileConn(f)
		if err != nil {
			t.Fatal(err)
		}
		return c.(*net.UnixConn)
	}
	return conn(fds[0]), conn(fds[1])
}

// FuzzMessages sends a script of messages: for each a byte that says how many descriptors come with it, a byte for the
// request, a byte for the flags, a byte for the payload's length, and the payload. Descriptors are in turns a memfd
// of 64 KiB and an eventfd.
func FuzzMessages(f *testing.F) {
	msg := func(fds, request int, payload []byte) []byte {
		return append([]byte{byte(fds), byte(request), flagVersion, byte(len(payload))}, payload...)
	}
	num := func(v ...uint64) (b []byte) {
		for _, x := range v {
			b = order.AppendUint64(b, x)
		}
		return b
	}
	var start []byte
	start = append(start, msg(0, reqGetFeatures, nil)...)
	start = append(start, msg(0, reqSetFeatures, num(FeatureVersion1|featureEventIdx))...)
	start = append(start, msg(1, reqSetMemTable, num(1, 0, 65536, 1<<40, 0))...)
	start = append(start, msg(0, reqSetVringNum, num(8<<32))...)
	start = append(start, msg(0, reqSetVringAddr, num(0, 1<<40, 1<<40+4096, 1<<40+8192, 0))...)
	start = append(start, msg(0x81, reqSetVringCall, num(0))...)
	start = append(start, msg(0x81, reqSetVringKick, num(0))...)
	f.Add(start)
	f.Add(append(start, msg(0, reqGetVringBase, num(0))...))
	f.Add(append(start, msg(1, reqAddMemReg, num(0, 1<<20, 4096, 1<<41, 0))...))
	f.Add(append(start, msg(0, reqRemMemReg, num(0, 0, 65536, 1<<40, 0))...))
	f.Add(msg(0, reqGetConfig, append(num(4<<32, 0), 1, 2, 3, 4)))

	f.Fuzz(func(t *testing.T, script []byte) {
		a, b := socketpair(t)
		defer a.Close()
		done := make(chan error)
		dev := &echo{}
		go func() {
			defer b.Close()
			done <- newConn(b, dev, slog.New(slog.DiscardHandler)).serve(context.Background())
		}()
		go func() {
			// Answers are not looked at.
			var buf [4096]byte
			for {
				if _, err := a.Read(buf[:]); err != nil {
					return
				}
			}
		}()
		for len(script) >= 4 {
			size := min(int(script[3]), len(script)-4)
			m := order.AppendUint32(nil, uint32(script[1]))
			m = order.AppendUint32(m, uint32(script[2]))
			m = order.AppendUint32(m, uint32(size))
			m = append(m, script[4:4+size]...)
			var fds []int
			for range script[0] & 0xf {
				var fd int
				var err error
				if script[0]&0x80 != 0 {
					fd, err = unix.Eventfd(0, unix.EFD_CLOEXEC)
				} else if fd, err = unix.MemfdCreate("fuzz", unix.MFD_CLOEXEC); err == nil {
					err = unix.Ftruncate(fd, 65536)
				}
				if err != nil {
					t.Fatal(err)
				}
				fds = append(fds, fd)
			}
			var oob []byte
			if len(fds) > 0 {
				oob = unix.UnixRights(fds...)
			}
			_, _, err := a.WriteMsgUnix(m, oob, nil)
			for _, fd := range fds {
				unix.Close(fd)
			}
			if err != nil {
				if !errors.Is(err, unix.EPIPE) && !errors.Is(err, unix.ECONNRESET) {
					t.Fatal(err)
				}
				break
			}
			script = script[4+size:]
		}
		if err := a.CloseWrite(); err != nil && !errors.Is(err, unix.ENOTCONN) {
			t.Fatal(err)
		}
		<-done
		if dev.opened != 1 || dev.closed != 1 {
			t.Fatalf("%d handlers opened, %d closed", dev.opened, dev.closed)
		}
	})
}
