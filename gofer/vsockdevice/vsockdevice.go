// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

// Package vsockdevice is the process that has the vsock device of one guest (package
// vsock), for a hypervisor without one of its own. It hands the guest's connections
// to the volume's gofer and copies between the two.
//
// It is a process apart because QEMU does not connect a vsock device again: this one
// lives on when the gofer is replaced, the guest's connections end, and the guest makes
// new ones.
//
// The peers are the hypervisor and the guest, not trusted: the process confines itself
// as a gofer does. The supervisor starts it, and another one if it dies; it sends a
// Config as the first packet on the hand-off socket, whose other end it keeps for each
// gofer in turn. The gofer's end is a Listener: each packet is one byte with a
// connection's descriptor.
package vsockdevice

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"sync"

	"golang.org/x/sys/unix"

	"fsva/gofer/confine"
	"fsva/gofer/vsock"
)

// File descriptors of the process.
const (
	// FDListener is the vhost-user socket that the hypervisor connects to.
	FDListener = 3
	// FDHandoff is the process's end of the hand-off socket.
	FDHandoff = 4
)

// maxConfig bounds a Config in bytes.
const maxConfig = 4096

// Config is what the process is told.
type Config struct {
	CID  uint32 `json:"cid"`  // of the guest
	Port uint32 `json:"port"` // that it connects to
}

// Handoff makes a hand-off socket with c in it. The caller owns both ends.
func Handoff(c Config) (device, gofer *os.File, err error) {
	p, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("create a hand-off socket: %w", err)
	}
	device, gofer = os.NewFile(uintptr(p[0]), "hand-off"), os.NewFile(uintptr(p[1]), "hand-off")
	if err := Configure(gofer, c); err != nil {
		device.Close()
		gofer.Close()
		return nil, nil, err
	}
	return device, gofer, nil
}

// Configure tells the next process at the other end of a hand-off socket's gofer end
// what it is. Handoff has told the first one.
func Configure(gofer *os.File, c Config) error {
	text, err := json.Marshal(c)
	if err == nil {
		_, err = gofer.Write(text)
	}
	if err != nil {
		return fmt.Errorf("configure a vsock device: %w", err)
	}
	return nil
}

// Main runs the process and returns its exit code. It ends with the supervisor.
func Main() int {
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	if err := run(log); err != nil {
		log.Error("vsock device", "err", err)
		return 1
	}
	return 0
}

func run(log *slog.Logger) error {
	b := make([]byte, maxConfig)
	n, err := unix.Read(FDHandoff, b)
	if err != nil {
		return fmt.Errorf("read the configuration: %w (the process is started by fsva serve)", err)
	}
	var c Config
	if err := json.Unmarshal(b[:n], &c); err != nil {
		return fmt.Errorf("read the configuration: %w", err)
	}
	if err := confine.EnterRoot(confine.Root{}); err != nil {
		return fmt.Errorf("confine the process: %w", err)
	}
	if err := confine.DropPrivileges(); err != nil {
		return fmt.Errorf("confine the process: %w", err)
	}
	// The supervisor had it set; prctl(2): it is cleared when credentials change.
	if err := unix.Prctl(unix.PR_SET_PDEATHSIG, uintptr(unix.SIGKILL), 0, 0, 0); err != nil {
		return fmt.Errorf("set the parent death signal: %w", err)
	}
	if err := confine.InstallFilter(confine.Channel); err != nil {
		return fmt.Errorf("confine the process: %w", err)
	}
	f := os.NewFile(FDListener, "vhost-user socket")
	l, err := net.FileListener(f)
	f.Close()
	if err != nil {
		return err
	}
	if err := unix.SetNonblock(FDHandoff, true); err != nil {
		return err
	}
	return serve(context.Background(), c, l, os.NewFile(FDHandoff, "hand-off"), log)
}

// serve serves the device until ctx ends. It owns l and handoff.
func serve(ctx context.Context, c Config, l net.Listener, handoff *os.File, log *slog.Logger) error {
	defer handoff.Close()
	device, err := vsock.NewDevice(vsock.Options{CID: c.CID, Logger: log})
	if err != nil {
		l.Close()
		return err
	}
	port, err := device.Listen(c.Port)
	if err != nil {
		l.Close()
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	served := make(chan error, 1)
	wg.Go(func() { served <- device.Serve(ctx, l) }) // also closes port
	for {
		conn, err := port.Accept()
		if err != nil {
			return <-served
		}
		ours, err := pass(handoff)
		if err != nil {
			conn.Close()
			log.Warn("hand a connection to the gofer", "err", err)
			continue
		}
		wg.Go(func() { join(conn.(vsock.Conn), ours) })
	}
}

// pass gives the gofer one end of a new connection and returns the other one. It
// waits while there is no gofer and too many connections wait for one.
func pass(handoff *os.File) (*net.UnixConn, error) {
	p, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	defer unix.Close(p[1])
	f := os.NewFile(uintptr(p[0]), "connection")
	defer f.Close()
	conn, err := net.FileConn(f)
	if err != nil {
		return nil, err
	}
	raw, err := handoff.SyscallConn()
	if err == nil {
		rights := unix.UnixRights(p[1])
		var serr error
		err = raw.Write(func(fd uintptr) bool {
			for serr = unix.EINTR; serr == unix.EINTR; {
				serr = unix.Sendmsg(int(fd), []byte{0}, rights, nil, unix.MSG_NOSIGNAL)
			}
			return serr != unix.EAGAIN
		})
		err = errors.Join(err, serr)
	}
	if err != nil {
		conn.Close()
		return nil, err
	}
	return conn.(*net.UnixConn), nil
}

// copyBuffer is the size of a copy: a vsock connection's buffer.
const copyBuffer = 256 << 10

// join copies both ways until both ends have ended, or one is broken.
func join(guest vsock.Conn, gofer *net.UnixConn) {
	defer guest.Close()
	defer gofer.Close()
	type end interface {
		net.Conn
		CloseWrite() error
	}
	var wg sync.WaitGroup
	flow := func(to, from end) {
		// Hidden methods: a copy to or from a socket would allocate a small buffer.
		_, err := io.CopyBuffer(struct{ io.Writer }{to}, struct{ io.Reader }{from}, make([]byte, copyBuffer))
		if err == nil {
			err = to.CloseWrite()
		}
		if err != nil { // both directions end
			guest.Close()
			gofer.Close()
		}
	}
	wg.Go(func() { flow(guest, gofer) })
	flow(gofer, guest)
	wg.Wait()
}

// Listener is the gofer's end of a hand-off socket.
type Listener struct {
	f   *os.File
	cid uint32
}

var _ net.Listener = (*Listener)(nil)

// NewListener takes ownership of f. The connections are those of the guest cid.
func NewListener(f *os.File, cid uint32) (*Listener, error) {
	defer f.Close()
	// As attach.Serve: the poller wants a file that is non-blocking from the start.
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		return nil, fmt.Errorf("duplicate a hand-off socket: %w", err)
	}
	if err := unix.SetNonblock(fd, true); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("hand-off socket: %w", err)
	}
	return &Listener{f: os.NewFile(uintptr(fd), f.Name()), cid: cid}, nil
}

// Accept waits for a connection, which is a vsock.Conn.
func (l *Listener) Accept() (net.Conn, error) {
	raw, err := l.f.SyscallConn()
	if err != nil {
		return nil, err
	}
	b, oob := make([]byte, 1), make([]byte, unix.CmsgSpace(4))
	var n, oobn int
	perr := raw.Read(func(fd uintptr) bool {
		for err = unix.EINTR; err == unix.EINTR; {
			n, oobn, _, _, err = unix.Recvmsg(int(fd), b, oob, unix.MSG_CMSG_CLOEXEC)
		}
		return err != unix.EAGAIN
	})
	if perr != nil {
		return nil, perr
	}
	if err != nil {
		return nil, err
	}
	if n == 0 && oobn == 0 {
		return nil, io.EOF // the device is gone
	}
	fds, err := rights(oob[:oobn])
	if err != nil || len(fds) != 1 {
		for _, fd := range fds {
			unix.Close(fd)
		}
		return nil, fmt.Errorf("hand-off socket: %d descriptors in a packet, %v", len(fds), err)
	}
	f := os.NewFile(uintptr(fds[0]), "connection")
	defer f.Close()
	c, err := net.FileConn(f)
	if err != nil {
		return nil, err
	}
	u, ok := c.(*net.UnixConn)
	if !ok {
		c.Close()
		return nil, errors.New("hand-off socket: what came is no unix socket")
	}
	return conn{u, l.cid}, nil
}

// rights returns the descriptors that came with a packet.
func rights(oob []byte) ([]int, error) {
	msgs, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil, err
	}
	var fds []int
	for i := range msgs {
		got, err := unix.ParseUnixRights(&msgs[i])
		if err != nil {
			return fds, err
		}
		fds = append(fds, got...)
	}
	return fds, nil
}

// Close makes Accept fail.
func (l *Listener) Close() error { return l.f.Close() }

// Addr implements net.Listener.
func (l *Listener) Addr() net.Addr { return vsock.Addr{Kind: vsock.VhostUser, CID: l.cid} }

// conn is a connection of the guest.
type conn struct {
	*net.UnixConn
	cid uint32
}

var _ vsock.Conn = conn{}

// PeerCID implements vsock.Conn.
func (c conn) PeerCID() uint32 { return c.cid }
