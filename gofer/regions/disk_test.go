// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package regions

import (
	"bytes"
	"fmt"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// disk is a file system in memory that can be told to fail. Node n is files[n-2].
// It checks that handles are used as they were opened.
type disk struct {
	fuse.RawFileSystem

	mu      sync.Mutex
	files   [][]byte
	mtime   uint64
	mode    uint32
	fopen   uint32
	open    map[uint64]uint32 // flags by handle
	last    uint64
	reads   int
	writes  []extent // accepted WRITEs
	ops     []string // FLUSH, FSYNC, RELEASE, and WRITE
	forgets uint64
	noSpace int64                       // files end here with ENOSPC; 0: never
	fail    func(op string) fuse.Status // or nil
	enter   func(op string)             // called without mu; or nil
	leave   func()                      // the same, when a READ has its data; or nil
	told    func()                      // the same, when a GETATTR has its answer; or nil
	cut     int                         // accept so many bytes of a WRITE; 0: all
	child   map[string]uint64           // for Child
}

func newDisk(files ...[]byte) *disk {
	return &disk{RawFileSystem: fuse.NewDefaultRawFileSystem(), mode: 0o644, files: files, open: make(map[uint64]uint32)}
}

// begin is called by every operation; mu is locked when it returns.
func (d *disk) begin(op string) fuse.Status {
	if d.enter != nil {
		d.enter(op)
	}
	d.mu.Lock()
	if d.fail != nil {
		return d.fail(op)
	}
	return fuse.OK
}

func (d *disk) attr(id uint64) fuse.Attr {
	return fuse.Attr{Mode: syscall.S_IFREG | d.mode, Size: uint64(len(d.files[id-2])), Mtime: d.mtime}
}

func (d *disk) set(id uint64, data []byte) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.files[id-2] = data
	d.mtime++
}

func (d *disk) get(id uint64) []byte {
	d.mu.Lock()
	defer d.mu.Unlock()
	return bytes.Clone(d.files[id-2])
}

func (d *disk) resize(id uint64, size int) {
	b := d.files[id-2]
	d.files[id-2] = append(bytes.Clone(b[:min(len(b), size)]), make([]byte, max(0, size-len(b)))...)
	d.mtime++
}

func (d *disk) Child(_ uint64, name string) (uint64, bool) { id, ok := d.child[name]; return id, ok }

func (d *disk) GetAttr(_ <-chan struct{}, in *fuse.GetAttrIn, out *fuse.AttrOut) fuse.Status {
	s := d.begin("GETATTR")
	out.Attr = d.attr(in.NodeId)
	d.mu.Unlock()
	if d.told != nil {
		d.told()
	}
	return s
}

func (d *disk) opened(flags uint32, out *fuse.OpenOut) {
	d.last += 7
	out.Fh, out.OpenFlags = d.last, d.fopen
	d.open[out.Fh] = flags
}

func (d *disk) Open(_ <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	s := d.begin("OPEN")
	defer d.mu.Unlock()
	if s.Ok() {
		if in.Flags&unix.O_TRUNC != 0 {
			d.resize(in.NodeId, 0)
		}
		d.opened(in.Flags, out)
	}
	return s
}

func (d *disk) Create(_ <-chan struct{}, in *fuse.CreateIn, _ string, out *fuse.CreateOut) fuse.Status {
	s := d.begin("CREATE")
	defer d.mu.Unlock()
	if s.Ok() {
		d.files = append(d.files, nil)
		out.NodeId = uint64(len(d.files) + 1)
		out.Attr = d.attr(out.NodeId)
		d.opened(in.Flags, &out.OpenOut)
	}
	return s
}

func (d *disk) Release(_ <-chan struct{}, in *fuse.ReleaseIn) {
	d.begin("RELEASE")
	defer d.mu.Unlock()
	if _, ok := d.open[in.Fh]; !ok {
		panic(fmt.Sprintf("release of handle %d, which is not open", in.Fh))
	}
	delete(d.open, in.Fh)
	d.ops = append(d.ops, "RELEASE")
}

func (d *disk) check(fh uint64, not uint32) {
	if flags, ok := d.open[fh]; !ok || flags&unix.O_ACCMODE == not {
		panic(fmt.Sprintf("handle %d with flags %#x does not do", fh, flags))
	}
}

func (d *disk) Read(_ <-chan struct{}, in *fuse.ReadIn, buf []byte) (fuse.ReadResult, fuse.Status) {
	s := d.begin("READ")
	defer func() {
		d.mu.Unlock()
		if d.leave != nil {
			d.leave()
		}
	}()
	d.check(in.Fh, unix.O_WRONLY)
	if !s.Ok() {
		return nil, s
	}
	d.reads++
	b := d.files[in.NodeId-2]
	if in.Offset >= uint64(len(b)) {
		return fuse.ReadResultData(nil), fuse.OK
	}
	return fuse.ReadResultData(buf[:copy(buf, b[in.Offset:])]), fuse.OK
}

func (d *disk) Write(_ <-chan struct{}, in *fuse.WriteIn, data []byte) (uint32, fuse.Status) {
	s := d.begin("WRITE")
	defer d.mu.Unlock()
	d.check(in.Fh, unix.O_RDONLY)
	if !s.Ok() {
		return 0, s
	}
	if d.cut > 0 {
		data = data[:min(len(data), d.cut)]
	}
	end := int(in.Offset) + len(data)
	if d.noSpace > 0 && int64(end) > d.noSpace {
		if int64(in.Offset) >= d.noSpace {
			return 0, fuse.Status(unix.ENOSPC)
		}
		end = int(d.noSpace)
		data = data[:end-int(in.Offset)]
	}
	if end > len(d.files[in.NodeId-2]) {
		d.resize(in.NodeId, end)
	} else {
		d.files[in.NodeId-2] = bytes.Clone(d.files[in.NodeId-2])
	}
	copy(d.files[in.NodeId-2][in.Offset:], data)
	d.mtime++
	d.writes = append(d.writes, extent{int64(in.Offset), int64(end)})
	d.ops = append(d.ops, "WRITE")
	return uint32(len(data)), fuse.OK
}

func (d *disk) SetAttr(_ <-chan struct{}, in *fuse.SetAttrIn, out *fuse.AttrOut) fuse.Status {
	s := d.begin("SETATTR")
	defer d.mu.Unlock()
	if !s.Ok() {
		return s
	}
	if size, ok := in.GetSize(); ok {
		d.resize(in.NodeId, int(size))
	}
	if t, ok := in.GetMTime(); ok {
		d.mtime = uint64(t.Unix())
	}
	out.Attr = d.attr(in.NodeId)
	return fuse.OK
}

func (d *disk) Fallocate(_ <-chan struct{}, in *fuse.FallocateIn) fuse.Status {
	s := d.begin("FALLOCATE")
	defer d.mu.Unlock()
	d.check(in.Fh, unix.O_RDONLY)
	if !s.Ok() {
		return s
	}
	if end := int(in.Offset + in.Length); in.Mode&unix.FALLOC_FL_KEEP_SIZE == 0 && end > len(d.files[in.NodeId-2]) {
		d.resize(in.NodeId, end)
	}
	b := bytes.Clone(d.files[in.NodeId-2])
	if in.Mode&(unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_ZERO_RANGE) != 0 && in.Offset < uint64(len(b)) {
		clear(b[in.Offset:min(in.Offset+in.Length, uint64(len(b)))])
	}
	d.files[in.NodeId-2] = b
	d.mtime++
	return fuse.OK
}

func (d *disk) CopyFileRange(_ <-chan struct{}, in *fuse.CopyFileRangeIn) (uint32, fuse.Status) {
	s := d.begin("COPY_FILE_RANGE")
	defer d.mu.Unlock()
	d.check(in.FhIn, unix.O_WRONLY)
	d.check(in.FhOut, unix.O_RDONLY)
	if !s.Ok() {
		return 0, s
	}
	from := d.files[in.NodeId-2]
	from = from[min(in.OffIn, uint64(len(from))):]
	from = bytes.Clone(from[:min(in.Len, uint64(len(from)))])
	d.resize(in.NodeIdOut, max(len(d.files[in.NodeIdOut-2]), int(in.OffOut)+len(from)))
	copy(d.files[in.NodeIdOut-2][in.OffOut:], from)
	return uint32(len(from)), fuse.OK
}

func (d *disk) Flush(_ <-chan struct{}, in *fuse.FlushIn) fuse.Status {
	s := d.begin("FLUSH")
	defer d.mu.Unlock()
	d.ops = append(d.ops, "FLUSH")
	return s
}

func (d *disk) Fsync(_ <-chan struct{}, in *fuse.FsyncIn) fuse.Status {
	s := d.begin("FSYNC")
	defer d.mu.Unlock()
	d.ops = append(d.ops, "FSYNC")
	return s
}

func (d *disk) Unlink(<-chan struct{}, *fuse.InHeader, string) fuse.Status { return fuse.OK }

func (d *disk) Lookup(_ <-chan struct{}, _ *fuse.InHeader, name string, out *fuse.EntryOut) fuse.Status {
	d.mu.Lock()
	defer d.mu.Unlock()
	out.NodeId = d.child[name]
	out.Attr = d.attr(out.NodeId)
	return fuse.OK
}

func (d *disk) ReadDirPlus(_ <-chan struct{}, _ *fuse.ReadIn, list *fuse.DirEntryList) fuse.Status {
	d.mu.Lock()
	defer d.mu.Unlock()
	for i := range d.files {
		id := uint64(i + 2)
		if e := list.AddDirLookupEntry(fuse.DirEntry{Name: fmt.Sprintf("file-%d", id), Mode: syscall.S_IFREG}); e != nil {
			*e = fuse.EntryOut{NodeId: id, Attr: d.attr(id)}
		}
	}
	return fuse.OK
}

func (d *disk) Forget(_, n uint64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.forgets += n
}

// writable is a Writable under test.
type writable struct {
	*Writable
	t *testing.T
	d *disk
}

func newWritable(t *testing.T, d *disk, o WritableOptions) *writable {
	t.Helper()
	o.Dir = t.TempDir()
	if o.Budget == 0 {
		o.Budget = 64 << 20
	}
	if o.MaxAge == 0 {
		o.MaxAge = time.Hour // no test waits for time to pass
	}
	if o.OpenWait == 0 {
		o.OpenWait = -1 // most tests want to see what a partly filled region does
	}
	return &writable{NewWritable(d, o), t, d}
}

// end unmounts and checks that nothing is left.
func (w *writable) end() {
	w.t.Helper()
	w.OnUnmount()
	if st := w.Stats(); st.Resident != 0 || st.Files != 0 || st.Donated != 0 || st.Dirty != 0 || len(w.inodes) != 0 {
		w.t.Errorf("left: %+v, %d inodes", st, len(w.inodes))
	}
	w.d.mu.Lock()
	defer w.d.mu.Unlock()
	if len(w.d.open) != 0 {
		w.t.Errorf("%d files of the server are still open", len(w.d.open))
	}
}

func (w *writable) open(id uint64, flags uint32) uint64 {
	w.t.Helper()
	var out fuse.OpenOut
	if s := w.Open(nil, &fuse.OpenIn{InHeader: fuse.InHeader{NodeId: id}, Flags: flags}, &out); !s.Ok() {
		w.t.Fatalf("open %d: %v", id, s)
	}
	return out.Fh
}

func (w *writable) create() (id, fh uint64) {
	w.t.Helper()
	var out fuse.CreateOut
	if s := w.Create(nil, &fuse.CreateIn{InHeader: fuse.InHeader{NodeId: 1}, Flags: unix.O_RDWR | unix.O_CREAT | unix.O_EXCL}, "new", &out); !s.Ok() {
		w.t.Fatalf("create: %v", s)
	}
	return out.NodeId, out.Fh
}

func (w *writable) release(id, fh uint64) {
	w.Release(nil, &fuse.ReleaseIn{InHeader: fuse.InHeader{NodeId: id}, Fh: fh})
}

func (w *writable) tryWrite(id, fh uint64, off int, data []byte) (int, fuse.Status) {
	n, s := w.Write(nil, &fuse.WriteIn{InHeader: fuse.InHeader{NodeId: id}, Fh: fh, Offset: uint64(off), Size: uint32(len(data))}, data)
	return int(n), s
}

func (w *writable) write(id, fh uint64, off int, data string) {
	w.t.Helper()
	if n, s := w.tryWrite(id, fh, off, []byte(data)); n != len(data) || !s.Ok() {
		w.t.Fatalf("write %d bytes at %d: %d, %v", len(data), off, n, s)
	}
}

func (w *writable) tryRead(id, fh uint64, off, n int) ([]byte, fuse.Status) {
	buf := make([]byte, n)
	r, s := w.Read(nil, &fuse.ReadIn{InHeader: fuse.InHeader{NodeId: id}, Fh: fh, Offset: uint64(off), Size: uint32(n)}, buf)
	if !s.Ok() || r == nil {
		return nil, s
	}
	defer r.Done()
	return r.Bytes(buf)
}

func (w *writable) wantRead(id, fh uint64, want string) {
	w.t.Helper()
	got, s := w.tryRead(id, fh, 0, len(want)+10)
	if !s.Ok() || string(got) != want {
		w.t.Errorf("read: got %.60q (%d bytes), %v, want %.60q (%d)", got, len(got), s, want, len(want))
	}
}

func (w *writable) trySetSize(id uint64, size int) fuse.Status {
	in := fuse.SetAttrIn{SetAttrInCommon: fuse.SetAttrInCommon{InHeader: fuse.InHeader{NodeId: id}, Valid: fuse.FATTR_SIZE, Size: uint64(size)}}
	return w.SetAttr(nil, &in, new(fuse.AttrOut))
}

func (w *writable) setSize(id uint64, size int) {
	w.t.Helper()
	if s := w.trySetSize(id, size); !s.Ok() {
		w.t.Fatalf("truncate to %d: %v", size, s)
	}
}

func (w *writable) flushRPC(id, fh uint64) fuse.Status {
	return w.Flush(nil, &fuse.FlushIn{InHeader: fuse.InHeader{NodeId: id}, Fh: fh})
}

func (w *writable) fsync(id, fh uint64) fuse.Status {
	return w.Fsync(nil, &fuse.FsyncIn{InHeader: fuse.InHeader{NodeId: id}, Fh: fh})
}

// lend returns a descriptor as a client gets it.
func (w *writable) lend(id, fh uint64) int {
	w.t.Helper()
	fd, ok := w.Donate(id, fh)
	if !ok {
		w.t.Fatal("no region for a complete file")
	}
	w.t.Cleanup(func() { unix.Close(fd) })
	return fd
}

func (w *writable) wantDisk(id uint64, want string) {
	w.t.Helper()
	if got := string(w.d.get(id)); got != want {
		w.t.Errorf("the server has %.60q (%d bytes), want %.60q (%d)", got, len(got), want, len(want))
	}
}
