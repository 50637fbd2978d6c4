// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package harness

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// regionName is what the memfds of gofer/regions are called in /proc.
const regionName = "/memfd:fsva-region"

// Memory is what processes have in memory, in bytes. PSS, the proportional set size, divides a page by the number of
// its mappings, so that sums over processes count it once.
type Memory struct {
	RSS, PSS  int64
	Anonymous int64 // of RSS, what belongs to no file: heaps and stacks
	// RegionRSS and RegionPSS are those of mapped regions, the memfds of file data.
	RegionRSS, RegionPSS int64
}

// Add adds what other processes have.
func (m *Memory) Add(o Memory) {
	m.RSS += o.RSS
	m.PSS += o.PSS
	m.Anonymous += o.Anonymous
	m.RegionRSS += o.RegionRSS
	m.RegionPSS += o.RegionPSS
}

// MemoryOf returns what the processes have in memory. Those that share one address space, as gVisor's do that run one
// application, count as one. A process that has ended is an error.
func MemoryOf(t testing.TB, procs ...Proc) Memory {
	t.Helper()
	var sum Memory
	for i, p := range procs {
		if slices.ContainsFunc(procs[:i], func(q Proc) bool { return sameMemory(t, p, q) }) {
			continue
		}
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps", p.PID))
		if err != nil {
			t.Fatalf("memory of %v: %v", p, err)
		}
		m, err := parseSmaps(string(text))
		if err != nil {
			t.Fatalf("memory of %v: %v", p, err)
		}
		sum.Add(m)
	}
	return sum
}

// sameMemory reports whether two processes share their address space, see kcmp(2).
func sameMemory(t testing.TB, p, q Proc) bool {
	t.Helper()
	const kcmpVM = 1
	order, _, errno := unix.Syscall6(unix.SYS_KCMP, uintptr(p.PID), uintptr(q.PID), kcmpVM, 0, 0, 0)
	if errno != 0 {
		t.Fatalf("compare %v and %v: %v", p, q, errno)
	}
	return order == 0
}

// parseSmaps reads the text of /proc/PID/smaps, see proc(5).
func parseSmaps(text string) (Memory, error) {
	var m Memory
	region := false
	for line := range strings.Lines(text) {
		fields := strings.Fields(line)
		if len(fields) == 0 {
			continue
		}
		if !strings.HasSuffix(fields[0], ":") { // a mapping: addresses, permissions, offset, device, inode, path
			region = len(fields) > 5 && strings.HasPrefix(fields[5], regionName)
			continue
		}
		if len(fields) < 3 || fields[2] != "kB" {
			continue
		}
		n, err := strconv.ParseInt(fields[1], 10, 64)
		if err != nil {
			return Memory{}, fmt.Errorf("smaps: %q: %w", line, err)
		}
		n <<= 10
		switch fields[0] {
		case "Rss:":
			m.RSS += n
			if region {
				m.RegionRSS += n
			}
		case "Pss:":
			m.PSS += n
			if region {
				m.RegionPSS += n
			}
		case "Anonymous:":
			m.Anonymous += n
		}
	}
	return m, nil
}

// RegionMemory returns the memory of all regions that the processes have open: each once, whoever has it, mapped or not.
func RegionMemory(t testing.TB, procs ...Proc) int64 {
	t.Helper()
	type inode struct{ dev, ino uint64 }
	seen := map[inode]bool{}
	var sum int64
	for _, p := range procs {
		dir := fmt.Sprintf("/proc/%d/fd", p.PID)
		entries, err := os.ReadDir(dir)
		if err != nil {
			t.Fatalf("descriptors of %v: %v", p, err)
		}
		for _, e := range entries {
			path := filepath.Join(dir, e.Name())
			if target, err := os.Readlink(path); err != nil || !strings.HasPrefix(target, regionName) {
				continue // closed meanwhile, or something else
			}
			var st unix.Stat_t
			if unix.Stat(path, &st) != nil || seen[inode{st.Dev, st.Ino}] {
				continue // closed meanwhile, or counted
			}
			seen[inode{st.Dev, st.Ino}] = true
			sum += st.Blocks * 512
		}
	}
	return sum
}

// Processes returns the container's processes as the host sees them, parents before their children: runsc's gofer, the
// sentry, and the processes in which the sentry runs the application.
func (r *Running) Processes(t testing.TB) []Proc {
	t.Helper()
	id := r.ID(t)
	var all []Proc
	for _, p := range descendants(os.Getpid()) {
		if strings.HasPrefix(p.Cmdline, "runsc-") && strings.Contains(p.Cmdline, id) {
			all = append(append(all, p), descendants(p.PID)...)
		}
	}
	if len(all) == 0 {
		t.Fatalf("container %s has no processes", id)
	}
	return all
}

// Sentry returns the container's sentry.
func (r *Running) Sentry(t testing.TB) Proc {
	t.Helper()
	for _, p := range r.Processes(t) {
		if strings.HasPrefix(p.Cmdline, "runsc-sandbox") {
			return p
		}
	}
	t.Fatalf("container %s has no sentry", r.ID(t))
	return Proc{}
}
