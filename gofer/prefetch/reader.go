// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package prefetch

import (
	"syscall"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// readdirSize is how much of a directory is asked for at once, in bytes: as much as
// the frontend asks for.
const readdirSize = 64 << 10

// reader is how far somebody has come with the files of a directory, or with its
// subdirectories (see directory.step). Its fields are guarded by FS.mu.
type reader struct {
	at     int   // the file asked for last
	streak int   // steps in order up to there
	window int   // how many files to be ahead
	ahead  int   // the first file that is neither fetched nor queued
	queue  []int // files to fetch, in order
}

// advance moves the reader to a file, and queues what it will want next once it
// has used up half of what it was led by: many requests at once cost the server
// less than the same number one by one. There are n files, and least is the
// smallest window.
func (r *reader) advance(at, n, least int) {
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
	r.window = max(r.window, least)
	if r.streak < minStreak || r.ahead-at > r.window/2 {
		return
	}
	r.enqueue(at, n)
}

// enqueue queues what the reader is to be led by.
func (r *reader) enqueue(at, n int) {
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
		status := f.RawFileSystem.Lookup(cancel, header, name, out)
		if d == nil && status.Ok() && out.NodeId != 0 {
			f.strayed(header.NodeId)
		}
		return status
	}
	f.askedLocked(cancel, entries, place{d, index}, 0)
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

// strayed notes that a file was found in a directory that nobody has read. If there
// are several, whoever looks them up may have their names from elsewhere, and in
// order: the directory is read then. The caller holds it.
func (f *FS) strayed(dirID uint64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.wants[listings] || f.closed || f.dirs[dirID] != nil || f.fetchers[listings] >= maxFetchers {
		return
	}
	if f.unlisted[dirID]++; f.unlisted[dirID] <= minStreak {
		if len(f.unlisted) > maxEntries {
			clear(f.unlisted)
		}
		return
	}
	delete(f.unlisted, dirID)
	d := f.newDirectoryLocked(dirID) // which holds back the caller's lookups
	d.busy++
	f.fetchers[listings]++
	f.wg.Go(func() {
		f.readDirectory(fuse.InHeader{NodeId: dirID})
		f.fetched(d, listings)
	})
}

// Open implements fuse.RawFileSystem.
func (f *FS) Open(cancel <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	if in.Flags&unix.O_ACCMODE == unix.O_RDONLY && in.Flags&unix.O_TRUNC == 0 {
		f.asked(cancel, data, in.NodeId)
	}
	return f.RawFileSystem.Open(cancel, in, out)
}

// OpenDir implements fuse.RawFileSystem.
func (f *FS) OpenDir(cancel <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	f.asked(cancel, listings, in.NodeId)
	return f.RawFileSystem.OpenDir(cancel, in, out)
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
	f.askedLocked(cancel, k, p, nodeID)
}

// askedLocked is asked for a known place. It releases FS.mu.
func (f *FS) askedLocked(cancel <-chan struct{}, k kind, p place, nodeID uint64) {
	step, ok := p.dir.step(k, p.index)
	if !ok || !f.wants[k] || f.closed {
		f.mu.Unlock()
		return
	}
	r := &p.dir.readers[k]
	late := len(r.queue) > 0 && r.queue[0] <= step
	least, most := k.windows()
	r.advance(step, p.dir.steps(k), least)
	f.startLocked(p.dir, k)
	if r.streak >= minStreak {
		f.leadLocked(p.dir, k, nodeID)
	}
	over := f.fetching[fetch{p, k}]
	if over != nil || late {
		r.window = min(2*r.window, most) // the reader has caught up
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

// startLocked starts fetchers for what is queued for a reader.
func (f *FS) startLocked(d *directory, k kind) {
	for n := len(d.readers[k].queue); n > 0 && f.fetchers[k] < maxFetchers; n-- {
		f.fetchers[k]++
		d.busy++
		f.wg.Go(func() { f.fetchAll(d, k) })
	}
}

// leadLocked looks beyond a directory that is read in order: who walks a tree goes
// from a directory to its subdirectories, and from the last of its files to those
// of the directory that follows.
func (f *FS) leadLocked(d *directory, k kind, nodeID uint64) {
	next := f.dirs[nodeID]
	if k != listings {
		r, n := &d.readers[k], len(d.names)
		if r.ahead < n || n-r.at > r.window/2 {
			return
		}
		next = f.followingLocked(d)
	}
	if next == nil || next == d || next.readers[k].ahead > 0 {
		return
	}
	least, _ := k.windows()
	r := &next.readers[k]
	*r = reader{at: -1, streak: minStreak, window: least}
	r.enqueue(r.at, next.steps(k))
	f.startLocked(next, k)
}

// followingLocked returns the directory that comes after d where d is listed, or nil
// if that is not known. It is read then, so that it is soon.
func (f *FS) followingLocked(d *directory) *directory {
	p, ok := f.places[d.id]
	if !ok {
		return nil
	}
	step, ok := p.dir.step(listings, p.index)
	if !ok || step+1 >= len(p.dir.subdirs) {
		return nil
	}
	next := f.dirs[p.dir.ids[p.dir.subdirs[step+1]]]
	if r := &p.dir.readers[listings]; next == nil && f.wants[listings] && r.ahead <= step+1 {
		*r = reader{at: step, ahead: step + 2, queue: []int{step + 1}}
		f.startLocked(p.dir, listings)
	}
	return next
}

// fetchAll fetches what is queued for a reader.
func (f *FS) fetchAll(d *directory, k kind) {
	defer f.fetched(d, k)
	f.mu.Lock()
	defer f.mu.Unlock()
	for !f.closed && f.wants[k] {
		step, ok := d.readers[k].take()
		if !ok || step >= d.steps(k) {
			break
		}
		p := place{d, d.at(k, step)}
		name := d.names[p.index]
		f.mu.Unlock()
		f.fetch(p, name, k)
		f.mu.Lock()
	}
}

// fetched ends a fetcher.
func (f *FS) fetched(d *directory, k kind) {
	f.mu.Lock()
	f.fetchers[k]--
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
			f.fetchFile(p, &entry, k)
			f.Forget(entry.NodeId, 1)
		}
	})
}

// fetchFile is fetch for a file that the caller holds.
func (f *FS) fetchFile(p place, entry *fuse.EntryOut, k kind) {
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
	case listings:
		if entry.Attr.Mode&syscall.S_IFMT == syscall.S_IFDIR {
			f.mu.Lock()
			f.placeLocked(p.dir, p.index, entry.NodeId) // d is busy: its names stay
			f.mu.Unlock()
			f.readDirectory(header)
		}
	}
}

// readDirectory has the caches below, and this one, learn a listing, or the
// beginning of a long one.
func (f *FS) readDirectory(header fuse.InHeader) {
	var open fuse.OpenOut
	if s := f.RawFileSystem.OpenDir(nil, &fuse.OpenIn{InHeader: header}, &open); !s.Ok() {
		return
	}
	buf := f.bufs.Get().(*[]byte)
	defer f.bufs.Put(buf)
	in := fuse.ReadIn{InHeader: header, Fh: open.Fh, Size: readdirSize}
	for read := 0; read < maxListing; {
		list := fuse.NewDirEntryList(*buf, in.Offset)
		var found []fuse.DirEntry
		var outs []fuse.EntryOut
		var status fuse.Status
		var err error
		if f.plus {
			status = f.ReadDirPlus(nil, &in, list)
			found, outs, err = fuse.ParseDirLookupEntries(list.Bytes())
		} else {
			status = f.ReadDir(nil, &in, list)
			found, err = fuse.ParseDirEntries(list.Bytes())
		}
		if !status.Ok() || err != nil {
			break
		}
		for i := range outs {
			if outs[i].NodeId != 0 {
				f.Forget(outs[i].NodeId, 1)
			}
		}
		if len(found) == 0 || found[len(found)-1].Off == in.Offset {
			break
		}
		in.Offset = found[len(found)-1].Off
		read += len(found)
	}
	f.RawFileSystem.ReleaseDir(&fuse.ReleaseIn{InHeader: header, Fh: open.Fh})
}
