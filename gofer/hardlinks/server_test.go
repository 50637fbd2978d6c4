// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package hardlinks

import (
	"fmt"
	"sync"
	"syscall"
	"testing"

	"github.com/hanwen/go-fuse/v2/fuse"
)

// server has a node for each name and does with the names of open files what
// libfuse's path-based interface does.
type server struct {
	fuse.RawFileSystem
	t *testing.T

	mu      sync.Mutex
	next    uint64
	inodes  map[string]*inode // by name
	ids     map[string]uint64 // by name
	names   map[uint64]string // by node; without those whose name is gone
	lookups map[uint64]uint64
	open    map[uint64]int // by node
	files   map[uint64]*opened
	lastFh  uint64
	calls   map[string]int

	// What is to go wrong, or happen, in a call; set before any call.
	openStatus  func(in *fuse.OpenIn) fuse.Status
	flushStatus fuse.Status
	onRead      func()
	oneHandle   bool // as ntfs-3g: every handle is 0
}

type inode struct {
	fuse.Attr
	data []byte
}

type opened struct {
	node  uint64
	inode *inode
}

func newServer(t *testing.T) *server {
	return &server{
		RawFileSystem: fuse.NewDefaultRawFileSystem(), t: t, next: 100,
		inodes: map[string]*inode{}, ids: map[string]uint64{}, names: map[uint64]string{}, lookups: map[uint64]uint64{},
		open: map[uint64]int{}, files: map[uint64]*opened{}, calls: map[string]int{},
	}
}

func (s *server) add(name string, ino uint64) *inode {
	s.inodes[name] = &inode{Attr: fuse.Attr{Ino: ino, Mode: syscall.S_IFREG | 0o644, Nlink: 1}}
	return s.inodes[name]
}

// enter is a call about a node, which must be known.
func (s *server) enter(call string, id uint64) (leave func()) {
	s.mu.Lock()
	s.calls[call]++
	if id != fuse.FUSE_ROOT_ID && s.lookups[id] == 0 {
		s.t.Errorf("%s of node %d, which was forgotten", call, id) // libfuse aborts
	}
	return s.mu.Unlock
}

// named returns the file that a node names now.
func (s *server) named(id uint64) (*inode, fuse.Status) {
	name, ok := s.names[id]
	if !ok {
		return nil, fuse.Status(syscall.ESTALE)
	}
	if s.inodes[name] == nil {
		return nil, fuse.ENOENT
	}
	return s.inodes[name], fuse.OK
}

func (s *server) entry(name string, out *fuse.EntryOut) {
	id, ok := s.ids[name]
	if !ok {
		s.next++
		id = s.next
		s.ids[name], s.names[id] = id, name
	}
	s.lookups[id]++
	*out = fuse.EntryOut{NodeId: id, Attr: s.inodes[name].Attr}
}

func (s *server) Lookup(_ <-chan struct{}, in *fuse.InHeader, name string, out *fuse.EntryOut) fuse.Status {
	defer s.enter("lookup", in.NodeId)()
	if s.inodes[name] == nil {
		return fuse.ENOENT
	}
	s.entry(name, out)
	return fuse.OK
}

func (s *server) Link(_ <-chan struct{}, in *fuse.LinkIn, name string, out *fuse.EntryOut) fuse.Status {
	defer s.enter("link", in.Oldnodeid)()
	from, st := s.named(in.Oldnodeid)
	if !st.Ok() {
		return st
	}
	from.Nlink++
	s.inodes[name] = from
	s.entry(name, out)
	return fuse.OK
}

// remove takes a name away, or hides it while its node is open.
func (s *server) remove(name string) {
	id, known := s.ids[name]
	if known && s.open[id] > 0 {
		hidden := fmt.Sprintf(".fuse_hidden%d", id)
		s.inodes[hidden], s.ids[hidden], s.names[id] = s.inodes[name], id, hidden
	} else {
		s.inodes[name].Nlink--
		delete(s.names, id)
	}
	delete(s.inodes, name)
	delete(s.ids, name)
}

func (s *server) Unlink(_ <-chan struct{}, in *fuse.InHeader, name string) fuse.Status {
	defer s.enter("unlink", in.NodeId)()
	if s.inodes[name] == nil {
		return fuse.ENOENT
	}
	s.remove(name)
	return fuse.OK
}

func (s *server) Rename(_ <-chan struct{}, in *fuse.RenameIn, from, to string) fuse.Status {
	defer s.enter("rename", in.NodeId)()
	if s.inodes[from] == nil {
		return fuse.ENOENT
	}
	if s.inodes[to] != nil {
		s.remove(to)
	}
	s.inodes[to] = s.inodes[from]
	if id, ok := s.ids[from]; ok {
		s.ids[to], s.names[id] = id, to
	}
	delete(s.inodes, from)
	delete(s.ids, from)
	return fuse.OK
}

func (s *server) GetAttr(_ <-chan struct{}, in *fuse.GetAttrIn, out *fuse.AttrOut) fuse.Status {
	defer s.enter("getattr", in.NodeId)()
	if in.Flags()&fuse.FUSE_GETATTR_FH != 0 && !s.oneHandle {
		out.Attr = s.file("getattr", in.NodeId, in.Fh()).inode.Attr
		return fuse.OK
	}
	i, st := s.named(in.NodeId)
	if st.Ok() {
		out.Attr = i.Attr
	}
	return st
}

func (s *server) SetAttr(_ <-chan struct{}, in *fuse.SetAttrIn, out *fuse.AttrOut) fuse.Status {
	defer s.enter("setattr", in.NodeId)()
	fh, _ := in.GetFh()
	i := s.file("setattr", in.NodeId, fh).inode
	if size, ok := in.GetSize(); ok {
		i.data, i.Size = i.data[:size], size
	}
	out.Attr = i.Attr
	return fuse.OK
}

func (s *server) Create(_ <-chan struct{}, in *fuse.CreateIn, name string, out *fuse.CreateOut) fuse.Status {
	defer s.enter("create", in.NodeId)()
	s.add(name, 1000+s.next)
	s.entry(name, &out.EntryOut)
	out.Fh = s.opened(out.NodeId, s.inodes[name])
	return fuse.OK
}

func (s *server) Open(_ <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	defer s.enter("open", in.NodeId)()
	if s.openStatus != nil {
		if st := s.openStatus(in); !st.Ok() {
			return st
		}
	}
	i, st := s.named(in.NodeId)
	if st.Ok() {
		out.Fh = s.opened(in.NodeId, i)
	}
	return st
}

func (s *server) opened(id uint64, i *inode) uint64 {
	s.open[id]++
	if s.oneHandle {
		return 0
	}
	s.lastFh++
	s.files[s.lastFh] = &opened{id, i}
	return s.lastFh
}

// file returns an open file, which must be open and be of that node.
func (s *server) file(call string, id, fh uint64) *opened {
	o := s.files[fh]
	if o == nil || o.node != id {
		s.t.Errorf("%s of file %d, node %d: it is %+v", call, fh, id, o)
		return &opened{inode: &inode{}}
	}
	return o
}

func (s *server) Read(_ <-chan struct{}, in *fuse.ReadIn, buf []byte) (fuse.ReadResult, fuse.Status) {
	leave := s.enter("read", in.NodeId)
	s.file("read", in.NodeId, in.Fh)
	leave()
	if s.onRead != nil {
		s.onRead()
	}
	defer s.enter("read's end", in.NodeId)()
	o := s.file("read's end", in.NodeId, in.Fh) // it must not be closed in between
	n := copy(buf, o.inode.data[min(in.Offset, uint64(len(o.inode.data))):])
	return fuse.ReadResultData(buf[:n]), fuse.OK
}

func (s *server) Write(_ <-chan struct{}, in *fuse.WriteIn, data []byte) (uint32, fuse.Status) {
	defer s.enter("write", in.NodeId)()
	i := s.file("write", in.NodeId, in.Fh).inode
	i.data = append(i.data[:in.Offset], data...)
	i.Size = uint64(len(i.data))
	return uint32(len(data)), fuse.OK
}

func (s *server) Flush(_ <-chan struct{}, in *fuse.FlushIn) fuse.Status {
	defer s.enter("flush", in.NodeId)()
	s.file("flush", in.NodeId, in.Fh)
	st := s.flushStatus
	s.flushStatus = fuse.OK
	return st
}

func (s *server) Fsync(_ <-chan struct{}, in *fuse.FsyncIn) fuse.Status {
	defer s.enter("fsync", in.NodeId)()
	s.file("fsync", in.NodeId, in.Fh)
	return fuse.OK
}

func (s *server) Release(_ <-chan struct{}, in *fuse.ReleaseIn) {
	defer s.enter("release", in.NodeId)()
	if !s.oneHandle {
		s.file("release", in.NodeId, in.Fh)
		delete(s.files, in.Fh)
	}
	s.open[in.NodeId]--
	if s.open[in.NodeId] < 0 {
		s.t.Errorf("node %d was closed more often than opened", in.NodeId)
	}
	hidden := fmt.Sprintf(".fuse_hidden%d", in.NodeId)
	if s.open[in.NodeId] == 0 && s.inodes[hidden] != nil {
		s.remove(hidden)
	}
}

func (s *server) ReleaseAndWait(in *fuse.ReleaseIn) { s.Release(nil, in) }

func (s *server) ReadDirPlus(_ <-chan struct{}, in *fuse.ReadIn, list *fuse.DirEntryList) fuse.Status {
	defer s.enter("readdirplus", in.NodeId)()
	for _, name := range []string{"a", "longer name", "b", "c"} {
		if s.inodes[name] != nil {
			s.entry(name, list.AddDirLookupEntry(fuse.DirEntry{Name: name, Ino: s.inodes[name].Ino, Mode: syscall.S_IFREG}))
		}
	}
	return fuse.OK
}

func (s *server) Forget(id, n uint64) {
	defer s.enter("forget", id)()
	if s.lookups[id] < n {
		s.t.Errorf("node %d was forgotten too often", id)
		return
	}
	if s.lookups[id] -= n; s.lookups[id] == 0 {
		delete(s.lookups, id)
		if s.open[id] > 0 {
			s.t.Errorf("node %d was forgotten while it is open", id)
		}
		if name, ok := s.names[id]; ok {
			delete(s.ids, name)
			delete(s.names, id)
		}
	}
}

// hidden reports whether there is a hidden name.
func (s *server) hidden() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for name := range s.inodes {
		if len(name) > 12 && name[:12] == ".fuse_hidden" {
			return true
		}
	}
	return false
}
