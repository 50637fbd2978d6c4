// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package doctor

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// healthy is a machine on which everything is there, by file.
var healthy = map[string]string{
	"proc/sys/kernel/osrelease":                       "6.1.0-18-amd64\n",
	"proc/self/status":                                "Name:\tfsva\nUid:\t0\t0\t0\t0\nCapEff:\t000001ffffffffff\n",
	"proc/self/limits":                                "Limit                     Soft Limit           Hard Limit           Units     \nMax open files            1024                 1048576              files     \n",
	"proc/sys/user/max_user_namespaces":               "63000\n",
	"proc/pressure/memory":                            "some avg10=0.00\n",
	"sys/fs/cgroup/cgroup.controllers":                "cpuset cpu io memory pids\n",
	"dev/fuse":                                        "",
	"usr/bin/mmdebstrap":                              "",
	"usr/sbin/dockerd":                                "",
	"usr/bin/containerd":                              "",
	"usr/local/lib/fsva/bin/runsc":                    "",
	"usr/local/lib/fsva/bin/containerd-shim-runsc-v1": "",
	"usr/local/lib/fsva/bin/libfsvamount.so":          "",
	"etc/docker/daemon.json":                          `{"runtimes": {"runsc": {"path": "/usr/local/lib/fsva/bin/runsc"}}}`,
	"etc/containerd/runsc.toml":                       "binary_name = \"/usr/local/lib/fsva/bin/runsc\"\n",
	"etc/containerd/config.toml":                      "version = 3\n[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.gvisor]\nruntime_type = 'io.containerd.runsc.v1'\noptions = {TypeUrl = 'io.containerd.runsc.v1.options', ConfigPath = '/etc/containerd/runsc.toml'}\n",
	"run/fsva/volumes/.keep":                          "",
	"var/lib/fsva/.keep":                              "",
}

const fakeVersion = "runsc version 0.0.0-20260905035102-160fafc42237+fsva\nspec: 1.1.0\n"

// fake makes a healthy machine with changes: nil removes a file.
func fake(t *testing.T, changes map[string]*string) Machine {
	t.Helper()
	root := t.TempDir()
	files := make(map[string]string)
	for path, text := range healthy {
		files[path] = text
	}
	for path, text := range changes {
		if text == nil {
			delete(files, path)
			continue
		}
		files[path] = *text
	}
	for path, text := range files {
		path = filepath.Join(root, path)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return Machine{
		Root: root, RunDir: "/run/fsva", StateDir: "/var/lib/fsva", Runsc: "/usr/local/lib/fsva/bin/runsc",
		Library: "/usr/local/lib/fsva/bin/libfsvamount.so",
		GVisor:  "v0.0.0-20260905035102-160fafc42237",
		Version: func(context.Context, string) (string, error) { return fakeVersion, nil },
	}
}

func TestHealthy(t *testing.T) {
	findings := Examine(t.Context(), fake(t, nil))
	for _, f := range findings {
		if f.Level != OK || f.Advice != "" || f.Found == "" || f.Check == "" {
			t.Errorf("got %+v", f)
		}
	}
	if !Healthy(findings) {
		t.Error("not healthy")
	}
}

func TestFindings(t *testing.T) {
	text := func(s string) *string { return &s }
	says := func(s string) func(*Machine) {
		return func(m *Machine) { m.Version = func(context.Context, string) (string, error) { return s, nil } }
	}
	for _, tc := range []struct {
		name    string
		files   map[string]*string
		machine func(*Machine)
		check   string
		level   Level
		want    string // in what is found or advised
	}{
		{"old kernel", map[string]*string{"proc/sys/kernel/osrelease": text("5.10.0-28-amd64")}, nil, "kernel", Fail, "5.12 or later"},
		{"older kernel", map[string]*string{"proc/sys/kernel/osrelease": text("4.19.0")}, nil, "kernel", Fail, "5.12 or later"},
		{"odd kernel", map[string]*string{"proc/sys/kernel/osrelease": text("next")}, nil, "kernel", Warn, "next"},
		{"no proc", map[string]*string{"proc/sys/kernel/osrelease": nil}, nil, "kernel", Fail, "mount /proc"},
		{"user", map[string]*string{"proc/self/status": text("Uid:\t1000\t1000\t1000\t1000\nCapEff:\t0000000000000000\n")}, nil, "privilege", Warn, "user 1000"},
		{"user's capabilities", map[string]*string{"proc/self/status": text("Uid:\t1000\t1000\t1000\t1000\nCapEff:\t0000000000000000\n")}, nil, "capabilities", OK, "not root's"},
		{"root of a container", map[string]*string{"proc/self/status": text("Uid:\t0\t0\t0\t0\nCapEff:\t00000000a80425fb\n")}, nil, "capabilities", Fail, "--cap-add"},
		{"no CAP_SYS_RESOURCE", map[string]*string{"proc/self/status": text("Uid:\t0\t0\t0\t0\nCapEff:\t000001fffeffffff\n")}, nil, "capabilities", Warn, "no CAP_SYS_RESOURCE"},
		{"no capabilities known", map[string]*string{"proc/self/status": text("Uid:\t0\t0\t0\t0\n")}, nil, "capabilities", Warn, "unknown"},
		{"few files without CAP_SYS_RESOURCE", map[string]*string{
			"proc/self/status": text("Uid:\t0\t0\t0\t0\nCapEff:\t000001fffeffffff\n"),
			"proc/self/limits": text("Max open files            1024                 20000                files\n"),
		}, nil, "limit of open files", Warn, "FS servers hold fewer files open"},
		{"no fuse", map[string]*string{"dev/fuse": nil}, nil, "/dev/fuse", Warn, "modprobe fuse"},
		{"no user namespaces", map[string]*string{"proc/sys/user/max_user_namespaces": nil}, nil, "user namespaces", Fail, "CONFIG_USER_NS"},
		{"user namespaces off", map[string]*string{"proc/sys/user/max_user_namespaces": text("0\n")}, nil, "user namespaces", Fail, "sysctl"},
		{"no cgroups", map[string]*string{"sys/fs/cgroup/cgroup.controllers": nil}, nil, "cgroups", Warn, "none at /sys/fs/cgroup"},
		{"cgroups without memory", map[string]*string{"sys/fs/cgroup/cgroup.controllers": text("cpu pids memory.high\n")}, nil, "cgroups", Warn, "version 2 without memory"},
		{"cgroups version 1", map[string]*string{"sys/fs/cgroup/cgroup.controllers": nil, "sys/fs/cgroup/cpu/x": text(""), "sys/fs/cgroup/memory/x": text(""), "sys/fs/cgroup/pids/x": text("")}, nil,
			"cgroups", OK, "version 1"},
		{"no PSI", map[string]*string{"proc/pressure/memory": nil}, nil, "memory pressure (PSI)", Warn, "psi=1"},
		{"few files", map[string]*string{"proc/self/limits": text("Max open files            1024                 4096                 files\n")}, nil, "limit of open files", Warn, "fsva serve raises its own, but"},
		{"any number of files", map[string]*string{"proc/self/limits": text("Max open files            1024                 unlimited            files\n")}, nil, "limit of open files", OK, "unlimited"},
		{"no runsc", map[string]*string{"usr/local/lib/fsva/bin/runsc": nil}, nil, "runsc", Fail, "make build"},
		{"runsc not found", nil, func(m *Machine) { m.Runsc = "" }, "runsc", Fail, "FSVA_RUNSC"},
		{"runsc not found, docker", nil, func(m *Machine) { m.Runsc = "" }, "docker", Warn, "see runsc"},
		{"runsc does not run", nil, func(m *Machine) {
			m.Version = func(context.Context, string) (string, error) { return "", errors.New("exec format error") }
		}, "runsc", Fail, "exec format error"},
		{"not a runsc", nil, says("runc version 1.1\n"), "runsc", Fail, "is no runsc"},
		{"stock runsc", nil, says("runsc version release-20260101.0\n"), "runsc", Warn, "cannot mount volumes"},
		{"runsc of another build", nil, says("runsc version 0.0.0-20250101000000-000000000000+fsva\n"), "runsc", Warn, "one build"},
		{"no shim", map[string]*string{"usr/local/lib/fsva/bin/containerd-shim-runsc-v1": nil}, nil, "containerd's shim", Warn, "make build"},
		{"no library", map[string]*string{"usr/local/lib/fsva/bin/libfsvamount.so": nil}, nil, "libfsvamount.so", Warn, "ntfs"},
		{"docker not registered", map[string]*string{"etc/docker/daemon.json": text("{}")}, nil, "docker", Warn, "fsva install docker"},
		{"docker has another runsc", map[string]*string{"etc/docker/daemon.json": text(`{"runtimes": {"runsc": {"path": "/usr/bin/runsc"}}}`)}, nil, "docker", Warn, "fsva install docker"},
		{"docker's file is wrong", map[string]*string{"etc/docker/daemon.json": text("{\n,}")}, nil, "docker", Fail, "daemon.json: line 2"},
		{"no docker", map[string]*string{"etc/docker/daemon.json": nil, "usr/sbin/dockerd": nil}, nil, "docker", OK, "not installed"},
		{"containerd not registered", map[string]*string{"etc/containerd/config.toml": nil}, nil, "containerd", Warn, "fsva install containerd"},
		{"containerd's file is wrong", map[string]*string{"etc/containerd/config.toml": text("version =")}, nil, "containerd", Fail, "config.toml: line 1"},
		{"no run directory", map[string]*string{"run/fsva/volumes/.keep": nil}, nil, "run directory", OK, "not there yet"},
		{"state directory is a file", map[string]*string{"var/lib/fsva/.keep": nil, "var/lib/fsva": text("")}, nil, "state directory", Fail, "not a directory"},
		{"run directory for all", nil, func(m *Machine) {
			if err := os.Chmod(filepath.Join(m.Root, m.RunDir), 0o777); err != nil {
				panic(err)
			}
		}, "run directory", Fail, "chmod go-w /run/fsva"},
		{"no mmdebstrap", map[string]*string{"usr/bin/mmdebstrap": nil}, nil, "mmdebstrap", Warn, "apt-get install mmdebstrap"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			m := fake(t, tc.files)
			if tc.machine != nil {
				tc.machine(&m)
			}
			findings := Examine(t.Context(), m)
			found := false
			for _, f := range findings {
				if strings.Contains(f.Found+f.Advice, "\n") {
					t.Errorf("%+v has several lines", f)
				}
				if (f.Advice == "") != (f.Level == OK) {
					t.Errorf("%+v: advice and level do not agree", f)
				}
				if f.Check != tc.check {
					continue
				}
				found = true
				if f.Level != tc.level || !strings.Contains(f.Found+"; "+f.Advice, tc.want) {
					t.Errorf("got %+v, want %s with %q", f, tc.level, tc.want)
				}
			}
			if !found {
				t.Errorf("no check %q", tc.check)
			}
			if tc.level == Fail && Healthy(findings) {
				t.Error("healthy with a failure")
			}
		})
	}
}

// TestHere examines this machine, whatever it is like.
func TestHere(t *testing.T) {
	for _, f := range Examine(t.Context(), Machine{RunDir: t.TempDir(), StateDir: t.TempDir()}) {
		if f.Check == "kernel" && f.Level == Fail {
			t.Errorf("the tests run, and yet: %+v", f)
		}
	}
}
