// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

// Package regions keeps the data of files in memory that can be handed to
// sandboxes, one region for each file, so that it is stored once on the machine
// and sandboxes read and map it without asking anybody. An FS serves volumes that
// do not change, a Writable those that one sandbox changes, and a Live those that
// may be changed by anybody. The following is about FS; the others say what they
// do.
//
// It serves volumes that do not change: read-only ones of a file system that
// owns its source, such as squashfs images and archives. An FS wraps another
// fuse.RawFileSystem and answers reads from its regions, which it fills with
// large requests, once for all readers. Files that the server opens with
// FOPEN_DIRECT_IO are passed through.
//
// The file system below is not trusted with memory: what is kept is bounded by
// a budget that can be changed at any time. Callers are our own frontends. What
// a client does with a descriptor it was handed cannot hurt: a region is handed
// out only when it is complete, and is sealed then (F_SEAL_WRITE and the
// others, memfd_create(2)), so that nobody can change or truncate it any more,
// ourselves included.
//
// # Reference model
//
//   - A handle holds its file; Release ends it. A read-ahead under way holds the
//     handle, so that the server's file stays open.
//   - A file stays in the table while it has data or a handle. The lookup counts
//     that callers forget meanwhile are kept back (file.held), so that the server
//     cannot give its node ID to another file.
//
// Lock order: handle.mu, then FS.mu, which is a leaf: no request is sent and no
// data is copied while it is held.
package regions

import (
	"container/list"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

const (
	// randomFill is the unit of a fill around a read out of order. Larger ones
	// cost random reads more than they save.
	randomFill = 64 << 10
	// maxWindow bounds what a stream has read ahead.
	maxWindow = 4 << 20
	// minWindow is where read-ahead starts.
	minWindow = 256 << 10
	// maxFillers bounds the fills that run ahead of readers, in one FS.
	maxFillers = 8
	// DefaultFillLimit is Options.FillLimit when it is 0.
	DefaultFillLimit = 1 << 20
	// DefaultMaxFiles is Options.MaxFiles when it is 0 and there are enough
	// descriptors.
	DefaultMaxFiles = 100_000
	// minFileCost is what the smallest file counts against the budget: one page
	// of data, and about as much for the memfd's inode and file in the kernel.
	minFileCost = 8 << 10
)

// Options configure an FS.
type Options struct {
	// Budget bounds the bytes kept, see SetBudget.
	Budget int64
	// FillLimit is the size, in bytes, up to which a file is read completely when
	// it is opened, so that the client gets its region right away.
	FillLimit int64
	// OpenWait is how long one open may wait for a larger file to be complete (see
	// patience): 0 is three seconds, less than 0 is not at all.
	OpenWait time.Duration
	// MaxFiles bounds the files with data: each costs a descriptor. The default
	// follows RLIMIT_NOFILE. Clients hold at most three quarters of them, so that
	// there is always something to evict.
	MaxFiles int
	// MaxRead is the largest read to ask the file system below for; default 1 MiB.
	MaxRead int
	Log     *slog.Logger
}

// FS is a fuse.RawFileSystem with its file data in regions. It is safe for
// concurrent use.
type FS struct {
	fuse.RawFileSystem // the file system below
	opts               Options
	log                *slog.Logger
	buffers            sync.Pool     // *[]byte of MaxRead
	smallBuffers       sync.Pool     // *[]byte of randomFill: small files are read many at once
	fillers            chan struct{} // one token for each fill ahead
	wg                 sync.WaitGroup
	stats              counters
	patience           patience

	mu       sync.Mutex
	budget   int64              // guarded by mu, as all that follows
	files    map[uint64]*file   // by node ID
	handles  map[uint64]*handle // by our own handle number
	next     uint64             // handle number given out last
	lru      *list.List         // of *file with data, most recently used first
	resident int64              // bytes that count against the budget
	donated  int64              // those of resident in clients' hands; never more than the budget
	lent     int                // files in clients' hands; never more than 3/4 of MaxFiles
	closed   bool
}

type counters struct {
	hits, misses, fills, evictions, donations atomic.Uint64
	bytesFilled                               atomic.Uint64
}

// Stats is an account of the cache. Byte counts are what is charged to the
// budget, which is a little more than the files' sizes.
type Stats struct {
	Budget, Resident, Donated int64
	Dirty                     int64 // bytes that are still to be written back; part of Resident
	Files, DonatedFiles       int
	Hits, Misses              uint64 // reads answered without, or with, a request
	Fills, BytesFilled        uint64 // requests to the file system below
	Evictions, Donations      uint64
}

// New wraps below, whose files must not change.
func New(below fuse.RawFileSystem, o Options) *FS {
	if o.FillLimit == 0 {
		o.FillLimit = DefaultFillLimit
	}
	if o.OpenWait == 0 {
		o.OpenWait = maxWait
	}
	if o.MaxFiles <= 0 {
		o.MaxFiles = filesWithin(1)
	}
	if o.MaxRead <= 0 {
		o.MaxRead = 1 << 20
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	f := &FS{
		RawFileSystem: below, opts: o, log: o.Log, budget: o.Budget,
		fillers: make(chan struct{}, maxFillers),
		files:   make(map[uint64]*file), handles: make(map[uint64]*handle), lru: list.New(),
	}
	f.buffers.New = func() any { b := make([]byte, o.MaxRead); return &b }
	f.smallBuffers.New = func() any { b := make([]byte, randomFill); return &b }
	return f
}

// String implements fuse.RawFileSystem.
func (f *FS) String() string { return "regions(" + f.RawFileSystem.String() + ")" }

// SetBudget changes how many bytes are kept and evicts what is too much. What
// clients hold counts but stays: only they can give it up.
func (f *FS) SetBudget(bytes int64) {
	f.mu.Lock()
	f.budget = bytes
	gone := f.evictLocked()
	f.mu.Unlock()
	f.forget(gone)
}

// Stats returns a snapshot.
func (f *FS) Stats() Stats {
	f.mu.Lock()
	s := Stats{Budget: f.budget, Resident: f.resident, Files: f.lru.Len()}
	for el := f.lru.Front(); el != nil; el = el.Next() {
		if fl := el.Value.(*file); fl.donated > 0 {
			s.DonatedFiles++
			s.Donated += fl.cost
		}
	}
	f.mu.Unlock()
	s.Hits, s.Misses = f.stats.hits.Load(), f.stats.misses.Load()
	s.Fills, s.BytesFilled = f.stats.fills.Load(), f.stats.bytesFilled.Load()
	s.Evictions, s.Donations = f.stats.evictions.Load(), f.stats.donations.Load()
	return s
}

// OnUnmount implements fuse.RawFileSystem: it drops everything and ends the
// fills. The caller has released its handles.
func (f *FS) OnUnmount() {
	f.mu.Lock()
	f.closed = true
	f.mu.Unlock()
	f.wg.Wait()
	f.SetBudget(0)
	f.RawFileSystem.OnUnmount()
}

// Forget implements fuse.RawFileSystem.
func (f *FS) Forget(nodeID, nlookup uint64) {
	f.mu.Lock()
	if fl := f.files[nodeID]; fl != nil {
		fl.held += nlookup
		f.mu.Unlock()
		return
	}
	f.mu.Unlock()
	f.RawFileSystem.Forget(nodeID, nlookup)
}

// forgotten is a node whose lookups are passed on once FS.mu is released.
type forgotten struct{ nodeID, n uint64 }

// forgetAll passes lookups on to the file system below. No lock is held.
func forgetAll(below fuse.RawFileSystem, gone []forgotten) {
	for _, g := range gone {
		if g.n > 0 {
			below.Forget(g.nodeID, g.n)
		}
	}
}

func (f *FS) forget(gone []forgotten) { forgetAll(f.RawFileSystem, gone) }

// InvalInode drops what is cached of a file that its server changed after all:
// opens from now on see the new data, all of it, whatever part is said to have
// changed. Clients keep what they hold.
func (f *FS) InvalInode(nodeID uint64, _, _ int64) {
	f.mu.Lock()
	var gone []forgotten
	if fl := f.files[nodeID]; fl != nil {
		gone = f.detachLocked(fl)
	}
	f.mu.Unlock()
	f.forget(gone)
}

// readOnly is what every operation that would change a file returns.
const readOnly = fuse.EROFS

// writes reports whether open flags ask for more than reading.
func writes(flags uint32) bool {
	return flags&unix.O_ACCMODE != unix.O_RDONLY || flags&unix.O_TRUNC != 0
}
