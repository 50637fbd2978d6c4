// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package lisaserver

import (
	"encoding/binary"
	"io"
	"os"
	"strings"
	"sync"
	"testing"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/lisafs"
)

// moodyFS is a file system without files: it grants what it is asked for, in a
// way that depends on its mood and on how often it was asked. Its ids are right,
// as the server may expect of a RawFileSystem in the same process, or behind a
// channel that checks; nothing else is.
type moodyFS struct {
	fuse.RawFileSystem // ENOSYS for the rest

	mu    sync.Mutex
	mood  byte
	turn  byte
	ids   map[string]uint64 // by parent and name
	types map[uint64]uint32
	fh    uint64
}

func newMoodyFS(mood byte) *moodyFS {
	return &moodyFS{
		RawFileSystem: fuse.NewDefaultRawFileSystem(),
		mood:          mood,
		ids:           make(map[string]uint64),
		types:         map[uint64]uint32{fuse.FUSE_ROOT_ID: unix.S_IFDIR},
	}
}

// bad reports whether this time something is wrong.
func (m *moodyFS) bad() bool {
	m.turn = m.turn*31 + m.mood
	return m.mood&0x0f != 0 && m.turn%16 < m.mood&0x0f
}

func (m *moodyFS) entry(parent uint64, name string, ftype uint32, out *fuse.EntryOut) fuse.Status {
	m.mu.Lock()
	defer m.mu.Unlock()
	if strings.HasPrefix(name, "no") {
		return fuse.ENOENT
	}
	if m.bad() {
		return fuse.Status(-int32(m.turn))
	}
	key := string(binary.LittleEndian.AppendUint64(nil, parent)) + name
	id := m.ids[key]
	if id == 0 {
		id = uint64(len(m.ids) + 2)
		m.ids[key] = id
	}
	if m.types[id] == 0 || m.bad() {
		m.types[id] = ftype
	}
	out.NodeId = id
	out.Attr = m.attr(id)
	return fuse.OK
}

func (m *moodyFS) attr(id uint64) (a fuse.Attr) {
	a.Mode = m.types[id] | 0o644
	a.Size = 100
	a.Ino = id
	a.Nlink = 1
	if m.bad() {
		a.Mode = uint32(m.turn) << 8
		a.Size = ^uint64(m.turn)
		a.Atimensec = ^uint32(0)
		a.Blksize = 0
	}
	return a
}

func (m *moodyFS) open(out *fuse.OpenOut) fuse.Status {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.bad() {
		return fuse.ENOSYS
	}
	m.fh++
	out.Fh = m.fh
	return fuse.OK
}

func (m *moodyFS) status() fuse.Status {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.bad() {
		return fuse.Status(int32(m.turn) - 20)
	}
	return fuse.OK
}

func typeOf(name string) uint32 {
	for prefix, ftype := range map[string]uint32{"d": unix.S_IFDIR, "l": unix.S_IFLNK, "p": unix.S_IFIFO} {
		if strings.HasPrefix(name, prefix) {
			return ftype
		}
	}
	return unix.S_IFREG
}

func (m *moodyFS) Lookup(_ <-chan struct{}, h *fuse.InHeader, name string, out *fuse.EntryOut) fuse.Status {
	return m.entry(h.NodeId, name, typeOf(name), out)
}
func (m *moodyFS) Mkdir(_ <-chan struct{}, in *fuse.MkdirIn, name string, out *fuse.EntryOut) fuse.Status {
	return m.entry(in.NodeId, name, unix.S_IFDIR, out)
}
func (m *moodyFS) Mknod(_ <-chan struct{}, in *fuse.MknodIn, name string, out *fuse.EntryOut) fuse.Status {
	return m.entry(in.NodeId, name, in.Mode&unix.S_IFMT, out)
}
func (m *moodyFS) Symlink(_ <-chan struct{}, h *fuse.InHeader, _, name string, out *fuse.EntryOut) fuse.Status {
	return m.entry(h.NodeId, name, unix.S_IFLNK, out)
}
func (m *moodyFS) Link(_ <-chan struct{}, in *fuse.LinkIn, name string, out *fuse.EntryOut) fuse.Status {
	return m.entry(in.NodeId, name, unix.S_IFREG, out)
}
func (m *moodyFS) Create(_ <-chan struct{}, in *fuse.CreateIn, name string, out *fuse.CreateOut) fuse.Status {
	// The handle first: a reply that fails has granted nothing.
	if st := m.open(&out.OpenOut); st != fuse.OK {
		return st
	}
	st := m.entry(in.NodeId, name, unix.S_IFREG, &out.EntryOut)
	return st
}
func (m *moodyFS) Forget(uint64, uint64) {}
func (m *moodyFS) GetAttr(_ <-chan struct{}, in *fuse.GetAttrIn, out *fuse.AttrOut) fuse.Status {
	m.mu.Lock()
	out.Attr = m.attr(in.NodeId)
	m.mu.Unlock()
	return m.status()
}
func (m *moodyFS) SetAttr(_ <-chan struct{}, in *fuse.SetAttrIn, out *fuse.AttrOut) fuse.Status {
	m.mu.Lock()
	out.Attr = m.attr(in.NodeId)
	m.mu.Unlock()
	return m.status()
}
func (m *moodyFS) Unlink(<-chan struct{}, *fuse.InHeader, string) fuse.Status { return m.status() }
func (m *moodyFS) Rmdir(<-chan struct{}, *fuse.InHeader, string) fuse.Status  { return m.status() }
func (m *moodyFS) Rename(<-chan struct{}, *fuse.RenameIn, string, string) fuse.Status {
	return m.status()
}
func (m *moodyFS) Readlink(<-chan struct{}, *fuse.InHeader) ([]byte, fuse.Status) {
	return make([]byte, int(m.mood)<<5), m.status()
}
func (m *moodyFS) GetXAttr(_ <-chan struct{}, _ *fuse.InHeader, _ string, dest []byte) (uint32, fuse.Status) {
	return uint32(m.mood) << 9, m.status()
}
func (m *moodyFS) ListXAttr(_ <-chan struct{}, _ *fuse.InHeader, dest []byte) (uint32, fuse.Status) {
	return uint32(m.mood) << 9, m.status()
}
func (m *moodyFS) Open(_ <-chan struct{}, _ *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	return m.open(out)
}
func (m *moodyFS) OpenDir(_ <-chan struct{}, _ *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	return m.open(out)
}
func (m *moodyFS) Read(_ <-chan struct{}, in *fuse.ReadIn, buf []byte) (fuse.ReadResult, fuse.Status) {
	return fuse.ReadResultData(make([]byte, int(m.mood)<<4)), m.status()
}
func (m *moodyFS) Write(_ <-chan struct{}, in *fuse.WriteIn, data []byte) (uint32, fuse.Status) {
	return in.Size + uint32(m.mood&0x80), m.status()
}
func (m *moodyFS) Release(<-chan struct{}, *fuse.ReleaseIn) {}
func (m *moodyFS) ReleaseDir(*fuse.ReleaseIn)               {}
func (m *moodyFS) ReadDir(_ <-chan struct{}, in *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	if in.Offset < 20 {
		for i := in.Offset; i < 20 && out.AddDirEntry(fuse.DirEntry{Name: strings.Repeat("n", int(m.mood)), Off: i + 1}); i++ {
		}
	}
	return m.status()
}
func (m *moodyFS) ReadDirPlus(_ <-chan struct{}, in *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	if m.mood&0x40 != 0 {
		return fuse.ENOSYS
	}
	for i := in.Offset; i < 20; i++ {
		name := string(rune('a' + i))
		e := out.AddDirLookupEntry(fuse.DirEntry{Name: name, Off: i + 1})
		if e == nil {
			break
		}
		var entry fuse.EntryOut
		if m.entry(in.NodeId, name, typeOf(name), &entry) == fuse.OK {
			*e = entry
		}
	}
	return m.status()
}

// frame adds a message to a fuzz input: id, length, payload.
func frame(input []byte, m lisafs.MID, size int, marshal func([]byte) []byte) []byte {
	input = append(input, byte(m))
	input = binary.LittleEndian.AppendUint16(input, uint16(size))
	payload := make([]byte, size)
	marshal(payload)
	return append(input, payload...)
}

// seed is a session that reaches every handler. FDIDs count from 1, the root.
func seed(mood byte) []byte {
	in := []byte{mood}
	add := func(m lisafs.MID, size int, marshal func([]byte) []byte) { in = frame(in, m, size, marshal) }
	add(lisafs.Mount, 0, func(b []byte) []byte { return b })
	walk := lisafs.WalkReq{DirFD: 1, Path: lisafs.StringArray{"d1", "d2", "file"}} // 2, 3, 4
	add(lisafs.Walk, walk.SizeBytes(), walk.MarshalBytes)
	walk = lisafs.WalkReq{DirFD: 1, Path: lisafs.StringArray{"", "d1", "link", "x"}}
	add(lisafs.WalkStat, walk.SizeBytes(), walk.MarshalBytes)
	var mk lisafs.MkdirAtReq
	mk.DirFD, mk.Name, mk.Mode, mk.UID = 2, "d3", 0o2755, 5 // 5
	add(lisafs.MkdirAt, mk.SizeBytes(), mk.MarshalBytes)
	var mn lisafs.MknodAtReq
	mn.DirFD, mn.Name, mn.Mode = 2, "reg", linux.FileMode(unix.S_IFREG|0o644) // 6
	add(lisafs.MknodAt, mn.SizeBytes(), mn.MarshalBytes)
	sym := lisafs.SymlinkAtReq{DirFD: 2, Name: "lnk", Target: "target"} // 7
	add(lisafs.SymlinkAt, sym.SizeBytes(), sym.MarshalBytes)
	readlink := lisafs.ReadLinkAtReq{FD: 7}
	add(lisafs.ReadLinkAt, readlink.SizeBytes(), readlink.MarshalBytes)
	ln := lisafs.LinkAtReq{DirFD: 2, Target: 4, Name: "hard"} // 8
	add(lisafs.LinkAt, ln.SizeBytes(), ln.MarshalBytes)
	var cr lisafs.OpenCreateAtReq
	cr.DirFD, cr.Name, cr.Mode, cr.UID, cr.Flags = 2, "new", 0o4755, 7, unix.O_RDWR // 9, 10
	add(lisafs.OpenCreateAt, cr.SizeBytes(), cr.MarshalBytes)
	wr := lisafs.PWriteReq{Offset: 3, FD: 10, NumBytes: 4, Buf: []byte("data")}
	add(lisafs.PWrite, wr.SizeBytes(), wr.MarshalBytes)
	rd := lisafs.PReadReq{FD: 10, Count: 100}
	add(lisafs.PRead, rd.SizeBytes(), rd.MarshalBytes)
	fa := lisafs.FAllocateReq{FD: 10, Length: 9}
	add(lisafs.FAllocate, fa.SizeBytes(), fa.MarshalBytes)
	fl := lisafs.FlushReq{FD: 10}
	add(lisafs.Flush, fl.SizeBytes(), fl.MarshalBytes)
	sync := lisafs.FsyncReq{FDs: lisafs.FdArray{10}}
	add(lisafs.FSync, sync.SizeBytes(), sync.MarshalBytes)
	st := lisafs.SetStatReq{FD: 9, Mask: unix.STATX_MODE | unix.STATX_SIZE | unix.STATX_UID | unix.STATX_MTIME, Mode: 0o600}
	add(lisafs.SetStat, st.SizeBytes(), st.MarshalBytes)
	open := lisafs.OpenAtReq{FD: 2} // 11
	add(lisafs.OpenAt, open.SizeBytes(), open.MarshalBytes)
	for _, count := range []int32{-4096, 4096, -200} {
		gd := lisafs.Getdents64Req{DirFD: 11, Count: count}
		add(lisafs.Getdents64, gd.SizeBytes(), gd.MarshalBytes)
	}
	gx := lisafs.FGetXattrReq{FD: 9, Name: "user.a"}
	add(lisafs.FGetXattr, gx.SizeBytes(), gx.MarshalBytes)
	sx := lisafs.FSetXattrReq{FD: 9, Name: "user.a", Value: "v"}
	add(lisafs.FSetXattr, sx.SizeBytes(), sx.MarshalBytes)
	lx := lisafs.FListXattrReq{FD: 9}
	add(lisafs.FListXattr, lx.SizeBytes(), lx.MarshalBytes)
	rx := lisafs.FRemoveXattrReq{FD: 9, Name: "user.a"}
	add(lisafs.FRemoveXattr, rx.SizeBytes(), rx.MarshalBytes)
	for _, fd := range []lisafs.FDID{1, 4, 10, 11} {
		stat := lisafs.StatReq{FD: fd}
		add(lisafs.FStat, stat.SizeBytes(), stat.MarshalBytes)
	}
	sf := lisafs.FStatFSReq{FD: 1}
	add(lisafs.FStatFS, sf.SizeBytes(), sf.MarshalBytes)
	rn := lisafs.RenameAtReq{OldDir: 1, OldName: "d1", NewDir: 3, NewName: "loop"}
	add(lisafs.RenameAt, rn.SizeBytes(), rn.MarshalBytes)
	rn2 := lisafs.RenameAt2Req{RenameAtReq: lisafs.RenameAtReq{OldDir: 2, OldName: "d2", NewDir: 1, NewName: "dx"}, Flags: unix.RENAME_EXCHANGE}
	add(lisafs.RenameAt2, rn2.SizeBytes(), rn2.MarshalBytes)
	ul := lisafs.UnlinkAtReq{DirFD: 2, Name: "new"}
	add(lisafs.UnlinkAt, ul.SizeBytes(), ul.MarshalBytes)
	cl := lisafs.CloseReq{FDs: lisafs.FdArray{3, 9, 9, 77, 10}}
	add(lisafs.Close, cl.SizeBytes(), cl.MarshalBytes)
	add(lisafs.Channel, 0, func(b []byte) []byte { return b })
	return in
}

// FuzzConnection feeds a connection messages, or for moods of 128 and more raw
// bytes after a good start. Whatever they are, no handler panics, and everything
// is given back to the file system when the connection ends.
func FuzzConnection(f *testing.F) {
	for _, mood := range []byte{0, 1, 3, 7, 15, 0x45, 0x7f, 0x80, 0xff} {
		f.Add(seed(mood))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		if len(in) == 0 || len(in) > 64<<10 {
			return
		}
		mood, in := in[0], in[1:]
		var stream []byte
		if mood >= 0x80 {
			stream = append(header(0, lisafs.Mount), in...)
		} else {
			for len(in) >= 3 {
				m, size := lisafs.MID(in[0]%40), int(binary.LittleEndian.Uint16(in[1:]))
				in = in[3:]
				size = min(size, len(in))
				stream = append(stream, header(uint32(size), m)...)
				stream = append(stream, in[:size]...)
				in = in[size:]
			}
		}
		counting := newCountingFS(newMoodyFS(mood))
		srv := New(counting, Options{MaxIO: minMaxIO, MaxFDs: 1000, StableIno: mood&0x20 != 0})
		panics := handlerPanics.Load()
		fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		wg.Add(2)
		go func() {
			defer wg.Done()
			if err := srv.Serve(fds[0], ConnOptions{}); err != nil {
				t.Error(err)
			}
		}()
		sock := os.NewFile(uintptr(fds[1]), "client")
		go func() {
			defer wg.Done()
			io.Copy(io.Discard, sock)
		}()
		sock.Write(stream)
		unix.Shutdown(fds[1], unix.SHUT_WR)
		wg.Wait()
		sock.Close()
		srv.Close()
		counting.check(t)
		if n := handlerPanics.Load() - panics; n != 0 {
			t.Errorf("%d panics in handlers", n)
		}
		if st := srv.Stats(); st.ControlFDs != 0 || st.OpenFDs != 0 || st.Nodes != 0 {
			t.Errorf("after the connection: %+v", st)
		}
	})
}
