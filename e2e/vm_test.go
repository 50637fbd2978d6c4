// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"fsva/e2e/guest"
	"fsva/e2e/harness"
)

// wire is one way from a virtual machine to a directory of the host.
type wire struct {
	name string
	// modules are what the guest's kernel needs.
	modules []string
	// serve serves the directory until the test ends, and says how a guest gets at it.
	serve func(t *testing.T, dir string) served
}

// served is a directory, ready for one guest.
type served struct {
	qemu []string // devices
	// mount is the script that mounts the directory at /data in the guest.
	mount  string
	volume *harness.Volume // nil if it is none
}

// wires are what TestVM runs. The first is none of ours: QEMU's own virtiofsd, which proves the cases.
var wires = []wire{
	{name: "c-virtiofsd", modules: []string{"virtiofs"}, serve: cVirtiofsd},
}

// vmLimits are the cases that fail in guests, whatever serves them.
var vmLimits = merged(caseLimits, map[string]string{
	"posix/Tmpfile": "the guest's kernel, 6.1, has no FUSE_TMPFILE",
})

const virtiofsd = "/usr/lib/qemu/virtiofsd"

// cVirtiofsd serves a directory with the virtiofsd that is part of QEMU in Debian 12.
func cVirtiofsd(t *testing.T, dir string) served {
	t.Helper()
	harness.NeedCommand(t, virtiofsd, "qemu-system-common")
	socket := filepath.Join(env.TempDir(t), "fs")
	p := harness.Start(t, nil, virtiofsd, "--socket-path="+socket, "-o", "source="+dir, "-o", "cache=auto", "-o", "xattr", "-f")
	harness.Await(t, 20*time.Second, p, func() bool { _, err := os.Stat(socket); return err == nil })
	return served{qemu: virtiofsDevice(socket), mount: mountVirtiofs}
}

const mountVirtiofs = "mount -t virtiofs volume /data"

func virtiofsDevice(socket string) []string {
	return []string{"-chardev", "socket,id=fs,path=" + socket, "-device", "vhost-user-fs-pci,chardev=fs,tag=volume,queue-size=1024"}
}

// bootWith starts a guest with the served directory mounted at /data.
func bootWith(t *testing.T, w wire, s served) *guest.Guest {
	t.Helper()
	g := guest.Boot(t, env, guest.Config{
		Modules: w.modules,
		Args:    s.qemu,
		Files: map[string]string{
			"/bin/fsva": env.Binary(t, "fsva"), "/bin/work": env.Binary(t, "guest-work"),
			"/bin/fscheck": env.Binary(t, "fscheck"), "/bin/posix.test": env.Binary(t, "posix.test"),
		},
	})
	t.Logf("booted in %.1f s", g.Booted.Seconds())
	g.Shell(t, "mkdir -p /data; "+s.mount)
	return g
}

const (
	bigSize   = 1 << 30
	smallSize = 1 << 20
)

// TestVM runs the suites, and what takes a whole kernel, in a guest for each way to a directory.
func TestVM(t *testing.T) {
	harness.NeedRoot(t)
	work := env.Binary(t, "guest-work")
	tree := filepath.Join(strings.TrimSpace(harness.Must(t, "go", "env", "GOROOT")), "src/encoding")
	sums := harness.Must(t, "sh", "-ec", `cd "$0"; find . -type f -exec md5sum {} +`, tree)
	if strings.Count(sums, "\n") < 100 {
		t.Fatalf("%s has few files:\n%s", tree, sums)
	}
	for _, w := range wires {
		t.Run(w.name, func(t *testing.T) {
			t.Parallel()
			dir := env.Tmpfs(t)
			at := func(name string) string { return filepath.Join(dir, name) }
			harness.Must(t, work, "generate", at("big"), fmt.Sprint(bigSize))
			harness.Must(t, work, "generate", at("small"), fmt.Sprint(smallSize))
			harness.Must(t, "cp", work, at("program"))
			harness.Must(t, "tar", "-C", tree, "-cf", at("in.tar"), ".")
			g := bootWith(t, w, w.serve(t, dir))

			t.Run("suites", func(t *testing.T) { vmSuites(t, g) })
			t.Run("tar", func(t *testing.T) {
				g.Shell(t, "mkdir /data/out; tar -xf /data/in.tar -C /data/out")
				harness.Must(t, "diff", "-r", tree, at("out"))
				r := g.Run(t, guest.Command{Args: []string{"md5sum", "-c", "-s"}, Dir: "/data/out", Stdin: []byte(sums)})
				if r.Code != 0 {
					t.Errorf("md5sum: exit code %d\n%s%s", r.Code, r.Stdout, r.Stderr)
				}
			})
			small := fmt.Sprint(smallSize)
			t.Run("program", func(t *testing.T) { g.Must(t, "/data/program", "verify", "/data/small", small) })
			t.Run("mapped", func(t *testing.T) { g.Must(t, "work", "mapped", "/data/small", small) })
			t.Run("readers", func(t *testing.T) { g.Must(t, "work", "readers", "64", "/data/small", small) })
			t.Run("big", func(t *testing.T) {
				r := g.Run(t, guest.Command{Args: []string{"work", "verify", "/data/big", fmt.Sprint(bigSize)}, Timeout: suiteTimeout})
				if r.Code != 0 {
					t.Error(r.Stderr)
				}
			})
			g.Shell(t, "umount /data")
		})
	}
}

// vmSuites runs the suites in a guest: but for the cases that are only large, which an emulated processor makes slow.
func vmSuites(t *testing.T, g *guest.Guest) {
	t.Helper()
	run := func(args ...string) string {
		t.Helper()
		r := g.Run(t, guest.Command{Args: args, Timeout: suiteTimeout})
		if r.Stderr != "" && r.Code != 0 && args[0] == "fscheck" {
			t.Fatalf("%q: exit code %d\n%s%s", args, r.Code, r.Stdout, r.Stderr)
		}
		return r.Stdout + r.Stderr
	}
	got := harness.Outcomes{}
	tree := []string{"-files=100", "-sparse", "-hardlink", "-symlinks"}
	for _, args := range [][]string{
		{"-dir=/data/write", "-mode=write", "-run", "^[^l]|^l[^i]|^limit/[^0-9]"}, // without limit/10000-files
		append([]string{"-dir=/data/tree", "-mode=prepare"}, tree...),
		append([]string{"-dir=/data/tree", "-mode=tree"}, tree...),
	} {
		found, err := harness.ParseFscheck(run(append([]string{"fscheck"}, args...)...))
		if err != nil {
			t.Fatal(err)
		}
		got.Add(found)
	}
	found, err := harness.ParsePosix(run("posix.test", "-test.v", "-test.timeout=4m", "-dir=/data/posix"))
	if err != nil {
		t.Fatal(err)
	}
	got.Add(found)
	report(t, got)
	if len(got) < 80 {
		t.Errorf("only %d cases ran", len(got))
	}
	for _, name := range slices.Sorted(maps.Keys(got)) {
		if got[name] != "" && vmLimits[name] == "" {
			t.Errorf("%s: %s", name, got[name])
		}
	}
	for name := range vmLimits {
		if why, ran := got[name]; !ran || why == "" {
			t.Errorf("%s: passes now, or did not run; remove it from the limits", name)
		}
	}
}
