// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package volumeplugin

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// process names one for good: its id is used again, but not with this time.
type process struct {
	PID   int    `json:"pid,omitempty"`   // 0 when it is not known
	Start uint64 `json:"start,omitempty"` // clock ticks since boot
}

// caller is who makes a request.
type caller struct {
	process
	request context.Context // ends with the connection; nil before there is one
}

// callerKey is the context's key for a caller.
type callerKey struct{}

func callerOf(ctx context.Context) caller {
	c, _ := ctx.Value(callerKey{}).(caller) // none in a test
	return c
}

// gone reports whether nobody waits for the answer any more.
func (c caller) gone() bool { return c.request != nil && c.request.Err() != nil }

// withPeer notes who is at the other end of a connection (http.Server.ConnContext).
func withPeer(ctx context.Context, conn net.Conn) context.Context {
	return context.WithValue(ctx, callerKey{}, caller{process: peer(conn)})
}

// peer returns the process that has connected, as far as it can be seen from here.
func peer(conn net.Conn) process {
	u, ok := conn.(*net.UnixConn)
	if !ok {
		return process{}
	}
	raw, err := u.SyscallConn()
	if err != nil {
		return process{}
	}
	var cred *unix.Ucred
	var cerr error
	if err := raw.Control(func(fd uintptr) { cred, cerr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) }); err != nil || cerr != nil || cred.Pid <= 0 {
		return process{}
	}
	start, ok := startTime(int(cred.Pid))
	if !ok {
		return process{}
	}
	return process{PID: int(cred.Pid), Start: start}
}

// alive reports whether the process has not ended, or is not known.
func (p process) alive() bool {
	if p.PID == 0 {
		return true
	}
	start, ok := startTime(p.PID)
	return ok && start == p.Start
}

// startTime returns when a process started; ok is false when it has ended.
func startTime(pid int) (start uint64, ok bool) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, false
	}
	// The second field is a name in parentheses, with any bytes. The others follow it,
	// the state first and the time as the 22nd of all.
	fields := bytes.Fields(b[bytes.LastIndexByte(b, ')')+1:])
	if len(fields) < 20 || fields[0][0] == 'Z' || fields[0][0] == 'X' {
		return 0, false
	}
	start, err = strconv.ParseUint(string(fields[19]), 10, 64)
	return start, err == nil
}
