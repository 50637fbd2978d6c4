// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package regions

import (
	"bytes"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

const (
	enospc = fuse.Status(unix.ENOSPC)
	eio    = fuse.EIO
)

func newWriteback(t *testing.T, d *disk, o WritableOptions) *writable {
	t.Helper()
	o.WriteBack = true
	return newWritable(t, d, o)
}

func TestWritesWaitAndAreSentTogether(t *testing.T) {
	w := newWriteback(t, newDisk(), WritableOptions{MaxWrite: 4096})
	id, fh := w.create()
	data := string(randomBytes(10_000))
	for off := 9900; off >= 0; off -= 100 { // backwards
		w.write(id, fh, off, data[off:off+100])
	}
	if st := w.Stats(); st.Dirty != 10_000 || len(w.d.writes) != 0 {
		t.Errorf("%d dirty bytes after %d requests", st.Dirty, len(w.d.writes))
	}
	w.wantRead(id, fh, data)
	if s := w.fsync(id, fh); !s.Ok() {
		t.Fatal(s)
	}
	if want := []extent{{0, 4096}, {4096, 8192}, {8192, 10_000}}; !slices.Equal(w.d.writes, want) {
		t.Errorf("requests %v, want %v", w.d.writes, want)
	}
	if want := []string{"WRITE", "WRITE", "WRITE", "FSYNC"}; !slices.Equal(w.d.ops, want) {
		t.Errorf("%v, want %v", w.d.ops, want)
	}
	w.wantDisk(id, data)
	if st := w.Stats(); st.Dirty != 0 {
		t.Errorf("%d bytes still dirty", st.Dirty)
	}
	w.release(id, fh)
	w.end()
}

// Only bytes that were written are written back: nothing is read for them, and
// what lies between them is not touched.
func TestOnlyWrittenBytesAreWrittenBack(t *testing.T) {
	w := newWriteback(t, newDisk(bytes.Repeat([]byte("."), 10_000)), WritableOptions{})
	fh := w.open(2, unix.O_WRONLY)
	w.write(2, fh, 3, "abc")
	w.write(2, fh, 5000, "def")
	w.write(2, fh, 12_000, "end")
	if s := w.flushRPC(2, fh); !s.Ok() {
		t.Fatal(s)
	}
	if want := []extent{{3, 6}, {5000, 5003}, {12_000, 12_003}}; !slices.Equal(w.d.writes, want) || w.d.reads != 0 {
		t.Errorf("writes %v, %d reads, want %v", w.d.writes, w.d.reads, want)
	}
	want := bytes.Repeat([]byte("."), 10_000)
	copy(want[3:], "abc")
	copy(want[5000:], "def")
	want = append(append(want, make([]byte, 2000)...), "end"...)
	w.wantDisk(2, string(want))
	ro := w.open(2, unix.O_RDONLY)
	w.wantRead(2, ro, string(want))
	w.release(2, ro)
	w.release(2, fh)
	w.end()
}

func TestWhatFlushesDirtyData(t *testing.T) {
	for name, do := range map[string]func(w *writable, id, fh uint64){
		"flush":   func(w *writable, id, fh uint64) { w.flushRPC(id, fh) },
		"fsync":   func(w *writable, id, fh uint64) { w.fsync(id, fh) },
		"release": func(w *writable, id, fh uint64) { w.release(id, fh) },
		"unmount": func(w *writable, id, fh uint64) { w.OnUnmount() },
		"getattr": func(w *writable, id, fh uint64) {
			var out fuse.AttrOut
			if s := w.GetAttr(nil, &fuse.GetAttrIn{InHeader: fuse.InHeader{NodeId: id}, Flags_: fuse.FUSE_GETATTR_FH, Fh_: fh}, &out); !s.Ok() || out.Size != 5 {
				w.t.Errorf("size %d, %v", out.Size, s)
			}
		},
		"chmod": func(w *writable, id, fh uint64) {
			in := fuse.SetAttrIn{SetAttrInCommon: fuse.SetAttrInCommon{InHeader: fuse.InHeader{NodeId: id}, Valid: fuse.FATTR_MODE}}
			var out fuse.AttrOut
			if s := w.SetAttr(nil, &in, &out); !s.Ok() || out.Size != 5 {
				w.t.Errorf("size %d, %v", out.Size, s)
			}
		},
		"lseek": func(w *writable, id, fh uint64) {
			w.Lseek(nil, &fuse.LseekIn{InHeader: fuse.InHeader{NodeId: id}, Fh: fh}, new(fuse.LseekOut))
		},
		"fallocate": func(w *writable, id, fh uint64) {
			in := fuse.FallocateIn{InHeader: fuse.InHeader{NodeId: id}, Fh: fh, Length: 3}
			if s := w.Fallocate(nil, &in); !s.Ok() {
				w.t.Error(s)
			}
		},
		"age":    func(w *writable, id, fh uint64) { w.flushAll(time.Now().Add(time.Minute)) },
		"memory": func(w *writable, id, fh uint64) { w.SetBudget(0); w.flushHalf() },
	} {
		t.Run(name, func(t *testing.T) {
			w := newWriteback(t, newDisk(), WritableOptions{})
			id, fh := w.create()
			w.write(id, fh, 0, "hello")
			w.flushAll(time.Now().Add(-time.Hour)) // it is not that old
			if len(w.d.writes) != 0 {
				t.Fatal("written back at once")
			}
			do(w, id, fh)
			w.wantDisk(id, "hello")
			if i, j := slices.Index(w.d.ops, "WRITE"), slices.Index(w.d.ops, "RELEASE"); j >= 0 && j < i {
				t.Errorf("%v", w.d.ops)
			}
			switch name {
			case "unmount":
				w.release(id, fh)
			case "release":
				w.end()
			default:
				w.release(id, fh)
				w.end()
			}
		})
	}
}

func TestSizesIncludeDirtyData(t *testing.T) {
	w := newWriteback(t, newDisk([]byte("12"), []byte("other")), WritableOptions{})
	w.d.child = map[string]uint64{"f": 2}
	fh := w.open(2, unix.O_RDWR)
	w.write(2, fh, 100, "x")
	var entry fuse.EntryOut
	if s := w.Lookup(nil, &fuse.InHeader{NodeId: 1}, "f", &entry); !s.Ok() || entry.Size != 101 {
		t.Errorf("lookup: size %d, %v", entry.Size, s)
	}
	list := fuse.NewDirEntryList(make([]byte, 4096), 0)
	if s := w.ReadDirPlus(nil, &fuse.ReadIn{InHeader: fuse.InHeader{NodeId: 1}}, list); !s.Ok() {
		t.Fatal(s)
	}
	_, outs, err := fuse.ParseDirLookupEntries(list.Bytes())
	if err != nil || len(outs) != 2 || outs[0].Size != 101 || outs[1].Size != 5 {
		t.Errorf("readdirplus: %+v, %v", outs, err)
	}
	if len(w.d.writes) != 0 {
		t.Error("listing a directory writes files back")
	}
	w.release(2, fh)
	w.end()
}

// A write-back that fails is tried again at any time: here when the server has just
// answered with the size that it had before.
func TestSizeWhileDirtyDataIsWrittenBack(t *testing.T) {
	w := newWritable(t, newDisk(nil), WritableOptions{WriteBack: true})
	fh := w.open(2, unix.O_RDWR)
	w.write(2, fh, 0, "hello")
	w.d.fail = func(op string) fuse.Status {
		if op == "WRITE" {
			w.d.fail = nil
			return enospc
		}
		return fuse.OK
	}
	w.d.told = func() {
		w.d.told = nil
		w.flushAll(time.Time{})
	}
	var out fuse.AttrOut
	if s := w.GetAttr(nil, &fuse.GetAttrIn{InHeader: fuse.InHeader{NodeId: 2}}, &out); !s.Ok() || out.Size != 5 {
		t.Errorf("size %d, %v, want 5", out.Size, s)
	}
	w.wantDisk(2, "hello")
	w.release(2, fh)
	w.end()
}

func TestTruncateDropsDirtyData(t *testing.T) {
	w := newWriteback(t, newDisk(), WritableOptions{})
	id, fh := w.create()
	w.write(id, fh, 0, "0123456789")
	w.d.fail = func(op string) fuse.Status { // it cannot be written
		if op == "WRITE" {
			return enospc
		}
		return fuse.OK
	}
	w.setSize(id, 4)
	w.wantRead(id, fh, "0123")
	w.setSize(id, 6)
	w.wantRead(id, fh, "0123\x00\x00")
	w.d.fail = nil
	w.flush(w.inodes[id])
	w.wantDisk(id, "0123\x00\x00")
	trunc := w.open(id, unix.O_RDWR|unix.O_TRUNC)
	w.wantRead(id, trunc, "")
	w.wantDisk(id, "")
	w.release(id, fh)
	w.release(id, trunc)
	w.end()
}

func TestDirtyBytesAreBounded(t *testing.T) {
	w := newWriteback(t, newDisk(), WritableOptions{MaxDirty: 10_000})
	var ids, fhs []uint64
	for range 5 {
		id, fh := w.create()
		ids, fhs = append(ids, id), append(fhs, fh)
	}
	for i := range 200 {
		w.write(ids[i%5], fhs[i%5], i*1000, strings.Repeat("d", 1000))
		if n := w.Stats().Dirty; n > 10_000 {
			t.Fatalf("%d dirty bytes", n)
		}
	}
	w.write(ids[0], fhs[0], 0, strings.Repeat("D", 10_001)) // more than can ever wait
	if got := w.d.get(ids[0])[:10_001]; !bytes.Equal(got, bytes.Repeat([]byte("D"), 10_001)) {
		t.Error("a write larger than the bound has not reached the server")
	}
	for i, id := range ids {
		w.release(id, fhs[i])
	}
	w.end()
}

func TestScatteredWritesAreBounded(t *testing.T) {
	for _, back := range []bool{false, true} {
		w := newWritable(t, newDisk(make([]byte, 30_000)), WritableOptions{WriteBack: back, FillLimit: 1})
		fh := w.open(2, unix.O_RDWR)
		n := w.inodes[2]
		for off := 0; off < 20_000; off += 2 {
			w.write(2, fh, off, "x")
			if len(n.valid) > 3*maxExtents || len(n.dirty) > maxExtents {
				t.Fatalf("%d and %d extents", len(n.valid), len(n.dirty))
			}
		}
		w.wantRead(2, fh, strings.Repeat("x\x00", 10_000)+strings.Repeat("\x00", 10_000))
		w.release(2, fh)
		w.wantDisk(2, strings.Repeat("x\x00", 10_000)+strings.Repeat("\x00", 10_000))
		w.end()
	}
}

// A failed write-back is reported once to each handle that was open, wherever it
// is used next, and nothing is forgotten.
func TestFailedWriteBack(t *testing.T) {
	for _, by := range []string{"write", "flush", "fsync"} {
		t.Run(by, func(t *testing.T) {
			d := newDisk()
			w := newWriteback(t, d, WritableOptions{})
			id, first := w.create()
			second := w.open(id, unix.O_RDWR)
			w.write(id, first, 0, "precious")
			d.fail = func(op string) fuse.Status {
				if op == "WRITE" {
					return enospc
				}
				return fuse.OK
			}
			w.flushAll(time.Time{})
			w.flushAll(time.Time{}) // tried again: the same failure
			if w.Stats().Dirty != 8 {
				t.Error("the data counts as clean")
			}
			w.wantRead(id, second, "precious")
			d.fail = nil
			use := func(fh uint64) fuse.Status {
				switch by {
				case "write":
					_, s := w.tryWrite(id, fh, 8, []byte("!"))
					return s
				case "flush":
					return w.flushRPC(id, fh)
				}
				return w.fsync(id, fh)
			}
			for _, fh := range []uint64{first, second} {
				if s := use(fh); s != enospc {
					t.Errorf("first %s: %v, want ENOSPC", by, s)
				}
				if s := use(fh); !s.Ok() {
					t.Errorf("second %s: %v", by, s)
				}
			}
			late := w.open(id, unix.O_RDWR)
			if s := use(late); !s.Ok() {
				t.Errorf("%s through a handle that was opened later: %v", by, s)
			}
			for _, fh := range []uint64{first, second, late} {
				w.release(id, fh)
			}
			want := "precious"
			if by == "write" {
				want += "!"
			}
			w.wantDisk(id, want)
			w.end()
		})
	}
}

func TestErrorNobodyWasToldOfIsForTheNextHandle(t *testing.T) {
	d := newDisk()
	w := newWriteback(t, d, WritableOptions{})
	id, fh := w.create()
	w.write(id, fh, 0, "data")
	d.fail = func(op string) fuse.Status {
		if op == "WRITE" {
			return eio
		}
		return fuse.OK
	}
	w.release(id, fh) // without FLUSH
	if len(d.open) != 1 {
		t.Error("the server's file was closed with data to be written")
	}
	d.fail = nil
	next := w.open(id, unix.O_RDONLY)
	w.wantRead(id, next, "data")
	if s := w.flushRPC(id, next); s != eio {
		t.Errorf("got %v, want EIO", s)
	}
	w.wantDisk(id, "data")
	w.release(id, next)
	w.end()
}

func TestFailedFsyncIsReportedToOtherHandles(t *testing.T) {
	d := newDisk([]byte("x"))
	w := newWritable(t, d, WritableOptions{})
	first, second := w.open(2, unix.O_RDWR), w.open(2, unix.O_RDWR)
	d.fail = func(op string) fuse.Status {
		if op == "FSYNC" {
			return eio
		}
		return fuse.OK
	}
	if s := w.fsync(2, first); s != eio {
		t.Errorf("fsync: %v", s)
	}
	d.fail = nil
	if s := w.fsync(2, first); !s.Ok() {
		t.Errorf("fsync again: %v", s)
	}
	if s := w.flushRPC(2, second); s != eio {
		t.Errorf("flush of the other handle: %v", s)
	}
	if s := w.flushRPC(2, second); !s.Ok() {
		t.Errorf("flush again: %v", s)
	}
	w.release(2, first)
	w.release(2, second)
	w.end()
}

// While write-back fails, applications get the error of their own writes.
func TestFullServer(t *testing.T) {
	d := newDisk()
	d.noSpace = 6
	w := newWriteback(t, d, WritableOptions{})
	id, fh := w.create()
	w.write(id, fh, 0, "0123456789")
	if s := w.flushRPC(id, fh); s != enospc {
		t.Errorf("flush: %v", s)
	}
	w.wantDisk(id, "012345")
	for range 2 {
		if n, s := w.tryWrite(id, fh, 10, []byte("more")); s != enospc || n != 0 {
			t.Errorf("write: %d, %v", n, s)
		}
	}
	w.wantRead(id, fh, "0123456789") // nothing acknowledged is gone
	d.noSpace = 0
	w.write(id, fh, 10, "more")
	if s := w.fsync(id, fh); !s.Ok() {
		t.Errorf("fsync: %v", s)
	}
	w.wantDisk(id, "0123456789more")
	w.write(id, fh, 0, "x")
	if w.Stats().Dirty != 1 {
		t.Error("writes do not wait again once there is room")
	}
	w.release(id, fh)
	w.end()
}

func TestLossAtUnmountIsLogged(t *testing.T) {
	d := newDisk()
	var log bytes.Buffer
	w := newWriteback(t, d, WritableOptions{Log: slog.New(slog.NewTextHandler(&log, nil))})
	id, fh := w.create()
	w.write(id, fh, 0, "doomed")
	d.fail = func(op string) fuse.Status {
		if op == "WRITE" {
			return eio
		}
		return fuse.OK
	}
	if s := w.flushRPC(id, fh); s != eio {
		t.Errorf("flush: %v", s)
	}
	w.release(id, fh)
	w.end()
	if !strings.Contains(log.String(), "bytes=6") || !strings.Contains(log.String(), "node=2") {
		t.Errorf("the log says %q", log.String())
	}
}

func TestInvalidationKeepsDirtyData(t *testing.T) {
	w := newWriteback(t, newDisk([]byte("0123456789")), WritableOptions{})
	fh := w.open(2, unix.O_RDWR)
	w.wantRead(2, fh, "0123456789")
	w.write(2, fh, 3, "ABC")
	w.d.set(2, []byte("abcdefghij"))
	w.InvalInode(2, 0, 0)
	w.wantRead(2, fh, "abcABCghij")
	w.release(2, fh)
	w.wantDisk(2, "abcABCghij")
	w.end()
}

func TestServerFlags(t *testing.T) {
	for _, back := range []bool{false, true} {
		d := newDisk([]byte("12345"))
		d.fopen = fuse.FOPEN_NOFLUSH
		w := newWritable(t, d, WritableOptions{WriteBack: back})
		var out fuse.OpenOut
		if s := w.Open(nil, &fuse.OpenIn{InHeader: fuse.InHeader{NodeId: 2}, Flags: unix.O_WRONLY | unix.O_APPEND}, &out); !s.Ok() {
			t.Fatal(s)
		}
		// The server would append what is written back, whatever its offset.
		if got := d.open[d.last]&unix.O_APPEND == 0; got != back {
			t.Errorf("write-back %v: O_APPEND removed: %v", back, got)
		}
		// The server needs no FLUSH, but we do.
		if got := out.OpenFlags&fuse.FOPEN_NOFLUSH == 0; got != back {
			t.Errorf("write-back %v: NOFLUSH removed: %v", back, got)
		}
		w.write(2, out.Fh, 5, "6")
		if s := w.flushRPC(2, out.Fh); !s.Ok() {
			t.Error(s)
		}
		w.wantDisk(2, "123456")
		if slices.Contains(d.ops, "FLUSH") {
			t.Error("the server got a FLUSH")
		}
		w.release(2, out.Fh)
		w.end()
	}
}
