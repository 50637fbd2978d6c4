// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"fsva/e2e/guest"
	"fsva/e2e/guest/vsockpeer"
	"fsva/gofer/vsock"
)

const (
	vsockCID       = 42
	vsockHostPort  = 3782
	vsockGuestPort = 99
	vsockBig       = 256 << 20
)

// vsockDevice serves a vhost-user-vsock device in this process until the test ends, with a vsockpeer on a port of it, and
// returns it and QEMU's arguments for it.
func vsockDevice(t *testing.T) (*vsock.Device, []string) {
	t.Helper()
	d, err := vsock.NewDevice(vsock.Options{CID: vsockCID})
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(env.TempDir(t), "vsock")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	port, err := d.Listen(vsockHostPort)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	served, peer := make(chan error, 1), make(chan error, 1)
	go func() { served <- d.Serve(ctx, l) }()
	go func() { peer <- vsockpeer.Serve(port, func(err error) { t.Logf("the host's peer: %v", err) }) }()
	t.Cleanup(func() {
		cancel()
		if err := <-served; err != nil {
			t.Error(err)
		}
		if err := <-peer; !errors.Is(err, net.ErrClosed) {
			t.Error(err)
		}
	})
	return d, []string{"-chardev", "socket,id=vsock,path=" + path, "-device", "vhost-user-vsock-pci,id=vsock,chardev=vsock"}
}

func bootVsock(t *testing.T, device []string) *guest.Guest {
	t.Helper()
	g := guest.Boot(t, env, guest.Config{
		CPUs: 2, Modules: []string{"vmw_vsock_virtio_transport"}, Args: device, Files: map[string]string{"/bin/vsockpeer": env.Binary(t, "vsockpeer")},
	})
	t.Logf("booted in %.1f s", g.Booted.Seconds())
	return g
}

// serveInGuest starts a vsockpeer in the guest and returns how to connect to it.
func serveInGuest(t *testing.T, d *vsock.Device, g *guest.Guest) func() vsockpeer.Conn {
	t.Helper()
	g.Shell(t, fmt.Sprintf(`vsockpeer serve vsock:%d </dev/null >/peer 2>&1 &
		until [ -s /peer ]; do sleep 0.1; done; grep listening /peer`, vsockGuestPort))
	return func() vsockpeer.Conn {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		c, err := d.Dial(ctx, vsockGuestPort)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return c
	}
}

// TestVsock has a guest's kernel and the device talk to each other.
func TestVsock(t *testing.T) {
	d, device := vsockDevice(t)
	qmp := filepath.Join(env.TempDir(t), "qmp")
	// QEMU emulates "rep movsb", with which the kernel copies on processors that do it fast, byte by byte.
	device = append(device, "-cpu", "max,erms=off,fsrm=off", "-qmp", "unix:"+qmp+",server=on,wait=off")
	g := bootVsock(t, device)
	host := fmt.Sprintf("vsock:%d:%d", vsock.CIDHost, vsockHostPort)
	dial := serveInGuest(t, d, g)
	call := func(t *testing.T, args ...string) {
		t.Helper()
		r := g.Run(t, guest.Command{Args: append([]string{"vsockpeer"}, args...), Timeout: suiteTimeout})
		if r.Code != 0 {
			t.Fatalf("%q: %s%s", args, r.Stdout, r.Stderr)
		}
		t.Logf("the guest's %s: %s", args[0], r.Stdout)
	}

	t.Run("guest connects", func(t *testing.T) {
		call(t, "ping", host, "1000")
		call(t, "upload", host, fmt.Sprint(vsockBig), "1")
		call(t, "download", host, fmt.Sprint(vsockBig), "1")
		call(t, "upload", host, "4194304", "64")
		call(t, "download", host, "4194304", "64")
	})
	t.Run("host connects", func(t *testing.T) {
		median, err := vsockpeer.Ping(dial(), 1000)
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("the host's ping: %v", median)
		for _, tc := range []struct {
			name     string
			transfer func(vsockpeer.Conn, uint64) error
		}{{"upload", vsockpeer.Upload}, {"download", vsockpeer.Download}} {
			for _, streams := range []int{1, 64} {
				start := time.Now()
				done := make(chan error, streams)
				for range streams {
					c := dial()
					go func() { done <- tc.transfer(c, 64<<20/uint64(streams)) }()
				}
				for range streams {
					if err := <-done; err != nil {
						t.Error(tc.name, err)
					}
				}
				t.Logf("the host's %s, %d streams: %.0f MB/s", tc.name, streams, 64<<20/time.Since(start).Seconds()/1e6)
			}
		}
	})
	t.Run("nobody listens", func(t *testing.T) {
		r := g.Run(t, guest.Command{Args: []string{"vsockpeer", "ping", "vsock:2:1", "1"}})
		if r.Code == 0 || !strings.Contains(r.Stderr, "reset by peer") {
			t.Errorf("exit code %d: %s", r.Code, r.Stderr)
		}
		if _, err := d.Dial(t.Context(), 1); err == nil {
			t.Error("the host connects to a port where nobody listens")
		}
	})
	t.Run("pause", func(t *testing.T) {
		monitor := newMonitor(t, qmp)
		c := dial()
		done := make(chan error, 1)
		go func() { done <- vsockpeer.Download(c, 64<<20) }()
		for range 5 {
			monitor.do("stop")
			monitor.do("cont")
		}
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	t.Run("driver restarts", func(t *testing.T) {
		c := dial()
		g.Shell(t, `cd /sys/bus/virtio/drivers/vmw_vsock_virtio_transport; dev=$(basename $(ls -d virtio[0-9]*)); echo $dev >unbind; echo $dev >bind`)
		if _, err := c.Read(make([]byte, 1)); err == nil {
			t.Error("a connection of the driver before is still open")
		}
		call(t, "upload", host, "1048576", "4")
		if err := vsockpeer.Download(dial(), 1<<20); err != nil {
			t.Error(err)
		}
	})
	t.Run("guest dies", func(t *testing.T) {
		c := dial()
		g.Kill(t)
		if _, err := c.Read(make([]byte, 1)); err == nil {
			t.Error("a connection of a dead guest is still open")
		}
	})
	t.Run("next guest", func(t *testing.T) {
		g = bootVsock(t, device)
		call(t, "ping", host, "10")
		if err := vsockpeer.Upload(serveInGuest(t, d, g)(), 1<<20); err != nil {
			t.Error(err)
		}
	})
}

// monitor is a connection to QEMU's QMP.
type monitor struct {
	t   *testing.T
	c   net.Conn
	dec *json.Decoder
}

func newMonitor(t *testing.T, path string) *monitor {
	t.Helper()
	c, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	if err := c.SetDeadline(time.Now().Add(suiteTimeout)); err != nil {
		t.Fatal(err)
	}
	m := &monitor{t, c, json.NewDecoder(c)}
	m.do("qmp_capabilities")
	return m
}

// do executes a command without arguments.
func (m *monitor) do(command string) {
	m.t.Helper()
	if _, err := fmt.Fprintf(m.c, `{"execute":%q}`, command); err != nil {
		m.t.Fatal(err)
	}
	for {
		var answer struct{ Return, Error *json.RawMessage }
		if err := m.dec.Decode(&answer); err != nil {
			m.t.Fatalf("QMP %s: %v", command, err)
		}
		if answer.Error != nil {
			m.t.Fatalf("QMP %s: %s", command, *answer.Error)
		}
		if answer.Return != nil {
			return
		}
	}
}
