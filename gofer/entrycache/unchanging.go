// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package entrycache

import "github.com/hanwen/go-fuse/v2/fuse"

// openedDir is an open directory, where directories do not change. If it was opened
// with its listing known, the server has never heard of it: it is read from that
// listing to the end, even when the cache has dropped it meanwhile.
type openedDir struct {
	listing *listing // complete; nil: the server has it open
	fh      uint64   // the server's
}

// openUnchanging is OpenDir where directories do not change. All handles have
// numbers of ours.
func (f *FS) openUnchanging(cancel <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	var d openedDir
	f.mu.Lock()
	if n := f.table.nodes[in.NodeId]; n != nil && n.listing != nil && n.listing.complete {
		d.listing = n.listing
		f.table.listings.lru.MoveToFront(n.listing.el)
		*out = fuse.OpenOut{}
	}
	f.mu.Unlock()
	if d.listing == nil {
		if status := f.RawFileSystem.OpenDir(cancel, in, out); !status.Ok() {
			return status
		}
		d.fh = out.Fh
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.lastFh++
	out.Fh = f.lastFh
	f.dirs[out.Fh] = d
	return fuse.OK
}

func (f *FS) releaseUnchanging(in *fuse.ReleaseIn) {
	f.mu.Lock()
	d, ok := f.dirs[in.Fh]
	delete(f.dirs, in.Fh)
	f.mu.Unlock()
	if ok && d.listing == nil {
		request := *in
		request.Fh = d.fh
		f.RawFileSystem.ReleaseDir(&request)
	}
}

// FsyncDir implements fuse.RawFileSystem.
func (f *FS) FsyncDir(cancel <-chan struct{}, in *fuse.FsyncIn) fuse.Status {
	if f.opts.Unchanging {
		return fuse.OK // there is nothing to write
	}
	return f.RawFileSystem.FsyncDir(cancel, in)
}

// readUnchanging answers a READDIR or READDIRPLUS of a directory that the server
// has not opened. In one for the server it puts the server's handle.
func (f *FS) readUnchanging(in *fuse.ReadIn, list *fuse.DirEntryList, plus bool) (status fuse.Status, answered bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	d, ok := f.dirs[in.Fh]
	if !ok {
		return fuse.EBADF, true
	}
	if d.listing == nil {
		in.Fh = d.fh
		return fuse.OK, false
	}
	at, ok := d.listing.after[in.Offset]
	if !ok {
		return fuse.EINVAL, true
	}
	f.listHits.Add(1)
	if plus {
		f.listPlus(f.table.nodes[in.NodeId], d.listing.entries[at:], list, true /* all */)
	} else {
		listPlain(d.listing.entries[at:], list)
	}
	return fuse.OK, true
}
