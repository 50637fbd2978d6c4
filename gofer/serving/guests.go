// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package serving

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"sync"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"fsva/gofer/attach"
	"fsva/gofer/clients"
	"fsva/gofer/fusesession"
	"fsva/gofer/fusestream"
	"fsva/gofer/listen"
	"fsva/gofer/supervisor/goferproto"
	"fsva/gofer/virtiofs"
	"fsva/gofer/vsock"
	"fsva/gofer/vsockdevice"
	"fsva/gofer/window"
)

// guests serves the volume to virtual machines.
type guests struct {
	fs       fuse.RawFileSystem
	volume   attach.Info
	table    *clients.Table
	audience *audience
	windows  *window.Set
	info     fusestream.Info // what guests with our shim are told
	log      *slog.Logger
	account  fusesession.Account // of all guests

	serving sync.WaitGroup // listeners
}

// newGuests returns what serves guests with p's file system.
func newGuests(p *process) *guests {
	cfg := p.cfg
	return &guests{
		fs: p.backend.fs, volume: cfg.Volume, table: p.clients, audience: &p.audience, windows: &p.windows, log: p.log,
		info: fusestream.Info{
			ReadOnly: cfg.Volume.ReadOnly, Exclusive: cfg.Volume.Coherence == attach.Exclusive, StableIno: cfg.StableIno,
			KeepsWrites: cfg.KeepsWrites && !cfg.WriteBack,
			// Nobody but the guest can take a file away, and permissions are its kernel's business.
			FreeOpens: cfg.InProcess != "" && cfg.Volume.Coherence == attach.Exclusive,
		},
	}
}

// session returns what the sessions of guests that come to l have in common. The
// volume's coherence decides what their kernels keep, as it does for sentries.
func (g *guests) session(l listen.Spec, log *slog.Logger) fusesession.Options {
	exclusive := g.volume.Coherence == attach.Exclusive
	return fusesession.Options{
		Account: &g.account, ReadOnly: l.ReadOnly || g.volume.ReadOnly, Exclusive: exclusive, WriteBack: exclusive && !g.volume.StrictFsync, Log: log,
	}
}

// start serves the guests that come to f, which it takes ownership of, until ctx
// ends: a listening socket, or for a vhost-user-vsock device its hand-off socket.
func (g *guests) start(ctx context.Context, l listen.Spec, f *os.File) error {
	defer f.Close()
	log := g.log.With("listener", l.String())
	switch l.Kind {
	case listen.Virtiofs:
		sock, err := net.FileListener(f)
		if err != nil {
			return fmt.Errorf("listen on %s: %w", l, err)
		}
		g.run(log, func() error {
			return virtiofs.Serve(ctx, sock, g.fs, virtiofs.Options{
				Tag: g.volume.Name[:min(len(g.volume.Name), maxTag)], Session: g.session(l, log), Log: log,
				Enter: func(o fusesession.Options) (fusesession.Options, func(), error) {
					c, leave, err := g.enter(clients.Client{Guest: "virtio-fs", Via: l.String(), ReadOnly: o.ReadOnly}, log)
					o.ReadOnly = c.ReadOnly
					return o, leave, err
				},
			})
		})
	case vsock.VhostUser:
		// The device is in a process of its own, which hands over connections.
		sock, err := vsockdevice.NewListener(f, l.Options().CID)
		if err != nil {
			return fmt.Errorf("listen on %s: %w", l, err)
		}
		g.run(log, func() error { return g.accept(ctx, l, sock, log) })
	default:
		o := l.Options()
		o.Logger = log
		sock, err := vsock.FileListener(f, l.Addr(), o)
		if err != nil {
			return err
		}
		g.run(log, func() error { return g.accept(ctx, l, sock, log) })
	}
	return nil
}

// wait returns when all guests are gone, which closes what they have open. The
// context that they were started with has ended.
func (g *guests) wait(ctx context.Context) error {
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		g.serving.Wait()
	}()
	select {
	case <-gone:
		return nil
	case <-ctx.Done():
		return errors.New("the file system does not answer")
	}
}

// maxTag is the length of a virtio-fs device's name.
const maxTag = 36

// run serves one listener. One that fails does not take the others along.
func (g *guests) run(log *slog.Logger, serve func() error) {
	g.serving.Go(func() {
		if err := serve(); err != nil {
			log.Error("guests cannot come any more", "err", err)
		}
	})
}

// maxConnections bounds the connections of one listener; more wait in its backlog.
const maxConnections = 256

// accept serves the connections to sock, which it owns, until ctx ends.
func (g *guests) accept(ctx context.Context, l listen.Spec, sock net.Listener, log *slog.Logger) error {
	session := g.session(l, log)
	info := g.info
	info.ReadOnly = session.ReadOnly
	server := fusestream.NewServer(g.fs, fusestream.Options{
		Volume: g.volume.Name, Info: info, WriteBack: session.WriteBack, Session: session, Secret: l.Secret, Claim: g.claim, Log: log,
	})
	defer g.audience.join(server)()
	ctx, cancel := context.WithCancel(ctx)
	var conns sync.WaitGroup
	defer conns.Wait()
	defer cancel()
	defer sock.Close()
	defer context.AfterFunc(ctx, func() { sock.Close() })()
	slots := make(chan struct{}, maxConnections)
	for {
		select {
		case slots <- struct{}{}:
		case <-ctx.Done():
			return nil
		}
		conn, err := acceptOne(sock)
		if ctx.Err() != nil {
			if err == nil {
				conn.Close()
			}
			return nil
		}
		if err != nil {
			return fmt.Errorf("accept: %w", err)
		}
		conns.Go(func() {
			defer func() { <-slots }()
			g.serve(ctx, l, server, conn, log)
		})
	}
}

// serve serves one connection.
func (g *guests) serve(ctx context.Context, l listen.Spec, server *fusestream.Server, conn net.Conn, log *slog.Logger) {
	name := guestName(conn)
	leave := func() {}
	err := server.Serve(ctx, conn, func(a fusestream.Admission) (err error) {
		_, left, err := g.enter(clients.Client{Guest: name, Via: l.String(), ReadOnly: l.ReadOnly || a.ReadOnly}, log)
		if err == nil {
			leave = left
		}
		return err
	})
	leave()
	if err != nil && !errors.Is(err, fusestream.ErrRefused) {
		log.Warn("guest cut off", "guest", name, "err", err)
	}
}

// claim lends a window to a connection.
func (g *guests) claim(id [16]byte) (fusestream.Window, error) {
	w, err := g.windows.Claim(window.ID(id))
	if err != nil {
		return nil, err // not a nil *window.Window
	}
	return w, nil
}

// acceptOne waits for a connection. Running out of descriptors is waited out:
// clients that hold them end by themselves.
func acceptOne(l net.Listener) (net.Conn, error) {
	for {
		c, err := l.Accept()
		if !errors.Is(err, unix.EMFILE) && !errors.Is(err, unix.ENFILE) && !errors.Is(err, unix.ENOMEM) && !errors.Is(err, unix.ECONNABORTED) {
			return c, err
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// enter admits a guest.
func (g *guests) enter(c clients.Client, log *slog.Logger) (clients.Client, func(), error) {
	log = log.With("guest", c.Guest)
	c, leave, err := g.table.Enter(c)
	if err != nil {
		log.Warn("guest refused", "err", err)
		return c, nil, err
	}
	log.Info("guest attached", "readonly", c.ReadOnly)
	return c, func() {
		leave()
		log.Info("guest detached")
	}, nil
}

// guestName is what the peer of a connection is called.
func guestName(conn net.Conn) string {
	if c, ok := conn.(vsock.Conn); ok && c.PeerCID() != vsock.CIDNone {
		return fmt.Sprintf("cid %d", c.PeerCID())
	}
	return "on a unix socket"
}

// addWindow takes a window from the supervisor.
func addWindow(s *window.Set, r goferproto.Request) error {
	if r.Memory == nil || r.Window == nil {
		return errors.New("a window without memory")
	}
	defer r.Memory.Close()
	return s.Add(int(r.Memory.Fd()), r.Window.ID, r.Window.Size)
}

// removeWindow is for a window whose hypervisor is gone.
func removeWindow(s *window.Set, r goferproto.Request) error {
	if r.Window == nil {
		return errors.New("no window is named")
	}
	return s.Remove(r.Window.ID)
}
