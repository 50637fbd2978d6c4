// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package fusesession

import (
	"encoding/binary"
	"errors"
	"io"
	"log/slog"
	"os"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"fsva/gofer/fusewire"
)

// panics counts what the session logs about panics below it.
type panics struct {
	io.Writer
	n atomic.Int64
}

func (p *panics) Write(b []byte) (int, error) {
	if strings.Contains(string(b), "panic in a FUSE request") {
		p.n.Add(1)
		os.Stderr.Write(b)
	}
	return len(b), nil
}

// newMemory returns a file system in memory: a directory and files that can be
// written.
func newMemory(tb testing.TB) *books {
	b := newBooks(fs.NewNodeFS(&memDir{}, &fs.Options{}))
	return b
}

// FuzzSession sends any messages. Each begins with its length, as on a stream; the
// header's length, the unique ID and, in a mode, the node are made right, since
// nothing behind them would be reached otherwise. Nothing may panic, replies must be
// framed, and at the end the file system must have everything back.
func FuzzSession(f *testing.F) {
	add := func(msgs ...[]byte) {
		var b []byte
		for _, m := range msgs {
			b = binary.LittleEndian.AppendUint16(b, uint16(len(m)))
			b = append(b, m...)
		}
		f.Add(b, uint8(0))
		f.Add(b, uint8(5))
	}
	create := message(fusewire.OpCreate, 0, 1, &fuse.CreateIn{Flags: unix.O_RDWR, Mode: 0o644}, "f")
	add(create,
		message(fusewire.OpWrite, 0, 2, &fuse.WriteIn{Fh: 1, Size: 5}, []byte("hello")),
		message(fusewire.OpRead, 0, 2, &fuse.ReadIn{Fh: 1, Size: 4096}),
		message(fusewire.OpGetAttr, 0, 2, &fuse.GetAttrIn{Flags_: 1, Fh_: 1}),
		message(fusewire.OpSetLk, 0, 2, &fuse.LkIn{Fh: 1, Lk: fuse.FileLock{End: 1}}),
		message(fusewire.OpForget, 0, 2, &fuse.ForgetIn{Nlookup: 1}),
		message(fusewire.OpRelease, 0, 2, &fuse.ReleaseIn{Fh: 1}))
	add(message(fusewire.OpMkdir, 0, 1, &fuse.MkdirIn{}, "d"), create,
		message(fusewire.OpRename2, 0, 1, &fuse.RenameIn{Newdir: 2}, "f", "g"),
		message(fusewire.OpLink, 0, 1, &fuse.LinkIn{Oldnodeid: 3}, "h"),
		message(fusewire.OpUnlink, 0, 2, none, "g"), message(fusewire.OpLookup, 0, 1, none, "h"),
		message(fusewire.OpOpenDir, 0, 1, &fuse.OpenIn{}),
		message(fusewire.OpReadDirPlus, 0, 1, &fuse.ReadIn{Fh: 2, Size: 4096}),
		message(fusewire.OpReadDir, 0, 1, &fuse.ReadIn{Fh: 2, Size: 100}),
		message(fusewire.OpBatchForget, 0, 0, &batchForgetIn{Count: 2}, make([]byte, 32)),
		message(fusewire.OpDestroy, 0, 0, none), message(fusewire.OpInit, 0, 0, &fuse.InitIn{Major: 7, Minor: 31}))
	add(message(fusewire.OpSetXAttr, 0, 1, &setXAttrIn{Size: 1}, "user.x", []byte("y")),
		message(fusewire.OpGetXAttr, 0, 1, &fuse.GetXAttrIn{Size: 10}, "user.x"),
		message(fusewire.OpListXAttr, 0, 1, &fuse.GetXAttrIn{}),
		message(fusewire.OpSymlink, 0, 1, none, "l", "to"), message(fusewire.OpReadlink, 0, 2, none),
		message(fusewire.OpStatx, 0, 1, &fuse.StatxIn{}), message(fusewire.OpStatfs, 0, 1, none),
		message(fusewire.OpInterrupt, 0, 0, &fuse.InterruptIn{Unique: 1}))

	f.Fuzz(func(t *testing.T, b []byte, mode uint8) {
		var log panics
		back := newMemory(t)
		s := New(back, Options{
			MaxIO: 8192, MaxNodes: 20, MaxHandles: 10, Locks: true, Exclusive: mode&1 != 0, WriteBack: mode&2 != 0,
			Log: slog.New(slog.NewTextHandler(&log, nil)),
		})
		out := make([]byte, s.MaxMessage())
		send := func(msg []byte) {
			split := int(mode>>2&3) * 3
			n, err := s.Handle(pieces(msg, split), pieces(out, split))
			if err != nil && !errors.Is(err, errMessage) {
				t.Fatal(err)
			}
			if n > 0 && (n < fusewire.OutHeaderSize || int(binary.NativeEndian.Uint32(out)) != n ||
				binary.NativeEndian.Uint64(out[8:]) != binary.NativeEndian.Uint64(msg[8:])) {
				t.Fatalf("reply of %d bytes: % x", n, out[:fusewire.OutHeaderSize])
			}
		}
		send(message(fusewire.OpInit, 1, 0, &fuse.InitIn{Major: 7, Minor: 45, Flags: ^uint32(0), Flags2: ^uint32(0)}))
		for unique := uint64(2); len(b) > 2 && unique < 200; unique++ {
			n := min(int(binary.LittleEndian.Uint16(b)), len(b)-2)
			msg := append([]byte(nil), b[2:2+n]...)
			b = b[2+n:]
			if n >= fusewire.InHeaderSize {
				binary.NativeEndian.PutUint32(msg, uint32(n))
				binary.NativeEndian.PutUint64(msg[8:], unique)
				if node := binary.NativeEndian.Uint64(msg[16:]); node > 8 && mode&16 == 0 {
					binary.NativeEndian.PutUint64(msg[16:], node%8)
				}
				if binary.NativeEndian.Uint32(msg[4:]) == fusewire.OpSetLkw {
					continue // it may wait for ever, rightly
				}
			}
			send(msg)
		}
		if n := log.n.Load(); n != 0 {
			t.Errorf("%d panics", n)
		}
		s.Close()
		back.check(t)
	})
}
