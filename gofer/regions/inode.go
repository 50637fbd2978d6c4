// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package regions

import (
	"container/list"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"fsva/gofer/errno"
)

// inode is what a Writable knows of one file.
type inode struct {
	id uint64 // immutable

	// flushing serialises write-backs that hold data for reading only.
	flushing sync.Mutex

	// data is held for reading by what uses the region, and for writing by what
	// changes the file; in both cases across requests to the file system below.
	data sync.RWMutex

	// The rest is guarded by Writable.mu. size, rw and ro change, and valid grows
	// but by fills, only with data held for writing, too.

	size  int64
	known bool  // size is what the file system below says, or will when all is written back
	seen  stamp // of the file after its last change by us; zero: not asked yet

	rw, ro int     // the region, opened for us and for clients; -1: none
	small  []byte  // all of a file that was written and that nobody has asked for; nil, or there is no region
	valid  extents // bytes of the region, or of small, that are the file's
	dirty  extents // those that the file system below does not have; all are valid
	fills  fills

	refs    int
	donated int    // descriptors of ro in clients' hands
	held    uint64 // lookups that the caller has forgotten and the server not
	dead    bool   // its name is gone: there is no use for the data once it is closed
	used    bool   // since the eviction last looked
	cost    int64  // what it adds to Writable.resident
	lentFor int64  // what it adds to Writable.donated
	el      *list.Element

	unwritten int64       // what dirty adds to Writable.dirty
	since     time.Time   // when the oldest of dirty was written
	writer    *fileHandle // with which to write dirty; nil if there is none
	header    fuse.InHeader

	// A failed write-back or FSYNC is reported once to each handle that is open,
	// and to the next one if there is none; compare Linux' errseq_t.
	failed   bool        // the last write-back
	err      fuse.Status // of failure number failures
	failures uint64
	reported bool // failure number failures, to at least one handle
}

// stamp tells one content of a file from another, as Linux does with
// FUSE_AUTO_INVAL_DATA (fs/fuse/inode.c, fuse_change_attributes). The change time
// is not in it: a rename changes it.
type stamp struct {
	size, mtime uint64
	mtimensec   uint32
}

func stampOf(a *fuse.Attr) stamp { return stamp{a.Size, a.Mtime, a.Mtimensec} }

func (n *inode) whole() extent { return extent{0, n.size} }

// kept reports whether there is data of the file.
func (n *inode) kept() bool { return n.rw >= 0 || n.small != nil }

// fullCost is what the region costs if it has no holes.
func (n *inode) fullCost() int64 { return max(minFileCost, (n.size+4095)&^4095) }

// chargeLocked updates what the inode costs.
func (w *Writable) chargeLocked(n *inode) {
	var cost, lent int64
	if n.kept() {
		cost = minFileCost
		var st unix.Stat_t
		if n.size > minFileCost && unix.Fstat(n.rw, &st) == nil { // which cannot fail
			cost = max(cost, st.Blocks*512)
		}
		if n.donated > 0 {
			lent = n.fullCost()
		}
	}
	w.resident += cost - n.cost
	w.donated += lent - n.lentFor
	n.cost, n.lentFor = cost, lent
}

// regionLocked returns the descriptor of the region, which is made if there is
// none.
//
// Preconditions: data is held.
func (w *Writable) regionLocked(n *inode) (int, error) {
	if n.rw >= 0 {
		return n.rw, nil
	}
	w.names++
	rw, ro, err := newCopy(w.o.Dir, strconv.FormatUint(w.names, 10))
	if err == nil {
		if n.small != nil {
			_, err = pwriteFull(rw, n.small, 0)
		} else if n.size > 0 {
			err = unix.Ftruncate(rw, n.size)
		}
		if err != nil {
			unix.Close(rw)
			unix.Close(ro)
		}
	}
	if err != nil {
		w.log.Debug("no region for a file", "size", n.size, "err", err)
		return -1, err
	}
	if n.small == nil {
		w.addLocked(n)
	}
	n.rw, n.ro, n.small = rw, ro, nil
	w.chargeLocked(n)
	return rw, nil
}

// addLocked counts a file that is getting data.
func (w *Writable) addLocked(n *inode) {
	n.el = w.lru.PushFront(n)
	w.count++
}

// dropLocked gives the data up.
//
// Preconditions: data is held for writing, or nobody holds the inode, or there is
// no region. No client has the region and nothing is dirty.
func (w *Writable) dropLocked(n *inode) {
	if !n.kept() {
		return
	}
	if n.rw >= 0 {
		unix.Close(n.rw)
		unix.Close(n.ro)
	}
	n.rw, n.ro, n.small, n.valid = -1, -1, nil, nil
	w.lru.Remove(n.el)
	n.el = nil
	w.count--
	w.chargeLocked(n)
}

// noteDirtyLocked updates the account of dirty bytes and returns the handle that
// is not needed any more, or nil.
func (w *Writable) noteDirtyLocked(n *inode) (done *fileHandle) {
	var total int64
	if len(n.dirty) > 0 {
		total = n.dirty.bytes()
		w.unclean[n] = struct{}{}
	} else {
		delete(w.unclean, n)
		done, n.writer = n.writer, nil
		n.failed = false
	}
	w.dirty += total - n.unwritten
	n.unwritten = total
	return done
}

// resize gives the file the size that the file system below has given it. What is
// new is zeros.
//
// Preconditions: data is held for writing.
func (w *Writable) resize(n *inode, size int64) {
	w.mu.Lock()
	old := n.size
	if n.small != nil && size != old {
		w.dropLocked(n)
	}
	n.size, n.known, n.seen = size, true, stamp{}
	if size < old {
		n.valid.remove(extent{size, old})
		n.dirty.remove(extent{size, old})
	}
	if n.rw >= 0 && size != old {
		// Pages beyond the new end are freed, and the rest of its last page is zeroed.
		if err := unix.Ftruncate(n.rw, size); err != nil {
			w.log.Warn("resize a region", "size", size, "err", err)
			w.spoilLocked(n, extent{0, max(size, old)})
		} else if size > old {
			n.valid.add(extent{old, size})
		}
		w.chargeLocked(n)
	}
	done := w.noteDirtyLocked(n)
	w.mu.Unlock()
	w.unrefWriter(done)
}

// spoilLocked says that what is cached of e is not, or may not be, what the file
// system below has. Dirty bytes are newer than either. If a client holds the
// region it must be restored.
func (w *Writable) spoilLocked(n *inode, e extent) {
	e.end = min(e.end, n.size)
	if n.small != nil && !e.empty() {
		w.dropLocked(n)
	}
	for _, part := range n.dirty.missing(e) {
		n.valid.remove(part)
	}
	for _, o := range n.fills {
		if o.start < e.end && e.start < o.end {
			o.spoiled = true
		}
	}
}

// store puts what the file system below has, or with dirty is to get, into the
// region: the first n bytes of data, at off. It returns how many it has stored;
// the file is so much longer if they go beyond its end.
//
// Preconditions: data is held for writing.
func (w *Writable) store(n *inode, off int64, data [][]byte, length int, dirty bool) (stored int) {
	w.mu.Lock()
	if !dirty && w.appendLocked(n, off, data, length) {
		w.mu.Unlock()
		return length
	}
	fd, err := w.regionLocked(n)
	w.mu.Unlock()
	for _, part := range data {
		if err != nil || stored == length {
			break
		}
		var m int
		m, err = pwriteFull(fd, part[:min(len(part), length-stored)], off+int64(stored))
		stored += m
	}
	w.mu.Lock()
	done := w.storedLocked(n, off, stored, length, dirty)
	w.mu.Unlock()
	w.unrefWriter(done)
	return stored
}

// maxSmall is how much of a file is kept without a region.
const maxSmall = minFileCost

// appendLocked is store for a small file that is written from its beginning to its
// end, as most are that are new: it needs no region until somebody asks for the data. It
// reports whether it is one.
//
// Preconditions: as for store.
func (w *Writable) appendLocked(n *inode, off int64, data [][]byte, length int) bool {
	if n.rw >= 0 || !n.known || off != n.size || off != int64(len(n.small)) || length == 0 || length > maxSmall-int(off) {
		return false
	}
	if n.small == nil {
		w.addLocked(n)
	}
	left := length
	for _, part := range data {
		part = part[:min(len(part), left)]
		n.small = append(n.small, part...)
		left -= len(part)
	}
	n.size, n.seen, n.used = off+int64(length), stamp{}, true
	n.valid.add(extent{off, n.size})
	w.chargeLocked(n)
	return true
}

// storedLocked does the accounts of store. It returns a handle as noteDirtyLocked
// does.
func (w *Writable) storedLocked(n *inode, off int64, stored, length int, dirty bool) *fileHandle {
	n.seen = stamp{}
	if dirty {
		length = stored
	}
	old, end := n.size, off+int64(length)
	n.size, n.known = max(old, end), true
	if n.rw < 0 {
		w.dropLocked(n) // there may be what it was before, without a region
		return nil
	}
	if n.size > old {
		if stored < length && unix.Ftruncate(n.rw, n.size) != nil {
			w.spoilLocked(n, extent{0, n.size})
		}
		n.valid.add(extent{old, off}) // a gap reads as zeros
	}
	n.valid.add(extent{off, off + int64(stored)})
	if stored < length {
		w.spoilLocked(n, extent{off + int64(stored), end})
	}
	if dirty {
		n.dirty.add(extent{off, end})
	} else {
		n.dirty.remove(extent{off, end})
	}
	if len(n.valid) > 2*maxExtents {
		n.valid = slices.Clone(n.dirty)
	}
	n.used = true
	w.chargeLocked(n)
	if dirty {
		return nil // keep does
	}
	return w.noteDirtyLocked(n)
}

// attr asks the file system below for a file's attributes.
func (w *Writable) attr(cancel <-chan struct{}, nodeID uint64) (fuse.Attr, fuse.Status) {
	var out fuse.AttrOut
	s := w.RawFileSystem.GetAttr(cancel, &fuse.GetAttrIn{InHeader: fuse.InHeader{NodeId: nodeID}}, &out)
	return out.Attr, s
}

// adopt takes note of the attributes of a file. If they are not those of the file
// that is cached, somebody else has changed it: everything is read again.
//
// Preconditions: data is held for writing.
func (w *Writable) adopt(n *inode, a *fuse.Attr) {
	w.mu.Lock()
	dirty, known, size, seen := len(n.dirty) > 0, n.known, n.size, n.seen
	w.mu.Unlock()
	if dirty && known {
		return // these are not the attributes the file will have
	}
	if !known || uint64(size) != a.Size || seen != (stamp{}) && seen != stampOf(a) {
		w.resize(n, int64(a.Size))
		w.mu.Lock()
		w.spoilLocked(n, n.whole())
		w.mu.Unlock()
	}
	w.mu.Lock()
	n.seen = stampOf(a)
	w.mu.Unlock()
}

// unknown deals with a change of e that has failed, or whose outcome cannot be
// repeated: what the file system below has is read again.
//
// Preconditions: data is held for writing.
func (w *Writable) unknown(n *inode, e extent) {
	if e.empty() {
		return
	}
	a, s := w.attr(nil, n.id)
	w.mu.Lock()
	n.seen = stamp{}
	w.spoilLocked(n, e)
	n.known = n.known && (s.Ok() || len(n.dirty) > 0)
	old, dirty := n.size, len(n.dirty) > 0
	w.mu.Unlock()
	if s.Ok() && !dirty && uint64(old) != a.Size && a.Size <= maxSize {
		w.resize(n, int64(a.Size))
		w.mu.Lock()
		w.spoilLocked(n, extent{min(old, n.size), n.size})
		w.mu.Unlock()
	}
	w.restore(n)
}

// restore makes a region that clients hold complete again. What cannot be read
// stays as it was in their eyes, until the next open.
//
// Preconditions: data is held.
func (w *Writable) restore(n *inode) {
	w.mu.Lock()
	whole := n.whole()
	fine := n.donated == 0 || n.valid.contains(whole)
	w.mu.Unlock()
	if fine {
		return
	}
	s := fuse.EIO
	if h := w.reader(n); h != nil {
		_, _, s = w.ensure(nil, h, whole)
		w.unref(h)
	}
	if !s.Ok() {
		w.log.Warn("a file that a client has mapped cannot be read again", "node", n.id, "status", int32(s))
	}
}

// maxSize is the largest file that is cached.
const maxSize = 1 << 62

// room makes sure that storing e in a region that clients hold cannot fail.
//
// Preconditions: data is held for writing.
func (w *Writable) room(n *inode, off int64, length int) fuse.Status {
	w.mu.Lock()
	fd, lent := n.rw, n.donated > 0
	w.mu.Unlock()
	if !lent || length == 0 {
		return fuse.OK
	}
	return errno.Status(unix.Fallocate(fd, unix.FALLOC_FL_KEEP_SIZE, off, int64(length)))
}
