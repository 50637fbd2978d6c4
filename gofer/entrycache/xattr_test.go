// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package entrycache

import (
	"maps"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/hanwen/go-fuse/v2/fuse"
)

// xattrServer has extended attributes: the same map for every file.
type xattrServer struct {
	*server
	amu    sync.Mutex
	values map[string]string
	status fuse.Status // of LISTXATTR
}

func newXattrServer(values map[string]string) *xattrServer {
	return &xattrServer{server: newServer(), values: values, status: fuse.OK}
}

func (s *xattrServer) ListXAttr(_ <-chan struct{}, _ *fuse.InHeader, dest []byte) (uint32, fuse.Status) {
	s.count("listxattr")
	s.amu.Lock()
	defer s.amu.Unlock()
	var all string
	for _, name := range slices.Sorted(maps.Keys(s.values)) {
		all += name + "\x00"
	}
	return uint32(copy(dest, all)), s.status
}

func (s *xattrServer) GetXAttr(_ <-chan struct{}, _ *fuse.InHeader, name string, dest []byte) (uint32, fuse.Status) {
	s.count("getxattr")
	s.amu.Lock()
	defer s.amu.Unlock()
	v, ok := s.values[name]
	if !ok {
		return 0, fuse.ENOATTR
	}
	return uint32(copy(dest, v)), fuse.OK
}

func (s *xattrServer) SetXAttr(_ <-chan struct{}, _ *fuse.SetXAttrIn, name string, data []byte) fuse.Status {
	s.amu.Lock()
	defer s.amu.Unlock()
	s.values[name] = string(data)
	return fuse.OK
}

func (s *xattrServer) RemoveXAttr(_ <-chan struct{}, _ *fuse.InHeader, name string) fuse.Status {
	s.amu.Lock()
	defer s.amu.Unlock()
	delete(s.values, name)
	return fuse.OK
}

func getxattr(t *testing.T, f *FS, id uint64, name, want string, status fuse.Status) {
	t.Helper()
	buf := make([]byte, 100)
	n, s := f.GetXAttr(nil, &fuse.InHeader{NodeId: id}, name, buf)
	if s != status || s.Ok() && string(buf[:n]) != want {
		t.Errorf("%s is %q, %v, want %q, %v", name, buf[:n], s, want, status)
	}
}

func TestMissingXattrsAreKnown(t *testing.T) {
	s := newXattrServer(map[string]string{"user.a": "1"})
	s.add("f", syscall.S_IFREG)
	f := New(s, Options{ListsXattrs: true})
	id := lookup(t, f, "f", fuse.OK).NodeId
	for range 3 {
		getxattr(t, f, id, "security.selinux", "", fuse.ENOATTR)
		getxattr(t, f, id, "user.b", "", fuse.ENOATTR)
	}
	s.want(t, "listxattr", 1)
	s.want(t, "getxattr", 0)
	getxattr(t, f, id, "user.a", "1", fuse.OK) // values are not kept
	s.want(t, "getxattr", 1)

	f.SetXAttr(nil, &fuse.SetXAttrIn{InHeader: fuse.InHeader{NodeId: id}}, "user.b", []byte("2"))
	getxattr(t, f, id, "user.b", "2", fuse.OK)
	f.RemoveXAttr(nil, &fuse.InHeader{NodeId: id}, "user.a")
	getxattr(t, f, id, "user.a", "", fuse.ENOATTR)
	s.amu.Lock()
	s.values["user.c"] = "3"
	s.amu.Unlock()
	f.InvalInode(id, -1, 0)
	getxattr(t, f, id, "user.c", "3", fuse.OK)
}

func TestXattrsOfServersThatDoNotListThem(t *testing.T) {
	for _, o := range []Options{{}, {ListsXattrs: true}} {
		s := newXattrServer(map[string]string{"user.a": "1"})
		s.status = fuse.ENOSYS
		s.add("f", syscall.S_IFREG)
		f := New(s, o)
		id := lookup(t, f, "f", fuse.OK).NodeId
		getxattr(t, f, id, "user.a", "1", fuse.OK)
		getxattr(t, f, id, "user.b", "", fuse.ENOATTR)
		s.want(t, "getxattr", 2)
	}
}

func TestListXattr(t *testing.T) {
	s := newXattrServer(map[string]string{"user.a": "1", "user.bb": "2"})
	s.add("f", syscall.S_IFREG)
	f := New(s, Options{ListsXattrs: true})
	h := &fuse.InHeader{NodeId: lookup(t, f, "f", fuse.OK).NodeId}
	const want = "user.a\x00user.bb\x00"
	buf := make([]byte, 100)
	for range 2 {
		if n, st := f.ListXAttr(nil, h, buf); !st.Ok() || string(buf[:n]) != want {
			t.Errorf("the list is %q, %v, want %q", buf[:n], st, want)
		}
	}
	if n, st := f.ListXAttr(nil, h, nil); !st.Ok() || int(n) != len(want) {
		t.Errorf("the list has %d bytes, %v, want %d", n, st, len(want))
	}
	if _, st := f.ListXAttr(nil, h, buf[:len(want)-1]); st != fuse.ERANGE {
		t.Errorf("a list that does not fit is %v, want ERANGE", st)
	}
	s.want(t, "listxattr", 1)
}

// A list that a change has overtaken, or that is long, is used but not kept.
func TestXattrListsThatAreNotKept(t *testing.T) {
	s := newXattrServer(map[string]string{"user." + strings.Repeat("x", maxKeptList): "1"})
	s.add("f", syscall.S_IFREG)
	f := New(s, Options{ListsXattrs: true})
	id := lookup(t, f, "f", fuse.OK).NodeId
	getxattr(t, f, id, "user.a", "", fuse.ENOATTR)
	getxattr(t, f, id, "user.a", "", fuse.ENOATTR)
	s.want(t, "listxattr", 2)

	s.values = map[string]string{}
	s.hook = func(op string) {
		if op == "listxattr" {
			f.SetXAttr(nil, &fuse.SetXAttrIn{InHeader: fuse.InHeader{NodeId: id}}, "user.new", []byte("2"))
			s.mu.Lock()
			s.hook = nil
			s.mu.Unlock()
			s.amu.Lock()
			delete(s.values, "user.new") // the reply is older than the change
			s.amu.Unlock()
		}
	}
	getxattr(t, f, id, "user.new", "", fuse.ENOATTR)
	s.amu.Lock()
	s.values["user.new"] = "2"
	s.amu.Unlock()
	getxattr(t, f, id, "user.new", "2", fuse.OK)
}
