// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package vhostuser

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
)

// Device is a kind of virtio device. Its methods are called from many goroutines.
type Device interface {
	// Features returns the feature bits of the device type (0 to 23 and from 50) that are offered.
	Features() uint64
	// Queues returns the number of virtqueues: at least 1, at most 256, always the same.
	Queues() int
	// Config returns the configuration space, which is read-only for the driver.
	Config() []byte
	// Open is called for each VMM that connects. ctx ends when that VMM has gone or Serve is to return; what the handler
	// does for its chains should then come to its end.
	Open(ctx context.Context, c *Conn) (Handler, error)
}

// Handler is what a device does for one VMM. For one queue, calls of Kick come one after the other, from a goroutine of
// the queue's own, unless the device calls Queue.Detach.
type Handler interface {
	// Kick is called when q starts to run, and when the driver may have made chains available: take them with
	// Queue.Take until there are no more, or until there is no use for one. A chain may be kept, and chains may also be
	// taken at any other time. As long as Kick doesn't return, it isn't called for this queue again.
	Kick(q *Queue)
	// Stop is called when q stops, for good or because the guest resets the device or is paused: Take returns nil from
	// now on, and the VMM waits until all chains are returned. The driver doesn't get the chains that are not
	// returned, and the device should keep none that can be returned without a wait.
	Stop(q *Queue)
	// Close is the last call. All queues have stopped.
	Close()
}

// Options are what Serve leaves to its caller. The zero value is usable.
type Options struct {
	// MaxConns bounds the VMMs that are connected at one time; 0 means 16. One too many is disconnected.
	MaxConns int
	// Log gets a line when a connection or a queue ends because the peer broke a rule. nil: nowhere.
	Log *slog.Logger
}

// Serve offers dev to the VMMs that connect to l, whose connections must be *net.UnixConn, until ctx ends: then it
// returns nil. It returns an error if l fails. In both cases l is closed, all VMMs are disconnected and all their
// handlers closed. A VMM that has gone may connect again; it begins with nothing.
func Serve(ctx context.Context, l net.Listener, dev Device, o Options) error {
	if o.MaxConns == 0 {
		o.MaxConns = 16
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	var conns sync.WaitGroup
	defer conns.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	// Waited for, so that l's descriptor is gone when this returns. The error of a close is of no use then.
	conns.Go(func() {
		<-ctx.Done()
		l.Close()
	})

	slots := make(chan struct{}, o.MaxConns)
	for {
		nc, err := l.Accept()
		if ctx.Err() != nil {
			if err == nil {
				nc.Close()
			}
			return nil
		}
		if err != nil {
			return fmt.Errorf("accept: %w", err)
		}
		sock, ok := nc.(*net.UnixConn)
		if !ok {
			nc.Close()
			return errors.New("vhost-user needs a unix socket")
		}
		select {
		case slots <- struct{}{}:
		default:
			o.Log.Warn("VMM refused: too many are connected", "max", o.MaxConns)
			sock.Close()
			continue
		}
		conns.Go(func() {
			defer func() { <-slots }()
			defer sock.Close()
			defer hangUpOnDone(ctx, sock)()
			if err := newConn(sock, dev, o.Log).serve(ctx); err != nil && ctx.Err() == nil {
				o.Log.Warn("VMM disconnected", "err", err)
			}
		})
	}
}
