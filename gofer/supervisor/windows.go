// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package supervisor

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"sync"

	"fsva/gofer/ivshmem"
	"fsva/gofer/supervisor/goferproto"
	"fsva/gofer/vsock"
	"fsva/gofer/window"
)

// WindowConfig says how hypervisors get windows, if they do.
type WindowConfig struct {
	// Size is that of each window, in bytes (window.CheckSize).
	Size int64
	// Path is the socket that they connect to, which is an ivshmem server's; empty
	// for no windows.
	Path string
}

// windows gives a window to each hypervisor that connects, and keeps it until that
// is gone, whatever becomes of the gofer meanwhile. The supervisor does this itself
// because the peer has nothing to say.
//
// Lock order: windows.mu, then those of gofer.
type windows struct {
	cfg      WindowConfig
	listener *net.UnixListener
	log      *slog.Logger

	mu    sync.Mutex // held while a gofer is told or started, so that each knows all windows
	held  []heldWindow
	gofer *gofer // the one to tell; nil while there is none
}

type heldWindow struct {
	goferproto.Window
	memory *os.File
}

// newWindows makes the socket; nil without a path.
func newWindows(cfg WindowConfig, log *slog.Logger) (*windows, error) {
	w := &windows{cfg: cfg, log: log}
	if cfg.Path == "" {
		return w, nil
	}
	if err := window.CheckSize(cfg.Size); err != nil {
		return nil, err
	}
	f, err := vsock.Bind(vsock.Addr{Kind: vsock.Unix, Path: cfg.Path}, vsock.Options{})
	if err != nil {
		return nil, fmt.Errorf("socket for windows: %w", err)
	}
	defer f.Close()
	l, err := net.FileListener(f)
	if err != nil {
		return nil, fmt.Errorf("socket for windows: %w", errors.Join(err, os.Remove(cfg.Path)))
	}
	w.listener = l.(*net.UnixListener)
	w.listener.SetUnlinkOnClose(false) // removed by serve, which may come later
	return w, nil
}

// serve accepts hypervisors until ctx ends, and then removes the socket. It returns
// when all of them have been let go.
func (w *windows) serve(ctx context.Context) {
	if w.listener == nil {
		return
	}
	defer func() {
		if err := remove(w.cfg.Path); err != nil {
			w.log.Warn("windows", "err", err)
		}
	}()
	stop := context.AfterFunc(ctx, func() { w.listener.Close() })
	defer stop()
	var peers sync.WaitGroup
	defer peers.Wait()
	slots := make(chan struct{}, window.MaxWindows)
	for {
		select {
		case slots <- struct{}{}:
		case <-ctx.Done():
			return
		}
		conn, err := w.listener.AcceptUnix()
		if err != nil {
			if ctx.Err() == nil {
				w.log.Error("windows are not given any more", "err", err)
			}
			return
		}
		peers.Go(func() {
			defer func() { <-slots }()
			defer conn.Close()
			if err := w.give(ctx, conn); err != nil && ctx.Err() == nil {
				w.log.Warn("window", "err", err)
			}
		})
	}
}

// give serves one hypervisor.
func (w *windows) give(ctx context.Context, conn *net.UnixConn) error {
	memory, id, err := window.Create(w.cfg.Size)
	if err != nil {
		return err
	}
	defer memory.Close()
	h := heldWindow{goferproto.Window{ID: id, Size: w.cfg.Size}, memory}
	w.add(ctx, h)
	defer w.drop(ctx, h)
	w.log.Info("a hypervisor has a window", "bytes", w.cfg.Size)
	err = ivshmem.Serve(ctx, conn, memory)
	w.log.Info("a window's hypervisor is gone")
	return err
}

// add makes a window known. A gofer that does not learn of it serves the guest
// without.
func (w *windows) add(ctx context.Context, h heldWindow) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.held = append(w.held, h)
	w.tellLocked(ctx, goferproto.Request{Op: goferproto.OpWindow, Window: &h.Window, Memory: h.memory})
}

func (w *windows) drop(ctx context.Context, h heldWindow) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for i := range w.held {
		if w.held[i].ID == h.ID {
			w.held = append(w.held[:i], w.held[i+1:]...)
			break
		}
	}
	w.tellLocked(ctx, goferproto.Request{Op: goferproto.OpWindowGone, Window: &h.Window})
}

func (w *windows) tellLocked(ctx context.Context, r goferproto.Request) {
	if w.gofer == nil || w.gofer.exited() {
		return // the next one is told of all
	}
	ctx, cancel := context.WithTimeout(ctx, goferStatTimeout)
	defer cancel()
	if _, err := w.gofer.ask(ctx, r); err != nil && !errors.Is(err, errGoferGone) && !errors.Is(err, context.Canceled) {
		w.log.Warn("tell the gofer of a window", "op", r.Op, "err", err)
	}
}

// start starts a gofer, which start is given all windows for, and tells that one of
// every change from then on.
func (w *windows) start(start func(held []heldWindow) (*gofer, error)) (*gofer, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	g, err := start(w.held)
	w.gofer = g
	return g, err
}
