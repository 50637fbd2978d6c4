// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package fusechannel

import (
	"bytes"
	"strings"
	"testing"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"fsva/gofer/fusewire"
)

func FuzzReplyHeader(f *testing.F) {
	f.Add(message(2, 0, []byte("abc")), false)
	f.Add(message(0, fusewire.NoteInvalInode), true)
	f.Add([]byte{16, 0, 0}, false)
	f.Fuzz(func(t *testing.T, msg []byte, truncated bool) {
		h, payload, ok := parseReply(msg, truncated)
		if ok && (truncated || !bytes.Equal(message(h.Unique, h.Status, payload), msg)) {
			t.Errorf("%+v with %d bytes of %x", h, len(payload), msg)
		}
	})
}

func FuzzDeliver(f *testing.F) {
	f.Add(int32(0), make([]byte, 104), uint16(104), uint16(0))
	f.Add(int32(-2), []byte{}, uint16(16), uint16(10))
	f.Add(int32(1), []byte{}, uint16(0), uint16(0))
	f.Fuzz(func(t *testing.T, errno int32, payload []byte, fixed, room uint16) {
		ca := newCall(0)
		ca.fixed = int(fixed) % (maxFixedOut + 1)
		dst := make([]byte, int(room)+8)
		ca.dst = dst[:room]
		good := ca.deliver(errno, payload)
		switch {
		case ca.n > int(room) || ca.fixedN > ca.fixed:
			t.Errorf("%d and %d bytes of %d and %d", ca.fixedN, ca.n, ca.fixed, room)
		case !bytes.Equal(dst[room:], make([]byte, 8)):
			t.Error("wrote behind the room")
		case !good && ca.status != fuse.EIO:
			t.Errorf("status %v", ca.status)
		case ca.status < 0 || ca.status > maxErrno:
			t.Errorf("status %d", ca.status)
		case good && ca.status == fuse.OK && ca.fixedN+ca.n != len(payload):
			t.Errorf("took %d of %d bytes", ca.fixedN+ca.n, len(payload))
		}
	})
}

func FuzzNegotiate(f *testing.F) {
	f.Add(initReply(31, scriptFlags))
	f.Add(initReply(45, ^uint64(0)))
	f.Add(initReply(12, 0)[:24])
	f.Fuzz(func(t *testing.T, payload []byte) {
		const limit = 208896
		offered := offeredCaps(Options{})
		p, err := negotiate(payload, offered, limit)
		if err != nil {
			if strings.Contains(err.Error(), "\n") {
				t.Errorf("error of several lines: %v", err)
			}
			return
		}
		if p.maxWrite < minMaxWrite || p.maxWrite > p.maxRead || p.maxRead > limit || p.maxRead%pageSize != 0 ||
			p.caps&^offered != 0 || p.minor < protoMinorMin || p.minor > protoMinorMax {
			t.Errorf("%+v", p)
		}
	})
}

func FuzzAttr(f *testing.F) {
	a := goodAttr(unix.S_IFREG)
	f.Add(enc(a))
	e := goodEntry(2, unix.S_IFDIR)
	f.Add(enc(e))
	f.Fuzz(func(t *testing.T, b []byte) {
		var e fuse.EntryOut
		copy(bytesOf(&e), b)
		if !fixEntry(&e) {
			return
		}
		if e.NodeId <= 1 || int64(e.Size) < 0 || !goodMode(e.Mode) || e.EntryTimeout() < 0 || e.AttrTimeout() < 0 ||
			e.Atimensec > 999_999_999 || e.Mtimensec > 999_999_999 || e.Ctimensec > 999_999_999 {
			t.Errorf("accepted %+v", e)
		}
		again := e
		if !fixEntry(&again) || again != e {
			t.Errorf("judged differently the second time: %+v, %+v", e, again)
		}
	})
}

func FuzzDirents(f *testing.F) {
	e := goodEntry(5, unix.S_IFREG)
	f.Add(append(dirent(nil, 1, 1, 4, "."), dirent(nil, 2, 2, 8, "name")...), false, uint16(4096))
	f.Add(append(dirent(&e, 1, 1, 8, "a"), dirent(&e, 2, 2, 0, "b")...), true, uint16(4096))
	f.Add(append(dirent(&e, 1, 1, 8, "a"), dirent(&e, 2, 2, 0, "b/c")...), true, uint16(4096))
	f.Add(append(dirent(&e, 1, 1, 8, "a"), dirent(&e, 2, 2, 0, "b")...), true, uint16(160))
	f.Add(dirent(nil, 2, 2, 8, strings.Repeat("x", 300)), false, uint16(500))
	f.Fuzz(func(t *testing.T, payload []byte, plus bool, room uint16) {
		l := fuse.NewDirEntryList(make([]byte, room), 0)
		var es []fuse.DirEntry
		var outs []fuse.EntryOut
		var err error
		forgets, ok := 0, false
		if plus {
			_, _, ok = fillDirPlus(payload, l, func(id uint64) {
				if id <= 1 {
					t.Errorf("forget of node %d", id)
				}
				forgets++
			})
			es, outs, err = fuse.ParseDirLookupEntries(l.Bytes())
		} else {
			_, ok = fillDir(payload, l)
			es, err = fuse.ParseDirEntries(l.Bytes())
		}
		if err != nil {
			t.Fatal(err)
		}
		if !ok && len(es) > 0 {
			t.Errorf("%d entries of a malformed payload", len(es))
		}
		for _, e := range es {
			if e.Name == "" || len(e.Name) > 255 || strings.ContainsAny(e.Name, "/\x00") || e.Mode != 0 && !goodMode(e.Mode) {
				t.Errorf("entry %+v", e)
			}
		}
		kept := 0
		for i := range outs {
			if o := outs[i]; o.NodeId != 0 {
				kept++
				if !fixEntry(&o) || es[i].Name == "." || es[i].Name == ".." {
					t.Errorf("entry %q is %+v", es[i].Name, o)
				}
			}
		}
		// Every lookup that the server counted is kept or given back, once.
		counted := 0
		for r := (direntReader{buf: payload, plus: plus}); ; {
			if more, _ := r.next(); !more {
				break
			}
			if plus && !isDot(r.name) && r.entry.NodeId > 1 {
				counted++
			}
		}
		if counted != kept+forgets {
			t.Errorf("%d lookups, %d kept, %d given back", counted, kept, forgets)
		}
	})
}

func FuzzNotification(f *testing.F) {
	f.Add(int32(fusewire.NoteInvalInode), enc(fuse.NotifyInvalInodeOut{Ino: 2, Off: -1}))
	f.Add(int32(fusewire.NoteInvalEntry), append(enc(fuse.NotifyInvalEntryOut{Parent: 1, NameLen: 3}), "abc\x00"...))
	f.Add(int32(fusewire.NoteDelete), append(enc(fuse.NotifyInvalDeleteOut{Parent: 1, Child: 2, NameLen: 3}), "abc\x00"...))
	f.Add(int32(fusewire.NoteStore), append(enc(fuse.NotifyStoreOut{Nodeid: 2, Size: 2}), "ab"...))
	f.Add(int32(fusewire.NoteRetrieve), enc(fuse.NotifyRetrieveOut{Nodeid: 2, Size: 2}))
	f.Add(int32(fusewire.NotePrune), append(enc(fuse.NotifyPruneOut{Count: 1}), make([]byte, 8)...))
	f.Add(int32(fusewire.NoteIncEpoch), []byte{})
	f.Fuzz(func(t *testing.T, code int32, b []byte) {
		n, ok := parseNotification(code, b)
		if !ok {
			return
		}
		if code < 1 || code >= fusewire.NoteCount || fusewire.NoteNames[code] == "" {
			t.Fatalf("accepted code %d", code)
		}
		n.own()
		if n.cost() > noteOverhead+len(b) {
			t.Errorf("%d bytes take %d", len(b), n.cost())
		}
		if (code == fusewire.NoteInvalEntry || code == fusewire.NoteDelete) && checkName(n.name) != fuse.OK {
			t.Errorf("name %q", n.name)
		}
		if (code == fusewire.NoteStore || code == fusewire.NoteRetrieve) && n.off < 0 {
			t.Errorf("offset %d", n.off)
		}
	})
}

// FuzzServer plays a hostile server as a whole: whatever it sends, methods return, and nothing unchecked comes out.
func FuzzServer(f *testing.F) {
	e := goodEntry(5, unix.S_IFREG)
	f.Add(message(0, fusewire.NoteInvalInode, make([]byte, 24)), enc(e))
	f.Add([]byte{1, 2, 3}, dirent(&e, 1, 1, 8, "a"))
	f.Fuzz(func(t *testing.T, stray, payload []byte) {
		if len(payload) > 1<<16 || len(stray) > 1<<16 || len(stray) == 0 {
			return
		}
		c := serveWith(t, func(s *script, r request) {
			if r.opcode != fusewire.OpForget && r.opcode != fusewire.OpBatchForget {
				s.raw(stray)
				s.ok(r, payload)
			}
		})
		defer c.Close()
		var entry fuse.EntryOut
		if st := c.Lookup(nil, root(), "x", &entry); st == fuse.OK && entry.NodeId == 1 {
			t.Error("the root looked up by name")
		}
		var attr fuse.AttrOut
		if st := c.GetAttr(nil, &fuse.GetAttrIn{InHeader: *node(2)}, &attr); st == fuse.OK && !goodMode(attr.Mode) {
			t.Errorf("mode %o", attr.Mode)
		}
		l := fuse.NewDirEntryList(make([]byte, 4096), 0)
		c.ReadDirPlus(nil, &fuse.ReadIn{InHeader: *root()}, l)
		if link, st := c.Readlink(nil, node(2)); st == fuse.OK && !goodLink(link) {
			t.Errorf("link %q", link)
		}
		buf := make([]byte, 64)
		if n, st := c.ListXAttr(nil, node(2), buf); st == fuse.OK && !goodXAttrList(buf[:n]) {
			t.Errorf("list %q", buf[:n])
		}
	})
}
