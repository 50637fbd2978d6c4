// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"fsva/gofer/appliance"
	"fsva/gofer/fsserver"
	"fsva/gofer/latency"
	"fsva/gofer/supervisor"
	"fsva/gofer/supervisor/goferproto"
)

func TestExitStatus(t *testing.T) {
	t.Setenv("FSVA_RUNDIR", t.TempDir())
	for _, tc := range []struct {
		args   string
		status int
		stderr string // part of its only line
	}{
		{"", 0, ""},
		{"--help", 0, ""},
		{"serve --help", 0, ""},
		{"ls", 0, ""},
		{"ls --json", 0, ""},
		{"bogus", 2, `unknown command "bogus"`},
		{"sto", 2, `did you mean "stop"?`},
		{"--bogus", 2, "unknown flag: --bogus"},
		{"ls --bogus", 2, "unknown flag: --bogus"},
		{"ls extra", 2, "see fsva ls --help"},
		{"stat", 2, "accepts 1 arg"},
		{"stop a b", 2, "accepts 1 arg"},
		{"serve", 2, "accepts 1 arg"},
		{"serve v", 2, "--appliance is missing"},
		{"serve ../v --appliance mem", 2, "volume name"},
		{"serve v --appliance mem --start-timeout never", 2, "start-timeout"},
		{"serve v --appliance mem --start-timeout -1s", 2, "start-timeout"},
		{"serve v --appliance mem --log-level loud", 2, "log-level"},
		{"serve v --appliance nonesuch", 1, `unknown appliance "nonesuch"`},
		{"serve v --appliance squashfs", 1, "needs a source"},
		{"serve v --appliance squashfs --source /nonesuch", 1, "/nonesuch"},
		{"serve v --appliance mem --isolation vm2", 1, "isolation"},
		{"serve v --appliance mem --option nonesuch=1", 1, "nonesuch"},
		{"stat nonesuch", 1, `volume "nonesuch": no such volume`},
		{"stop nonesuch", 1, `volume "nonesuch": no such volume`},
		{"stop ../x", 1, "volume name"},
		{"serve v --appliance mem --cache-limit much", 2, `--cache-limit: "much" is not a number of bytes such as 512M, or default`},
		{"serve v --appliance mem --cache-limit 100K", 2, "100K is less than the smallest, 1M"},
		{"ctl v cache-limit", 2, "accepts 3 arg"},
		{"ctl v size 1M", 2, `"size" is not a setting`},
		{"ctl v cache-limit 0", 2, `"0" is not a number of bytes`},
		{"ctl v cache-limit 12GB", 2, `"12GB" is not a number of bytes`},
		{"ctl v cache-limit 4K", 2, "less than the smallest"},
		{"ctl nonesuch cache-limit 1M", 1, `volume "nonesuch": no such volume`},
		{"ctl ../x cache-limit default", 1, "volume name"},
	} {
		root := newRootCommand()
		var stdout, stderr bytes.Buffer
		root.SetArgs(strings.Fields(tc.args))
		root.SetOut(&stdout)
		root.SetErr(&stderr)
		status := run(root)
		text := stderr.String()
		if status != tc.status || !strings.Contains(text, tc.stderr) {
			t.Errorf("fsva %s: status %d, want %d; stderr %q, want %q", tc.args, status, tc.status, text, tc.stderr)
		}
		if status == 0 {
			if text != "" || stdout.Len() == 0 {
				t.Errorf("fsva %s: stdout %q, stderr %q", tc.args, &stdout, text)
			}
		} else if stdout.Len() != 0 || !strings.HasPrefix(text, "fsva: ") || strings.Count(text, "\n") != 1 {
			t.Errorf("fsva %s: stdout %q; stderr is not one line: %q", tc.args, &stdout, text)
		}
	}
}

func TestVolumeConfigOfServer(t *testing.T) {
	c := volumeConfig(appliance.Plan{
		Name: "v", Appliance: "ntfs", Source: "/srv/n.img",
		Argv: []string{"ntfs-3g", "/source/n.img", "/volume"}, Env: []string{"A=b"},
		Binds:        []appliance.Bind{{Host: "/srv/n.img", Path: "/source/n.img"}},
		CacheLimit:   5 << 20,
		Capabilities: []string{"CHOWN"}, Network: true, Mount: appliance.MountSyscall, Root: appliance.RootHost,
		Isolation: appliance.IsolationProcess, Coherence: appliance.CoherenceShared, ReadOnly: true, StableIno: true,
	}, 1<<20)
	want := &fsserver.Spec{
		Argv: []string{"ntfs-3g", "/source/n.img", "/volume"}, Env: []string{"A=b"}, Root: fsserver.HostRoot,
		Binds:        []fsserver.Bind{{Host: "/srv/n.img", Target: "/source/n.img"}},
		Capabilities: []string{"CHOWN"}, HostNetwork: true, Preload: true,
	}
	if d := cmp.Diff(want, c.Server); d != "" {
		t.Errorf("server (-want +got):\n%s", d)
	}
	if d := cmp.Diff(goferproto.Config{StableIno: true}, c.Gofer); d != "" {
		t.Errorf("gofer (-want +got):\n%s", d)
	}
	if c.Isolation != supervisor.IsolationProcess || c.Source != "/srv/n.img" || c.CacheLimit != 5<<20 || !c.Info.ReadOnly || c.Info.Coherence != "shared" {
		t.Errorf("got %+v", c)
	}
	if err := c.Info.Check(); err != nil {
		t.Error(err)
	}
}

func TestVolumeConfigInProcess(t *testing.T) {
	for _, tc := range []struct {
		kind, source, target string
	}{
		{appliance.InProcessDir, "/srv/d", "/source"},
		{appliance.InProcessTar, "/srv/a.tar.gz", "/source"},
		{appliance.InProcessMem, "", ""},
	} {
		c := volumeConfig(appliance.Plan{
			Name: "v", Appliance: "x", InProcess: tc.kind, Source: tc.source, Settings: map[string]string{"k": "v"},
			Isolation: appliance.IsolationNone, Coherence: appliance.CoherenceExclusive, ReadOnly: true,
		}, 1<<20)
		want := goferproto.Config{
			InProcess: tc.kind, Source: tc.target, Options: map[string]string{"k": "v"}, KeepsWrites: tc.kind == appliance.InProcessDir,
		}
		if tc.source != "" {
			want.Binds = []goferproto.Bind{{Host: tc.source, Target: tc.target, ReadOnly: true}}
		}
		if d := cmp.Diff(want, c.Gofer); d != "" || c.Server != nil {
			t.Errorf("%s (-want +got):\n%s", tc.kind, d)
		}
	}
}

func TestDentryCache(t *testing.T) {
	for _, tc := range []struct {
		isolation, coherence string
		files                uint64
		want                 int
	}{
		{appliance.IsolationGVisor, appliance.CoherenceExclusive, 20000, 6666},
		{appliance.IsolationProcess, appliance.CoherenceExclusive, 20000, 13332},
		{appliance.IsolationGVisor, appliance.CoherenceShared, 1024, maxDentryCache},
		{appliance.IsolationGVisor, appliance.CoherenceExclusive, 1 << 40, maxDentryCache},
	} {
		if got := dentryCache(appliance.Plan{Isolation: tc.isolation, Coherence: tc.coherence}, tc.files); got != tc.want {
			t.Errorf("%+v: got %d", tc, got)
		}
	}
}

func TestCacheLimitText(t *testing.T) {
	for want, r := range map[string]supervisor.CacheLimitReply{
		"cache limit 512 MiB\n": {Limit: supervisor.CacheLimit{Configured: 512 << 20, Effective: 512 << 20}},
		"cache limit 2 GiB, 96 MiB for now, because memory is short\n": {
			Limit: supervisor.CacheLimit{Configured: 2 << 30, Effective: 96 << 20}, Cache: goferproto.Cache{Resident: 96 << 20, Donated: 96 << 20},
		},
		"cache limit 1 MiB; clients hold 700 MiB, which nobody can take from them: the rest follows when they give up files\n": {
			Limit: supervisor.CacheLimit{Configured: 1 << 20, Effective: 1 << 20}, Cache: goferproto.Cache{Resident: 701 << 20, Donated: 700 << 20},
		},
	} {
		var b strings.Builder
		if err := writeCacheLimit(&b, r); err != nil || b.String() != want {
			t.Errorf("got %q, %v, want %q", b.String(), err, want)
		}
	}
}

func TestStatOfCacheAndRequests(t *testing.T) {
	var b strings.Builder
	err := writeStatus(&b, supervisor.Status{
		Name: "v", CacheLimit: &supervisor.CacheLimit{Configured: 64 << 20, Effective: 48 << 20, Reductions: 3, Watching: "/proc/pressure/memory"},
		Gofer: &goferproto.Stat{Cache: &goferproto.Cache{
			Limit: 48 << 20, Resident: 40 << 20, Donated: 1 << 20, Dirty: 4096, Files: 9, DonatedFiles: 2,
			Hits: 3, Misses: 1, Fills: 5, BytesFilled: 41 << 20, Evictions: 6, Donations: 7,
		}},
		RPCs: map[string]latency.Op{
			"PRead":    {Requests: 2, Errors: 1, Latency: latency.Summary{Count: 2, P50Ns: 950, P90Ns: 12_345, P99Ns: 1_234_567, MaxNs: 2_345_678_901}},
			"WalkStat": {Requests: 10},
		},
		GuestRequests: map[string]latency.Op{"LOOKUP": {Requests: 3, Errors: 2}},
		FUSE:          map[string]latency.Op{"RELEASE": {Requests: 4}},
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"cache:            40 MiB in 9 files, 1 MiB of it in clients' hands (2 files), 4 KiB dirty\n",
		"cache use:        3 hits, 1 misses (75.0% hits), 5 fills of 41 MiB, 6 evictions, 7 donations\n",
		"cache limit:      64 MiB, 48 MiB for now, because memory is short\n",
		"memory pressure:  watching /proc/pressure/memory, limit reduced 3 times\n",
		`
RPCs of clients  COUNT  ERRORS  P50    P90      P99     MAX
  WalkStat       10     0       -      -        -       -
  PRead          2      1       950ns  12.35µs  1.23ms  2.35s

FUSE requests of guests  COUNT  ERRORS  P50  P90  P99  MAX
  LOOKUP                 3      2       -    -    -    -

FUSE requests by operation  COUNT  ERRORS  P50  P90  P99  MAX
  RELEASE                   4      0       -    -    -    -
`,
	} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("no %q in\n%s", want, &b)
		}
	}
}

func TestTables(t *testing.T) {
	s := supervisor.Status{
		Name: "v", Appliance: "sshfs", Source: "host:/\x1b[2Jdir", State: supervisor.Failed, Reason: "FS server\nexited",
		Coherence: "shared", Isolation: "gvisor", HostNetwork: true, PID: 7,
		Ready: &goferproto.Ready{FuseMinor: 31, MaxWrite: 1}, Gofer: &goferproto.Stat{Clients: 2, Guests: 1, Windows: 3, WindowsUsed: 1, Attached: []goferproto.Client{
			{Container: "c1", Destination: "/data"}, {Guest: "cid 3", Via: "vsock:3782", ReadOnly: true},
		}},
		Listen: []string{"vsock:3782"}, Window: "/run/w of 64 MiB", Restarts: 2,
	}
	var b bytes.Buffer
	if err := writeTable(&b, []supervisor.Status{s, {Name: "w", State: "unknown"}}); err != nil {
		t.Fatal(err)
	}
	want := `NAME  APPLIANCE  STATE                     COHERENCE  ISOLATION  CLIENTS  GUESTS  SOURCE
v     sshfs      failed: FS server exited  shared     gvisor     2        1       host:/?[2Jdir
w     -          unknown                   -          -          -        -       -
`
	if b.String() != want {
		t.Errorf("got\n%s\nwant\n%s", &b, want)
	}
	b.Reset()
	if err := writeStatus(&b, s); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"supervisor 7, gofer -, FS server -", "host network", "FUSE:           7.31", "c1 at /data, read-write",
		"guest cid 3 via vsock:3782, read-only", "restarts:       2", "listens on:     vsock:3782", "windows:        3, 1 of them in use",
	} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("no %q in\n%s", want, &b)
		}
	}
	if strings.ContainsAny(b.String(), "\x1b") {
		t.Error("control characters")
	}
}

// TestMakeDirs makes what a plan needs and takes it back, but not what was there or what is used.
func TestMakeDirs(t *testing.T) {
	base := t.TempDir()
	at := func(elem ...string) string { return filepath.Join(append([]string{base}, elem...)...) }
	if err := os.MkdirAll(at("changes", "upper"), 0o755); err != nil {
		t.Fatal(err)
	}
	p := appliance.Plan{StateDir: at("volumes", "v", "s3-1"), Make: []string{at("changes", "upper"), at("changes", "work")}}
	made, err := makeDirs(p)
	if want := []string{at("volumes"), at("volumes", "v"), at("volumes", "v", "s3-1"), at("changes", "work")}; err != nil || !slices.Equal(made, want) {
		t.Errorf("got %q, %v, want %q", made, err, want)
	}
	if err := os.WriteFile(at("volumes", "v", "definition.json"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	removeEmpty(made)
	for path, there := range map[string]bool{"volumes/v/s3-1": false, "volumes/v/definition.json": true, "changes/work": false, "changes/upper": true} {
		if _, err := os.Stat(at(path)); (err == nil) != there {
			t.Errorf("%s: %v", path, err)
		}
	}
	p.Make = []string{at("none", "work")}
	made, err = makeDirs(p)
	if err == nil || len(made) != 1 {
		t.Errorf("below nothing: got %q, %v", made, err)
	}
	removeEmpty(made)
}
