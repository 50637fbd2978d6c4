// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package regions

import (
	"fmt"
	"path/filepath"
	"strconv"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// newCopy makes an empty file without a name and opens it twice, for us and for
// clients.
func newCopy(dir, name string) (rw, ro int, err error) {
	path := filepath.Join(dir, name)
	rw, err = unix.Open(path, unix.O_RDWR|unix.O_CREAT|unix.O_EXCL|unix.O_CLOEXEC, 0o400)
	if err != nil {
		return -1, -1, fmt.Errorf("create a copy: %w", err)
	}
	ro, err = unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if uerr := unix.Unlink(path); err == nil {
		err = uerr
	}
	if err != nil {
		unix.Close(rw)
		if ro >= 0 {
			unix.Close(ro)
		}
		return -1, -1, fmt.Errorf("open a copy: %w", err)
	}
	return rw, ro, nil
}

// add makes an empty copy for the file, whose user the caller becomes.
func (l *Live) add(nodeID uint64) *copied {
	l.mu.Lock()
	l.names++
	name := strconv.FormatUint(l.names, 10)
	l.mu.Unlock()
	rw, ro, err := newCopy(l.o.Dir, name)
	if err != nil {
		l.log.Warn("no copy for a file", "err", err)
		return nil
	}
	c := &copied{id: nodeID, rw: rw, ro: ro, io: 1}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.files[nodeID] = c
	c.el = l.lru.PushFront(c)
	l.chargeLocked(c)
	return c
}

func (l *Live) chargeLocked(c *copied) {
	cost := max(minFileCost, (c.size+4095)&^4095)
	l.resident += cost - c.cost
	c.cost = cost
}

// dropLocked closes a copy that nobody uses and takes it out of the table.
func (l *Live) dropLocked(c *copied) []forgotten {
	unix.Close(c.rw)
	unix.Close(c.ro)
	delete(l.files, c.id)
	l.lru.Remove(c.el)
	l.resident -= c.cost
	return []forgotten{{c.id, c.held}}
}

// evictLocked drops copies that no client holds until the budget holds.
func (l *Live) evictLocked() (gone []forgotten) {
	for el := l.lru.Back(); el != nil && (l.resident > l.budget || l.lru.Len() > l.maxFiles); {
		c := el.Value.(*copied)
		el = el.Prev()
		if c.io == 0 && c.donated == 0 {
			gone = append(gone, l.dropLocked(c)...)
			l.stats.evictions.Add(1)
		}
	}
	return gone
}

// change performs an operation on the file's data and repeats it in the copy.
// apply gets the copy, if there is one, after an operation that succeeded.
func (l *Live) change(nodeID uint64, do func() fuse.Status, apply func(*copied)) fuse.Status {
	mu := l.stripe(nodeID)
	mu.Lock()
	defer mu.Unlock()
	status := do()
	if c := l.use(nodeID); c != nil {
		// The attributes have changed with the data; and after a failure nobody
		// knows how much of it was done.
		c.content = signature{}
		if status.Ok() {
			apply(c)
		} else {
			l.markStale(c)
		}
		l.done(c)
	}
	return status
}

// markStale has the copy made anew: soon, if a client holds it.
func (l *Live) markStale(c *copied) {
	l.mu.Lock()
	c.stale = true
	l.mu.Unlock()
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

func (l *Live) truncated(size int64) func(*copied) {
	return func(c *copied) {
		if !l.resize(c, size) {
			l.markStale(c)
		}
	}
}

func (l *Live) written(off uint64, data [][]byte, n uint32) func(*copied) {
	return func(c *copied) {
		at, left := int64(off), int(n)
		for _, part := range data {
			part = part[:min(len(part), left)]
			if _, err := pwriteFull(c.rw, part, at); err != nil {
				l.markStale(c)
				return
			}
			at, left = at+int64(len(part)), left-len(part)
		}
		if at > c.size {
			c.size = at
			l.mu.Lock()
			l.chargeLocked(c)
			l.mu.Unlock()
		}
	}
}

// Write implements fuse.RawFileSystem.
func (l *Live) Write(cancel <-chan struct{}, in *fuse.WriteIn, data []byte) (n uint32, status fuse.Status) {
	status = l.change(in.NodeId, func() (s fuse.Status) {
		n, s = l.RawFileSystem.Write(cancel, in, data)
		return s
	}, func(c *copied) { l.written(in.Offset, [][]byte{data}, n)(c) })
	return n, status
}

// Writev implements fuse.RawFileSystem.
func (l *Live) Writev(cancel <-chan struct{}, in *fuse.WriteIn, data [][]byte) (n uint32, status fuse.Status) {
	status = l.change(in.NodeId, func() (s fuse.Status) {
		n, s = l.RawFileSystem.Writev(cancel, in, data)
		return s
	}, func(c *copied) { l.written(in.Offset, data, n)(c) })
	return n, status
}

// SetAttr implements fuse.RawFileSystem.
func (l *Live) SetAttr(cancel <-chan struct{}, in *fuse.SetAttrIn, out *fuse.AttrOut) fuse.Status {
	size, resized := in.GetSize()
	if !resized {
		return l.RawFileSystem.SetAttr(cancel, in, out)
	}
	return l.change(in.NodeId, func() fuse.Status { return l.RawFileSystem.SetAttr(cancel, in, out) }, l.truncated(int64(size)))
}

// Open implements fuse.RawFileSystem.
func (l *Live) Open(cancel <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	do := func() fuse.Status { return l.RawFileSystem.Open(cancel, in, out) }
	if in.Flags&unix.O_TRUNC == 0 {
		return do()
	}
	return l.change(in.NodeId, do, l.truncated(0))
}

// Fallocate implements fuse.RawFileSystem.
func (l *Live) Fallocate(cancel <-chan struct{}, in *fuse.FallocateIn) fuse.Status {
	return l.change(in.NodeId, func() fuse.Status { return l.RawFileSystem.Fallocate(cancel, in) }, func(c *copied) {
		if unix.Fallocate(c.rw, in.Mode, int64(in.Offset), int64(in.Length)) != nil {
			l.markStale(c)
			return
		}
		var st unix.Stat_t
		if unix.Fstat(c.rw, &st) != nil || !l.resize(c, st.Size) {
			l.markStale(c)
		}
	})
}

// CopyFileRange implements fuse.RawFileSystem.
func (l *Live) CopyFileRange(cancel <-chan struct{}, in *fuse.CopyFileRangeIn) (n uint32, status fuse.Status) {
	status = l.change(in.NodeIdOut, func() (s fuse.Status) {
		n, s = l.RawFileSystem.CopyFileRange(cancel, in)
		return s
	}, l.markStale)
	return n, status
}

// InvalInode takes the server's word that a file's data has changed: all of it,
// whatever part is said to have.
func (l *Live) InvalInode(nodeID uint64, _, _ int64) {
	if c := l.use(nodeID); c != nil {
		l.markStale(c)
		l.done(c)
	}
}

// poll compares the files in clients' hands with the server's, and makes the
// changes in their copies.
func (l *Live) poll() {
	tick := time.NewTicker(livePoll)
	defer tick.Stop()
	for {
		select {
		case <-l.stop:
			return
		case <-tick.C:
		case <-l.wake:
		}
		for _, id := range l.inClientsHands() {
			select {
			case <-l.stop:
				return
			default:
				l.check(id)
			}
		}
	}
}

// inClientsHands returns files to check, those that were waiting longest first.
func (l *Live) inClientsHands() (ids []uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for n, el := l.lru.Len(), l.lru.Back(); n > 0 && len(ids) < livePollMax; n-- {
		c, prev := el.Value.(*copied), el.Prev()
		if c.donated > 0 {
			ids = append(ids, c.id)
			l.lru.MoveToFront(el)
		}
		el = prev
	}
	return ids
}

// check brings the copy of one file up to date.
func (l *Live) check(nodeID uint64) {
	mu := l.stripe(nodeID)
	mu.Lock()
	defer mu.Unlock()
	c := l.use(nodeID)
	if c == nil {
		return
	}
	defer l.done(c)
	l.mu.Lock()
	stale, donated := c.stale, c.donated
	l.mu.Unlock()
	if donated == 0 {
		return
	}
	attr, ok := l.attr(nodeID)
	if !ok {
		return // gone from the server: clients keep what they have
	}
	if !stale && c.content == signatureOf(&attr) {
		return
	}
	if attr.Size == 0 {
		if l.resize(c, 0) {
			c.content = signatureOf(&attr)
		}
		return
	}
	header := fuse.InHeader{NodeId: nodeID}
	var out fuse.OpenOut
	status := l.RawFileSystem.Open(nil, &fuse.OpenIn{InHeader: header}, &out)
	if status == fuse.ENOSYS {
		out = fuse.OpenOut{}
	} else if !status.Ok() {
		return
	} else {
		defer l.RawFileSystem.Release(nil, &fuse.ReleaseIn{InHeader: header, Fh: out.Fh})
	}
	if again := l.refresh(nodeID, out.Fh); again != nil {
		l.done(again)
	}
}

// Stats returns an account like FS.Stats.
func (l *Live) Stats() Stats {
	l.mu.Lock()
	s := Stats{Budget: l.budget, Resident: l.resident, Files: l.lru.Len()}
	for _, c := range l.files {
		if c.donated > 0 {
			s.DonatedFiles++
			s.Donated += c.cost
		}
	}
	l.mu.Unlock()
	s.Fills, s.BytesFilled = l.stats.fills.Load(), l.stats.bytesFilled.Load()
	s.Evictions, s.Donations = l.stats.evictions.Load(), l.stats.donations.Load()
	return s
}
