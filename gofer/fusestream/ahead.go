// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package fusestream

import (
	"encoding/binary"

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
