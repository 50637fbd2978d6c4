// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build bench

package vm

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"fsva/e2e/bench/driver"
	"fsva/e2e/guest"
	"fsva/e2e/harness"
)

var (
	quickFlag   = flag.Bool("quick", false, "one round")
	columnsFlag = flag.String("columns", "", "comma-separated `names` of columns (default all)")
	roundsFlag  = flag.Int("rounds", 0, "how often every column runs every row (default 5)")
	outFlag     = flag.String("out", "bench-results", "`directory` for vm.md and vm.json; relative to the repository")
)

// env is set before the tests start; nil without root.
var env *harness.Env

func TestMain(m *testing.M) {
	flag.Parse()
	os.Exit(harness.Main(m.Run, func(e *harness.Env) { env = e }))
}

// TestVirtualMachines boots one guest that has every column at once, and mounts one after the other.
func TestVirtualMachines(t *testing.T) {
	harness.NeedRoot(t)
	columns := selectColumns(t)
	rounds := *roundsFlag
	switch {
	case rounds == 0 && *quickFlag:
		rounds = 1
	case rounds == 0:
		rounds = 5
	}
	out := *outFlag
	if !filepath.IsAbs(out) {
		out = filepath.Join(env.Root, out)
	}

	dir := env.Tmpfs(t)
	if err := os.Mkdir(filepath.Join(dir, "files"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := driver.Create(filepath.Join(dir, "files"), smallFiles, smallFileSize); err != nil {
		t.Fatal(err)
	}
	harness.Must(t, env.Binary(t, "guest-work"), "generate", filepath.Join(dir, "big"), fmt.Sprint(bigFileSize))
	g := boot(t, dir)
	g.Write(t, "/tmp/names", names(), 0o644)
	g.Shell(t, "mkdir /data")

	report := &Report{Facts: []string{
		time.Now().UTC().Format("2006-01-02 15:04") + " UTC",
		"guest: Linux " + g.Kernel() + ", 1 processor emulated by QEMU (tcg), 1 GiB; the directory is a tmpfs of the host",
		"guest's kernel may cache names, attributes and data for good in all columns but c-auto, where it asks again after a second",
	}}
	for round := range rounds {
		for i := range columns {
			c := columns[(i+round)%len(columns)] // not always the same one first
			for _, row := range Rows() {
				report.Add(row.Name, c.Name, sample(t, g, c, row))
			}
			g.Shell(t, "umount /data")
			fmt.Fprintf(os.Stderr, "bench: virtual machine, round %d of %d: %s\n", round+1, rounds, c.Name)
		}
		report.Rounds = round + 1
		if err := report.Write(out); err != nil {
			t.Fatal(err)
		}
	}
	fmt.Print(report.Markdown())
}

func selectColumns(t *testing.T) []Column {
	t.Helper()
	if *columnsFlag == "" {
		return Columns()
	}
	var selected []Column
	for name := range strings.SplitSeq(*columnsFlag, ",") {
		found := false
		for _, c := range Columns() {
			if c.Name == name {
				selected, found = append(selected, c), true
			}
		}
		if !found {
			t.Fatalf("no column %q", name)
		}
	}
	return selected
}

// boot starts a guest with the directory behind all devices that the columns mount.
func boot(t *testing.T, dir string) *guest.Guest {
	t.Helper()
	at := env.TempDir(t)
	sock := func(name string) string { return filepath.Join(at, name) }
	// Two exclusive volumes: a virtio-fs device is a client from when QEMU starts. Nothing is written.
	serve := func(name string, flags ...string) {
		t.Helper()
		env.Serve(t, fmt.Sprintf("fsva-bench-%s-%d", name, os.Getpid()), append([]string{"--appliance", "dir", "--source", dir}, flags...)...)
	}
	serve("virtiofs", "--listen", "virtiofs:"+sock("ours"))
	serve("vsock", "--listen", "vhost-user-vsock:"+sock("vsock"), "--window-socket", sock("window"), "--window", "64M")
	args := guest.VirtiofsDevice("always", guest.Virtiofsd(t, env, dir, "always"))
	args = append(args, guest.VirtiofsDevice("auto", guest.Virtiofsd(t, env, dir, "auto"))...)
	args = append(args, guest.VirtiofsDevice("ours", sock("ours"))...)
	args = append(args, guest.VsockDevice(sock("vsock"))...)
	args = append(args, guest.WindowDevice(sock("window"))...)
	return guest.Boot(t, env, guest.Config{
		Memory: 1024, Modules: []string{"virtiofs", "vmw_vsock_virtio_transport"}, Args: args,
		Files: map[string]string{"/bin/fsva": env.Binary(t, "fsva"), "/bin/work": env.Binary(t, "guest-work")},
	})
}

// names returns the paths of the small files in the guest.
func names() []byte {
	var b []byte
	for i := range smallFiles {
		b = fmt.Appendf(b, "/data/files/d%03d/f%05d\n", i/filesPerDir, i)
	}
	return b
}

// sample measures one row.
func sample(t *testing.T, g *guest.Guest, c Column, row Row) float64 {
	t.Helper()
	if row.Fresh {
		g.Shell(t, "if grep -q ' /data ' /proc/mounts; then umount /data; fi; echo 3 > /proc/sys/vm/drop_caches; "+c.Mount)
	}
	if row.Before != "" {
		g.Shell(t, row.Before)
	}
	// Output over the emulated port is not what is measured.
	args := row.Args
	if !row.Rate {
		args = append([]string{"sh", "-c", `"$@" > /dev/null`, "sh"}, row.Args...)
	}
	r := g.Run(t, guest.Command{Args: args, Timeout: 5 * time.Minute})
	if r.Code != 0 {
		t.Fatalf("%s, %s: exit code %d\n%s", c.Name, row.Name, r.Code, r.Stderr)
	}
	if !row.Rate {
		return r.Elapsed.Seconds()
	}
	rate, err := strconv.ParseFloat(strings.TrimSpace(r.Stdout), 64)
	if err != nil || rate <= 0 {
		t.Fatalf("%s, %s: %q: %v", c.Name, row.Name, r.Stdout, err)
	}
	return rate
}
