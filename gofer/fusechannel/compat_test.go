// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package fusechannel

import (
	"context"
	"fmt"
	"math"
	"strings"
	"testing"
	"time"
	"unsafe"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"fsva/gofer/fusechannel/fusetest"
	"fsva/gofer/fusewire"
)

// TestSizes compares the wire sizes given as numbers with go-fuse's structures.
func TestSizes(t *testing.T) {
	for _, tc := range []struct {
		name      string
		got, want uintptr
	}{
		{"InHeader", unsafe.Sizeof(fuse.InHeader{}), fusewire.InHeaderSize},
		{"OutHeader", unsafe.Sizeof(fuse.OutHeader{}), fusewire.OutHeaderSize},
		{"InitIn", unsafe.Sizeof(fuse.InitIn{}), fusewire.InHeaderSize + initInSize},
		{"InitOut", unsafe.Sizeof(fuse.InitOut{}), initOutSize},
		{"EntryOut", unsafe.Sizeof(fuse.EntryOut{}), fusewire.EntryOutSize},
		{"AttrOut", unsafe.Sizeof(fuse.AttrOut{}), attrOutSize},
		{"OpenOut", unsafe.Sizeof(fuse.OpenOut{}), openOutSize},
		{"WriteOut", unsafe.Sizeof(fuse.WriteOut{}), writeOutSize},
		{"StatfsOut", unsafe.Sizeof(fuse.StatfsOut{}), statfsOutSize},
		{"GetXAttrOut", unsafe.Sizeof(fuse.GetXAttrOut{}), getXAttrOutSize},
		{"LseekOut", unsafe.Sizeof(fuse.LseekOut{}), lseekOutSize},
		{"LkOut", unsafe.Sizeof(fuse.LkOut{}), lkOutSize},
		{"IoctlOut", unsafe.Sizeof(fuse.IoctlOut{}), ioctlOutSize},
		{"StatxOut", unsafe.Sizeof(fuse.StatxOut{}), statxOutSize},
		{"ReadIn", unsafe.Sizeof(fuse.ReadIn{}), fusewire.InHeaderSize + rwInSize},
		{"WriteIn", unsafe.Sizeof(fuse.WriteIn{}), fusewire.InHeaderSize + rwInSize},
		{"MknodIn", unsafe.Sizeof(fuse.MknodIn{}), fusewire.InHeaderSize + mknodInSize},
		{"CreateIn", unsafe.Sizeof(fuse.CreateIn{}), fusewire.InHeaderSize + mknodInSize},
		{"SetXAttrIn", unsafe.Sizeof(fuse.SetXAttrIn{}), fusewire.InHeaderSize + setXAttrInSize},
		{"LkIn", unsafe.Sizeof(fuse.LkIn{}), fusewire.InHeaderSize + lkInSize},
		{"GetAttrIn", unsafe.Sizeof(fuse.GetAttrIn{}), fusewire.InHeaderSize + 16},
		{"SetAttrIn", unsafe.Sizeof(fuse.SetAttrIn{}), fusewire.InHeaderSize + 88},
		{"StatxIn", unsafe.Sizeof(fuse.StatxIn{}), fusewire.InHeaderSize + 24},
		{"AccessIn", unsafe.Sizeof(fuse.AccessIn{}), fusewire.InHeaderSize + 8},
		{"GetXAttrIn", unsafe.Sizeof(fuse.GetXAttrIn{}), fusewire.InHeaderSize + 8},
		{"MkdirIn", unsafe.Sizeof(fuse.MkdirIn{}), fusewire.InHeaderSize + 8},
		{"LinkIn", unsafe.Sizeof(fuse.LinkIn{}), fusewire.InHeaderSize + 8},
		{"RenameIn", unsafe.Sizeof(fuse.RenameIn{}), fusewire.InHeaderSize + 16},
		{"FsyncIn", unsafe.Sizeof(fuse.FsyncIn{}), fusewire.InHeaderSize + 16},
		{"FlushIn", unsafe.Sizeof(fuse.FlushIn{}), fusewire.InHeaderSize + 24},
		{"OpenIn", unsafe.Sizeof(fuse.OpenIn{}), fusewire.InHeaderSize + 8},
		{"ReleaseIn", unsafe.Sizeof(fuse.ReleaseIn{}), fusewire.InHeaderSize + 24},
		{"LseekIn", unsafe.Sizeof(fuse.LseekIn{}), fusewire.InHeaderSize + 24},
		{"CopyFileRangeIn", unsafe.Sizeof(fuse.CopyFileRangeIn{}), fusewire.InHeaderSize + 56},
		{"FallocateIn", unsafe.Sizeof(fuse.FallocateIn{}), fusewire.InHeaderSize + 32},
		{"IoctlIn", unsafe.Sizeof(fuse.IoctlIn{}), fusewire.InHeaderSize + 32},
		{"InterruptIn", unsafe.Sizeof(fuse.InterruptIn{}), fusewire.InHeaderSize + 8},
		{"NotifyRetrieveIn", unsafe.Sizeof(fuse.NotifyRetrieveIn{}), fusewire.InHeaderSize + 40},
	} {
		if tc.got != tc.want {
			t.Errorf("%s has %d bytes, want %d", tc.name, tc.got, tc.want)
		}
	}
}

// TestCompat talks to servers of several ages: each must get requests, and may give replies, of its time's sizes.
func TestCompat(t *testing.T) {
	for _, tc := range []struct {
		minor          uint32
		initOut        int
		entry, attr    int
		sizes          map[uint32]int // request body without names
		batch, rename2 bool
	}{
		{8, initOut22Size, 120, 96, map[uint32]int{fusewire.OpGetAttr: 0, fusewire.OpRead: 24, fusewire.OpWrite: 24, fusewire.OpMknod: 8, fusewire.OpCreate: 8, fusewire.OpSetXAttr: 8}, false, false},
		{12, initOut22Size, 128, 104, map[uint32]int{fusewire.OpGetAttr: 16, fusewire.OpRead: 40, fusewire.OpWrite: 40, fusewire.OpMknod: 16, fusewire.OpCreate: 16, fusewire.OpSetXAttr: 8}, false, false},
		{19, initOut22Size, 128, 104, map[uint32]int{fusewire.OpGetAttr: 16, fusewire.OpRead: 40, fusewire.OpWrite: 40, fusewire.OpMknod: 16, fusewire.OpCreate: 16, fusewire.OpSetXAttr: 8}, true, false},
		{31, initOutSize, 128, 104, map[uint32]int{fusewire.OpGetAttr: 16, fusewire.OpRead: 40, fusewire.OpWrite: 40, fusewire.OpMknod: 16, fusewire.OpCreate: 16, fusewire.OpSetXAttr: 8}, true, true},
		{45, initOutSize, 128, 104, map[uint32]int{fusewire.OpGetAttr: 16, fusewire.OpRead: 40, fusewire.OpWrite: 40, fusewire.OpMknod: 16, fusewire.OpCreate: 16, fusewire.OpSetXAttr: 16}, true, true},
	} {
		t.Run(fmt.Sprintf("7.%d", tc.minor), func(t *testing.T) {
			forgotten := make(chan request, 10)
			flags := uint64(fuse.CAP_ASYNC_READ | fuse.CAP_READDIRPLUS)
			if tc.minor >= 33 {
				flags |= fuse.CAP_SETXATTR_EXT
			}
			s := &script{
				init: func(r request) []byte { return initReply(tc.minor, flags)[:tc.initOut] },
				serve: func(s *script, r request) {
					switch r.opcode {
					case fusewire.OpGetAttr, fusewire.OpSetAttr:
						s.ok(r, enc(goodAttr(unix.S_IFREG))[:tc.attr])
					case fusewire.OpMknod, fusewire.OpLookup:
						s.ok(r, enc(goodEntry(2, unix.S_IFREG))[:tc.entry])
					case fusewire.OpCreate:
						s.ok(r, enc(goodEntry(2, unix.S_IFREG))[:tc.entry], enc(fuse.OpenOut{Fh: 9}))
					case fusewire.OpRead:
						s.ok(r, []byte("data"))
					case fusewire.OpWrite:
						s.ok(r, enc(fuse.WriteOut{Size: 4}))
					case fusewire.OpForget, fusewire.OpBatchForget:
						forgotten <- r
					default:
						s.ok(r)
					}
				}}
			c := s.open(t, Options{})
			if got := c.InitOut().Minor; got != tc.minor {
				t.Errorf("minor %d", got)
			}
			if got := c.Has(fuse.CAP_READDIRPLUS); got != (tc.minor >= 21) {
				t.Errorf("READDIRPLUS: %v", got)
			}
			a, st := getattr(c, 2)
			must(t, "getattr", st)
			if a.Size != 100 || a.Nlink != 1 {
				t.Errorf("attr: %+v", a)
			}
			var e fuse.EntryOut
			must(t, "lookup", c.Lookup(nil, root(), "x", &e))
			must(t, "mknod", c.Mknod(nil, &fuse.MknodIn{InHeader: *root(), Mode: unix.S_IFREG | 0o666, Umask: 0o22}, "x", &e))
			if e.NodeId != 2 || e.Size != 100 {
				t.Errorf("entry: %+v", e)
			}
			var cr fuse.CreateOut
			must(t, "create", c.Create(nil, &fuse.CreateIn{InHeader: *root(), Mode: 0o666, Umask: 0o22}, "x", &cr))
			if cr.EntryOut.NodeId != 2 || cr.Fh != 9 {
				t.Errorf("create: %+v", cr)
			}
			if got := readAll(t, c, 2, 9, 0, 4); string(got) != "data" {
				t.Errorf("read %q", got)
			}
			n, st := c.Write(nil, &fuse.WriteIn{InHeader: *node(2)}, []byte("data"))
			if st != fuse.OK || n != 4 {
				t.Errorf("write: %d %v", n, st)
			}
			must(t, "setxattr", c.SetXAttr(nil, &fuse.SetXAttrIn{InHeader: *node(2)}, "x", nil))
			extra := map[uint32]int{fusewire.OpMknod: 2, fusewire.OpCreate: 2, fusewire.OpWrite: 4, fusewire.OpSetXAttr: 2}
			for op, size := range tc.sizes {
				r := s.requests(op)[0]
				if len(r.body) != size+extra[op] {
					t.Errorf("%s has %d bytes, want %d", fusewire.OpNames[op], len(r.body)-extra[op], size)
				}
			}
			// Without DONT_MASK the umask is applied here.
			if mode := *(*uint32)(unsafe.Pointer(&s.requests(fusewire.OpMknod)[0].body[0])); mode != unix.S_IFREG|0o644 {
				t.Errorf("MKNOD with mode %o", mode)
			}
			// "Now" has no flag before 7.9.
			set := fuse.SetAttrIn{SetAttrInCommon: fuse.SetAttrInCommon{InHeader: *node(2), Valid: fuse.FATTR_MTIME | fuse.FATTR_MTIME_NOW | fuse.FATTR_CTIME | fuse.FATTR_KILL_SUIDGID}}
			must(t, "setattr", c.SetAttr(nil, &set, &a))
			valid := *(*uint32)(unsafe.Pointer(&s.requests(fusewire.OpSetAttr)[0].body[0]))
			wantValid := uint32(fuse.FATTR_MTIME | fuse.FATTR_MTIME_NOW | fuse.FATTR_CTIME)
			if tc.minor < 23 {
				wantValid &^= fuse.FATTR_CTIME
			}
			if tc.minor < 9 {
				wantValid &^= fuse.FATTR_MTIME_NOW
			}
			if valid != wantValid {
				t.Errorf("SETATTR with %#x, want %#x", valid, wantValid)
			}
			st = c.Rename(nil, &fuse.RenameIn{InHeader: *root(), Flags: unix.RENAME_NOREPLACE}, "a", "b")
			if (st == fuse.OK) != tc.rename2 {
				t.Errorf("rename with flags: %v", st)
			}
			c.Forget(2, 3)
			c.Forget(3, 1)
			c.Forget(2, 1)
			counts := make(map[uint64]uint64)
			for len(counts) < 2 {
				r := <-forgotten
				u64 := func(off int) uint64 { return *(*uint64)(unsafe.Pointer(&r.body[off])) }
				if (r.opcode == fusewire.OpBatchForget) != tc.batch {
					t.Errorf("forgot with %s", fusewire.OpNames[r.opcode])
				}
				if r.opcode == fusewire.OpForget {
					counts[r.node] += u64(0)
					continue
				}
				for off := 8; off < len(r.body); off += 16 {
					counts[u64(off)] += u64(off + 8)
				}
			}
			if counts[2] != 4 || counts[3] != 1 {
				t.Errorf("forgot %v", counts)
			}
		})
	}
}

func TestNegotiate(t *testing.T) {
	const limit = 1 << 20
	offered := offeredCaps(Options{})
	base := fuse.InitOut{Major: 7, Minor: 31, MaxWrite: 128 << 10, MaxReadAhead: 64 << 10}
	for _, tc := range []struct {
		name   string
		change func(o *fuse.InitOut)
		n      int // bytes of the answer
		check  func(p protocol) bool
		err    string
	}{
		{"plain", func(o *fuse.InitOut) {}, 64, func(p protocol) bool {
			return p.minor == 31 && p.maxWrite == 128<<10 && p.maxRead == 128<<10 && p.init.MaxReadAhead == 64<<10 && p.init.TimeGran == 1 && p.caps == 0
		}, ""},
		{"newer minor", func(o *fuse.InitOut) { o.Minor = 99 }, 64, func(p protocol) bool { return p.minor == protoMinorMax }, ""},
		{"flags not offered", func(o *fuse.InitOut) { o.Flags = math.MaxUint32; o.Flags2 = math.MaxUint32 }, 64, func(p protocol) bool { return p.caps == offered }, ""},
		{"flags2 without INIT_EXT", func(o *fuse.InitOut) { o.Flags2 = math.MaxUint32 }, 64, func(p protocol) bool { return p.caps == 0 }, ""},
		{"max_pages", func(o *fuse.InitOut) { o.Flags = fuse.CAP_MAX_PAGES; o.MaxPages = 256; o.MaxWrite = 1 << 20 }, 64, func(p protocol) bool { return p.maxWrite == 1<<20 && p.maxRead == 1<<20 && p.init.MaxPages == 256 }, ""},
		{"max_pages beyond the socket", func(o *fuse.InitOut) { o.Flags = fuse.CAP_MAX_PAGES; o.MaxPages = 65535; o.MaxWrite = math.MaxUint32 }, 64, func(p protocol) bool { return p.maxWrite == limit && p.maxRead == limit }, ""},
		{"max_pages 0", func(o *fuse.InitOut) { o.Flags = fuse.CAP_MAX_PAGES }, 64, func(p protocol) bool { return p.maxWrite == 4096 && p.maxRead == 4096 }, ""},
		{"max_write 0", func(o *fuse.InitOut) { o.MaxWrite = 0 }, 64, func(p protocol) bool { return p.maxWrite == 4096 }, ""},
		{"max_write without max_pages", func(o *fuse.InitOut) { o.MaxWrite = 1 << 20 }, 64, func(p protocol) bool { return p.maxWrite == 128<<10 }, ""},
		{"time_gran", func(o *fuse.InitOut) { o.TimeGran = 1000 }, 64, func(p protocol) bool { return p.init.TimeGran == 1000 }, ""},
		{"odd time_gran", func(o *fuse.InitOut) { o.TimeGran = 2e9 }, 64, func(p protocol) bool { return p.init.TimeGran == 1 }, ""},
		{"readdirplus_auto alone", func(o *fuse.InitOut) { o.Flags = fuse.CAP_READDIRPLUS_AUTO }, 64, func(p protocol) bool { return p.caps == 0 }, ""},
		{"24 bytes", func(o *fuse.InitOut) {}, 24, func(p protocol) bool { return p.maxWrite == 128<<10 }, ""},
		{"8 bytes", func(o *fuse.InitOut) {}, 8, func(p protocol) bool { return p.maxWrite == 4096 }, ""},
		{"7 bytes", func(o *fuse.InitOut) {}, 7, nil, "7 bytes"},
		{"65 bytes", func(o *fuse.InitOut) {}, 65, nil, "65 bytes"},
		{"major 6", func(o *fuse.InitOut) { o.Major = 6 }, 64, nil, "FUSE 6.31"},
		{"major 8", func(o *fuse.InitOut) { o.Major = 8 }, 64, nil, "FUSE 8.31"},
		{"minor 7", func(o *fuse.InitOut) { o.Minor = 7 }, 64, nil, "FUSE 7.7"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			o := base
			tc.change(&o)
			b := append(enc(o), 0)[:tc.n]
			p, err := negotiate(b, offered, limit)
			if tc.err != "" {
				if err == nil || !strings.Contains(err.Error(), tc.err) {
					t.Errorf("error %v, want one with %q", err, tc.err)
				}
				return
			}
			if err != nil || !tc.check(p) {
				t.Errorf("%+v, %v", p, err)
			}
		})
	}
}

func TestMessageLimit(t *testing.T) {
	for _, tc := range []struct{ sndbuf, want, limit int }{
		{4 << 20, 1 << 20, 1 << 20},
		{212992, 1 << 20, 208896},
		{212992, 128 << 10, 128 << 10},
		{8192, 1 << 20, 4096},
		{4608, 1 << 20, 4096},
		{4096, 1 << 20, 0},
		{4 << 20, 5000, 4096},
	} {
		got, err := messageLimit(tc.sndbuf, tc.want)
		if got != tc.limit || (err == nil) != (tc.limit > 0) {
			t.Errorf("messageLimit(%d, %d) = %d, %v; want %d", tc.sndbuf, tc.want, got, err, tc.limit)
		}
	}
}

func TestHandshakeFails(t *testing.T) {
	for _, tc := range []struct {
		name  string
		serve func(s *script, r request) // for INIT
		want  string
	}{
		{"silent", func(s *script, r request) {}, "did not answer INIT within"},
		{"gone", func(s *script, r request) { unix.Shutdown(s.fd, unix.SHUT_RDWR) }, "closed the channel before"},
		{"refuses", func(s *script, r request) { s.fail(r, unix.EPROTO) }, "refused INIT: protocol error"},
		{"odd error", func(s *script, r request) { s.raw(message(r.unique, 5)) }, "error number 5"},
		{"not FUSE", func(s *script, r request) { s.raw([]byte("SSH-2.0-OpenSSH_9.2")) }, "not FUSE"},
		{"answers another request", func(s *script, r request) { s.raw(message(77, 0)) }, "request 77 before INIT"},
		{"old", func(s *script, r request) { s.ok(r, initReply(3, 0)) }, "FUSE 7.3, need 7.8"},
		{"notifies only", func(s *script, r request) {
			for range 1000 {
				s.raw(message(0, fusewire.NoteIncEpoch))
			}
		}, "not FUSE"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := &script{serve: tc.serve}
			fd := func() int {
				client, server := fusetest.SocketPair(t)
				s.t, s.fd = t, server
				done := make(chan struct{})
				go func() {
					defer close(done)
					buf := make([]byte, 4096)
					n, _, _, _, _ := unix.Recvmsg(server, buf, nil, 0)
					if n > fusewire.InHeaderSize {
						s.serve(s, request{opcode: fusewire.OpInit, unique: initUnique})
					}
				}()
				t.Cleanup(func() { unix.Shutdown(server, unix.SHUT_RDWR); <-done; unix.Close(server) })
				return client
			}()
			c, err := New(t.Context(), fd, Options{InitTimeout: 100 * time.Millisecond})
			if err == nil {
				c.Close()
				t.Fatal("no error")
			}
			if !strings.Contains(err.Error(), tc.want) || strings.Contains(err.Error(), "\n") {
				t.Errorf("error %q, want one line with %q", err, tc.want)
			}
			if e := unix.Fstat(fd, new(unix.Stat_t)); e != unix.EBADF {
				t.Errorf("descriptor still open: %v", e)
			}
		})
	}
}

func TestHandshakeCancelled(t *testing.T) {
	client, server := fusetest.SocketPair(t)
	defer unix.Close(server)
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(10*time.Millisecond, cancel)
	if _, err := New(ctx, client, Options{}); err == nil || !strings.Contains(err.Error(), "context canceled") {
		t.Errorf("error %v", err)
	}
}

func TestHandshakeWrongSocket(t *testing.T) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fds[1])
	if _, err := New(t.Context(), fds[0], Options{}); err == nil || !strings.Contains(err.Error(), "SOCK_SEQPACKET") {
		t.Errorf("error %v", err)
	}
}

// TestSmallSocket: with the socket's default buffer requests get smaller, not lost.
func TestSmallSocket(t *testing.T) {
	s := &script{
		init: func(r request) []byte {
			out := fuse.InitOut{Major: 7, Minor: 31, MaxWrite: 1 << 20, MaxPages: 256, Flags: fuse.CAP_MAX_PAGES | fuse.CAP_ASYNC_READ}
			return enc(out)
		},
		serve: func(s *script, r request) { s.ok(r, enc(fuse.WriteOut{Size: uint32(len(r.body) - rwInSize)})) },
	}
	fd := s.start(t)
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUF, 32<<10); err != nil {
		t.Fatal(err)
	}
	c, err := New(t.Context(), fd, Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if c.MaxWrite() >= 64<<10 || c.MaxWrite() < 32<<10 || c.MaxRead() != c.MaxWrite() {
		t.Errorf("max write %d, max read %d", c.MaxWrite(), c.MaxRead())
	}
	n, st := c.Write(nil, &fuse.WriteIn{InHeader: *node(2)}, make([]byte, 300_000))
	if st != fuse.OK || n != 300_000 {
		t.Errorf("wrote %d, %v", n, st)
	}
}

// TestSerialised: servers without ASYNC_READ and PARALLEL_DIROPS get one such request per node at a time.
func TestSerialised(t *testing.T) {
	arrived := make(chan request)
	s := &script{
		init:  func(r request) []byte { return initReply(31, 0) },
		serve: func(s *script, r request) { arrived <- r },
	}
	c := s.open(t, Options{})
	for _, op := range []struct {
		name string
		do   func() fuse.Status
	}{
		{"LOOKUP", func() fuse.Status { return c.Lookup(nil, root(), "x", &fuse.EntryOut{}) }},
		{"READDIR", func() fuse.Status {
			return c.ReadDir(nil, &fuse.ReadIn{InHeader: *root()}, fuse.NewDirEntryList(make([]byte, 4096), 0))
		}},
		{"READ", func() fuse.Status {
			_, st := c.Read(nil, &fuse.ReadIn{InHeader: *root(), Size: 1}, make([]byte, 1))
			return st
		}},
	} {
		res := make(chan fuse.Status)
		for range 2 {
			go func() { res <- op.do() }()
		}
		first := <-arrived
		// GETATTR is not held up, and comes after whatever else had been sent.
		go func() { _, st := getattr(c, 9); res <- st }()
		if r := <-arrived; r.opcode != fusewire.OpGetAttr {
			t.Errorf("two %s at a time", op.name)
		} else {
			s.ok(r, enc(goodAttr(unix.S_IFREG)))
		}
		<-res
		s.fail(first, unix.ENOENT)
		<-res
		s.fail(<-arrived, unix.ENOENT)
		<-res
	}
}

// TestParallelDirops: what the caller knows of the server counts, not what it said.
func TestParallelDirops(t *testing.T) {
	arrived := make(chan request)
	s := &script{
		init:  func(r request) []byte { return initReply(31, 0) },
		serve: func(s *script, r request) { arrived <- r },
	}
	c := s.open(t, Options{ParallelDirops: true})
	if !c.Has(fuse.CAP_PARALLEL_DIROPS) || c.Has(fuse.CAP_ASYNC_READ) {
		t.Errorf("flags %#x", c.proto.caps)
	}
	res := make(chan fuse.Status)
	for _, name := range []string{"a", "b"} {
		go func() { res <- c.Lookup(nil, root(), name, &fuse.EntryOut{}) }()
	}
	first, second := <-arrived, <-arrived
	s.fail(second, unix.ENOENT)
	s.fail(first, unix.ENOENT)
	for range 2 {
		if st := <-res; st != fuse.ENOENT {
			t.Error(st)
		}
	}
}
