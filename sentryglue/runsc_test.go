package sentryglue

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

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
	for _, op := range []string{attach.OpCheck, attach.OpAttach} {
		t.Run("at "+op, func(t *testing.T) {
			g.setRefusal(op, errors.New(reason))
			b := newBundle(t, "echo hello", bind(g.dir, "/data"))
			logFile := filepath.Join(t.TempDir(), "log.json")
			r := b.run(t, "runsc", "--log="+logFile, "--log-format=json")
			const want = `cannot mount volume "vol" at "/data": ` + reason
			first, _, _ := strings.Cut(r.stderr, "\n")
			if r.code != 128 || r.stdout != "" || first != want {
				t.Errorf("got %+v, want %q", r, want)
			}
			// Container managers show the last one.
			msgs := jsonErrors(t, logFile)
			if len(msgs) == 0 || !strings.Contains(msgs[len(msgs)-1], want) {
				t.Errorf("log has %q, want %q last", msgs, want)
			}
		})
	}
}
