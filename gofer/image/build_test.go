// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package image

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestBuildError(t *testing.T) {
	r := Recipe{Name: "x", Suite: "bookworm", Packages: []string{"nosuch"}}
	for _, tc := range []struct{ said, want string }{
		{"Reading package lists...\nE: Unable to locate package nosuch\nE: apt download failed", `Debian bookworm has no package "nosuch"`},
		{"E: Package 'nosuch' has no installation candidate", `Debian bookworm has no package "nosuch"`},
		{"E: The repository 'http://deb.debian.org/debian bookwurm Release' does not have a Release file.", `there is no Debian release "bookworm" (http://deb.debian.org/debian bookwurm Release)`},
		{"E: Failed to fetch http://d/InRelease  Could not connect to 127.0.0.1:9 (127.0.0.1).\nE: Some", "cannot fetch http://d/InRelease: Could not connect to 127.0.0.1:9 (127.0.0.1)."},
		{"E: Sub-process failed\ntar: write: No space left on device", "no space left on device"},
		{"E: You don't have enough free space in /var/cache/apt/archives/.", "no space left on device"},
		{"W: a warning\nE: something else", "mmdebstrap: something else"},
		{"W: a warning", "mmdebstrap: exit"},
	} {
		var steps []string
		said, full := readOutput(strings.NewReader("I: running apt-get update...\n"+tc.said), func(s string) { steps = append(steps, s) }, func() bool { return false })
		if full {
			t.Errorf("%q: the disk is full", tc.said)
		}
		if got := buildError(r, said, errors.New("exit")).Error(); got != tc.want {
			t.Errorf("\ngot  %s\nwant %s", got, tc.want)
		}
		if !slices.Equal(steps, []string{"reading package lists"}) {
			t.Errorf("steps: %q", steps)
		}
	}
}

// TestOutputOfFullDisk: the disk is looked at when something is said to be wrong, and not later.
func TestOutputOfFullDisk(t *testing.T) {
	looks := 0
	_, full := readOutput(strings.NewReader("I: fine\nE: odd\nE: odder\nI: cleaning\n"), quiet, func() bool { looks++; return looks == 1 })
	if !full || looks != 1 {
		t.Errorf("full %v after %d looks", full, looks)
	}
}

func TestNoRoom(t *testing.T) {
	dir := smallDisk(t, "size=1m,nr_inodes=4")
	if noRoomIn(dir) {
		t.Error("an empty one is full")
	}
	if err := os.WriteFile(dir+"/big", make([]byte, 1<<20-littleRoom/2), 0o600); err != nil {
		t.Fatal(err)
	}
	if !noRoomIn(dir) {
		t.Error("one with few bytes is not full")
	}
	if err := os.Truncate(dir+"/big", 0); err != nil {
		t.Fatal(err)
	}
	for i := 0; ; i++ {
		err := os.Mkdir(fmt.Sprintf("%s/%d", dir, i), 0o700)
		if errors.Is(err, unix.ENOSPC) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if !noRoomIn(dir) {
		t.Error("one without inodes is not full")
	}
	if noRoomIn(dir + "/none") {
		t.Error("a missing one is full")
	}
}

func TestPackageNames(t *testing.T) {
	got := packageNames("zlib1g_1%3a1.2.13.dfsg-1_amd64.deb\nlock\npartial\nlibc6_2.36-9+deb12u14_amd64.deb\n")
	if want := []string{"libc6=2.36-9+deb12u14", "zlib1g=1:1.2.13.dfsg-1"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

// TestRewrite: nothing of the machine and the moment stays, licenses do, and what scripts would have made is there.
func TestRewrite(t *testing.T) {
	in := tarOf(t,
		dir("./"), dir("./etc"), file("./etc/hostname", "secret"), file("./etc/resolv.conf", "nameserver 1"), file("./etc/fuse.conf", "kept"),
		entry{name: "./dev/null", kind: tar.TypeChar}, dir("./tmp"), file("./var/lib/dpkg/status", "x"), file("./var/lib/apt/lists/x", "x"),
		dir("./usr/share/doc/p"), file("./usr/share/doc/p/copyright", "law"), file("./usr/share/doc/p/changelog.gz", "x"), file("./usr/share/man/m", "x"),
		file("./usr/share/ca-certificates/mozilla/A.crt", "A\n"), file("./usr/share/ca-certificates/mozilla/B.crt", "B\n"),
		entry{name: "./usr/bin/server", kind: tar.TypeReg, mode: 0o755, body: "#!"}, symlink("./lib", "usr/lib"))
	var out bytes.Buffer
	if err := rewrite(bytes.NewReader(in), &out); err != nil {
		t.Fatal(err)
	}
	base := t.TempDir()
	if err := unpack(t, base, DefaultLimits, out.Bytes()); err != nil {
		t.Fatal(err)
	}
	want := strings.Join([]string{
		"etc/", "etc/fuse.conf=kept", "etc/group=" + written["etc/group"], "etc/hosts=" + written["etc/hosts"], "etc/nsswitch.conf=" + written["etc/nsswitch.conf"],
		"etc/passwd=" + written["etc/passwd"], "etc/resolv.conf=", "etc/ssl/", "etc/ssl/certs/", "etc/ssl/certs/ca-certificates.crt=A\nB\n", "lib->usr/lib",
		"usr/", "usr/bin/", "usr/bin/server=#!", "usr/share/", "usr/share/ca-certificates/", "usr/share/ca-certificates/mozilla/",
		"usr/share/ca-certificates/mozilla/A.crt=A\n", "usr/share/ca-certificates/mozilla/B.crt=B\n", "usr/share/doc/", "usr/share/doc/p/", "usr/share/doc/p/copyright=law",
	}, " ")
	if got := tree(t, base+"/root"); got != want {
		t.Errorf("\ngot  %q\nwant %q", got, want)
	}
	r := tar.NewReader(&out)
	for {
		h, err := r.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if h.ModTime.Unix() != 0 || h.Uname != "" || h.Gname != "" {
			t.Errorf("%s: %v, %q, %q", h.Name, h.ModTime, h.Uname, h.Gname)
		}
	}
}

func TestRecipe(t *testing.T) {
	a, b := Recipe{Suite: "s", Packages: []string{"x", "y"}}, Recipe{Suite: "s", Packages: []string{"y", "x"}}
	if a.text() != b.text() {
		t.Errorf("%q and %q", a.text(), b.text())
	}
}
