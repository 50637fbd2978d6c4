// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package supervisor

import (
	"encoding/binary"
	"errors"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"fsva/gofer/attach"
	"fsva/gofer/listen"
	"fsva/gofer/window"
)

// waitStatus polls until the volume is as ok says: other processes notice what
// happens.
func (r *running) waitStatus(t *testing.T, what string, ok func(Status) bool) Status {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		s, err := Stat(t.Context(), r.cfg.Dirs, r.cfg.Info.Name)
		if err != nil {
			t.Fatal(err)
		}
		if ok(s) {
			return s
		}
		if time.Now().After(deadline) {
			t.Fatalf("not %s: %+v, gofer %+v", what, s, s.Gofer)
		}
	}
}

// hypervisor connects to a volume's socket for windows as QEMU does, and returns
// the connection when it has got the memory.
func hypervisor(t *testing.T, path string) *net.UnixConn {
	t.Helper()
	conn, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	for _, want := range []int64{0, 0, -1} {
		b, oob := make([]byte, 8), make([]byte, unix.CmsgSpace(4))
		n, oobn, _, _, err := conn.ReadMsgUnix(b, oob)
		if err != nil || n != 8 || int64(binary.LittleEndian.Uint64(b)) != want || (oobn > 0) != (want < 0) {
			t.Fatalf("%x with %d bytes of control data, %v, want %d", b[:n], oobn, err, want)
		}
		if oobn == 0 {
			continue
		}
		msgs, err := unix.ParseSocketControlMessage(oob[:oobn])
		if err != nil {
			t.Fatal(err)
		}
		fds, err := unix.ParseUnixRights(&msgs[0])
		if err != nil {
			t.Fatal(err)
		}
		unix.Close(fds[0])
	}
	return conn
}

// A gofer that dies is replaced: with the same sockets and windows, and a new FS
// server.
func TestGoferIsStartedAgain(t *testing.T) {
	for _, isolation := range isolations {
		t.Run(isolation, func(t *testing.T) {
			c := newTestConfig(t, isolation, "serve")
			dir := t.TempDir()
			for _, text := range []string{"unix:" + dir + "/unix", "virtiofs:" + dir + "/virtiofs"} {
				l, err := listen.Parse(text)
				if err != nil {
					t.Fatal(err)
				}
				c.Listen = append(c.Listen, l)
			}
			c.Window = WindowConfig{Size: window.MinSize, Path: filepath.Join(dir, "window")}
			r := serve(t, c)
			vm := hypervisor(t, c.Window.Path)
			before := r.waitStatus(t, "with a window", func(s Status) bool {
				return s.Gofer != nil && s.Gofer.Windows == 1 && s.Gofer.Guests == len(c.Listen)
			})
			if before.Restarts != 0 {
				t.Errorf("%d restarts", before.Restarts)
			}
			if err := unix.Kill(before.GoferPID, unix.SIGKILL); err != nil {
				t.Fatal(err)
			}
			after := r.waitStatus(t, "ready again", func(s Status) bool { return s.Restarts == 1 && s.State == Serving && s.Gofer != nil })
			if after.GoferPID == before.GoferPID || isolation != IsolationNone && (after.ServerPID == 0 || after.ServerPID == before.ServerPID) {
				t.Errorf("gofer %d, FS server %d, before %d and %d", after.GoferPID, after.ServerPID, before.GoferPID, before.ServerPID)
			}
			if after.GuestRequests["LOOKUP"].Requests != 2 {
				t.Errorf("requests of guests: %+v", after.GuestRequests)
			}
			if after.Reason != "" || after.Gofer.Windows != 1 || after.Gofer.Guests != len(c.Listen) {
				t.Errorf("after the restart: %+v, gofer %+v", after, after.Gofer)
			}
			for _, path := range []string{dir + "/unix", dir + "/virtiofs", filepath.Join(c.Dirs.Volume("vol"), attach.SocketName)} {
				conn, err := net.Dial("unix", path)
				if err != nil {
					t.Error(err)
					continue
				}
				conn.Close()
			}
			vm.Close()
			r.waitStatus(t, "without windows", func(s Status) bool { return s.Gofer != nil && s.Gofer.Windows == 0 })
			if err := Stop(t.Context(), c.Dirs, "vol", false); err != nil {
				t.Fatal(err)
			}
			if err := r.wait(t); err != nil {
				t.Error(err)
			}
			left, err := os.ReadDir(dir)
			if err != nil || len(left) != 0 {
				t.Errorf("sockets left behind: %v, %v", left, err)
			}
		})
	}
}

func TestStopDuringRestart(t *testing.T) {
	c := newTestConfig(t, IsolationProcess, "serve")
	r := serve(t, c)
	pid := r.waitState(t, Serving).GoferPID
	if err := unix.Kill(pid, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	r.waitStatus(t, "restarting", func(s Status) bool { return s.Restarts > 0 })
	if err := Stop(t.Context(), c.Dirs, "vol", false); err != nil {
		t.Fatal(err)
	}
	if err := r.wait(t); err != nil {
		t.Error(err)
	}
}

func TestListenFailures(t *testing.T) {
	c := newTestConfig(t, IsolationNone, "")
	dir := t.TempDir()
	taken := filepath.Join(dir, "taken")
	if err := os.WriteFile(taken, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	first := listen.Spec{Kind: "unix", Path: filepath.Join(dir, "first")}
	c.Listen = []listen.Spec{first, {Kind: "unix", Path: taken}}
	r, _ := begin(t, c)
	if err := r.wait(t); !errors.Is(err, unix.EADDRINUSE) {
		t.Errorf("Serve: %v", err)
	}
	if b, err := os.ReadFile(taken); err != nil || string(b) != "precious" {
		t.Errorf("the file in the way: %q, %v", b, err)
	}
	if _, err := os.Lstat(first.Path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the first socket: %v", err)
	}
	c.Listen = nil
	c.Window = WindowConfig{Size: 12345, Path: filepath.Join(dir, "window")}
	r, _ = begin(t, c)
	if err := r.wait(t); err == nil {
		t.Error("served with windows of an odd size")
	}
}
