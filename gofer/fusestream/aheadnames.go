// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package fusestream

import (
	"bytes"
	"encoding/binary"
	"slices"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"fsva/gofer/fusewire"
)

// Names that were listed ahead; see ahead.go.

// lookupLocked answers LOOKUP from a listing.
func (r *Relay) lookupLocked(q *request, l *link, dir *node) local {
	name, s := nameAt(q.msg, 0, 0), dir.listing
	var e *entry
	if s != nil {
		e = s.byName[name]
	}
	switch {
	case e == nil && s != nil && s.flight != nil:
		s.flight.waiting = append(s.flight.waiting, q)
		return local{state: parked}
	case e == nil:
		if dir.misses++; dir.misses < lookupsToList || s != nil && s.whole {
			return local{}
		}
		if s == nil {
			s = r.table.ahead.newListing(dir)
		}
		return local{flights: r.listLocked(s, q, s.next)}
	case !e.unseen:
		return local{} // the kernel has forgotten it
	}
	a := local{state: answered}
	if e.index >= len(s.entries)*3/4 && !s.whole && s.flight == nil {
		a.flights = r.listLocked(s, q, s.next)
	}
	out := e.out
	r.table.ahead.seen(e.server)
	n := r.entryLocked(dir, name, out, l)
	a.reply = replyMessage(q.unique, 0, out)
	a.undo = func() { r.forget(func(t *nodeTable) { t.forget(n.id, 1) }) }
	return a
}

// newListing makes an empty one.
func (a *ahead) newListing(dir *node) *listing {
	s := &listing{dir: dir, byName: map[string]*entry{}}
	dir.listing = s
	a.listings = append(a.listings, s)
	return s
}

// listLocked asks for the entries of a directory from an offset on. There is no flight if
// that is not possible now.
func (r *Relay) listLocked(s *listing, q *request, from uint64) []*flight {
	f := r.newFlightLocked()
	if f == nil {
		return nil
	}
	f.list, f.from, s.flight, s.dir.misses = s, from, f, 0
	f.add(q, s.dir.server, fusewire.OpOpenDir, fusewire.OpReadDirPlus, fusewire.OpReleaseDir, from, listingSize)
	return []*flight{f}
}

// readDirLocked answers READDIR and READDIRPLUS of a directory that the gofer has not
// opened. The kernel asks for a page at a time.
func (r *Relay) readDirLocked(q *request, f *openFile, l *link) local {
	off := u64(q.msg, atArg2)
	s := f.node.listing
	switch {
	case f.direct:
		return local{}
	case off == f.namesFrom && (f.fresh || off > 0 && (f.names != nil || f.namesEnd)):
		return r.namesLocked(q, f, l)
	case s != nil && s.flight != nil:
		s.flight.waiting = append(s.flight.waiting, q)
		return local{state: parked}
	case s == nil:
		s = r.table.ahead.newListing(f.node)
	}
	flights := r.listLocked(s, q, off)
	if len(flights) == 0 {
		return local{}
	}
	flights[0].dir, flights[0].waiting = f, []*request{q}
	return local{state: parked, flights: flights}
}

// maxEntrySize is the most that an entry of READDIRPLUS takes.
const maxEntrySize = fusewire.EntryOutSize + fusewire.DirentSize + unix.NAME_MAX + 8

// namesLocked answers from what is held of the directory. Of nodes that the kernel has it
// is told the name only: what it knows of them may be newer.
func (r *Relay) namesLocked(q *request, f *openFile, l *link) local {
	size := int(u32(q.msg, atIOSize))
	reply := replyMessage(q.unique, 0, nil)
	var given []uint64
	f.fresh = false
	for b := f.names; len(b) > 0; b = f.names {
		name, n := direntPlus(b)
		if n == 0 {
			f.direct = true
			break
		}
		entry, dirent := b[:fusewire.EntryOutSize], b[fusewire.EntryOutSize:n]
		plus := q.opcode == fusewire.OpReadDirPlus
		if plus {
			dirent = b[:n]
		}
		if len(reply)-fusewire.OutHeaderSize+len(dirent) > size {
			break
		}
		if plus {
			e := r.table.ahead.unseen[u64(entry, 0)]
			if e != nil && e.in.dir == f.node && e.name == name {
				r.table.ahead.seen(e.server)
				given = append(given, r.entryLocked(f.node, name, entry, l).id)
			} else {
				clear(entry)
			}
		}
		reply = append(reply, dirent...)
		f.names, f.namesFrom = b[n:], u64(b, fusewire.EntryOutSize+8)
	}
	if len(reply) == fusewire.OutHeaderSize && !f.namesEnd {
		f.direct = true
		return local{}
	}
	if len(f.names) == 0 {
		f.names = nil
	}
	binary.NativeEndian.PutUint32(reply, uint32(len(reply)))
	return local{state: answered, reply: reply, undo: func() {
		r.forget(func(t *nodeTable) {
			for _, id := range given {
				t.forget(id, 1)
			}
		})
	}}
}

// direntPlus returns the name in the entry of READDIRPLUS at the beginning of b, and the
// size of the entry; 0 if there is none.
func direntPlus(b []byte) (name string, size int) {
	const head = fusewire.EntryOutSize + fusewire.DirentSize
	if len(b) < head {
		return "", 0
	}
	length := int(u32(b, fusewire.EntryOutSize+16))
	size = fusewire.EntryOutSize + (fusewire.DirentSize+length+7)&^7
	if length < 0 || size > len(b) {
		return "", 0
	}
	return string(b[head : head+length]), size
}

// listedAheadLocked takes the entries of a directory.
func (r *Relay) listedAheadLocked(f *flight, replies [][]byte, valid bool) {
	s, t := f.list, &r.table
	ok := len(replies) > 1 && replyError(replies[1]) == 0
	gone := s.dir.listing != s
	if ok {
		b := replies[1][fusewire.OutHeaderSize:]
		s.whole = len(b)+maxEntrySize <= listingSize
		if f.dir != nil && valid {
			f.dir.names, f.dir.namesFrom, f.dir.fresh, f.dir.namesEnd = bytes.Clone(b), f.from, true, s.whole
		}
		for {
			name, n := direntPlus(b)
			if n == 0 {
				break
			}
			var out fuse.EntryOut
			copy(bytesOf(&out), b)
			s.next = u64(b, fusewire.EntryOutSize+8)
			if out.NodeId != 0 {
				t.listedAhead(s, name, &out, valid && !gone)
			}
			b = b[n:]
		}
		s.sorted = nil
	}
	if !ok || !valid {
		t.dropListing(s)
		s.dir.misses = -listingPause
		if f.dir != nil {
			f.dir.direct = true
		}
	}
}

// listedAhead takes one entry, with the lookup that the gofer has counted.
func (t *nodeTable) listedAhead(s *listing, name string, out *fuse.EntryOut, valid bool) {
	a := &t.ahead
	if n := t.byServer[out.NodeId]; n != nil {
		n.granted++
		if valid && s.byName[name] == nil {
			a.add(s, &entry{name: name, server: out.NodeId, mode: out.Mode, size: out.Size})
		}
		return
	}
	if !valid || s.byName[name] != nil || a.unseen[out.NodeId] != nil || a.listed >= maxListed && !t.makeRoom(s) {
		t.gone = append(t.gone, forgotten{out.NodeId, 1, t.epoch})
		return
	}
	e := &entry{name: name, server: out.NodeId, mode: out.Mode, size: out.Size, unseen: true, out: bytes.Clone(bytesOf(out))}
	a.unseen[e.server] = e
	a.add(s, e)
}

// listedByKernel takes note of an entry that the kernel has read itself, at the beginning
// of b.
func (t *nodeTable) listedByKernel(dir, n *node, b []byte) {
	var out fuse.EntryOut
	copy(bytesOf(&out), b)
	s := dir.listing
	if s == nil {
		s = t.ahead.newListing(dir)
	}
	if s.flight != nil || s.byName[n.name] != nil || t.ahead.listed >= maxListed && !t.makeRoom(s) {
		return
	}
	s.sorted = nil
	s.next = u64(b, fusewire.EntryOutSize+8)
	t.ahead.add(s, &entry{name: n.name, server: n.server, mode: out.Mode, size: out.Size})
}

// add appends an entry to a listing.
func (a *ahead) add(s *listing, e *entry) {
	e.in, e.index = s, len(s.entries)
	s.entries = append(s.entries, e)
	s.byName[e.name] = e
	a.listed++
}

// makeRoom drops the oldest listing but s and reports whether there was one.
func (t *nodeTable) makeRoom(s *listing) bool {
	for _, old := range t.ahead.listings {
		if old != s && old.flight == nil && old.reading == nil {
			t.dropListing(old)
			return true
		}
	}
	return false
}

// dropListing drops a listing. Its flights land in it and are of no use.
func (t *nodeTable) dropListing(s *listing) {
	a := &t.ahead
	i := slices.Index(a.listings, s)
	if i < 0 {
		return
	}
	a.listings = slices.Delete(a.listings, i, i+1)
	a.listed -= len(s.entries)
	for _, e := range s.entries {
		t.dropEntry(e)
	}
	s.dir.listing, s.dir.misses = nil, 0
}

// dropEntry takes an entry away that the kernel is not to get from us.
func (t *nodeTable) dropEntry(e *entry) {
	if !e.unseen {
		return
	}
	t.ahead.seen(e.server)
	t.ahead.dropData(e.server)
	t.gone = append(t.gone, forgotten{e.server, 1, t.epoch})
}

// seen says that the kernel has the node, which is in an entry perhaps. It returns the
// lookup that the gofer has counted for that entry.
func (a *ahead) seen(server uint64) uint64 {
	e := a.unseen[server]
	if e == nil {
		return 0
	}
	e.unseen, e.out = false, nil
	delete(a.unseen, server)
	return 1
}

// dropName is for a name that is changed.
func (t *nodeTable) dropName(dir *node, name string) {
	if dir == nil || dir.listing == nil {
		return
	}
	if e := dir.listing.byName[name]; e != nil {
		t.dropEntry(e)
		delete(dir.listing.byName, name)
		e.mode = 0 // no file to read
	}
}
