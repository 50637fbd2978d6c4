// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package lisaserver

import (
	"fmt"
	"runtime/debug"
	"sync/atomic"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/lisafs"
	"gvisor.dev/gvisor/pkg/unet"

	"fsva/gofer/errno"
	"fsva/gofer/latency"
)

// conn is one lisafs connection. It implements lisafs.ConnectionImpl.
type conn struct {
	// Immutable after newConn.
	srv   *Server
	opts  ConnOptions
	guard *guard
	lisa  *lisafs.Server
	conn  *lisafs.Connection

	// fds counts the control and open FDs, those being made included.
	fds atomic.Int64
	// donated is how many descriptors of file data the client has.
	donated atomic.Int64
}

var _ lisafs.ConnectionImpl = (*conn)(nil)

// supportedMessages is what clients are told; see the package doc for what is
// missing.
var supportedMessages = []lisafs.MID{
	lisafs.Mount, lisafs.Channel, lisafs.FStat, lisafs.SetStat, lisafs.Walk,
	lisafs.WalkStat, lisafs.OpenAt, lisafs.OpenCreateAt, lisafs.Close,
	lisafs.FSync, lisafs.PWrite, lisafs.PRead, lisafs.MkdirAt, lisafs.MknodAt,
	lisafs.SymlinkAt, lisafs.LinkAt, lisafs.FStatFS, lisafs.FAllocate,
	lisafs.ReadLinkAt, lisafs.Flush, lisafs.UnlinkAt, lisafs.RenameAt,
	lisafs.RenameAt2, lisafs.Getdents64, lisafs.FGetXattr, lisafs.FSetXattr,
	lisafs.FListXattr, lisafs.FRemoveXattr, lisafs.BindAt,
}

// rpcTable returns the handlers for supportedMessages, counted and timed.
func (s *Server) rpcTable() []lisafs.RPCHandler {
	table := []lisafs.RPCHandler{
		lisafs.Mount:        lisafs.MountHandler,
		lisafs.Channel:      lisafs.ChannelHandler,
		lisafs.FStat:        lisafs.FStatHandler,
		lisafs.SetStat:      s.setStatHandler,
		lisafs.Walk:         lisafs.WalkHandler,
		lisafs.WalkStat:     lisafs.WalkStatHandler,
		lisafs.OpenAt:       lisafs.OpenAtHandler,
		lisafs.OpenCreateAt: lisafs.OpenCreateAtHandler,
		lisafs.Close:        lisafs.CloseHandler,
		lisafs.FSync:        lisafs.FSyncHandler,
		lisafs.PWrite:       lisafs.PWriteHandler,
		lisafs.PRead:        lisafs.PReadHandler,
		lisafs.MkdirAt:      lisafs.MkdirAtHandler,
		lisafs.MknodAt:      lisafs.MknodAtHandler,
		lisafs.SymlinkAt:    lisafs.SymlinkAtHandler,
		lisafs.LinkAt:       lisafs.LinkAtHandler,
		lisafs.FStatFS:      lisafs.FStatFSHandler,
		lisafs.FAllocate:    lisafs.FAllocateHandler,
		lisafs.ReadLinkAt:   lisafs.ReadLinkAtHandler,
		lisafs.Flush:        lisafs.FlushHandler,
		lisafs.UnlinkAt:     lisafs.UnlinkAtHandler,
		lisafs.RenameAt:     lisafs.RenameAtHandler,
		lisafs.RenameAt2:    lisafs.RenameAt2Handler,
		lisafs.Getdents64:   lisafs.Getdents64Handler,
		lisafs.FGetXattr:    lisafs.FGetXattrHandler,
		lisafs.FSetXattr:    setXattrHandler,
		lisafs.FListXattr:   lisafs.FListXattrHandler,
		lisafs.FRemoveXattr: lisafs.FRemoveXattrHandler,
		lisafs.BindAt:       lisafs.BindAtHandler,
	}
	for m, handler := range table {
		if handler == nil {
			continue
		}
		table[m] = func(c *lisafs.Connection, comm lisafs.Communicator, n uint32) (uint32, error) {
			start := latency.Now()
			out, err := handler(c, comm, n)
			s.stats.rpcs[m].observe(latency.Now()-start, err)
			return out, err
		}
	}
	return table
}

// newConn prepares a connection on the socket fd and takes ownership of fd.
func (s *Server) newConn(fd int, o ConnOptions) (*conn, error) {
	c := &conn{srv: s, opts: o}
	g, inner, err := newGuard(fd, c.MaxMessageSize(), s.log)
	if err != nil {
		return nil, err
	}
	sock, err := unet.NewSocket(inner)
	if err != nil {
		unix.Close(inner)
		g.close()
		return nil, fmt.Errorf("lisafs socket: %w", err)
	}
	c.guard = g
	c.lisa = lisafs.NewServer()
	c.lisa.SetHandlers(s.handlers)
	c.conn, err = c.lisa.CreateConnection(sock, "/", lisafs.ConnectionOpts{
		Readonly:          o.ReadOnly,
		WalkStatSupported: true,
		SetAttrOnDeleted:  true,
		AllocateOnDeleted: true,
		OpenOnDeleted:     true,
	}, c)
	if err != nil {
		sock.Close()
		g.close()
		c.lisa.Destroy()
		return nil, fmt.Errorf("lisafs connection: %w", err)
	}
	return c, nil
}

// run serves the connection until the client is gone or hangUp was called, and
// releases everything it held.
func (c *conn) run() {
	c.guard.start()
	c.serve()
	c.destroy()
}

// serve runs the lisafs loop. Handlers recover from panics themselves; this
// recover is for the loop around them, which has unwound when it gets here.
func (c *conn) serve() {
	defer func() {
		if r := recover(); r != nil {
			c.srv.log.Error("lisafs connection failed", "container", c.opts.Container,
				"panic", r, "stack", string(debug.Stack()))
		}
	}()
	c.conn.Run()
}

// hangUp makes run return. It does not wait.
func (c *conn) hangUp() { c.guard.hangUp() }

// destroy releases what is left once lisafs' loop is done or was never started.
func (c *conn) destroy() {
	c.guard.hangUp()
	c.guard.close()
	c.lisa.Destroy()
}

// Mount implements lisafs.ConnectionImpl.Mount.
func (c *conn) Mount(_ *lisafs.Connection, mountNode *lisafs.Node) (*lisafs.ControlFD, lisafs.Statx, int, error) {
	if err := c.reserve(1); err != nil {
		return nil, lisafs.Statx{}, -1, err
	}
	root := c.srv.root
	in := fuse.GetAttrIn{InHeader: root.header()}
	var out fuse.AttrOut
	err := errno.FromStatus(c.srv.fs.GetAttr(nil, &in, &out))
	if err == nil {
		err = checkAttr(&out.Attr)
	}
	if err == nil && out.Mode&unix.S_IFMT != unix.S_IFDIR {
		err = unix.ENOTDIR
	}
	if err != nil {
		c.unreserve(1)
		return nil, lisafs.Statx{}, -1, err
	}
	root.incRef() // Passes to the control FD.
	fd := &controlFD{c: c, n: root}
	mountNode.IncRef() // Likewise.
	c.addControlFD(fd, mountNode)
	return fd.FD(), c.srv.statx(root.id, &out.Attr), -1, nil
}

// SupportedMessages implements lisafs.ConnectionImpl.SupportedMessages.
func (c *conn) SupportedMessages() []lisafs.MID { return supportedMessages }

// MaxMessageSize implements lisafs.ConnectionImpl.MaxMessageSize.
func (c *conn) MaxMessageSize() uint32 { return c.srv.opts.MaxIO + messageOverhead }

// reserve makes room for n FDs, ENFILE if there is none. Each of them is either
// added to the connection or given back with unreserve.
func (c *conn) reserve(n int64) error {
	if c.fds.Add(n) > c.srv.opts.MaxFDs {
		c.fds.Add(-n)
		return unix.ENFILE
	}
	return nil
}

func (c *conn) unreserve(n int64) { c.fds.Add(-n) }

// newControlFD returns a control FD on n.
//
// Preconditions: the caller reserved it. The caller's ref on n passes to the FD.
func (c *conn) newControlFD(n *node) *controlFD {
	// One allocation for both; they live and die together.
	both := new(struct {
		fd   controlFD
		node lisafs.Node
	})
	both.fd.c, both.fd.n = c, n
	both.node.InitLocked("", nil)
	c.addControlFD(&both.fd, &both.node)
	return &both.fd
}

func (c *conn) addControlFD(fd *controlFD, at *lisafs.Node) {
	c.srv.stats.controlFDs.Add(1)
	fd.ControlFD.Init(c.conn, at, linux.FileMode(fd.n.ftype), fd)
}
