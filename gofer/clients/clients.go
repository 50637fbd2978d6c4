// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

// Package clients decides who may attach to a volume, and keeps the list of
// those who did.
//
// A client is a sandbox or a guest. The peer is whoever can connect to the volume's
// gofer.sock (our runsc, or a process that was given the volume's directory) or to
// one of its listeners for guests. It is not trusted: names are for display only,
// and the rules hold whatever it says. What a client does with the volume
// afterwards is the business of who serves it.
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

// MaxClients bounds the clients of one volume at a time. A sandbox costs a
// connection with up to four channels of shared memory.
const MaxClients = 1024

// Server serves one lisafs connection.
type Server interface {
	// Serve takes ownership of the lisafs socket and returns when the client is
	// gone or the server is closed.
	Serve(lisafsFD int, c Client) error
}

// Client is one attached sandbox or guest.
type Client struct {
	// Container and Destination are of a sandbox.
	Container   string
	Destination string
	// Guest and Via are of a guest: who it is, and which listener it came to.
	Guest    string
	Via      string
	ReadOnly bool
	// Descriptors is how many descriptors of file data a sandbox has room for.
	Descriptors int
	Since       time.Time
}

// handover is how long a new client waits for the one that is in its way: a
// container's exit is known before its sandbox has written back what it had and
// has gone.
const handover = 5 * time.Second

// Table is the attach.Handler of a volume. It is safe for concurrent use.
type Table struct {
	volume   attach.Info
	server   Server
	log      *slog.Logger
	handover time.Duration

	wg sync.WaitGroup // one for each client

	mu       sync.Mutex
	closed   bool               // guarded by mu
	clients  map[uint64]*Client // guarded by mu
	next     uint64             // guarded by mu
	attaches uint64             // guarded by mu
	refused  uint64             // guarded by mu
	moved    chan struct{}      // guarded by mu; closed, and made anew, when closed or clients change
}

var _ attach.Handler = (*Table)(nil)

// New returns a table that gives accepted clients to server.
func New(volume attach.Info, server Server, log *slog.Logger) *Table {
	return &Table{
		volume: volume, server: server, log: log, handover: handover,
		clients: make(map[uint64]*Client), moved: make(chan struct{}),
	}
}

// Check implements attach.Handler. It waits a while for a client that is in the
// way, as Attach and Enter do.
func (t *Table) Check(r attach.Request) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.awaitLocked(r.ReadOnly)
}

// Attach implements attach.Handler.
func (t *Table) Attach(r attach.Request, lisafsFD int, conn *os.File) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	c := Client{Container: r.Container, Destination: r.Destination, ReadOnly: r.ReadOnly, Descriptors: r.Descriptors}
	leave, err := t.enterLocked(&c)
	if err != nil {
		return err
	}
	t.wg.Go(func() {
		// Closing conn ends the stub in runsc's gofer, and with it that process.
		defer conn.Close()
		defer leave()
		log := t.log.With("container", c.Container, "destination", c.Destination)
		log.Info("client attached", "readonly", c.ReadOnly)
		if err := t.server.Serve(lisafsFD, c); err != nil {
			log.Warn("client ended", "err", err)
			return
		}
		log.Info("client detached")
	})
	return nil
}

// Enter admits a guest, of which c says Guest, Via and ReadOnly. An error is the
// refusal, one line for the guest. It returns what the volume knows of the guest,
// whose ReadOnly is also set when the volume is read-only, and leave, to be called
// once when everything that was done for the guest has ended.
func (t *Table) Enter(c Client) (entered Client, leave func(), err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	left, err := t.enterLocked(&c)
	if err != nil {
		return Client{}, nil, err
	}
	t.wg.Add(1)
	return c, func() { left(); t.wg.Done() }, nil
}

// enterLocked adds c, of which it sets ReadOnly and Since, to the list.
func (t *Table) enterLocked(c *Client) (leave func(), err error) {
	if err := t.awaitLocked(c.ReadOnly); err != nil {
		return nil, err
	}
	id := t.next
	t.next++
	t.attaches++
	c.ReadOnly = c.ReadOnly || t.volume.ReadOnly
	c.Since = time.Now()
	entry := *c
	t.clients[id] = &entry
	t.movedLocked()
	return func() {
		t.mu.Lock()
		delete(t.clients, id)
		t.movedLocked()
		t.mu.Unlock()
	}, nil
}

// errStopping refuses attaches while the volume stops.
var errStopping = errors.New("the volume is being stopped")

// inUseError refuses a client because of another one.
type inUseError struct {
	volume string
	by     *Client
}

func (e *inUseError) Error() string {
	return fmt.Sprintf("volume %q is exclusive and in use by %s: stop that one, or serve the volume with --coherence shared", e.volume, e.by)
}

// awaitLocked is admitLocked when a client that is in the way has had the time to
// go. It gives mu up meanwhile, and counts who is refused.
func (t *Table) awaitLocked(readOnly bool) error {
	var late <-chan time.Time
	for {
		err := t.admitLocked(readOnly)
		if err == nil {
			return nil
		}
		if late == nil {
			timer := time.NewTimer(t.handover)
			defer timer.Stop()
			late = timer.C
		}
		if inUse := (*inUseError)(nil); errors.As(err, &inUse) {
			moved := t.moved
			t.mu.Unlock()
			select {
			case <-moved:
				t.mu.Lock()
				continue
			case <-late:
				t.mu.Lock()
			}
		}
		t.refused++
		return err
	}
}

// movedLocked lets those who wait look again.
func (t *Table) movedLocked() {
	close(t.moved)
	t.moved = make(chan struct{})
}

// admitLocked applies the volume's coherence. An exclusive client caches
// everything, so it must be the only one, unless nobody can write at all.
func (t *Table) admitLocked(readOnly bool) error {
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
		if !c.ReadOnly || !readOnly {
			return &inUseError{t.volume.Name, c}
		}
	}
	return nil
}

// String names the client in messages.
func (c *Client) String() string {
	if c.Guest != "" {
		return "guest " + c.Guest
	}
	return "container " + shorten(c.Container)
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
	t.movedLocked()
	t.mu.Unlock()
}

// Watch returns how many clients there are, how many there have been since the start,
// and a channel that is closed when that may have changed.
func (t *Table) Watch() (clients int, attaches uint64, changed <-chan struct{}) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.clients), t.attaches, t.moved
}

// Wait returns when all clients are gone. The caller has refused new ones and
// closed the Server.
func (t *Table) Wait() { t.wg.Wait() }
