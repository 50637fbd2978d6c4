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

	"fsva/e2e/guest"
	"fsva/e2e/harness"
)

// wire is one way from a virtual machine to a directory of the host.
type wire struct {
	name string
	// modules are what the guest's kernel needs.
	modules []string
	// serve serves the directory until the test ends, and says how a guest gets at it. Nil means that the directory is
	// the guest's own, backing, and that it is served inside.
	serve func(t *testing.T, dir string) served
	// host says how a guest gets at a volume that serveGuests serves; nil if this is no way to one.
	host func(s sockets) served
	// windows is how many windows a guest uses.
	windows int
	// limits are the cases that fail, each with its reason.
	limits map[string]string
}

// served is a directory, ready for one guest.
type served struct {
	qemu []string // devices
	// mount is the script that mounts the directory at /data in the guest.
	mount  string
	volume *harness.Volume // nil if it is none
}

// sockets are where hypervisors reach a volume.
type sockets struct{ virtiofs, vsock, window string }

var vsockModules = []string{"fuse", "vmw_vsock_virtio_transport"}

// wires are what TestVM runs. The first is none of ours: QEMU's own virtiofsd, which proves the cases.
var wires = []wire{
	{name: "c-virtiofsd", modules: []string{"virtiofs"}, serve: cVirtiofsd, limits: map[string]string{
		"posix/Tmpfile": "QEMU's virtiofsd has no TMPFILE",
	}},
	overHost(wire{name: "virtiofs", modules: []string{"virtiofs"}, host: func(s sockets) served {
		return served{qemu: guest.VirtiofsDevice("volume", s.virtiofs), mount: mountVirtiofs}
	}}),
	overHost(wire{name: "vsock", modules: vsockModules, host: func(s sockets) served {
		return served{qemu: guest.VsockDevice(s.vsock), mount: mountVsock}
	}}),
	overHost(wire{name: "window", modules: vsockModules, windows: 1, host: func(s sockets) served {
		return served{qemu: append(guest.VsockDevice(s.vsock), guest.WindowDevice(s.window)...), mount: mountVsock}
	}}),
	{name: "loopback", modules: []string{"fuse", "vsock_loopback"}, limits: map[string]string{
		"attr/xattr":       "the guest's kernel, 6.1, has no user.* attributes on a tmpfs",
		"posix/XAttr":      "likewise",
		"posix/XAttrLarge": "likewise",
	}},
}

// backing is the directory that is served inside of a guest, and serveInside what does that and mounts it at /data.
const (
	backing     = "/backing"
	serveInside = `mkdir ` + backing + `; mount -t tmpfs tmpfs ` + backing + `
		fsva serve inside --appliance dir --source ` + backing + ` --listen vsock:3782,cid=1 >/tmp/serve.log 2>&1 &
		fsva mount vsock:1:3782 /data -o retry=60s`
)

const (
	mountVirtiofs = "mount -t virtiofs volume /data"
	mountVsock    = "fsva mount vsock:2:3782 /data"
)

// overHost completes a wire to a volume.
func overHost(w wire) wire {
	w.serve = func(t *testing.T, dir string) served {
		t.Helper()
		v, at := serveGuests(t, dir)
		s := w.host(at)
		s.volume = v
		return s
	}
	return w
}

// serveGuests serves a directory as a volume with everything that guests can connect to.
func serveGuests(t *testing.T, dir string, flags ...string) (*harness.Volume, sockets) {
	t.Helper()
	at := env.TempDir(t)
	s := sockets{virtiofs: filepath.Join(at, "virtiofs"), vsock: filepath.Join(at, "vsock"), window: filepath.Join(at, "window")}
	return env.Serve(t, volumeName(t), append([]string{"--appliance", "dir", "--source", dir, "--listen", "virtiofs:" + s.virtiofs,
		"--listen", "vhost-user-vsock:" + s.vsock, "--window-socket", s.window, "--window", "64M"}, flags...)...), s
}

func wireNamed(t *testing.T, name string) wire {
	t.Helper()
	i := slices.IndexFunc(wires, func(w wire) bool { return w.name == name })
	if i < 0 {
		t.Fatalf("no wire %q", name)
	}
	return wires[i]
}

// cVirtiofsd serves a directory by QEMU's own virtiofsd.
func cVirtiofsd(t *testing.T, dir string) served {
	t.Helper()
	return served{qemu: guest.VirtiofsDevice("volume", guest.Virtiofsd(t, env, dir, "auto")), mount: mountVirtiofs}
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
	mount := s.mount
	if w.serve == nil {
		mount = serveInside
		t.Cleanup(func() {
			if t.Failed() {
				r, err := g.Try(guest.Command{Args: []string{"cat", "/tmp/serve.log"}})
				t.Logf("fsva serve in the guest: %s%v", r.Stdout, err)
			}
		})
	}
	g.Shell(t, "mkdir -p /data; "+mount)
	return g
}

const (
	bigSize       = 1 << 30
	bigSizeInside = 64 << 20 // where the guest's memory holds the file twice
	smallSize     = 1 << 20
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
			archive := filepath.Join(dir, "in.tar")
			harness.Must(t, "tar", "-C", tree, "-cf", archive, ".")
			size := int64(bigSize)
			var g *guest.Guest
			if w.serve == nil {
				size = bigSizeInside
				g = bootWith(t, w, served{})
				b, err := os.ReadFile(archive)
				if err != nil {
					t.Fatal(err)
				}
				g.Write(t, backing+"/in.tar", b, 0o644)
				g.Shell(t, fmt.Sprintf("cd %s; work generate big %d; work generate small %d; cp /bin/work program", backing, size, smallSize))
			} else {
				harness.Must(t, work, "generate", filepath.Join(dir, "big"), fmt.Sprint(size))
				harness.Must(t, work, "generate", filepath.Join(dir, "small"), fmt.Sprint(smallSize))
				harness.Must(t, "cp", work, filepath.Join(dir, "program"))
				g = bootWith(t, w, w.serve(t, dir))
			}

			t.Run("suites", func(t *testing.T) { vmSuites(t, g, w.serve == nil, merged(caseLimits, w.limits)) })
			t.Run("tar", func(t *testing.T) {
				g.Shell(t, "mkdir /data/out; tar -xf /data/in.tar -C /data/out")
				if w.serve != nil {
					harness.Must(t, "diff", "-r", tree, filepath.Join(dir, "out"))
				}
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
				r := g.Run(t, guest.Command{Args: []string{"work", "verify", "/data/big", fmt.Sprint(size)}, Timeout: suiteTimeout})
				if r.Code != 0 {
					t.Error(r.Stderr)
				}
			})
			g.Shell(t, "umount /data")
		})
	}
}

// vmSuites runs the suites in a guest: but for the cases that are only large, which an emulated processor makes slow.
func vmSuites(t *testing.T, g *guest.Guest, inside bool, limits map[string]string) {
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
	// posix/OpenSymlinkRace is a loop that takes minutes where one emulated processor is at both ends. With a name that
	// nothing has, no case is skipped.
	skip := "none"
	if inside {
		skip = "TestPosix/OpenSymlinkRace"
	}
	found, err := harness.ParsePosix(run("posix.test", "-test.v", "-test.timeout=4m", "-test.skip="+skip, "-dir=/data/posix"))
	if err != nil {
		t.Fatal(err)
	}
	got.Add(found)
	report(t, got)
	if len(got) < 80 {
		t.Errorf("only %d cases ran", len(got))
	}
	for _, name := range slices.Sorted(maps.Keys(got)) {
		if got[name] != "" && limits[name] == "" {
			t.Errorf("%s: %s", name, got[name])
		}
	}
	for name := range limits {
		if why, ran := got[name]; !ran || why == "" {
			t.Errorf("%s: passes now, or did not run; remove it from the limits", name)
		}
	}
}
