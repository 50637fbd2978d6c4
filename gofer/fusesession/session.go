// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package fusesession

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"runtime/debug"
	"sync"
	"sync/atomic"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"fsva/gofer/fusewire"
	"fsva/gofer/latency"
)

// Options configure a Session. The zero value is usable: a writable client of a
// volume that others change, too.
type Options struct {
	// ReadOnly refuses everything that would change the file system with EROFS.
	ReadOnly bool
	// Exclusive says that nobody changes the files but this client (or nobody at
	// all): its kernel may cache names, attributes, data, links and listings for
	// as long as it likes. Otherwise it asks again whenever it uses them.
	Exclusive bool
	// WriteBack lets the client's kernel put writes off. Only with Exclusive.
	WriteBack bool
	// Locks says that the file system has POSIX and BSD locks. A file system with
	// a method Has(capability uint64) bool is asked instead. Without them the
	// client's kernel keeps its locks to itself.
	Locks bool

	// MaxIO is the most data of one READ, WRITE or READDIR, in bytes: a multiple of
	// 4096, at most 1 MiB, which is the default.
	MaxIO int
	// MaxNodes bounds the nodes the client knows (default 2 Mi), MaxHandles its
	// open files and directories (default 64 Ki). Beyond them: ENFILE.
	MaxNodes, MaxHandles int
	// MaxInFlight bounds the requests that are in the file system at a time (default
	// 512): Handle waits. Requests that wait for a lock (SETLKW) have a bound of the
	// same size of their own: beyond it they fail with ENOLCK.
	MaxInFlight int

	// PrivateInput says that nobody but the caller of Handle can change the
	// memory of a request, so that it need not be copied.
	PrivateInput bool

	// Notify sends a notification to the client: a whole message, header included,
	// which Notify may keep. It must not block on the client and may be called
	// from any goroutine. nil: notifications are dropped.
	Notify func(msg []byte)

	// Account counts the session's requests, and may be that of several sessions.
	// nil: nobody does.
	Account *Account

	// Log receives what an operator should know. Default: discarded.
	Log *slog.Logger
}

const (
	maxMaxIO           = 1 << 20
	defaultMaxNodes    = 2 << 20
	defaultMaxHandles  = 64 << 10
	defaultMaxInFlight = 512
	// maxLockOwners bounds the owners of POSIX locks; each is a process that has
	// locked an open file.
	maxLockOwners = 64 << 10
	// messageOverhead is what a request may have beside MaxIO bytes of data.
	messageOverhead = pageSize
)

func (o Options) withDefaults() Options {
	if o.MaxIO <= 0 || o.MaxIO > maxMaxIO {
		o.MaxIO = maxMaxIO
	}
	o.MaxIO = max(o.MaxIO&^(pageSize-1), pageSize)
	if o.MaxNodes <= 0 {
		o.MaxNodes = defaultMaxNodes
	}
	if o.MaxHandles <= 0 {
		o.MaxHandles = defaultMaxHandles
	}
	if o.MaxInFlight <= 0 {
		o.MaxInFlight = defaultMaxInFlight
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	o.WriteBack = o.WriteBack && o.Exclusive && !o.ReadOnly
	return o
}

// Errors of Handle.
var (
	errMessage = errors.New("malformed FUSE request")
	errNoRoom  = errors.New("no room for a FUSE reply")
)

// Stats are a session's counters at one moment.
type Stats struct {
	Requests  uint64 // messages that were requests
	Malformed uint64 // messages, or requests, that no kernel sends
	Nodes     int
	Handles   int
	InFlight  int
}

// Session is one client's connection to a file system. Its methods may be called
// concurrently.
type Session struct {
	fs        fuse.RawFileSystem
	opts      Options
	ownerKey  uint64 // sets the client's lock owners apart from others'
	canTrunc  bool   // the file system honours O_TRUNC
	canPlus   bool   // the file system has READDIRPLUS
	canPosix  bool
	canFlock  bool
	requests  atomic.Uint64
	malformed atomic.Uint64

	slots chan struct{} // a token per request at work
	small sync.Pool     // *[]byte of messageOverhead
	large sync.Pool     // *[]byte of MaxIO and messageOverhead

	mu      sync.Mutex
	idle    sync.Cond // active is 0
	state   state
	flags   uint64 // negotiated
	minor   uint32 // the client's own, which may be later than ours
	active  int    // requests between begin and end
	waiting int    // SETLKW among them
	tab     table
	calls   map[uint64]*request // by Unique
}

type state uint8

const (
	stateNew      state = iota // waits for INIT
	stateReady                 // INIT was answered
	stateDraining              // DESTROY or Close waits for requests to end
	stateClosed
)

// Optional interfaces of the file system.
type (
	// atomicTruncer reports whether OPEN honours O_TRUNC.
	atomicTruncer interface{ AtomicOTrunc() bool }
	// capabilities reports whether an INIT capability (fuse.CAP_*) was agreed on.
	capabilities interface{ Has(capability uint64) bool }
)

// New returns a session of a new client on fs, which must be initialised
// already and outlives it.
func New(fs fuse.RawFileSystem, o Options) *Session {
	o = o.withDefaults()
	s := &Session{
		fs:       fs,
		opts:     o,
		canPlus:  true,
		canPosix: o.Locks,
		canFlock: o.Locks,
		slots:    make(chan struct{}, o.MaxInFlight),
		tab:      newTable(),
		calls:    make(map[uint64]*request),
	}
	s.idle.L = &s.mu
	var key [8]byte
	rand.Read(key[:]) // never fails
	s.ownerKey = binary.NativeEndian.Uint64(key[:])
	if t, ok := fs.(atomicTruncer); ok {
		s.canTrunc = t.AtomicOTrunc()
	}
	if c, ok := fs.(capabilities); ok {
		s.canTrunc = s.canTrunc || c.Has(fuse.CAP_ATOMIC_O_TRUNC)
		s.canPlus = c.Has(fuse.CAP_READDIRPLUS)
		s.canPosix, s.canFlock = c.Has(fuse.CAP_POSIX_LOCKS), c.Has(fuse.CAP_FLOCK_LOCKS)
	}
	s.small.New = func() any { b := make([]byte, messageOverhead); return &b }
	s.large.New = func() any { b := make([]byte, s.MaxMessage()); return &b }
	return s
}

// MaxMessage returns the most bytes of a request or of a reply.
func (s *Session) MaxMessage() int { return max(s.opts.MaxIO, xattrValueMax) + messageOverhead }

// Stats returns the session's counters.
func (s *Session) Stats() Stats {
	s.mu.Lock()
	defer s.mu.Unlock()
	return Stats{
		Requests: s.requests.Load(), Malformed: s.malformed.Load(),
		Nodes: len(s.tab.nodes), Handles: len(s.tab.handles), InFlight: s.active,
	}
}

// Handle carries out the request that the pieces of in make up and writes the
// reply to the pieces of out. It returns the reply's length, 0 if the request has
// none. A request that fails has its errno in the reply; an error from Handle
// means that there is no reply because the message was no request, or there is no
// room for a reply: the client has broken the protocol.
//
// Memory that the client can change at the same time may be passed: each byte of
// in is read once, unless Options.PrivateInput (then it may be changed, too), and out
// is never read. Replies to
// READ are put there by the file system itself. Nothing is kept after the return.
//
// Handle blocks for as long as the file system does. INTERRUPT, FORGET and
// BATCH_FORGET never do, so they can be handled in the order they come.
func (s *Session) Handle(in, out [][]byte) (int, error) {
	r := &request{out: out, room: total(out)}
	defer s.freeBufs(r)
	if err := s.take(r, in); err != nil {
		s.malformed.Add(1)
		return 0, err
	}
	s.requests.Add(1)
	if a := s.opts.Account; a != nil {
		defer a.observe(r, latency.Now())
	}
	var op *operation
	if r.Opcode < fusewire.OpCount {
		op = &operations[r.Opcode]
	}
	switch {
	case op == nil || op.run == nil && r.Opcode != fusewire.OpForget && r.Opcode != fusewire.OpBatchForget && r.Opcode != fusewire.OpDestroy:
		return r.send(fuse.ENOSYS)
	case r.TotalExtlen != 0: // extensions are not negotiated
		return r.send(s.bad())
	case r.Opcode == fusewire.OpForget, r.Opcode == fusewire.OpBatchForget:
		s.forget(r)
		return 0, nil
	case r.Opcode == fusewire.OpDestroy:
		return r.send(s.drain(stateNew))
	case op.changes && s.opts.ReadOnly:
		return r.send(fuse.EROFS)
	}
	if st := s.begin(r, op); st != fuse.OK {
		return r.send(st)
	}
	defer s.end(r)
	if !op.prompt {
		select {
		case s.slots <- struct{}{}:
			defer func() { <-s.slots }()
		case <-r.cancel:
			return r.send(fuse.EINTR)
		}
	}
	st := s.call(r, op)
	if op.noReply && st == fuse.OK {
		return 0, nil
	}
	return r.send(st)
}

// take reads the message into private memory.
func (s *Session) take(r *request, in [][]byte) error {
	n := total(in)
	if n < fusewire.InHeaderSize || n > s.MaxMessage() {
		return errMessage
	}
	if s.opts.PrivateInput && len(in) == 1 && aligned(in[0]) {
		r.msg = in[0]
	} else {
		r.msg = s.buf(r, n)
		gather(r.msg, in)
	}
	h, _, _ := arg[fuse.InHeader](r.msg)
	r.InHeader = *h
	if int64(r.Length) != int64(n) {
		return errMessage
	}
	return nil
}

// buf returns n bytes that are given back at the end of the request.
func (s *Session) buf(r *request, n int) []byte {
	var b *[]byte
	if n <= messageOverhead {
		b = s.small.Get().(*[]byte)
	} else {
		b = s.large.Get().(*[]byte)
	}
	for i := range r.bufs {
		if r.bufs[i] == nil {
			r.bufs[i] = b
			return (*b)[:n]
		}
	}
	panic("fusesession: a request with more than two buffers")
}

func (s *Session) freeBufs(r *request) {
	for _, b := range r.bufs {
		switch {
		case b == nil:
		case len(*b) == messageOverhead:
			s.small.Put(b)
		default:
			s.large.Put(b)
		}
	}
}

// bad counts a request that no kernel sends.
func (s *Session) bad() fuse.Status {
	s.malformed.Add(1)
	return fuse.EINVAL
}

// begin admits a request: from now on it can be interrupted, it keeps its node, and
// the end of the session waits for it.
func (s *Session) begin(r *request, op *operation) fuse.Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.state == stateClosed || s.state == stateDraining:
		return fuse.Status(unix.ENOTCONN)
	case s.state == stateNew && r.Opcode != fusewire.OpInit:
		s.malformed.Add(1)
		return fuse.Status(unix.EPROTO)
	case r.Opcode == fusewire.OpSetLkw && s.waiting >= s.opts.MaxInFlight:
		return fuse.Status(unix.ENOLCK)
	}
	if op.node {
		n := s.tab.pin(r.NodeId)
		if n == nil {
			return fuse.Status(unix.ESTALE)
		}
		if st := typeError(n.ftype, op.ftype); st != fuse.OK {
			n.pins-- // no garbage: the client has it
			return st
		}
		r.nodes[0], r.ftypes[0] = n, n.ftype
	}
	if r.Opcode == fusewire.OpSetLkw {
		s.waiting++
	}
	s.active++
	if r.Opcode != fusewire.OpInit && r.Opcode != fusewire.OpInterrupt {
		r.cancel = make(chan struct{})
		s.calls[r.Unique] = r
	}
	return fuse.OK
}

// call runs the operation. A panic below us fails one request only.
func (s *Session) call(r *request, op *operation) (st fuse.Status) {
	defer func() {
		if p := recover(); p != nil {
			s.opts.Log.Error("panic in a FUSE request", "op", op.name, "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
			st = fuse.EIO
		}
	}()
	return sane(op.run(s, r))
}

// sane makes a status of the file system's one that the client's kernel takes.
func sane(st fuse.Status) fuse.Status {
	if st < 0 || st >= 512 {
		return fuse.EIO
	}
	return st
}

// end gives back what the request used.
func (s *Session) end(r *request) {
	var g garbage
	s.mu.Lock()
	for _, h := range r.handles {
		if h != nil {
			s.tab.giveBack(h, &g)
		}
	}
	for _, n := range r.nodes {
		if n != nil {
			s.tab.unpin(n, &g)
		}
	}
	if s.calls[r.Unique] == r {
		delete(s.calls, r.Unique)
	}
	s.mu.Unlock()
	s.giveBack(&g)
	s.leave(r.Opcode == fusewire.OpSetLkw)
}

// leave takes a request off those at work.
func (s *Session) leave(waited bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if waited {
		s.waiting--
	}
	if s.active--; s.active == 0 {
		s.idle.Broadcast()
	}
}

// giveBack tells the file system what the client does not use any more: handles
// first, because they keep their nodes.
func (s *Session) giveBack(g *garbage) {
	for _, h := range g.handles {
		s.releaseHandle(h)
		s.mu.Lock()
		s.tab.unpin(h.node, g)
		s.mu.Unlock()
	}
	for i := range g.forgets {
		s.fs.Forget(g.forgets[i].id, g.forgets[i].held)
	}
}

// releaseHandle sends RELEASE. Nobody uses the handle any more.
func (s *Session) releaseHandle(h *handle) {
	if h.virtual {
		return
	}
	in := h.freed
	in.NodeId, in.Fh, in.Flags = h.node.id, h.fh, h.flags
	if h.dir {
		s.fs.ReleaseDir(&in)
	} else {
		s.fs.Release(nil, &in)
	}
}

// forget carries out FORGET and BATCH_FORGET. A node that the client does not have
// is ignored: there is no reply to say so.
func (s *Session) forget(r *request) {
	var g garbage
	s.mu.Lock()
	if s.state != stateReady {
		s.mu.Unlock()
		return
	}
	s.active++
	if in, _, ok := arg[fuse.ForgetIn](r.msg); ok && r.Opcode == fusewire.OpForget {
		s.tab.forget(r.NodeId, in.Nlookup, &g)
	} else if in, rest, ok := arg[batchForgetIn](r.msg); ok && r.Opcode == fusewire.OpBatchForget {
		for range min(int(in.Count), len(rest)/forgetOneSize) {
			id, n := binary.NativeEndian.Uint64(rest), binary.NativeEndian.Uint64(rest[8:])
			s.tab.forget(id, n, &g)
			rest = rest[forgetOneSize:]
		}
	} else {
		s.malformed.Add(1)
	}
	s.mu.Unlock()
	s.giveBack(&g)
	s.leave(false)
}

// interrupt cancels the request with the given unique ID and reports whether it is
// at work.
func (s *Session) interrupt(unique uint64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.calls[unique]
	if r != nil {
		r.interruptLocked()
	}
	return r != nil
}

func (r *request) interruptLocked() {
	if !r.canceled {
		r.canceled = true
		close(r.cancel)
	}
}

// drain ends what is at work and gives back everything the client holds. After it
// the session is in the given state.
func (s *Session) drain(next state) fuse.Status {
	s.mu.Lock()
	for s.state == stateDraining && next == stateClosed {
		s.idle.Wait()
	}
	if s.state == stateDraining || s.state == stateClosed {
		s.mu.Unlock()
		return fuse.OK
	}
	s.state = stateDraining
	for _, r := range s.calls {
		r.interruptLocked()
	}
	for s.active > 0 {
		s.idle.Wait()
	}
	t := s.tab
	s.tab = newTable()
	s.tab.nextFh = t.nextFh
	s.mu.Unlock()

	for _, h := range t.handles {
		s.abandon(h)
	}
	for _, n := range t.nodes {
		if n.held > 0 {
			s.fs.Forget(n.id, n.held)
		}
	}
	s.mu.Lock()
	s.state = next
	s.idle.Broadcast()
	s.mu.Unlock()
	return fuse.OK
}

// abandon closes a handle as the client's kernel would when the processes that
// have it open end.
func (s *Session) abandon(h *handle) {
	header := fuse.InHeader{NodeId: h.node.id}
	for owner := range h.owners {
		in := fuse.LkIn{InHeader: header, Fh: h.fh, Owner: owner}
		in.Lk = fuse.FileLock{End: math.MaxInt64, Typ: unix.F_UNLCK}
		if st := s.fs.SetLk(nil, &in); st != fuse.OK {
			s.opts.Log.Debug("unlock for a client that is gone", "node", h.node.id, "status", st)
		}
	}
	if h.dirty {
		if st := s.fs.Flush(nil, &fuse.FlushIn{InHeader: header, Fh: h.fh}); st != fuse.OK && st != fuse.ENOSYS {
			s.opts.Log.Warn("data of a file that its client left open may be lost", "node", h.node.id, "status", st)
		}
	}
	h.freed = fuse.ReleaseIn{}
	if h.flocked {
		h.freed.ReleaseFlags, h.freed.LockOwner = releaseFlockUnlock, h.flocker
	}
	s.releaseHandle(h)
}

// Close ends the session: requests at work are interrupted, and when the last of
// them has returned, locks, handles and lookups of the client are given back. It
// returns when that is done; it is idempotent.
func (s *Session) Close() { s.drain(stateClosed) }
