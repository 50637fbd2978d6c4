// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package fusestream

import (
	"bytes"
	"cmp"
	"slices"

	"golang.org/x/sys/unix"

	"fsva/gofer/fusewire"
)

// Small files that were read ahead; see ahead.go.

// openedAheadLocked takes note of the open of a file, and begins to read the next ones.
func (r *Relay) openedAheadLocked(n *node, q *request) []*flight {
	if n.parent == nil || n.parent.listing == nil {
		return nil
	}
	s := n.parent.listing
	e := s.byName[n.name]
	if e == nil || e == s.last || !e.small() {
		return nil
	}
	s.sort()
	last := s.last
	s.last = e
	if last == nil {
		return nil
	}
	listed, named := e.index-last.index, e.rank-last.rank
	inList, inNames := max(listed, -listed) <= orderSlack, max(named, -named) <= orderSlack
	switch { // of two orders, the one so far
	case inNames && (s.named || !inList):
		s.inOrder(true, named > 0)
	case inList:
		s.inOrder(false, listed > 0)
	default:
		s.streak = 0
	}
	if s.streak < opensToRead || s.reading != nil {
		return nil
	}
	return r.readAheadLocked(s, e, q)
}

// inOrder takes note of a step.
func (s *listing) inOrder(named, forward bool) {
	if s.named != named || s.forward != forward {
		s.streak = 0
	}
	s.named, s.forward = named, forward
	s.streak++
}

// sort makes s.sorted.
func (s *listing) sort() {
	if s.sorted != nil {
		return
	}
	s.sorted = slices.Clone(s.entries)
	slices.SortFunc(s.sorted, func(a, b *entry) int { return cmp.Compare(a.name, b.name) })
	for i, e := range s.sorted {
		e.rank = i
	}
}

// small reports whether a file is one to be read ahead.
func (e *entry) small() bool {
	return e.mode&unix.S_IFMT == unix.S_IFREG && e.size > 0 && e.size <= maxSmallFile
}

// readAheadLocked begins to read files from e on, unless the next ones were read.
func (r *Relay) readAheadLocked(s *listing, e *entry, q *request) []*flight {
	order, at := s.entries, e.index
	if s.named {
		order, at = s.sorted, e.rank
	}
	step := 1
	if !s.forward {
		step = -1
	}
	s.window = min(max(2*s.window, leastFiles), readFiles)
	var files []*entry
	size, held := 0, 0
	for ; at >= 0 && at < len(order) && len(files) < s.window; at += step {
		switch e := order[at]; {
		case !e.small() || !r.table.has(e):
		case e.read:
			if held++; held >= leastFiles && len(files) == 0 {
				return nil // there is time
			}
		default:
			room := e.room()
			if size += room; size > readBytes {
				at = len(order)
				break
			}
			files = append(files, e)
		}
	}
	if len(files) == 0 {
		return nil
	}
	f := r.newFlightLocked()
	if f == nil {
		return nil
	}
	f.read, f.files, s.reading = s, files, f
	for _, e := range files {
		e.read = true
		f.add(q, e.server, fusewire.OpOpen, fusewire.OpRead, fusewire.OpRelease, 0, e.room())
	}
	return []*flight{f}
}

// has reports whether the gofer's node ID of an entry is still the file's.
func (t *nodeTable) has(e *entry) bool {
	if e.unseen {
		return true
	}
	n := t.byServer[e.server]
	return n != nil && n.parent == e.in.dir && n.name == e.name
}

// room is how much of a file is read: more than there was when it was listed, to see
// that it has not grown.
func (e *entry) room() int { return (int(e.size) + pageSize) &^ (pageSize - 1) }

const pageSize = 4096

// readLocked answers READ from data that was read ahead.
func (r *Relay) readLocked(q *request, n *node) local {
	a := &r.table.ahead
	data, ok := a.data[n.server]
	if !ok {
		if n.parent == nil || n.parent.listing == nil || n.parent.listing.reading == nil {
			return local{}
		}
		f := n.parent.listing.reading
		if !slices.ContainsFunc(f.files, func(e *entry) bool { return e.server == n.server }) {
			return local{}
		}
		f.waiting = append(f.waiting, q)
		return local{state: parked}
	}
	off, size := u64(q.msg, atArg2), uint64(u32(q.msg, atIOSize))
	rest := data[min(off, uint64(len(data))):]
	if uint64(len(rest)) <= size {
		a.dropData(n.server) // the kernel has it now
	}
	return local{state: answered, reply: replyMessage(q.unique, 0, rest[:min(size, uint64(len(rest)))])}
}

// dropData drops a file's data.
func (a *ahead) dropData(server uint64) {
	a.size -= len(a.data[server])
	delete(a.data, server)
}

// dataAheadLocked takes the data of files.
func (r *Relay) dataAheadLocked(f *flight, replies [][]byte, valid bool) {
	a := &r.table.ahead
	for i, e := range f.files {
		if 3*i+1 >= len(replies) || !valid || f.read.dir.listing != f.read {
			e.read = false
			continue
		}
		m := replies[3*i+1]
		data := m[fusewire.OutHeaderSize:]
		if replyError(m) != 0 || len(data) >= e.room() || a.data[e.server] != nil || !r.table.has(e) {
			continue
		}
		a.data[e.server] = bytes.Clone(data)
		a.order = append(a.order, e.server)
		a.size += len(data)
	}
	for a.size > maxData {
		a.dropData(a.order[0])
		a.order = a.order[1:]
	}
	if len(a.order) > 2*len(a.data)+readFiles {
		a.order = slices.DeleteFunc(a.order, func(server uint64) bool { _, ok := a.data[server]; return !ok })
	}
}
