// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

// Package clients decides who may attach to a volume, and keeps the list of
// those who did.
//
// The peer is whoever can connect to the volume's gofer.sock: our runsc, or a
// process that was given the volume's directory. It is not trusted: names are
// for display only, and the rules hold whatever it says. What a client does
// with the volume afterwards is the business of the Server that gets its
// socket.
package clients

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"sync"
	"time"

	"fsva/gofer/attach"
)

// MaxClients bounds the sandboxes attached to one volume at a time. Each costs
// a connection with up to four channels of shared memory.
const MaxClients = 1024

// Server serves one lisafs connection.
type Server interface {
	// Serve takes ownership of the lisafs socket and returns when the client is
	// gone or the server is closed.
	Serve(lisafsFD int, c Client) error
}

// Client is one attached sandbox.
type Client struct {
	Container   string
	Destination string
	ReadOnly    bool
	// Descriptors is how many descriptors of file data it has room for.
	Descriptors int
	Since       time.Time
}

// Table is the attach.Handler of a volume. It is safe for concurrent use.
type Table struct {
	volume attach.Info
	server Server
	log    *slog.Logger

	wg sync.WaitGroup // one for each client served

	mu       sync.Mutex
	closed   bool               // guarded by mu
	clients  map[uint64]*Client // guarded by mu
	next     uint64             // guarded by mu
	attaches uint64             // guarded by mu
	refused  uint64             // guarded by mu
}

var _ attach.Handler = (*Table)(nil)

// New returns a table that gives accepted clients to server.
func New(volume attach.Info, server Server, log *slog.Logger) *Table {
	return &Table{volume: volume, server: server, log: log, clients: make(map[uint64]*Client)}
}

// Check implements attach.Handler.
func (t *Table) Check(r attach.Request) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if err := t.admitLocked(r); err != nil {
		t.refused++
		return err
	}
	return nil
}

// Attach implements attach.Handler.
func (t *Table) Attach(r attach.Request, lisafsFD int, conn *os.File) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if err := t.admitLocked(r); err != nil {
		t.refused++
		return err
	}
	id := t.next
	t.next++
	t.attaches++
	c := &Client{Container: r.Container, Destination: r.Destination, ReadOnly: r.ReadOnly || t.volume.ReadOnly, Descriptors: r.Descriptors, Since: time.Now()}
	t.clients[id] = c
	t.wg.Go(func() {
		// Closing conn ends the stub in runsc's gofer, and with it that process.
		defer conn.Close()
		defer func() {
			t.mu.Lock()
			delete(t.clients, id)
			t.mu.Unlock()
		}()
		log := t.log.With("container", c.Container, "destination", c.Destination)
		log.Info("client attached", "readonly", c.ReadOnly)
		if err := t.server.Serve(lisafsFD, *c); err != nil {
			log.Warn("client ended", "err", err)
			return
		}
		log.Info("client detached")
	})
	return nil
}

// errStopping refuses attaches while the volume stops.
var errStopping = errors.New("the volume is being stopped")

// admitLocked applies the volume's coherence. An exclusive client caches
// everything, so it must be the only one, unless nobody can write at all.
func (t *Table) admitLocked(r attach.Request) error {
	if t.closed {
		return errStopping
	}
	if len(t.clients) >= MaxClients {
		return fmt.Errorf("volume %q has %d clients already, the most one volume serves", t.volume.Name, MaxClients)
	}
	if t.volume.Coherence != attach.Exclusive || t.volume.ReadOnly {
		return nil
	}
	for _, c := range t.clients {
		if !c.ReadOnly || !r.ReadOnly {
			return fmt.Errorf("volume %q is exclusive and in use by container %s: stop that one, or serve the volume with --coherence shared",
				t.volume.Name, shorten(c.Container))
		}
	}
	return nil
}

// shorten cuts a container ID as docker shows it.
func shorten(id string) string {
	if len(id) > 12 {
		id = id[:12]
	}
	if id == "" {
		return "(unnamed)"
	}
	return id
}

// Stats is a snapshot of a Table.
type Stats struct {
	Clients           []Client // oldest first
	Attaches, Refused uint64   // since the start
}

// Stats returns a snapshot.
func (t *Table) Stats() Stats {
	t.mu.Lock()
	defer t.mu.Unlock()
	s := Stats{Attaches: t.attaches, Refused: t.refused, Clients: make([]Client, 0, len(t.clients))}
	for _, c := range t.clients {
		s.Clients = append(s.Clients, *c)
	}
	slices.SortFunc(s.Clients, func(a, b Client) int { return a.Since.Compare(b.Since) })
	return s
}

// Refuse makes every later Check and Attach fail.
func (t *Table) Refuse() {
	t.mu.Lock()
	t.closed = true
	t.mu.Unlock()
}

// Wait returns when all clients are gone. The caller has refused new ones and
// closed the Server.
func (t *Table) Wait() { t.wg.Wait() }
