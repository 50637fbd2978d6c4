// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package metrics

import (
	"context"
	"encoding/json"
	"flag"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"fsva/gofer/latency"
	"fsva/gofer/supervisor"
	"fsva/gofer/supervisor/goferproto"
)

var update = flag.Bool("update", false, "rewrite testdata")

// control makes the control socket of a volume, with a backlog and nobody behind it.
func control(t *testing.T, dirs supervisor.Dirs, name string) net.Listener {
	t.Helper()
	dir := filepath.Join(dirs.Run, "control")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", filepath.Join(dir, name+".sock"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

// serve answers for a volume.
func serve(t *testing.T, dirs supervisor.Dirs, s supervisor.Status) {
	t.Helper()
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := json.NewEncoder(w).Encode(s); err != nil {
			t.Error(err)
		}
	})}
	l := control(t, dirs, s.Name)
	go server.Serve(l)
	t.Cleanup(func() { server.Close() })
}

func testDirs(t *testing.T) supervisor.Dirs {
	return supervisor.Dirs{Run: t.TempDir(), State: t.TempDir()}
}

// full is a volume that has something of everything.
var full = supervisor.Status{
	Name: "photos", Appliance: "squashfs", Source: "/srv/secret.img", State: supervisor.Serving, Coherence: "exclusive",
	Isolation: "gvisor", ReadOnly: true, Restarts: 2, Started: time.Unix(1_700_000_000, 0),
	CacheLimit: &supervisor.CacheLimit{Configured: 64 << 20, Effective: 48 << 20, Reductions: 3},
	Gofer: &goferproto.Stat{
		Clients: 3, Guests: 1, Windows: 2, WindowsUsed: 1, Attaches: 7, Refused: 4, Requests: 100, InFlight: 5, BadReplies: 6,
		Notifies: 8, BytesRead: 9000, BytesWrite: 10,
		Attached: []goferproto.Client{{Container: "secret-container"}},
		Cache: &goferproto.Cache{
			Limit: 48 << 20, Resident: 40 << 20, Donated: 1 << 20, Dirty: 4096, Files: 9, DonatedFiles: 2, Hits: 30, Misses: 10,
			Fills: 11, BytesFilled: 41 << 20, Evictions: 12, Donations: 13,
		},
	},
	RPCs: map[string]latency.Op{"PRead": {Requests: 12, Errors: 1, Latency: latency.Summary{
		Count: 10, SumNs: 30_500_000_000, Buckets: [][2]uint64{{1, 2}, {8, 3}, {16, 4}, {0, 1}},
	}}},
	GuestRequests: map[string]latency.Op{"LOOKUP": {Requests: 4, Errors: 2, Latency: latency.Summary{Count: 4, SumNs: 2_000_000, Buckets: [][2]uint64{{512, 4}}}}},
	FUSE:          map[string]latency.Op{"FORGET": {Requests: 3}},
}

func scrape(t *testing.T, dirs supervisor.Dirs, timeout string) (int, string) {
	t.Helper()
	r := httptest.NewRequest(http.MethodGet, Path, nil)
	r.Header.Set("X-Prometheus-Scrape-Timeout-Seconds", timeout)
	w := httptest.NewRecorder()
	Handler(Options{
		Dirs: dirs, Timeout: time.Minute, Build: Build{"1.2.3", "v0.0.0-2026"}, Log: slog.New(slog.DiscardHandler),
	}).ServeHTTP(w, r)
	return w.Code, w.Body.String()
}

// What a scrape says, to the letter: names are what dashboards are made of.
func TestScrape(t *testing.T) {
	dirs := testDirs(t)
	serve(t, dirs, full)
	code, got := scrape(t, dirs, "60")
	if code != http.StatusOK {
		t.Fatalf("%d: %s", code, got)
	}
	const golden = "testdata/metrics.txt"
	if *update {
		if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(string(want), got); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
	if strings.Contains(got, "secret") {
		t.Error("a source or a client is shown")
	}
}

func TestPrometheusConventions(t *testing.T) {
	dirs := testDirs(t)
	serve(t, dirs, full)
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(&collector{ctx: t.Context(), dirs: dirs})
	problems, err := testutil.GatherAndLint(registry)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
}

// A volume whose supervisor hangs, and one whose gofer does, are reported as down;
// the one beside them as if they were not there.
func TestHangingVolumesBlockNobody(t *testing.T) {
	dirs := testDirs(t)
	control(t, dirs, "hangs")
	serve(t, dirs, supervisor.Status{Name: "deaf", State: supervisor.Serving, GoferError: "the gofer does not answer"})
	serve(t, dirs, full)
	code, got := scrape(t, dirs, "0.6")
	if code != http.StatusOK {
		t.Fatalf("%d: %s", code, got)
	}
	for _, want := range []string{
		`fsva_volume_up{volume="hangs"} 0`, `fsva_volume_state{state="unknown",volume="hangs"} 1`, `fsva_volume_up{volume="deaf"} 0`,
		`fsva_volume_up{volume="photos"} 1`, `fsva_cache_hits_total{volume="photos"} 30`,
	} {
		if !strings.Contains(got, want+"\n") {
			t.Errorf("no %s in\n%s", want, got)
		}
	}
	if strings.Contains(got, `fsva_volume_info{appliance="",`) && strings.Contains(got, `volume="hangs",isolation`) {
		t.Error("what is not known is made up")
	}
}

// A supervisor that was killed leaves a socket on which nobody listens.
func TestVolumesThatAreGone(t *testing.T) {
	dirs := testDirs(t)
	l := control(t, dirs, "dead")
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	l.Close()
	if code, got := scrape(t, dirs, ""); code != http.StatusOK || strings.Contains(got, "dead") || !strings.Contains(got, "fsva_build_info") {
		t.Errorf("%d: %s", code, got)
	}
	if code, got := scrape(t, testDirs(t), ""); code != http.StatusOK {
		t.Errorf("where no volume ever was: %d: %s", code, got)
	}
}

func TestUnreadableDirectoryFailsTheScrape(t *testing.T) {
	dirs := testDirs(t)
	if err := os.WriteFile(filepath.Join(dirs.Run, "control"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if code, got := scrape(t, dirs, ""); code != http.StatusInternalServerError || !strings.Contains(got, "not a directory") {
		t.Errorf("%d: %s", code, got)
	}
}

func TestHistogram(t *testing.T) {
	for _, tc := range []struct {
		name    string
		buckets [][2]uint64
		count   uint64
		want    map[float64]uint64 // those that differ from the one before
	}{
		{"empty", nil, 0, nil},
		{"least", [][2]uint64{{1, 5}}, 5, map[float64]uint64{1e-6: 5}},
		{"between two bounds", [][2]uint64{{2, 1}, {4, 2}}, 3, map[float64]uint64{4e-6: 3}},
		{"longest", [][2]uint64{{1 << 24, 1}, {0, 7}}, 8, map[float64]uint64{16.777216: 1}},
		{"no bound of ours", [][2]uint64{{1 << 40, 1}, {3, 1}}, 2, map[float64]uint64{4e-6: 1}},
	} {
		count, got := histogram(tc.buckets)
		if count != tc.count || len(got) != len(bounds) {
			t.Errorf("%s: count %d, %d buckets", tc.name, count, len(got))
		}
		last := uint64(0)
		for _, b := range bounds {
			le := (time.Duration(b) * time.Microsecond).Seconds()
			if n, ok := tc.want[le]; ok {
				last = n
			}
			if got[le] != last {
				t.Errorf("%s: %v s: got %d, want %d", tc.name, le, got[le], last)
			}
		}
	}
}

func TestTimeout(t *testing.T) {
	for header, want := range map[string]time.Duration{
		"": 5 * time.Second, "10": 5 * time.Second, "3": 2500 * time.Millisecond, "0.4": 200 * time.Millisecond, "-1": 5 * time.Second,
		"NaN": 5 * time.Second, "x": 5 * time.Second,
	} {
		r := httptest.NewRequest(http.MethodGet, Path, nil)
		r.Header.Set("X-Prometheus-Scrape-Timeout-Seconds", header)
		if got := timeout(r, 5*time.Second); got != want {
			t.Errorf("%q: got %v, want %v", header, got, want)
		}
	}
}

func TestListen(t *testing.T) {
	for _, address := range []string{"0.0.0.0:0", ":0", "example.org:80", "[::]:0", "192.0.2.1:1", "localhost", "unix:", ""} {
		if l, err := Listen(address); err == nil {
			l.Close()
			t.Errorf("%q was accepted", address)
		}
	}
	path := filepath.Join(t.TempDir(), "s")
	l, err := Listen("unix:" + path)
	if err != nil {
		t.Fatal(err)
	}
	if fi, err := os.Stat(path); err != nil || fi.Mode().Perm() != 0o600 {
		t.Errorf("got %v, %v", fi.Mode(), err)
	}
	if l, err := Listen("unix:" + path); err == nil {
		l.Close()
		t.Error("a socket in use was replaced")
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	l.Close()
	if l, err = Listen("unix:" + path); err != nil {
		t.Fatalf("a socket that was left behind: %v", err)
	}
	l.Close()
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if l, err := Listen("unix:" + path); err == nil {
		l.Close()
		t.Error("a file was replaced")
	}
}

func TestServe(t *testing.T) {
	dirs := testDirs(t)
	serve(t, dirs, full)
	l, err := Listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	done := make(chan error, 1)
	go func() {
		done <- Serve(ctx, l, Options{Dirs: dirs, Timeout: time.Minute, Log: slog.New(slog.DiscardHandler)})
	}()
	for path, want := range map[string]string{"/metrics": "fsva_volume_up", "/": "/metrics", "/other": "not found"} {
		resp, err := http.Get("http://" + l.Addr().String() + path)
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || !strings.Contains(string(text), want) {
			t.Errorf("%s: got %q, %v", path, text, err)
		}
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if _, err := net.Dial("tcp", l.Addr().String()); err == nil {
		t.Error("still listening")
	}
}
