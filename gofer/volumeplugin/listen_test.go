// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package volumeplugin

import (
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// childEnv makes the test binary be what systemd starts.
const childEnv = "FSVA_TEST_INHERITED"

func TestMain(m *testing.M) {
	if os.Getenv(childEnv) != "" {
		inheritedChild()
		return
	}
	os.Exit(m.Run())
}

// inheritedChild answers one connection on the socket that was passed, or says why not.
func inheritedChild() {
	l, err := Inherited()
	if err != nil || l == nil {
		fmt.Print(l, err)
		return
	}
	c, err := l.Accept()
	if err == nil {
		_, err = io.WriteString(c, "hello"+os.Getenv("LISTEN_FDS")+os.Getenv("LISTEN_PID"))
		c.Close()
	}
	fmt.Print(err)
}

// runChild starts the child with a descriptor 3, by a shell that knows the id which the child will have.
func runChild(t *testing.T, environ string, fd *os.File) (output func() string) {
	t.Helper()
	cmd := exec.Command("sh", "-c", environ+` exec "$0"`, os.Args[0])
	cmd.Env = append(os.Environ(), childEnv+"=1")
	cmd.ExtraFiles = []*os.File{fd}
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return func() string {
		if err := cmd.Wait(); err != nil {
			t.Errorf("%v: %s", err, out.String())
		}
		return out.String()
	}
}

func TestInherited(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	f, err := l.(*net.UnixListener).File()
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	output := runChild(t, "LISTEN_FDS=1 LISTEN_PID=$$", f)
	c, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if b, err := io.ReadAll(c); err != nil || string(b) != "hello" {
		t.Errorf("from the child: %q, %v", b, err)
	}
	if got := output(); got != "<nil>" {
		t.Errorf("the child: %s", got)
	}
	// What is not for this process, or not what a plugin has.
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	tcp, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer tcp.Close()
	tcpFile, err := tcp.(*net.TCPListener).File()
	if err != nil {
		t.Fatal(err)
	}
	defer tcpFile.Close()
	for _, tc := range []struct {
		environ, want string
		fd            *os.File
	}{
		{"", "<nil> <nil>", f},
		{"LISTEN_FDS=1 LISTEN_PID=1", "<nil> <nil>", f},
		{"LISTEN_FDS=0 LISTEN_PID=$$", "<nil> <nil>", f},
		{"LISTEN_FDS=2 LISTEN_PID=$$", "2 sockets", f},
		{"LISTEN_FDS=x LISTEN_PID=$$", "no number", f},
		{"LISTEN_FDS=1 LISTEN_PID=$$", "the socket from the service manager", null},
		{"LISTEN_FDS=1 LISTEN_PID=$$", "of tcp, not of unix", tcpFile},
	} {
		if got := runChild(t, tc.environ, tc.fd)(); !strings.Contains(got, tc.want) {
			t.Errorf("%s with %s: %q does not say %q", tc.environ, tc.fd.Name(), got, tc.want)
		}
	}
}
