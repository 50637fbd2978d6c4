// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package fusestream

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"runtime"
	"sync"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"fsva/gofer/fusewire"
)

// RelayOptions configure a Relay.
type RelayOptions struct {
	// Dial connects to the gofer. It is called again when the connection is lost.
	Dial func(context.Context) (net.Conn, error)
	// Volume is the volume's name; "" takes whichever is there.
	Volume string
	// Secret is what the volume wants to hear, if anything.
	Secret []byte
	// ReadOnly promises to change nothing; the gofer holds the shim to it.
	ReadOnly bool
	// Windows are the machine's windows by their IDs.
	Windows map[[16]byte]GuestWindow
	// Readers is how many requests are read from the kernel at a time (default: the
	// number of CPUs, at most 4).
	Readers int
	// DialTimeout bounds one attempt to connect, hello included (default 10 s).
	DialTimeout time.Duration
	// Patience is how long applications wait for a gofer that is gone (default 60 s).
	// After it their requests fail with ENOTCONN until it is back.
	Patience time.Duration
	// Log receives what an operator should know. Default: discarded.
	Log *slog.Logger
}

// Relay joins a kernel's FUSE device to a gofer.
//
// It outlives the connection. The kernel knows nodes and files by numbers of the
// relay's own. With a new connection they are empty; the first request that uses one
// looks it up by its path, or opens it again. What is found must be of the same type,
// and have the same inode number if the volume's are stable; else the request fails with
// ESTALE. Files that hold locks or have no name any more cannot be opened again: EIO or
// ESTALE. Requests that were under way are repeated, or fail with EIO, see replayable.
// An open file with writes that no fsync has followed gets one EIO from its next fsync
// or close, unless the volume keeps writes (Info.KeepsWrites).
type Relay struct {
	opts RelayOptions
	dev  *device

	initMsg []byte       // the kernel's INIT; immutable after Serve has begun
	initOut fuse.InitOut // the answer it got; the same

	notes   noteQueue
	ctx     context.Context
	wg      sync.WaitGroup // goroutines other than those of requests
	buffers sync.Pool      // *[]byte

	mu      sync.Mutex
	link    *link               // nil while there is no connection; guarded by mu
	changed chan struct{}       // closed and replaced when link or dead changes; guarded by mu
	dead    error               // there will be no other connection; guarded by mu
	since   time.Time           // when link became nil; guarded by mu
	epoch   uint64              // of the last connection; guarded by mu
	own     uint64              // requests of the relay itself so far; guarded by mu
	pending map[uint64]*request // of the kernel, by unique ID; guarded by mu
	calls   map[uint64]*call    // of the relay, by unique ID; guarded by mu
	table   nodeTable           // guarded by mu
	info    Info                // of the first connection; immutable
}

// Connect makes the first connection. The relay still has no device, see Serve.
func Connect(ctx context.Context, o RelayOptions) (*Relay, error) {
	if o.Readers <= 0 {
		o.Readers = min(runtime.NumCPU(), 4)
	}
	if o.DialTimeout <= 0 {
		o.DialTimeout = 10 * time.Second
	}
	if o.Patience <= 0 {
		o.Patience = time.Minute
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	r := &Relay{
		opts:    o,
		changed: make(chan struct{}),
		pending: make(map[uint64]*request),
		table:   newNodeTable(),
		calls:   make(map[uint64]*call),
		notes:   newNoteQueue(0), // the gofer bounds their number
	}
	r.buffers.New = func() any { b := make([]byte, overhead+maxMessage); return &b }
	l, err := r.dial(ctx)
	if err != nil {
		return nil, err
	}
	r.epoch = 1
	l.epoch = 1
	r.table.epoch = 1
	r.link, r.info = l, l.hello.Info
	return r, nil
}

// Volume returns the name of the volume at the other end, and Info what it said.
func (r *Relay) Volume() string { return r.link.hello.Volume }
func (r *Relay) Info() Info     { return r.info }

// Close gives up a relay that Serve was not called for.
func (r *Relay) Close() { r.link.conn.Close() }

// Serve relays the requests of a mounted FUSE device, which it takes ownership of,
// until the file system is unmounted (nil) or ctx is done (nil; the mount is dead
// then). ready, which may be nil, is called once the kernel has its answer to INIT.
//
// Unless the file system was unmounted, goroutines still wait in reads of the device,
// and it stays open: nothing else wakes them, so the process should end.
func (r *Relay) Serve(ctx context.Context, fd int, ready func()) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	r.ctx = ctx
	r.dev = &device{fds: []int{fd}}
	if err := r.initialize(); err != nil {
		r.link.conn.Close()
		r.dev.close()
		return err
	}
	r.dev = newDevice(fd, r.opts.Readers)
	if ready != nil {
		ready()
	}
	r.wg.Add(2)
	go r.keepConnected(r.link)
	go r.sendNotes()
	errs := make(chan error, len(r.dev.fds))
	for i := range r.dev.fds {
		go func() { errs <- r.readDevice(i) }()
	}
	var err error
	left := len(r.dev.fds)
	select {
	case err = <-errs:
		left--
	case <-ctx.Done():
	}
	if errors.Is(err, errUnmounted) {
		err = nil
		for ; left > 0; left-- {
			<-errs
		}
	}
	cancel()
	r.mu.Lock()
	if r.link != nil {
		r.link.conn.Close()
	}
	r.mu.Unlock()
	r.wg.Wait()
	if left == 0 {
		r.dev.close()
	}
	return err
}

// initialize passes the kernel's INIT on and remembers it for later connections.
func (r *Relay) initialize() error {
	buf := make([]byte, overhead+maxMessage)
	for {
		n, err := r.dev.read(0, buf[overhead:])
		if err != nil {
			return err
		}
		msg := buf[overhead : overhead+n]
		if n < fusewire.InHeaderSize || opcodeOf(msg) != fusewire.OpInit {
			return fmt.Errorf("the kernel begins with operation %d", opcodeOf(msg))
		}
		if _, err := r.link.send(buf[:overhead+n]); err != nil {
			return fmt.Errorf("send INIT: %w", err)
		}
		r.initMsg = append([]byte(nil), buf[:overhead+n]...)
		var b []byte
		m, err := r.link.read(&b)
		if err != nil {
			return fmt.Errorf("INIT: %w", err)
		}
		if e := replyError(m.fuse); e != 0 {
			err = fmt.Errorf("INIT: %w", unix.Errno(-e))
		}
		copy(bytesOf(&r.initOut), m.fuse[fusewire.OutHeaderSize:])
		if werr := r.dev.write(0, m.fuse, nil); err == nil && werr != nil {
			err = fmt.Errorf("answer INIT: %w", werr)
		}
		if err != nil || len(m.fuse) > fusewire.OutHeaderSize+8 {
			return err
		}
		// It only said which version it wants.
	}
}

// reinitialize negotiates on a new connection what the kernel was told on the first.
func (r *Relay) reinitialize(l *link) error {
	if l.hello.Exclusive != r.info.Exclusive || l.hello.ReadOnly && !r.info.ReadOnly {
		return fmt.Errorf("%w: the volume has another coherence, or has become read-only; mount it again", ErrRefused)
	}
	msg := append([]byte(nil), r.initMsg...)
	put64(msg, overhead+atUnique, ownUnique)
	if _, err := l.send(msg); err != nil {
		return fmt.Errorf("send INIT: %w", err)
	}
	var b []byte
	m, err := l.read(&b)
	if err != nil {
		return fmt.Errorf("INIT: %w", err)
	}
	if e := replyError(m.fuse); e != 0 {
		return fmt.Errorf("INIT: %w", unix.Errno(-e))
	}
	var out fuse.InitOut
	copy(bytesOf(&out), m.fuse[fusewire.OutHeaderSize:])
	if out.Flags64() != r.initOut.Flags64() || out.MaxWrite < r.initOut.MaxWrite || out.MaxPages < r.initOut.MaxPages {
		return fmt.Errorf("%w: the volume has other capabilities than before; mount it again", ErrRefused)
	}
	return nil
}

// keepConnected is the goroutine that reads from the connection, and makes another
// when it ends.
func (r *Relay) keepConnected(l *link) {
	defer r.wg.Done()
	for {
		err := r.readLink(l)
		l.conn.Close()
		r.lost(l)
		if r.ctx.Err() != nil {
			return
		}
		if err == io.EOF {
			err = errors.New("the gofer has closed it")
		}
		r.opts.Log.Warn("the connection to the volume is lost", "err", err)
		if l = r.reconnect(); l == nil {
			return
		}
		r.opts.Log.Info("connected to the volume again")
	}
}

// reconnect returns a new connection, or nil if there will be none.
func (r *Relay) reconnect() *link {
	backoff := minBackoff
	for {
		l, err := r.dial(r.ctx)
		if err == nil {
			if err = l.conn.SetDeadline(time.Now().Add(r.opts.DialTimeout)); err == nil {
				err = r.reinitialize(l)
			}
			if err == nil {
				err = l.conn.SetDeadline(time.Time{})
			}
			if err == nil {
				r.mu.Lock()
				r.epoch++
				l.epoch = r.epoch
				r.table.epoch = r.epoch
				r.link = l
				r.wakeLocked()
				r.mu.Unlock()
				return l
			}
			l.conn.Close()
		}
		if errors.Is(err, ErrRefused) {
			r.opts.Log.Error("the volume is lost", "err", err)
			r.mu.Lock()
			r.dead = err
			r.wakeLocked()
			r.mu.Unlock()
			return nil
		}
		r.opts.Log.Debug("connect to the volume", "err", err)
		select {
		case <-time.After(backoff):
		case <-r.ctx.Done():
			return nil
		}
		backoff = min(2*backoff, maxBackoff)
	}
}

// wakeLocked wakes those who wait for a connection.
func (r *Relay) wakeLocked() {
	close(r.changed)
	r.changed = make(chan struct{})
}

// lost settles the requests that were sent over a connection that has ended.
func (r *Relay) lost(l *link) {
	var again []*request
	r.mu.Lock()
	r.link, r.since = nil, time.Now()
	r.wakeLocked()
	waiting := r.clearAheadLocked()
	r.table.newEpoch(r.info.KeepsWrites)
	for _, q := range r.pending {
		if q.epoch != l.epoch || q.writing {
			continue // its writer settles it
		}
		again = append(again, q)
	}
	r.mu.Unlock()
	r.resume(waiting)
	for _, q := range again {
		r.settle(q)
	}
}

// wait returns a connection, as soon as there is one, or the error for those who have
// waited long enough.
func (r *Relay) wait(cancel <-chan struct{}) (*link, unix.Errno) {
	for {
		r.mu.Lock()
		l, changed, dead := r.link, r.changed, r.dead
		left := time.Until(r.since.Add(r.opts.Patience))
		r.mu.Unlock()
		switch {
		case l != nil:
			return l, 0
		case dead != nil || left <= 0:
			return nil, unix.ENOTCONN
		}
		t := time.NewTimer(left)
		select {
		case <-changed:
		case <-t.C:
		case <-cancel:
			t.Stop()
			return nil, unix.EINTR
		case <-r.ctx.Done():
			t.Stop()
			return nil, unix.ENOTCONN
		}
		t.Stop()
	}
}

// sendNotes is the goroutine that passes notifications to the kernel. The kernel may
// wait there for a lock whose holder waits for a reply, so nobody else does.
func (r *Relay) sendNotes() {
	defer r.wg.Done()
	for {
		select {
		case <-r.notes.ready:
		case <-r.ctx.Done():
			return
		}
		for msg := r.notes.next(); msg != nil; msg = r.notes.next() {
			// ENOENT: it has nothing to invalidate.
			if err := r.dev.write(0, msg, nil); err != nil && err != unix.ENOENT {
				r.opts.Log.Debug("notify the kernel", "err", err)
			}
		}
	}
}
