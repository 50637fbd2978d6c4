// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package harness

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Proc is one process as /proc shows it.
type Proc struct {
	PID, PPID int
	State     byte
	Start     uint64 // in clock ticks since boot; with PID it names the process for good
	Comm      string
	Cmdline   string
}

func (p Proc) String() string {
	return fmt.Sprintf("%d (%s, parent %d, state %c): %.160s", p.PID, p.Comm, p.PPID, p.State, p.Cmdline)
}

// readProc returns a process, or false if it is gone.
func readProc(pid int) (Proc, bool) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return Proc{}, false
	}
	s := string(b)
	open, end := strings.IndexByte(s, '('), strings.LastIndexByte(s, ')')
	if open < 0 || end < open {
		return Proc{}, false
	}
	fields := strings.Fields(s[end+1:])
	if len(fields) < 20 {
		return Proc{}, false
	}
	p := Proc{PID: pid, State: fields[0][0], Comm: s[open+1 : end]}
	p.PPID, _ = strconv.Atoi(fields[1])                // the kernel writes numbers
	p.Start, _ = strconv.ParseUint(fields[19], 10, 64) // likewise
	cmd, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	if err != nil {
		return Proc{}, false
	}
	p.Cmdline = strings.TrimSpace(strings.ReplaceAll(string(cmd), "\x00", " "))
	return p, true
}

// processes returns all processes of the machine.
func processes() []Proc {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil
	}
	var all []Proc
	for _, e := range entries {
		if pid, err := strconv.Atoi(e.Name()); err == nil {
			if p, ok := readProc(pid); ok {
				all = append(all, p)
			}
		}
	}
	return all
}

// descendants returns the processes below pid, zombies included, parents before their children.
func descendants(pid int) []Proc {
	children := map[int][]Proc{}
	for _, p := range processes() {
		children[p.PPID] = append(children[p.PPID], p)
	}
	var found []Proc
	for queue := []int{pid}; len(queue) > 0; queue = queue[1:] {
		for _, p := range children[queue[0]] {
			found = append(found, p)
			queue = append(queue, p.PID)
		}
	}
	return found
}

// Below returns the processes below pid, those that are zombies not included.
func Below(pid int) []Proc {
	return slices.DeleteFunc(descendants(pid), func(p Proc) bool { return p.State == 'Z' })
}

// awaitGone waits until all of procs have ended and returns those that have not by the deadline.
func awaitGone(procs []Proc, deadline time.Time) []Proc {
	var left []Proc
	for _, p := range procs {
		fd, err := unix.PidfdOpen(p.PID, 0)
		if err != nil {
			continue // gone
		}
		if now, ok := readProc(p.PID); !ok || now.Start != p.Start {
			unix.Close(fd)
			continue // gone, and its number is in use again
		}
		if !pollFD(fd, unix.POLLIN, deadline) {
			left = append(left, p)
		}
		unix.Close(fd)
	}
	return left
}

// AwaitEnd waits until a process and everything that was below it have ended, and fails the test if that takes longer
// than timeout.
func AwaitEnd(t testing.TB, pid int, timeout time.Duration) {
	t.Helper()
	p, ok := readProc(pid)
	if !ok {
		return
	}
	if left := awaitGone(append(descendants(pid), p), time.Now().Add(timeout)); len(left) > 0 {
		t.Fatalf("still there: %v", left)
	}
}

// pollFD waits until fd has one of events, or an error, and reports whether that was before the deadline.
func pollFD(fd int, events int16, deadline time.Time) bool {
	for {
		ms := time.Until(deadline).Milliseconds()
		fds := []unix.PollFd{{Fd: int32(fd), Events: events}}
		n, err := unix.Poll(fds, int(max(ms, 0)))
		if err == nil && n > 0 {
			return true
		}
		if ms <= 0 || (err != nil && err != unix.EINTR) {
			return false
		}
	}
}

// started holds the ids of the children this process started itself and still waits for. Every other child is an orphan.
var started sync.Map // int -> struct{}

// orphans returns the children of this process that it did not start: they lost their parents. Ended ones are reaped;
// docker's shims, which detach on purpose, are not counted while docker runs.
func orphans() []Proc {
	reap()
	var left []Proc
	for _, p := range processes() {
		if p.PPID != os.Getpid() || p.State == 'Z' || strings.HasPrefix(p.Comm, "containerd-shim") {
			continue
		}
		if _, ok := started.Load(p.PID); !ok {
			left = append(left, p)
		}
	}
	return left
}

// noOrphans returns an error that names the orphans, if there still are any after a short while.
func noOrphans() error {
	left := awaitGone(orphans(), time.Now().Add(5*time.Second))
	reap()
	var errs []error
	for _, p := range left {
		errs = append(errs, fmt.Errorf("orphaned process %v", p))
	}
	return errors.Join(errs...)
}

// reap collects ended children that nobody waits for.
func reap() {
	for _, p := range processes() {
		if p.PPID != os.Getpid() || p.State != 'Z' {
			continue
		}
		if _, ok := started.Load(p.PID); ok {
			continue
		}
		// An error means that someone else was faster.
		_, _ = unix.Wait4(p.PID, nil, unix.WNOHANG, nil)
	}
}

// FDs returns what the open descriptors of a process refer to, by their readlink text.
func FDs(pid int) ([]string, error) {
	dir := fmt.Sprintf("/proc/%d/fd", pid)
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var all []string
	for _, e := range entries {
		if target, err := os.Readlink(filepath.Join(dir, e.Name())); err == nil {
			all = append(all, target)
		}
	}
	return all, nil
}

// Memfds counts the memfds that a process holds open or mapped.
func Memfds(pid int) (int, error) {
	fds, err := FDs(pid)
	if err != nil {
		return 0, err
	}
	n := 0
	for _, target := range fds {
		if strings.HasPrefix(target, "/memfd:") {
			n++
		}
	}
	maps, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", pid))
	if err != nil {
		return 0, err
	}
	return n + strings.Count(string(maps), "/memfd:"), nil
}

// Cgroups counts the cgroups, in all hierarchies, that have one of names in their path.
func Cgroups(names ...string) (int, error) {
	n := 0
	err := filepath.WalkDir("/sys/fs/cgroup", func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // removed meanwhile
		}
		if err == nil && d.IsDir() && slices.ContainsFunc(names, func(name string) bool { return strings.Contains(path, name) }) {
			n++
		}
		return err
	})
	return n, err
}
