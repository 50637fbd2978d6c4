// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package vsock

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"slices"

	kernel "github.com/mdlayher/vsock"
	"golang.org/x/sys/unix"
)

// Conn is a stream between two machines, or two processes. Every net.Conn that
// this package's listeners accept and dialers return is one.
type Conn interface {
	net.Conn
	// CloseWrite ends the stream towards the peer, who reads the end of file
	// after the data; the other direction stays open.
	CloseWrite() error
	// PeerCID returns the CID of the machine at the other end, CIDNone if it has
	// none.
	PeerCID() uint32
}

// Options are what an address does not say. The zero value is valid.
type Options struct {
	// Port is the vsock port of Hybrid and VhostUser; 0 means DefaultPort.
	Port uint32
	// CID is the guest's CID: the one that a VhostUser device gives to its
	// guest (0 means CIDFirstGuest), and the one that connections of a Hybrid
	// socket count as (0 means CIDNone), because a VMM does not tell it.
	CID uint32
	// Allow lists the CIDs that may connect; nil means all. Peers of Unix have no
	// CID: they are let in by the permissions of the socket.
	Allow []uint32
	// Logger gets what concerns no connection, such as a peer that was refused.
	// Nil discards it.
	Logger *slog.Logger
}

func (o Options) logger() *slog.Logger {
	if o.Logger == nil {
		return slog.New(slog.DiscardHandler)
	}
	return o.Logger
}

func (o Options) port() uint32 {
	if o.Port == 0 {
		return DefaultPort
	}
	return o.Port
}

// hybridCID returns what connections of a Hybrid socket count as.
func (o Options) hybridCID() uint32 {
	if o.CID == 0 {
		return CIDNone
	}
	return o.CID
}

func (o Options) allows(cid uint32) bool {
	return o.Allow == nil || slices.Contains(o.Allow, cid)
}

// Bind makes the listening socket of a, for this process or for another one
// that calls FileListener. For VhostUser it is the socket that the VMM connects
// to. Socket files get the mode 0600; one that nobody listens on any more is
// replaced. The caller removes the file, SocketPath(a, o), when it is done.
func Bind(a Addr, o Options) (*os.File, error) {
	var domain int
	var sa unix.Sockaddr
	switch path := SocketPath(a, o); {
	case a.Kind == Kernel:
		domain, sa = unix.AF_VSOCK, &unix.SockaddrVM{CID: a.CID, Port: a.Port}
	case path == "":
		return nil, fmt.Errorf("listen on %s: not an address to listen on", a)
	default:
		if err := checkPath(path); err != nil {
			return nil, fmt.Errorf("listen on %s: %w", a, err)
		}
		if err := removeStale(path); err != nil {
			return nil, fmt.Errorf("listen on %s: %w", a, err)
		}
		domain, sa = unix.AF_UNIX, &unix.SockaddrUnix{Name: path}
	}
	fd, err := unix.Socket(domain, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", a, os.NewSyscallError("socket", err))
	}
	f := os.NewFile(uintptr(fd), a.String())
	if domain == unix.AF_UNIX {
		// Linux takes a socket's mode from its descriptor when it binds it, so
		// that there is no moment at which the file has another one.
		err = os.NewSyscallError("fchmod", unix.Fchmod(fd, 0o600))
	}
	if err == nil {
		err = os.NewSyscallError("bind", unix.Bind(fd, sa))
	}
	if err == nil {
		err = os.NewSyscallError("listen", unix.Listen(fd, unix.SOMAXCONN))
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("listen on %s: %w", a, err)
	}
	return f, nil
}

// SocketPath returns the file that Bind makes, "" if a has none.
func SocketPath(a Addr, o Options) string {
	switch a.Kind {
	case Unix, VhostUser:
		return a.Path
	case Hybrid:
		return fmt.Sprintf("%s_%d", a.Path, o.port())
	}
	return ""
}

// removeStale removes a socket that nobody listens on. Anything else stays
// where it is, and bind says that the name is in use.
func removeStale(path string) error {
	st, err := os.Lstat(path)
	if errors.Is(err, os.ErrNotExist) || err == nil && st.Mode().Type() != os.ModeSocket {
		return nil
	} else if err != nil {
		return err
	}
	c, err := net.Dial("unix", path)
	if err == nil {
		c.Close()
		return nil
	}
	if !errors.Is(err, unix.ECONNREFUSED) {
		return nil
	}
	return os.Remove(path)
}

// FileListener returns a listener on a socket of Bind with the same address and
// options. It borrows f: the listener has a descriptor of its own. It does not
// remove a socket's file.
//
// For VhostUser it is a [Device] of its own, whose Close ends the connections,
// too; the others leave those alone. Accept goes on when a peer is not allowed,
// and otherwise returns the errors of accept(2).
func FileListener(f *os.File, a Addr, o Options) (net.Listener, error) {
	l, err := fileListener(f, a, o)
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", a, err)
	}
	return l, nil
}

func fileListener(f *os.File, a Addr, o Options) (net.Listener, error) {
	if a.Kind == Kernel {
		l, err := kernel.FileListener(f)
		if err != nil {
			return nil, err
		}
		return &listener{Listener: l, addr: a, options: o}, nil
	}
	if a.Kind == Hybrid && !o.allows(o.hybridCID()) {
		return nil, errors.New("the CID of the guest behind it is not one of those that may connect")
	}
	l, err := net.FileListener(f)
	if err != nil {
		return nil, err
	}
	if _, ok := l.(*net.UnixListener); !ok {
		l.Close()
		return nil, errors.New("the descriptor is not a unix socket")
	}
	if a.Kind == VhostUser {
		return listenDevice(l, a, o)
	}
	return &listener{Listener: l, addr: a, options: o}, nil
}

// Listen is Bind and FileListener. Closing the listener removes its file.
func Listen(a Addr, o Options) (net.Listener, error) {
	f, err := Bind(a, o)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	l, err := FileListener(f, a, o)
	if err != nil {
		if path := SocketPath(a, o); path != "" {
			os.Remove(path)
		}
		return nil, err
	}
	return removeOnClose{l, SocketPath(a, o)}, nil
}

// removeOnClose is a listener with a file, "" for none.
type removeOnClose struct {
	net.Listener
	path string
}

func (l removeOnClose) Close() error {
	err := l.Listener.Close()
	if l.path != "" && err == nil {
		err = os.Remove(l.path)
	}
	return err
}

// listener accepts what its options allow.
type listener struct {
	net.Listener
	addr    Addr
	options Options
}

func (l *listener) Addr() net.Addr { return l.addr }

func (l *listener) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		conn := l.wrap(c)
		if cid := conn.PeerCID(); l.addr.Kind == Kernel && !l.options.allows(cid) {
			conn.Close()
			l.options.logger().Debug("refused a connection: its CID is not on the list", "address", l.addr.String(), "cid", cid)
			continue
		}
		return conn, nil
	}
}

func (l *listener) wrap(c net.Conn) Conn {
	if c, ok := c.(*kernel.Conn); ok {
		return kernelConn{c}
	}
	cid := CIDNone
	if l.addr.Kind == Hybrid {
		cid = l.options.hybridCID()
	}
	return unixConn{c.(*net.UnixConn), cid}
}

// Dial connects to a: from a guest to its host, or from a host to a guest
// through the VMM's socket (Hybrid). ctx bounds the connecting only.
func Dial(ctx context.Context, a Addr, o Options) (Conn, error) {
	c, err := dial(ctx, a, o)
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w", a, err)
	}
	return c, nil
}

func dial(ctx context.Context, a Addr, o Options) (Conn, error) {
	switch a.Kind {
	case Kernel:
		if a.CID == CIDNone {
			return nil, fmt.Errorf("the CID is missing; want vsock:CID:PORT (the host is CID %d)", CIDHost)
		}
		c, err := kernel.DialContext(ctx, a.CID, a.Port, nil)
		if err != nil {
			return nil, err
		}
		return kernelConn{c}, nil
	case Unix, Hybrid:
		var d net.Dialer
		c, err := d.DialContext(ctx, "unix", a.Path)
		if err != nil {
			return nil, err
		}
		if a.Kind == Unix {
			return unixConn{c.(*net.UnixConn), CIDNone}, nil
		}
		if err := hybridConnect(ctx, c, o.port()); err != nil {
			c.Close()
			return nil, err
		}
		return unixConn{c.(*net.UnixConn), o.hybridCID()}, nil
	}
	return nil, fmt.Errorf("not an address to connect to; want vsock:CID:PORT, unix:PATH or hybrid-vsock:PATH")
}

// kernelConn is an AF_VSOCK socket.
type kernelConn struct{ *kernel.Conn }

func (c kernelConn) PeerCID() uint32 {
	if a, ok := c.RemoteAddr().(*kernel.Addr); ok {
		return a.ContextID
	}
	return CIDNone
}

// unixConn is a unix socket, with what we know of the machine behind it.
type unixConn struct {
	*net.UnixConn
	cid uint32
}

func (c unixConn) PeerCID() uint32 { return c.cid }
