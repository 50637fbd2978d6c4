// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package regions

import (
	"bytes"
	"fmt"
	"math/rand"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// changing is a file system whose files can be written, through it or behind
// its back. Node n is files[n-2].
type changing struct {
	fuse.RawFileSystem
	mu    sync.Mutex
	files [][]byte
	mtime uint64
	mode  uint32
	open  int
	reads int
}

func newChanging(files ...string) *changing {
	c := &changing{RawFileSystem: fuse.NewDefaultRawFileSystem(), mode: 0o644}
	for _, f := range files {
		c.files = append(c.files, []byte(f))
	}
	return c
}

func (c *changing) set(i int, data []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.files[i] = data
	c.mtime++
}

func (c *changing) GetAttr(_ <-chan struct{}, in *fuse.GetAttrIn, out *fuse.AttrOut) fuse.Status {
	c.mu.Lock()
	defer c.mu.Unlock()
	out.Attr = fuse.Attr{Mode: syscall.S_IFREG | c.mode, Size: uint64(len(c.files[in.NodeId-2])), Mtime: c.mtime}
	return fuse.OK
}

func (c *changing) Open(_ <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.open++
	if in.Flags&unix.O_TRUNC != 0 {
		c.files[in.NodeId-2] = nil
		c.mtime++
	}
	return fuse.OK
}

func (c *changing) Release(<-chan struct{}, *fuse.ReleaseIn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.open--
}

func (c *changing) Read(_ <-chan struct{}, in *fuse.ReadIn, buf []byte) (fuse.ReadResult, fuse.Status) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.reads++
	b := c.files[in.NodeId-2]
	if in.Offset >= uint64(len(b)) {
		return fuse.ReadResultData(nil), fuse.OK
	}
	return fuse.ReadResultData(buf[:copy(buf, b[in.Offset:])]), fuse.OK
}

func (c *changing) Write(_ <-chan struct{}, in *fuse.WriteIn, data []byte) (uint32, fuse.Status) {
	c.mu.Lock()
	defer c.mu.Unlock()
	b := c.files[in.NodeId-2]
	if end := int(in.Offset) + len(data); end > len(b) {
		b = append(bytes.Clone(b), make([]byte, end-len(b))...)
	} else {
		b = bytes.Clone(b)
	}
	copy(b[in.Offset:], data)
	c.files[in.NodeId-2] = b
	c.mtime++
	return uint32(len(data)), fuse.OK
}

func (c *changing) SetAttr(_ <-chan struct{}, in *fuse.SetAttrIn, out *fuse.AttrOut) fuse.Status {
	c.mu.Lock()
	defer c.mu.Unlock()
	if size, ok := in.GetSize(); ok {
		b := bytes.Clone(c.files[in.NodeId-2])
		c.files[in.NodeId-2] = append(b[:min(len(b), int(size))], make([]byte, max(0, int(size)-len(b)))...)
		c.mtime++
	}
	return fuse.OK
}

func (c *changing) Forget(uint64, uint64) {}

func newLive(t *testing.T, below fuse.RawFileSystem, o LiveOptions) *Live {
	t.Helper()
	o.Dir = t.TempDir()
	if o.Budget == 0 {
		o.Budget = 64 << 20
	}
	l := NewLive(below, o)
	t.Cleanup(func() {
		l.OnUnmount()
		if st := l.Stats(); st.Resident != 0 || st.Files != 0 {
			t.Errorf("left: %+v", st)
		}
	})
	return l
}

func donated(t *testing.T, l *Live, id uint64) int {
	t.Helper()
	fd, ok := l.Donate(id, 0)
	if !ok {
		t.Fatal("no copy")
	}
	t.Cleanup(func() { unix.Close(fd) })
	return fd
}

func contents(t *testing.T, fd int) string {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, st.Size+10)
	n, err := preadFull(fd, b, 0)
	if err != nil {
		t.Fatal(err)
	}
	return string(b[:n])
}

func want(t *testing.T, fd int, s string) {
	t.Helper()
	if got := contents(t, fd); got != s {
		t.Errorf("the copy holds %q, want %q", got, s)
	}
}

func TestCopyCannotBeChangedByItsHolder(t *testing.T) {
	l := newLive(t, newChanging("hello"), LiveOptions{})
	fd := donated(t, l, 2)
	want(t, fd, "hello")
	if _, err := unix.Pwrite(fd, []byte("x"), 0); err != unix.EBADF {
		t.Errorf("write: got %v, want EBADF", err)
	}
	if err := unix.Ftruncate(fd, 0); err != unix.EINVAL {
		t.Errorf("ftruncate: got %v, want EINVAL", err)
	}
	if _, err := unix.Mmap(fd, 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED); err != unix.EACCES {
		t.Errorf("writable mapping: got %v, want EACCES", err)
	}
	l.Return(2)
}

func TestWritesReachTheCopy(t *testing.T) {
	below := newChanging("hello world")
	l := newLive(t, below, LiveOptions{})
	fd := donated(t, l, 2)
	m, err := unix.Mmap(fd, 0, 4096, unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Munmap(m)
	at := fuse.InHeader{NodeId: 2}
	if n, s := l.Write(nil, &fuse.WriteIn{InHeader: at, Offset: 6}, []byte("there!!")); n != 7 || !s.Ok() {
		t.Fatal(n, s)
	}
	want(t, fd, "hello there!!")
	if string(m[:13]) != "hello there!!" {
		t.Errorf("the mapping shows %q", m[:13])
	}
	in := fuse.SetAttrIn{SetAttrInCommon: fuse.SetAttrInCommon{InHeader: at, Valid: fuse.FATTR_SIZE, Size: 5}}
	if s := l.SetAttr(nil, &in, new(fuse.AttrOut)); !s.Ok() {
		t.Fatal(s)
	}
	want(t, fd, "hello")
	if m[5] != 0 {
		t.Error("stale bytes after the end of the file")
	}
	in.Size = 8
	if s := l.SetAttr(nil, &in, new(fuse.AttrOut)); !s.Ok() {
		t.Fatal(s)
	}
	want(t, fd, "hello\x00\x00\x00")
	if s := l.Open(nil, &fuse.OpenIn{InHeader: at, Flags: unix.O_WRONLY | unix.O_TRUNC}, new(fuse.OpenOut)); !s.Ok() {
		t.Fatal(s)
	}
	want(t, fd, "")
	l.Return(2)
}

func TestChangesElsewhereAreSeenAtTheNextOpen(t *testing.T) {
	below := newChanging("first")
	l := newLive(t, below, LiveOptions{})
	fd := donated(t, l, 2)
	reads := below.reads
	if again := donated(t, l, 2); contents(t, again) != "first" || below.reads != reads {
		t.Error("an unchanged file was read again")
	}
	below.set(0, []byte("2nd"))
	second := donated(t, l, 2)
	want(t, second, "2nd")
	want(t, fd, "2nd") // it is the same file
	for range 3 {
		l.Return(2)
	}
}

func TestChangesElsewhereReachOpenFiles(t *testing.T) {
	below := newChanging("first")
	l := newLive(t, below, LiveOptions{})
	fd := donated(t, l, 2)
	below.set(0, []byte("changed behind our back"))
	deadline := time.Now().Add(20 * livePoll)
	for contents(t, fd) != "changed behind our back" {
		if time.Now().After(deadline) {
			t.Fatalf("the copy still holds %q", contents(t, fd))
		}
		time.Sleep(10 * time.Millisecond)
	}
	below.set(0, []byte("told"))
	l.InvalInode(2, 0, 0)
	for contents(t, fd) != "told" {
		if time.Now().After(deadline) {
			t.Fatalf("the copy still holds %q", contents(t, fd))
		}
		time.Sleep(10 * time.Millisecond)
	}
	l.Return(2)
}

func TestLimits(t *testing.T) {
	below := newChanging(string(bytes.Repeat([]byte("x"), 1000)), "")
	l := newLive(t, below, LiveOptions{FillLimit: 999, ExecFillLimit: 1000})
	if _, ok := l.Donate(2, 0); ok {
		t.Error("a file over the limit was copied")
	}
	below.mode = 0o755
	donated(t, l, 2)
	l.Return(2)
	if _, ok := l.Donate(3, 0); ok {
		t.Error("an empty file was copied")
	}
}

func TestUnusedCopiesAreEvicted(t *testing.T) {
	var files []string
	for i := range 20 {
		files = append(files, fmt.Sprintf("%8000d", i))
	}
	l := newLive(t, newChanging(files...), LiveOptions{Budget: 5 * minFileCost})
	keep := donated(t, l, 2)
	for id := uint64(3); id < 22; id++ {
		fd, ok := l.Donate(id, 0)
		if !ok {
			t.Fatal("no copy")
		}
		unix.Close(fd)
		l.Return(id)
	}
	st := l.Stats()
	if st.Resident > 5*minFileCost || st.DonatedFiles != 1 || st.Evictions == 0 {
		t.Errorf("got %+v", st)
	}
	want(t, keep, files[0])
	l.SetBudget(0)
	if st := l.Stats(); st.Files != 1 || st.Budget != 0 {
		t.Errorf("without a budget: %+v, want only what the client holds", st)
	}
	l.Return(2)
	if st := l.Stats(); st.Resident != 0 {
		t.Errorf("%d bytes kept without a budget", st.Resident)
	}
}

func TestLiveClientsHoldNoMoreThanTheBudget(t *testing.T) {
	big := string(make([]byte, 100_000))
	l := newLive(t, newChanging(big, big, big), LiveOptions{Budget: 250_000})
	got := 0
	for id := uint64(2); id < 5; id++ {
		if fd, ok := l.Donate(id, 0); ok {
			got++
			unix.Close(fd)
			defer l.Return(id)
		}
	}
	if got != 2 {
		t.Errorf("%d files of 100,000 bytes handed out with a budget of 250,000", got)
	}
}

// Writers through Live, openers, and changes behind its back: at rest every copy
// is what the server has.
func TestLiveConverges(t *testing.T) {
	below := newChanging(string(make([]byte, 100_000)), string(make([]byte, 50_000)))
	l := newLive(t, below, LiveOptions{MaxRead: 16 << 10})
	var wg sync.WaitGroup
	for g := range 6 {
		wg.Go(func() {
			r := rand.New(rand.NewSource(int64(g)))
			for range 200 {
				id := uint64(2 + r.Intn(2))
				at := fuse.InHeader{NodeId: id}
				switch r.Intn(5) {
				case 0:
					if fd, ok := l.Donate(id, 0); ok {
						unix.Close(fd)
						l.Return(id)
					}
				case 1:
					in := fuse.SetAttrIn{SetAttrInCommon: fuse.SetAttrInCommon{InHeader: at, Valid: fuse.FATTR_SIZE, Size: uint64(r.Intn(120_000) + 1)}}
					l.SetAttr(nil, &in, new(fuse.AttrOut))
				case 2:
					b := make([]byte, r.Intn(100_000)+1)
					r.Read(b)
					below.set(int(id-2), b)
				default:
					b := make([]byte, r.Intn(5000)+1)
					r.Read(b)
					l.Write(nil, &fuse.WriteIn{InHeader: at, Offset: uint64(r.Intn(100_000))}, b)
				}
			}
		})
	}
	wg.Wait()
	for id := uint64(2); id < 4; id++ {
		want(t, donated(t, l, id), string(below.files[id-2]))
		l.Return(id)
	}
}
