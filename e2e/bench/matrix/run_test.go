// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build bench

package matrix

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"fsva/e2e/harness"
)

var (
	quickFlag   = flag.Bool("quick", false, "fewer rows and columns, and as many rounds as fit in 5 minutes")
	rowsFlag    = flag.String("rows", "", "comma-separated `names` of rows or workloads (default all)")
	columnsFlag = flag.String("columns", "", "comma-separated `names` of columns (default all)")
	roundsFlag  = flag.Int("rounds", 0, "how often every column runs every row (default 5)")
	outFlag     = flag.String("out", "bench-results", "`directory` for matrix.md, .json and .svg; relative to the repository")
)

// quickTime is what a quick run may take: after it, no round begins that would take longer.
const quickTime = 270 * time.Second

// env is what the run shares; nil without root. Set before it starts.
var env *harness.Env

func TestMain(m *testing.M) {
	flag.Parse()
	os.Exit(harness.Main(m.Run, func(e *harness.Env) { env = e }))
}

// TestMatrix runs the matrix and writes the report. It fails if something cannot be measured; it judges no time.
func TestMatrix(t *testing.T) {
	harness.NeedRoot(t)
	harness.NeedKernelFUSE(t)
	columns, err := SelectColumns(*columnsFlag, *quickFlag)
	if err != nil {
		t.Fatal(err)
	}
	workloads, err := SelectWorkloads(*rowsFlag, *quickFlag)
	if err != nil {
		t.Fatal(err)
	}
	r := &Report{Quick: *quickFlag, Columns: columns}
	rounds := *roundsFlag
	if rounds <= 0 {
		rounds = 5
	}
	for _, w := range workloads {
		r.Rows = append(r.Rows, w.Rows()...)
	}
	out := *outFlag
	if !filepath.IsAbs(out) {
		out = filepath.Join(env.Root, out)
	}
	r.Machine = machine(t)

	start := time.Now()
	s := newSite(t, columns)
	for _, w := range workloads {
		progress("preparing %s", w.Name)
		s.prepare(t, &w)
	}
	for r.Rounds < rounds {
		began := time.Now()
		for _, w := range workloads {
			for i := range columns {
				// Not always the same column first.
				col := columns[(i+r.Rounds)%len(columns)]
				progress("%3.0f s: round %d of %d, %s, %s", time.Since(start).Seconds(), r.Rounds+1, rounds, w.Name, col.Name)
				measure(t, s, r, &w, col)
			}
		}
		r.Rounds++
		// After each round: a run that is interrupted leaves what it has.
		if err := r.Write(out); err != nil {
			t.Fatal(err)
		}
		if r.Quick && r.Rounds < rounds && time.Since(start)+time.Since(began) > quickTime {
			progress("no time for another round")
			break
		}
	}
	for _, f := range r.Failures() {
		t.Error(f)
	}
	fmt.Print(r.Markdown())
	progress("wrote %s/matrix.{md,json,svg}", out)
}

// attempts is how often a session that fails is tried. Compilers were seen to die of a signal now and then under stock
// runsc, without any FS server, for a reason not known. The report names every failure.
const attempts = 3

// measure takes one sample of every row of the workload in one column. What fails is recorded, and does not end the run.
func measure(t *testing.T, s *site, r *Report, w *Workload, col Column) {
	done := map[string]bool{}
	for range attempts {
		failed := errors.New("no session: see the log")
		t.Run(fmt.Sprintf("%s/%d/%s", w.Name, r.Rounds+1, col.Name), func(t *testing.T) {
			session := s.start(t, w, col)
			failed = session.prepare(w)
			for _, step := range w.Steps {
				var sample float64
				if failed == nil {
					sample, failed = session.sample(w, step)
				}
				if failed == nil && step.Row != nil && !done[step.Row.Name] {
					r.Add(step.Row.Name, col.Name, sample)
					done[step.Row.Name] = true
				}
			}
			session.failed = failed != nil
		})
		if failed == nil {
			return
		}
		progress("%s, %s: %v", w.Name, col.Name, failed)
		r.Repeat(w.Name, col.Name, failed)
	}
	for _, row := range w.Rows() {
		if !done[row.Name] {
			r.Fail(row.Name, col.Name, fmt.Errorf("%d attempts in round %d, all failed", attempts, r.Rounds+1))
		}
	}
}

// progress tells whoever watches where the run is.
func progress(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "bench: "+format+"\n", args...)
}

// machine describes the machine.
func machine(t *testing.T) []string {
	t.Helper()
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		t.Fatal(err)
	}
	var fs unix.Statfs_t
	if err := unix.Statfs(env.Dir, &fs); err != nil {
		t.Fatal(err)
	}
	local := fmt.Sprintf("type %#x", fs.Type)
	switch fs.Type {
	case unix.EXT4_SUPER_MAGIC:
		local = "ext4"
	case unix.XFS_SUPER_MAGIC:
		local = "xfs"
	case unix.BTRFS_SUPER_MAGIC:
		local = "btrfs"
	case unix.TMPFS_MAGIC:
		local = "tmpfs: nothing is ever cold there, so set TMPDIR to a directory on a disk"
	}
	cpu := "unknown processor"
	info, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(info)) {
		if k, v, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(k) == "model name" {
			cpu = strings.TrimSpace(v)
			break
		}
	}
	facts := []string{
		time.Now().UTC().Format("2006-01-02 15:04") + " UTC",
		strconv.Itoa(runtime.NumCPU()) + " cores, " + cpu,
		"Linux " + unix.ByteSliceToString(name.Release[:]) + ", " + runtime.Version(),
		"local files on " + local,
	}
	// A tree without git is described by what else is known.
	if rev := harness.Run(t, time.Minute, nil, "git", "-C", env.Root, "describe", "--always", "--dirty"); rev.Code == 0 {
		facts = append(facts, "revision "+strings.TrimSpace(rev.Stdout))
	}
	return facts
}
