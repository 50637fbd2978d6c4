// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package sentryglue

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"fsva/gofer/attach"
)

func writeFile(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func readFile(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Error(err)
	}
	return string(data)
}

// helperMount makes the test binary available in a container.
func helperMount(t *testing.T) mountSpec {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return bind(self, "/"+helperName, "ro")
}

// TestMountsTogether: a tmpfs, a bind mount, a read-only bind mount and a
// volume in one container; all but the volume behave as with stock runsc.
func TestMountsTogether(t *testing.T) {
	needRunsc(t)
	const others = `
echo t > /scratch/t && cat /scratch/t
cat /rw/in && echo out > /rw/out
cat /ro/in; echo x > /ro/x || echo "ro refused"
grep -E ' /(scratch|rw|ro|) ' /proc/mounts | cut -d' ' -f2- | sed -E 's/[rw]fdno=[0-9]+/fd/g'
`
	const onVolume = `
cat /data/in && echo "from the sandbox" > /data/out && sync
mkdir /data/d && mv /data/out /data/d/out && ls /data
cat /data/gofer.sock /data/volume.json 2>/dev/null && echo "volume directory shows"
grep ' /data ' /proc/mounts >&2
/sentryglue-helper mmap /data/mapped
`
	rw, ro := t.TempDir(), t.TempDir()
	writeFile(t, filepath.Join(rw, "in"), "rw in\n")
	writeFile(t, filepath.Join(ro, "in"), "ro in\n")
	mounts := []mountSpec{
		{Destination: "/scratch", Type: "tmpfs", Source: "tmpfs"},
		bind(rw, "/rw"), bind(ro, "/ro", "ro"),
	}
	stock := newBundle(t, others, mounts...).run(t, "stock")
	if stock.code != 0 {
		t.Fatalf("stock runsc: %+v", stock)
	}

	g := startGofer(t, attach.Info{Name: "vol", Coherence: attach.Exclusive, DentryCache: 5000})
	writeFile(t, filepath.Join(g.backing, "in"), "volume in\n")
	mounts = append(mounts, bind(g.dir, "/data"), helperMount(t))
	b := newBundle(t, others+onVolume, mounts...)
	r := b.run(t, "runsc")
	if r.code != 0 {
		t.Fatalf("our runsc: %+v", r)
	}
	mine, ok := strings.CutPrefix(r.stdout, stock.stdout)
	if !ok {
		t.Errorf("ours:\n%s\nstock:\n%s", r.stdout, stock.stdout)
	}
	if want := "volume in\nd\nin\nmmap ok\n"; mine != want {
		t.Errorf("volume: got %q, want %q", mine, want)
	}
	for _, opt := range []string{"directfs", "remote_revalidating", "overlay", "disable_file_handle_sharing"} {
		if strings.Contains(r.stderr, opt) {
			t.Errorf("mount of an exclusive volume has %s: %s", opt, r.stderr)
		}
	}
	if !strings.Contains(r.stderr, "dcache=5000") {
		t.Errorf("mount has no dcache=5000: %s", r.stderr)
	}
	if got := readFile(t, filepath.Join(g.backing, "d/out")); got != "from the sandbox\n" {
		t.Errorf("backing file has %q", got)
	}
	if got := readFile(t, filepath.Join(g.backing, "mapped")); !strings.HasPrefix(got, "written through a mapping\x00") {
		t.Errorf("mapped file has %.40q", got)
	}
	if got := readFile(t, filepath.Join(rw, "out")); got != "out\n" {
		t.Errorf("bind mount has %q", got)
	}
	entries, err := os.ReadDir(g.dir)
	if err != nil || len(entries) != 2 {
		t.Errorf("volume directory has %v, %v; want its two files", entries, err)
	}
	want := []string{attach.OpCheck, attach.OpAttach}
	for i, req := range g.seen() {
		if req.Op != want[i] || req.Destination != "/data" || req.ReadOnly || req.Container == "" {
			t.Errorf("request %d: %+v", i, req)
		}
	}
}

func TestNotRunning(t *testing.T) {
	needRunsc(t)
	dir := filepath.Join(tmpfsDir(t), "volumes", "photos")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := attach.WriteInfo(dir, attach.Info{Version: 1, Name: "photos", Appliance: "squashfs", Coherence: attach.Exclusive}); err != nil {
		t.Fatal(err)
	}
	b := newBundle(t, "echo hello", bind(dir, "/data"))
	logFile := filepath.Join(t.TempDir(), "log.json")
	r := b.run(t, "runsc", "--log="+logFile, "--log-format=json")
	const want = `cannot mount volume "photos" at "/data": the volume is not running; start it with: fsva serve photos`
	if r.code != 128 || r.stdout != "" || r.stderr != want+"\n" {
		t.Errorf("got %+v, want %q", r, want)
	}
	if msgs := jsonErrors(t, logFile); len(msgs) != 1 || msgs[0] != want {
		t.Errorf("log has %q, want %q", msgs, want)
	}
}

func TestRefused(t *testing.T) {
	needRunsc(t)
	g := startGofer(t, attach.Info{Name: "vol", Coherence: attach.Exclusive})
	const reason = `volume "vol" is exclusive and in use by container c0`
	const want = `cannot mount volume "vol" at "/data": ` + reason
	b := newBundle(t, "echo hello", bind(g.dir, "/data"))
	// At the check, the only line; later, when a container is half made, the
	// last one, after gVisor's.
	for _, op := range []string{attach.OpCheck, attach.OpAttach} {
		for _, logged := range []bool{true, false} {
			t.Run(fmt.Sprintf("at %s, log %v", op, logged), func(t *testing.T) {
				g.setRefusal(op, errors.New(reason))
				var global []string
				logFile := filepath.Join(t.TempDir(), "log.json")
				if logged {
					global = []string{"--log=" + logFile, "--log-format=json"}
				}
				r := b.run(t, "runsc", global...)
				lines := strings.Split(strings.TrimSpace(r.stderr), "\n")
				if r.code != 128 || r.stdout != "" || lines[len(lines)-1] != want {
					t.Errorf("got %+v, want %q", r, want)
				}
				if op == attach.OpCheck && len(lines) != 1 {
					t.Errorf("got %d lines: %q", len(lines), r.stderr)
				}
				if !logged {
					return
				}
				// Container managers show the last one.
				if msgs := jsonErrors(t, logFile); len(msgs) == 0 || msgs[len(msgs)-1] != want {
					t.Errorf("log has %q, want %q last", msgs, want)
				}
			})
		}
	}
}

// TestModes looks at what each kind of volume becomes in the sentry.
func TestModes(t *testing.T) {
	needRunsc(t)
	const script = `
grep ' /data ' /proc/mounts
echo x > /data/new && echo written || echo refused
cat /data/in
/sentryglue-helper mmap /data/mapped 2>&1
`
	for _, tc := range []struct {
		name    string
		info    attach.Info
		options []string // of the mount
		global  []string // runsc's flags
		has     []string
		hasNot  []string
	}{
		{"exclusive", attach.Info{Coherence: attach.Exclusive}, nil, nil,
			[]string{"written", "mmap ok"}, []string{"directfs", "remote_revalidating", "disable_file_handle_sharing"}},
		{"exclusive, no directfs", attach.Info{Coherence: attach.Exclusive}, nil, []string{"--directfs=false"},
			[]string{"written", "mmap ok"}, []string{"directfs", "remote_revalidating"}},
		{"exclusive, strict", attach.Info{Coherence: attach.Exclusive, StrictFsync: true}, nil, nil,
			[]string{"written", "disable_file_handle_sharing"}, []string{"directfs", "remote_revalidating"}},
		{"shared", attach.Info{Coherence: attach.Shared, DentryCache: 77}, nil, nil,
			[]string{"written", "remote_revalidating", "disable_file_handle_sharing", "dcache=77"}, []string{"directfs"}},
		{"shared, exclusive by flag", attach.Info{Coherence: attach.Shared}, nil, []string{"--file-access-mounts=exclusive"},
			[]string{"written", "remote_revalidating"}, []string{"directfs"}},
		{"read-only volume", attach.Info{Coherence: attach.Exclusive, ReadOnly: true}, nil, nil,
			[]string{"refused", " ro,"}, []string{"directfs", "remote_revalidating"}},
		{"read-only mount", attach.Info{Coherence: attach.Exclusive}, []string{"ro"}, nil,
			[]string{"refused", " ro,"}, []string{"directfs", "remote_revalidating"}},
		{"read-only mount of a shared volume", attach.Info{Coherence: attach.Shared}, []string{"ro"}, nil,
			[]string{"refused", " ro,", "remote_revalidating"}, []string{"directfs"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			tc.info.Name = "vol"
			g := startGofer(t, tc.info)
			writeFile(t, filepath.Join(g.backing, "in"), "volume in\n")
			b := newBundle(t, script, bind(g.dir, "/data", tc.options...), helperMount(t))
			r := b.run(t, "runsc", tc.global...)
			for _, s := range append(tc.has, "volume in\n") {
				if !strings.Contains(r.stdout, s) {
					t.Errorf("no %q in %+v", s, r)
				}
			}
			for _, s := range tc.hasNot {
				if strings.Contains(r.stdout, s) {
					t.Errorf("%q in %+v", s, r)
				}
			}
			_, err := os.Stat(filepath.Join(g.backing, "new"))
			if wrote := err == nil; wrote != !strings.Contains(r.stdout, "refused") {
				t.Errorf("file in the volume: %v; %+v", wrote, r)
			}
			for _, req := range g.seen() {
				if want := tc.info.ReadOnly || len(tc.options) > 0; req.ReadOnly != want {
					t.Errorf("request %+v, want read-only %v", req, want)
				}
			}
		})
	}
}

// TestTwoVolumes: several volumes, one of them twice, under a symbolic link of
// the image.
func TestTwoVolumes(t *testing.T) {
	needRunsc(t)
	a := startGofer(t, attach.Info{Name: "a", Coherence: attach.Shared})
	z := startGofer(t, attach.Info{Name: "z", Coherence: attach.Exclusive})
	b := newBundle(t, `
echo one > /a1/f && cat /a2/f && echo two > /a2/f && cat /a1/f
echo three > /real/z/f && cat /link/z/f
`, bind(a.dir, "/a1"), bind(a.dir, "/a2"), bind(z.dir, "/link/z"))
	rootfs := filepath.Join(b.dir, "rootfs")
	if err := os.Mkdir(filepath.Join(rootfs, "real"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/real", filepath.Join(rootfs, "link")); err != nil {
		t.Fatal(err)
	}
	r := b.run(t, "runsc")
	if want := "one\ntwo\nthree\n"; r.code != 0 || r.stdout != want {
		t.Errorf("got %+v, want %q", r, want)
	}
	if got := readFile(t, filepath.Join(z.backing, "f")); got != "three\n" {
		t.Errorf("z/f has %q", got)
	}
}

// TestCoveredMount: the spec pass cannot see that the image or another mount
// hides a mount point, the gofer extension does.
func TestCoveredMount(t *testing.T) {
	needRunsc(t)
	g := startGofer(t, attach.Info{Name: "vol", Coherence: attach.Exclusive})
	b := newBundle(t, "true", bind(g.dir, "/data/vol"), bind(t.TempDir(), "/data"))
	r := b.run(t, "runsc")
	if want := `cannot mount volume "vol" at "/data/vol": another mount covers it`; r.code == 0 || !strings.HasSuffix(r.stderr, want+"\n") {
		t.Errorf("got %+v, want %q", r, want)
	}
}

// TestLifecycle is what container managers do: create, start, state, delete;
// then a second container from the same, rewritten bundle.
func TestLifecycle(t *testing.T) {
	needRunsc(t)
	g := startGofer(t, attach.Info{Name: "vol", Coherence: attach.Exclusive})
	b := newBundle(t, "echo done >> /data/log", bind(g.dir, "/data"))
	for i, id := range []string{"first", "second"} {
		try := func(args ...string) error {
			t.Helper()
			// No pipes: a created container keeps them open.
			cmd := b.command(t, "runsc", nil, args...)
			stderr, err := os.Create(filepath.Join(t.TempDir(), "stderr"))
			if err != nil {
				t.Fatal(err)
			}
			defer stderr.Close()
			cmd.Stderr = stderr
			if err := cmd.Run(); err != nil {
				return fmt.Errorf("%v: %w: %s", args, err, readFile(t, stderr.Name()))
			}
			return nil
		}
		step := func(args ...string) {
			t.Helper()
			if err := try(args...); err != nil {
				t.Fatal(err)
			}
		}
		t.Cleanup(func() { b.delete(t, id) })
		step("create", "--bundle", b.dir, id)
		step("start", id)
		waitFor(t, "the state stopped", func() bool {
			return strings.Contains(output(t, b.command(t, "runsc", nil, "state", id)).stdout, `"stopped"`)
		})
		// A sandbox that is about to exit answers nobody, which gVisor takes for
		// running: a delete may come too early after the state was stopped.
		waitFor(t, "the container deleted", func() bool { return try("delete", id) == nil })
		if got, want := readFile(t, filepath.Join(g.backing, "log")), strings.Repeat("done\n", i+1); got != want {
			t.Errorf("log has %q, want %q", got, want)
		}
	}
	if got := len(g.seen()); got != 4 {
		t.Errorf("%d requests, want 2 for each container: %+v", got, g.seen())
	}
}

// TestOverlayOnEverything: a user who has all writes stay in the sandbox gets
// that for volumes, too, and the volume's gofer knows.
func TestOverlayOnEverything(t *testing.T) {
	needRunsc(t)
	for _, medium := range []string{"memory", "self"} {
		t.Run(medium, func(t *testing.T) {
			g := startGofer(t, attach.Info{Name: "vol", Coherence: attach.Exclusive})
			writeFile(t, filepath.Join(g.backing, "in"), "volume in\n")
			b := newBundle(t, "cat /data/in && echo x > /data/new && ls -A /data", bind(g.dir, "/data"))
			r := b.run(t, "runsc", "--overlay2=all:"+medium)
			if want := "volume in\nin\nnew\n"; r.code != 0 || r.stdout != want {
				t.Errorf("got %+v, want %q", r, want)
			}
			if _, err := os.Stat(filepath.Join(g.backing, "new")); err == nil {
				t.Error("the write reached the volume")
			}
			if seen := g.seen(); len(seen) != 2 || !seen[1].ReadOnly {
				t.Errorf("requests %+v, want a read-only attach", seen)
			}
			if entries, err := os.ReadDir(g.dir); err != nil || len(entries) != 2 {
				t.Errorf("volume directory has %v, %v", entries, err)
			}
		})
	}
}

// TestUserNamespace: in a container with a user namespace, runsc's gofer is not
// the user that may connect.
func TestUserNamespace(t *testing.T) {
	needRunsc(t)
	g := startGofer(t, attach.Info{Name: "vol", Coherence: attach.Shared})
	b := newBundle(t, "true", bind(g.dir, "/data"))
	linux := b.spec["linux"].(map[string]any)
	linux["namespaces"] = append(linux["namespaces"].([]map[string]any), map[string]any{"type": "user"})
	mapping := []map[string]any{{"containerID": 0, "hostID": 100000, "size": 65536}}
	linux["uidMappings"], linux["gidMappings"] = mapping, mapping
	b.write(t)
	// Not that user's to make, either.
	if err := os.Mkdir(filepath.Join(b.dir, "rootfs/data"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{filepath.Dir(b.dir), filepath.Dir(filepath.Dir(g.dir)), g.dir} {
		if err := os.Chmod(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	r := b.run(t, "runsc")
	if want := `cannot mount volume "vol" at "/data": volumes work without user namespaces only`; r.code == 0 || !strings.Contains(r.stderr, want) {
		t.Errorf("got %+v, want %q", r, want)
	}
}

// TestCheckpointRestore: a restored container has its volumes again, whether
// restore makes the container itself or one was created for it.
func TestCheckpointRestore(t *testing.T) {
	needRunsc(t)
	for _, created := range []bool{false, true} {
		t.Run(fmt.Sprintf("created %v", created), func(t *testing.T) {
			g := startGofer(t, attach.Info{Name: "vol", Coherence: attach.Shared})
			b := newBundle(t, `
exec 3>>/data/log
echo before >&3
while ! [ -e /data/go ]; do sleep 0.02; done
echo after >&3
`, bind(g.dir, "/data"))
			step := func(args ...string) {
				t.Helper()
				if err := b.command(t, "runsc", nil, args...).Run(); err != nil {
					t.Fatalf("%v: %v", args, err)
				}
			}
			t.Cleanup(func() { b.delete(t, "one"); b.delete(t, "two") })
			step("run", "--detach", "--bundle", b.dir, "one")
			log := filepath.Join(g.backing, "log")
			waitFor(t, "the container's first line", func() bool {
				data, err := os.ReadFile(log)
				return err == nil && string(data) == "before\n"
			})
			image := t.TempDir()
			step("checkpoint", "--image-path", image, "one")
			step("delete", "--force", "one")
			if created {
				step("create", "--bundle", b.dir, "two")
				g.setRefusal(attach.OpCheck, errors.New("restore must not ask again"))
			}
			step("restore", "--detach", "--bundle", b.dir, "--image-path", image, "two")
			writeFile(t, filepath.Join(g.backing, "go"), "")
			waitFor(t, "the restored container's line", func() bool { return readFile(t, log) == "before\nafter\n" })
		})
	}
}

// waitFor polls for what another process does.
func waitFor(t *testing.T, what string, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !done(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited too long for %s", what)
		}
	}
}

// TestCommandsAreStock compares what users see of the subcommands.
func TestCommandsAreStock(t *testing.T) {
	needRunsc(t)
	b := newBundle(t, "true")
	if err := os.MkdirAll(b.root, 0o700); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{
		{"--version"}, {"--help"}, {"help"}, {"flags"}, {"help", "platforms"}, {"help", "syscalls"}, {"list"},
		{"help", "create"}, {"help", "run"}, {"help", "restore"}, {"help", "gofer"}, {"create"}, {"run", "--nonsense"},
		{"create", "--bundle=/nonexistent", "x"}, {"run", "--bundle=/nonexistent", "x"}, {"state", "nothing"}, {"features"}, {"nonsense"},
	} {
		stock, ours := output(t, b.command(t, "stock", nil, args...)), output(t, b.command(t, "runsc", nil, args...))
		if diff := cmp.Diff(lines(ours), lines(stock)); diff != "" || ours.code != stock.code {
			t.Errorf("%v: exit code %d, stock %d; output (-ours +stock):\n%s", args, ours.code, stock.code, diff)
		}
	}
	out := output(t, b.command(t, "runsc", nil, "spec", "--bundle", t.TempDir()))
	if out.code != 0 {
		t.Errorf("spec: %+v", out)
	}
}

// lines returns all output, with one name for both programs, and sorted: some
// of it is in the order of a map.
func lines(r result) []string {
	all := strings.Split(strings.ReplaceAll(r.stdout+r.stderr, "stock ", "runsc "), "\n")
	for i := range all {
		all[i] = strings.TrimSuffix(all[i], ",")
	}
	slices.Sort(all)
	return all
}
