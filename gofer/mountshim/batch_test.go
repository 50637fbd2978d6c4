// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package mountshim

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// conversation is a server that runs, and our end of its channel.
type conversation struct {
	t      *testing.T
	fd     int
	cmd    *exec.Cmd
	stderr bytes.Buffer
}

// converse starts testdata/batched.c when the requests are already in the channel.
func converse(t *testing.T, lib, server string, env []string, args []string, requests ...string) *conversation {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	c := &conversation{t: t, fd: fds[0]}
	t.Cleanup(func() { unix.Close(c.fd) })
	if err := unix.SetsockoptTimeval(c.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 20}); err != nil {
		t.Fatal(err)
	}
	channel := os.NewFile(uintptr(fds[1]), "channel")
	c.send(requests...)
	c.cmd = exec.Command(server, args...)
	c.cmd.ExtraFiles = []*os.File{5 - 3: channel}
	c.cmd.Env = append([]string{"LD_PRELOAD=" + lib, "FSVA_CHANNEL_FD=5"}, env...)
	c.cmd.Stderr = &c.stderr
	if err := c.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	channel.Close()
	return c
}

func (c *conversation) send(requests ...string) {
	c.t.Helper()
	for _, r := range requests {
		if err := unix.Sendto(c.fd, []byte(r), 0, nil); err != nil {
			c.t.Fatal(err)
		}
	}
}

// receive returns the next n replies, shortened to their first 20 bytes; "" for the end of the channel.
func (c *conversation) receive(n int) (replies []string) {
	c.t.Helper()
	buf := make([]byte, 256<<10)
	for range n {
		got, err := unix.Read(c.fd, buf)
		if err != nil {
			c.t.Fatalf("after %q: %v\n%s", replies, err, c.stderr.String())
		}
		s := string(buf[:got])
		if len(s) > 20 {
			s = fmt.Sprintf("%s… %d", s[:4], len(s))
		}
		replies = append(replies, s)
	}
	return replies
}

// end waits for the server, which must have exited with 0 and said nothing.
func (c *conversation) end() {
	c.t.Helper()
	timer := time.AfterFunc(20*time.Second, func() { c.cmd.Process.Kill() })
	defer timer.Stop()
	if err := c.cmd.Wait(); err != nil || c.stderr.Len() != 0 {
		c.t.Errorf("server: %v: %s", err, c.stderr.String())
	}
}

func numbered(n int) (requests []string) {
	for i := range n {
		requests = append(requests, fmt.Sprintf("request %d", i))
	}
	return requests
}

// TestBatch sends requests in several patterns, and wants the replies of a server that knows nothing of batches.
func TestBatch(t *testing.T) {
	lib := build(t, "cc")
	server := filepath.Join(t.TempDir(), "batched")
	if out, err := exec.Command("cc", "-Wall", "-Werror", "-pthread", "-o", server, "testdata/batched.c").CombinedOutput(); err != nil {
		t.Fatalf("cc: %v\n%s", err, out)
	}
	long := "a" + strings.Repeat("b", 100<<10)
	for _, test := range []struct {
		name     string
		requests []string
		want     []string
	}{
		{"one", []string{"a"}, []string{"a"}},
		{"full batches and a part", numbered(21), numbered(21)},
		{"no reply to some", []string{"n1", "a", "n2", "n3", "b", "n4"}, []string{"a", "b"}},
		{"no reply to any", []string{"n1", "n2"}, nil},
		{"long replies keep their place", []string{"a", "l1", "b", "l2", "c"}, []string{"a", "l1\x00\x00… 65538", "b", "l2\x00\x00… 65538", "c"}},
		{"long request", []string{"a", long, "c"}, []string{"a", "abbb… 102401", "c"}},
		{"ends by itself", []string{"a", "b", "x"}, []string{"a", "b", ""}},
	} {
		for _, env := range [][]string{{"FSVA_BATCH=1"}, nil} {
			t.Run(fmt.Sprint(test.name, env), func(t *testing.T) {
				c := converse(t, lib, server, env, nil, test.requests...)
				if got := c.receive(len(test.want)); !slices.Equal(got, test.want) {
					t.Errorf("got %q, want %q", got, test.want)
				}
				unix.Shutdown(c.fd, unix.SHUT_WR)
				c.end()
			})
		}
	}

	t.Run("in one system call", func(t *testing.T) {
		c := converse(t, lib, server, []string{"FSVA_BATCH=1"}, []string{"nosingle"}, numbered(16)...)
		if got, want := c.receive(16), numbered(16); !slices.Equal(got, want) {
			t.Errorf("got %q, want %q", got, want)
		}
		unix.Shutdown(c.fd, unix.SHUT_WR)
		c.end()
	})
	t.Run("nobody waits for what may come", func(t *testing.T) {
		c := converse(t, lib, server, []string{"FSVA_BATCH=1"}, nil, "a")
		for _, r := range []string{"a", "b", "c"} {
			if got := c.receive(1); got[0] != r {
				t.Errorf("got %q, want %q", got, r)
			}
			c.send(string(r[0] + 1))
		}
		unix.Shutdown(c.fd, unix.SHUT_WR)
		c.receive(1)
		c.end()
	})
	t.Run("another thread", func(t *testing.T) {
		// What the first thread has taken stays with it: the other gets what comes later.
		c := converse(t, lib, server, []string{"FSVA_BATCH=1"}, nil, "t", "a")
		got := c.receive(1)
		c.send("z")
		got = append(got, c.receive(3)...)
		if want := []string{"ready", "z", "t", "a"}; !slices.Equal(got, want) {
			t.Errorf("got %q, want %q", got, want)
		}
		unix.Shutdown(c.fd, unix.SHUT_WR)
		c.end()
	})
}
