// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

// Package vhosttest plays the VMM and the driver for tests of vhost-user devices: a front end with memory of its own,
// and split virtqueues on it.
//
// Its functions end the test when something fails, so they belong on the test's goroutine, except where they say
// otherwise. A VMM and its queues are not safe for concurrent use; different queues may be used at the same time if
// their buffers are made before.
package vhosttest

import (
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Where the guest's memory is for the guest and for the VMM.
const (
	GuestBase = 0x4000_0000
	UserBase  = 0x7f00_0000_0000
)

// Patience is how long a peer may take before a test fails.
const Patience = 30 * time.Second

// Options are what a VMM can be like. The zero value is usable.
type Options struct {
	// Features are acknowledged; 0 means version 1, indirect descriptors and event index.
	Features uint64
	// MemSize is the size of the guest's memory; 0 means 16 MiB.
	MemSize int
	// Regions is how many regions the memory is sent in; 0 means 1.
	Regions int
	// Unsealed memory can be truncated.
	Unsealed bool
	// Slots sends the memory region by region (ADD_MEM_REG) instead of as a table.
	Slots bool
}

// VMM is a connected front end.
type VMM struct {
	t        testing.TB
	Sock     *net.UnixConn
	Features uint64
	// Mem is the guest's memory, from GuestBase on.
	Mem []byte
	// File is the memfd behind Mem.
	File *os.File
	top  int
}

// DefaultFeatures are version 1, event index and indirect descriptors.
const DefaultFeatures = 1<<32 | 1<<29 | 1<<28

// Dial connects to the back end at path and negotiates. The queues are not started.
func Dial(t testing.TB, path string, o Options) *VMM {
	t.Helper()
	if o.Features == 0 {
		o.Features = DefaultFeatures
	}
	if o.MemSize == 0 {
		o.MemSize = 16 << 20
	}
	if o.Regions == 0 {
		o.Regions = 1
	}
	sock, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	v := &VMM{t: t, Sock: sock, Features: o.Features}
	t.Cleanup(v.Close)
	v.memory(o)

	offered := order.Uint64(v.Ask(reqGetFeatures, nil))
	if o.Features&^offered != 0 {
		t.Fatalf("the device offers %#x, and not %#x", offered, o.Features&^offered)
	}
	const protocol = protocolReplyAck | protocolConfig | protocolMQ | protocolSlots
	if got := order.Uint64(v.Ask(reqGetProtocolFeatures, nil)); got&protocol != protocol {
		t.Fatalf("the back end offers protocol features %#x", got)
	}
	v.Tell(reqSetProtocolFeatures, u64(protocol))
	v.Tell(reqSetOwner, nil)
	v.Tell(reqSetFeatures, u64(o.Features))
	v.SendMemory(o)
	return v
}

func (v *VMM) memory(o Options) {
	v.t.Helper()
	flags := unix.MFD_CLOEXEC | unix.MFD_ALLOW_SEALING
	fd, err := unix.MemfdCreate("guest", flags)
	if err != nil {
		v.t.Fatal(err)
	}
	v.File = os.NewFile(uintptr(fd), "guest")
	if err := v.File.Truncate(int64(o.MemSize)); err != nil {
		v.t.Fatal(err)
	}
	if !o.Unsealed {
		if _, err := unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, unix.F_SEAL_SHRINK|unix.F_SEAL_GROW|unix.F_SEAL_SEAL); err != nil {
			v.t.Fatal(err)
		}
	}
	if v.Mem, err = unix.Mmap(fd, 0, o.MemSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED); err != nil {
		v.t.Fatal(err)
	}
}

// SendMemory sends the memory, in o.Regions regions.
func (v *VMM) SendMemory(o Options) {
	v.t.Helper()
	size := len(v.Mem) / max(o.Regions, 1)
	var table []byte
	var fds []int
	for off := 0; off < len(v.Mem); off += size {
		r := MemRegion(GuestBase+uint64(off), uint64(size), UserBase+uint64(off), uint64(off))
		if o.Slots {
			v.Tell(reqAddMemReg, append(make([]byte, 8), r...), v.fd())
		}
		table = append(table, r...)
		fds = append(fds, v.fd())
	}
	if !o.Slots {
		v.Tell(reqSetMemTable, append(u64(uint64(len(fds))), table...), fds...)
	}
}

func (v *VMM) fd() int {
	// The descriptor stays in blocking mode or not as it is: a memfd has none.
	rc, err := v.File.SyscallConn()
	if err != nil {
		v.t.Fatal(err)
	}
	fd := -1
	if err := rc.Control(func(f uintptr) { fd = int(f) }); err != nil {
		v.t.Fatal(err)
	}
	return fd
}

// Close hangs up and gives back the memory. It may be called more than once.
func (v *VMM) Close() {
	v.Sock.Close()
	if v.Mem != nil {
		if err := unix.Munmap(v.Mem); err != nil {
			v.t.Error(err)
		}
		v.Mem = nil
		v.File.Close()
	}
}

// alloc returns the offset of n bytes of memory.
func (v *VMM) alloc(n, align int) int {
	v.t.Helper()
	off := (v.top + align - 1) &^ (align - 1)
	if off+n > len(v.Mem) {
		v.t.Fatalf("the guest has no %d bytes of memory left", n)
	}
	v.top = off + n
	return off
}

// Requests and protocol features that a test may want to send by itself.
const (
	reqGetFeatures         = 1
	reqSetFeatures         = 2
	reqSetOwner            = 3
	reqSetMemTable         = 5
	reqSetVringNum         = 8
	reqSetVringAddr        = 9
	reqSetVringBase        = 10
	reqGetVringBase        = 11
	reqSetVringKick        = 12
	reqSetVringCall        = 13
	reqSetVringErr         = 14
	reqGetProtocolFeatures = 15
	reqSetProtocolFeatures = 16
	reqSetVringEnable      = 18
	reqGetConfig           = 24
	reqAddMemReg           = 37
	reqRemMemReg           = 38

	protocolMQ       = 1 << 0
	protocolReplyAck = 1 << 3
	protocolConfig   = 1 << 9
	protocolSlots    = 1 << 15

	flagReply     = 0x4
	flagNeedReply = 0x8
)

var order = binary.NativeEndian

func u64(v uint64) []byte { return order.AppendUint64(nil, v) }

func state(index, num uint32) []byte {
	return order.AppendUint32(order.AppendUint32(nil, index), num)
}

// MemRegion returns a memory region as it is in messages.
func MemRegion(guest, size, user, offset uint64) []byte {
	var b []byte
	for _, n := range []uint64{guest, size, user, offset} {
		b = order.AppendUint64(b, n)
	}
	return b
}

// Send sends one request and waits for no answer. It may be called from any goroutine.
func (v *VMM) Send(request, flags uint32, payload []byte, fds ...int) error {
	b := order.AppendUint32(nil, request)
	b = order.AppendUint32(b, 1|flags)
	b = order.AppendUint32(b, uint32(len(payload)))
	var oob []byte
	if len(fds) > 0 {
		oob = unix.UnixRights(fds...)
	}
	_, _, err := v.Sock.WriteMsgUnix(append(b, payload...), oob, nil)
	return err
}

// Receive reads the answer to a request. It may be called from any goroutine.
func (v *VMM) Receive(request uint32) ([]byte, error) {
	if err := v.Sock.SetReadDeadline(time.Now().Add(Patience)); err != nil {
		return nil, err
	}
	var header [12]byte
	if _, err := io.ReadFull(v.Sock, header[:]); err != nil {
		return nil, err
	}
	payload := make([]byte, order.Uint32(header[8:]))
	if _, err := io.ReadFull(v.Sock, payload); err != nil {
		return nil, err
	}
	if order.Uint32(header[0:]) != request || order.Uint32(header[4:]) != 1|flagReply {
		return nil, errors.New("answer to another request, or a request")
	}
	return payload, nil
}

// Ask sends a request that has an answer of its own, and returns that.
func (v *VMM) Ask(request uint32, payload []byte) []byte {
	v.t.Helper()
	if err := v.Send(request, 0, payload); err != nil {
		v.t.Fatalf("request %d: %v", request, err)
	}
	answer, err := v.Receive(request)
	if err != nil {
		v.t.Fatalf("request %d: %v", request, err)
	}
	return answer
}

// Tell sends another request, and waits until it is done if the back end acknowledges requests.
func (v *VMM) Tell(request uint32, payload []byte, fds ...int) {
	v.t.Helper()
	var flags uint32
	switch request {
	case reqSetProtocolFeatures: // acknowledgements are not negotiated yet
	default:
		flags = flagNeedReply
	}
	if err := v.Send(request, flags, payload, fds...); err != nil {
		v.t.Fatalf("request %d: %v", request, err)
	}
	if flags == 0 {
		return
	}
	answer, err := v.Receive(request)
	if err != nil || len(answer) != 8 || order.Uint64(answer) != 0 {
		v.t.Fatalf("request %d: acknowledged with %x, %v", request, answer, err)
	}
}

// Config reads from the configuration space.
func (v *VMM) Config(off, n int) []byte {
	v.t.Helper()
	b := order.AppendUint32(nil, uint32(off))
	b = order.AppendUint32(b, uint32(n))
	b = order.AppendUint32(b, 0)
	answer := v.Ask(reqGetConfig, append(b, make([]byte, n)...))
	if len(answer) != 12+n {
		return nil
	}
	return answer[12:]
}

// WaitHangup returns when the back end has hung up.
func (v *VMM) WaitHangup() {
	v.t.Helper()
	if err := v.Sock.SetReadDeadline(time.Now().Add(Patience)); err != nil {
		v.t.Fatal(err)
	}
	if _, err := io.Copy(io.Discard, v.Sock); err != nil && !errors.Is(err, unix.ECONNRESET) {
		v.t.Fatalf("waiting for the back end to hang up: %v", err)
	}
}
