// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package fusemount

import (
	"testing"

	"golang.org/x/sys/unix"
)

func TestFindDevice(t *testing.T) {
	const info = `22 1 259:0 / / rw,relatime - ext4 /dev/root rw
30 22 0:50 / /mnt/a\040b rw shared:1 - fuse.fsva unix:/s rw
31 22 0:51 / /mnt/c rw - tmpfs tmpfs rw
32 31 0:52 / /mnt/c rw - fuse.fsva vsock:2:3782 rw
`
	for mountpoint, want := range map[string]string{"/mnt/a b": "0:50", "/mnt/c": "0:52", "/": "259:0", "/mnt": ""} {
		if got, ok := findDevice(info, mountpoint); got != want || ok != (want != "") {
			t.Errorf("%s: %q, %v, want %q", mountpoint, got, ok, want)
		}
	}
}

func TestFlag(t *testing.T) {
	f := uintptr(unix.MS_NOSUID)
	for _, tc := range []struct {
		option string
		want   uintptr
		known  bool
	}{
		{"ro", unix.MS_NOSUID | unix.MS_RDONLY, true},
		{"suid", 0, true},
		{"noauto", unix.MS_NOSUID, true},
		{"x-systemd.automount", unix.MS_NOSUID, true},
		{"frob", unix.MS_NOSUID, false},
	} {
		if got, known := Flag(tc.option, f); got != tc.want || known != tc.known {
			t.Errorf("%s: %#x, %v", tc.option, got, known)
		}
	}
}
