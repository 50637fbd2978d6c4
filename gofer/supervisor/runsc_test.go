// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package supervisor

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"fsva/gofer/fsserver"
)

func TestCheckVersion(t *testing.T) {
	for _, tc := range []struct{ out, want string }{
		{"runsc version release-20260105.0\nspec: 1.1.0\n", ""},
		{"runsc version release-20250512.0-12-gabcdef\n", ""},
		{"runsc version 0.0.0-20260905035102-160fafc42237+fsva\n", ""},
		{"runsc version VERSION_MISSING\nspec: 1.2.1\n", ""},
		{"runsc version release-20240807.0\n", "release-20240807.0 is too old"},
		{"runc version 1.1.5\n", "not a runsc"},
		{"", "not a runsc"},
		{"\x1b[2J", `not a runsc: --version says "?[2J"`},
	} {
		err := checkVersion(tc.out)
		if tc.want == "" && err != nil || tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want)) {
			t.Errorf("checkVersion(%q) = %v, want %q", tc.out, err, tc.want)
		}
	}
}

// fakeRunsc is a shell script in place of runsc.
func fakeRunsc(t *testing.T, script string) string {
	t.Helper()
	p := filepath.Join(t.TempDir(), "runsc")
	if err := os.WriteFile(p, []byte("#!/bin/sh\n"+script+"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	return p
}

func TestCheckRunsc(t *testing.T) {
	const good = "echo runsc version release-20260105.0"
	for _, tc := range []struct{ name, script, want string }{
		{"good", good + "; echo '  -pass-fd value'", ""},
		{"no pass-fd", good, "too old: it does not know --pass-fd"},
		{"old", "echo runsc version release-20230105.0", "too old"},
		{"fails", "echo cannot run here >&2; exit 3", "exit status 3: cannot run here"},
		{"chatty", "head -c 10000000 /dev/zero", "not a runsc"},
	} {
		err := checkRunsc(t.Context(), fakeRunsc(t, tc.script))
		if tc.want == "" && err != nil || tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want)) {
			t.Errorf("%s: got %v, want %q", tc.name, err, tc.want)
		} else if err != nil && strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: more than one line: %q", tc.name, err)
		}
	}
}

func TestFindRunsc(t *testing.T) {
	p := fakeRunsc(t, "")
	t.Setenv("FSVA_RUNSC", p)
	if got, err := FindRunsc(); err != nil || got != p {
		t.Errorf("FSVA_RUNSC: got %q, %v", got, err)
	}
	t.Setenv("FSVA_RUNSC", p+"x")
	if got, err := FindRunsc(); err == nil || !strings.Contains(err.Error(), "FSVA_RUNSC") {
		t.Errorf("wrong FSVA_RUNSC: got %q, %v", got, err)
	}
	t.Setenv("FSVA_RUNSC", "")
	t.Setenv("PATH", filepath.Dir(p))
	if got, err := FindRunsc(); err != nil || got != p {
		t.Errorf("PATH: got %q, %v", got, err)
	}
	t.Setenv("PATH", t.TempDir())
	if got, err := FindRunsc(); err == nil || !strings.Contains(err.Error(), "--isolation process") {
		t.Errorf("nowhere: got %q, %v", got, err)
	}
}

// TestRunscThatFails shows what runsc says.
func TestRunscThatFails(t *testing.T) {
	c := newTestConfig(t, IsolationProcess, "")
	c.Isolation = IsolationGVisor
	c.Server.Binds = nil
	c.Runsc = fakeRunsc(t, `case "$*" in
		*--version) echo runsc version release-20260105.0;;
		"help run") echo "  -pass-fd value";;
		*" run "*) echo "running container: cannot create the sandbox" >&2; exit 128;;
		*) exit 1;;
		esac`)
	r, _ := begin(t, c)
	err := r.wait(t)
	if err == nil || !strings.Contains(err.Error(), "exited with status 128 before it was ready: running container: cannot create the sandbox") {
		t.Errorf("got %v", err)
	}
}

// TestDistributionServer serves a real FUSE server, unmodified, with a fake
// gofer.
func TestDistributionServer(t *testing.T) {
	const squashfuse = "/usr/bin/squashfuse_ll"
	for _, p := range []string{squashfuse, "/usr/bin/mksquashfs"} {
		if _, err := os.Stat(p); err != nil {
			t.Skip("needs squashfuse and squashfs-tools (apt)")
		}
	}
	needRoot(t)
	dir := t.TempDir()
	image := filepath.Join(dir, "image")
	if err := os.Mkdir(filepath.Join(dir, "d"), 0o755); err != nil {
		t.Fatal(err)
	}
	if out, err := runRunsc(t.Context(), "/usr/bin/mksquashfs", filepath.Join(dir, "d"), image, "-quiet"); err != nil {
		t.Fatal(out, err)
	}
	for _, isolation := range isolations[1:] {
		t.Run(isolation, func(t *testing.T) {
			c := newTestConfig(t, isolation, "")
			c.Server.Argv = []string{"squashfuse_ll", "-f", "/source/image", "/dev/fd/100"}
			c.Server.Binds = []fsserver.Bind{{Host: image, Target: "/source/image", ReadOnly: true}}
			r := serve(t, c)
			s := r.waitState(t, Serving)
			if s.Ready == nil || s.Ready.FuseMinor < 19 || s.Ready.MaxWrite == 0 {
				t.Errorf("INIT: %+v", s.Ready)
			}
			if err := Stop(t.Context(), c.Dirs, "vol", false); err != nil {
				t.Error(err)
			}
			if err := r.wait(t); err != nil {
				t.Error(err)
			}
		})
	}
	t.Run("broken image", func(t *testing.T) {
		if err := os.WriteFile(image, []byte("this is no image"), 0o644); err != nil {
			t.Fatal(err)
		}
		c := newTestConfig(t, IsolationProcess, "")
		c.Server.Argv = []string{"squashfuse_ll", "-f", "/source/image", "/dev/fd/100"}
		c.Server.Binds = []fsserver.Bind{{Host: image, Target: "/source/image", ReadOnly: true}}
		r, _ := begin(t, c)
		if err := r.wait(t); err == nil || !strings.Contains(err.Error(), "squashfs image") {
			t.Errorf("the server's words are missing: %v", err)
		}
	})
}
