// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package vsock

import (
	"bytes"
	"net"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/nettest"

	"fsva/gofer/vsock/vsockproto"
)

// end returns a Device without a VMM, with the given CIDs: what one end of a
// wire is.
func end(local, peer uint32) *Device {
	return &Device{
		cid: peer,
		machine: vsockproto.New(vsockproto.Config{LocalCID: local, PeerCID: peer,
			BufferSize: connBuffer, MaxConns: maxConns, MaxResets: maxResets, CloseTimeout: closeTimeout}),
		ports: make(map[uint32]*portListener),
	}
}

// carry brings the packets that wait in from to the other end, and reports
// whether there were any.
func carry(t *testing.T, from, to *Device) bool {
	any := false
	for {
		from.mu.Lock()
		h, payload, sent, ok := from.machine.Next(4096)
		payload = bytes.Clone(payload)
		if sent != nil {
			wake(sent, vsockproto.EventWrite)
		}
		from.mu.Unlock()
		if !ok {
			return any
		}
		any = true
		to.mu.Lock()
		state, ev, err := to.machine.Receive(&h, body{bytes.NewReader(payload)}, len(payload))
		if err != nil {
			t.Error(err)
		}
		if ev == vsockproto.EventRequest {
			to.request(state)
		} else if ev != 0 {
			wake(state, ev)
		}
		to.mu.Unlock()
	}
}

// body is a payload in memory.
type body struct{ *bytes.Reader }

func (b body) Read(p []byte) (int, error) {
	n, _ := b.Reader.Read(p)
	return n, nil
}

// wire joins two ends, with a latency, until stop is called.
func wire(t *testing.T, a, b *Device) (stop func()) {
	quit := make(chan struct{})
	var done sync.WaitGroup
	done.Go(func() {
		latency := time.NewTicker(20 * time.Microsecond)
		defer latency.Stop()
		for {
			ab, ba := carry(t, a, b), carry(t, b, a)
			if ab || ba {
				continue
			}
			select {
			case <-quit:
				return
			case <-latency.C:
			}
		}
	})
	return func() { close(quit); done.Wait() }
}

// Connections behave as net.Conn says: data, deadlines, Close and concurrent
// use.
func TestConn(t *testing.T) {
	nettest.TestConn(t, func() (net.Conn, net.Conn, func(), error) {
		host, guest := end(CIDHost, testCID), end(testCID, CIDHost)
		l, err := host.Listen(testPort)
		if err != nil {
			return nil, nil, nil, err
		}
		stop := wire(t, host, guest)
		c1, err := guest.Dial(t.Context(), testPort)
		if err != nil {
			stop()
			return nil, nil, nil, err
		}
		c2, err := l.Accept()
		if err != nil {
			stop()
			return nil, nil, nil, err
		}
		return c1, c2, func() {
			c1.Close()
			c2.Close()
			stop()
		}, nil
	})
}
