// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"flag"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"fsva/gofer/inprocess"
)

// lasting is how long the server lets its peer keep names and attributes: for
// ever. Only notifications tell of changes.
const lasting = time.Hour

// cmdServe serves a directory over FUSE and sends notifications all the time. With
// -late it also changes files itself, as the last worker of the board, and tells
// of that by notifications only.
func cmdServe(args []string) error {
	var source, mountpoint, boardPath, fault string
	var late, duration time.Duration
	var bursts bool
	flags("serve", args, func(f *flag.FlagSet) {
		f.StringVar(&source, "source", "", "the `directory` to serve")
		f.StringVar(&mountpoint, "mount", "", "/dev/fd/N, the FUSE channel")
		f.StringVar(&boardPath, "board", "", "the board's `file`, for -late")
		f.DurationVar(&late, "late", 0, "change files, too: a change must be visible after this time")
		f.DurationVar(&duration, "duration", 0, "how long to change files")
		f.BoolVar(&bursts, "bursts", false, "send many STOREs at once, of what was written last")
		f.StringVar(&fault, "fault", "", "what to do wrong now and then: flip a byte that is read, lose a write, tear one in two, be silent about own changes")
	})
	unix.Umask(0)
	var b *board
	if late > 0 {
		var err error
		if b, err = openBoard(boardPath); err != nil {
			return err
		}
		for i := range 2 { // before the peer can note that they are not there
			if err := os.MkdirAll(filepath.Join(source, placeDir(b.workers()-1, i)), 0o755); err != nil {
				return err
			}
		}
	}
	base, err := inprocess.Open("dir", source, inprocess.Options{Shared: true, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		return err
	}
	n := &notifying{RawFileSystem: base, fault: fault, bursts: bursts, nodes: make(map[uint64]*served), ids: make(map[served]uint64), rnd: rand.New(rand.NewPCG(1, 2))}
	server, err := fuse.NewServer(n, mountpoint, &fuse.MountOptions{Name: "notify", DisableReadDirPlus: true, MaxWrite: 128 << 10})
	if err != nil {
		return err
	}
	n.server = server
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() { n.notify(stop) })
	var changeErr error
	if late > 0 {
		o := workOptions{late: late, dir: source, duration: duration, board: boardPath}
		wg.Go(func() { _, changeErr = o.process(b, b.workers()-1, n.changed) })
	}
	server.Serve()
	close(stop)
	wg.Wait()
	return changeErr
}

// served is a name in a directory.
type served struct {
	parent uint64
	name   string
}

// notifying is a file system whose names and attributes are valid for ever, and
// which sends notifications.
//
// What it says is in order: a STORE holds what the file has when it is sent, and
// is sent before the reply to the next change.
type notifying struct {
	fuse.RawFileSystem
	server *fuse.Server
	fault  string
	bursts bool

	// order is held for writing while a STORE is made and sent, for reading by
	// changes and while a node is forgotten. It is taken before mu.
	order sync.RWMutex

	mu      sync.Mutex
	nodes   map[uint64]*served // guarded by mu, as all that follows; what the peer knows
	ids     map[served]uint64  // the reverse
	faulted int
	written struct { // last
		node uint64
		off  int64
	}
	rnd *rand.Rand
}

// known notes a name that is given to the peer.
func (n *notifying) known(parent uint64, name string, out *fuse.EntryOut) {
	out.SetEntryTimeout(lasting)
	out.SetAttrTimeout(lasting)
	n.mu.Lock()
	defer n.mu.Unlock()
	n.nodes[out.NodeId] = &served{parent, name}
	n.ids[served{parent, name}] = out.NodeId
}

// wrong reports whether the fault is to be made now: rarely, but in any run.
func (n *notifying) wrong(fault string) bool {
	if n.fault != fault {
		return false
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.faulted++
	return n.faulted%20 == 0
}

// Lookup implements fuse.RawFileSystem. That a name is not there is valid for
// ever, too.
func (n *notifying) Lookup(cancel <-chan struct{}, header *fuse.InHeader, name string, out *fuse.EntryOut) fuse.Status {
	s := n.RawFileSystem.Lookup(cancel, header, name, out)
	switch s {
	case fuse.OK:
		n.known(header.NodeId, name, out)
	case fuse.ENOENT:
		*out = fuse.EntryOut{}
		out.SetEntryTimeout(lasting)
		return fuse.OK
	}
	return s
}

// Create implements fuse.RawFileSystem.
func (n *notifying) Create(cancel <-chan struct{}, in *fuse.CreateIn, name string, out *fuse.CreateOut) fuse.Status {
	s := n.RawFileSystem.Create(cancel, in, name, out)
	if s.Ok() {
		n.known(in.NodeId, name, &out.EntryOut)
	}
	return s
}

// Mkdir implements fuse.RawFileSystem.
func (n *notifying) Mkdir(cancel <-chan struct{}, in *fuse.MkdirIn, name string, out *fuse.EntryOut) fuse.Status {
	s := n.RawFileSystem.Mkdir(cancel, in, name, out)
	if s.Ok() {
		n.known(in.NodeId, name, out)
	}
	return s
}

// Forget implements fuse.RawFileSystem. The peer may know the node still; then it
// gets no notifications of it until the next lookup.
func (n *notifying) Forget(nodeID, nlookup uint64) {
	n.order.RLock()
	defer n.order.RUnlock()
	n.mu.Lock()
	if at := n.nodes[nodeID]; at != nil {
		delete(n.nodes, nodeID)
		if n.ids[*at] == nodeID {
			delete(n.ids, *at)
		}
	}
	n.mu.Unlock()
	n.RawFileSystem.Forget(nodeID, nlookup)
}

// GetAttr implements fuse.RawFileSystem.
func (n *notifying) GetAttr(cancel <-chan struct{}, in *fuse.GetAttrIn, out *fuse.AttrOut) fuse.Status {
	s := n.RawFileSystem.GetAttr(cancel, in, out)
	out.SetTimeout(lasting)
	return s
}

// SetAttr implements fuse.RawFileSystem.
func (n *notifying) SetAttr(cancel <-chan struct{}, in *fuse.SetAttrIn, out *fuse.AttrOut) fuse.Status {
	n.order.RLock()
	defer n.order.RUnlock()
	s := n.RawFileSystem.SetAttr(cancel, in, out)
	out.SetTimeout(lasting)
	return s
}

// Open implements fuse.RawFileSystem.
func (n *notifying) Open(cancel <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	n.order.RLock()
	defer n.order.RUnlock()
	s := n.RawFileSystem.Open(cancel, in, out)
	out.OpenFlags |= fuse.FOPEN_KEEP_CACHE
	return s
}

// Read implements fuse.RawFileSystem.
func (n *notifying) Read(cancel <-chan struct{}, in *fuse.ReadIn, buf []byte) (fuse.ReadResult, fuse.Status) {
	result, s := n.RawFileSystem.Read(cancel, in, buf)
	if !s.Ok() || result == nil || !n.wrong("flip") {
		return result, s
	}
	b, s := result.Bytes(buf)
	if !s.Ok() || len(b) == 0 {
		return result, s
	}
	b[len(b)/2] ^= 0x40
	return fuse.ReadResultData(b), fuse.OK
}

// Write implements fuse.RawFileSystem.
func (n *notifying) Write(cancel <-chan struct{}, in *fuse.WriteIn, data []byte) (uint32, fuse.Status) {
	n.order.RLock()
	defer n.order.RUnlock()
	n.mu.Lock()
	n.written.node, n.written.off = in.NodeId, int64(in.Offset)
	n.mu.Unlock()
	switch {
	case n.wrong("lose"):
		return uint32(len(data)), fuse.OK
	case n.wrong("tear"):
		_, s := n.RawFileSystem.Write(cancel, in, data[:len(data)/2])
		return uint32(len(data)), s
	}
	return n.RawFileSystem.Write(cancel, in, data)
}

// Writev implements fuse.RawFileSystem: Write is called instead.
func (n *notifying) Writev(<-chan struct{}, *fuse.WriteIn, [][]byte) (uint32, fuse.Status) {
	return 0, fuse.ENOSYS
}

// notify sends notifications of random nodes until stop.
func (n *notifying) notify(stop <-chan struct{}) {
	rnd := rand.New(rand.NewPCG(3, 4))
	for {
		select {
		case <-stop:
			return
		case <-time.After(time.Duration(rnd.IntN(4000)) * time.Microsecond):
		}
		node, at := n.random()
		if node == 0 {
			continue
		}
		off := int64(rnd.IntN(1 << 20))
		// The status says whether the channel took the message. It ends while we send.
		switch k := rnd.IntN(20); {
		case k < 6:
			_ = n.server.InodeNotify(node, off, int64(rnd.IntN(1<<17)))
		case k < 8:
			_ = n.server.InodeNotify(node, 0, 0) // everything
		case k < 9:
			_ = n.server.InodeNotify(node, -1, 0) // attributes only
		case k < 12:
			_ = n.server.EntryNotify(at.parent, at.name)
		case k < 15, k < 19 && !n.bursts:
			n.store(node, off, rnd.IntN(64<<10))
		case k < 19: // many, so that they have to wait for each other, where the next write may be
			n.mu.Lock()
			w := n.written
			n.mu.Unlock()
			for range 50 {
				n.store(w.node, max(0, w.off+int64(rnd.IntN(64<<10))-32<<10), rnd.IntN(64<<10))
			}
		default:
			_, _ = n.server.InodeRetrieveCache(node, off, make([]byte, 4096))
		}
	}
}

// random returns a node that the peer knows, and its name; 0 if there is none.
func (n *notifying) random() (uint64, served) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for id, at := range n.nodes { // the order is random
		if id != fuse.FUSE_ROOT_ID {
			return id, *at
		}
	}
	return 0, served{}
}

// store sends what a file has at off.
func (n *notifying) store(node uint64, off int64, size int) {
	n.order.Lock()
	defer n.order.Unlock()
	n.mu.Lock()
	known := n.nodes[node] != nil
	n.mu.Unlock()
	if !known {
		return
	}
	header := fuse.InHeader{NodeId: node}
	var attr fuse.AttrOut
	if s := n.RawFileSystem.GetAttr(nil, &fuse.GetAttrIn{InHeader: header}, &attr); !s.Ok() || !attr.IsRegular() || attr.Size == 0 {
		return
	}
	off %= int64(attr.Size)
	size = int(min(int64(size), int64(attr.Size)-off))
	var open fuse.OpenOut
	if s := n.RawFileSystem.Open(nil, &fuse.OpenIn{InHeader: header}, &open); !s.Ok() {
		return
	}
	defer n.RawFileSystem.Release(nil, &fuse.ReleaseIn{InHeader: header, Fh: open.Fh})
	buf := make([]byte, size)
	result, s := n.RawFileSystem.Read(nil, &fuse.ReadIn{InHeader: header, Fh: open.Fh, Offset: uint64(off), Size: uint32(size)}, buf)
	if !s.Ok() || result == nil {
		return
	}
	defer result.Done()
	data, s := result.Bytes(buf)
	if !s.Ok() || len(data) == 0 {
		return
	}
	_ = n.server.InodeNotifyStoreCache(node, off, data)
}

// changed tells the peer that what is at the paths, below the source, has changed:
// one path, or two if something was moved.
func (n *notifying) changed(paths ...string) {
	if n.fault == "silent" {
		return
	}
	var moved uint64
	for _, p := range paths {
		dir, ok := n.node(filepath.Dir(p))
		if !ok {
			continue // the peer has never looked there
		}
		at := served{dir, filepath.Base(p)}
		n.mu.Lock()
		id := n.ids[at]
		if moved != 0 {
			n.ids[at], n.nodes[moved] = moved, &served{at.parent, at.name}
		}
		moved = id
		n.mu.Unlock()
		_ = n.server.EntryNotify(dir, at.name)
		_ = n.server.InodeNotify(dir, 0, 0)
		if id != 0 {
			_ = n.server.InodeNotify(id, 0, 0)
		}
	}
}

// node returns the node of a directory below the source.
func (n *notifying) node(path string) (uint64, bool) {
	if path == "." {
		return fuse.FUSE_ROOT_ID, true
	}
	parent, ok := n.node(filepath.Dir(path))
	n.mu.Lock()
	defer n.mu.Unlock()
	id := n.ids[served{parent, filepath.Base(path)}]
	return id, ok && id != 0
}
