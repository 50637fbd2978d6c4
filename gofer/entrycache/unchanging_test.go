// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package entrycache

import (
	"testing"

	"github.com/hanwen/go-fuse/v2/fuse"
)

// Where nothing changes, a directory is read once, whatever the server says of it.
func TestUnchangingDirectoryIsReadOnce(t *testing.T) {
	names := many(100)
	for _, plus := range []bool{false, true} {
		s := newLister(names...)
		s.flags = 0
		f := New(s, Options{Unchanging: true, AutoInvalData: true})
		first, other := openDir(t, f, 1), openDir(t, f, 1)
		wantList(t, first, plus, names)
		s.took("readdir")
		s.took("readdirplus")
		if s.took("opendir") != 2 {
			t.Error("a directory that is not known is not opened")
		}
		wantList(t, other, plus, names) // the server's handle, the cache's listing
		later := openDir(t, f, 1)
		wantList(t, later, plus, names)
		if got := later.chunk(s.off(90), plus); len(got) == 0 || got[0].Name != names[90] {
			t.Errorf("from the middle: %+v", got)
		}
		for _, d := range []dirHandle{first, other, later} {
			d.close()
			d.close() // nobody does that, and it does nothing
		}
		if st := f.FsyncDir(nil, &fuse.FsyncIn{InHeader: *root(), Fh: later.fh}); !st.Ok() {
			t.Errorf("FSYNCDIR: %v", st)
		}
		for op, want := range map[string]int{"opendir": 0, "readdir": 0, "readdirplus": 0, "getattr": 0, "releasedir": 2} {
			if n := s.took(op); n != want {
				t.Errorf("plus %v: %d %s, want %d", plus, n, op, want)
			}
		}
		if len(f.dirs) != 0 {
			t.Errorf("%d handles are left", len(f.dirs))
		}
	}
}

// A directory that was opened from the cache is read to the end from there, and
// lookups are balanced when entries have left it.
func TestUnchangingHandleOutlivesListing(t *testing.T) {
	names := many(50)
	s := newLister(names...)
	f := New(s, Options{Unchanging: true})
	d := openDir(t, f, 1)
	d.list(true)
	d.close()
	d = openDir(t, f, 1)
	entries := d.chunk(0, false)
	f.InvalInode(1, 0, 0)
	f.InvalEntry(1, names[20], false)
	s.took("readdir")
	got := len(entries)
	for len(entries) > 0 {
		entries = d.chunk(entries[len(entries)-1].Off, false)
		got += len(entries)
	}
	if got != 1+len(names) || s.took("readdir") != 0 {
		t.Errorf("%d entries were read, want all, and none from the server", got)
	}
	list := fuse.NewDirEntryList(make([]byte, 64<<10), 0)
	if st := f.ReadDirPlus(nil, &fuse.ReadIn{InHeader: *root(), Fh: d.fh, Size: 64 << 10}, list); !st.Ok() {
		t.Fatal(st)
	}
	found, outs, err := fuse.ParseDirLookupEntries(list.Bytes())
	if err != nil || len(found) != 1+len(names) {
		t.Fatalf("READDIRPLUS: %d entries, %v", len(found), err)
	}
	for i, out := range outs {
		if looked := found[i].Name != "." && found[i].Name != names[20]; looked != (out.NodeId != 0) {
			t.Errorf("%s is node %d", found[i].Name, out.NodeId)
		}
		if out.NodeId != 0 {
			f.Forget(out.NodeId, 1)
		}
	}
	in := &fuse.ReadIn{InHeader: *root(), Fh: d.fh, Offset: 12345, Size: 1024}
	if st := f.ReadDir(nil, in, fuse.NewDirEntryList(make([]byte, 1024), 0)); st != fuse.EINVAL {
		t.Errorf("where no entry ends: %v, want EINVAL", st)
	}
	d.close()
	if st := f.ReadDir(nil, in, fuse.NewDirEntryList(make([]byte, 1024), 0)); st != fuse.EBADF {
		t.Errorf("after it was closed: %v, want EBADF", st)
	}
	again := openDir(t, f, 1)
	wantList(t, again, false, names)
	if s.took("readdir") == 0 {
		t.Error("what the server said has changed is not asked for")
	}
	again.close()
	for _, name := range names {
		f.InvalEntry(1, name, false)
	}
	if len(s.lookups) != 0 {
		t.Errorf("lookups not forgotten: %v", s.lookups)
	}
}
