// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package fusestream

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"fsva/gofer/fusewire"
	"fsva/gofer/inprocess"
)

// gatekeeper is a file system that can hold READDIRPLUS up, and counts what it is asked.
type gatekeeper struct {
	fuse.RawFileSystem
	opens, lookups atomic.Int64
	gate           atomic.Pointer[chan struct{}] // READDIRPLUS waits until it is closed; nil: it does not
	atGate         chan struct{}
}

func (g *gatekeeper) Lookup(cancel <-chan struct{}, h *fuse.InHeader, name string, out *fuse.EntryOut) fuse.Status {
	g.lookups.Add(1)
	return g.RawFileSystem.Lookup(cancel, h, name, out)
}

func (g *gatekeeper) Open(cancel <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	g.opens.Add(1)
	return g.RawFileSystem.Open(cancel, in, out)
}

func (g *gatekeeper) ReadDirPlus(cancel <-chan struct{}, in *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	if gate := g.gate.Load(); gate != nil {
		g.atGate <- struct{}{}
		<-*gate
	}
	return g.RawFileSystem.ReadDirPlus(cancel, in, out)
}

// testKernel plays the kernel for a Relay, on a socket in the device's place. One request
// is under way at a time, unless a test says otherwise.
type testKernel struct {
	t      *testing.T
	fs     *gatekeeper
	srv    *Server
	dir    string
	dev    int
	frames atomic.Int64 // pieces that the relay has sent to the gofer: a frame each
	unique uint64

	mu   sync.Mutex
	conn net.Conn // the gofer's end; guarded by mu
}

// countingConn counts what is written.
type countingConn struct {
	net.Conn
	n *atomic.Int64
}

func (c countingConn) Write(b []byte) (int, error) {
	c.n.Add(1)
	return c.Conn.Write(b)
}

func newTestKernel(t *testing.T, info Info) *testKernel {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("a volume that is a directory takes root")
	}
	k := &testKernel{t: t, dir: t.TempDir()}
	files, err := inprocess.Open("dir", k.dir, inprocess.Options{Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	k.fs = &gatekeeper{RawFileSystem: files, atGate: make(chan struct{}, 16)}
	k.srv = NewServer(k.fs, Options{Volume: "v", Info: info})
	ctx, cancel := context.WithCancel(context.Background())
	var served sync.WaitGroup
	relay, err := Connect(ctx, RelayOptions{Readers: 1, Dial: func(context.Context) (net.Conn, error) {
		client, server := conns(t)
		k.mu.Lock()
		k.conn = server
		k.mu.Unlock()
		served.Go(func() {
			if err := k.srv.Serve(ctx, server, nil); err != nil && !errors.Is(err, unix.ECONNRESET) && !errors.Is(err, unix.EPIPE) {
				t.Errorf("server: %v", err)
			}
		})
		return countingConn{client, &k.frames}, nil
	}})
	if err != nil {
		t.Fatal(err)
	}
	p, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	k.dev = p[0]
	ready, done := make(chan struct{}), make(chan error, 1)
	go func() { done <- relay.Serve(ctx, p[1], func() { close(ready) }) }()
	t.Cleanup(func() {
		unix.Close(k.dev)
		if err := <-done; err != nil {
			t.Errorf("relay: %v", err)
		}
		cancel()
		served.Wait()
		files.OnUnmount()
	})
	k.send(initRequest())
	k.receive()
	<-ready
	return k
}

func (k *testKernel) send(msg []byte) {
	k.t.Helper()
	if _, err := unix.Write(k.dev, msg); err != nil {
		k.t.Fatal(err)
	}
}

// receive returns the next message from the relay that is no notification.
func (k *testKernel) receive() []byte {
	k.t.Helper()
	b := make([]byte, maxMessage)
	for {
		n, err := unix.Read(k.dev, b)
		if err != nil || n < fusewire.OutHeaderSize {
			k.t.Fatalf("%d bytes, %v", n, err)
		}
		if replyUnique(b) != 0 {
			return b[:n]
		}
	}
}

// call makes a request and returns the reply's body.
func (k *testKernel) call(opcode uint32, node uint64, args ...any) ([]byte, unix.Errno) {
	k.t.Helper()
	k.unique += 2
	k.send(newRequest(opcode, k.unique, node, args...))
	reply := k.receive()
	if replyUnique(reply) != k.unique {
		k.t.Fatalf("reply to %d instead of %d", replyUnique(reply), k.unique)
	}
	return reply[fusewire.OutHeaderSize:], unix.Errno(-replyError(reply))
}

// ok is call for what must succeed.
func (k *testKernel) ok(opcode uint32, node uint64, args ...any) []byte {
	k.t.Helper()
	b, e := k.call(opcode, node, args...)
	if e != 0 {
		k.t.Fatalf("%s of node %d: %v", fusewire.OpNames[opcode], node, e)
	}
	return b
}

// lookup returns a name's node, 0 if there is none.
func (k *testKernel) lookup(dir uint64, name string) uint64 {
	k.t.Helper()
	b, e := k.call(fusewire.OpLookup, dir, name)
	if e == unix.ENOENT {
		return 0
	}
	if e != 0 {
		k.t.Fatalf("look %s up: %v", name, e)
	}
	return u64(b, 0)
}

func (k *testKernel) open(node uint64, flags uint32) uint64 {
	k.t.Helper()
	return u64(k.ok(fusewire.OpOpen, node, uint64(flags)), 0)
}

// readFile does what cat does.
func (k *testKernel) readFile(node uint64) string {
	k.t.Helper()
	fh := k.open(node, unix.O_RDONLY)
	data := string(k.ok(fusewire.OpRead, node, fh, uint64(0), uint64(8192), uint64(0), uint64(0)))
	k.ok(fusewire.OpFlush, node, fh, uint64(0), uint64(0))
	k.ok(fusewire.OpRelease, node, fh, uint64(0), uint64(0))
	return data
}

func (k *testKernel) write(node, fh uint64, data string) {
	k.t.Helper()
	k.ok(fusewire.OpWrite, node, fh, uint64(0), uint64(len(data)), uint64(0), uint64(0), []byte(data))
}

func (k *testKernel) forget(node, n uint64) { k.send(newRequest(fusewire.OpForget, 0, node, n)) }

// files makes a directory of n small files, and returns the directory's node.
func (k *testKernel) files(dir string, n int) uint64 {
	k.t.Helper()
	if err := os.Mkdir(filepath.Join(k.dir, dir), 0o755); err != nil {
		k.t.Fatal(err)
	}
	for i := range n {
		if err := os.WriteFile(filepath.Join(k.dir, dir, fileName(i)), []byte(fileText(dir, i)), 0o644); err != nil {
			k.t.Fatal(err)
		}
	}
	return k.lookup(1, dir)
}

func fileName(i int) string             { return fmt.Sprintf("f%04d", i) }
func fileText(dir string, i int) string { return strings.Repeat(fmt.Sprintf("%s %d\n", dir, i), 100) }

// free is what an exclusive directory of the host is.
var free = Info{Exclusive: true, StableIno: true, FreeOpens: true}

// TestReadAhead reads the files of a directory in the order of their names, which is not
// that of the directory, and again: nearly all without the gofer.
func TestReadAhead(t *testing.T) {
	for _, tc := range []struct {
		name string
		info Info
		most int64 // frames for 200 files
	}{
		{"free opens", free, 60},
		{"read-only", Info{Exclusive: true, ReadOnly: true}, 200*3 + 60}, // OPEN, FLUSH and RELEASE
		{"exclusive", Info{Exclusive: true}, 200 * 5},
		{"shared", Info{}, 200 * 5},
	} {
		t.Run(tc.name, func(t *testing.T) {
			k := newTestKernel(t, tc.info)
			const n = 200
			dir := k.files("dir", n)
			before := k.frames.Load()
			nodes := make([]uint64, n)
			for i := range n {
				nodes[i] = k.lookup(dir, fileName(i))
				if got, want := k.readFile(nodes[i]), fileText("dir", i); got != want {
					t.Fatalf("file %d: %.20q, want %.20q", i, got, want)
				}
			}
			sent := k.frames.Load() - before
			if sent > tc.most {
				t.Errorf("%d frames for %d files, want at most %d; %d lookups, %d opens", sent, n, tc.most, k.fs.lookups.Load(), k.fs.opens.Load())
			}
			slices.Sort(nodes)
			if slices.Contains(nodes, 0) || len(slices.Compact(nodes)) != n {
				t.Error("nodes are missing, or some are the same")
			}
		})
	}
}

// TestChangesAhead changes what has been fetched ahead.
func TestChangesAhead(t *testing.T) {
	k := newTestKernel(t, free)
	dir := k.files("dir", 100)
	ahead := func(i int) uint64 { // i's data is fetched when the files before it are read
		t.Helper()
		for j := i - 4; j < i; j++ {
			k.readFile(k.lookup(dir, fileName(j)))
		}
		before := k.fs.lookups.Load()
		node := k.lookup(dir, fileName(i))
		if k.fs.lookups.Load() != before {
			t.Fatalf("file %d was not listed", i)
		}
		return node
	}
	other := func(what string, node uint64, want string) {
		t.Helper()
		if got := k.readFile(node); got != want {
			t.Errorf("%s: %.20q, want %.20q", what, got, want)
		}
	}

	node := ahead(10)
	fh := k.open(node, unix.O_RDWR)
	k.write(node, fh, "new")
	other("written", node, "new"+fileText("dir", 10)[3:])
	k.ok(fusewire.OpRelease, node, fh, uint64(0), uint64(0))

	node = ahead(20)
	in := fuse.SetAttrIn{SetAttrInCommon: fuse.SetAttrInCommon{Valid: fuse.FATTR_SIZE, Size: 2}}
	k.ok(fusewire.OpSetAttr, node, bytesOf(&in)[fusewire.InHeaderSize:])
	other("truncated", node, "di")

	// Names that were listed and not looked up.
	k.ok(fusewire.OpUnlink, dir, fileName(50))
	if k.lookup(dir, fileName(50)) != 0 {
		t.Error("removed, and it is there")
	}
	k.ok(fusewire.OpRename, dir, dir, fileName(51), fileName(52))
	if k.lookup(dir, fileName(51)) != 0 {
		t.Error("renamed, and the old name is there")
	}
	other("renamed over", k.lookup(dir, fileName(52)), fileText("dir", 51))
	node = u64(k.ok(fusewire.OpLink, dir, k.lookup(dir, fileName(60)), fileName(50)), 0)
	other("linked", node, fileText("dir", 60))
	if got := k.lookup(dir, fileName(60)); got != node {
		t.Errorf("two names of a file are nodes %d and %d", got, node)
	}

	// A file that is open and was not opened by the gofer loses its name.
	node = k.lookup(dir, fileName(99))
	fh = k.open(node, unix.O_RDONLY)
	k.ok(fusewire.OpUnlink, dir, fileName(99))
	if got := string(k.ok(fusewire.OpRead, node, fh, uint64(0), uint64(8192), uint64(0), uint64(0))); got != fileText("dir", 99) {
		t.Errorf("removed while open: %.20q", got)
	}
	k.ok(fusewire.OpRelease, node, fh, uint64(0), uint64(0))
}

// TestNotifiedAhead has the gofer say that what was listed has changed.
func TestNotifiedAhead(t *testing.T) {
	k := newTestKernel(t, free)
	dir := k.files("dir", 20)
	for i := range 3 {
		k.lookup(dir, fileName(i))
	}
	if err := os.Remove(filepath.Join(k.dir, "dir", fileName(9))); err != nil {
		t.Fatal(err)
	}
	var out fuse.EntryOut
	if st := k.fs.RawFileSystem.Lookup(nil, &fuse.InHeader{NodeId: 1}, "dir", &out); !st.Ok() {
		t.Fatal(st)
	}
	defer k.fs.Forget(out.NodeId, 1)
	k.srv.InvalEntry(out.NodeId, fileName(9), false)
	note := make([]byte, 4096) // when the kernel has it, the relay has it
	if n, err := unix.Read(k.dev, note); err != nil || replyError(note[:n]) != fusewire.NoteInvalEntry {
		t.Fatalf("notification: %v %v", note[:max(n, 0)], err)
	}
	if k.lookup(dir, fileName(9)) != 0 {
		t.Error("it is there")
	}
}

// direntNames returns the names in the body of a READDIR or READDIRPLUS, with the nodes
// that the kernel got, and the last offset.
func direntNames(t *testing.T, b []byte, plus bool) (names []string, nodes []uint64, last uint64) {
	t.Helper()
	for len(b) > 0 {
		node := uint64(0)
		if plus {
			node, b = u64(b, 0), b[fusewire.EntryOutSize:]
		}
		length := int(u32(b, 16))
		last = u64(b, 8)
		names = append(names, string(b[fusewire.DirentSize:fusewire.DirentSize+length]))
		nodes = append(nodes, node)
		b = b[(fusewire.DirentSize+length+7)&^7:]
	}
	return names, nodes, last
}

// TestListAhead reads a directory a page at a time, with attributes and without, and
// looks at what the gofer keeps for it.
func TestListAhead(t *testing.T) {
	k := newTestKernel(t, free)
	const n = 1000 // more than are listed at a time
	dir := k.files("dir", n)
	for i := range 3 {
		k.lookup(dir, fileName(i))
	}
	given := map[uint64]uint64{}
	list := func(opcode uint32) (names []string) {
		t.Helper()
		before := k.frames.Load()
		fh := u64(k.ok(fusewire.OpOpenDir, dir, uint64(0)), 0)
		for off := uint64(0); ; {
			b := k.ok(opcode, dir, fh, off, uint64(4096), uint64(0), uint64(0))
			if len(b) == 0 {
				break
			}
			part, nodes, last := direntNames(t, b, opcode == fusewire.OpReadDirPlus)
			for _, node := range nodes {
				if node != 0 {
					given[node]++
				}
			}
			names, off = append(names, part...), last
		}
		k.ok(fusewire.OpReleaseDir, dir, fh, uint64(0), uint64(0))
		if sent := k.frames.Load() - before; sent > 12 {
			t.Errorf("%d frames", sent)
		}
		slices.Sort(names)
		return names
	}
	want := []string{".", ".."}
	for i := range n {
		want = append(want, fileName(i))
	}
	if got := list(fusewire.OpReadDirPlus); !slices.Equal(got, want) {
		t.Errorf("READDIRPLUS: %d names, want %d", len(got), len(want))
	}
	if got := list(fusewire.OpReadDir); !slices.Equal(got, want) {
		t.Errorf("READDIR: %d names, want %d", len(got), len(want))
	}
	if len(given) < n-10 {
		t.Errorf("%d of %d files came with their node", len(given), n)
	}
	// What the kernel forgets, the gofer does.
	for node, count := range given {
		k.forget(node, count)
	}
	for i := range 3 {
		k.forget(k.lookup(dir, fileName(i)), 2)
	}
	k.forget(dir, 1)
	k.ok(fusewire.OpGetAttr, 1, make([]byte, 16)) // after all that
	if nodes := k.srv.Stats().Nodes; nodes > 1 {
		t.Errorf("the gofer keeps %d nodes", nodes)
	}
}

// TestReconnectAhead loses the connection while things are held and while a request waits
// for a listing.
func TestReconnectAhead(t *testing.T) {
	k := newTestKernel(t, free)
	dir := k.files("dir", 100)
	for i := range 5 {
		k.readFile(k.lookup(dir, fileName(i)))
	}
	fh := k.open(k.lookup(dir, fileName(80)), unix.O_RDONLY)
	lose := func() {
		k.mu.Lock()
		defer k.mu.Unlock()
		k.conn.Close()
	}
	lose()
	for i := 5; i < 20; i++ {
		if got := k.readFile(k.lookup(dir, fileName(i))); got != fileText("dir", i) {
			t.Fatalf("file %d: %.20q", i, got)
		}
	}
	node := k.lookup(dir, fileName(80))
	if got := string(k.ok(fusewire.OpRead, node, fh, uint64(0), uint64(8192), uint64(0), uint64(0))); got != fileText("dir", 80) {
		t.Errorf("open since before: %.20q", got)
	}

	other := k.files("other", 10)
	openGate := k.parkLookup(other)
	lose()
	openGate()
	if reply := k.receive(); replyUnique(reply) != k.unique || replyError(reply) != 0 {
		t.Errorf("reply to %d, error %d", replyUnique(reply), replyError(reply))
	}
}

// parkLookup sends a LOOKUP, k.unique, that waits for the listing of a directory, which
// ends once openGate was called.
func (k *testKernel) parkLookup(dir uint64) (openGate func()) {
	k.t.Helper()
	gate := make(chan struct{})
	k.fs.gate.Store(&gate)
	k.lookup(dir, fileName(0))
	k.lookup(dir, fileName(1))
	<-k.fs.atGate
	k.unique += 2
	k.send(newRequest(fusewire.OpLookup, k.unique, dir, fileName(2)))
	return func() {
		k.fs.gate.Store(nil)
		close(gate)
	}
}

// TestInterruptAhead interrupts a request that waits for a listing.
func TestInterruptAhead(t *testing.T) {
	k := newTestKernel(t, free)
	dir := k.files("dir", 10)
	openGate := k.parkLookup(dir)
	waits := k.unique
	k.send(newRequest(fusewire.OpInterrupt, waits|interruptBit, 0, waits))
	if reply := k.receive(); replyUnique(reply) != waits || unix.Errno(-replyError(reply)) != unix.EINTR {
		t.Errorf("reply to %d, error %d", replyUnique(reply), replyError(reply))
	}
	openGate()
	if k.lookup(dir, fileName(2)) == 0 {
		t.Error("it is not there")
	}
}

// TestCompoundBreaches has a client break the rules of compounds.
func TestCompoundBreaches(t *testing.T) {
	open := newRequest(fusewire.OpOpen, 3, 1, uint64(0))
	huge := make([]byte, 40)
	binary.NativeEndian.PutUint32(huge[16:], 1<<20)
	read := newRequest(fusewire.OpRead, 3, 1, huge)
	short := slices.Clone(open)
	binary.NativeEndian.PutUint32(short, 8)
	for name, body := range map[string][]byte{
		"operation":     newRequest(fusewire.OpUnlink, 3, 1, "f"),
		"long message":  open[:len(open)-1],
		"short message": short,
		"replies":       slices.Concat(read, read),
		"many":          slices.Repeat(open, maxCompound+1),
	} {
		t.Run(name, func(t *testing.T) {
			p := connect(t, NewServer(newFiles(), Options{}), nil)
			if answer := p.hello(clientHello{Version: 1}); !answer.Compounds {
				t.Fatal("no compounds")
			}
			p.frame(kindRequest, 0, initRequest())
			p.reply()
			p.frame(kindCompound, 0, body)
			select {
			case err := <-p.served:
				if !errors.Is(err, errFrame) {
					t.Errorf("cut off for %v", err)
				}
			case <-time.After(time.Minute):
				t.Error("not cut off")
			}
		})
	}
}
