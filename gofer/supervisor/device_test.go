// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package supervisor

import (
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"fsva/gofer/listen"
)

// The process of a vsock device that dies is replaced by one on the same socket; one
// that dies too often is not, and the volume says so and goes on.
func TestVsockDeviceIsStartedAgain(t *testing.T) {
	c := newTestConfig(t, IsolationNone, "serve")
	path := filepath.Join(t.TempDir(), "sock")
	l, err := listen.Parse("vhost-user-vsock:" + path + ",cid=7")
	if err != nil {
		t.Fatal(err)
	}
	c.Listen = []listen.Spec{l}
	r := serve(t, c)

	pid := 0
	for restarts := range maxRestarts + 1 {
		s := r.waitStatus(t, "with another device", func(s Status) bool {
			return len(s.VsockDevices) == 1 && s.VsockDevices[0].PID != 0 && s.VsockDevices[0].Restarts == restarts
		})
		d := s.VsockDevices[0]
		if d.PID == pid || d.Listen != l.String() || d.Reason != "" || s.Reason != "" || s.State != Serving || s.Restarts != 0 {
			t.Errorf("after %d restarts: %+v", restarts, s)
		}
		conn, err := net.Dial("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		told, err := io.ReadAll(conn)
		conn.Close()
		if want := `{"cid":7,"port":3782}`; err != nil || string(told) != want {
			t.Errorf("after %d restarts: the device was told %s, %v, want %s", restarts, told, err, want)
		}
		pid = d.PID
		if err := unix.Kill(pid, unix.SIGKILL); err != nil {
			t.Fatal(err)
		}
	}
	s := r.waitStatus(t, "without the device", func(s Status) bool { return s.VsockDevices[0].Reason != "" })
	if d := s.VsockDevices[0]; d.PID != 0 || d.Restarts != maxRestarts || !strings.Contains(d.Reason, "SIGKILL") || !strings.Contains(d.Reason, "not started again") {
		t.Errorf("%+v", d)
	}
	if s.State != Serving || !strings.HasPrefix(s.StateText(), "ready: no guests on "+l.String()+": vsock device was killed") {
		t.Errorf("state: %s", s.StateText())
	}
	if conn, err := net.Dial("unix", path); !errors.Is(err, unix.ECONNREFUSED) {
		t.Errorf("connect to a device that is gone: %v, %v", conn, err)
	}
	if err := Stop(t.Context(), c.Dirs, "vol", false); err != nil {
		t.Fatal(err)
	}
	if err := r.wait(t); err != nil {
		t.Error(err)
	}
	if _, err := os.Lstat(path); !os.IsNotExist(err) {
		t.Errorf("the socket is left: %v", err)
	}
}
