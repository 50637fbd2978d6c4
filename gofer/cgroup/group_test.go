// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package cgroup

import (
	"errors"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// fake is a machine whose cgroups are plain files. A new group has the files of the
// controllers that have any.
func fake(t *testing.T, files map[string]string, inGroups ...string) machine {
	t.Helper()
	root := t.TempDir()
	write := func(path, text string) {
		t.Helper()
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	for name, text := range files {
		write(filepath.Join(root, name), text)
	}
	return machine{
		root: root,
		mkdir: func(path string) error {
			if err := os.Mkdir(path, 0o755); err != nil {
				return err
			}
			for _, f := range append(inGroups, "cgroup.procs") {
				write(filepath.Join(path, f), "")
			}
			return nil
		},
		rmdir: func(path string) error {
			if _, err := os.Stat(path); err != nil {
				return unix.ENOENT
			}
			return os.RemoveAll(path)
		},
	}
}

// contents are the files below the machine's /sys, those of fake included.
func contents(t *testing.T, m machine) map[string]string {
	t.Helper()
	all := map[string]string{}
	top := filepath.Join(m.root, "sys/fs/cgroup")
	if err := filepath.WalkDir(top, func(path string, e os.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		data, err := os.ReadFile(path)
		rel, _ := filepath.Rel(top, path)
		all[rel] = string(data)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return all
}

var (
	machineV2 = map[string]string{
		"proc/self/cgroup": "0::/a.slice/b.service\n", "proc/self/mountinfo": mountV2 + "\n",
		"sys/fs/cgroup/cgroup.controllers":               "cpuset cpu io memory pids\n",
		"sys/fs/cgroup/cgroup.subtree_control":           "",
		"sys/fs/cgroup/cgroup.procs":                     "",
		"sys/fs/cgroup/a.slice/b.service/cgroup.procs":   "",
		"sys/fs/cgroup/a.slice/b.service/memory.current": "",
	}
	machineV1 = map[string]string{
		"proc/self/cgroup": "4:memory:/docker/x\n3:pids:/\n1:cpu,cpuacct:/\n0::/\n",
		"proc/self/mountinfo": mountV1 + "\n" +
			"31 24 0:28 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n" +
			"32 24 0:29 / /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids\n" +
			"33 24 0:30 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n",
		"sys/fs/cgroup/memory/docker/x/cgroup.procs": "", "sys/fs/cgroup/pids/cgroup.procs": "",
		"sys/fs/cgroup/cpu,cpuacct/cgroup.procs": "",
	}
	all = Limits{CPU: 1.5, Memory: 1 << 30, Pids: 100}
)

func TestGroup(t *testing.T) {
	pid := strconv.Itoa(os.Getpid())
	for name, tc := range map[string]struct {
		machine map[string]string
		files   []string
		in, out map[string]string // what has changed below /sys/fs/cgroup
	}{
		"version 2": {machineV2, []string{"cpu.max", "memory.max", "pids.max"}, map[string]string{
			"cgroup.subtree_control": "+pids", // the last of three writes
			"fsva-v/cpu.max":         "150000 100000", "fsva-v/memory.max": "1073741824", "fsva-v/pids.max": "100",
			"fsva-v/cgroup.procs": pid,
		}, map[string]string{"cgroup.subtree_control": "+pids", "a.slice/b.service/cgroup.procs": pid}},
		"version 1": {machineV1, []string{"cpu.cfs_quota_us", "memory.limit_in_bytes", "pids.max"}, map[string]string{
			"cpu,cpuacct/fsva-v/cpu.cfs_quota_us": "150000", "memory/fsva-v/memory.limit_in_bytes": "1073741824",
			"pids/fsva-v/pids.max":            "100",
			"cpu,cpuacct/fsva-v/cgroup.procs": pid, "memory/fsva-v/cgroup.procs": pid, "pids/fsva-v/cgroup.procs": pid,
		}, map[string]string{"cpu,cpuacct/cgroup.procs": pid, "pids/cgroup.procs": pid, "memory/docker/x/cgroup.procs": pid}},
	} {
		t.Run(name, func(t *testing.T) {
			m := fake(t, tc.machine, tc.files...)
			before := contents(t, m)
			changed := func() map[string]string {
				c := map[string]string{}
				for name, text := range contents(t, m) {
					if was, had := before[name]; text != was || !had && text != "" {
						c[name] = text
					}
				}
				return c
			}
			g, err := m.enter("v", all)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(changed(), tc.in); diff != "" {
				t.Errorf("entered (-got +want):\n%s", diff)
			}
			for range 2 {
				if err := g.Leave(); err != nil {
					t.Error(err)
				}
			}
			if diff := cmp.Diff(changed(), tc.out); diff != "" {
				t.Errorf("left (-got +want):\n%s", diff)
			}
			// What a killed process leaves.
			if _, err := m.enter("v", all); err != nil {
				t.Fatal(err)
			}
			for range 2 {
				if err := m.removeAll("v"); err != nil {
					t.Error(err)
				}
			}
			if diff := cmp.Diff(changed(), tc.out); diff != "" {
				t.Errorf("removed (-got +want):\n%s", diff)
			}
			if _, err := m.enter("v", all); err != nil {
				t.Fatal(err)
			}
			if _, err := m.enter("v", all); !errors.Is(err, unix.EEXIST) {
				t.Errorf("entered twice: %v", err)
			}
		})
	}
}

// TestEnterErrors: one line, and nothing is left.
func TestEnterErrors(t *testing.T) {
	for name, tc := range map[string]struct {
		machine map[string]string
		files   []string
		want    string
	}{
		"no cgroups":           {map[string]string{"proc/self/cgroup": "", "proc/self/mountinfo": "", "sys/fs/cgroup/x": ""}, nil, "limit of cpu: this machine has no such cgroup controller"},
		"no such controller":   {map[string]string{"proc/self/cgroup": "0::/\n", "proc/self/mountinfo": mountV2, "sys/fs/cgroup/cgroup.controllers": "io\n"}, nil, "does not have this cgroup controller"},
		"the kernel's refusal": {machineV1, []string{"cpu.cfs_quota_us", "memory.limit_in_bytes"}, "pids.max: no such file"},
	} {
		t.Run(name, func(t *testing.T) {
			m := fake(t, tc.machine, tc.files...)
			g, err := m.enter("v", all)
			if err == nil || !strings.Contains(err.Error(), tc.want) || strings.Contains(err.Error(), "\n") {
				t.Errorf("got %+v, %v, want %q", g, err, tc.want)
			}
			for file := range contents(t, m) {
				if strings.Contains(file, "fsva-v") {
					t.Errorf("left %s", file)
				}
			}
		})
	}
	g, err := machine{root: "/nonexistent"}.enter("v", Limits{})
	if err != nil || g.Dirs() != nil || g.Leave() != nil {
		t.Errorf("without limits: %+v, %v", g, err)
	}
}

// TestKernel makes a group with all limits on this machine, if it lets us. The end-to-end tests run it on version 2.
func TestKernel(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	own, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		t.Fatal(err)
	}
	name := "test-" + strconv.Itoa(os.Getpid())
	g, err := Enter(name, all)
	if errors.Is(err, unix.EROFS) || err != nil && strings.Contains(err.Error(), "no such cgroup controller") {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	limits := 0
	for _, dir := range g.Dirs() {
		data, err := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
		if err != nil || !strings.Contains("\n"+string(data), "\n"+strconv.Itoa(os.Getpid())+"\n") {
			t.Errorf("%s: %q, %v", dir, data, err)
		}
		for _, s := range all.settings() {
			for file, want := range map[string]string{s.v1File: s.v1, s.v2File: s.v2} {
				data, err := os.ReadFile(filepath.Join(dir, file))
				if errors.Is(err, os.ErrNotExist) {
					continue
				}
				if err != nil || string(data) != want+"\n" {
					t.Errorf("%s in %s: %q, %v; want %q", file, dir, data, err, want)
				}
				limits++
			}
		}
	}
	if limits != 3 {
		t.Errorf("%d limits in %v", limits, g.Dirs())
	}
	dirs := g.Dirs()
	if err := g.Leave(); err != nil {
		t.Error(err)
	}
	for _, dir := range dirs {
		if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s is left", dir)
		}
	}
	if now, err := os.ReadFile("/proc/self/cgroup"); err != nil || string(now) != string(own) {
		t.Errorf("left, the process is in %q, %v; it was in %q", now, err, own)
	}
}

func TestLimits(t *testing.T) {
	for _, l := range []Limits{{}, all, {CPU: MinCPU, Memory: MinMemory, Pids: MinPids}} {
		if err := l.Check(); err != nil {
			t.Errorf("%+v: %v", l, err)
		}
	}
	for _, l := range []Limits{{CPU: -1}, {CPU: 0.001}, {CPU: math.NaN()}, {CPU: math.Inf(1)}, {Memory: -1}, {Memory: 1}, {Pids: 1}, {Pids: math.MaxInt64}} {
		if l.Check() == nil {
			t.Errorf("%+v is accepted", l)
		}
	}
}
