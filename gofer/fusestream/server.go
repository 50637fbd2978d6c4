// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package fusestream

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"

	"fsva/gofer/fusesession"
)

// Window is memory that a guest has as well, lent to one connection. The guest may
// change it at any time. Package window has one.
type Window interface {
	// Size is in bytes.
	Size() int64
	// Lease reserves n bytes for a reply; ok is false when there is no room now.
	Lease(n int) (off int64, buf []byte, ok bool)
	// Release ends the lease at off and reports whether there was one.
	Release(off int64) bool
	// Data returns the n bytes at off; nil if they are not all in the window.
	Data(off int64, n int) []byte
	// Close gives the window back.
	Close() error
}

// Options configure a Server.
type Options struct {
	// Volume is the name of the volume. A shim that names another is refused.
	Volume string
	// Secret, if it is not empty, is what a shim has to know.
	Secret []byte
	// Info is told to the shims. ReadOnly and Exclusive also configure the sessions.
	Info Info
	// WriteBack lets the shims' kernels put writes off, on an exclusive volume.
	WriteBack bool
	// Session bounds what each client can hold; fields that Info, WriteBack and the
	// stream itself decide are ignored.
	Session fusesession.Options
	// Claim lends the window with the given ID to a connection; nil: no windows.
	Claim func(id [16]byte) (Window, error)
	// HelloTimeout bounds the hello (default 10 s), MaxBytes the memory of one
	// client's requests in flight (default 64 MiB, at least 4 MiB).
	HelloTimeout time.Duration
	MaxBytes     int
	// Log receives what an operator should know. Default: discarded.
	Log *slog.Logger
}

const (
	defaultHelloTimeout = 10 * time.Second
	defaultMaxBytes     = 64 << 20
	minMaxBytes         = 4 << 20
	// maxNotes bounds the notifications that wait for a client; a client that is so
	// far behind is cut off, since it must not miss one.
	maxNotes = 1 << 16
)

// Server serves a file system to any number of connections. It may be used
// concurrently.
type Server struct {
	fs   fuse.RawFileSystem
	opts Options

	mu    sync.Mutex
	conns map[*serverConn]struct{} // guarded by mu
}

// NewServer returns a server for fs, which must be initialised and outlives it.
func NewServer(fs fuse.RawFileSystem, o Options) *Server {
	if o.HelloTimeout <= 0 {
		o.HelloTimeout = defaultHelloTimeout
	}
	if o.MaxBytes <= 0 {
		o.MaxBytes = defaultMaxBytes
	}
	o.MaxBytes = max(o.MaxBytes, minMaxBytes)
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return &Server{fs: fs, opts: o, conns: make(map[*serverConn]struct{})}
}

// Admission is what is known of a client once it has said hello.
type Admission struct {
	// ReadOnly: the client will not change anything, so it is refused all changes.
	ReadOnly bool
}

// Serve serves one connection, which it closes, until the client ends it or ctx is
// done. Then everything the client held is given back. admit, which may be nil, is
// called after the hello and may still refuse the client, with an error of one line
// that the client is told.
//
// It returns nil when the client has left between two frames, or ctx was done, and
// else why it was cut off.
func (s *Server) Serve(ctx context.Context, conn net.Conn, admit func(Admission) error) error {
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	c, err := s.hello(conn, admit)
	if err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return err
	}
	s.mu.Lock()
	s.conns[c] = struct{}{}
	s.mu.Unlock()
	err = c.serve()
	s.mu.Lock()
	delete(s.conns, c)
	s.mu.Unlock()
	if ctx.Err() != nil || err == errGone || errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

// hello greets a client and makes its session.
func (s *Server) hello(conn net.Conn, admit func(Admission) error) (*serverConn, error) {
	if err := conn.SetDeadline(time.Now().Add(s.opts.HelloTimeout)); err != nil {
		return nil, fmt.Errorf("hello: %w", err)
	}
	var in clientHello
	if err := readHello(conn, &in); err != nil {
		return nil, err
	}
	answer := serverHello{Version: Version, Volume: s.opts.Volume, Info: s.opts.Info, Compounds: true}
	var err error
	switch {
	case len(s.opts.Secret) > 0 && (len(in.Secret) > MaxSecret || !sameSecret(in.Secret, s.opts.Secret)):
		err, answer.Final = errors.New("the secret is wrong"), true
	case in.Version < Version:
		err, answer.Final = fmt.Errorf("version %d of the protocol is not spoken here", in.Version), true
	case in.Volume != "" && in.Volume != s.opts.Volume:
		err, answer.Final = fmt.Errorf("there is no volume %q here", in.Volume), true
	case admit != nil:
		err = admit(Admission{ReadOnly: in.ReadOnly})
	}
	if err != nil {
		// A client that has not proved anything is told nothing else.
		if werr := writeHello(conn, serverHello{Version: Version, Error: err.Error(), Final: answer.Final}); werr != nil {
			s.opts.Log.Debug("tell a client that it is refused", "err", werr)
		}
		return nil, fmt.Errorf("%w: %w", ErrRefused, err)
	}
	answer.ReadOnly = answer.ReadOnly || in.ReadOnly
	c := &serverConn{srv: s, conn: conn, budget: newBudget(maxRequests(s.opts.Session), s.opts.MaxBytes), notes: newNoteQueue(maxNotes), done: make(chan struct{})}
	c.claim(in.Windows, &answer)
	if err := writeHello(conn, answer); err != nil {
		c.closeWindow()
		return nil, fmt.Errorf("hello: %w", err)
	}
	if err := conn.SetDeadline(time.Time{}); err != nil {
		c.closeWindow()
		return nil, fmt.Errorf("hello: %w", err)
	}
	o := s.opts.Session
	o.ReadOnly = o.ReadOnly || answer.ReadOnly
	o.Exclusive = answer.Exclusive
	o.WriteBack = s.opts.WriteBack
	o.PrivateInput = true
	o.Notify = c.notify
	if o.Log == nil {
		o.Log = s.opts.Log
	}
	c.session = fusesession.New(s.fs, o)
	return c, nil
}

// claim takes the first of the client's windows that can be had. One that cannot be is
// no error: the stream works without.
func (c *serverConn) claim(ids []string, answer *serverHello) {
	if c.srv.opts.Claim == nil {
		return
	}
	for _, text := range ids[:min(len(ids), 16)] {
		var id [16]byte
		if b, err := hex.DecodeString(text); err != nil || copy(id[:], b) != len(id) || len(b) != len(id) {
			continue
		}
		w, err := c.srv.opts.Claim(id)
		if err != nil {
			c.srv.opts.Log.Debug("a client's window", "err", err)
			continue
		}
		c.window = w
		answer.Window = text
		// A quarter is for the data of requests.
		n := w.Size() / 4 &^ (1<<20 - 1)
		if off, _, ok := w.Lease(int(n)); n > 0 && ok {
			c.writes = extent{off, n}
			answer.Writes = c.writes
		}
		return
	}
}

// each calls f with every session that has begun.
func (s *Server) each(f func(*fusesession.Session)) {
	s.mu.Lock()
	all := make([]*fusesession.Session, 0, len(s.conns))
	for c := range s.conns {
		all = append(all, c.session)
	}
	s.mu.Unlock()
	for _, c := range all {
		f(c)
	}
}

// InvalInode passes a notification to the clients that have the node; see
// fusesession.Session.InvalInode.
func (s *Server) InvalInode(nodeID uint64, off, length int64) {
	s.each(func(c *fusesession.Session) { c.InvalInode(nodeID, off, length) })
}

// InvalEntry passes a notification to the clients that have the directory.
func (s *Server) InvalEntry(parent uint64, name string, expireOnly bool) {
	s.each(func(c *fusesession.Session) { c.InvalEntry(parent, name, expireOnly) })
}

// IncEpoch passes a notification to the clients that understand it.
func (s *Server) IncEpoch() { s.each((*fusesession.Session).IncEpoch) }

// Delete passes a notification to the clients that have the directory.
func (s *Server) Delete(parent, child uint64, name string) {
	s.each(func(c *fusesession.Session) { c.Delete(parent, child, name) })
}

// Stats returns the sessions' counters, summed up.
func (s *Server) Stats() fusesession.Stats {
	var sum fusesession.Stats
	s.each(func(c *fusesession.Session) {
		st := c.Stats()
		sum.Requests += st.Requests
		sum.Malformed += st.Malformed
		sum.Nodes += st.Nodes
		sum.Handles += st.Handles
		sum.InFlight += st.InFlight
	})
	return sum
}
