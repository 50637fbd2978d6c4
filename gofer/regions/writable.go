// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package regions

import (
	"container/list"
	"log/slog"
	"sync"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

const (
	// DefaultBackgroundLimit is WritableOptions.BackgroundLimit when it is 0.
	DefaultBackgroundLimit = 64 << 20
	// DefaultMaxDirty bounds WritableOptions.MaxDirty when that is 0.
	DefaultMaxDirty = 64 << 20
	// DefaultMaxAge is WritableOptions.MaxAge when it is 0.
	DefaultMaxAge = 5 * time.Second
	// maxExtents bounds the extents kept of one file, so that a client that writes
	// every other byte cannot use up memory.
	maxExtents = 4096
	// unmountWait bounds how long the end waits for a file system that hangs.
	unmountWait = 30 * time.Second
)

// WritableOptions configure a Writable.
type WritableOptions struct {
	// Dir is an empty directory of a tmpfs without noexec, for the process alone.
	Dir string
	// Budget bounds the bytes kept, see SetBudget.
	Budget int64
	// FillLimit is the size, in bytes, up to which a file is read completely when
	// it is opened for reading, so that the client gets its region right away;
	// ExecFillLimit the same for files that somebody may execute (default:
	// FillLimit). Larger files, up to BackgroundLimit, are read completely after
	// they were opened, for the next open.
	FillLimit, ExecFillLimit, BackgroundLimit int64
	// OpenWait is how long one open may wait for a larger file to be complete, as
	// Options.OpenWait.
	OpenWait time.Duration
	// MaxFiles bounds the files with data: each costs two descriptors.
	MaxFiles int
	// MaxRead and MaxWrite are the largest read and write to ask the file system
	// below for; default 1 MiB.
	MaxRead, MaxWrite int
	// WriteBack acknowledges writes before the file system below has them. They
	// reach it when the file is flushed (closed) or synced, when they are MaxAge
	// old, and when there are more of them than MaxDirty bytes (default: an eighth
	// of the budget, at most DefaultMaxDirty). Otherwise a write returns when the
	// file system below has it.
	WriteBack bool
	MaxDirty  int64
	MaxAge    time.Duration
	Log       *slog.Logger
}

// Writable is the buffer cache of a volume whose files are changed, but by nobody
// else than its callers. It keeps file data in regions, answers reads from them,
// and hands complete ones to clients that open a file for reading.
//
// A region is an unlinked file on a tmpfs, opened a second time for reading: that
// descriptor is what clients get. They cannot write, truncate or map it writable,
// and have no way to open it again. It always has the size of the file: when the
// file shrinks, pages beyond its end raise SIGBUS, as they do on Linux, and when
// it grows again they are zeros. Whatever changes the file is repeated in the
// region before it is acknowledged, so that a client that still reads from its
// descriptor when the file is open for writing sees its own writes. A small file that
// is written through is kept in our own memory (inode.small) until somebody asks for
// the data: most new files are not read soon, and making a region takes longer than
// writing to it.
//
// A client keeps what it was handed until Return. Until then the region is neither
// truncated, but with the file, nor given up.
//
// That nobody else changes the files is checked where it is cheap: when size or
// modification time are not what they were after our own last change, what is
// cached is read again.
//
// # Reference model
//
//   - A handle holds its inode; so does a request under way. The inode leaves the
//     table when nobody holds it and it has no data. Until then the lookup counts
//     that callers forget are kept back (inode.held), so that the server cannot
//     give its node ID to another file.
//   - The handle that dirty data is to be written with is held by its inode, so
//     that RELEASE follows the last WRITE.
//
// # Lock order
//
//	inode.flushing
//	  inode.data    of one inode at a time; held across requests
//	    Writable.mu a leaf: no request is sent while it is held
type Writable struct {
	fuse.RawFileSystem // the file system below
	o                  WritableOptions
	log                *slog.Logger
	buffers            sync.Pool // *[]byte of MaxRead or MaxWrite, whichever is larger
	fillers            chan struct{}
	background         chan struct{} // one token: a file filled for the next open
	stats              counters
	patience           patience
	// autoInval says that attributes are compared even if the server sets
	// FOPEN_KEEP_CACHE; see fuse.CAP_AUTO_INVAL_DATA.
	autoInval bool
	// child is a guess which node a name has, for Unlink and Rename; or nil.
	child func(parent uint64, name string) (nodeID uint64, ok bool)

	stop chan struct{}
	wake chan struct{} // there is something for the worker to do
	wg   sync.WaitGroup

	mu       sync.Mutex
	budget   int64 // guarded by mu, as all that follows
	inodes   map[uint64]*inode
	handles  map[uint64]*fileHandle
	next     uint64     // handle number given out last
	names    uint64     // regions made so far
	lru      *list.List // of *inode with a region that no client holds, most recently used first
	count    int        // regions
	resident int64      // bytes that count against the budget
	donated  int64      // bytes in clients' hands; more than the budget only if files have grown since
	lent     int        // regions in clients' hands
	dirty    int64      // bytes that the file system below does not have yet
	reserved int64      // for writes under way that will be dirty
	unclean  map[*inode]struct{}
	broken   map[*inode]struct{} // in clients' hands, and said to have changed
	closed   bool
}

// NewWritable wraps below.
func NewWritable(below fuse.RawFileSystem, o WritableOptions) *Writable {
	if o.FillLimit == 0 {
		o.FillLimit = DefaultFillLimit
	}
	if o.ExecFillLimit == 0 {
		o.ExecFillLimit = o.FillLimit
	}
	if o.OpenWait == 0 {
		o.OpenWait = maxWait
	}
	if o.BackgroundLimit == 0 {
		o.BackgroundLimit = DefaultBackgroundLimit
	}
	if o.MaxFiles <= 0 {
		o.MaxFiles = DefaultMaxFiles
		var limit unix.Rlimit
		if unix.Prlimit(0, unix.RLIMIT_NOFILE, nil, &limit) == nil {
			o.MaxFiles = int(min(uint64(o.MaxFiles), limit.Cur/4)) // half of the descriptors
		}
	}
	if o.MaxRead <= 0 {
		o.MaxRead = 1 << 20
	}
	if o.MaxWrite <= 0 {
		o.MaxWrite = 1 << 20
	}
	if o.MaxAge <= 0 {
		o.MaxAge = DefaultMaxAge
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	w := &Writable{
		RawFileSystem: below, o: o, log: o.Log, budget: o.Budget,
		fillers: make(chan struct{}, maxFillers), background: make(chan struct{}, 1),
		stop: make(chan struct{}), wake: make(chan struct{}, 1),
		inodes: make(map[uint64]*inode), handles: make(map[uint64]*fileHandle), lru: list.New(),
		unclean: make(map[*inode]struct{}), broken: make(map[*inode]struct{}),
	}
	w.buffers.New = func() any { b := make([]byte, max(o.MaxRead, o.MaxWrite)); return &b }
	if c, ok := below.(interface{ Has(uint64) bool }); ok {
		w.autoInval = c.Has(fuse.CAP_AUTO_INVAL_DATA)
	}
	if p, ok := below.(interface {
		Child(uint64, string) (uint64, bool)
	}); ok {
		w.child = p.Child
	}
	w.wg.Go(w.work)
	return w
}

// String implements fuse.RawFileSystem.
func (w *Writable) String() string { return "writable(" + w.RawFileSystem.String() + ")" }

// SetBudget changes how many bytes are kept and evicts what is too much. What
// clients hold counts but stays: only they can give it up.
func (w *Writable) SetBudget(bytes int64) {
	w.mu.Lock()
	w.budget = bytes
	gone := w.evictLocked()
	w.mu.Unlock()
	w.forget(gone)
	w.kick() // dirty data may be more than it may be now
}

// Stats returns a snapshot.
func (w *Writable) Stats() Stats {
	w.mu.Lock()
	s := Stats{
		Budget: w.budget, Resident: w.resident, Donated: w.donated, Dirty: w.dirty,
		Files: w.count, DonatedFiles: w.lent,
	}
	w.mu.Unlock()
	s.Hits, s.Misses = w.stats.hits.Load(), w.stats.misses.Load()
	s.Fills, s.BytesFilled = w.stats.fills.Load(), w.stats.bytesFilled.Load()
	s.Evictions, s.Donations = w.stats.evictions.Load(), w.stats.donations.Load()
	return s
}

// use returns the inode of a node, which the caller holds until put.
func (w *Writable) use(nodeID uint64) *inode {
	w.mu.Lock()
	defer w.mu.Unlock()
	n := w.inodes[nodeID]
	if n == nil {
		n = &inode{id: nodeID, rw: -1, ro: -1}
		w.inodes[nodeID] = n
	}
	n.refs++
	return n
}

// peek is use for what is in the table; otherwise nil.
func (w *Writable) peek(nodeID uint64) *inode {
	w.mu.Lock()
	defer w.mu.Unlock()
	n := w.inodes[nodeID]
	if n != nil {
		n.refs++
	}
	return n
}

func (w *Writable) put(n *inode) {
	w.mu.Lock()
	n.refs--
	gone := append(w.tidyLocked(n), w.evictLocked()...)
	w.mu.Unlock()
	w.forget(gone)
}

// tidyLocked removes an inode that nobody needs any more and returns what is to
// be forgotten.
func (w *Writable) tidyLocked(n *inode) []forgotten {
	if n.refs > 0 || n.donated > 0 { // as n.writer does when something is dirty
		return nil
	}
	if n.dead {
		w.dropLocked(n)
	}
	if n.kept() {
		return nil
	}
	delete(w.inodes, n.id)
	return []forgotten{{n.id, n.held}}
}

// evictLocked drops data until the budget holds, least recently used files
// first, those used since the last look spared once.
func (w *Writable) evictLocked() (gone []forgotten) {
	for k := 2 * w.lru.Len(); k > 0 && (w.resident > w.budget || w.count > w.o.MaxFiles); k-- {
		n := w.lru.Back().Value.(*inode)
		if n.used || len(n.dirty) > 0 || !n.data.TryLock() {
			n.used = false
			w.lru.MoveToFront(n.el)
			continue
		}
		w.dropLocked(n)
		n.data.Unlock()
		w.stats.evictions.Add(1)
		gone = append(gone, w.tidyLocked(n)...)
		if w.lru.Len() == 0 {
			break
		}
	}
	return gone
}

func (w *Writable) forget(gone []forgotten) { forgetAll(w.RawFileSystem, gone) }

// Forget implements fuse.RawFileSystem.
func (w *Writable) Forget(nodeID, nlookup uint64) {
	w.mu.Lock()
	if n := w.inodes[nodeID]; n != nil {
		n.held += nlookup
		w.mu.Unlock()
		return
	}
	w.mu.Unlock()
	w.RawFileSystem.Forget(nodeID, nlookup)
}

// Donate returns a descriptor of the region of the file open as fh, which the
// caller owns, if the file is complete. Return ends the donation. What is written
// with another handle meanwhile shows in the region.
func (w *Writable) Donate(nodeID, fh uint64) (fd int, ok bool) {
	h := w.borrow(nodeID, fh)
	if h == nil {
		return -1, false
	}
	defer w.unref(h)
	n := h.inode
	if h.direct || writes(h.flags) {
		return -1, false
	}
	n.data.RLock()
	defer n.data.RUnlock()
	w.mu.Lock()
	defer w.mu.Unlock()
	if !n.kept() || n.size == 0 || !n.valid.contains(n.whole()) {
		return -1, false
	}
	// What clients hold cannot be evicted: they must not hold more than there is.
	// Holes count: a client that maps them fills them.
	if n.donated == 0 && w.donated+n.fullCost() > w.budget {
		return -1, false
	}
	if _, err := w.regionLocked(n); err != nil {
		return -1, false
	}
	fd, err := unix.FcntlInt(uintptr(n.ro), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return -1, false // out of descriptors: the client reads by request
	}
	if n.donated == 0 {
		w.lent++
		w.lru.Remove(n.el)
		n.el = nil
	}
	n.donated++
	w.chargeLocked(n)
	w.stats.donations.Add(1)
	return fd, true
}

// Return says that the client has closed a descriptor it got of the file.
func (w *Writable) Return(nodeID uint64) {
	w.mu.Lock()
	var gone []forgotten
	if n := w.inodes[nodeID]; n != nil && n.donated > 0 {
		if n.donated--; n.donated == 0 {
			w.lent--
			n.el = w.lru.PushFront(n)
			delete(w.broken, n)
			w.chargeLocked(n)
			gone = w.tidyLocked(n)
		}
		gone = append(gone, w.evictLocked()...)
	}
	w.mu.Unlock()
	w.forget(gone)
}

// kick wakes the worker.
func (w *Writable) kick() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// OnUnmount implements fuse.RawFileSystem: it writes back what is dirty, drops
// everything and ends what runs in the background. It is called once, when the
// callers have released their handles.
func (w *Writable) OnUnmount() {
	w.mu.Lock()
	w.closed = true
	w.mu.Unlock()
	close(w.stop)
	done := make(chan struct{})
	go func() {
		w.wg.Wait()
		w.flushAll(time.Time{})
		close(done)
	}()
	select {
	case <-done:
	case <-time.After(unmountWait):
		w.log.Warn("the file system does not answer while it is unmounted")
	}
	w.mu.Lock()
	var gone []forgotten
	var writers []*fileHandle
	for _, n := range w.inodes {
		if len(n.dirty) > 0 {
			w.log.Error("data is lost: it could not be written back", "node", n.id, "bytes", n.dirty.bytes(), "err", n.err)
		}
		if !n.data.TryLock() {
			continue // a request hangs
		}
		if n.writer != nil {
			writers = append(writers, n.writer)
			n.writer = nil
		}
		n.dirty = nil
		w.noteDirtyLocked(n)
		if n.donated == 0 {
			w.dropLocked(n)
		}
		n.data.Unlock()
		gone = append(gone, w.tidyLocked(n)...)
	}
	w.mu.Unlock()
	for _, h := range writers {
		w.unref(h)
	}
	w.forget(gone)
	w.RawFileSystem.OnUnmount()
}
