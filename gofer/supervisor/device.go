// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package supervisor

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"

	"fsva/gofer/listen"
	"fsva/gofer/vsockdevice"
)

// VsockDevice is the process that has the vsock device of one guest.
type VsockDevice struct {
	Listen   string `json:"listen"`        // the hypervisor's socket, as of --listen
	PID      int    `json:"pid,omitempty"` // 0 when there is no process
	Restarts int    `json:"restarts,omitempty"`
	Reason   string `json:"reason,omitempty"` // why there is no process any more
}

// vsockDevice keeps the process of one guest's vsock device running: one that dies is
// replaced, with the same sockets, for hypervisors that connect from then on.
type vsockDevice struct {
	listen  listen.Spec
	spawner *spawner
	log     *slog.Logger
	// socket and handoff are what each process gets; gofer is the other end of
	// handoff, which belongs to the volume.
	socket, handoff, gofer *os.File
	done                   chan struct{} // closed when there is no process and there will be none

	mu       sync.Mutex
	child    *child      // guarded by mu
	logging  bool        // guarded by mu
	ended    bool        // guarded by mu
	restarts []time.Time // guarded by mu
	reason   string      // guarded by mu
}

// startDevice starts the process with the vsock device that a hypervisor gets from
// the socket, which it takes ownership of, and returns what the gofer accepts the
// guest's connections from. The caller owns that; end ends the device.
func startDevice(s *spawner, l listen.Spec, socket *os.File, log *slog.Logger) (*vsockDevice, *os.File, error) {
	handoff, gofer, err := vsockdevice.Handoff(vsockDeviceConfig(l))
	if err != nil {
		socket.Close()
		return nil, nil, err
	}
	d := &vsockDevice{listen: l, spawner: s, log: log, socket: socket, handoff: handoff, gofer: gofer, done: make(chan struct{})}
	d.child, err = d.start()
	if err != nil {
		d.closeFiles()
		gofer.Close()
		return nil, nil, err
	}
	go d.keep()
	return d, gofer, nil
}

func vsockDeviceConfig(l listen.Spec) vsockdevice.Config {
	return vsockdevice.Config{CID: l.Options().CID, Port: l.Port}
}

// start starts a process, which finds its configuration in handoff.
func (d *vsockDevice) start() (*child, error) {
	return startChild(d.spawner, "vsock device", "vsock-device", goferNamespaces, []*os.File{d.socket, d.handoff}, d.log)
}

// keep replaces the process until the device has ended or dies too often.
func (d *vsockDevice) keep() {
	defer close(d.done)
	defer d.closeFiles() // hypervisors and the gofer notice
	d.mu.Lock()
	defer d.mu.Unlock()
	for {
		c := d.child
		d.mu.Unlock()
		<-c.done
		d.mu.Lock()
		if d.ended {
			return
		}
		how := c.status("")
		if err := d.replace(); err != nil {
			d.reason = how + "; " + err.Error()
			d.say("guests cannot come any more", d.reason)
			return
		}
		d.say("the vsock device is started again; its guest has to be, too", how)
	}
}

// say logs an error; before the volume is ready nothing is (Config.Log). d.mu is locked.
func (d *vsockDevice) say(what, reason string) {
	level := slog.LevelError
	if !d.logging {
		level = slog.LevelDebug
	}
	d.log.Log(context.Background(), level, what, "listener", d.listen.String(), "reason", reason)
}

// replace starts another process. d.mu is locked.
func (d *vsockDevice) replace() error {
	if n := len(d.restarts); n >= maxRestarts && time.Since(d.restarts[n-maxRestarts]) < restartWindow {
		return fmt.Errorf("it is not started again after %d times in %v", maxRestarts, restartWindow)
	}
	if err := vsockdevice.Configure(d.gofer, vsockDeviceConfig(d.listen)); err != nil {
		return fmt.Errorf("start it again: %w", err)
	}
	c, err := d.start()
	if err != nil {
		return fmt.Errorf("start it again: %w", err)
	}
	if d.logging {
		c.out.startLogging()
	}
	d.child, d.restarts = c, append(d.restarts, time.Now())
	return nil
}

// startLogging passes on what the process writes from now on.
func (d *vsockDevice) startLogging() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.logging = true
	d.child.out.startLogging()
}

// end ends the process, which has nothing to flush, and waits for it.
func (d *vsockDevice) end() {
	d.mu.Lock()
	d.ended = true
	c := d.child
	d.mu.Unlock()
	c.kill()
	<-d.done
}

func (d *vsockDevice) closeFiles() {
	d.socket.Close()
	d.handoff.Close()
}

// status describes the device.
func (d *vsockDevice) status() VsockDevice {
	d.mu.Lock()
	defer d.mu.Unlock()
	s := VsockDevice{Listen: d.listen.String(), Restarts: len(d.restarts), Reason: d.reason}
	if !d.child.exited() {
		s.PID = d.child.pid()
	}
	return s
}
