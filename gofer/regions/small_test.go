// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package regions

import (
	"strings"
	"testing"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// isSmall reports whether a file's data is kept without a region.
func (w *writable) isSmall(id uint64) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	n := w.inodes[id]
	return n != nil && n.small != nil
}

// newSmall returns a file that was created, written, and has no region.
func newSmall(t *testing.T, o WritableOptions) (w *writable, id, fh uint64) {
	t.Helper()
	w = newWritable(t, newDisk(), o)
	id, fh = w.create()
	w.write(id, fh, 0, "hello ")
	w.write(id, fh, 6, "world")
	if !w.isSmall(id) {
		t.Fatal("the file has a region")
	}
	return w, id, fh
}

// TestSmallFileGetsARegion does all that needs one, or makes the data useless, and
// compares what is read then.
func TestSmallFileGetsARegion(t *testing.T) {
	large := strings.Repeat("x", maxSmall)
	for _, tc := range []struct {
		what  string
		do    func(t *testing.T, w *writable, id, fh uint64)
		want  string
		reads int // that the server sees
	}{
		{"read", func(t *testing.T, w *writable, id, fh uint64) {}, "hello world", 0},
		{"append", func(t *testing.T, w *writable, id, fh uint64) { w.write(id, fh, 11, "!") }, "hello world!", 0},
		{"append more than is small", func(t *testing.T, w *writable, id, fh uint64) { w.write(id, fh, 11, large) }, "hello world" + large, 0},
		{"write in the middle", func(t *testing.T, w *writable, id, fh uint64) { w.write(id, fh, 0, "J") }, "Jello world", 0},
		{"leave a gap", func(t *testing.T, w *writable, id, fh uint64) { w.write(id, fh, 12, "!") }, "hello world\x00!", 0},
		{"truncate", func(t *testing.T, w *writable, id, fh uint64) { w.setSize(id, 5) }, "hello", 1},
		{"extend", func(t *testing.T, w *writable, id, fh uint64) { w.setSize(id, 12) }, "hello world\x00", 1},
		{"truncate and write", func(t *testing.T, w *writable, id, fh uint64) {
			w.setSize(id, 0)
			w.write(id, fh, 0, "new")
		}, "new", 0},
		{"punch a hole", func(t *testing.T, w *writable, id, fh uint64) {
			in := fuse.FallocateIn{InHeader: fuse.InHeader{NodeId: id}, Fh: fh, Mode: unix.FALLOC_FL_PUNCH_HOLE | unix.FALLOC_FL_KEEP_SIZE, Length: 6}
			if s := w.Fallocate(nil, &in); !s.Ok() {
				t.Fatal(s)
			}
		}, "\x00\x00\x00\x00\x00\x00world", 1},
		{"failed write", func(t *testing.T, w *writable, id, fh uint64) {
			w.d.fail = func(op string) fuse.Status {
				if op != "WRITE" {
					return fuse.OK
				}
				w.d.fail = nil
				w.d.files[id-2] = []byte("HELLO WORLD")
				return fuse.EIO
			}
			if _, s := w.tryWrite(id, fh, 0, []byte("HELLO!")); s != fuse.EIO {
				t.Errorf("failing write: %v", s)
			}
		}, "HELLO WORLD", 1},
		{"changed elsewhere", func(t *testing.T, w *writable, id, fh uint64) {
			w.d.set(id, []byte("HELLO WORLD"))
			w.InvalInode(id, 0, 0)
		}, "HELLO WORLD", 1},
		{"no room for a region", func(t *testing.T, w *writable, id, fh uint64) {
			dir := w.o.Dir
			w.o.Dir = "/nowhere"
			w.write(id, fh, 0, "J")
			w.o.Dir = dir
		}, "Jello world", 1},
		{"evict", func(t *testing.T, w *writable, id, fh uint64) {
			w.SetBudget(0)
			w.SetBudget(1 << 20)
		}, "hello world", 1},
	} {
		t.Run(tc.what, func(t *testing.T) {
			w, id, fh := newSmall(t, WritableOptions{})
			tc.do(t, w, id, fh)
			w.wantDisk(id, tc.want)
			w.wantRead(id, fh, tc.want)
			if w.isSmall(id) {
				t.Error("what was read has no region")
			}
			if w.d.reads != tc.reads {
				t.Errorf("the server saw %d reads, want %d", w.d.reads, tc.reads)
			}
			w.release(id, fh)
			w.end()
		})
	}
}

func TestSmallFileIsDonated(t *testing.T) {
	w, id, fh := newSmall(t, WritableOptions{})
	w.release(id, fh)
	if st := w.Stats(); st.Files != 1 || st.Resident != minFileCost {
		t.Errorf("got %+v, want one file of %d bytes", st, minFileCost)
	}
	ro := w.open(id, unix.O_RDONLY)
	if got := contents(t, w.lend(id, ro)); got != "hello world" {
		t.Errorf("the region holds %q", got)
	}
	if st := w.Stats(); w.d.reads != 0 || st.Files != 1 || st.Resident != minFileCost {
		t.Errorf("%d reads, %+v, want none and one file of %d bytes", w.d.reads, st, minFileCost)
	}
	w.release(id, ro)
	w.Return(id)
	w.end()
}

func TestSmallFileIsRetrieved(t *testing.T) {
	w, id, fh := newSmall(t, WritableOptions{})
	if got, s := w.Retrieve(id, 6, 100); string(got) != "world" || !s.Ok() {
		t.Errorf("got %q, %v", got, s)
	}
	w.release(id, fh)
	w.end()
}

// Bytes that the server does not have are in a region always.
func TestDirtyFileIsNotSmall(t *testing.T) {
	w := newWritable(t, newDisk(), WritableOptions{WriteBack: true})
	id, fh := w.create()
	w.write(id, fh, 0, "hello")
	if w.isSmall(id) {
		t.Error("a file with dirty data has no region")
	}
	w.release(id, fh)
	w.wantDisk(id, "hello")
	w.end()
}

func TestRemovedSmallFileIsForgotten(t *testing.T) {
	w, id, fh := newSmall(t, WritableOptions{})
	w.d.child = map[string]uint64{"new": id}
	w.child = w.d.Child
	w.release(id, fh)
	w.Forget(id, 1)
	if w.d.forgets != 0 {
		t.Error("forgotten while there is data")
	}
	if s := w.Unlink(nil, &fuse.InHeader{NodeId: 1}, "new"); !s.Ok() {
		t.Fatal(s)
	}
	if w.d.forgets != 1 {
		t.Errorf("%d lookups forgotten after the file was removed, want 1", w.d.forgets)
	}
	w.end()
}
