// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"fsva/e2e/harness"
)

// TestBadInput gives fsva serve what it must refuse: each time it ends soon with one line on stderr and the right exit
// code, and leaves nothing behind.
func TestBadInput(t *testing.T) {
	harness.NeedRoot(t)
	dir := env.TempDir(t)
	images := filepath.Join(dir, "images")
	garbage := filepath.Join(dir, "garbage")
	write := func(name, text string, mode os.FileMode) string {
		t.Helper()
		p := filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(p), 0o755), os.WriteFile(p, []byte(text), mode)); err != nil {
			t.Fatal(err)
		}
		return p
	}
	write("garbage", strings.Repeat("not a file system ", 500), 0o644)
	write("images/broken/appliance.toml", "name = \"broken\"\ncommand = [\"unterminated\n", 0o644)
	write("images/unknown-key/appliance.toml", "name = \"unknown-key\"\ndescription = \"x\"\ncolour = \"red\"\n", 0o644)
	manifest := func(name, command string) {
		write("images/"+name+"/appliance.toml", "name = \""+name+"\"\ndescription = \"for a test\"\ncommand = "+command+
			"\nmount = \"fd\"\nisolation = \"process\"\ncoherence = \"exclusive\"\nsource = \"none\"\nroot = \"host\"\n", 0o644)
	}
	manifest("silent", `["sh", "-c", "exec sleep 1000", "${mountpoint}"]`)
	manifest("dies", `["sh", "-c", "echo this server cannot start >&2; exit 7", "${mountpoint}"]`)
	manifest("liar", `["bash", "-c", "head -c 1000 /dev/urandom >&100; exec sleep 1000", "${mountpoint}"]`)
	oldRunsc := write("old/runsc", "#!/bin/sh\necho runsc version release-20200101.0\n", 0o755)
	notRunsc := write("not/runsc", "#!/bin/sh\necho hello\n", 0o755)

	readOnly := env.Tmpfs(t)
	if err := unix.Mount("", readOnly, "", unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
		t.Fatal(err)
	}
	used := serve(t, "in-use", "mem")

	bindfs := []string{"--appliance", "bindfs", "--source", dir}
	for _, tc := range []struct {
		name string
		vol  string // "bad" if empty
		args []string
		env  []string
		code int
		says []string
	}{
		{name: "unknown appliance", args: []string{"--appliance", "nope"}, code: 1, says: []string{"nope"}},
		{name: "no appliance", args: nil, code: 2, says: []string{"--appliance"}},
		{name: "unknown flag", args: []string{"--appliance", "mem", "--colour", "red"}, code: 2, says: []string{"--colour"}},
		{name: "no source", args: []string{"--appliance", "squashfs"}, code: 1, says: []string{"source"}},
		{name: "missing source", args: []string{"--appliance", "squashfs", "--source", dir + "/none"}, code: 1, says: []string{dir + "/none"}},
		{name: "source of the wrong kind", args: []string{"--appliance", "squashfs", "--source", dir}, code: 1, says: []string{dir}},
		{name: "source that is no archive", args: []string{"--appliance", "zip", "--source", garbage}, code: 1, says: []string{garbage}},
		{name: "unknown option", args: append(bindfs, "--option", "colour=red"), code: 1, says: []string{"colour"}},
		{name: "bad option value", args: append(bindfs, "--option", "xattr=maybe"), code: 1, says: []string{"xattr", "maybe"}},
		{name: "unknown isolation", args: append(bindfs, "--isolation", "hope"), code: 1, says: []string{"hope"}},
		{name: "network not asked for", args: []string{"--appliance", "sshfs", "--source", "a@b:/", "--option", "identity=" + garbage, "--option", "known-hosts=" + garbage}, code: 1, says: []string{"--network host"}},
		{name: "looser coherence", args: []string{"--appliance", "rclone", "--source", dir, "--coherence", "exclusive"}, code: 1, says: []string{"exclusive"}},
		{name: "bad manifest", args: []string{"--appliance", "broken"}, env: []string{"FSVA_IMAGES=" + images}, code: 1, says: []string{"broken", "appliance.toml"}},
		{name: "manifest with an unknown key", args: []string{"--appliance", "unknown-key"}, env: []string{"FSVA_IMAGES=" + images}, code: 1, says: []string{"unknown-key", "colour"}},
		{name: "bad name", vol: "../evil", args: []string{"--appliance", "mem"}, code: 2, says: []string{"../evil"}},
		{name: "name in use", vol: "in-use", args: []string{"--appliance", "mem"}, code: 1, says: []string{"in use", "in-use"}},
		{name: "volume directory not writable", args: []string{"--appliance", "mem"}, env: []string{"FSVA_RUNDIR=" + readOnly}, code: 1, says: []string{"not writable", readOnly}},
		{name: "runsc missing", args: bindfs, env: []string{"FSVA_RUNSC=" + dir + "/none/runsc"}, code: 1, says: []string{"runsc", dir + "/none/runsc"}},
		{name: "runsc too old", args: bindfs, env: []string{"FSVA_RUNSC=" + oldRunsc}, code: 1, says: []string{"too old", oldRunsc}},
		{name: "not a runsc", args: bindfs, env: []string{"FSVA_RUNSC=" + notRunsc}, code: 1, says: []string{notRunsc}},
		{name: "server exits at once", args: []string{"--appliance", "dies"}, env: []string{"FSVA_IMAGES=" + images}, code: 1, says: []string{"this server cannot start", "7"}},
		{name: "server exits at once, gvisor", args: []string{"--appliance", "dies", "--isolation", "gvisor"}, env: []string{"FSVA_IMAGES=" + images}, code: 1, says: []string{"this server cannot start"}},
		{name: "server refuses its source", args: []string{"--appliance", "squashfs", "--source", garbage}, code: 1, says: []string{"squashfs"}},
		{name: "server never answers", args: []string{"--appliance", "silent", "--start-timeout", "2s"}, env: []string{"FSVA_IMAGES=" + images}, code: 1, says: []string{"INIT within 2"}},
		{name: "server never answers, gvisor", args: []string{"--appliance", "silent", "--isolation", "gvisor", "--start-timeout", "4s"}, env: []string{"FSVA_IMAGES=" + images}, code: 1, says: []string{"INIT within 4"}},
		{name: "server answers nonsense", args: []string{"--appliance", "liar", "--start-timeout", "5s"}, env: []string{"FSVA_IMAGES=" + images}, code: 1, says: []string{"INIT"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			vol := tc.vol
			if vol == "" {
				vol = "bad"
			}
			env.Binary(t, "runsc")
			args := append([]string{env.Binary(t, "fsva"), "serve", vol}, tc.args...)
			r := harness.Run(t, 30*time.Second, append(env.FSVAEnv(), tc.env...), args...)
			if r.Code != tc.code {
				t.Errorf("exit code %d, want %d", r.Code, tc.code)
			}
			if r.Stdout != "" {
				t.Errorf("stdout: %q, want none", r.Stdout)
			}
			if n := strings.Count(r.Stderr, "\n"); n != 1 || !strings.HasSuffix(r.Stderr, "\n") {
				t.Errorf("stderr has %d lines, want one", n)
			}
			for _, text := range tc.says {
				if !strings.Contains(r.Stderr, text) {
					t.Errorf("stderr does not say %q", text)
				}
			}
			t.Logf("stderr: %s", r.Stderr)
			if vol == "bad" {
				if err := env.NothingLeft("bad"); err != nil {
					t.Error(err)
				}
			}
		})
	}
	// The volume whose name was in use did not notice.
	if r := env.FSVA(t, "stat", used.Name); r.Code != 0 {
		t.Errorf("fsva stat %s: %s", used.Name, r.Stderr)
	}
}

// TestFullDisk fills the disk of the run directory or of the state directory: the last line says so, and nothing has changed.
func TestFullDisk(t *testing.T) {
	harness.NeedRoot(t)
	tarball := filepath.Join(env.TempDir(t), "root.tar")
	if err := os.WriteFile(filepath.Join(filepath.Dir(tarball), "file"), make([]byte, 64<<10), 0o644); err != nil {
		t.Fatal(err)
	}
	harness.Must(t, "tar", "-C", filepath.Dir(tarball), "-cf", tarball, "file")
	for _, tc := range []struct {
		variable string
		args     []string
	}{
		{"FSVA_RUNDIR", []string{"serve", "full", "--appliance", "mem"}},
		{"FSVA_STATEDIR", []string{"volume", "create", "full", "--appliance", "mem"}},
		{"FSVA_STATEDIR", []string{"image", "import", "full", tarball}},
	} {
		t.Run(tc.args[0], func(t *testing.T) {
			dir := env.Tmpfs(t)
			if err := unix.Mount("", dir, "", unix.MS_REMOUNT, "size=32k"); err != nil {
				t.Fatal(err)
			}
			fill := filepath.Join(dir, "fill")
			if err := os.WriteFile(fill, make([]byte, 64<<10), 0o600); !errors.Is(err, unix.ENOSPC) {
				t.Fatalf("filling it: %v", err)
			}
			r := harness.Run(t, time.Minute, append(env.FSVAEnv(), tc.variable+"="+dir), append([]string{env.Binary(t, "fsva")}, tc.args...)...)
			lines := strings.Split(strings.TrimSuffix(r.Stderr, "\n"), "\n")
			if last := lines[len(lines)-1]; r.Code != 1 || !strings.HasPrefix(last, "fsva: ") || !strings.Contains(last, "no space left on device") || !strings.Contains(last, dir) {
				t.Errorf("exit code %d, %q", r.Code, r.Stderr)
			}
			t.Logf("stderr: %s", r.Stderr)
			if err := os.Remove(fill); err != nil {
				t.Fatal(err)
			}
			err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
				// The store's lock is there from its first use on.
				if err == nil && !d.IsDir() && d.Name() != "lock" || strings.Contains(d.Name(), "full") {
					t.Errorf("left %s", path)
				}
				return err
			})
			if err != nil {
				t.Error(err)
			}
		})
	}
}

// TestUsage verifies exit code 2 and one line for a command line that makes no sense.
func TestUsage(t *testing.T) {
	harness.NeedRoot(t)
	for _, args := range [][]string{{"serve"}, {"frobnicate"}, {"stat"}, {"stop", "a", "b", "c"}} {
		if r := env.FSVA(t, args...); r.Code != 2 || strings.Count(r.Stderr, "\n") != 1 {
			t.Errorf("fsva %q: exit code %d, stderr %q; want code 2 and one line", args, r.Code, r.Stderr)
		}
	}
}
