// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package fusehelper

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestMain lets a test start this binary as the helper.
func TestMain(m *testing.M) {
	if os.Getenv("FSVA_TEST_HELPER") != "" {
		os.Exit(Main(os.Args))
	}
	os.Exit(m.Run())
}

func pair(t *testing.T, kind int) [2]int {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, kind|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fds[0]); unix.Close(fds[1]) })
	return fds
}

// receive takes one byte and one descriptor from a socket, as libfuse does.
func receive(t *testing.T, fd int) int {
	t.Helper()
	data, oob := make([]byte, 4), make([]byte, unix.CmsgSpace(4))
	n, oobn, _, _, err := unix.Recvmsg(fd, data, oob, unix.MSG_CMSG_CLOEXEC)
	if err != nil || n != 1 {
		t.Fatalf("recvmsg: got %d bytes, %v, want 1", n, err)
	}
	cmsgs, err := unix.ParseSocketControlMessage(oob[:oobn])
	if err != nil || len(cmsgs) != 1 {
		t.Fatalf("control messages: got %v, %v, want one", cmsgs, err)
	}
	fds, err := unix.ParseUnixRights(&cmsgs[0])
	if err != nil || len(fds) != 1 {
		t.Fatalf("descriptors: got %v, %v, want one", fds, err)
	}
	t.Cleanup(func() { unix.Close(fds[0]) })
	return fds[0]
}

// TestSendsTheChannel checks that what arrives is the channel itself, however the socket is named.
func TestSendsTheChannel(t *testing.T) {
	for _, tc := range []struct {
		name string
		args func(comm int) []string
		env  bool
	}{
		{"environment, as libfuse 2", func(int) []string {
			return []string{"/bin/fusermount", "-o", "rw,nosuid,fsname=a b", "--", "/volume"}
		}, true},
		{"environment, as bazil and go-fuse", func(int) []string { return []string{"fusermount3", "/volume", "-o", "subtype=x"} }, true},
		{"auto unmount", func(int) []string { return []string{"fusermount3", "--auto-unmount", "--", "/volume"} }, true},
		{"option", func(c int) []string { return []string{"fusermount3", "--comm-fd", strconv.Itoa(c), "/volume"} }, false},
		{"option with =", func(c int) []string { return []string{"fusermount3", "--comm-fd=" + strconv.Itoa(c), "/volume"} }, false},
		{"short option", func(c int) []string { return []string{"fusermount3", "-qc" + strconv.Itoa(c), "/volume"} }, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			comm, channel := pair(t, unix.SOCK_STREAM), pair(t, unix.SOCK_SEQPACKET)
			env := map[string]string{ChannelEnv: strconv.Itoa(channel[1])}
			if tc.env {
				env[CommEnv] = strconv.Itoa(comm[1])
			}
			var stdout, stderr bytes.Buffer
			if status := run(tc.args(comm[1]), func(k string) string { return env[k] }, &stdout, &stderr); status != 0 {
				t.Fatalf("status: got %d, want 0; stderr %q", status, stderr.String())
			}
			got := receive(t, comm[0])
			if _, err := unix.Write(got, []byte("hello")); err != nil {
				t.Fatal(err)
			}
			buf := make([]byte, 16)
			if n, err := unix.Read(channel[0], buf); err != nil || string(buf[:n]) != "hello" {
				t.Errorf("other end of the channel: got %q, %v, want hello", buf[:n], err)
			}
			if stdout.Len()+stderr.Len() != 0 {
				t.Errorf("output: got %q %q, want none", stdout.String(), stderr.String())
			}
		})
	}
}

// TestAsProcess starts the helper as a library does, with the channel at its usual descriptor.
func TestAsProcess(t *testing.T) {
	comm, channel := pair(t, unix.SOCK_STREAM), pair(t, unix.SOCK_SEQPACKET)
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	extra := make([]*os.File, defaultChannel-2)
	dup := func(fd int) *os.File {
		n, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		f := os.NewFile(uintptr(n), "dup")
		t.Cleanup(func() { f.Close() })
		return f
	}
	extra[0], extra[len(extra)-1] = dup(comm[1]), dup(channel[1])
	cmd := exec.Command(exe, "--", "/volume")
	cmd.Env = []string{"FSVA_TEST_HELPER=1", CommEnv + "=3"}
	cmd.ExtraFiles = extra
	if out, err := cmd.CombinedOutput(); err != nil || len(out) != 0 {
		t.Fatalf("helper: %v, output %q", err, out)
	}
	receive(t, comm[0])
}

func TestStatusAndOutput(t *testing.T) {
	comm := pair(t, unix.SOCK_STREAM)
	for _, tc := range []struct {
		args   string
		env    map[string]string
		status int
		stdout string
		stderr string
	}{
		{args: "fusermount -u /volume"},
		{args: "fusermount -q -u -z -- /volume"},
		{args: "fusermount3 -uzq /volume"},
		{args: "fusermount3 --unmount --lazy --quiet /volume"},
		{args: "fusermount3 --version", stdout: "fusermount3 version: " + version + "\n"},
		{args: "/bin/fusermount -V", stdout: "fusermount version: " + version + "\n"},
		{args: "fusermount3 -h", stdout: "usage: fusermount3 [-u] [-z] [-q] [-o OPTIONS] MOUNTPOINT\nIt hands the FUSE channel of this appliance to the caller; nothing is mounted.\n"},
		{args: "fusermount3", status: 1, stderr: "fusermount3: the mountpoint is missing\n"},
		{args: "fusermount3 /volume", status: 1, stderr: "fusermount3: _FUSE_COMMFD is not set: only a FUSE library can use this program\n"},
		{args: "fusermount3 /volume", env: map[string]string{CommEnv: "x"}, status: 1, stderr: "fusermount3: _FUSE_COMMFD is \"x\", not a descriptor\n"},
		{args: "fusermount3 /volume", env: map[string]string{CommEnv: "-1"}, status: 1, stderr: "fusermount3: _FUSE_COMMFD is \"-1\", not a descriptor\n"},
		{args: "fusermount3 /volume", env: map[string]string{CommEnv: strconv.Itoa(comm[0]), ChannelEnv: "99999"}, status: 1, stderr: "fusermount3: the FUSE channel, descriptor 99999, was not inherited: bad file descriptor\n"},
		{args: "fusermount3 /volume", env: map[string]string{CommEnv: "99999", ChannelEnv: strconv.Itoa(comm[0])}, status: 1, stderr: "fusermount3: send the FUSE channel over descriptor 99999: bad file descriptor\n"},
		{args: "fusermount3 -o", status: 1, stderr: "fusermount3: -o needs a value\n"},
		{args: "fusermount3 --comm-fd", status: 1, stderr: "fusermount3: --comm-fd needs a value\n"},
		{args: "fusermount3 -x /volume", status: 1, stderr: "fusermount3: unknown option -x\n"},
		{args: "fusermount3 --what /volume", status: 1, stderr: "fusermount3: unknown option --what\n"},
		{args: "fusermount3 /a /b", status: 1, stderr: "fusermount3: extra argument \"/b\"\n"},
	} {
		t.Run(fmt.Sprint(tc.args, tc.env), func(t *testing.T) {
			var stdout, stderr bytes.Buffer
			status := run(strings.Fields(tc.args), func(k string) string { return tc.env[k] }, &stdout, &stderr)
			if status != tc.status || stdout.String() != tc.stdout || stderr.String() != tc.stderr {
				t.Errorf("got %d, %q, %q, want %d, %q, %q", status, stdout.String(), stderr.String(), tc.status, tc.stdout, tc.stderr)
			}
		})
	}
}
