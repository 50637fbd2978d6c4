// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package regions

import (
	"container/list"
	"log/slog"
	"sync"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

const (
	// DefaultLiveFill is LiveOptions.FillLimit when it is 0.
	DefaultLiveFill = 8 << 20
	// DefaultLiveExecFill is LiveOptions.ExecFillLimit when it is 0.
	DefaultLiveExecFill = 256 << 20
	// livePoll is how often the files in clients' hands are compared with the
	// server's attributes. It is the usual validity of attributes.
	livePoll = time.Second
	// livePollMax bounds the files compared in one round.
	livePollMax = 512
	// liveStripes is the number of locks that order changes of files and fills.
	liveStripes = 256
)

// LiveOptions configure a Live.
type LiveOptions struct {
	// Dir is an empty directory of a tmpfs without noexec, for the process alone.
	Dir string
	// Budget bounds the bytes kept, see SetBudget.
	Budget int64
	// FillLimit is the size up to which any file is handed out, in bytes;
	// ExecFillLimit the same for files that somebody may execute. Handing out a
	// file means reading all of it when it is opened.
	FillLimit, ExecFillLimit int64
	// MaxRead is the largest read to ask the file system below for; default 1 MiB.
	MaxRead int
	Log     *slog.Logger
}

// Live hands out copies of files that do change: on volumes where a sentry maps
// a file only if it was given a descriptor (see sentryglue on shared volumes).
// Reads and writes go to the file system below, as if Live were not there; every
// write that passes is repeated in the copy, so that a mapping sees it as it
// would see it in a page cache. Changes made elsewhere are found by comparing
// attributes: at each open, and every second while a client holds the file. They
// are then made in the copy, in place.
//
// A copy is an unlinked file on a tmpfs, opened a second time for reading: that
// descriptor is what clients get. They cannot write, truncate or map it writable,
// and have no way to open it again. When the file shrinks the copy does, too, and
// pages beyond its end raise SIGBUS, as they do on Linux.
//
// Lock order: a stripe, which is held across requests for one file, then mu,
// which is a leaf.
type Live struct {
	fuse.RawFileSystem // the file system below
	o                  LiveOptions
	log                *slog.Logger
	stats              counters
	maxFiles           int // with a copy; immutable

	stripes [liveStripes]sync.Mutex

	stop chan struct{}
	wake chan struct{} // a file in a client's hands is stale
	wg   sync.WaitGroup

	mu       sync.Mutex
	budget   int64 // guarded by mu, as all that follows
	files    map[uint64]*copied
	lru      *list.List // of *copied, most recently used first
	resident int64
	donated  int64  // bytes in clients' hands, as charged when they were handed out
	names    uint64 // files made so far
}

// copied is a file with a copy. The stripe of id guards size and content, FS.mu
// the rest; fds are immutable.
type copied struct {
	id     uint64
	rw, ro int

	size    int64
	content signature // of the server's file when it was copied; zero: unknown

	stale   bool // told so by the server
	donated int
	charged int64 // of Live.donated
	io      int   // users of rw and ro
	held    uint64
	cost    int64
	el      *list.Element
}

// signature tells one content of a file from another.
type signature struct {
	size                 uint64
	mtime, ctime         uint64
	mtimensec, ctimensec uint32
}

func signatureOf(a *fuse.Attr) signature {
	return signature{a.Size, a.Mtime, a.Ctime, a.Mtimensec, a.Ctimensec}
}

// NewLive wraps below.
func NewLive(below fuse.RawFileSystem, o LiveOptions) *Live {
	if o.FillLimit == 0 {
		o.FillLimit = DefaultLiveFill
	}
	if o.ExecFillLimit == 0 {
		o.ExecFillLimit = DefaultLiveExecFill
	}
	if o.MaxRead <= 0 {
		o.MaxRead = 1 << 20
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	l := &Live{
		RawFileSystem: below, o: o, log: o.Log, budget: o.Budget, maxFiles: filesWithin(2),
		stop: make(chan struct{}), wake: make(chan struct{}, 1),
		files: make(map[uint64]*copied), lru: list.New(),
	}
	l.wg.Go(l.poll)
	return l
}

// String implements fuse.RawFileSystem.
func (l *Live) String() string { return "live(" + l.RawFileSystem.String() + ")" }

// stopWait bounds how long the end waits for a file system that hangs.
const stopWait = 5 * time.Second

// OnUnmount implements fuse.RawFileSystem. It is called once, when the clients
// are gone.
func (l *Live) OnUnmount() {
	close(l.stop)
	polled := make(chan struct{})
	go func() {
		l.wg.Wait()
		close(polled)
	}()
	select {
	case <-polled:
	case <-time.After(stopWait):
		l.log.Warn("the file system does not answer while copies are compared with it")
	}
	l.mu.Lock()
	var gone []forgotten
	for _, c := range l.files {
		if c.io == 0 {
			gone = append(gone, l.dropLocked(c)...)
		}
	}
	l.mu.Unlock()
	l.forget(gone)
	l.RawFileSystem.OnUnmount()
}

func (l *Live) forget(gone []forgotten) { forgetAll(l.RawFileSystem, gone) }

// Forget implements fuse.RawFileSystem. The lookups of a file with a copy are
// kept back, so that its node ID stays its own.
func (l *Live) Forget(nodeID, nlookup uint64) {
	l.mu.Lock()
	if c := l.files[nodeID]; c != nil {
		c.held += nlookup
		l.mu.Unlock()
		return
	}
	l.mu.Unlock()
	l.RawFileSystem.Forget(nodeID, nlookup)
}

func (l *Live) stripe(nodeID uint64) *sync.Mutex { return &l.stripes[nodeID%liveStripes] }

// use returns the copy of a file, which stays until done, or nil.
func (l *Live) use(nodeID uint64) *copied {
	l.mu.Lock()
	defer l.mu.Unlock()
	c := l.files[nodeID]
	if c != nil {
		c.io++
	}
	return c
}

func (l *Live) done(c *copied) {
	l.mu.Lock()
	c.io--
	gone := l.evictLocked()
	l.mu.Unlock()
	l.forget(gone)
}

// Donate returns a descriptor of a copy of the file open as fh, which the caller
// owns, if the file is small enough to be copied. Return ends the donation.
func (l *Live) Donate(nodeID, fh uint64) (fd int, ok bool) {
	mu := l.stripe(nodeID)
	mu.Lock()
	defer mu.Unlock()
	c := l.refresh(nodeID, fh)
	if c == nil {
		return -1, false
	}
	defer l.done(c)
	l.mu.Lock()
	defer l.mu.Unlock()
	// What clients hold cannot be evicted: they must not hold more than there is.
	if c.donated == 0 && l.donated+c.cost > l.budget {
		return -1, false
	}
	fd, err := unix.FcntlInt(uintptr(c.ro), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return -1, false
	}
	if c.donated == 0 {
		c.charged = c.cost
		l.donated += c.charged
	}
	c.donated++
	l.stats.donations.Add(1)
	return fd, true
}

// SetBudget changes how many bytes are kept and evicts what is too much. What
// clients hold counts but stays: only they can give it up.
func (l *Live) SetBudget(bytes int64) {
	l.mu.Lock()
	l.budget = bytes
	gone := l.evictLocked()
	l.mu.Unlock()
	l.forget(gone)
}

// Return says that the client has closed a file it got a descriptor of.
func (l *Live) Return(nodeID uint64) {
	l.mu.Lock()
	var gone []forgotten
	if c := l.files[nodeID]; c != nil && c.donated > 0 {
		if c.donated--; c.donated == 0 {
			l.donated -= c.charged
		}
		gone = l.evictLocked()
	}
	l.mu.Unlock()
	l.forget(gone)
}

// copyable reports whether the file is worth a copy.
func (l *Live) copyable(a *fuse.Attr) bool {
	if a.Mode&syscall.S_IFMT != syscall.S_IFREG || a.Size == 0 {
		return false
	}
	limit := l.o.FillLimit
	if a.Mode&0o111 != 0 {
		limit = l.o.ExecFillLimit
	}
	return a.Size <= uint64(limit)
}

// refresh returns an up-to-date copy of the file, whose user the caller becomes,
// or nil if there is to be none.
//
// Preconditions: the file's stripe is locked.
func (l *Live) refresh(nodeID, fh uint64) *copied {
	for range 2 { // a second time if it changes while it is read
		before, ok := l.attr(nodeID)
		if !ok || !l.copyable(&before) {
			return nil
		}
		c := l.use(nodeID)
		if c == nil {
			if c = l.add(nodeID); c == nil {
				return nil
			}
		}
		l.mu.Lock()
		stale := c.stale
		c.stale = false
		l.mu.Unlock()
		if !stale && c.content == signatureOf(&before) {
			return c
		}
		c.content = signature{}
		filled := l.copyData(c, fh, int64(before.Size))
		after, ok := l.attr(nodeID)
		if filled && ok && signatureOf(&after) == signatureOf(&before) {
			if settled(&before) {
				c.content = signatureOf(&before)
			}
			return c
		}
		l.done(c)
		if !filled {
			return nil
		}
	}
	return nil
}

// settled reports whether a change to the file from now on shows in its times. A
// server that counts in whole seconds may change a file twice within one.
func settled(a *fuse.Attr) bool {
	return a.Mtimensec != 0 || time.Since(time.Unix(int64(a.Mtime), 0)) > 2*time.Second
}

func (l *Live) attr(nodeID uint64) (fuse.Attr, bool) {
	var out fuse.AttrOut
	s := l.RawFileSystem.GetAttr(nil, &fuse.GetAttrIn{InHeader: fuse.InHeader{NodeId: nodeID}}, &out)
	return out.Attr, s.Ok()
}

// copyData makes the copy what the server's file is. Pages that clients have
// mapped change in place.
func (l *Live) copyData(c *copied, fh uint64, size int64) bool {
	buf := make([]byte, min(int64(l.o.MaxRead), size))
	off := int64(0)
	for off < size {
		part := buf[:min(int64(len(buf)), size-off)]
		in := fuse.ReadIn{InHeader: fuse.InHeader{NodeId: c.id}, Fh: fh, Offset: uint64(off), Size: uint32(len(part))}
		result, status := l.RawFileSystem.Read(nil, &in, part)
		if !status.Ok() {
			return false
		}
		var data []byte
		if result != nil {
			data, status = result.Bytes(part)
			if status.Ok() && len(data) <= len(part) {
				_, err := pwriteFull(c.rw, data, off)
				if err != nil {
					status = fuse.EIO
				}
			}
			result.Done()
		}
		if !status.Ok() || len(data) > len(part) {
			return false
		}
		l.stats.fills.Add(1)
		l.stats.bytesFilled.Add(uint64(len(data)))
		off += int64(len(data))
		if len(data) < len(part) {
			break // the end of the data; what the size promises beyond reads as zeros
		}
	}
	return l.resize(c, size) && l.zero(c, off, size)
}

// zero clears the bytes from off to end, which a longer content may have left.
func (l *Live) zero(c *copied, off, end int64) bool {
	if off >= end {
		return true
	}
	return unix.Fallocate(c.rw, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, off, end-off) == nil
}

// resize sets the size of the copy.
func (l *Live) resize(c *copied, size int64) bool {
	if err := unix.Ftruncate(c.rw, size); err != nil {
		l.log.Warn("resize a copy", "size", size, "err", err)
		return false
	}
	c.size = size
	l.mu.Lock()
	l.chargeLocked(c)
	l.mu.Unlock()
	return true
}

func pwriteFull(fd int, data []byte, off int64) (int, error) {
	for done := 0; ; {
		n, err := unix.Pwrite(fd, data[done:], off+int64(done))
		if err == unix.EINTR {
			continue
		}
		done += max(n, 0)
		if err != nil || done == len(data) {
			return done, err
		}
	}
}
