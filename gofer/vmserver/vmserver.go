// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

// Package vmserver is the FS server of a volume with isolation vm: it joins the
// volume's FUSE channel to a directory that `fsva export` serves inside a virtual
// machine.
//
// The machine is not trusted. What it sends is parsed here, in a process without
// privileges and without files, and once more by the gofer, as any FS server's is.
// Where the connection is lost it is made again (fusestream.Relay).
package vmserver

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"time"

	"fsva/gofer/fusestream"
	"fsva/gofer/listen"
	"fsva/gofer/vsock"
)

// retryInterval is the time between attempts to reach a machine that is starting.
const retryInterval = 200 * time.Millisecond

// Serve serves the export at s on a FUSE channel's descriptor, which it takes
// ownership of, until the channel ends. It waits for a machine that is not there
// yet: the supervisor has a deadline.
func Serve(ctx context.Context, s listen.Source, readOnly bool, channel int, log *slog.Logger) error {
	dial := func(ctx context.Context) (net.Conn, error) { return vsock.Dial(ctx, s.Addr, s.Options) }
	if s.Listens() {
		o := s.Options
		o.Logger = log
		device, stop, err := serveDevice(ctx, s.Addr, o)
		if err != nil {
			return err
		}
		defer stop()
		dial = func(ctx context.Context) (net.Conn, error) { return device.Dial(ctx, s.Options.Port) }
	}
	relay, err := connect(ctx, fusestream.RelayOptions{Dial: dial, ReadOnly: readOnly, Readers: 1, Log: log})
	if err != nil {
		return err
	}
	return relay.Serve(ctx, channel, nil)
}

// serveDevice serves the machine's vsock device.
func serveDevice(ctx context.Context, a vsock.Addr, o vsock.Options) (*vsock.Device, func(), error) {
	device, err := vsock.NewDevice(o)
	if err != nil {
		return nil, nil, err
	}
	f, err := vsock.Bind(a, o)
	if err != nil {
		return nil, nil, err
	}
	defer f.Close()
	l, err := net.FileListener(f)
	if err != nil {
		return nil, nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := device.Serve(ctx, l); err != nil {
			o.Logger.Error("the vsock device has failed", "err", err)
		}
	}()
	return device, func() {
		cancel()
		<-done
	}, nil
}

// connect makes the first connection. Why there is none yet is logged when it
// changes.
func connect(ctx context.Context, o fusestream.RelayOptions) (*fusestream.Relay, error) {
	last := ""
	for {
		relay, err := fusestream.Connect(ctx, o)
		if err == nil {
			return relay, nil
		}
		if errors.Is(err, fusestream.ErrRefused) {
			return nil, err
		}
		if text := err.Error(); text != last {
			o.Log.Info("waiting for the machine", "err", err)
			last = text
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(retryInterval):
		}
	}
}
