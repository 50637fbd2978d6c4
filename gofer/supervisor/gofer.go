// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package supervisor

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync"

	"golang.org/x/sys/unix"

	"fsva/gofer/latency"
	"fsva/gofer/supervisor/goferproto"
)

// goferNamespaces are those that a gofer is alone in.
const goferNamespaces = unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWNET | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS

// errGoferGone answers requests to a gofer that has ended.
var errGoferGone = errors.New("the gofer is gone")

// gofer is the gofer child and the conversation with it.
type gofer struct {
	*child
	conn *goferproto.Conn

	ready  chan goferproto.Ready // receives at most once
	failed chan string           // receives at most once: Error before ready, Failed after
	idle   chan struct{}         // receives when the last client has gone, if nothing is in it
	gone   chan struct{}         // closed at the end of the conversation

	sendMu sync.Mutex // serialises sends

	mu      sync.Mutex
	lastID  uint64
	pending map[uint64]chan goferproto.Reply
	ended   bool
}

// goferFiles are the descriptors of a gofer beside its control socket. They stay
// the caller's.
type goferFiles struct {
	listener *os.File
	channel  *os.File   // nil when in process
	guests   []*os.File // of Config.Listen
	windows  []heldWindow
}

// startGofer starts the process and sends it cfg, of which it fills in Windows.
func startGofer(s *spawner, cfg goferproto.Config, files goferFiles, log *slog.Logger) (*gofer, error) {
	cfg.Windows = len(files.windows)
	ours, theirs, err := goferproto.Socketpair()
	if err != nil {
		return nil, err
	}
	end := os.NewFile(uintptr(theirs), "control")
	defer end.Close()
	conn, err := goferproto.NewConn(ours)
	if err != nil {
		return nil, err
	}
	// Before the start: it fits into the socket's buffer, and a Config that is
	// too big fails here.
	if err := conn.SendConfig(cfg); err != nil {
		conn.Close()
		return nil, err
	}
	for i, w := range files.windows {
		r := goferproto.Request{ID: uint64(i + 1), Op: goferproto.OpWindow, Window: &w.Window, Memory: w.memory}
		if err := conn.SendRequest(r); err != nil {
			conn.Close()
			return nil, err
		}
	}
	// FDControl, FDListener, FDChannel (closed in the child if nil), FDGuests
	extra := append([]*os.File{end, files.listener, files.channel}, files.guests...)
	c, err := startChild(s, "gofer", "gofer", goferNamespaces, extra, log)
	if err != nil {
		conn.Close()
		return nil, err
	}
	g := &gofer{
		child:   c,
		conn:    conn,
		ready:   make(chan goferproto.Ready, 1),
		failed:  make(chan string, 1),
		idle:    make(chan struct{}, 1),
		gone:    make(chan struct{}),
		lastID:  uint64(len(files.windows)),
		pending: map[uint64]chan goferproto.Reply{},
	}
	go g.receive()
	return g, nil
}

// receive handles replies until the conversation ends. A gofer that makes no
// sense is killed.
func (g *gofer) receive() {
	defer close(g.gone)
	var said announced
	for {
		r, err := g.conn.RecvReply()
		if err == nil {
			err = g.dispatch(r, &said)
		}
		if err == nil {
			continue
		}
		if err != io.EOF && !errors.Is(err, os.ErrClosed) {
			g.log.Error("gofer makes no sense, killing it", "err", err)
			g.signal(unix.SIGKILL)
		}
		g.mu.Lock()
		g.ended = true
		for id, c := range g.pending {
			close(c)
			delete(g.pending, id)
		}
		g.mu.Unlock()
		return
	}
}

// announced is what a gofer has said without being asked.
type announced struct{ ready, failed bool }

// dispatch handles one reply. Each announcement is accepted once, so the
// channels that take them never block.
func (g *gofer) dispatch(r goferproto.Reply, said *announced) error {
	switch {
	case r.ID != 0:
		g.mu.Lock()
		c := g.pending[r.ID]
		delete(g.pending, r.ID)
		g.mu.Unlock()
		if c != nil { // otherwise nobody waits any more
			c <- r
		}
		return nil
	case r.Idle && said.ready:
		select {
		case g.idle <- struct{}{}:
		default: // the one before has not been looked at
		}
		return nil
	case said.failed:
	case r.Ready != nil && !said.ready:
		said.ready = true
		g.ready <- *r.Ready
		return nil
	case r.Error != "" && !said.ready:
		said.failed = true
		g.failed <- r.Error
		return nil
	case r.Failed != "" && said.ready:
		said.failed = true
		g.failed <- r.Failed
		return nil
	}
	return fmt.Errorf("%w: unexpected reply", goferproto.ErrMalformed)
}

// ask sends a request, to which it gives an ID, and waits for the reply.
func (g *gofer) ask(ctx context.Context, r goferproto.Request) (goferproto.Reply, error) {
	c := make(chan goferproto.Reply, 1)
	g.mu.Lock()
	if g.ended {
		g.mu.Unlock()
		return goferproto.Reply{}, errGoferGone
	}
	g.lastID++
	r.ID = g.lastID
	g.pending[r.ID] = c
	g.mu.Unlock()
	defer func() {
		g.mu.Lock()
		delete(g.pending, r.ID)
		g.mu.Unlock()
	}()

	if err := g.send(ctx, r); err != nil {
		return goferproto.Reply{}, err
	}
	select {
	case r, ok := <-c:
		if !ok {
			return goferproto.Reply{}, errGoferGone
		}
		if r.Error != "" {
			return r, errors.New(r.Error)
		}
		return r, nil
	case <-ctx.Done():
		return goferproto.Reply{}, fmt.Errorf("the gofer does not answer: %w", ctx.Err())
	}
}

func (g *gofer) send(ctx context.Context, r goferproto.Request) error {
	g.sendMu.Lock()
	defer g.sendMu.Unlock()
	deadline, _ := ctx.Deadline() // the zero time is no deadline
	if err := g.conn.SetWriteDeadline(deadline); err != nil {
		return err
	}
	return g.conn.SendRequest(r)
}

// stat asks the gofer for its account.
func (g *gofer) stat(ctx context.Context) (*goferproto.Stat, error) {
	r, err := g.ask(ctx, goferproto.Request{Op: goferproto.OpStat})
	if err != nil {
		return nil, err
	}
	if r.Stat == nil {
		return nil, fmt.Errorf("%w: no stat in the reply", goferproto.ErrMalformed)
	}
	return r.Stat, nil
}

// ops asks the gofer for its account of one side's requests.
func (g *gofer) ops(ctx context.Context, op goferproto.Op) (map[string]latency.Op, error) {
	r, err := g.ask(ctx, goferproto.Request{Op: op})
	return r.Ops, err
}

// close ends the conversation and waits for the end of receive.
//
// Preconditions: the process has ended.
func (g *gofer) close() {
	g.conn.Close()
	<-g.gone
}
