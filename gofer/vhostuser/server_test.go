// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package vhostuser

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"fsva/gofer/vhostuser/vhosttest"
)

// echo is a device that writes back what it reads.
type echo struct {
	// hold, if not nil, is what each chain waits for.
	hold chan struct{}
	// taken, if not nil, gets a message for each chain that the device has taken.
	taken chan struct{}
	// direct uses WriteSlices where it can.
	direct bool

	mu     sync.Mutex
	opened int
	closed int
	faults int
}

func (e *echo) Features() uint64 { return 1 << 3 }
func (e *echo) Queues() int      { return 2 }
func (e *echo) Config() []byte   { return []byte("configuration") }

func (e *echo) Open(context.Context, *Conn) (Handler, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.opened++
	return &echoConn{dev: e}, nil
}

type echoConn struct {
	dev *echo
	wg  sync.WaitGroup
}

func (h *echoConn) Kick(q *Queue) {
	for c := q.Take(); c != nil; c = q.Take() {
		if h.dev.hold == nil {
			h.echo(c)
			continue
		}
		h.wg.Go(func() {
			h.dev.taken <- struct{}{}
			<-h.dev.hold
			h.echo(c)
		})
	}
}

func (h *echoConn) echo(c *Chain) {
	in := make([]byte, c.ReadableLen())
	if _, err := c.Read(in); err != nil {
		h.dev.mu.Lock()
		h.dev.faults++
		h.dev.mu.Unlock()
		c.Done(0)
		return
	}
	n := min(len(in), c.WritableLen())
	if h.dev.direct {
		slices, ok := c.WriteSlices(nil, 0, n)
		if !ok {
			panic("no slices of sealed memory")
		}
		for _, s := range slices {
			in = in[copy(s, in):]
		}
	} else if _, err := c.Write(in[:n]); err != nil {
		n = 0
	}
	c.Done(n)
}

func (h *echoConn) Stop(*Queue) {}

func (h *echoConn) Close() {
	h.wg.Wait()
	h.dev.mu.Lock()
	defer h.dev.mu.Unlock()
	h.dev.closed++
}

// serve runs a device, and returns the path of its socket.
func serve(t testing.TB, dev Device) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- Serve(ctx, l, dev, Options{Log: slog.New(slog.NewTextHandler(t.Output(), nil))}) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	return path
}

func openFDs(t testing.TB) int {
	t.Helper()
	// Go's poller opens its descriptors with the first file that needs it.
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	r.Close()
	w.Close()
	names, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(names)
}

func TestEcho(t *testing.T) {
	for _, tc := range []struct {
		name     string
		o        vhosttest.Options
		indirect bool
		segment  int
		direct   bool
	}{
		{name: "plain"},
		{name: "no event index", o: vhosttest.Options{Features: 1 << 32}},
		{name: "segments", segment: 400},
		{name: "indirect", indirect: true, segment: 10},
		{name: "across regions", o: vhosttest.Options{Regions: 8, MemSize: 8 << 16}},
		{name: "memory slots", o: vhosttest.Options{Regions: 16, Slots: true}},
		{name: "unsealed", o: vhosttest.Options{Unsealed: true}},
		{name: "direct", direct: true, indirect: true, segment: 11},
	} {
		t.Run(tc.name, func(t *testing.T) {
			before := openFDs(t)
			t.Run("", func(t *testing.T) {
				v := vhosttest.Dial(t, serve(t, &echo{direct: tc.direct}), tc.o)
				q := v.Queue(1, 64)
				q.Indirect, q.Segment = tc.indirect, tc.segment
				var bufs []*vhosttest.Buf
				for i := range 8 {
					bufs = append(bufs, q.NewBuf(bytes.Repeat([]byte{byte('a' + i)}, 1+i*5000/8), 5000))
				}
				if tc.o.Regions == 8 {
					// The memory's middle is in a buffer of 64 KiB or more.
					bufs = append(bufs, q.NewBuf(bytes.Repeat([]byte("0123456"), 10000), 70000))
				}
				for round := range 300 {
					n := 1 + round%3
					if tc.segment > 0 && !tc.indirect {
						n = 1 // a chain takes up to 27 of the 64 descriptors
					}
					sent := map[*vhosttest.Buf]bool{}
					for i := range n {
						b := bufs[(round+i)%len(bufs)]
						clear(b.Out)
						q.Add(b)
						sent[b] = true
					}
					q.Kick()
					for range n {
						b := q.Wait()
						if !sent[b] {
							t.Fatal("got a chain that is not under way")
						}
						delete(sent, b)
						if b.Written != len(b.In) || !bytes.Equal(b.Out[:b.Written], b.In) {
							t.Fatalf("round %d: got %d bytes for %d, or others", round, b.Written, len(b.In))
						}
					}
				}
				if q.Kicks > 300 {
					t.Errorf("device wanted %d kicks", q.Kicks)
				}
			})
			if after := openFDs(t); after != before {
				t.Errorf("%d descriptors before, %d after", before, after)
			}
		})
	}
}

func TestConfig(t *testing.T) {
	v := vhosttest.Dial(t, serve(t, &echo{}), vhosttest.Options{})
	if got := v.Config(6, 7); string(got) != "uration" {
		t.Errorf("got %q", got)
	}
	if got := v.Config(6, 8); got != nil {
		t.Errorf("got %q beyond the end", got)
	}
}

// TestStopWaits checks that GET_VRING_BASE is answered when the device has returned all it has, and that the queue goes
// on where it was.
func TestStopWaits(t *testing.T) {
	dev := &echo{hold: make(chan struct{}), taken: make(chan struct{})}
	v := vhosttest.Dial(t, serve(t, dev), vhosttest.Options{})
	q := v.Queue(0, 16)
	q.Send(q.NewBuf([]byte("a"), 1))
	q.Send(q.NewBuf([]byte("b"), 1))
	<-dev.taken
	<-dev.taken
	dev.hold <- struct{}{}
	first := q.Wait()
	answered := make(chan int)
	go func() { answered <- q.Stop() }()
	select {
	case <-answered:
		t.Error("answered while the device has a chain")
	case dev.hold <- struct{}{}:
	}
	base := <-answered
	second := q.Poll()
	if base != 2 || second == nil || second == first {
		t.Fatalf("stopped at %d with %v", base, second)
	}
	q.Start(base)
	q.Send(first)
	<-dev.taken
	dev.hold <- struct{}{}
	if got := q.Wait(); got != first {
		t.Error("got another chain")
	}
}

// TestReconnect checks that what is in the ring when a VMM comes back is done without a kick.
func TestReconnect(t *testing.T) {
	dev := &echo{}
	path := serve(t, dev)
	for range 3 {
		v := vhosttest.Dial(t, path, vhosttest.Options{})
		q := v.Unstarted(0, 16)
		q.Add(q.NewBuf([]byte("early"), 5))
		q.Start(0)
		if b := q.Wait(); string(b.Out) != "early" {
			t.Errorf("got %q", b.Out)
		}
		v.Close()
	}
}

func TestMemoryChanges(t *testing.T) {
	v := vhosttest.Dial(t, serve(t, &echo{}), vhosttest.Options{})
	q := v.Queue(0, 16)
	for _, regions := range []int{4, 1, 8, 2} {
		v.SendMemory(vhosttest.Options{Regions: regions})
		if got := q.Do([]byte("still here"), 10); string(got) != "still here" {
			t.Errorf("%d regions: got %q", regions, got)
		}
	}
	// The part without the ring goes and comes back.
	half := len(v.Mem) / 2
	r := append(make([]byte, 8), vhosttest.MemRegion(vhosttest.GuestBase+uint64(half), uint64(half), vhosttest.UserBase+uint64(half), uint64(half))...)
	v.Tell(reqRemMemReg, r)
	if got := q.Do([]byte("half"), 4); string(got) != "half" {
		t.Errorf("half of memory: got %q", got)
	}
	vhosttest.PutDesc(q.Desc, 3, vhosttest.GuestBase+uint64(half), 1, 0, 0)
	q.AddHead(3)
	q.ForceKick()
	q.WaitErr()
}

// TestTruncatedMemory takes memory away that the device uses.
func TestTruncatedMemory(t *testing.T) {
	dev := &echo{}
	path := serve(t, dev)
	v := vhosttest.Dial(t, path, vhosttest.Options{Unsealed: true})
	q := v.Queue(0, 16)
	q.Do([]byte("x"), 1)
	big := q.NewBuf(make([]byte, 1<<20), 1)
	if err := v.File.Truncate(1 << 19); err != nil {
		t.Fatal(err)
	}
	q.Send(big)
	q.Wait()
	dev.mu.Lock()
	if dev.faults != 1 {
		t.Errorf("%d faults seen by the device", dev.faults)
	}
	dev.mu.Unlock()
	// And the ring itself.
	if err := v.File.Truncate(0); err != nil {
		t.Fatal(err)
	}
	q.ForceKick()
	q.WaitErr()
	// Another VMM doesn't notice.
	w := vhosttest.Dial(t, path, vhosttest.Options{})
	if got := w.Queue(0, 16).Do([]byte("x"), 1); string(got) != "x" {
		t.Errorf("got %q", got)
	}
}

// TestBadChains lets a driver break each rule: its queue stops, no other.
func TestBadChains(t *testing.T) {
	const base = vhosttest.GuestBase
	type put = func(q *vhosttest.Queue, i int, addr uint64, length uint32, flags, next uint16)
	for _, tc := range []struct {
		name string
		do   func(v *vhosttest.VMM, q *vhosttest.Queue, put put)
	}{
		{"head out of range", func(_ *vhosttest.VMM, q *vhosttest.Queue, _ put) { q.AddHead(16) }},
		{"index too far", func(_ *vhosttest.VMM, q *vhosttest.Queue, _ put) { q.PutAvailIdx(17) }},
		{"own next", func(_ *vhosttest.VMM, q *vhosttest.Queue, put put) {
			put(q, 0, base, 1, descNext, 0)
			q.AddHead(0)
		}},
		{"cycle", func(_ *vhosttest.VMM, q *vhosttest.Queue, put put) {
			put(q, 0, base, 1, descNext, 1)
			put(q, 1, base, 1, descNext, 0)
			q.AddHead(0)
		}},
		{"next out of range", func(_ *vhosttest.VMM, q *vhosttest.Queue, put put) {
			put(q, 0, base, 1, descNext, 16)
			q.AddHead(0)
		}},
		{"empty buffer", func(_ *vhosttest.VMM, q *vhosttest.Queue, put put) {
			put(q, 0, base, 0, 0, 0)
			q.AddHead(0)
		}},
		{"outside", func(_ *vhosttest.VMM, q *vhosttest.Queue, put put) {
			put(q, 0, base-1, 1, 0, 0)
			q.AddHead(0)
		}},
		{"over the end", func(v *vhosttest.VMM, q *vhosttest.Queue, put put) {
			put(q, 0, base+uint64(len(v.Mem))-1, 2, descWrite, 0)
			q.AddHead(0)
		}},
		{"wraps", func(_ *vhosttest.VMM, q *vhosttest.Queue, put put) {
			put(q, 0, ^uint64(0), 0xffffffff, descWrite, 0)
			q.AddHead(0)
		}},
		{"readable after writable", func(_ *vhosttest.VMM, q *vhosttest.Queue, put put) {
			put(q, 0, base, 1, descWrite|descNext, 1)
			put(q, 1, base, 1, 0, 0)
			q.AddHead(0)
		}},
		{"empty indirect table", func(_ *vhosttest.VMM, q *vhosttest.Queue, put put) {
			put(q, 0, base, 0, descIndirect, 0)
			q.AddHead(0)
		}},
		{"odd indirect table", func(_ *vhosttest.VMM, q *vhosttest.Queue, put put) {
			put(q, 0, base, 17, descIndirect, 0)
			q.AddHead(0)
		}},
		{"huge indirect table", func(_ *vhosttest.VMM, q *vhosttest.Queue, put put) {
			put(q, 0, base, 16*1025, descIndirect, 0)
			q.AddHead(0)
		}},
		{"indirect table outside", func(v *vhosttest.VMM, q *vhosttest.Queue, put put) {
			put(q, 0, base+uint64(len(v.Mem))-16, 32, descIndirect, 0)
			q.AddHead(0)
		}},
		{"indirect and next", func(_ *vhosttest.VMM, q *vhosttest.Queue, put put) {
			put(q, 0, base+1<<20, 16, descIndirect|descNext, 1)
			q.AddHead(0)
		}},
		{"indirect in indirect", func(v *vhosttest.VMM, q *vhosttest.Queue, put put) {
			vhosttest.PutDesc(v.Mem[1<<20:], 0, base+1<<20, 16, descIndirect, 0)
			put(q, 0, base+1<<20, 16, descIndirect, 0)
			q.AddHead(0)
		}},
		{"cycle in indirect", func(v *vhosttest.VMM, q *vhosttest.Queue, put put) {
			vhosttest.PutDesc(v.Mem[1<<20:], 0, base, 16, descNext, 0)
			put(q, 0, base+1<<20, 16, descIndirect, 0)
			q.AddHead(0)
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			v := vhosttest.Dial(t, serve(t, &echo{}), vhosttest.Options{})
			bad, good := v.Queue(0, 16), v.Queue(1, 16)
			tc.do(v, bad, func(q *vhosttest.Queue, i int, addr uint64, length uint32, flags, next uint16) {
				vhosttest.PutDesc(q.Desc, i, addr, length, flags, next)
			})
			bad.ForceKick()
			bad.WaitErr()
			if got := good.Do([]byte("good"), 4); string(got) != "good" {
				t.Errorf("the other queue: got %q", got)
			}
			if bad.Poll() != nil {
				t.Error("got a chain")
			}
		})
	}
}

// TestBadMessages checks that each costs its VMM the connection, and nothing else, no descriptor either.
func TestBadMessages(t *testing.T) {
	dev := &echo{}
	path := serve(t, dev)
	other := vhosttest.Dial(t, path, vhosttest.Options{}).Queue(0, 16)
	file, err := os.CreateTemp(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if err := file.Truncate(1 << 20); err != nil {
		t.Fatal(err)
	}
	memfd, err := unix.MemfdCreate("small", unix.MFD_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(memfd)
	if err := unix.Ftruncate(memfd, 1<<20); err != nil {
		t.Fatal(err)
	}
	num := func(v ...uint32) (b []byte) {
		for _, x := range v {
			b = order.AppendUint32(b, x)
		}
		return b
	}
	u64 := func(v ...uint64) (b []byte) {
		for _, x := range v {
			b = order.AppendUint64(b, x)
		}
		return b
	}
	region := func(guest, size, user, offset uint64) []byte {
		return append(make([]byte, 8), vhosttest.MemRegion(guest, size, user, offset)...)
	}
	for _, tc := range []struct {
		name    string
		request uint32
		payload []byte
		fds     []int
	}{
		{"unknown", 99, nil, nil},
		{"unknown with descriptors", 99, nil, []int{memfd, memfd}},
		{"long", reqSetOwner, make([]byte, 1025), nil},
		{"descriptors that nobody asked for", reqSetFeatures, u64(1 << 32), []int{memfd}},
		{"too many descriptors", reqSetMemTable, nil, []int{0, 0, 0, 0, 0, 0, 0, 0, 0, 0}},
		{"features that were not offered", reqSetFeatures, u64(1 << 34), nil},
		{"short features", reqSetFeatures, num(0), nil},
		{"protocol features that were not offered", reqSetProtocolFeatures, u64(1 << 12), nil},
		{"queue out of range", reqSetVringNum, num(77, 16), nil},
		{"queue out of range, base", reqGetVringBase, num(2, 0), nil},
		{"huge ring", reqSetVringNum, num(0, 1<<20), nil},
		{"empty ring", reqSetVringNum, num(0, 0), nil},
		{"odd ring", reqSetVringNum, num(0, 3), nil},
		{"base", reqSetVringBase, num(0, 1<<16), nil},
		{"enable", reqSetVringEnable, num(0, 2), nil},
		{"no kick", reqSetVringKick, u64(0x100), nil},
		{"kick that is missing", reqSetVringKick, u64(0), nil},
		{"kick that is a file", reqSetVringKick, u64(0), []int{int(file.Fd())}},
		{"call with two descriptors", reqSetVringCall, u64(0), []int{memfd, memfd}},
		{"ring outside", reqSetVringAddr, num(1, 0, 0, 0, 0, 0, 0, 0, 0, 0), nil},
		{"table without descriptors", reqSetMemTable, append(num(1, 0), vhosttest.MemRegion(0, 4096, 0, 0)...), nil},
		{"short table", reqSetMemTable, num(2, 0), []int{memfd, memfd}},
		{"huge table", reqSetMemTable, num(1<<31, 0), nil},
		{"region of no bytes", reqAddMemReg, region(0, 0, 0, 0), []int{memfd}},
		{"region over the file's end", reqAddMemReg, region(0, 1<<20, 0, 4096), []int{memfd}},
		{"region that wraps", reqAddMemReg, region(^uint64(0), 4096, 0, 0), []int{memfd}},
		{"offset that wraps", reqAddMemReg, region(0, 4096, 0, ^uint64(4095)), []int{memfd}},
		{"region that overlaps", reqAddMemReg, region(vhosttest.GuestBase, 4096, 0, 0), []int{memfd}},
		{"region on disk", reqAddMemReg, region(0, 4096, 0, 0), []int{int(file.Fd())}},
		{"region that is not there", reqRemMemReg, region(0, 4096, 0, 0), nil},
		{"memory without the ring", reqSetMemTable, append(num(1, 0), vhosttest.MemRegion(0, 4096, 0, 0)...), []int{memfd}},
		{"ring moves out of memory", reqSetVringAddr, append(num(0, 0), u64(1, 2, 3, 4)...), nil},
		{"features change", reqSetFeatures, u64(1<<32 | 1<<3), nil},
		{"configuration", reqSetConfig, append(num(0, 1, 0), 'x'), nil},
		{"short configuration", reqGetConfig, num(0), nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			before := openFDs(t)
			t.Run("", func(t *testing.T) {
				v := vhosttest.Dial(t, path, vhosttest.Options{})
				q := v.Queue(0, 16)
				if tc.name == "ring outside" {
					v.Queue(1, 16)
				}
				q.Do([]byte("x"), 1)
				if err := v.Send(tc.request, 0, tc.payload, tc.fds...); err != nil && !errors.Is(err, unix.EPIPE) {
					t.Fatal(err)
				}
				v.WaitHangup()
			})
			if after := openFDs(t); after != before {
				t.Errorf("%d descriptors before, %d after", before, after)
			}
			if got := other.Do([]byte("fine"), 4); string(got) != "fine" {
				t.Errorf("the other VMM: got %q", got)
			}
		})
	}
	t.Run("half a header", func(t *testing.T) {
		v := vhosttest.Dial(t, path, vhosttest.Options{})
		if _, err := v.Sock.Write([]byte{1, 2, 3}); err != nil {
			t.Fatal(err)
		}
		if err := v.Sock.CloseWrite(); err != nil {
			t.Fatal(err)
		}
		v.WaitHangup()
	})
	t.Run("reply", func(t *testing.T) {
		v := vhosttest.Dial(t, path, vhosttest.Options{})
		if err := v.Send(reqGetFeatures, flagReply, nil); err != nil {
			t.Fatal(err)
		}
		v.WaitHangup()
	})
}

func TestMaxConns(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	dev := &echo{}
	done := make(chan error)
	go func() { done <- Serve(ctx, l, dev, Options{MaxConns: 1}) }()
	v := vhosttest.Dial(t, path, vhosttest.Options{})
	second, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer second.Close()
	if n, err := second.Read(make([]byte, 1)); err == nil {
		t.Errorf("second VMM: read %d bytes", n)
	}
	q := v.Queue(0, 16)
	q.Do([]byte("x"), 1)
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if dev.opened != 1 || dev.closed != 1 {
		t.Errorf("%d handlers opened, %d closed", dev.opened, dev.closed)
	}
	v.WaitHangup()
}

func TestListenerFails(t *testing.T) {
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	if err := Serve(context.Background(), l, &echo{}, Options{}); !errors.Is(err, net.ErrClosed) {
		t.Errorf("got %v", err)
	}
}

func BenchmarkEcho(b *testing.B) {
	for _, size := range []int{64, 4096, 128 << 10} {
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			v := vhosttest.Dial(b, serve(b, &echo{}), vhosttest.Options{})
			q := v.Queue(0, 64)
			buf := q.NewBuf(make([]byte, size), size)
			b.SetBytes(int64(size))
			b.ReportAllocs()
			for b.Loop() {
				q.Send(buf)
				q.Wait()
			}
		})
	}
}
