// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package regions

import (
	"bytes"
	"fmt"
	"math/rand"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// source is a file system of files with known contents: node ID n (from 2 on)
// is files[n-2]. It counts what is open and looked up.
type source struct {
	fuse.RawFileSystem
	files   [][]byte
	flags   uint32 // FOPEN_* of every open
	fail    atomic.Int32
	opens   atomic.Int64
	reads   atomic.Int64
	open    atomic.Int64
	forgets atomic.Int64
	gate    chan struct{} // if not nil, each read takes one
}

func newSource(sizes ...int) *source {
	s := &source{RawFileSystem: fuse.NewDefaultRawFileSystem()}
	r := rand.New(rand.NewSource(7))
	for _, n := range sizes {
		b := make([]byte, n)
		r.Read(b)
		s.files = append(s.files, b)
	}
	return s
}

func (s *source) GetAttr(_ <-chan struct{}, in *fuse.GetAttrIn, out *fuse.AttrOut) fuse.Status {
	out.Attr = fuse.Attr{Mode: syscall.S_IFREG | 0o644, Size: uint64(len(s.files[in.NodeId-2]))}
	return fuse.OK
}

func (s *source) Open(_ <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	s.opens.Add(1)
	s.open.Add(1)
	out.Fh, out.OpenFlags = in.NodeId+1000, s.flags
	return fuse.OK
}

func (s *source) Release(_ <-chan struct{}, in *fuse.ReleaseIn) {
	if in.Fh != in.NodeId+1000 {
		panic(fmt.Sprintf("release of handle %d of node %d", in.Fh, in.NodeId))
	}
	s.open.Add(-1)
}

func (s *source) Read(_ <-chan struct{}, in *fuse.ReadIn, buf []byte) (fuse.ReadResult, fuse.Status) {
	if in.Fh != in.NodeId+1000 {
		panic(fmt.Sprintf("read of handle %d of node %d", in.Fh, in.NodeId))
	}
	s.reads.Add(1)
	if s.gate != nil {
		<-s.gate
	}
	if e := s.fail.Load(); e != 0 {
		return nil, fuse.Status(e)
	}
	b := s.files[in.NodeId-2]
	if in.Offset >= uint64(len(b)) {
		return fuse.ReadResultData(nil), fuse.OK
	}
	return fuse.ReadResultData(buf[:copy(buf, b[in.Offset:])]), fuse.OK
}

func (s *source) Forget(nodeID, n uint64) { s.forgets.Add(int64(n)) }

func openFile(t testing.TB, f *FS, id uint64) uint64 {
	t.Helper()
	var out fuse.OpenOut
	if s := f.Open(nil, &fuse.OpenIn{InHeader: fuse.InHeader{NodeId: id}}, &out); !s.Ok() {
		t.Fatalf("open %d: %v", id, s)
	}
	return out.Fh
}

func release(f *FS, id, fh uint64) {
	f.Release(nil, &fuse.ReleaseIn{InHeader: fuse.InHeader{NodeId: id}, Fh: fh})
}

func read(f *FS, id, fh uint64, off, n int) ([]byte, fuse.Status) {
	buf := make([]byte, n)
	r, s := f.Read(nil, &fuse.ReadIn{InHeader: fuse.InHeader{NodeId: id}, Fh: fh, Offset: uint64(off), Size: uint32(n)}, buf)
	if !s.Ok() {
		return nil, s
	}
	defer r.Done()
	return r.Bytes(buf)
}

// finish checks that nothing is left once everything is closed.
func finish(t *testing.T, f *FS, s *source) {
	t.Helper()
	f.OnUnmount()
	if n := s.open.Load(); n != 0 {
		t.Errorf("%d files of the server are still open", n)
	}
	if st := f.Stats(); st.Resident != 0 || st.Files != 0 || len(f.files) != 0 {
		t.Errorf("left in the cache: %+v, %d files", st, len(f.files))
	}
}

func TestSmallFileIsDonatedAtFirstOpen(t *testing.T) {
	s := newSource(5000)
	f := New(s, Options{Budget: 1 << 20})
	fh := openFile(t, f, 2)
	fd, ok := f.Donate(2, fh)
	if !ok {
		t.Fatal("no region for a small file")
	}
	got := make([]byte, 6000)
	n, err := unix.Pread(fd, got, 0)
	if err != nil || !bytes.Equal(got[:n], s.files[0]) {
		t.Errorf("the region has %d bytes (%v), want the file's %d", n, err, len(s.files[0]))
	}
	// Whoever holds it cannot change it.
	if _, err := unix.Pwrite(fd, []byte("x"), 0); err != unix.EPERM {
		t.Errorf("write to a region: got %v, want EPERM", err)
	}
	if err := unix.Ftruncate(fd, 1); err != unix.EPERM {
		t.Errorf("truncate a region: got %v, want EPERM", err)
	}
	if _, err := unix.Mmap(fd, 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED); err != unix.EPERM {
		t.Errorf("map a region writable: got %v, want EPERM", err)
	}
	if _, ok := f.Donate(2, fh); ok {
		t.Error("the same handle got a second descriptor")
	}

	// It outlives eviction, which does not happen while the client has it.
	f.SetBudget(0)
	if st := f.Stats(); st.DonatedFiles != 1 || st.Evictions != 0 {
		t.Errorf("got %+v, want the donated file kept", st)
	}
	release(f, 2, fh)
	if n, err := unix.Pread(fd, got, 0); n != 5000 || err != nil {
		t.Errorf("after release: read %d, %v", n, err)
	}
	unix.Close(fd)
	finish(t, f, s)
}

func TestReopenCostsNoRequest(t *testing.T) {
	s := newSource(100_000)
	f := New(s, Options{Budget: 1 << 20})
	release(f, 2, openFile(t, f, 2))
	opens, reads := s.opens.Load(), s.reads.Load()
	fh := openFile(t, f, 2)
	if got, st := read(f, 2, fh, 50_000, 1000); !st.Ok() || !bytes.Equal(got, s.files[0][50_000:51_000]) {
		t.Errorf("wrong data: %v", st)
	}
	release(f, 2, fh)
	if s.opens.Load() != opens || s.reads.Load() != reads {
		t.Error("the second open asked the server")
	}
	finish(t, f, s)
}

func TestStreamIsReadAheadInLargeRequests(t *testing.T) {
	const size = 10<<20 + 123
	s := newSource(size)
	f := New(s, Options{Budget: 64 << 20, OpenWait: -1})
	fh := openFile(t, f, 2)
	if _, ok := f.Donate(2, fh); ok {
		t.Fatal("a large file was complete when it was opened")
	}
	for off := 0; off < size; off += 100_000 {
		want := s.files[0][off:min(off+100_000, size)]
		if got, st := read(f, 2, fh, off, 100_000); !st.Ok() || !bytes.Equal(got, want) {
			t.Fatalf("wrong data at %d: %v", off, st)
		}
	}
	f.wg.Wait()
	if n := s.reads.Load(); n > 60 {
		t.Errorf("%d requests for %d bytes", n, size)
	}
	if _, ok := f.Donate(2, fh); !ok {
		t.Error("a file that was read to the end is not complete")
	}
	release(f, 2, fh)
	finish(t, f, s)
}

func TestRandomReadsDoNotFetchMuchMore(t *testing.T) {
	const size = 16 << 20
	s := newSource(size)
	f := New(s, Options{Budget: 64 << 20, OpenWait: -1})
	fh := openFile(t, f, 2)
	r := rand.New(rand.NewSource(3))
	for range 30 {
		off := r.Intn(size - 4096)
		if got, st := read(f, 2, fh, off, 4096); !st.Ok() || !bytes.Equal(got, s.files[0][off:off+4096]) {
			t.Fatalf("wrong data at %d: %v", off, st)
		}
	}
	f.wg.Wait()
	if n := f.Stats().BytesFilled; n > 30*2*randomFill {
		t.Errorf("%d bytes fetched for 30 random reads", n)
	}
	release(f, 2, fh)
	finish(t, f, s)
}

func TestReadersShareAFill(t *testing.T) {
	s := newSource(randomFill)
	s.gate = make(chan struct{})
	f := New(s, Options{Budget: 1 << 20, FillLimit: 1, OpenWait: -1})
	var wg sync.WaitGroup
	for range 10 {
		fh := openFile(t, f, 2)
		wg.Go(func() {
			defer release(f, 2, fh)
			if got, st := read(f, 2, fh, 0, randomFill); !st.Ok() || !bytes.Equal(got, s.files[0]) {
				t.Errorf("wrong data: %v", st)
			}
		})
	}
	s.gate <- struct{}{}
	wg.Wait()
	if n := s.reads.Load(); n != 1 {
		t.Errorf("%d requests, want 1", n)
	}
	finish(t, f, s)
}

func TestErrorsReachTheReaderAndAreNotKept(t *testing.T) {
	s := newSource(1000)
	f := New(s, Options{Budget: 1 << 20})
	s.fail.Store(int32(unix.EIO))
	fh := openFile(t, f, 2)
	if _, ok := f.Donate(2, fh); ok {
		t.Error("a file that could not be read was donated")
	}
	if _, st := read(f, 2, fh, 0, 100); st != fuse.EIO {
		t.Errorf("got %v, want EIO", st)
	}
	s.fail.Store(0)
	if got, st := read(f, 2, fh, 0, 1000); !st.Ok() || !bytes.Equal(got, s.files[0]) {
		t.Errorf("after the error: %v", st)
	}
	release(f, 2, fh)
	finish(t, f, s)
}

func TestDirectIOIsPassedThrough(t *testing.T) {
	s := newSource(1000)
	s.flags = fuse.FOPEN_DIRECT_IO
	f := New(s, Options{Budget: 1 << 20})
	fh := openFile(t, f, 2)
	for i := range 3 {
		if got, st := read(f, 2, fh, 10, 50); !st.Ok() || !bytes.Equal(got, s.files[0][10:60]) {
			t.Errorf("wrong data: %v", st)
		}
		if n := s.reads.Load(); n != int64(i+1) {
			t.Errorf("%d requests after %d reads", n, i+1)
		}
	}
	if _, ok := f.Donate(2, fh); ok {
		t.Error("a FOPEN_DIRECT_IO file was donated")
	}
	release(f, 2, fh)
	finish(t, f, s)
}

func TestClientsHoldNoMoreThanTheBudget(t *testing.T) {
	s := newSource(100_000, 100_000, 100_000)
	f := New(s, Options{Budget: 250_000})
	var fhs []uint64
	got := 0
	for id := uint64(2); id < 5; id++ {
		fh := openFile(t, f, id)
		fhs = append(fhs, fh)
		if fd, ok := f.Donate(id, fh); ok {
			got++
			unix.Close(fd)
		}
	}
	if got != 2 {
		t.Errorf("%d files of 100,000 bytes handed out with a budget of 250,000", got)
	}
	for i, fh := range fhs {
		release(f, uint64(i+2), fh)
	}
	if f.donated != 0 {
		t.Errorf("%d bytes count as handed out when all is closed", f.donated)
	}
	finish(t, f, s)
}

// Each file with data has a descriptor open, however small it is.
func TestFilesAreBoundedByDescriptors(t *testing.T) {
	const most = 8
	s := newSource(make([]int, 5*most)...)
	for i := range s.files {
		s.files[i] = fmt.Appendf(nil, "file %d", i)
	}
	f := New(s, Options{Budget: 1 << 30, MaxFiles: most})
	fhs := make(map[uint64]uint64)
	for i, want := range s.files {
		id := uint64(i + 2)
		fh := openFile(t, f, id)
		fhs[id] = fh
		if fd, ok := f.Donate(id, fh); ok {
			unix.Close(fd)
		}
		if got, st := read(f, id, fh, 0, 100); !st.Ok() || !bytes.Equal(got, want) {
			t.Fatalf("file %d: got %q, %v", i, got, st)
		}
		if st := f.Stats(); st.Files > most || st.DonatedFiles > most*3/4 {
			t.Fatalf("after file %d: %+v", i, st)
		}
	}
	if st := f.Stats(); st.DonatedFiles != most*3/4 {
		t.Errorf("%d files are handed out, want %d", st.DonatedFiles, most*3/4)
	}
	for id, fh := range fhs {
		release(f, id, fh)
	}
	fh := openFile(t, f, 40)
	if fd, ok := f.Donate(40, fh); !ok {
		t.Error("there is room again, and nothing is handed out")
	} else {
		unix.Close(fd)
	}
	release(f, 40, fh)
	finish(t, f, s)
}

func TestMaxFilesFollowsTheLimit(t *testing.T) {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	lower := unix.Rlimit{Cur: min(limit.Cur, 1000), Max: limit.Max}
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &lower); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
			t.Error(err)
		}
	}()
	s := newSource()
	f := New(s, Options{})
	if got, want := f.opts.MaxFiles, int(lower.Cur/2); got != want {
		t.Errorf("%d files with room for %d descriptors, want %d", got, lower.Cur, want)
	}
	finish(t, f, s)
	l := NewLive(s, LiveOptions{})
	if got, want := l.maxFiles, int(lower.Cur/4); got != want {
		t.Errorf("%d copies with room for %d descriptors, want %d", got, lower.Cur, want)
	}
	l.OnUnmount()
}

func TestForgetIsKeptBackWhileThereIsData(t *testing.T) {
	s := newSource(1000)
	f := New(s, Options{Budget: 1 << 20})
	release(f, 2, openFile(t, f, 2))
	f.Forget(2, 3)
	if n := s.forgets.Load(); n != 0 {
		t.Errorf("%d lookups forgotten while the data is kept", n)
	}
	f.SetBudget(0)
	if n := s.forgets.Load(); n != 3 {
		t.Errorf("%d lookups forgotten after eviction, want 3", n)
	}
	f.Forget(2, 1)
	if n := s.forgets.Load(); n != 4 {
		t.Errorf("%d lookups forgotten, want 4", n)
	}
	finish(t, f, s)
}

func TestInvalInodeStartsAfresh(t *testing.T) {
	s := newSource(1000)
	f := New(s, Options{Budget: 1 << 20})
	old := openFile(t, f, 2)
	s.files[0] = bytes.Repeat([]byte("new"), 400) // another size, too
	f.InvalInode(2, 0, 0)
	fh := openFile(t, f, 2)
	if got, st := read(f, 2, fh, 0, 2000); !st.Ok() || !bytes.Equal(got, s.files[0]) {
		t.Errorf("got %d bytes, %v, want the new contents", len(got), st)
	}
	release(f, 2, old)
	release(f, 2, fh)
	finish(t, f, s)
}

func TestChangesAreRefused(t *testing.T) {
	s := newSource(10)
	f := New(s, Options{Budget: 1 << 20})
	for _, flags := range []uint32{unix.O_WRONLY, unix.O_RDWR, unix.O_RDONLY | unix.O_TRUNC} {
		if st := f.Open(nil, &fuse.OpenIn{InHeader: fuse.InHeader{NodeId: 2}, Flags: flags}, new(fuse.OpenOut)); st != fuse.EROFS {
			t.Errorf("open with %#x: got %v, want EROFS", flags, st)
		}
	}
	if _, st := f.Write(nil, &fuse.WriteIn{}, []byte("x")); st != fuse.EROFS {
		t.Errorf("write: got %v, want EROFS", st)
	}
}

// Many readers of many files with a budget for a few, some of it handed out,
// and the budget changing.
func TestConcurrentReadersUnderPressure(t *testing.T) {
	var sizes []int
	for i := range 40 {
		sizes = append(sizes, 1+i*17_001)
	}
	s := newSource(sizes...)
	f := New(s, Options{Budget: 2 << 20, FillLimit: 100_000, OpenWait: -1, MaxRead: 128 << 10})
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			r := rand.New(rand.NewSource(int64(g)))
			for range 150 {
				i := r.Intn(len(sizes))
				id := uint64(i + 2)
				fh := openFile(t, f, id)
				fd, donated := -1, false
				if r.Intn(2) == 0 {
					fd, donated = f.Donate(id, fh)
				}
				for range 4 {
					off := r.Intn(sizes[i])
					n := r.Intn(70_000)
					want := s.files[i][off:min(off+n, sizes[i])]
					if got, st := read(f, id, fh, off, n); !st.Ok() || !bytes.Equal(got, want) {
						t.Errorf("file %d: wrong data at %d: %v", i, off, st)
					}
					if donated {
						got := make([]byte, n)
						m, err := unix.Pread(fd, got, int64(off))
						if err != nil || !bytes.Equal(got[:m], want) {
							t.Errorf("file %d: wrong data in the region at %d: %v", i, off, err)
						}
					}
				}
				if r.Intn(20) == 0 {
					f.SetBudget(int64(r.Intn(4 << 20)))
				}
				if donated {
					unix.Close(fd)
				}
				release(f, id, fh)
			}
		})
	}
	wg.Wait()
	f.wg.Wait()
	f.SetBudget(1 << 20)
	if st := f.Stats(); st.Resident > 1<<20 || st.DonatedFiles != 0 {
		t.Errorf("over the budget when idle: %+v", st)
	}
	finish(t, f, s)
}

func BenchmarkOpenReadRelease(b *testing.B) {
	s := newSource(2048)
	f := New(s, Options{Budget: 1 << 20})
	buf := make([]byte, 4096)
	b.ReportAllocs()
	for b.Loop() {
		fh := openFile(b, f, 2)
		f.Read(nil, &fuse.ReadIn{InHeader: fuse.InHeader{NodeId: 2}, Fh: fh, Size: 4096}, buf)
		release(f, 2, fh)
	}
}
