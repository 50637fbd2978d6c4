// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package serving

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"io"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"fsva/gofer/attach"
	"fsva/gofer/listen"
	"fsva/gofer/supervisor/goferproto"
	"fsva/gofer/vhostuser/vhosttest"
	"fsva/gofer/window"
)

// FUSE's opcodes and errno of this test.
const (
	opLookup  = 1
	opMkdir   = 9
	opInit    = 26
	requestIs = 1 // a frame's kind
)

// guest is a client on a stream, byte for byte as package fusestream describes it.
type guest struct {
	net.Conn
	hello struct {
		Error       string
		Volume      string
		ReadOnly    bool
		KeepsWrites bool
		Window      string
	}
	unique uint64
}

// connect connects to a socket and says hello.
func connect(t *testing.T, path string, hello map[string]any) *guest {
	t.Helper()
	c, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	if err := c.SetDeadline(time.Now().Add(30 * time.Second)); err != nil {
		t.Fatal(err)
	}
	hello["version"] = 1
	text, err := json.Marshal(hello)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Write(append(binary.LittleEndian.AppendUint32([]byte("FSVA-FS\n"), uint32(len(text))), text...)); err != nil {
		t.Fatal(err)
	}
	g := &guest{Conn: c}
	head := make([]byte, 12)
	if _, err := io.ReadFull(c, head); err != nil {
		t.Fatal(err)
	}
	text = make([]byte, binary.LittleEndian.Uint32(head[8:]))
	if _, err := io.ReadFull(c, text); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(text, &g.hello); err != nil {
		t.Fatal(err)
	}
	return g
}

// fuseMessage is a request to the root.
func fuseMessage(opcode uint32, unique uint64, body string) []byte {
	b := make([]byte, 40, 40+len(body))
	binary.LittleEndian.PutUint32(b, uint32(cap(b)))
	binary.LittleEndian.PutUint32(b[4:], opcode)
	binary.LittleEndian.PutUint64(b[8:], unique)
	binary.LittleEndian.PutUint64(b[16:], 1)
	return append(b, body...)
}

// initBody is that of INIT: 7.31.
const initBody = "\x07\x00\x00\x00\x1f\x00\x00\x00\x00\x00\x02\x00\x00\x00\x00\x00"

// call makes a request about the root and returns the reply's error.
func (g *guest) call(t *testing.T, opcode uint32, body string) unix.Errno {
	t.Helper()
	g.unique += 2
	msg := fuseMessage(opcode, g.unique, body)
	head := make([]byte, 8)
	binary.LittleEndian.PutUint32(head, uint32(len(msg)))
	head[4] = requestIs
	if _, err := g.Write(append(head, msg...)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(g, head); err != nil {
		t.Fatal(err)
	}
	reply := make([]byte, binary.LittleEndian.Uint32(head))
	if _, err := io.ReadFull(g, reply); err != nil {
		t.Fatal(err)
	}
	if got := binary.LittleEndian.Uint64(reply[8:]); got != g.unique {
		t.Fatalf("reply to %d, want %d", got, g.unique)
	}
	return unix.Errno(-int32(binary.LittleEndian.Uint32(reply[4:])))
}

// stat asks the gofer until its account is as ok says.
func (g *gofer) stat(t *testing.T, what string, ok func(*goferproto.Stat) bool) {
	t.Helper()
	var s *goferproto.Stat
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		if s = g.ask(t, goferproto.Request{ID: 7, Op: goferproto.OpStat}).Stat; ok(s) {
			return
		}
	}
	t.Fatalf("not %s: %+v", what, s)
}

// mkdirBody is that of MKDIR.
func mkdirBody(name string) string { return "\xed\x01\x00\x00\x00\x00\x00\x00" + name + "\x00" }

// A confined gofer serves guests on streams, in memory and behind the caches, with a
// window; and tells who they are.
func TestGuests(t *testing.T) {
	sock := filepath.Join(t.TempDir(), "sock")
	g := startGofer(t, goferproto.Config{InProcess: "mem", Listen: []listen.Spec{
		{Kind: "unix", Path: sock}, {Kind: "unix", Path: sock + "-ro", ReadOnly: true},
		{Kind: "unix", Path: sock + "-secret", ReadOnly: true, Secret: []byte("abc")},
	}})
	if r := g.reply(t); r.Ready == nil {
		t.Fatalf("got %+v, want readiness", r)
	}
	memory, id, err := window.Create(window.MinSize)
	if err != nil {
		t.Fatal(err)
	}
	defer memory.Close()
	w := &goferproto.Window{ID: id, Size: window.MinSize}
	if r := g.ask(t, goferproto.Request{ID: 7, Op: goferproto.OpWindow, Window: w, Memory: memory}); r.Error != "" {
		t.Fatal(r.Error)
	}
	text, err := id.MarshalText()
	if err != nil {
		t.Fatal(err)
	}

	first := connect(t, sock, map[string]any{"windows": []string{strings.Repeat("00", 16), string(text)}})
	if first.hello.Error != "" || first.hello.Volume != "vol" || first.hello.ReadOnly || first.hello.Window != string(text) {
		t.Fatalf("hello: %+v", first.hello)
	}
	for _, c := range []struct {
		opcode uint32
		body   string
		want   unix.Errno
	}{
		{opInit, initBody, 0}, {opMkdir, mkdirBody("d"), 0}, {opLookup, "d\x00", 0}, {opMkdir, mkdirBody("d"), unix.EEXIST},
	} {
		if err := first.call(t, c.opcode, c.body); err != c.want {
			t.Errorf("opcode %d: %v, want %v", c.opcode, err, c.want)
		}
	}
	ops := g.ask(t, goferproto.Request{ID: 7, Op: goferproto.OpGuests}).Ops
	for name, want := range map[string][2]uint64{"INIT": {1, 0}, "LOOKUP": {1, 0}, "MKDIR": {2, 1}} {
		if op := ops[name]; op.Requests != want[0] || op.Errors != want[1] || op.Latency.Count != want[0] {
			t.Errorf("%s: %+v, want %d requests, %d errors", name, op, want[0], want[1])
		}
	}
	if len(ops) != 3 {
		t.Errorf("requests of the guest: %+v", ops)
	}
	g.stat(t, "a guest with a window", func(s *goferproto.Stat) bool {
		return s.Clients == 1 && s.Guests == 1 && s.Windows == 1 && s.WindowsUsed == 1 &&
			s.Attached[0].Guest == "on a unix socket" && s.Attached[0].Via == "unix:"+sock && !s.Attached[0].ReadOnly
	})

	// The volume is exclusive: for a sandbox as for a guest.
	err = attach.Check(g.dir, attach.Request{Container: "c1", Destination: "/data"})
	if err == nil || !strings.Contains(err.Error(), "in use by guest") {
		t.Errorf("a sandbox beside a guest: %v", err)
	}
	if second := connect(t, sock+"-ro", map[string]any{}); !strings.Contains(second.hello.Error, "in use by guest") {
		t.Errorf("a second guest: %+v", second.hello)
	}

	// What the guest has is given back when it goes.
	first.Close()
	g.stat(t, "without guests", func(s *goferproto.Stat) bool { return s.Clients == 0 && s.Guests == 0 && s.WindowsUsed == 0 })
	if r := g.ask(t, goferproto.Request{ID: 7, Op: goferproto.OpWindowGone, Window: w}); r.Error != "" {
		t.Error(r.Error)
	}
	reader := connect(t, sock+"-ro", map[string]any{"windows": []string{string(text)}})
	if reader.hello.Error != "" || !reader.hello.ReadOnly || reader.hello.Window != "" {
		t.Fatalf("hello: %+v", reader.hello)
	}
	for _, c := range []struct {
		opcode uint32
		body   string
		want   unix.Errno
	}{
		{opInit, initBody, 0}, {opLookup, "d\x00", 0}, {opMkdir, mkdirBody("f"), unix.EROFS},
	} {
		if err := reader.call(t, c.opcode, c.body); err != c.want {
			t.Errorf("read-only, opcode %d: %v, want %v", c.opcode, err, c.want)
		}
	}

	// A listener's secret.
	for _, secret := range []string{"", "ab", "abcd"} {
		if c := connect(t, sock+"-secret", map[string]any{"secret": []byte(secret)}); !strings.Contains(c.hello.Error, "the secret is wrong") {
			t.Errorf("secret %q: %+v", secret, c.hello)
		}
	}
	if c := connect(t, sock+"-secret", map[string]any{"secret": []byte("abc")}); c.hello.Error != "" {
		t.Errorf("right secret: %+v", c.hello)
	}

	if r := g.ask(t, goferproto.Request{ID: 7, Op: goferproto.OpStop}); r.Error != "" {
		t.Errorf("stop: %s", r.Error)
	}
	if _, err := reader.Read(make([]byte, 1)); err != io.EOF && !errors.Is(err, unix.ECONNRESET) {
		t.Errorf("after the stop: %v", err)
	}
	if err := g.cmd.Wait(); err != nil {
		t.Errorf("gofer: %v", err)
	}
}

// Shims are told whether to expect what was written after the end of the gofer.
func TestKeepsWrites(t *testing.T) {
	for _, c := range []struct {
		name            string
		keeps, deferred bool
		want            bool
	}{{"it is not known", false, false, false}, {"known", true, false, true}, {"writes are deferred", true, true, false}} {
		sock := filepath.Join(t.TempDir(), "sock")
		g := startGofer(t, goferproto.Config{
			InProcess: "mem", KeepsWrites: c.keeps, WriteBack: c.deferred, Listen: []listen.Spec{{Kind: "unix", Path: sock}},
		})
		if r := g.reply(t); r.Ready == nil {
			t.Fatalf("got %+v, want readiness", r)
		}
		if got := connect(t, sock, map[string]any{}).hello.KeepsWrites; got != c.want {
			t.Errorf("%s: %v", c.name, got)
		}
	}
}

// A gofer is given the windows that there are already.
func TestWindowsOfTheGoferBefore(t *testing.T) {
	memory, id, err := window.Create(window.MinSize)
	if err != nil {
		t.Fatal(err)
	}
	defer memory.Close()
	g := startGofer(t, goferproto.Config{InProcess: "mem", Windows: 1},
		goferproto.Request{ID: 1, Op: goferproto.OpWindow, Window: &goferproto.Window{ID: id, Size: window.MinSize}, Memory: memory})
	if r := g.reply(t); r.Ready == nil {
		t.Fatalf("got %+v, want readiness", r)
	}
	g.stat(t, "with a window", func(s *goferproto.Stat) bool { return s.Windows == 1 && s.WindowsUsed == 0 })
}

// Guests with a virtio-fs driver, whose device is in the gofer.
func TestVirtiofs(t *testing.T) {
	fs := filepath.Join(t.TempDir(), "fs")
	g := startGofer(t, goferproto.Config{
		InProcess: "mem", Volume: attach.Info{Coherence: attach.Shared}, CacheLimit: 1 << 20,
		Listen: []listen.Spec{{Kind: listen.Virtiofs, Path: fs, ReadOnly: true}},
	})
	if r := g.reply(t); r.Ready == nil {
		t.Fatalf("got %+v, want readiness", r)
	}
	vm := vhosttest.Dial(t, fs, vhosttest.Options{})
	queue := vm.Queue(1, 64)
	for _, c := range []struct {
		opcode uint32
		body   string
		want   unix.Errno
	}{
		{opInit, initBody, 0}, {opLookup, "d\x00", unix.ENOENT}, {opMkdir, mkdirBody("f"), unix.EROFS},
	} {
		reply := queue.Do(fuseMessage(c.opcode, 2, c.body), 4096)
		if len(reply) < 16 || unix.Errno(-int32(binary.LittleEndian.Uint32(reply[4:]))) != c.want {
			t.Errorf("opcode %d: %x, want %v", c.opcode, reply, c.want)
		}
	}
	g.stat(t, "a guest with virtio-fs", func(s *goferproto.Stat) bool {
		return s.Guests == 1 && s.Attached[0].Guest == "virtio-fs" && s.Attached[0].ReadOnly
	})
	vm.Close()
	g.stat(t, "without guests", func(s *goferproto.Stat) bool { return s.Guests == 0 })
	if r := g.ask(t, goferproto.Request{ID: 7, Op: goferproto.OpStop}); r.Error != "" {
		t.Errorf("stop: %s", r.Error)
	}
	if err := g.cmd.Wait(); err != nil {
		t.Errorf("gofer: %v", err)
	}
}
