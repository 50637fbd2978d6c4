// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package lisaserver

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/lisafs"
)

const (
	defaultMaxIO  = 1 << 20
	minMaxIO      = 64 << 10
	maxMaxIO      = 16 << 20
	defaultMaxFDs = 1 << 20

	// messageOverhead is what a lisafs message may carry besides MaxIO bytes of
	// file data, so that a read or write of MaxIO bytes is one message.
	messageOverhead = 4096
)

// ErrClosed is returned by Serve once the Server is closed.
var ErrClosed = errors.New("lisaserver: server closed")

// Options configure a Server. The zero value is usable.
type Options struct {
	// StableIno says that the file system's inode numbers identify its files, so
	// that hard links are seen as one file. See the package doc on identity.
	StableIno bool

	// Shared says that the clients use the mount in shared mode. See
	// setStatHandler and Unlink for what their sentries then leave to us.
	Shared bool

	// DevMinor sets this volume's identities apart from those of others.
	DevMinor uint32

	// MaxIO is the most data one read or write RPC carries, and the most that is
	// asked of the file system at once. Default 1 MiB.
	MaxIO uint32

	// MaxFDs bounds the control and open FDs of one connection, and by that the
	// nodes and handles a client can pin. Default 1 Mi; beyond it ENFILE.
	MaxFDs int64

	// Log receives what an operator should know. Default: discarded.
	Log *slog.Logger
}

// ConnOptions configure one connection.
type ConnOptions struct {
	// ReadOnly refuses everything that would change the file system with EROFS.
	ReadOnly bool
	// SharesHandles says that all opens of a file share the client's handles, as
	// they do in an exclusive sentry. Such a client drops the errors of FSync: a
	// file whose sync failed then fails the next write or flush instead. And it
	// reads from a descriptor of file data until it gives up the control FD, though
	// it may have replaced the open FD that brought it.
	SharesHandles bool
	// Container names the client in logs.
	Container string
	// Descriptors bounds the descriptors of file data in the client's hands: it
	// keeps them as long as its dentries, under its own RLIMIT_NOFILE.
	Descriptors int
}

// Optional interfaces of the file system. Without them the Server assumes a
// go-fuse file system in this process.
type (
	// atomicTruncer reports whether OPEN honours O_TRUNC.
	atomicTruncer interface{ AtomicOTrunc() bool }
	// capabilities reports whether an INIT capability (fuse.CAP_*) was agreed on.
	capabilities interface{ Has(capability uint64) bool }
	// writeLimiter and readLimiter give the most one WRITE or READ may carry.
	writeLimiter interface{ MaxWrite() int }
	readLimiter  interface{ MaxRead() int }
	// donor gives out descriptors of file data. The caller owns the descriptor,
	// through which nothing can be changed. Return is called when the client does
	// not use it any more: before the handle's RELEASE, or later.
	donor interface {
		Donate(nodeID, fh uint64) (fd int, ok bool)
		Return(nodeID uint64)
	}
)

// Server serves one file system to any number of lisafs connections. Each has a
// lisafs.Server of its own, so a client cannot block another one through lisafs'
// rename lock. All methods may be called concurrently.
type Server struct {
	// Immutable after New.
	fs             fuse.RawFileSystem
	opts           Options
	log            *slog.Logger
	handlers       []lisafs.RPCHandler
	root           *node
	donor          donor // nil: file data is read by request
	atomicTrunc    bool
	parallelDirops bool
	maxRead        int
	maxWrite       int

	nodes nodeTable

	// renames counts renames that were done: see dirStream.rewind.
	renames atomic.Uint64

	// renameMu serialises renames from one directory to another, so that the
	// test for a loop holds until the rename is done.
	renameMu sync.Mutex

	stats     counters
	lockOwner atomic.Uint64
	labelled  atomic.Bool // a file with a selinuxXattr was seen

	mu     sync.Mutex
	conns  map[*conn]struct{} // guarded by mu
	closed bool               // guarded by mu
	// idle is closed once closed is set and conns is empty.
	idle chan struct{}
}

// New returns a Server for fs, which must be initialised already. Closing fs is
// the caller's business, after Close.
func New(fs fuse.RawFileSystem, o Options) *Server {
	if o.MaxIO == 0 {
		o.MaxIO = defaultMaxIO
	}
	o.MaxIO = min(max(o.MaxIO, minMaxIO), maxMaxIO)
	if o.MaxFDs <= 0 {
		o.MaxFDs = defaultMaxFDs
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	s := &Server{
		fs:             fs,
		opts:           o,
		log:            o.Log,
		parallelDirops: true,
		maxRead:        int(o.MaxIO),
		maxWrite:       int(o.MaxIO),
		conns:          make(map[*conn]struct{}),
		idle:           make(chan struct{}),
	}
	if c, ok := fs.(capabilities); ok {
		s.parallelDirops = c.Has(fuse.CAP_PARALLEL_DIROPS)
		s.atomicTrunc = c.Has(fuse.CAP_ATOMIC_O_TRUNC)
	}
	if t, ok := fs.(atomicTruncer); ok {
		s.atomicTrunc = t.AtomicOTrunc()
	}
	s.donor, _ = fs.(donor)
	if l, ok := fs.(readLimiter); ok && l.MaxRead() > 0 {
		s.maxRead = min(s.maxRead, l.MaxRead())
	}
	if l, ok := fs.(writeLimiter); ok && l.MaxWrite() > 0 {
		s.maxWrite = min(s.maxWrite, l.MaxWrite())
	}
	s.root = s.nodes.init(fs)
	s.handlers = s.rpcTable()
	return s
}

// Serve serves the lisafs client at the other end of the stream socket fd, and
// takes ownership of fd in every case. It returns when the client has gone or
// the Server is closed, after everything the client held was given back to the
// file system. The error is nil unless the connection could not be set up.
func (s *Server) Serve(fd int, o ConnOptions) error {
	c, err := s.newConn(fd, o)
	if err != nil {
		return err
	}
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		c.destroy()
		return ErrClosed
	}
	s.conns[c] = struct{}{}
	s.mu.Unlock()
	s.stats.connections.Add(1)
	defer func() {
		s.stats.connections.Add(-1)
		s.mu.Lock()
		delete(s.conns, c)
		if s.closed && len(s.conns) == 0 {
			close(s.idle)
		}
		s.mu.Unlock()
	}()
	c.run()
	return nil
}

// Shutdown ends all connections and waits until everything they held is given
// back to the file system: written files are flushed, handles released, lookups
// forgotten. When ctx ends first, for instance because the file system hangs in
// a call, Shutdown returns ctx's error with the clients cut off already; the
// caller then fails the hung calls (for a FUSE channel by closing it) and may
// call Shutdown again to wait for the rest. New connections are refused from the
// first call on.
func (s *Server) Shutdown(ctx context.Context) error {
	s.mu.Lock()
	if !s.closed {
		s.closed = true
		if len(s.conns) == 0 {
			close(s.idle)
		}
	}
	for c := range s.conns {
		c.hangUp()
	}
	s.mu.Unlock()
	select {
	case <-s.idle:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("lisaserver: file system calls still running: %w", ctx.Err())
	}
}

// Close is Shutdown without a limit on the wait.
func (s *Server) Close() { _ = s.Shutdown(context.Background()) }

// header returns the header of a request on n made by the server itself.
func (n *node) header() fuse.InHeader { return fuse.InHeader{NodeId: n.id} }

// headerFor is header with the application's credentials, as creations carry.
func (n *node) headerFor(uid lisafs.UID, gid lisafs.GID) fuse.InHeader {
	h := n.header()
	if uid.Ok() {
		h.Uid = uint32(uid)
	}
	if gid.Ok() {
		h.Gid = uint32(gid)
	}
	return h
}

// notSupported turns ENOSYS, with which a file system says that it lacks an
// operation, into what the system call reports in that case.
func notSupported(s fuse.Status) fuse.Status {
	if s == fuse.ENOSYS {
		return fuse.Status(unix.EOPNOTSUPP)
	}
	return s
}
