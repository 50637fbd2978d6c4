// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package fusechannel

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"fsva/gofer/fusewire"
)

// maxInFlight bounds the requests that wait for a reply; more callers wait for one to end.
const maxInFlight = 1024

// maxMalformed is how many malformed messages stop the channel.
const maxMalformed = 100

// ErrClosed is the Err of a channel that was closed from our side.
var ErrClosed = errors.New("FUSE channel closed")

// errGone is the Err of a channel whose server went away.
var errGone = errors.New("the FS server closed the FUSE channel")

// Channel is a connection to an FS server in the kernel's role. It implements fuse.RawFileSystem; its methods may be
// called from any number of goroutines. Each returns ENOTCONN once the channel has failed or was closed.
//
// Lookup counts are the caller's business: every entry that a method returns with a node id is one lookup, and has to
// be given back with Forget.
type Channel struct {
	fd    int // ours; closed by Close when nobody uses it
	opts  Options
	proto protocol
	log   *limitedLog

	forgets  forgetQueue
	notes    notifyQueue
	notifier atomic.Pointer[Notifier]
	dirLocks *nodeLocks // nil when the server has PARALLEL_DIROPS
	ioLocks  *nodeLocks // nil when the server has ASYNC_READ
	dirBufs  sync.Pool  // *[]byte of maxDirRead

	enosys      [fusewire.OpCount]atomic.Bool // operations the server does not have, see enosys.go
	noInterrupt atomic.Bool
	stats       counters

	slots chan struct{} // one token per call in the table
	dead  chan struct{} // closed when err is set
	bg    chan struct{} // hands the read role to the background reader
	wg    sync.WaitGroup

	closeOnce sync.Once

	// Reader only: whoever has the read role.
	rbuf []byte
	riov [1]unix.Iovec
	rmsg unix.Msghdr

	mu      sync.Mutex
	reading bool // somebody has the read role
	err     error
	seq     uint64 // calls begun so far
	users   int    // calls not ended, and others who need the fd: it stays open for them
	idle    chan struct{}
	free    []*call
	calls   []*call
	flying  int // calls that wait for a reply
	// selecting is how many calls have roleSelecting: somebody has to read for them.
	selecting int
	waiters   *call // ring of calls with roleFollower, oldest first
	closing   bool
}

var _ fuse.RawFileSystem = (*Channel)(nil)

// New takes ownership of fd, one end of a SOCK_SEQPACKET socketpair whose other end an FS server uses as its FUSE
// device, and negotiates with it. It returns when the server has answered INIT, or with a one-line error when it did
// not do so before o.InitTimeout and ctx; fd is closed then.
func New(ctx context.Context, fd int, o Options) (*Channel, error) {
	o = o.withDefaults()
	c := &Channel{
		fd:    fd,
		opts:  o,
		log:   &limitedLog{log: o.Log},
		slots: make(chan struct{}, maxInFlight),
		dead:  make(chan struct{}),
		bg:    make(chan struct{}, 1),
		idle:  make(chan struct{}),
	}
	if err := c.handshake(ctx); err != nil {
		unix.Close(fd)
		return nil, err
	}
	c.SetNotifier(o.Notify)
	if !c.proto.has(fuse.CAP_PARALLEL_DIROPS) {
		c.dirLocks = newNodeLocks()
	}
	if !c.proto.has(fuse.CAP_ASYNC_READ) {
		c.ioLocks = newNodeLocks()
	}
	c.dirBufs.New = func() any { b := make([]byte, min(maxDirRead, c.proto.maxRead)); return &b }
	c.forgets.init()
	c.notes.init()
	c.wg.Add(3)
	go c.backgroundReader()
	go c.sendForgets()
	go c.dispatchNotifications()
	o.Log.Debug("FUSE channel ready", "minor", c.proto.minor, "flags", fmt.Sprintf("%#x", c.proto.caps),
		"maxWrite", c.proto.maxWrite, "maxRead", c.proto.maxRead)
	return c, nil
}

// InitOut returns what was negotiated: the flags that both sides know, sizes as they are used here.
func (c *Channel) InitOut() fuse.InitOut { return c.proto.init }

// MaxWrite returns the most data that one WRITE carries. Write splits longer ones.
func (c *Channel) MaxWrite() int { return c.proto.maxWrite }

// MaxRead returns the most data that one READ asks for. Read splits longer ones.
func (c *Channel) MaxRead() int { return c.proto.maxRead }

// Has reports whether all the flags in cap (fuse.CAP_*) were negotiated.
func (c *Channel) Has(cap uint64) bool { return c.proto.has(cap) }

// SetNotifier replaces the receiver of notifications; nil drops them.
func (c *Channel) SetNotifier(n Notifier) {
	if n == nil {
		c.notifier.Store(nil)
		return
	}
	c.notifier.Store(&n)
}

// Done is closed when the channel has failed or was closed.
func (c *Channel) Done() <-chan struct{} { return c.dead }

// Err returns why the channel ended, in one line; nil while it works.
func (c *Channel) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// Destroy ends the session in order: what was forgotten and released is delivered, then DESTROY, and when the server
// has answered it, or ctx is done, the channel is closed. It returns nil when the server answered; the channel is
// closed in any case.
func (c *Channel) Destroy(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() { c.fail(ErrClosed) })
	c.forgets.flush()
	st := c.drain(ctx)
	if st == fuse.OK {
		st = c.simple(nil, fusewire.OpDestroy, &fuse.InHeader{}, "")
		if st == fuse.ENOSYS {
			st = fuse.OK // as good as any answer
		}
	}
	stop()
	c.Close()
	if err := ctx.Err(); err != nil && st != fuse.OK {
		return fmt.Errorf("the FS server did not answer DESTROY: %w", err)
	}
	if st != fuse.OK {
		return fmt.Errorf("DESTROY: %s", unix.Errno(st).Error())
	}
	return nil
}

// drain waits until no call is in the air, so that DESTROY overtakes nothing.
func (c *Channel) drain(ctx context.Context) fuse.Status {
	tick := time.NewTicker(tickPeriod)
	defer tick.Stop()
	for {
		c.mu.Lock()
		n, err := c.flying, c.err
		c.mu.Unlock()
		if err != nil {
			return enotconn
		}
		if n == 0 {
			return fuse.OK
		}
		select {
		case <-tick.C:
		case <-c.dead:
		case <-ctx.Done():
			return fuse.Status(unix.ETIMEDOUT)
		}
	}
}

// Close aborts everything: calls under way return ENOTCONN. It returns when nothing of the channel runs any more. It is
// idempotent and safe to call concurrently.
func (c *Channel) Close() {
	c.fail(ErrClosed)
	c.closeOnce.Do(func() {
		c.mu.Lock()
		c.closing = true
		if c.users == 0 {
			close(c.idle)
		}
		c.mu.Unlock()
		<-c.idle
		c.wg.Wait()
		unix.Close(c.fd)
	})
}

// fail ends the channel with err; the first reason stays. Everybody who waits for a reply gets ENOTCONN.
func (c *Channel) fail(err error) {
	c.mu.Lock()
	if c.err != nil {
		c.mu.Unlock()
		return
	}
	c.err = err
	c.users++ // keeps the descriptor ours until after the shutdown
	unattended := 0
	for _, ca := range c.calls {
		if ca.state == callInFlight {
			ca.status = enotconn
			c.doneLocked(ca)
			if ca.role == roleUnattended {
				c.endLocked(ca)
				unattended++
			}
		}
	}
	close(c.dead)
	c.mu.Unlock()
	for range unattended {
		<-c.slots
	}
	// Wakes whoever is blocked in recvmsg or sendmsg, and tells the server.
	unix.Shutdown(c.fd, unix.SHUT_RDWR)
	c.mu.Lock()
	c.unuseLocked()
	c.mu.Unlock()
	level := slog.LevelWarn
	if errors.Is(err, ErrClosed) || errors.Is(err, errGone) {
		level = slog.LevelInfo
	}
	c.opts.Log.Log(context.Background(), level, "FUSE channel ended", "reason", err)
}

// unuseLocked gives up a use of the descriptor.
func (c *Channel) unuseLocked() {
	c.users--
	if c.users == 0 && c.closing {
		close(c.idle)
	}
}

// String implements fuse.RawFileSystem.
func (c *Channel) String() string { return "fusechannel" }

// SetDebug implements fuse.RawFileSystem; the logger's level decides instead.
func (c *Channel) SetDebug(bool) {}

// Init implements fuse.RawFileSystem. The session with the server starts in New.
func (c *Channel) Init(*fuse.Server) {}

// OnUnmount implements fuse.RawFileSystem. The session with the server ends in Destroy or Close.
func (c *Channel) OnUnmount() {}
