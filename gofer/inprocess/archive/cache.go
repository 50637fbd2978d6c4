// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package archive

import (
	"container/list"
	"fmt"
	"io"
	"runtime"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// heapMax is the size up to which unpacked bytes are kept on the heap: below
	// it the three system calls of a memfd cost more than the copy.
	heapMax = 64 << 10
	// maxMemfds bounds the descriptors that the cache holds.
	maxMemfds = 1024
	// maxCached bounds the number of entries.
	maxCached = 64 << 10
	// busyTime is how long a member that was read counts as in use.
	busyTime = 10 * time.Second
)

// cache keeps unpacked zip members, each as a whole, because deflate cannot be
// entered in the middle.
//
// Members that were not read for a while are dropped beyond soft bytes; members
// in use may take up to hard bytes, since dropping one that is read
// piece by piece would unpack it again for each piece.
type cache struct {
	// Immutable.
	src        io.ReaderAt
	srcSize    int64
	soft, hard int64
	report     func(id uint32, err error)
	slots      chan struct{} // one for each member that may be unpacked at a time

	mu     sync.Mutex
	items  map[uint32]*content   // by node; guarded by mu
	lru    list.List             // of *content, the latest first; guarded by mu
	used   int64                 // bytes of all items; guarded by mu
	memfds int                   // guarded by mu
	broken map[uint32]unix.Errno // members that cannot be unpacked; guarded by mu
	closed bool                  // guarded by mu
}

// content is one unpacked member.
type content struct {
	node  uint32
	size  int64
	ready chan struct{} // closed when the fields below are set

	// Immutable once ready is closed.
	heap []byte
	fd   int // memfd, or -1
	err  unix.Errno

	elem  *list.Element // guarded by cache.mu
	users int           // readers, and the one who unpacks; guarded by cache.mu
	last  time.Time     // guarded by cache.mu
}

func newCache(src io.ReaderAt, size, soft, hard int64, report func(id uint32, err error)) *cache {
	return &cache{
		src: src, srcSize: size, soft: min(soft, hard), hard: hard, report: report,
		slots: make(chan struct{}, runtime.GOMAXPROCS(0)),
		items: map[uint32]*content{}, broken: map[uint32]unix.Errno{},
	}
}

// read copies bytes of an unpacked member; it unpacks it if needed, and waits for
// whoever does that already unless cancel is closed first.
func (c *cache) read(cancel <-chan struct{}, id uint32, n *node, m *zipMember, buf []byte, off int64) (int, unix.Errno) {
	item, mine, no := c.get(id, n.size)
	if no != 0 {
		return 0, no
	}
	if mine {
		c.unpack(item, n, m)
	} else {
		select {
		case <-item.ready:
		case <-cancel: // never, if nil
			c.put(item)
			return 0, unix.EINTR
		}
	}
	defer c.put(item)
	switch {
	case item.err != 0:
		return 0, item.err
	case off >= item.size:
		return 0, 0
	case item.fd < 0:
		return copy(buf, item.heap[off:]), 0
	}
	buf = buf[:min(int64(len(buf)), item.size-off)]
	k, err := unix.Pread(item.fd, buf, off)
	if err != nil {
		return 0, unix.EIO
	}
	return k, 0
}

// get returns the item for a node with a use that put gives back. mine says that
// the caller must unpack it.
func (c *cache) get(id uint32, size int64) (item *content, mine bool, no unix.Errno) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil, false, unix.ENODEV
	}
	if item := c.items[id]; item != nil {
		item.users++
		item.last = time.Now()
		c.lru.MoveToFront(item.elem)
		return item, false, 0
	}
	if no, ok := c.broken[id]; ok {
		return nil, false, no
	}
	if size > c.hard {
		c.report(id, fmt.Errorf("%d bytes are more than the option max-unpacked, %d, allows", size, c.hard))
		return nil, false, unix.EFBIG
	}
	c.makeRoom(size)
	if size > c.hard-c.used || len(c.items) >= maxCached || (size > heapMax && c.memfds >= maxMemfds) {
		// All of it is being read at this moment.
		return nil, false, unix.ENOMEM
	}
	item = &content{node: id, size: size, ready: make(chan struct{}), fd: -1, users: 1, last: time.Now()}
	item.elem = c.lru.PushFront(item)
	c.items[id] = item
	c.used += size
	if size > heapMax {
		c.memfds++
	}
	return item, true, 0
}

// put gives a use back.
func (c *cache) put(item *content) {
	c.mu.Lock()
	defer c.mu.Unlock()
	item.users--
	if item.users == 0 && (c.closed || c.items[item.node] != item) {
		item.close()
	}
}

// makeRoom drops members until there is room for size more bytes: idle ones for
// the soft limits, any that nobody reads right now for the hard ones.
func (c *cache) makeRoom(size int64) {
	idle := time.Now().Add(-busyTime)
	for e := c.lru.Back(); e != nil; {
		over := size > c.hard-c.used || c.memfds >= maxMemfds || len(c.items) >= maxCached
		item := e.Value.(*content)
		if !over && (size <= c.soft-c.used || item.last.After(idle)) {
			return // the others were read later
		}
		e = e.Prev()
		if item.users == 0 {
			c.remove(item)
			item.close()
		}
	}
}

// remove takes an item out of the cache's books.
func (c *cache) remove(item *content) {
	delete(c.items, item.node)
	c.lru.Remove(item.elem)
	c.used -= item.size
	if item.size > heapMax {
		c.memfds--
	}
}

func (i *content) close() {
	if i.fd >= 0 {
		unix.Close(i.fd)
		i.fd = -1
	}
}

// unpack fills the item and tells those who wait for it.
func (c *cache) unpack(item *content, n *node, m *zipMember) {
	c.slots <- struct{}{}
	err := item.fill(c.src, c.srcSize, n, m)
	<-c.slots
	if err != nil {
		item.err = unix.EIO
		c.report(item.node, err)
		c.mu.Lock()
		c.broken[item.node] = item.err
		c.remove(item)
		c.mu.Unlock()
	}
	close(item.ready)
}

func (i *content) fill(src io.ReaderAt, srcSize int64, n *node, m *zipMember) error {
	if i.size <= heapMax {
		i.heap = make([]byte, 0, i.size)
		return inflate(src, srcSize, n, m, func(p []byte) error {
			i.heap = append(i.heap, p...)
			return nil
		})
	}
	fd, err := unix.MemfdCreate("fsva-member", unix.MFD_CLOEXEC)
	if err != nil {
		return fmt.Errorf("memfd_create: %w", err)
	}
	i.fd = fd
	off := int64(0)
	return inflate(src, srcSize, n, m, func(p []byte) error {
		for len(p) > 0 {
			k, err := unix.Pwrite(fd, p, off)
			if err != nil {
				return fmt.Errorf("write memfd: %w", err)
			}
			p, off = p[k:], off+int64(k)
		}
		return nil
	})
}

// close drops everything that is not being read; readers drop the rest.
func (c *cache) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	for _, item := range c.items {
		c.remove(item)
		if item.users == 0 {
			item.close()
		}
	}
}
