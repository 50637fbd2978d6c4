// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"fsva/e2e/harness"
	"fsva/gofer/conformance"
)

// mergerfsSource has two file systems that fill up in turn, and a directory that is only read.
func mergerfsSource(t *testing.T, dir string, _ conformance.Tree) source {
	harness.NeedCommand(t, "mergerfs", "mergerfs")
	one, two := env.Tmpfs(t), env.Tmpfs(t)
	return source{
		flags: []string{"--source", one, "--option", "branch=" + two, "--option", "read-only-branch=" + dir, "--option", "min-free-space=1M"},
		native: []string{"mergerfs", "-f", "-o", "allow_other,use_ino,fsname=mergerfs,category.create=mfs,minfreespace=1M",
			one + ":" + two + ":" + dir + "=RO", "MNT"},
	}
}

// overlaySource has two empty layers, and changes on a file system that can hold everything.
func overlaySource(t *testing.T, dir string, _ conformance.Tree) source {
	harness.NeedCommand(t, "fuse-overlayfs", "fuse-overlayfs")
	lower, layer, changes := filepath.Join(dir, "lower"), filepath.Join(dir, "layer"), env.Tmpfs(t)
	upper, work := filepath.Join(changes, "upper"), filepath.Join(changes, "work")
	makeDirs(t, lower, layer, upper, work)
	return source{
		flags: []string{"--source", lower, "--option", "layer=" + layer, "--option", "changes=" + changes},
		native: []string{"fuse-overlayfs", "-f", "-o", "allow_other,default_permissions",
			"-o", "lowerdir=" + layer + ":" + lower + ",upperdir=" + upper + ",workdir=" + work, "MNT"},
	}
}

func makeDirs(t *testing.T, dirs ...string) {
	t.Helper()
	for _, d := range dirs {
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
}

// script runs a shell script on this machine in a directory, and returns what it prints.
func script(t *testing.T, dir, text string) string {
	t.Helper()
	return harness.Must(t, "sh", "-ec", "cd "+dir+"; "+text)
}

// TestOverlay changes what is in the layers below: the layers stay as they are, and the changes are there when the volume
// is served again.
func TestOverlay(t *testing.T) {
	harness.NeedRoot(t)
	harness.NeedCommand(t, "fuse-overlayfs", "fuse-overlayfs")
	d := env.Docker(t)
	dir := env.TempDir(t)
	lower, layer, changes := filepath.Join(dir, "lower"), filepath.Join(dir, "layer"), env.Tmpfs(t)
	makeDirs(t, lower+"/sub/deep", layer+"/sub", lower+"/gone", lower+"/replaced")
	script(t, lower, `echo lower >both; echo lower >only-lower; echo kept >kept; echo old >replaced/old; echo x >gone/x
		echo deep >sub/deep/file; head -c 3000000 /dev/zero | tr '\0' 'b' >big; ln -s kept link; chmod 0600 kept; chown 1000:1000 kept`)
	script(t, layer, `echo layer >both; echo layer >sub/of-layer`)
	const state = `find . -type f -exec sha256sum {} + | LC_ALL=C sort -k2; find . -printf '%p %y %m %U:%G %l\n' | LC_ALL=C sort`
	before := script(t, lower, state) + script(t, layer, state)

	flags := []string{"--appliance", "fuse-overlayfs", "--source", lower, "--option", "layer=" + layer, "--option", "changes=" + changes}
	v := env.Serve(t, volumeName(t), flags...)
	// What stands behind the first arrow is what was there; then come changes, and what there is now.
	const look = `cd /data; cat both only-lower sub/of-layer sub/deep/file 2>/dev/null | tr '\n' ' '; ls -A | tr '\n' ' '; ls -A replaced | tr '\n' ' '
		stat -c '%a %u:%g' kept; tail -c 6 big; wc -c <big; readlink link`
	if got, want := d.Shell(t, look, v.Mount("/data")), "layer lower layer deep big both gone kept link only-lower replaced sub old 600 1000:1000\nbbbbbb3000000\nkept\n"; got != want {
		t.Errorf("at first: got %q, want %q", got, want)
	}
	const changed = "more lower deep deeper big both kept link moved new replaced sub fresh 640 1000:1000\nend3000003\nkept\n"
	got := d.Shell(t, `cd /data; echo more >both; echo deeper >>sub/deep/file; rm sub/of-layer; rm -r gone; chmod 0640 kept
		mv only-lower moved; mkdir new; echo n >new/n; rm -r replaced; mkdir replaced; echo f >replaced/fresh; printf end >>big
		`+strings.ReplaceAll(look, "only-lower", "moved"), v.Mount("/data"))
	want := strings.Replace(changed, "end", "bbbend", 1)
	if got != want {
		t.Errorf("after the changes: got %q, want %q", got, want)
	}
	v.Stop(t)
	if after := script(t, lower, state) + script(t, layer, state); after != before {
		t.Errorf("the layers have changed:\n%s\nwere\n%s", after, before)
	}
	v = env.Serve(t, volumeName(t)+"-again", flags...)
	if got := d.Shell(t, strings.ReplaceAll(look, "only-lower", "moved"), v.Mount("/data")); got != want {
		t.Errorf("served again: got %q, want %q", got, want)
	}
	v.Stop(t)
	// The changes are plain files that can be layers themselves, of a volume that nobody writes to.
	v = env.Serve(t, volumeName(t)+"-layers", "--appliance", "fuse-overlayfs", "--readonly", "--source", lower,
		"--option", "layer="+changes+"/upper", "--option", "layer="+layer)
	if got := d.Shell(t, strings.ReplaceAll(look, "only-lower", "moved"), v.Mount("/data")); got != want {
		t.Errorf("changes as a layer: got %q, want %q", got, want)
	}
}

// TestMergerfs finds the files of all directories in one, and looks where new ones go.
func TestMergerfs(t *testing.T) {
	harness.NeedRoot(t)
	harness.NeedCommand(t, "mergerfs", "mergerfs")
	d := env.Docker(t)
	dir := env.TempDir(t)
	small, large, readOnly := filepath.Join(dir, "first"), filepath.Join(dir, "no-create"), filepath.Join(dir, "read-only")
	makeDirs(t, small, large, readOnly)
	script(t, dir, `mkdir first/sub no-create/sub read-only/sub; echo 1 >first/sub/a; echo 2 >no-create/sub/b; echo 3 >read-only/sub/c
		echo first >first/both; echo shadowed >no-create/both`)
	v := env.Serve(t, volumeName(t), "--appliance", "mergerfs", "--source", small, "--option", "no-create-branch="+large,
		"--option", "read-only-branch="+readOnly, "--option", "create-policy=ff", "--option", "min-free-space=1M")
	got := d.Shell(t, `cd /data; cat sub/a sub/b sub/c both; ls sub; echo new >sub/new; echo changed >sub/b; rm sub/a
		mv sub/b sub/moved; echo no >sub/c || echo refused; ls sub; cat sub/moved`, v.Mount("/data"))
	if want := "1\n2\n3\nfirst\na\nb\nc\nrefused\nc\nmoved\nnew\nchanged\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	v.Stop(t)
	got = script(t, dir, `find first no-create read-only -type f | LC_ALL=C sort | tr '\n' ' '; cat read-only/sub/c no-create/sub/moved`)
	if want := "first/both first/sub/new no-create/both no-create/sub/moved read-only/sub/c 3\nchanged\n"; got != want {
		t.Errorf("the directories: got %q, want %q", got, want)
	}
}
