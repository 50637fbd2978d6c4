// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"fsva/e2e/harness"
)

// Metrics, top and the log of volumes that are real, one of which is stopped in the middle: its supervisor hangs.
func TestOperations(t *testing.T) {
	name := volumeName(t)
	flags := []string{"--log-format", "json", "--log-level", "debug"}
	v := serve(t, name, "bindfs", append(flags, "--isolation", "process")...)
	hangs := serve(t, name+"-hangs", "mem")

	socket := filepath.Join(env.TempDir(t), "metrics")
	exporter := harness.Start(t, env.FSVAEnv(), env.Binary(t, "fsva"), "metrics", "--listen", "unix:"+socket, "--timeout", "1s")
	harness.Await(t, 30*time.Second, exporter, func() bool { return strings.Contains(exporter.Output(), "metrics at") })
	client := http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", socket)
	}}}
	defer client.CloseIdleConnections()
	scrape := func() string {
		t.Helper()
		resp, err := client.Get("http://fsva/metrics")
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		text, err := io.ReadAll(resp.Body)
		if err != nil || resp.StatusCode != http.StatusOK {
			t.Fatalf("%s, %v: %s", resp.Status, err, text)
		}
		return string(text)
	}
	has := func(text string, wants ...string) {
		t.Helper()
		for _, want := range wants {
			if !strings.Contains(text, want) {
				t.Errorf("no %s in\n%s", want, text)
			}
		}
	}
	of := func(volume string) string { return `volume="` + volume + `"` }
	has(scrape(), `fsva_volume_up{`+of(name)+"} 1\n", `fsva_volume_up{`+of(hangs.Name)+"} 1\n",
		`fsva_volume_info{appliance="bindfs",`, `fsva_fuse_request_duration_seconds_count{operation="INIT",`+of(name)+"}")

	if err := unix.Kill(hangs.PID(), unix.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	text := scrape()
	table := env.FSVA(t, "top", "--once", "--interval", "100ms", "--sort", "name")
	if err := unix.Kill(hangs.PID(), unix.SIGCONT); err != nil {
		t.Fatal(err)
	}
	has(text, `fsva_volume_up{`+of(name)+"} 1\n", `fsva_volume_up{`+of(hangs.Name)+"} 0\n")
	if table.Code != 0 {
		t.Errorf("fsva top: exit code %d, %s", table.Code, table.Stderr)
	}
	has(table.Stdout, "2 volumes, 1 of them answer", "\n"+name+" ", "bindfs     ready", "unknown: ")
	exporter.End(t, unix.SIGTERM)

	components := map[string]bool{}
	for line := range strings.Lines(v.Log()) {
		var l struct{ Level, Msg, Volume, Component string }
		if err := json.Unmarshal([]byte(line), &l); err != nil || l.Level == "" || l.Volume != name {
			t.Errorf("a line of the log is %q, %v", line, err)
		}
		components[l.Component] = true
	}
	if !components["gofer"] || !components[""] {
		t.Errorf("lines of %v only", components)
	}
}
