// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

// Package serving is the gofer process: it confines itself, opens the volume's
// file system, and serves it to sandboxes until its supervisor says stop.
//
// The supervisor, at the other end of goferproto.FDControl, is trusted; its
// configuration is read before the process is confined. Everything that comes
// later is not: replies of the FS server (handled by fusechannel), requests of
// sandboxes (lisaserver) and of whoever connects to gofer.sock (attach).
//
// Wiring, from back to front:
//
//	fusechannel → hardlinks → entrycache → regions → lisaserver ← clients ← attach
//	inprocess ─────────────────────────────┘      └→ fusestream, virtiofs ← clients ← guests
//
// where hardlinks, entrycache and regions are there for the volumes that need them.
package serving

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"fsva/gofer/attach"
	"fsva/gofer/bytesize"
	"fsva/gofer/clients"
	"fsva/gofer/confine"
	"fsva/gofer/lisaserver"
	"fsva/gofer/supervisor/goferproto"
	"fsva/gofer/window"
)

// memRoot is where a volume in memory lives in the gofer's own root.
const memRoot = "/mem"

// copiesDir is where copies of files that change are made.
const copiesDir = "/copies"

// stopTimeout bounds DESTROY: a server that does not answer is stopped by the
// supervisor.
const stopTimeout = 5 * time.Second

// flushTimeout bounds the flush of what clients have open when the volume stops.
// The supervisor waits a little longer.
const flushTimeout = 50 * time.Second

// Main runs the gofer and returns its exit code. It expects the descriptors
// that goferproto names and a process that is alone in its mount namespace.
func Main() int {
	control, err := goferproto.NewConn(goferproto.FDControl)
	if err != nil {
		fmt.Fprintln(os.Stderr, "fsva: gofer is started by `fsva serve`, not by hand")
		return 2
	}
	defer control.Close()
	cfg, err := control.RecvConfig()
	if err != nil {
		fmt.Fprintf(os.Stderr, "fsva: read the configuration: %v\n", err)
		return 1
	}
	log := newLogger(cfg.LogLevel)
	p := &process{cfg: cfg, control: control, log: log}
	if err := p.run(); err != nil {
		// The supervisor reports it; a second line here would only repeat it.
		if serr := p.send(goferproto.Reply{Error: err.Error()}); serr != nil {
			log.Error("gofer ends", "err", err)
		}
		return 1
	}
	return 0
}

// newLogger writes to standard error, which the supervisor collects. Times are
// the supervisor's to add; a local time zone would be a file to open, too.
func newLogger(level string) *slog.Logger {
	var l slog.Level
	if l.UnmarshalText([]byte(level)) != nil {
		l = slog.LevelInfo
	}
	return slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{
		Level: l,
		ReplaceAttr: func(groups []string, a slog.Attr) slog.Attr {
			if a.Key == slog.TimeKey && len(groups) == 0 {
				return slog.Attr{}
			}
			return a
		},
	}))
}

// process is one gofer. Its fields are immutable after start, but for the locks.
type process struct {
	cfg     goferproto.Config
	control *goferproto.Conn
	log     *slog.Logger

	sendMu sync.Mutex // serialises sends on control

	limiting   sync.Mutex     // held while the cache's limit is changed
	background sync.WaitGroup // such changes

	backend  backend
	lisa     *lisaserver.Server
	clients  *clients.Table
	guests   *guests
	audience audience   // guests that take notifications
	windows  window.Set // of guests
}

func (p *process) send(r goferproto.Reply) error {
	p.sendMu.Lock()
	defer p.sendMu.Unlock()
	return p.control.SendReply(r)
}

// run confines the process and serves until it is told to stop. An error means
// that the service could not start.
func (p *process) run() error {
	lisaserver.RouteGvisorLog(p.log)
	for range p.cfg.Windows {
		r, err := p.control.RecvRequest()
		if err == nil {
			err = addWindow(&p.windows, r)
		}
		if err != nil {
			return fmt.Errorf("take the windows of guests: %w", err)
		}
	}
	if err := p.confine(); err != nil {
		return fmt.Errorf("confine the gofer: %w", err)
	}
	var err error
	if p.backend, err = open(p.cfg, &p.audience, p.log); err != nil {
		return err
	}
	p.lisa = lisaserver.New(p.backend.fs, lisaserver.Options{StableIno: p.cfg.StableIno, Shared: p.cfg.Volume.Coherence == attach.Shared, Log: p.log})
	p.clients = clients.New(p.cfg.Volume, connServer{p.lisa, p.cfg.Volume}, p.log)

	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	p.guests = newGuests(p)
	for i, l := range p.cfg.Listen {
		if err := p.guests.start(ctx, l, os.NewFile(uintptr(goferproto.FDGuests+i), l.String())); err != nil {
			return err
		}
	}
	accepting := make(chan error, 1)
	listener := os.NewFile(goferproto.FDListener, attach.SocketName)
	go func() { accepting <- attach.Serve(ctx, listener, p.clients, p.log) }()

	if err := p.send(goferproto.Reply{Ready: p.backend.ready()}); err != nil {
		return fmt.Errorf("tell the supervisor: %w", err)
	}
	go p.watch(ctx)
	if p.cfg.ReportIdle {
		go p.watchClients(ctx)
	}

	request, reason := p.answer()
	p.log.Debug("stopping", "reason", reason)
	p.clients.Refuse()
	cancel()
	if err := <-accepting; err != nil {
		p.log.Warn("accepting clients ended early", "err", err)
	}
	reply := goferproto.Reply{ID: request.ID}
	if err := p.shutDown(); err != nil {
		reply.Error = err.Error()
		p.log.Warn("stop", "err", err)
	}
	if request.ID != 0 {
		if err := p.send(reply); err != nil {
			p.log.Debug("the supervisor is gone", "err", err)
		}
	}
	return nil
}

// shutDown ends the clients, which flushes what they have open, and then the
// file system. A file system that hangs is cut off, so that its clients' requests
// end.
func (p *process) shutDown() error {
	ctx, cancel := context.WithTimeout(context.Background(), flushTimeout)
	defer cancel()
	err := p.lisa.Shutdown(ctx)
	if err == nil {
		err = p.guests.wait(ctx)
	}
	if err != nil {
		err = fmt.Errorf("flush what clients have open: %w", err)
	}
	// After a clean shutdown this sends DESTROY; otherwise it also unblocks what
	// the shutdown waited for.
	err = errors.Join(err, p.backend.close())
	p.lisa.Close()
	p.guests.serving.Wait()
	p.clients.Wait()
	p.background.Wait()
	return err
}

// connServer serves clients with lisafs.
type connServer struct {
	lisa   *lisaserver.Server
	volume attach.Info
}

func (s connServer) Serve(lisafsFD int, c clients.Client) error {
	return s.lisa.Serve(lisafsFD, lisaserver.ConnOptions{
		ReadOnly: c.ReadOnly, Container: c.Container, Descriptors: c.Descriptors,
		// See newPlannedMount in sentryglue.
		SharesHandles: s.volume.Coherence == attach.Exclusive && !s.volume.StrictFsync,
	})
}

// confine takes away what serving does not need.
func (p *process) confine() error {
	unix.Umask(0) // modes come complete from the application's side
	raiseFileLimit(p.log)
	root := confine.Root{}
	for _, b := range p.cfg.Binds {
		root.Binds = append(root.Binds, confine.Bind{Host: b.Host, Path: b.Target, ReadOnly: b.ReadOnly})
	}
	profile, keep := confine.Channel, []int(nil)
	switch p.cfg.InProcess {
	case "":
	case "mem":
		var size int64 // 0 is tmpfs's own default
		if text := p.cfg.Options["size"]; text != "" {
			var err error
			if size, err = bytesize.Parse(text); err != nil {
				return fmt.Errorf("option size: %w", err)
			}
		}
		root.Tmpfs = append(root.Tmpfs, confine.Tmpfs{Path: memRoot, Size: size})
		fallthrough
	default:
		profile, keep = confine.Files, confine.FileCapabilities
	}
	if needsCopiesDir(p.cfg) {
		owner := 0
		if len(keep) == 0 {
			owner = confine.Nobody
		}
		// Executable: clients map programs from it.
		root.Tmpfs = append(root.Tmpfs, confine.Tmpfs{Path: copiesDir, Owner: owner, Exec: true})
	}
	if err := confine.EnterRoot(root); err != nil {
		return err
	}
	if err := confine.DropPrivileges(keep...); err != nil {
		return err
	}
	// The supervisor had it set; prctl(2): it is cleared when credentials change.
	if err := unix.Prctl(unix.PR_SET_PDEATHSIG, uintptr(unix.SIGKILL), 0, 0, 0); err != nil {
		return fmt.Errorf("set the parent death signal: %w", err)
	}
	return confine.InstallFilter(profile)
}

// raiseFileLimit makes room for the descriptors of many clients. A lower limit
// than asked for is served with; attaches then fail one by one.
func raiseFileLimit(log *slog.Logger) {
	var l unix.Rlimit
	err := unix.Getrlimit(unix.RLIMIT_NOFILE, &l)
	if err == nil {
		l.Cur, l.Max = 1<<20, max(l.Max, 1<<20)
		if err = unix.Setrlimit(unix.RLIMIT_NOFILE, &l); err != nil {
			if err = unix.Getrlimit(unix.RLIMIT_NOFILE, &l); err == nil {
				l.Cur = l.Max
				err = unix.Setrlimit(unix.RLIMIT_NOFILE, &l)
			}
		}
	}
	if err != nil {
		log.Warn("raise the limit of open files", "err", err)
	}
}

// watch tells the supervisor when the file system is lost.
func (p *process) watch(ctx context.Context) {
	select {
	case <-p.backend.done:
		if err := p.send(goferproto.Reply{Failed: p.backend.err().Error()}); err != nil {
			p.log.Warn("tell the supervisor", "err", err)
		}
	case <-ctx.Done():
	}
}

// watchClients tells the supervisor whenever the last client has gone.
func (p *process) watchClients(ctx context.Context) {
	var told uint64 // of how many attaches the end is known
	for {
		n, attaches, changed := p.clients.Watch()
		if n == 0 && attaches != told {
			told = attaches
			if err := p.send(goferproto.Reply{Idle: true}); err != nil {
				p.log.Debug("tell the supervisor", "err", err)
			}
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return
		}
	}
}

// serve carries out a request other than to stop. An error means that the
// supervisor is gone.
func (p *process) serve(r goferproto.Request) error {
	reply := goferproto.Reply{ID: r.ID}
	switch r.Op {
	case goferproto.OpStat:
		reply.Stat = p.stat()
	case goferproto.OpRPCs:
		reply.Ops = p.lisa.Stats().RPCs
	case goferproto.OpGuests:
		reply.Ops = p.guests.account.Ops()
	case goferproto.OpFUSE:
		reply.Ops = p.backend.requests()
	case goferproto.OpWindow:
		reply.Error = text(addWindow(&p.windows, r))
	case goferproto.OpWindowGone:
		reply.Error = text(removeWindow(&p.windows, r))
	case goferproto.OpCacheLimit:
		err := p.setCacheLimit(r)
		if err == nil {
			return nil // it replies when it is done
		}
		reply.Error = err.Error()
	default:
		reply.Error = fmt.Sprintf("unknown request %q", r.Op)
	}
	return p.send(reply)
}

// text is an error in a reply: empty for none.
func text(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// answer handles requests until one says stop, which it returns, or until the
// supervisor is gone.
func (p *process) answer() (goferproto.Request, string) {
	for {
		r, err := p.control.RecvRequest()
		if errors.Is(err, io.EOF) {
			return goferproto.Request{}, "the supervisor is gone"
		}
		if err != nil {
			return goferproto.Request{}, err.Error()
		}
		if r.Op == goferproto.OpStop {
			return r, "asked to"
		}
		if err := p.serve(r); err != nil {
			return goferproto.Request{}, err.Error()
		}
	}
}
