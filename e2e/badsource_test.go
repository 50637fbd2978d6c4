// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"crypto/rand"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"fsva/e2e/harness"
	"fsva/gofer/appliance"
)

// refuses runs fsva serve, which must end with exit code 1 and one line that has all of says, and leave nothing behind.
func refuses(t *testing.T, says []string, args ...string) {
	t.Helper()
	r := harness.Run(t, 30*time.Second, env.FSVAEnv(), append([]string{env.Binary(t, "fsva"), "serve", "bad"}, args...)...)
	if r.Code != 1 || r.Stdout != "" || strings.Count(r.Stderr, "\n") != 1 || !strings.HasSuffix(r.Stderr, "\n") {
		t.Errorf("fsva serve bad %s: exit code %d, stdout %q, stderr %q; want code 1 and one line on stderr", strings.Join(args, " "), r.Code, r.Stdout, r.Stderr)
	}
	for _, text := range says {
		if !strings.Contains(r.Stderr, text) {
			t.Errorf("fsva serve bad %s: %q does not say %q", strings.Join(args, " "), r.Stderr, text)
		}
	}
	if err := env.NothingLeft("bad"); err != nil {
		t.Error(err)
	}
	if _, err := os.Lstat(filepath.Join(env.StateDir, "volumes", "bad")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("fsva serve bad %s: left something in the state directory (%v)", strings.Join(args, " "), err)
	}
	t.Logf("%s", r.Stderr)
}

// TestWrongKindOfSource gives every appliance each kind of source that it does not take.
func TestWrongKindOfSource(t *testing.T) {
	harness.NeedRoot(t)
	dir := env.TempDir(t)
	at := func(name string) string { return filepath.Join(dir, name) }
	if err := errors.Join(
		os.WriteFile(at("file"), nil, 0o644), os.Mkdir(at("dir"), 0o755), unix.Mkfifo(at("fifo"), 0o600),
		os.Symlink("none", at("dangling")), os.Symlink("loop", at("loop")),
	); err != nil {
		t.Fatal(err)
	}
	missing := map[string]string{
		at("none"): "no such file", at("dangling"): "no such file", at("loop"): "too many levels of symbolic links", at("file/below"): "not a directory",
	}
	special := map[string]string{at("fifo"): "is a fifo", "/dev/null": "is a character device"}
	file, directory := map[string]string{at("file"): "is a file"}, map[string]string{at("dir"): "is a directory"}
	text := map[string]string{at("dir"): "is not of the kind"}
	wrong := map[string][]map[string]string{
		appliance.SourceFile:              {missing, special, directory},
		appliance.SourceDirectory:         {missing, special, file},
		appliance.SourceDirectoryOrRemote: {missing, special, file},
		appliance.SourceRemote:            {text},
		appliance.SourceVM:                {{at("dir"): "want vsock:"}},
		appliance.SourceNone:              {{at("dir"): "takes no source"}},
	}
	names, err := appliance.Names()
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		m, err := appliance.Load(name)
		if err != nil {
			t.Fatal(err)
		}
		flags := []string{"--appliance", name}
		if m.Network {
			flags = append(flags, "--network", "host")
		}
		if len(wrong[m.Source]) == 0 {
			t.Errorf("appliance %s: no wrong source for %s", name, m.Source)
		}
		if m.Source != appliance.SourceNone {
			refuses(t, []string{"needs a source"}, flags...)
		}
		for _, kind := range wrong[m.Source] {
			for path, says := range kind {
				refuses(t, []string{path, says}, append(flags, "--source", path)...)
			}
		}
	}
}

// TestCorruptSource gives the appliances of image files and archives what is none, or only the beginning of one, and those
// of encrypted directories a plain one. The source is named and stays as it is.
func TestCorruptSource(t *testing.T) {
	harness.NeedRoot(t)
	dir := env.TempDir(t)
	at := func(name string) string { return filepath.Join(dir, name) }
	noise := make([]byte, 64<<10)
	if _, err := rand.Read(noise); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.Mkdir(at("tree"), 0o755), os.WriteFile(at("tree/file"), noise, 0o644), os.WriteFile(at("pass"), []byte("secret\n"), 0o600)); err != nil {
		t.Fatal(err)
	}
	const size = 16 << 20
	sized := func(tool string, args ...string) func(path string) {
		return func(path string) {
			if err := writeSized(path, size); err != nil {
				t.Fatal(err)
			}
			harness.Must(t, append(append([]string{tool}, args...), path)...)
		}
	}
	for _, tc := range []struct {
		appliance, suffix string
		make              func(path string)
		zeros             bool // whether zeros are fine
	}{
		{"squashfs", ".sqfs", func(path string) {
			harness.Must(t, harness.NeedCommand(t, "mksquashfs", "squashfs-tools"), at("tree"), path, "-quiet", "-no-progress")
		}, false},
		{"ext4", ".img", sized(harness.NeedCommand(t, "mke2fs", "e2fsprogs"), "-q", "-F"), false},
		{"ntfs", ".img", sized(harness.NeedCommand(t, "mkfs.ntfs", "ntfs-3g"), "-q", "-F", "-f"), false},
		{"exfat", ".img", sized(harness.NeedCommand(t, "mkfs.exfat", "exfatprogs")), false},
		{"iso", ".iso", func(path string) {
			harness.Must(t, harness.NeedCommand(t, "genisoimage", "genisoimage"), "-quiet", "-R", "-o", path, at("tree"))
		}, false},
		{"zip", ".zip", func(path string) { harness.Must(t, harness.NeedCommand(t, "zip", "zip"), "-qr", path, at("tree")) }, false},
		{"tar", ".tar", func(path string) { harness.Must(t, "tar", "-C", dir, "-cf", path, "tree") }, true},
		{"tar", ".tar.gz", func(path string) { harness.Must(t, "tar", "-C", dir, "-czf", path, "tree") }, true},
	} {
		good := at("good-" + tc.appliance + tc.suffix)
		tc.make(good)
		image, err := os.ReadFile(good)
		if err != nil {
			t.Fatal(err)
		}
		sources := map[string][]byte{"noise": noise, "nothing": nil, "beginning": image[:3000]}
		if !tc.zeros {
			sources["zeros"] = make([]byte, 8<<10)
		}
		for what, data := range sources {
			path := at(what + "-" + tc.appliance + tc.suffix)
			if err := os.WriteFile(path, data, 0o644); err != nil {
				t.Fatal(err)
			}
			refuses(t, []string{path}, "--appliance", tc.appliance, "--source", path)
			if now, err := os.ReadFile(path); err != nil || string(now) != string(data) {
				t.Errorf("%s is another one than before (%v)", path, err)
			}
		}
	}
	for name, config := range map[string]string{"encfs": ".encfs6.xml", "gocryptfs": "gocryptfs.conf"} {
		refuses(t, []string{at("tree"), filepath.Join(at("tree"), config)}, "--appliance", name, "--source", at("tree"), "--option", "passfile="+at("pass"))
		if entries, err := os.ReadDir(at("tree")); err != nil || len(entries) != 1 {
			t.Errorf("%s changed the directory: %v, %v", name, entries, err)
		}
	}
}
