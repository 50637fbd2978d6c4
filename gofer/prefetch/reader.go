// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package prefetch

import (
	"syscall"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// reader is how far somebody has come with the files of a directory. Its fields
// are guarded by FS.mu.
type reader struct {
	at     int   // the file asked for last
	streak int   // steps in order up to there
	window int   // how many files to be ahead
	ahead  int   // the first file that is neither fetched nor queued
	queue  []int // files to fetch, in order
}

// advance moves the reader to a file, and queues what it will want next once it
// has used up half of what it was led by: many requests at once cost the server
// less than the same number one by one. The directory has n files.
func (r *reader) advance(at, n int) {
	switch step := at - r.at; {
	case step == 0 && r.ahead > 0:
		return
	case step > 0 && step <= slack:
		r.streak++
	default:
		*r = reader{}
	}
	r.at = at
	r.ahead = max(r.ahead, at+1)
	r.window = max(r.window, minWindow)
	if r.streak < minStreak || r.ahead-at > r.window/2 {
		return
	}
	for ; r.ahead < n && r.ahead-at <= r.window; r.ahead++ {
		r.queue = append(r.queue, r.ahead)
	}
}

// take returns the next file to fetch. The reader has no use any more for those
// it has come to by itself.
func (r *reader) take() (index int, ok bool) {
	for len(r.queue) > 0 {
		index, r.queue = r.queue[0], r.queue[1:]
		if index > r.at {
			return index, true
		}
	}
	return 0, false
}

// Lookup implements fuse.RawFileSystem.
func (f *FS) Lookup(cancel <-chan struct{}, header *fuse.InHeader, name string, out *fuse.EntryOut) fuse.Status {
	f.mu.Lock()
	d := f.dirs[header.NodeId]
	index, listed := 0, false
	if d != nil {
		index, listed = d.index[name]
	}
	if !listed {
		f.mu.Unlock()
		return f.RawFileSystem.Lookup(cancel, header, name, out)
	}
	f.askedLocked(cancel, entries, place{d, index})
	status := f.RawFileSystem.Lookup(cancel, header, name, out)
	if status.Ok() && out.NodeId != 0 {
		f.mu.Lock()
		if index < len(d.names) && d.names[index] == name && d.ids[index] != out.NodeId {
			f.placeLocked(d, index, out.NodeId)
		}
		f.mu.Unlock()
	}
	return status
}

// Open implements fuse.RawFileSystem.
func (f *FS) Open(cancel <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	if in.Flags&unix.O_ACCMODE == unix.O_RDONLY && in.Flags&unix.O_TRUNC == 0 {
		f.asked(cancel, data, in.NodeId)
	}
	return f.RawFileSystem.Open(cancel, in, out)
}

// GetXAttr implements fuse.RawFileSystem.
func (f *FS) GetXAttr(cancel <-chan struct{}, header *fuse.InHeader, attr string, dest []byte) (uint32, fuse.Status) {
	f.asked(cancel, xattrs, header.NodeId)
	return f.RawFileSystem.GetXAttr(cancel, header, attr, dest)
}

// ListXAttr implements fuse.RawFileSystem.
func (f *FS) ListXAttr(cancel <-chan struct{}, header *fuse.InHeader, dest []byte) (uint32, fuse.Status) {
	f.asked(cancel, xattrs, header.NodeId)
	return f.RawFileSystem.ListXAttr(cancel, header, dest)
}

// asked notes that a file is wanted, and waits for it if it is being fetched.
func (f *FS) asked(cancel <-chan struct{}, k kind, nodeID uint64) {
	f.mu.Lock()
	p, ok := f.places[nodeID]
	if !ok {
		f.mu.Unlock()
		return
	}
	f.askedLocked(cancel, k, p)
}

// askedLocked is asked for a known place. It releases FS.mu.
func (f *FS) askedLocked(cancel <-chan struct{}, k kind, p place) {
	if !f.wants[k] || f.closed {
		f.mu.Unlock()
		return
	}
	r := &p.dir.readers[k]
	late := len(r.queue) > 0 && r.queue[0] <= p.index
	r.advance(p.index, len(p.dir.names))
	for n := len(r.queue); n > 0 && f.fetchers < maxFetchers; n-- {
		f.fetchers++
		p.dir.busy++
		f.wg.Go(func() { f.fetchAll(p.dir, k) })
	}
	over := f.fetching[fetch{p, k}]
	if over != nil || late {
		r.window = min(2*r.window, maxWindow) // the reader has caught up
	}
	f.mu.Unlock()
	if over == nil {
		return
	}
	select {
	case <-over:
	case <-cancel:
	}
}

// fetchAll fetches what is queued for a reader.
func (f *FS) fetchAll(d *directory, k kind) {
	f.mu.Lock()
	for !f.closed && f.wants[k] {
		index, ok := d.readers[k].take()
		if !ok || index >= len(d.names) {
			break
		}
		f.mu.Unlock()
		f.fetch(place{d, index}, d.names[index], k)
		f.mu.Lock()
	}
	f.fetchers--
	d.busy--
	gone := f.evictLocked(maxEntries)
	f.mu.Unlock()
	f.forget(gone)
}

// once does something unless it is being done, in which case it waits for that.
func (f *FS) once(what fetch, do func()) {
	f.mu.Lock()
	over := f.fetching[what]
	if over != nil {
		f.mu.Unlock()
		<-over
		return
	}
	over = make(chan struct{})
	f.fetching[what] = over
	f.mu.Unlock()
	do()
	f.mu.Lock()
	delete(f.fetching, what)
	f.mu.Unlock()
	close(over)
}

// fetch has the caches below learn what a reader will ask for. Errors are for
// the reader to meet.
func (f *FS) fetch(p place, name string, k kind) {
	f.once(fetch{p, k}, func() {
		var entry fuse.EntryOut
		found := false
		lookup := func() {
			s := f.RawFileSystem.Lookup(nil, &fuse.InHeader{NodeId: p.dir.id}, name, &entry)
			found = s.Ok() && entry.NodeId != 0
		}
		if k != entries {
			f.once(fetch{p, entries}, lookup)
		}
		if !found {
			lookup() // somebody else did
		}
		if found {
			f.fetchFile(&entry, k)
			f.Forget(entry.NodeId, 1)
		}
	})
}

// fetchFile is fetch for a file that the caller holds.
func (f *FS) fetchFile(entry *fuse.EntryOut, k kind) {
	header := fuse.InHeader{NodeId: entry.NodeId}
	switch k {
	case entries:
		if entry.EntryTimeout() == 0 || entry.AttrTimeout() == 0 {
			f.mu.Lock()
			f.wants[entries] = false // nobody keeps it
			f.mu.Unlock()
		}
	case xattrs:
		f.RawFileSystem.ListXAttr(nil, &header, nil)
	case data:
		if entry.Attr.Mode&syscall.S_IFMT != syscall.S_IFREG || entry.Attr.Size == 0 || entry.Attr.Size > maxFile {
			return
		}
		var open fuse.OpenOut
		if s := f.RawFileSystem.Open(nil, &fuse.OpenIn{InHeader: header}, &open); s.Ok() {
			f.RawFileSystem.Release(nil, &fuse.ReleaseIn{InHeader: header, Fh: open.Fh})
		}
	}
}
