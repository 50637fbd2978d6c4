// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"strings"
	"testing"

	"fsva/e2e/guest"
	"fsva/e2e/harness"
)

// TestCgroup2 runs dedicated volumes with limits where all controllers are in version 2's hierarchy: in a guest, so that
// it does not matter what this machine has mounted.
func TestCgroup2(t *testing.T) {
	harness.NeedRoot(t)
	g := guest.Boot(t, env, guest.Config{Files: map[string]string{
		"/bin/fsva": env.Binary(t, "fsva"), "/bin/cgroup.test": env.Binary(t, "cgroup.test"),
	}})
	g.Shell(t, "mount -t cgroup2 none /sys/fs/cgroup; mkdir -p /sys/fs/cgroup/a.slice/b.service /sys/fs/cgroup/c")
	for _, in := range []string{"/", "/a.slice/b.service"} {
		out := g.Shell(t, "echo $$ >/sys/fs/cgroup"+in+"/cgroup.procs; cgroup.test -test.v -test.run '^TestKernel$'")
		if !strings.Contains(out, "--- PASS: TestKernel") {
			t.Errorf("in %s:\n%s", in, out)
		}
	}

	const vars = "export FSVA_RUNDIR=/run/fsva FSVA_STATEDIR=/run/state; cd /run; "
	g.Shell(t, vars+"fsva volume create v --appliance mem --dedicated --cpus 1.5 --memory 256M --pids 300")
	// start starts an instance as our runsc does, from a process in the cgroup, and returns its report. It stays until
	// the process holder ends.
	start := func(in string) string {
		t.Helper()
		return g.Shell(t, vars+"echo $$ >/sys/fs/cgroup"+in+`/cgroup.procs
			rm -f hold report; mkfifo hold report; exec 5<>hold 6<>report
			sleep 1000 6<&- </dev/null >/dev/null 2>&1 & echo $! >holder
			fsva serve v --launched --instance=v.0123456789abcdef 3>report 4<hold 5<&- 6<&- </dev/null >log 2>&1 & echo $! >fsva.pid
			read -r line <&6; echo "$line"`)
	}
	// check looks at the instance's group, and what is in it.
	check := func() {
		t.Helper()
		got := g.Shell(t, "cd /sys/fs/cgroup/fsva-*; head -n 1 cpu.max memory.max pids.max; wc -l <cgroup.procs; grep -cx $(cat /run/fsva.pid) cgroup.procs")
		want := "==> cpu.max <==\n150000 100000\n\n==> memory.max <==\n268435456\n\n==> pids.max <==\n300\n" +
			"2\n1\n" // fsva and its gofer
		if got != want {
			t.Errorf("the instance's group has %q, want %q", got, want)
		}
	}
	// gone waits for the end of the group.
	gone := func() {
		t.Helper()
		g.Shell(t, "while ls -d /sys/fs/cgroup/fsva-*; do sleep 0.1; done")
	}
	if report := start("/a.slice/b.service"); report != `{"error":""}`+"\n" {
		t.Fatalf("report %q\n%s", report, g.Read(t, "/run/log"))
	}
	check()
	g.Shell(t, "kill $(cat /run/holder)")
	gone()

	start("/")
	check()
	g.Shell(t, vars+"kill -9 $(cat fsva.pid); kill $(cat holder); while kill -0 $(cat fsva.pid); do sleep 0.1; done; fsva ls")
	gone()

	// Where the top that we see is not the machine's, it may have processes, and can have no groups with controllers then.
	g.Shell(t, "mount --bind /sys/fs/cgroup/c /sys/fs/cgroup")
	if report := start("/"); !strings.Contains(report, "holds processes, so it cannot have groups") {
		t.Errorf("report %q", report)
	}
	g.Shell(t, "kill $(cat /run/holder)")
	gone()
}
