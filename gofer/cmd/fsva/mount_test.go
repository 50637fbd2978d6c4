// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"fsva/gofer/appliance"
)

func TestMountHelperArgs(t *testing.T) {
	for _, tc := range []struct {
		args []string
		want []string
		done bool
		fail bool
	}{
		{args: []string{"unix:/s", "/m"}, want: []string{"mount", "unix:/s", "/m"}},
		{args: []string{"vsock:2:3782", "/m", "-o", "rw,noatime"}, want: []string{"mount", "-o", "rw,noatime", "vsock:2:3782", "/m"}},
		{args: []string{"-n", "-v", "unix:/s", "/m", "-t", "fuse.fsva", "-r"}, want: []string{"mount", "-o", "ro", "unix:/s", "/m"}},
		{args: []string{"unix:/s", "/m", "-sf"}, want: []string{"mount", "unix:/s", "/m"}, done: true},
		{args: []string{"unix:/s", "/m", "-o"}, fail: true},
		{args: []string{"unix:/s", "/m", "-N", "/proc/1/ns/mnt"}, fail: true},
		{args: []string{"unix:/s", "/m", "--bind"}, fail: true},
	} {
		got, done, err := mountHelperArgs(append([]string{"/sbin/mount.fuse.fsva"}, tc.args...))
		if (err != nil) != tc.fail {
			t.Errorf("%q: error %v", tc.args, err)
		} else if !tc.fail && (!slices.Equal(got, tc.want) || done != tc.done) {
			t.Errorf("%q: %q, %v, want %q, %v", tc.args, got, done, tc.want, tc.done)
		}
	}
}

func TestParseMountOptions(t *testing.T) {
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, []byte("abc\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	o, err := parseMountOptions([]string{"ro,suid,noauto,_netdev,x-systemd.automount", "volume=v,secret-file=" + secret + ",patience=5s,retry=1m,nowindow,log-file=/l"})
	if err != nil {
		t.Fatal(err)
	}
	if !o.mount.ReadOnly || !o.relay.ReadOnly || o.mount.Flags != unix.MS_RDONLY|unix.MS_NODEV {
		t.Errorf("mount: %+v", o.mount)
	}
	if o.relay.Volume != "v" || string(o.relay.Secret) != "abc" || o.relay.Patience != 5*time.Second || o.retry != time.Minute || !o.noWindow || o.logFile != "/l" {
		t.Errorf("%+v", o)
	}
	if o, err := parseMountOptions(nil); err != nil || o.mount.Flags != unix.MS_NOSUID|unix.MS_NODEV || o.mount.ReadOnly {
		t.Errorf("no options: %+v, %v", o, err)
	}
	for _, bad := range []string{"frob", "patience=long", "retry", "secret-file=/nonexistent", "log-level=loud", "log-file"} {
		var usage usageError
		if _, err := parseMountOptions([]string{bad}); !errors.As(err, &usage) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

// Only what a kernel has in its cache is known to outlive the processes of a volume.
func TestKeepsWrites(t *testing.T) {
	for name, want := range map[string]bool{"dir": true, "vm": true, "mem": false, "bindfs": false, "sshfs": false, "ext4": false} {
		m, err := appliance.Load(name)
		if err != nil {
			t.Fatal(err)
		}
		p := appliance.Plan{InProcess: m.InProcess, Isolation: m.Isolation}
		if got := volumeConfig(p, 1000).Gofer.KeepsWrites; got != want {
			t.Errorf("%s: %v", name, got)
		}
	}
}
