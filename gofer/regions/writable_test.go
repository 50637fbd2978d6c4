// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package regions

import (
	"bytes"
	"math/rand"
	"strings"
	"testing"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

func randomBytes(n int) []byte {
	b := make([]byte, n)
	rand.New(rand.NewSource(int64(n))).Read(b)
	return b
}

// eventually waits for something that happens in the background.
func eventually(t *testing.T, what string, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !done(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("timed out: %s", what)
		}
	}
}

func TestWrittenFileIsServedFromMemory(t *testing.T) {
	w := newWritable(t, newDisk(), WritableOptions{})
	id, fh := w.create()
	w.write(id, fh, 0, "hello ")
	w.write(id, fh, 10, "there")
	const want = "hello \x00\x00\x00\x00there"
	w.wantRead(id, fh, want)
	w.wantDisk(id, want)
	w.release(id, fh)

	fh = w.open(id, unix.O_RDONLY)
	w.wantRead(id, fh, want)
	fd := w.lend(id, fh)
	if got := contents(t, fd); got != want {
		t.Errorf("the region holds %q, want %q", got, want)
	}
	if w.d.reads != 0 {
		t.Errorf("%d reads of what was written here", w.d.reads)
	}
	// Its holder cannot change it.
	if _, err := unix.Pwrite(fd, []byte("x"), 0); err != unix.EBADF {
		t.Errorf("write: got %v, want EBADF", err)
	}
	if err := unix.Ftruncate(fd, 0); err != unix.EINVAL {
		t.Errorf("ftruncate: got %v, want EINVAL", err)
	}
	if _, err := unix.Mmap(fd, 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED); err != unix.EACCES {
		t.Errorf("writable mapping: got %v, want EACCES", err)
	}
	w.release(id, fh)
	w.Return(id)
	w.end()
}

// A client that opened a file for reading and then opens it for writing closes
// the first handle but goes on reading from the descriptor it came with.
func TestRegionFollowsTheFileUntilItIsReturned(t *testing.T) {
	page := strings.Repeat("p", 4096)
	w := newWritable(t, newDisk([]byte(page+"hello world")), WritableOptions{})
	fh := w.open(2, unix.O_RDONLY)
	fd := w.lend(2, fh)
	m, err := unix.Mmap(fd, 0, 8192, unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Munmap(m)
	rw := w.open(2, unix.O_RDWR)
	w.release(2, fh)
	w.SetBudget(0) // it is not given up

	check := func(want string) {
		t.Helper()
		w.wantDisk(2, want)
		if got := contents(t, fd); got != want {
			t.Errorf("the region holds %.20q…%q, want …%q", got, got[min(len(got), 4096):], want[min(len(want), 4096):])
		}
		if len(want) > 4096 && string(m[:len(want)]) != want {
			t.Errorf("the mapping shows …%q, want …%q", m[4096:len(want)], want[4096:])
		}
		for i := len(want); i < (len(want)+4095)&^4095; i++ {
			if m[i] != 0 {
				t.Fatalf("byte %d, behind the end, is %#x", i, m[i])
			}
		}
		w.wantRead(2, rw, want)
	}
	check(page + "hello world")
	w.write(2, rw, 4096+6, "there!!")
	check(page + "hello there!!")
	w.setSize(2, 4096+5)
	check(page + "hello")
	w.setSize(2, 4096+8)
	check(page + "hello\x00\x00\x00")
	w.setSize(2, 100)
	check(page[:100])
	w.setSize(2, 4100)
	check(page[:100] + strings.Repeat("\x00", 4000))
	w.write(2, rw, 0, page)
	check(page + "\x00\x00\x00\x00")
	fallocate := func(mode uint32, off, n uint64) {
		t.Helper()
		in := fuse.FallocateIn{InHeader: fuse.InHeader{NodeId: 2}, Fh: rw, Mode: mode, Offset: off, Length: n}
		if s := w.Fallocate(nil, &in); !s.Ok() {
			t.Fatal(s)
		}
	}
	fallocate(unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 10, 4090)
	check(page[:10] + strings.Repeat("\x00", 4090))
	fallocate(0, 4000, 200)
	check(page[:10] + strings.Repeat("\x00", 4190))
	fallocate(unix.FALLOC_FL_KEEP_SIZE, 4000, 2000)
	check(page[:10] + strings.Repeat("\x00", 4190))
	in := fuse.CopyFileRangeIn{InHeader: fuse.InHeader{NodeId: 2}, FhIn: rw, NodeIdOut: 2, FhOut: rw, OffOut: 4196, Len: 8}
	if n, s := w.CopyFileRange(nil, &in); n != 8 || !s.Ok() {
		t.Fatal(n, s)
	}
	check(page[:10] + strings.Repeat("\x00", 4186) + page[:8])
	trunc := w.open(2, unix.O_RDWR|unix.O_TRUNC)
	check("")
	w.write(2, trunc, 2, "new")
	check("\x00\x00new")

	w.release(2, rw)
	w.release(2, trunc)
	if st := w.Stats(); st.DonatedFiles != 1 || st.Evictions != 0 {
		t.Errorf("got %+v, want the region kept while the client has it", st)
	}
	w.Return(2)
	if st := w.Stats(); st.Resident != 0 {
		t.Errorf("got %+v without a budget", st)
	}
	w.end()
}

func TestFailedAndShortWrites(t *testing.T) {
	for _, lent := range []bool{false, true} {
		w := newWritable(t, newDisk([]byte("0123456789")), WritableOptions{})
		fh := w.open(2, unix.O_RDWR)
		ro := w.open(2, unix.O_RDONLY)
		fd := -1
		if lent {
			fd = w.lend(2, ro)
		}
		w.wantRead(2, fh, "0123456789")
		check := func() {
			t.Helper()
			want := string(w.d.get(2))
			w.wantRead(2, fh, want)
			if lent {
				if got := contents(t, fd); got != want {
					t.Errorf("the region holds %q, want %q", got, want)
				}
			}
		}
		w.d.cut = 3
		if n, s := w.tryWrite(2, fh, 0, []byte("abcdef")); n != 3 || !s.Ok() {
			t.Errorf("short write: %d, %v", n, s)
		}
		check()
		w.d.cut = 0
		// The server does part of it and fails.
		w.d.fail = func(op string) fuse.Status {
			if op != "WRITE" {
				return fuse.OK
			}
			w.d.fail = nil
			w.d.files[0] = []byte("abcXX56789 and more")
			return fuse.EIO
		}
		if n, s := w.tryWrite(2, fh, 3, []byte("XXXX")); n != 0 || s != fuse.EIO {
			t.Errorf("failing write: %d, %v", n, s)
		}
		check()
		w.d.fail = func(op string) fuse.Status {
			if op != "SETATTR" {
				return fuse.OK
			}
			w.d.fail = nil
			w.d.files[0] = []byte("abc")
			return fuse.EIO
		}
		if s := w.trySetSize(2, 2); s != fuse.EIO {
			t.Errorf("failing truncate: %v", s)
		}
		check()
		w.release(2, fh)
		w.release(2, ro)
		if lent {
			w.Return(2)
		}
		w.end()
	}
}

func TestChangesElsewhereAreFound(t *testing.T) {
	w := newWritable(t, newDisk([]byte("first"), []byte("first")), WritableOptions{})
	for range 2 {
		fh := w.open(2, unix.O_RDONLY)
		w.wantRead(2, fh, "first")
		w.release(2, fh)
	}
	if w.d.reads != 1 {
		t.Errorf("%d reads of a file that did not change", w.d.reads)
	}
	w.d.set(2, []byte("2nd"))
	fh := w.open(2, unix.O_RDONLY)
	w.wantRead(2, fh, "2nd")

	// Our own changes are not somebody else's.
	rw := w.open(2, unix.O_RDWR)
	w.write(2, rw, 0, "own")
	reads := w.d.reads
	again := w.open(2, unix.O_RDONLY)
	w.wantRead(2, again, "own")
	if w.d.reads != reads {
		t.Error("what was written here was read again")
	}
	for _, fh := range []uint64{fh, rw, again} {
		w.release(2, fh)
	}

	// A client that holds the region sees them, too: at the next open …
	ro := w.open(3, unix.O_RDONLY)
	fd := w.lend(3, ro)
	w.d.set(3, []byte("longer than the first"))
	next := w.open(3, unix.O_RDONLY)
	want(t, fd, "longer than the first")
	// … or when the server says so.
	w.d.set(3, []byte("told"))
	w.InvalInode(3, 0, 0)
	eventually(t, "the region changes", func() bool { return contents(t, fd) == "told" })
	w.release(3, ro)
	w.release(3, next)
	w.Return(3)
	w.end()
}

func TestKeepCache(t *testing.T) {
	d := newDisk([]byte("first"))
	d.fopen = fuse.FOPEN_KEEP_CACHE
	w := newWritable(t, d, WritableOptions{})
	w.release(2, w.open(2, unix.O_RDONLY))
	d.set(2, []byte("other"))
	fh := w.open(2, unix.O_RDONLY)
	w.wantRead(2, fh, "first") // the server said that the cache is right
	w.release(2, fh)
	w.autoInval = true // and it agreed to FUSE_AUTO_INVAL_DATA
	fh = w.open(2, unix.O_RDONLY)
	w.wantRead(2, fh, "other")
	w.release(2, fh)
	w.end()
}

func TestNotifications(t *testing.T) {
	w := newWritable(t, newDisk([]byte("0123456789")), WritableOptions{FillLimit: 1})
	fh := w.open(2, unix.O_RDWR)
	w.wantRead(2, fh, "0123456789")
	w.d.set(2, []byte("abcdefghij"))
	w.InvalInode(2, 3, 2) // this range and no more
	w.wantRead(2, fh, "012de56789")
	w.InvalInode(2, 8, -1) // to the end
	w.wantRead(2, fh, "012de567ij")

	if got, s := w.Retrieve(2, 6, 100); string(got) != "67ij" || !s.Ok() {
		t.Errorf("retrieve: %q, %v", got, s)
	}
	w.InvalInode(2, 8, 1)
	if got, s := w.Retrieve(2, 6, 100); string(got) != "67" || !s.Ok() {
		t.Errorf("retrieve: %q, %v", got, s)
	}
	for _, off := range []uint64{8, 100, 1 << 63} {
		if got, s := w.Retrieve(2, off, 100); len(got) != 0 || !s.Ok() {
			t.Errorf("retrieve at %d: %q, %v", off, got, s)
		}
	}
	w.InvalInode(99, 0, 0)
	w.release(2, fh)
	w.end()
}

// A notification that comes while a request for the file is under way must not
// wait for it, and what the request brings is old already.
func TestNotificationDuringARequest(t *testing.T) {
	for _, op := range []string{"READ", "WRITE"} {
		d := newDisk([]byte("old data"))
		w := newWritable(t, d, WritableOptions{FillLimit: 1})
		fh := w.open(2, unix.O_RDWR)
		d.enter = func(got string) {
			if got != op {
				return
			}
			d.enter = nil
			w.InvalInode(2, 0, 0)
			w.Retrieve(2, 0, 10)
		}
		if op == "WRITE" {
			w.write(2, fh, 0, "new")
		} else {
			// The reader gets what the server has at some time after its request.
			d.enter = func(string) { d.enter = nil; w.InvalInode(2, 0, 0); d.set(2, []byte("new data")) }
		}
		w.wantRead(2, fh, "new data")
		w.release(2, fh)
		w.end()
	}

	// It comes when the data is on its way.
	d := newDisk([]byte("old data"))
	w := newWritable(t, d, WritableOptions{FillLimit: 1})
	fh := w.open(2, unix.O_RDWR)
	d.leave = func() { d.leave = nil; d.set(2, []byte("new data")); w.InvalInode(2, 0, 0) }
	w.wantRead(2, fh, "new data") // it is known to be old before it is returned
	w.release(2, fh)
	w.end()
}

func TestDirectFilesPassThrough(t *testing.T) {
	for _, flag := range []uint32{fuse.FOPEN_DIRECT_IO, fuse.FOPEN_NONSEEKABLE, fuse.FOPEN_STREAM} {
		for _, back := range []bool{false, true} {
			d := newDisk([]byte("0123456789"))
			w := newWritable(t, d, WritableOptions{WriteBack: back})
			cached := w.open(2, unix.O_RDWR)
			d.fopen = flag
			fh := w.open(2, unix.O_RDWR)
			for i := range 3 {
				reads := d.reads
				w.wantRead(2, fh, "0123456789")
				if d.reads != reads+1 {
					t.Errorf("read %d: %d requests", i, d.reads-reads)
				}
			}
			w.write(2, fh, 2, "direct")
			w.wantDisk(2, "01direct89")
			w.wantRead(2, cached, "01direct89")
			w.write(2, cached, 0, "cached")
			w.wantRead(2, fh, "cachedct89")
			if _, ok := w.Donate(2, fh); ok {
				t.Error("a direct file was handed out")
			}
			w.release(2, fh)
			w.release(2, cached)
			w.end()
		}
	}
}

func TestWritableReadsInLargeAlignedPieces(t *testing.T) {
	const size = 10<<20 + 123
	d := newDisk(randomBytes(size))
	w := newWritable(t, d, WritableOptions{BackgroundLimit: 1})
	fh := w.open(2, unix.O_RDONLY)
	for off := 0; off < size; off += 100_000 {
		want := d.files[0][off:min(off+100_000, size)]
		if got, s := w.tryRead(2, fh, off, 100_000); !s.Ok() || !bytes.Equal(got, want) {
			t.Fatalf("wrong data at %d: %v", off, s)
		}
	}
	if n := d.reads; n > 60 {
		t.Errorf("%d requests for a stream of %d bytes", n, size)
	}
	w.release(2, fh)
	w.SetBudget(0)
	w.SetBudget(64 << 20)

	fh = w.open(2, unix.O_RDONLY)
	before := w.Stats().BytesFilled
	r := rand.New(rand.NewSource(3))
	for range 30 {
		off := r.Intn(size - 4096)
		if got, s := w.tryRead(2, fh, off, 4096); !s.Ok() || !bytes.Equal(got, d.files[0][off:off+4096]) {
			t.Fatalf("wrong data at %d: %v", off, s)
		}
	}
	if n := w.Stats().BytesFilled - before; n > 30*2*randomFill {
		t.Errorf("%d bytes fetched for 30 random reads", n)
	}
	w.release(2, fh)
	w.end()
}

func TestLargeFileIsFilledForTheNextOpen(t *testing.T) {
	d := newDisk(randomBytes(3 << 20))
	w := newWritable(t, d, WritableOptions{})
	gate := make(chan struct{})
	d.enter = func(op string) {
		if op == "READ" {
			<-gate
		}
	}
	first := w.open(2, unix.O_RDONLY)
	if _, ok := w.Donate(2, first); ok {
		t.Error("it was complete at once")
	}
	close(gate)
	eventually(t, "the file is complete", func() bool {
		fh := w.open(2, unix.O_RDONLY)
		fd, ok := w.Donate(2, fh)
		w.release(2, fh)
		if ok {
			if !bytes.Equal([]byte(contents(t, fd)), d.files[0]) {
				t.Error("wrong data")
			}
			unix.Close(fd)
			w.Return(2)
		}
		return ok
	})
	w.release(2, first)
	w.end()
}

// Zeros cost no memory, and a server that returns less than the size says is at
// its end.
func TestHolesAndShortReads(t *testing.T) {
	sparse := make([]byte, 8<<20)
	copy(sparse[5<<20:], "data")
	d := newDisk(sparse)
	w := newWritable(t, d, WritableOptions{FillLimit: 16 << 20})
	fh := w.open(2, unix.O_RDONLY)
	fd := w.lend(2, fh)
	if !bytes.Equal([]byte(contents(t, fd)), sparse) {
		t.Error("wrong data")
	}
	if st := w.Stats(); st.Resident > 2<<20 {
		t.Errorf("%d bytes for a file of zeros", st.Resident)
	}
	w.release(2, fh)
	w.Return(2)

	id, rw := w.create()
	w.write(id, rw, 100<<20, "far") // in the region this is a hole, too
	if got, s := w.tryRead(id, rw, 100<<20-3, 10); !s.Ok() || string(got) != "\x00\x00\x00far" {
		t.Errorf("got %q, %v", got, s)
	}
	w.release(id, rw)
	fh = w.open(id, unix.O_RDONLY)
	if _, ok := w.Donate(id, fh); ok {
		t.Error("a client got holes that it could fill with more than the budget")
	}
	w.release(id, fh)
	w.end()
}

// What is read again takes the place of what was there, though it be zeros or
// nothing.
func TestZerosReplaceOldData(t *testing.T) {
	d := newDisk(bytes.Repeat([]byte("x"), 1000))
	w := newWritable(t, d, WritableOptions{FillLimit: 1})
	fh := w.open(2, unix.O_RDWR)
	w.wantRead(2, fh, strings.Repeat("x", 1000))
	d.set(2, make([]byte, 1000))
	w.InvalInode(2, 0, 0)
	w.wantRead(2, fh, strings.Repeat("\x00", 1000))
	w.write(2, fh, 0, strings.Repeat("y", 1000))
	d.set(2, []byte("short")) // it has said 1000
	w.InvalInode(2, 0, 0)
	w.wantRead(2, fh, "short"+strings.Repeat("\x00", 995))
	w.release(2, fh)
	w.end()
}

func TestReadByRequestGoesFirst(t *testing.T) {
	d := newDisk(randomBytes(50_000), randomBytes(50_000), randomBytes(50_000))
	w := newWritable(t, d, WritableOptions{Budget: 1 << 20})
	for id := uint64(2); id < 5; id++ {
		fh := w.open(id, unix.O_RDONLY)
		if id == 4 { // the one used last
			w.tryRead(id, fh, 0, 50_000)
		}
		w.release(id, fh)
	}
	w.mu.Lock()
	for _, n := range w.inodes {
		n.used = false
	}
	w.mu.Unlock()
	w.SetBudget(w.Stats().Resident - 1)
	if st := w.Stats(); st.Files != 2 || st.Evictions != 1 {
		t.Fatalf("%+v", st)
	}
	if w.inodes[4] != nil {
		t.Error("what a client has read and keeps itself was kept")
	}
	w.end()
}

func TestWritableClientsHoldNoMoreThanTheBudget(t *testing.T) {
	big := make([]byte, 100_000)
	w := newWritable(t, newDisk(big, big, big), WritableOptions{Budget: 250_000})
	got := 0
	for id := uint64(2); id < 5; id++ {
		fh := w.open(id, unix.O_RDONLY)
		if fd, ok := w.Donate(id, fh); ok {
			got++
			unix.Close(fd)
			defer w.Return(id)
		}
		w.release(id, fh)
	}
	if got != 2 { // zeros or not: a client could fill them
		t.Errorf("%d files of 100,000 bytes handed out with a budget of 250,000", got)
	}
}

// As long as a file is not forgotten its server may keep its blocks.
func TestRemovedFileIsForgotten(t *testing.T) {
	d := newDisk([]byte("kept"), []byte("removed"))
	d.child = map[string]uint64{"kept": 2, "removed": 3}
	w := newWritable(t, d, WritableOptions{})
	for id := uint64(2); id < 4; id++ {
		w.release(id, w.open(id, unix.O_RDONLY))
		w.Forget(id, 3)
	}
	if d.forgets != 0 {
		t.Error("forgotten while the data is kept")
	}
	fh := w.open(3, unix.O_RDONLY)
	if s := w.Unlink(nil, &fuse.InHeader{NodeId: 1}, "removed"); !s.Ok() {
		t.Fatal(s)
	}
	w.wantRead(3, fh, "removed")
	w.release(3, fh)
	if d.forgets != 3 || w.Stats().Files != 1 {
		t.Errorf("%d lookups forgotten, %d files kept", d.forgets, w.Stats().Files)
	}
	w.end()
	if d.forgets != 6 {
		t.Errorf("%d lookups forgotten in the end", d.forgets)
	}
}

// Storing cannot fail once the server has the data: a client would go on reading
// the old.
func TestNoRoomForARegion(t *testing.T) {
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=64k"); err != nil {
		t.Skipf("needs root: %v", err)
	}
	defer unix.Unmount(dir, unix.MNT_DETACH)
	for _, back := range []bool{false, true} {
		d := newDisk([]byte("0123456789"), nil)
		w := newWritable(t, d, WritableOptions{WriteBack: back})
		w.o.Dir = dir
		fh := w.open(2, unix.O_RDONLY)
		fd := w.lend(2, fh)
		rw := w.open(2, unix.O_RDWR)
		data := randomBytes(200_000)
		n, s := w.tryWrite(2, rw, 0, data)
		if back && (n == 0 || !s.Ok()) || !back && s != enospc {
			t.Errorf("write-back %v: %d, %v", back, n, s)
		}
		w.flushRPC(2, rw)
		if got, want := contents(t, fd), string(d.get(2)); got != want {
			t.Errorf("the region has %d bytes, the server %d", len(got), len(want))
		}
		// A file that nobody holds does without.
		other := w.open(3, unix.O_RDWR)
		for off := 0; off < len(data); {
			n, s := w.tryWrite(3, other, off, data[off:])
			if !s.Ok() {
				t.Fatalf("write at %d: %v", off, s)
			}
			off += n
		}
		w.wantRead(3, other, string(data))
		w.release(2, rw)
		w.release(3, other)
		w.release(2, fh)
		w.Return(2)
		if got := d.get(3); !bytes.Equal(got, data) {
			t.Error("the server has other data")
		}
		w.end()
	}
}
