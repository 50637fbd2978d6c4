// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package mountshim

import (
	"debug/elf"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"
)

// build makes libfsvamount.so in a directory of the test.
func build(t *testing.T, cc string) string {
	t.Helper()
	if _, err := exec.LookPath(cc); err != nil {
		t.Skipf("%s is not installed", cc)
	}
	lib := filepath.Join(t.TempDir(), "libfsvamount.so")
	cmd := exec.Command("./build.sh", lib)
	cmd.Env = append(os.Environ(), "CC="+cc)
	if out, err := cmd.CombinedOutput(); err != nil || len(out) != 0 {
		t.Fatalf("build.sh: %v\n%s", err, out)
	}
	return lib
}

// TestServerGetsTheChannel compiles a program that mounts as FUSE servers do and runs it with the library preloaded: with
// the machine's C library, and with musl where its compiler is installed.
func TestServerGetsTheChannel(t *testing.T) {
	lib := build(t, "cc")
	for _, cc := range []string{"cc", "musl-gcc"} {
		if _, err := exec.LookPath(cc); err != nil && cc != "cc" {
			continue
		}
		t.Run(cc, func(t *testing.T) {
			server := filepath.Join(t.TempDir(), "server")
			if out, err := exec.Command(cc, "-Wall", "-Werror", "-o", server, "testdata/server.c").CombinedOutput(); err != nil {
				t.Fatalf("%s: %v\n%s", cc, err, out)
			}
			runServer(t, lib, server)
		})
	}
}

func runServer(t *testing.T, lib, server string) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	channel, other := os.NewFile(uintptr(fds[0]), "channel"), os.NewFile(uintptr(fds[1]), "other")
	defer channel.Close()
	defer other.Close()
	for _, channelFD := range []int{100, 7} {
		cmd := exec.Command(server, os.DevNull, "5")
		cmd.ExtraFiles = make([]*os.File, channelFD-2)
		cmd.ExtraFiles[5-3], cmd.ExtraFiles[channelFD-3] = other, channel
		cmd.Env = []string{"LD_PRELOAD=" + lib, "FSVA_MOUNTPOINT=/other"}
		if channelFD != 100 {
			cmd.Env = append(cmd.Env, "FSVA_CHANNEL_FD="+strconv.Itoa(channelFD))
		}
		if out, err := cmd.CombinedOutput(); err != nil || len(out) != 0 {
			t.Errorf("channel at %d: %v, these checks did not hold:\n%s", channelFD, err, out)
		}
	}
}

// TestNeedsNoLibrary checks that the file can be loaded beside any C library.
func TestNeedsNoLibrary(t *testing.T) {
	f, err := elf.Open(build(t, "cc"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if libs, err := f.ImportedLibraries(); err != nil || len(libs) != 0 {
		t.Errorf("libraries: got %q, %v, want none", libs, err)
	}
	symbols, err := f.DynamicSymbols()
	if err != nil {
		t.Fatal(err)
	}
	exported := map[string]bool{}
	for _, s := range symbols {
		switch {
		case s.Section != elf.SHN_UNDEF:
			exported[s.Name] = true
		case elf.ST_BIND(s.Info) != elf.STB_WEAK:
			t.Errorf("symbol %s must come from another library", s.Name)
		}
	}
	for _, name := range []string{"mount", "umount", "umount2", "fuse_daemonize", "statx", "read", "writev"} {
		if !exported[name] {
			t.Errorf("%s is not exported", name)
		}
	}
	if len(exported) != 7 {
		t.Errorf("exported: got %v, want these and no others", exported)
	}
}
