// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package fusestream

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"slices"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"fsva/gofer/fusewire"
)

// A guest's request to the gofer takes many times as long as one that the shim answers
// itself. Where nobody else changes the files, the shim therefore
//
//   - puts off the open of a file or directory that is read, if it can do no harm
//     (Info.FreeOpens), until there is a request that takes the gofer;
//   - lists a directory in large pieces when it is read, or when it has been asked for some
//     names of it, and answers READDIRPLUS, READDIR and LOOKUP from that;
//   - reads the small files that come next, when some were opened in the order of the
//     directory or of their names, and answers READ from that.
//
// What it holds is what the kernel does not have: a name is given to the kernel once,
// and taken away when the kernel learns of its node in another way; data is of the whole
// file, and taken away when the file is changed, or was read. So it is never older than
// what the kernel keeps itself. What was asked for while something was being changed is
// not used.

const (
	// listingSize is how much of a directory is listed at a time, in bytes: some 400
	// entries.
	listingSize = 64 << 10
	// lookupsToList is how many names of a directory are looked up before it is listed.
	lookupsToList = 2
	// listingPause is how many more there are after a listing was in vain.
	listingPause = 32
	// maxListed bounds the entries of all listings together. One costs some 300 bytes.
	maxListed = 32 << 10
	// maxSmallFile is the largest file that is read ahead, in bytes.
	maxSmallFile = 32 << 10
	// opensToRead is how many steps in order from file to file there are before the next
	// are read, and orderSlack how many entries a step may skip.
	opensToRead = 1
	orderSlack  = 4
	// leastFiles is how many are read at first, readFiles and readBytes bound what is
	// read ahead at a time, and maxData, in bytes, what is held.
	readFiles  = 64
	leastFiles = 16
	readBytes  = 256 << 10
	maxData    = 8 << 20
)

// ahead is what a relay has asked for before its kernel did. Guarded by Relay.mu, as all
// of it. It is of one connection.
type ahead struct {
	listings []*listing // oldest first
	listed   int        // entries in them
	// unseen are the entries that the kernel does not have, by the gofer's node ID.
	unseen map[uint64]*entry
	// data is of whole files, by the gofer's node ID; order has the same IDs, and others.
	data    map[uint64][]byte
	order   []uint64
	size    int                // bytes in data
	flights map[uint64]*flight // by unique

	changes  uint64 // begins and ends of requests that change something, and notifications
	changing int    // requests that change something and are under way
}

func newAhead() ahead {
	return ahead{unseen: map[uint64]*entry{}, data: map[uint64][]byte{}, flights: map[uint64]*flight{}}
}

// listing is what is known of a directory.
type listing struct {
	dir     *node
	entries []*entry // in the order of the directory
	byName  map[string]*entry
	sorted  []*entry // by name; nil: to be made anew
	next    uint64   // offset at which the listing goes on
	whole   bool
	flight  *flight // that lists more
	reading *flight // that reads files

	// The file that was opened last, and how many were in order.
	last    *entry
	forward bool // of the order; else backward
	named   bool // the order is that of names
	streak  int
	window  int // how many are read next
}

// entry is a name in a directory.
type entry struct {
	in          *listing
	name        string
	index, rank int    // in entries and in sorted
	server      uint64 // the gofer's node ID
	mode        uint32
	size        uint64 // when it was listed
	unseen      bool   // the kernel does not have it: it is in ahead.unseen
	read        bool   // it was read, or is being read, ahead
	out         []byte // fuse.EntryOut; nil unless unseen
}

// flight is a compound under way.
type flight struct {
	unique  uint64 // of its first request
	changes uint64 // ahead.changes when it was sent
	frame   []byte
	list    *listing  // is listed
	from    uint64    // the offset at which it is listed
	dir     *openFile // for whose reader; nil: for LOOKUPs
	read    *listing  // has files
	files   []*entry  // that are read
	waiting []*request
}

// local is what became of a request that may be answered without the gofer.
type local struct {
	state   localState
	reply   []byte
	undo    func()    // what to do if the kernel does not want the reply; nil: nothing
	flights []*flight // to be sent once Relay.mu is released
}

type localState int

const (
	remote   localState = iota // it takes the gofer
	answered                   // reply is the answer
	parked                     // a flight will tell
)

// aheadOn reports whether the connection's volume is one for which the shim asks ahead.
func (l *link) aheadOn() bool {
	return l.hello.Compounds && l.hello.Exclusive && (l.hello.FreeOpens || l.hello.Info.ReadOnly)
}

// localLocked answers a request, if that is possible without the gofer.
func (r *Relay) localLocked(q *request, l *link) (a local) {
	t := &r.table
	n := t.nodes[nodeOf(q.msg)]
	if n == nil || n.id != rootID && n.epoch != l.epoch || q.canceled {
		return local{}
	}
	putOff := l.hello.Exclusive && l.hello.FreeOpens
	switch q.opcode {
	case fusewire.OpLookup:
		if l.aheadOn() {
			return r.lookupLocked(q, l, n)
		}
	case fusewire.OpOpen:
		if !hasArgs(q.msg, 8) || n.ftype != unix.S_IFREG || u32(q.msg, atArg)&(unix.O_ACCMODE|unix.O_TRUNC) != unix.O_RDONLY {
			break
		}
		if putOff {
			a = r.putOffLocked(q, n, fuse.FOPEN_KEEP_CACHE, l)
		}
		if l.aheadOn() {
			a.flights = r.openedAheadLocked(n, q)
		}
	case fusewire.OpOpenDir:
		if hasArgs(q.msg, 8) && putOff {
			a = r.putOffLocked(q, n, fuse.FOPEN_KEEP_CACHE|fuse.FOPEN_CACHE_DIR, l)
		}
	case fusewire.OpFlush, fusewire.OpRelease, fusewire.OpReleaseDir:
		if !hasArgs(q.msg, 8) {
			break
		}
		// The gofer does not know of it.
		if f := t.files[u64(q.msg, atArg)]; f != nil && f.epoch == 0 {
			if q.opcode != fusewire.OpFlush {
				delete(t.files, f.id)
			}
			return local{state: answered, reply: replyMessage(q.unique, 0, nil)}
		}
	case fusewire.OpGetAttr:
		if hasArgs(q.msg, 16) && u32(q.msg, atArg)&fuse.FUSE_GETATTR_FH != 0 {
			if f := t.files[u64(q.msg, atArg2)]; f != nil && f.epoch == 0 {
				binary.NativeEndian.PutUint32(q.msg[atArg:], u32(q.msg, atArg)&^fuse.FUSE_GETATTR_FH)
				put64(q.msg, atArg2, 0)
			}
		}
	case fusewire.OpReadDir, fusewire.OpReadDirPlus:
		if hasArgs(q.msg, 40) {
			if f := t.files[u64(q.msg, atArg)]; f != nil && f.epoch == 0 && l.aheadOn() {
				return r.readDirLocked(q, f, l)
			}
		}
	case fusewire.OpRead:
		if l.aheadOn() && hasArgs(q.msg, 40) {
			return r.readLocked(q, n)
		}
	}
	return a
}

// putOffLocked makes a file that the gofer has not opened.
func (r *Relay) putOffLocked(q *request, n *node, flags uint32, l *link) local {
	out := fuse.OpenOut{OpenFlags: flags}
	f := r.openedLocked(n, q.opcode == fusewire.OpOpenDir, u32(q.msg, atArg), bytesOf(&out), l)
	f.server, f.epoch = 0, 0
	return local{state: answered, reply: replyMessage(q.unique, 0, bytesOf(&out)), undo: func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		delete(r.table.files, f.id)
	}}
}

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

// newFlightLocked makes a flight, nil if something is being changed.
func (r *Relay) newFlightLocked() *flight {
	a := &r.table.ahead
	if a.changing > 0 {
		return nil
	}
	r.own++
	f := &flight{unique: ownUnique | r.own<<1, changes: a.changes, frame: make([]byte, headerSize, 1024)}
	a.flights[f.unique] = f
	return f
}

// add adds the requests that open a file or directory, read size bytes of it from off on,
// and release it, on behalf of q's user.
func (f *flight) add(q *request, node uint64, open, read, release uint32, off uint64, size int) {
	request := func(opcode uint32, args []byte) {
		at := len(f.frame)
		f.frame = append(append(f.frame, q.msg[:fusewire.InHeaderSize]...), args...)
		msg := f.frame[at:]
		binary.NativeEndian.PutUint32(msg, uint32(len(msg)))
		binary.NativeEndian.PutUint32(msg[atOpcode:], opcode)
		put64(msg, atUnique, f.unique)
		put64(msg, atNode, node)
	}
	var readArgs [40]byte
	put64(readArgs[:], 0, openedHandle)
	put64(readArgs[:], 8, off)
	binary.NativeEndian.PutUint32(readArgs[16:], uint32(size))
	var releaseArgs [24]byte
	put64(releaseArgs[:], 0, openedHandle)
	request(open, make([]byte, 8)) // O_RDONLY
	request(read, readArgs[:])
	request(release, releaseArgs[:])
}

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

// landed takes what the gofer has said to a compound.
func (r *Relay) landed(l *link, body []byte) error {
	var replies [][]byte
	for len(body) > 0 {
		if len(body) < fusewire.OutHeaderSize {
			return errFrame
		}
		n := u32(body, 0)
		if n < fusewire.OutHeaderSize || uint64(n) > uint64(len(body)) {
			return errFrame
		}
		replies, body = append(replies, body[:n:n]), body[n:]
	}
	if len(replies) == 0 {
		return errFrame
	}
	r.mu.Lock()
	a := &r.table.ahead
	f := a.flights[replyUnique(replies[0])]
	if f == nil || r.link != l {
		r.mu.Unlock()
		return errFrame
	}
	delete(a.flights, f.unique)
	valid := f.changes == a.changes
	if f.list != nil {
		f.list.flight = nil
		r.listedAheadLocked(f, replies, valid)
	}
	if f.read != nil {
		f.read.reading = nil
		r.dataAheadLocked(f, replies, valid)
	}
	r.mu.Unlock()
	r.resume(f.waiting)
	r.forget(func(*nodeTable) {}) // what was dropped
	return nil
}

// resume goes on with requests that waited for a flight.
func (r *Relay) resume(waiting []*request) {
	if len(waiting) > 0 {
		// Not by the goroutine that reads replies: what is sent may have to wait for one.
		go func() {
			for _, q := range waiting {
				r.begin(q)
			}
		}()
	}
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

// changes reports whether a request may change what is in the file system.
func changes(msg []byte) bool {
	switch opcodeOf(msg) {
	case fusewire.OpSetAttr, fusewire.OpSymlink, fusewire.OpMknod, fusewire.OpMkdir, fusewire.OpUnlink, fusewire.OpRmdir,
		fusewire.OpRename, fusewire.OpRename2, fusewire.OpLink, fusewire.OpWrite, fusewire.OpSetXAttr, fusewire.OpRemoveXAttr,
		fusewire.OpCreate, fusewire.OpTmpfile, fusewire.OpFallocate, fusewire.OpCopyFileRange, fusewire.OpCopyFileRange64:
		return true
	case fusewire.OpOpen:
		return hasArgs(msg, 8) && u32(msg, atArg)&unix.O_TRUNC != 0
	}
	return false
}

// changingLocked drops what a request may change, which is then under way until
// Relay.answer.
func (r *Relay) changingLocked(q *request) {
	t := &r.table
	a := &t.ahead
	q.changes = true
	a.changing++
	a.changes++
	drop := func(id uint64) {
		if n := t.nodes[id]; n != nil {
			a.dropData(n.server)
		}
	}
	dir := t.nodes[nodeOf(q.msg)]
	drop(nodeOf(q.msg))
	size := nameOffset(q.opcode)
	switch q.opcode {
	case fusewire.OpSymlink, fusewire.OpMknod, fusewire.OpMkdir, fusewire.OpUnlink, fusewire.OpRmdir, fusewire.OpLink, fusewire.OpCreate:
		t.dropName(dir, nameAt(q.msg, size, 0))
		if q.opcode == fusewire.OpLink && hasArgs(q.msg, 8) {
			drop(u64(q.msg, atArg))
		}
	case fusewire.OpRename, fusewire.OpRename2:
		t.dropName(dir, nameAt(q.msg, size, 0))
		if hasArgs(q.msg, 8) {
			t.dropName(t.nodes[u64(q.msg, atArg)], nameAt(q.msg, size, 1))
		}
	case fusewire.OpCopyFileRange, fusewire.OpCopyFileRange64:
		if hasArgs(q.msg, 24) {
			drop(u64(q.msg, 56))
		}
	}
}

// clearAheadLocked drops everything, without a word to the gofer: the connection is
// lost. It returns the requests that wait.
func (r *Relay) clearAheadLocked() (waiting []*request) {
	a := &r.table.ahead
	for _, f := range a.flights {
		waiting = append(waiting, f.waiting...)
	}
	for _, s := range a.listings {
		s.dir.listing, s.dir.misses = nil, 0
	}
	changes, changing := a.changes, a.changing
	*a = newAhead()
	a.changes, a.changing = changes+1, changing
	return waiting
}

// noticedLocked drops what a notification of the gofer is about.
func (r *Relay) noticedLocked(msg []byte) {
	t := &r.table
	a := &t.ahead
	a.changes++
	body := msg[fusewire.OutHeaderSize:]
	if replyError(msg) == fusewire.NoteIncEpoch || len(body) < 8 {
		for len(a.listings) > 0 {
			t.dropListing(a.listings[0])
		}
		return
	}
	server := u64(body, 0)
	a.dropData(server)
	if e := a.unseen[server]; e != nil {
		t.dropEntry(e)
	}
	n := t.byServer[server]
	if server == rootID {
		n = t.nodes[rootID]
	}
	if n != nil && n.listing != nil {
		t.dropListing(n.listing)
	}
}
