// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"fsva/e2e/guest"
	"fsva/e2e/harness"
)

// guestStat is what these tests look at in fsva stat --json.
type guestStat struct {
	GoferPID int
	Gofer    struct{ Guests, Windows, WindowsUsed int }
	// Descriptors is how many the gofer has: a directory's volume has one for each file that is open. Not from stat.
	Descriptors int `json:"-"`
}

func vmStat(t *testing.T, v *harness.Volume) guestStat {
	t.Helper()
	r := env.FSVA(t, "stat", v.Name, "--json")
	var s guestStat
	if err := json.Unmarshal([]byte(r.Stdout), &s); err != nil || r.Code != 0 {
		t.Fatalf("fsva stat --json: exit code %d, %v\n%s%s", r.Code, err, r.Stdout, r.Stderr)
	}
	open, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", s.GoferPID))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	s.Descriptors = len(open)
	return s
}

// awaitStat asks until the volume's state is as wanted, and fails the test if that takes longer than timeout.
func awaitStat(t *testing.T, v *harness.Volume, timeout time.Duration, what string, ok func(guestStat) bool) guestStat {
	t.Helper()
	for deadline := time.Now().Add(timeout); ; time.Sleep(50 * time.Millisecond) {
		s := vmStat(t, v)
		if ok(s) {
			return s
		}
		if time.Now().After(deadline) {
			t.Fatalf("after %v not so: %s; %+v", timeout, what, s)
		}
	}
}

// TestVMKilled kills QEMU while its guest has files open: the volume has given back all that was the guest's.
func TestVMKilled(t *testing.T) {
	harness.NeedRoot(t)
	const files, within = 100, 5 * time.Second
	for _, w := range wires {
		if w.host == nil {
			continue
		}
		t.Run(w.name, func(t *testing.T) {
			t.Parallel()
			dir := env.Tmpfs(t)
			s := w.serve(t, dir)
			before := vmStat(t, s.volume)
			g := bootWith(t, w, s)
			job := g.Start(guest.Command{Args: []string{"work", "open", fmt.Sprint(files), "/data"}, Timeout: 10 * time.Minute})
			awaitFile(t, filepath.Join(dir, fmt.Sprintf("open%d", files-1)), time.Minute)
			during := awaitStat(t, s.volume, 10*time.Second, "the guest's files are open", func(s guestStat) bool {
				return s.Descriptors >= before.Descriptors+files
			})
			t.Logf("before: %+v; with the guest: %+v", before, during)
			if during.Gofer.Guests != 1 || during.Gofer.WindowsUsed != w.windows {
				t.Errorf("with the guest: %+v, want 1 guest and %d windows in use", during, w.windows)
			}
			g.Kill(t)
			after := awaitStat(t, s.volume, within, "no guest, no window, no file", func(s guestStat) bool {
				return s.Gofer.Guests == 0 && s.Gofer.Windows == 0 && s.Gofer.WindowsUsed == 0 && s.Descriptors <= before.Descriptors
			})
			t.Logf("after: %+v", after)
			if _, err := job.Wait(); err == nil {
				t.Error("the command of a killed guest ended well")
			}
		})
	}
}

// churn is a workload that runs in a guest, on /data: "work churn".
type churn struct {
	g   *guest.Guest
	job *guest.Job
}

func startChurn(g *guest.Guest) churn {
	return churn{g, g.Start(guest.Command{Args: []string{"work", "churn", "/data", "/tmp/stop", "/tmp/progress"}, Timeout: 10 * time.Minute})}
}

// passes waits until the workload has done some more rounds.
func (c churn) passes(t *testing.T, rounds int) {
	t.Helper()
	const patience = time.Minute
	first := -1
	for deadline := time.Now().Add(patience); ; time.Sleep(50 * time.Millisecond) { // there is no event to wait for
		select {
		case <-c.job.Done():
			r, err := c.job.Wait()
			t.Fatalf("the workload has ended: %v\n%s%s", err, r.Stdout, r.Stderr)
		default:
		}
		r := c.g.Run(t, guest.Command{Args: []string{"cat", "/tmp/progress"}})
		if n, err := strconv.Atoi(strings.TrimSpace(r.Stdout)); err == nil {
			if first < 0 {
				first = n
			}
			if n >= first+rounds {
				return
			}
		}
		if time.Now().After(deadline) {
			t.Fatalf("the workload stands still for %v, at round %s", patience, r.Stdout)
		}
	}
}

// stop ends the workload, which has met nothing wrong.
func (c churn) stop(t *testing.T) {
	t.Helper()
	c.g.Shell(t, "touch /tmp/stop")
	if r, err := c.job.Wait(); err != nil || r.Code != 0 {
		t.Errorf("the workload: %v, exit code %d\n%s%s", err, r.Code, r.Stdout, r.Stderr)
	}
}

// TestVMGoferRestart kills the gofer under a guest that works on the volume, again and again: the guest's programs notice
// nothing but a pause. Both ends are in the guest, because QEMU's vhost-user devices do not outlive their back end.
func TestVMGoferRestart(t *testing.T) {
	harness.NeedRoot(t)
	t.Parallel()
	g := bootWith(t, wireNamed(t, "loopback"), served{})
	work := startChurn(g)
	gofer := func() int {
		t.Helper()
		var s guestStat
		if err := json.Unmarshal([]byte(g.Must(t, "fsva", "stat", "inside", "--json")), &s); err != nil {
			t.Fatal(err)
		}
		return s.GoferPID
	}
	for range 3 {
		work.passes(t, 5)
		pid := gofer()
		g.Must(t, "kill", "-9", fmt.Sprint(pid))
		for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(50 * time.Millisecond) {
			if now := gofer(); now != 0 && now != pid {
				break
			}
			if time.Now().After(deadline) {
				t.Fatal("there is no other gofer")
			}
		}
	}
	work.passes(t, 5)
	work.stop(t)
	g.Shell(t, "test $(stat -c %s "+backing+"/long) = 65536; umount /data")
}
