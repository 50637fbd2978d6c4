// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

// Package virtiofs offers a fuse.RawFileSystem to virtual machines as a virtio-fs device (virtio 1.2 §5.11): guests
// mount it with the driver of their kernel and need nothing of ours. The VMM connects to a vhost-user socket.
//
// Guest and VMM are NOT trusted: package vhostuser checks what they do with memory and queues, package fusesession
// what is in the requests. Each VMM that connects gets sessions of its own, with nodes, handles and locks that go when
// it goes, or when its guest mounts again (INIT) after a reset. How much one guest can have under way is bounded.
//
// # Data
//
// A request is copied into memory of ours before it is looked at. Replies are written to the guest's memory, and what a
// file system reads goes there straight if the guest's buffer is in one piece and the memory can't go away
// (vhostuser.Chain.WriteSlices); else it takes one more copy. Nothing is read back.
//
// # Notifications
//
// There are none: neither the specification nor Linux has a queue for them. What changes behind a guest's back it learns
// only by asking. So for volumes that others change (fusesession.Options.Exclusive is false) the session lets it keep
// nothing: attributes and names are valid for no time, and data is dropped at an open if the file has changed. Two
// guests then agree on a file after one has closed it and the other opens it, and a shared mapping of one is not coherent
// with writes of the other.
//
// # Pause and reset
//
// When the guest is paused or reset, the VMM waits until the requests under way are done. Those that wait for a lock
// are interrupted (EINTR), because that may never happen. A guest survives neither a restart of the device's process
// nor migration: QEMU doesn't connect a virtio-fs device again.
//
// # Lock order
//
//	guest.mu             which session is current; held while an old one is closed
//	  fusesession's own
//	guest.waitMu         requests that wait for locks; never held over anything
//
// # Not supported
//
// The DAX window, notifications, more than 16 request queues.
package virtiofs

import (
	"context"
	"encoding/binary"
	"fmt"
	"log/slog"
	"net"

	"github.com/hanwen/go-fuse/v2/fuse"

	"fsva/gofer/fusesession"
	"fsva/gofer/vhostuser"
)

const (
	// maxRequestQueues bounds what a VMM can use.
	maxRequestQueues = 16
	// maxTag is the length of the tag in the configuration space.
	maxTag = 36

	defaultWorkers = 64
)

// Options are what Serve leaves to its caller. The zero value is usable.
type Options struct {
	// Tag is the name that guests mount, at most 36 bytes, for VMMs that ask the device for it; QEMU and Cloud
	// Hypervisor have an option for it.
	Tag string
	// RequestQueues is how many request queues such VMMs are told to use: 1 (if 0) to 16.
	RequestQueues int
	// Workers bounds the requests of one guest that are worked on at a time, those that wait for locks apart; 0 means
	// 64. Each may take twice Session.MaxIO of memory.
	Workers int
	// MaxGuests bounds the VMMs that are connected at a time; 0 means 16.
	MaxGuests int
	// Session configures the sessions of guests. Notify and PrivateInput are ignored.
	Session fusesession.Options
	// Enter, if not nil, is called for each VMM that connects, with Session, and returns what is to be used instead. If
	// it fails, the VMM is disconnected. leave is called once, when the guest's sessions are closed.
	Enter func(fusesession.Options) (o fusesession.Options, leave func(), err error)
	// Log receives what an operator should know. nil: nothing.
	Log *slog.Logger
}

// Serve offers fs, which must be initialised, to the VMMs that connect to l, whose connections must be *net.UnixConn,
// until ctx ends: then it returns nil. It returns an error if l fails or o is no use. In all cases l is closed, and all
// sessions.
func Serve(ctx context.Context, l net.Listener, fs fuse.RawFileSystem, o Options) error {
	if o.Workers <= 0 {
		o.Workers = defaultWorkers
	}
	if o.RequestQueues == 0 {
		o.RequestQueues = 1
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if len(o.Tag) > maxTag || o.RequestQueues < 0 || o.RequestQueues > maxRequestQueues {
		l.Close()
		return fmt.Errorf("virtio-fs device with tag %q and %d request queues", o.Tag, o.RequestQueues)
	}
	d := &device{fs: fs, o: o, config: make([]byte, maxTag+4)}
	copy(d.config, o.Tag)
	binary.LittleEndian.PutUint32(d.config[maxTag:], uint32(o.RequestQueues))
	return vhostuser.Serve(ctx, l, d, vhostuser.Options{MaxConns: o.MaxGuests, Log: o.Log})
}

// device implements vhostuser.Device.
type device struct {
	fs     fuse.RawFileSystem
	o      Options
	config []byte
}

var _ vhostuser.Device = (*device)(nil)

// Features implements vhostuser.Device.Features. The only feature of the device type is the notification queue.
func (d *device) Features() uint64 { return 0 }

// Queues implements vhostuser.Device.Queues. The first is for FORGET and INTERRUPT, the others are for requests.
func (d *device) Queues() int { return 1 + maxRequestQueues }

// Config implements vhostuser.Device.Config.
func (d *device) Config() []byte { return d.config }

// Open implements vhostuser.Device.Open.
func (d *device) Open(ctx context.Context, _ *vhostuser.Conn) (vhostuser.Handler, error) {
	o, leave := d.o.Session, func() {}
	if d.o.Enter != nil {
		var err error
		if o, leave, err = d.o.Enter(o); err != nil {
			return nil, err
		}
	}
	o.Notify = nil
	o.PrivateInput = true
	return newGuest(ctx, d.fs, o, d.o.Workers, d.o.Log, leave), nil
}
