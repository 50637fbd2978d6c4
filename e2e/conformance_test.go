// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"cmp"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"fsva/e2e/harness"
)

// place is somewhere the suites run: in a container with the file system at /data, or on the host.
type place struct {
	dir string
	// run runs a test binary with arguments and returns what it did.
	run func(t *testing.T, tool string, args ...string) harness.Result
}

const suiteTimeout = 5 * time.Minute

func inContainer(runtime, mount string) place {
	return place{dir: "/data", run: func(t *testing.T, tool string, args ...string) harness.Result {
		t.Helper()
		return env.Docker(t).Run(t, harness.Container{
			Runtime: runtime, Mounts: []string{mount, env.Tools(t) + ":/t:ro"}, Timeout: suiteTimeout,
			Args: append([]string{"/t/" + tool}, args...),
		})
	}}
}

func onHost(dir string) place {
	return place{dir: dir, run: func(t *testing.T, tool string, args ...string) harness.Result {
		t.Helper()
		return harness.Run(t, suiteTimeout, nil, append([]string{env.Binary(t, tool)}, args...)...)
	}}
}

// suites runs everything that fits the server in a place and returns the outcomes.
func (s server) suites(t *testing.T, p place) harness.Outcomes {
	t.Helper()
	all := harness.Outcomes{}
	at := func(sub string) string { return filepath.Join(p.dir, sub) }
	fscheck := func(args ...string) {
		t.Helper()
		r := p.run(t, "fscheck", args...)
		if r.Code != 0 {
			t.Fatalf("fscheck %q: exit code %d\n%s%s", args, r.Code, r.Stdout, r.Stderr)
		}
		got, err := harness.ParseFscheck(r.Stdout)
		if err != nil {
			t.Fatal(err)
		}
		all.Add(got)
	}
	tree := treeFlags(s.tree)
	if s.readOnly {
		fscheck(append([]string{"-dir", p.dir, "-mode", "tree"}, tree...)...)
		fscheck("-dir", p.dir, "-mode", "readonly")
		return all
	}
	fscheck("-dir", at("write"), "-mode", "write", "-skip", cmp.Or(s.skip, "^$"))
	r := p.run(t, "posix.test", "-test.v", "-test.timeout=4m", "-dir", at("posix"))
	got, err := harness.ParsePosix(r.Stdout + r.Stderr)
	if err != nil {
		t.Fatal(err)
	}
	all.Add(got)
	// Written by one container, read by the next.
	fscheck(append([]string{"-dir", at("tree"), "-mode", "prepare"}, tree...)...)
	fscheck(append([]string{"-dir", at("tree"), "-mode", "tree"}, tree...)...)
	return all
}

// TestServers runs the suites on each server, mounted on the kernel and as a volume in a container, and compares: a
// case may fail in the sandbox only if it fails on the kernel too, or if the table of limits says so, and that table
// may say nothing that is not so.
func TestServers(t *testing.T) {
	harness.NeedRoot(t)
	for _, s := range servers {
		t.Run(s.name(), func(t *testing.T) {
			t.Parallel()
			native := harness.Outcomes{}
			medium := s.source(t, env.TempDir(t), s.tree)
			if src := medium; src.native != nil {
				t.Run("native", func(t *testing.T) {
					native = s.suites(t, onHost(env.Native(t, src.native...)))
					report(t, native)
				})
			}
			for _, isolation := range s.isolations {
				t.Run(isolation, func(t *testing.T) {
					if !s.readOnly { // what the last one wrote is not for the next
						medium = s.source(t, env.TempDir(t), s.tree)
					}
					v := env.Serve(t, volumeName(t), append([]string{"--appliance", s.appliance, "--isolation", isolation}, medium.flags...)...)
					sandbox := s.suites(t, inContainer(harness.RuntimeOurs, v.Mount("/data")))
					report(t, sandbox)
					compare(t, limits[s.name()], native, sandbox)
				})
			}
		})
	}
}

// TestControl runs the writing suites where no code of ours is involved, which proves the cases and shows what the
// sentry itself does not do: on the host's own file system, and in stock runsc on a bind mount of it.
func TestControl(t *testing.T) {
	harness.NeedRoot(t)
	s := serverNamed(t, "dir")
	t.Run("host", func(t *testing.T) {
		got := s.suites(t, onHost(env.Tmpfs(t)))
		report(t, got)
		compare(t, limit{both: caseLimits, sandbox: caseLimits}, nil, got)
	})
	// The mode that exclusive volumes use, and so the limits that they inherit.
	t.Run("stock-runsc", func(t *testing.T) {
		got := s.suites(t, inContainer(harness.RuntimeStockExclusive, env.Tmpfs(t)+":/data"))
		report(t, got)
		compare(t, limit{sandbox: sentryLimits}, nil, got)
	})
}

func report(t *testing.T, o harness.Outcomes) {
	t.Helper()
	failed := o.Failed()
	var b strings.Builder
	for _, name := range failed {
		fmt.Fprintf(&b, "\n  %s: %.200s", name, o[name])
	}
	t.Logf("%d passed, %d failed%s", len(o)-len(failed), len(failed), b.String())
}

// compare checks the outcomes against the limits declared for the server. native is empty for a server that the kernel
// cannot mount: every case is then expected to pass.
func compare(t *testing.T, l limit, native, sandbox harness.Outcomes) {
	t.Helper()
	names := maps.Clone(native)
	if names == nil {
		names = harness.Outcomes{}
	}
	names.Add(sandbox)
	for _, m := range []map[string]string{l.both, l.sandbox, l.native} {
		for name := range m {
			names[name] = ""
		}
	}
	for _, name := range slices.Sorted(maps.Keys(names)) {
		inSandbox, ran := sandbox[name]
		onKernel := native[name]
		_, unsteady := l.either[name]
		switch {
		case !ran:
			t.Errorf("%s: did not run in the sandbox", name)
		case unsteady:
		case inSandbox != "" && onKernel != "":
			if l.both[name] == "" && sentryLimits[name] == "" && caseLimits[name] == "" {
				t.Errorf("%s: fails, as on the kernel, but is no known limit: %s (kernel: %s)", name, inSandbox, onKernel)
			}
		case inSandbox != "":
			if l.sandbox[name] == "" && sentryLimits[name] == "" && caseLimits[name] == "" {
				t.Errorf("%s: fails in the sandbox only: %s", name, inSandbox)
			}
		case onKernel != "":
			if l.native[name] == "" {
				t.Errorf("%s: fails on the kernel only: %s", name, onKernel)
			}
		case l.both[name] != "" || l.sandbox[name] != "" || l.native[name] != "":
			t.Errorf("%s: passes now; remove it from the limits", name)
		}
	}
}

// TestAppliancesCovered verifies that no appliance of images/ is missing from the table of servers.
func TestAppliancesCovered(t *testing.T) {
	dirs, err := filepath.Glob("../images/*/appliance.toml")
	if err != nil || len(dirs) == 0 {
		t.Fatalf("no appliances: %v", err)
	}
	for _, d := range dirs {
		name := filepath.Base(filepath.Dir(d))
		if name == "vm" { // any file system that a virtual machine has: TestVMExport
			continue
		}
		if !slices.ContainsFunc(servers, func(s server) bool { return s.appliance == name }) {
			t.Errorf("appliance %s has no entry in servers", name)
		}
	}
	if _, err := os.Stat("../images/dir"); err != nil {
		t.Error(err)
	}
}
