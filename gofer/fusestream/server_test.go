// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package fusestream

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"fsva/gofer/fusewire"
)

// conns returns the two ends of a stream.
func conns(t testing.TB) (client, server net.Conn) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	var ends [2]net.Conn
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), "")
		if ends[i], err = net.FileConn(f); err != nil {
			t.Fatal(err)
		}
		f.Close()
	}
	return ends[0], ends[1]
}

var fileData = bytes.Repeat([]byte("0123456789abcdef"), 8192) // 128 KiB

// newFiles is a file system with one file, which cannot be changed.
func newFiles() fuse.RawFileSystem {
	root := &fs.Inode{}
	return fs.NewNodeFS(root, &fs.Options{OnAdd: func(ctx context.Context) {
		f := root.NewPersistentInode(ctx, &fs.MemRegularFile{Data: fileData, Attr: fuse.Attr{Mode: 0o644}}, fs.StableAttr{})
		root.AddChild("f", f, false)
	}})
}

// peer is a client that a test plays.
type peer struct {
	t      testing.TB
	conn   net.Conn
	served chan error
}

// connect begins a connection; what the server is told first is hello's business.
func connect(t testing.TB, s *Server, admit func(Admission) error) *peer {
	t.Helper()
	client, server := conns(t)
	p := &peer{t: t, conn: client, served: make(chan error, 1)}
	go func() { p.served <- s.Serve(context.Background(), server, admit) }()
	t.Cleanup(func() { client.Close() })
	return p
}

func (p *peer) hello(h clientHello) (answer serverHello) {
	p.t.Helper()
	if err := writeHello(p.conn, h); err != nil {
		p.t.Fatal(err)
	}
	if err := readHello(p.conn, &answer); err != nil {
		p.t.Fatal(err)
	}
	return answer
}

// frame sends a frame.
func (p *peer) frame(k kind, flags byte, parts ...[]byte) {
	p.t.Helper()
	body := bytes.Join(parts, nil)
	b := make([]byte, headerSize)
	header{length: len(body), kind: k}.put(b)
	b[5] = flags
	if _, err := p.conn.Write(append(b, body...)); err != nil {
		p.t.Log(err) // the server may have cut us off already
	}
}

// request makes a FUSE request.
func newRequest(opcode uint32, unique, node uint64, args ...any) []byte {
	b := make([]byte, fusewire.InHeaderSize)
	for _, a := range args {
		switch a := a.(type) {
		case string:
			b = append(append(b, a...), 0)
		case []byte:
			b = append(b, a...)
		case uint64:
			b = binary.NativeEndian.AppendUint64(b, a)
		}
	}
	binary.NativeEndian.PutUint32(b, uint32(len(b)))
	binary.NativeEndian.PutUint32(b[atOpcode:], opcode)
	put64(b, atUnique, unique)
	put64(b, atNode, node)
	return b
}

func initRequest() []byte {
	in := fuse.InitIn{Major: 7, Minor: 44}
	return newRequest(fusewire.OpInit, 1, 0, bytesOf(&in)[fusewire.InHeaderSize:])
}

// reply reads the next frame.
func (p *peer) reply() (header, []byte) {
	p.t.Helper()
	h, err := readHeader(p.conn)
	if err != nil {
		p.t.Fatal(err)
	}
	b := make([]byte, h.length)
	if _, err := io.ReadFull(p.conn, b); err != nil {
		p.t.Fatal(err)
	}
	return h, b
}

func TestHello(t *testing.T) {
	full := errors.New("full")
	s := NewServer(newFiles(), Options{Volume: "v", Secret: []byte("secret"), Info: Info{Exclusive: true}})
	for _, tc := range []struct {
		name  string
		hello clientHello
		admit func(Admission) error
		want  string
		final bool
	}{
		{name: "good", hello: clientHello{Version: 1, Volume: "v", Secret: []byte("secret")}},
		{name: "any volume, newer version", hello: clientHello{Version: 7, Secret: []byte("secret"), ReadOnly: true}},
		{name: "no secret", hello: clientHello{Version: 1, Volume: "v"}, want: "the secret is wrong", final: true},
		{name: "wrong secret", hello: clientHello{Version: 1, Volume: "other", Secret: []byte("secre")}, want: "the secret is wrong", final: true},
		{name: "other volume", hello: clientHello{Version: 1, Volume: "w", Secret: []byte("secret")}, want: `there is no volume "w" here`, final: true},
		{name: "version", hello: clientHello{Secret: []byte("secret")}, want: "version 0 of the protocol is not spoken here", final: true},
		{name: "refused", hello: clientHello{Version: 1, Secret: []byte("secret")}, admit: func(Admission) error { return full }, want: "full"},
	} {
		p := connect(t, s, tc.admit)
		answer := p.hello(tc.hello)
		if answer.Error != tc.want || answer.Final != tc.final {
			t.Errorf("%s: %+v", tc.name, answer)
		}
		if answer.Error != "" && (answer.Volume != "" || answer.Exclusive) {
			t.Errorf("%s: a client that is refused is told %+v", tc.name, answer)
		}
		if answer.Error == "" && (answer.Volume != "v" || !answer.Exclusive || answer.ReadOnly != tc.hello.ReadOnly) {
			t.Errorf("%s: %+v", tc.name, answer)
		}
		p.conn.Close()
		if err := <-p.served; (err == nil) != (tc.want == "") || err != nil && !errors.Is(err, ErrRefused) {
			t.Errorf("%s: Serve: %v", tc.name, err)
		}
	}
	for name, text := range map[string]string{
		"other protocol": "GET / HTTP/1.0\r\n\r\n",
		"too long":       helloMagic + "\x01\x10\x00\x00",
		"no JSON":        helloMagic + "\x04\x00\x00\x00{{{{",
		"wrong types":    helloMagic + "\x0e\x00\x00\x00{\"version\":\"\"}",
		"cut off":        helloMagic + "\x04\x00\x00\x00{",
	} {
		p := connect(t, s, nil)
		if _, err := p.conn.Write([]byte(text)); err != nil {
			t.Fatal(err)
		}
		p.conn.(*net.UnixConn).CloseWrite()
		if err := <-p.served; err == nil {
			t.Errorf("%s: Serve returns nil", name)
		}
	}
	s = NewServer(newFiles(), Options{HelloTimeout: time.Millisecond})
	if err := <-connect(t, s, nil).served; !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("a client that says nothing: %v", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	client, server := conns(t)
	defer client.Close()
	done := make(chan error)
	go func() { done <- NewServer(newFiles(), Options{}).Serve(ctx, server, nil) }()
	cancel()
	if err := <-done; err != nil {
		t.Errorf("Serve that is told to end: %v", err)
	}
}

// TestRequests has a client that reads a file, in frames and by the window.
func TestRequests(t *testing.T) {
	w := &testWindow{mem: make([]byte, 16<<20), out: map[int64]bool{}}
	s := NewServer(newFiles(), Options{Claim: func(id [16]byte) (Window, error) {
		if id != [16]byte{9} {
			return nil, errors.New("no such window")
		}
		return w, nil
	}})
	for _, windowed := range []bool{false, true} {
		p := connect(t, s, nil)
		hello := clientHello{Version: 1, Windows: []string{"zz", "00"}}
		if windowed {
			hello.Windows = append(hello.Windows, "09000000000000000000000000000000")
		}
		answer := p.hello(hello)
		if (answer.Window != "") != windowed || (answer.Writes.Length == 4<<20) != windowed {
			t.Fatalf("%+v", answer)
		}
		p.frame(kindRequest, 0, initRequest())
		if _, b := p.reply(); replyError(b) != 0 {
			t.Fatalf("INIT: %d", replyError(b))
		}
		p.frame(kindRequest, 0, newRequest(fusewire.OpLookup, 2, 1, "f"))
		_, b := p.reply()
		node := u64(b, fusewire.OutHeaderSize)
		p.frame(kindRequest, 0, newRequest(fusewire.OpOpen, 4, node, uint64(0)))
		_, b = p.reply()
		fh := u64(b, fusewire.OutHeaderSize)
		for _, size := range []uint64{4096, 128 << 10, 1 << 20} {
			p.frame(kindRequest, 0, newRequest(fusewire.OpRead, 6, node, fh, uint64(0), size, uint64(0), uint64(0)))
			h, b := p.reply()
			n := int(min(size, 128<<10))
			if h.window != (windowed && n >= windowMin) {
				t.Fatalf("%d bytes: %+v", size, h)
			}
			data := b[min(fusewire.OutHeaderSize, len(b)):]
			if h.window {
				ref, msg, err := takeReference(b)
				if err != nil || ref.length != n || int(u32(msg, 0)) != fusewire.OutHeaderSize+n {
					t.Fatalf("%+v, %v", ref, err)
				}
				data = bytes.Clone(w.Data(ref.off, ref.length))
				p.frame(kindRelease, 0, binary.LittleEndian.AppendUint64(nil, uint64(ref.off)))
			}
			if len(data) != n || !strings.HasPrefix(string(data), "0123456789abcdef") {
				t.Errorf("%d bytes of %d", len(data), n)
			}
		}
		p.frame(kindRequest, 0, newRequest(fusewire.OpStatfs, 8, 1)) // and all before is done
		p.reply()
		if windowed && len(w.out) != 4 {
			t.Errorf("%d MiB are leased, besides the client's own", len(w.out)-4)
		}
		if st := s.Stats(); st.Handles != 1 || st.Nodes != 1 {
			t.Errorf("%+v", st)
		}
		p.conn.Close()
		if err := <-p.served; err != nil {
			t.Error(err)
		}
		if st := s.Stats(); st.Handles != 0 || len(w.out) != 0 {
			t.Errorf("after the end: %+v, %d leases", st, len(w.out))
		}
	}
}

// TestBreaches has clients that break the protocol, after the hello. Each is cut off.
func TestBreaches(t *testing.T) {
	w := &testWindow{mem: make([]byte, 16<<20), out: map[int64]bool{}}
	s := NewServer(newFiles(), Options{Claim: func([16]byte) (Window, error) { return w, nil }})
	write := make([]byte, 40)
	ref := func(off int64, n int) []byte {
		b := make([]byte, referenceSize)
		reference{off, n}.put(b)
		return b
	}
	for name, breach := range map[string]func(p *peer){
		"unknown kind":        func(p *peer) { p.frame(9, 0) },
		"reply from a client": func(p *peer) { p.frame(kindReply, 0, make([]byte, 16)) },
		"unknown flag":        func(p *peer) { p.frame(kindRequest, 2, initRequest()) },
		"no request":          func(p *peer) { p.frame(kindRequest, 0, make([]byte, 39)) },
		"wrong length inside": func(p *peer) { p.frame(kindRequest, 0, make([]byte, 48)) },
		"too long":            func(p *peer) { p.conn.Write([]byte{0, 0, 0x20, 0, 1, 0, 0, 0}) },
		"cut off":             func(p *peer) { p.conn.Write([]byte{100, 0, 0, 0, 1, 0, 0, 0, 1}); p.conn.Close() },
		"release of nothing":  func(p *peer) { p.frame(kindRelease, 0, make([]byte, 8)) },
		"release of own part": func(p *peer) { p.frame(kindRelease, 0, binary.LittleEndian.AppendUint64(nil, 1<<20)) },
		"half a release":      func(p *peer) { p.frame(kindRelease, 0, make([]byte, 7)) },
		"data of others": func(p *peer) {
			p.frame(kindRequest, flagWindow, ref(5<<20, 4096), newRequest(fusewire.OpWrite, 2, 1, write))
		},
		"data beyond own part": func(p *peer) {
			p.frame(kindRequest, flagWindow, ref(4<<20-1, 4096), newRequest(fusewire.OpWrite, 2, 1, write))
		},
		"data beyond window": func(p *peer) {
			p.frame(kindRequest, flagWindow, ref(1<<62, 4096), newRequest(fusewire.OpWrite, 2, 1, write))
		},
		"negative offset": func(p *peer) {
			p.frame(kindRequest, flagWindow, ref(-4096, 8192), newRequest(fusewire.OpWrite, 2, 1, write))
		},
		"no reference": func(p *peer) { p.frame(kindRequest, flagWindow, make([]byte, 15)) },
		"too much data": func(p *peer) {
			p.frame(kindRequest, flagWindow, ref(0, 2<<20), newRequest(fusewire.OpWrite, 2, 1, write))
		},
	} {
		t.Run(name, func(t *testing.T) {
			p := connect(t, s, nil)
			p.hello(clientHello{Version: 1, Windows: []string{"09000000000000000000000000000000"}})
			breach(p)
			p.conn.(*net.UnixConn).CloseWrite()
			if err := <-p.served; err == nil {
				t.Error("not cut off")
			}
		})
	}
}

// TestNotifications sends notifications, and too many to one who does not read.
func TestNotifications(t *testing.T) {
	s := NewServer(newFiles(), Options{})
	p := connect(t, s, nil)
	p.hello(clientHello{Version: 1})
	p.frame(kindRequest, 0, initRequest())
	p.reply()
	s.InvalEntry(1, "f", false)
	s.InvalInode(12345, 0, 0) // which the client does not have
	s.Delete(1, 2, "g")
	s.IncEpoch()
	for _, want := range []int32{3, 6, 8} {
		h, b := p.reply()
		if h.kind != kindNotification || replyError(b) != want || int(u32(b, 0)) != len(b) {
			t.Errorf("%+v: % x", h, b)
		}
	}
	epoch := notification(make([]byte, 16), fusewire.NoteIncEpoch)
	if got := (&Relay{}).notification(epoch); !bytes.Equal(got, epoch) {
		t.Errorf("a relay makes % x of % x", got, epoch)
	}
	long := strings.Repeat("x", 1000)
	for range maxNotes + 10_000 {
		s.InvalEntry(1, long, false)
	}
	if err := <-p.served; err == nil || !strings.Contains(err.Error(), "notifications") {
		t.Errorf("a client that lags behind: %v", err)
	}
}

// FuzzServer sends any bytes after the hello. The server must end without a panic, with
// nothing held.
func FuzzServer(f *testing.F) {
	stream := func(frames ...[]byte) []byte {
		var b []byte
		for _, body := range frames {
			h := make([]byte, headerSize)
			header{length: len(body), kind: kindRequest}.put(h)
			b = append(append(b, h...), body...)
		}
		return b
	}
	ops := stream(initRequest(), newRequest(fusewire.OpLookup, 2, 1, "f"), newRequest(fusewire.OpOpen, 4, 2, uint64(0)),
		newRequest(fusewire.OpRead, 6, 2, uint64(1), uint64(0), uint64(100_000), uint64(0), uint64(0)),
		newRequest(fusewire.OpForget, 8, 2, uint64(1)))
	f.Add(ops, true)
	f.Add(ops, false)
	release := make([]byte, headerSize+8)
	header{length: 8, kind: kindRelease}.put(release)
	put64(release, headerSize, 4<<20)
	f.Add(append(ops, release...), true)
	compound := make([]byte, headerSize)
	for _, msg := range [][]byte{
		newRequest(fusewire.OpOpen, 10, 2, uint64(0)),
		newRequest(fusewire.OpRead, 10, 2, uint64(openedHandle), uint64(0), uint64(8192), uint64(0), uint64(0)),
		newRequest(fusewire.OpRelease, 10, 2, uint64(openedHandle), uint64(0), uint64(0)),
		newRequest(fusewire.OpOpenDir, 10, 1, uint64(0)),
		newRequest(fusewire.OpReadDirPlus, 10, 1, uint64(openedHandle), uint64(0), uint64(8192), uint64(0), uint64(0)),
	} {
		compound = append(compound, msg...)
	}
	header{length: len(compound) - headerSize, kind: kindCompound}.put(compound)
	f.Add(append(ops, compound...), false)
	mem := make([]byte, 16<<20)
	f.Fuzz(func(t *testing.T, b []byte, windowed bool) {
		w := &testWindow{mem: mem, out: map[int64]bool{}}
		s := NewServer(newFiles(), Options{Claim: func([16]byte) (Window, error) { return w, nil }})
		p := connect(t, s, nil)
		hello := clientHello{Version: 1}
		if windowed {
			hello.Windows = []string{"09000000000000000000000000000000"}
		}
		p.hello(hello)
		go func() {
			p.conn.Write(b)
			p.conn.(*net.UnixConn).CloseWrite()
		}()
		// What it says back is read, or it would rightly wait.
		if _, err := io.Copy(io.Discard, p.conn); err != nil && !errors.Is(err, unix.ECONNRESET) {
			t.Fatal(err)
		}
		<-p.served
		if st := s.Stats(); st.Handles != 0 || st.InFlight != 0 || len(w.out) != 0 {
			t.Errorf("%+v, %d leases", st, len(w.out))
		}
	})
}

// FuzzHello parses any hello of either side.
func FuzzHello(f *testing.F) {
	var b bytes.Buffer
	if err := writeHello(&b, clientHello{Version: 1, Volume: "v", Secret: []byte("s"), Windows: []string{"00"}}); err != nil {
		f.Fatal(err)
	}
	f.Add(b.Bytes())
	f.Fuzz(func(t *testing.T, b []byte) {
		var c clientHello
		if readHello(bytes.NewReader(b), &c) == nil {
			text, err := json.Marshal(c)
			var again clientHello
			if err != nil || json.Unmarshal(text, &again) != nil {
				t.Errorf("%+v: %v", c, err)
			}
		}
		var s serverHello
		if err := readHello(bytes.NewReader(b), &s); err == nil && len(b) < len(helloMagic)+4 {
			t.Error("a hello out of nothing")
		}
	})
}
