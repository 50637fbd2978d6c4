// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"fsva/e2e/harness"
)

// TestServerSeesNothing looks around inside an FS server's own gVisor sandbox, while an application uses the volume:
// there is no network, no process but the server's, no file of the machine but the source, and nothing of the
// application. The server's image has no shell; the source brings one.
func TestServerSeesNothing(t *testing.T) {
	d := env.Docker(t)
	dir := env.TempDir(t)
	source := filepath.Join(dir, "source")
	if err := os.Mkdir(source, 0o755); err != nil {
		t.Fatal(err)
	}
	busybox := harness.NeedCommand(t, "busybox", "busybox-static")
	harness.Must(t, "cp", busybox, filepath.Join(source, "busybox"))
	if err := os.WriteFile(filepath.Join(dir, "beside"), []byte("not yours"), 0o644); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	v := env.Serve(t, volumeName(t), "--appliance", "bindfs", "--source", source)
	app := d.Start(t, harness.Container{
		Mounts: []string{v.Mount("/data")}, Env: []string{"SECRET=of-the-application"},
		Args: []string{"sh", "-c", "echo hidden >/tmp/hidden; exec sleep 3599"},
	})
	app.Shell(t, "echo x >/data/f")

	inside := func(script string) string {
		t.Helper()
		r := execInServer(t, v, script)
		if r.Code != 0 {
			t.Fatalf("in the FS server's sandbox: %s: exit code %d\n%s%s", script, r.Code, r.Stdout, r.Stderr)
		}
		return r.Stdout
	}
	if got := inside("cat /source/f"); got != "x\n" {
		t.Errorf("the server's own source: %q", got)
	}
	if got := inside("tail -n +3 /proc/net/dev | cut -d: -f1 | tr -d ' \\n'"); got != "" && got != "lo" {
		t.Errorf("network interfaces: %q, want none but lo", got)
	}
	if got := inside("for p in /proc/[0-9]*; do tr '\\0' ' ' <$p/cmdline; echo; done"); strings.Contains(got, "sleep") || !strings.Contains(got, "bindfs") {
		t.Errorf("processes:\n%s\nwant bindfs and nothing of the application", got)
	}
	for _, hidden := range []string{filepath.Join(dir, "beside"), env.RunDir, env.StateDir, env.Dir, env.Root, "/tmp/hidden", "/run/docker", "/run/containerd", "/data", "/etc/shadow", "/etc/ssl", "/home", "/opt", "/usr/bin/dockerd", "/usr/share/perl", "/bin/bash"} {
		if r := execInServer(t, v, "ls -d "+hidden); r.Code == 0 {
			t.Errorf("the server sees %s", hidden)
		}
	}
	if r := execInServer(t, v, fmt.Sprintf("nc -w 5 127.0.0.1 %d", l.Addr().(*net.TCPAddr).Port)); r.Code == 0 {
		t.Error("the server reaches a port of the machine")
	}
	if r := execInServer(t, v, "echo x >/usr/written"); r.Code == 0 {
		t.Error("the server writes to its root")
	}
	// Not one file of the root is the machine's own: what the image says is its contents are there, and nothing else.
	var image struct{ Root string }
	r := env.FSVA(t, "image", "inspect", "bindfs")
	if err := json.Unmarshal([]byte(r.Stdout), &image); err != nil {
		t.Fatalf("fsva image inspect bindfs: %v\n%s%s", err, r.Stdout, r.Stderr)
	}
	entries, err := os.ReadDir(image.Root)
	if err != nil {
		t.Fatal(err)
	}
	listing := " && find"
	for _, e := range entries {
		listing += " " + e.Name()
	}
	listing += " | sort"
	want := harness.Must(t, busybox, "sh", "-c", "cd "+image.Root+listing)
	if got := inside("cd /" + listing); got != want || !strings.Contains(want, "usr/bin/bindfs\n") {
		t.Errorf("files in the server's root:\n%s\nwant those of the image:\n%s", got, want)
	}
}

// execInServer runs a busybox script in the gVisor sandbox of the FS server of a volume whose source has busybox.
func execInServer(t *testing.T, v *harness.Volume, script string) harness.Result {
	t.Helper()
	runsc := env.Binary(t, "runsc")
	root := filepath.Join(env.RunDir, "runsc", v.Name)
	ids := strings.Fields(harness.Must(t, runsc, "--root="+root, "list", "-quiet"))
	if len(ids) != 1 {
		t.Fatalf("runsc list: %q, want one sandbox", ids)
	}
	return harness.Run(t, suiteTimeout, nil, runsc, "--root="+root, "exec", ids[0], "/source/busybox", "sh", "-c", script)
}

// TestApplicationSeesNothing verifies that a container finds only the file system at the mount: not the volume's own
// files, nor the server's root.
func TestApplicationSeesNothing(t *testing.T) {
	d := env.Docker(t)
	v := serve(t, volumeName(t), "bindfs")
	out := d.Shell(t, `ls -a /data; ls /data/../ | tr '\n' ' '; ls -d /source /fsva /data/gofer.sock /data/volume.json 2>&1 | grep -c 'No such'; grep ' /data ' /proc/mounts | wc -l`, v.Mount("/data"))
	lines := strings.Split(strings.TrimSpace(out), "\n")
	if len(lines) < 4 || lines[0] != "." || lines[1] != ".." || !strings.HasSuffix(lines[2], "4") || lines[3] != "1" {
		t.Errorf("output:\n%s", out)
	}
}

// TestConfinement reads from /proc what the kernel enforces on the gofer, and on an FS server in process isolation.
func TestConfinement(t *testing.T) {
	harness.NeedRoot(t)
	v := serve(t, volumeName(t), "bindfs", "--isolation", "process")
	var stat struct{ GoferPID, ServerPID int }
	r := env.FSVA(t, "stat", v.Name, "--json")
	if err := json.Unmarshal([]byte(r.Stdout), &stat); err != nil || stat.GoferPID == 0 || stat.ServerPID == 0 {
		t.Fatalf("fsva stat --json: %v\n%s%s", err, r.Stdout, r.Stderr)
	}
	gofer := statusOf(t, stat.GoferPID)
	for key, want := range map[string]string{"NoNewPrivs": "1", "Seccomp": "2", "CapEff": "0000000000000000", "CapPrm": "0000000000000000",
		"CapBnd": "0000000000000000"} {
		if gofer[key] != want {
			t.Errorf("gofer: %s is %s, want %s", key, gofer[key], want)
		}
	}
	// A volume that is written keeps its regions in unlinked files of a tmpfs.
	root := fmt.Sprintf("/proc/%d/root", stat.GoferPID)
	entries, err := os.ReadDir(root)
	if err != nil || len(entries) != 1 || entries[0].Name() != "copies" {
		t.Errorf("gofer's root: %v, %v; want nothing but copies", entries, err)
	}
	if entries, err := os.ReadDir(filepath.Join(root, "copies")); err != nil || len(entries) > 0 {
		t.Errorf("gofer's copies: %v, %v; want it empty", entries, err)
	}
	server := 0
	for _, p := range v.Processes() {
		if p.Comm == "bindfs" {
			server = p.PID
		}
	}
	if server == 0 {
		t.Fatalf("no bindfs process: %v", v.Processes())
	}
	if got := statusOf(t, server); got["NoNewPrivs"] != "1" || got["CapEff"] == statusOf(t, os.Getpid())["CapEff"] {
		t.Errorf("server: NoNewPrivs %s, CapEff %s", got["NoNewPrivs"], got["CapEff"])
	}
	for pid, kinds := range map[int][]string{stat.GoferPID: {"mnt", "net", "ipc", "uts"}, server: {"mnt", "net", "ipc", "uts", "pid"}} {
		for _, kind := range kinds {
			theirs, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/%s", pid, kind))
			if err != nil {
				t.Fatal(err)
			}
			if ours, err := os.Readlink("/proc/self/ns/" + kind); err != nil || ours == theirs {
				t.Errorf("process %d shares the machine's %s namespace (%v)", pid, kind, err)
			}
		}
	}
}

// statusOf reads /proc/PID/status.
func statusOf(t *testing.T, pid int) map[string]string {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	m := map[string]string{}
	for line := range strings.Lines(string(b)) {
		key, value, _ := strings.Cut(line, ":")
		m[key] = strings.TrimSpace(value)
	}
	return m
}

// TestStockBehaviour compares what our runsc says of itself with the stock one: the same commands and flags.
func TestStockBehaviour(t *testing.T) {
	harness.NeedRoot(t)
	ours, stock := env.Binary(t, "runsc"), env.Binary(t, "runsc-stock")
	for _, args := range [][]string{{"help"}, {"flags"}, {"help", "run"}, {"help", "gofer"}} {
		want := harness.Run(t, suiteTimeout, nil, append([]string{stock}, args...)...)
		got := harness.Run(t, suiteTimeout, nil, append([]string{ours}, args...)...)
		text := func(r harness.Result) string {
			return strings.ReplaceAll(strings.ReplaceAll(r.Stdout+r.Stderr, "runsc-stock", "runsc"), stock, ours)
		}
		if got.Code != want.Code || text(got) != text(want) {
			t.Errorf("runsc %s: exit code %d and %d bytes, stock has %d and %d", strings.Join(args, " "), got.Code, len(text(got)), want.Code, len(text(want)))
		}
	}
}
