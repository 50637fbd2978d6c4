// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package pressure

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// The cgroup's own file comes first, the machine's is the second choice.
func TestTriggerPlace(t *testing.T) {
	base := map[string]string{"proc/self/cgroup": "0::/x\n", "proc/self/mountinfo": mountV2}
	with := func(names ...string) machine {
		m := fakeMachine(t, base)
		for _, n := range names {
			p := m.path(n)
			if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(p, nil, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		return m
	}
	for _, tc := range []struct {
		m    machine
		want string
	}{
		{with("sys/fs/cgroup/x/memory.pressure", "proc/pressure/memory"), "/sys/fs/cgroup/x/memory.pressure"},
		{with("proc/pressure/memory"), "/proc/pressure/memory"},
	} {
		trigger, err := tc.m.newTrigger()
		if err != nil {
			t.Fatal(err)
		}
		if trigger.Path() != tc.want {
			t.Errorf("watches %s, want %s", trigger.Path(), tc.want)
		}
		if err := trigger.Close(); err != nil {
			t.Error(err)
		}
		text, err := os.ReadFile(tc.m.path(tc.want))
		if err != nil || string(text) != "some 150000 2000000\x00" {
			t.Errorf("%s was told %q, %v", tc.want, text, err)
		}
	}
	if _, err := with().newTrigger(); !errors.Is(err, os.ErrNotExist) || !strings.Contains(err.Error(), "proc/pressure/memory") {
		t.Errorf("without any: %v", err)
	}
}

// fakeTrigger is one whose events are urgent data on a socket, which poll(2)
// reports like the kernel's: press causes one.
func fakeTrigger(t *testing.T) (trigger *Trigger, press func(), end func()) {
	t.Helper()
	p, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	trigger = &Trigger{fd: p[0], path: "fake"}
	t.Cleanup(func() { trigger.Close() })
	press = func() {
		if err := unix.Send(p[1], []byte{1}, unix.MSG_OOB); err != nil {
			t.Error(err)
		}
	}
	return trigger, press, func() { unix.Close(p[1]) }
}

func TestWatch(t *testing.T) {
	trigger, press, _ := fakeTrigger(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	const want = 3
	events := 0
	press()
	err := trigger.Watch(ctx, func() {
		events++
		// Like the kernel's, an event is there once.
		if _, _, err := unix.Recvfrom(trigger.fd, make([]byte, 1), unix.MSG_OOB); err != nil {
			t.Errorf("no event: %v", err)
		}
		if events == want {
			cancel()
			return
		}
		press()
	})
	if err != nil || events != want {
		t.Errorf("%d events, %v", events, err)
	}
}

// Stalls while there is plenty of memory are none of ours.
func TestPlenty(t *testing.T) {
	trigger, press, _ := fakeTrigger(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	asked := 0
	trigger.plenty = func() bool {
		asked++
		if _, _, err := unix.Recvfrom(trigger.fd, make([]byte, 1), unix.MSG_OOB); err != nil {
			t.Errorf("no event: %v", err)
		}
		press()
		return asked < 3
	}
	press()
	if err := trigger.Watch(ctx, cancel); err != nil || asked != 3 {
		t.Errorf("the third of %d events was passed on, %v", asked, err)
	}

	const meminfo = "MemTotal:       1000 kB\nMemFree:         10 kB\nMemAvailable:    %s kB\n"
	for _, tc := range []struct {
		available, limit string
		want             bool
	}{
		{"250", "max", true},
		{"249", "max", false},
		{"900", "1024000", true},
		{"900", "1023999", false},
		{"", "max", false},
		{"900", "bad", false},
	} {
		m := fakeMachine(t, map[string]string{
			"proc/self/cgroup": "0::/x\n", "proc/self/mountinfo": mountV2, "sys/fs/cgroup/x/memory.max": tc.limit + "\n",
			"proc/meminfo": strings.Replace(meminfo, "%s", tc.available, 1),
		})
		if got := m.plenty(); got != tc.want {
			t.Errorf("%q kB available, limit %q: plenty %v", tc.available, tc.limit, got)
		}
	}
}

// A wait without events ends with the context.
func TestWatchEnds(t *testing.T) {
	trigger, _, _ := fakeTrigger(t)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- trigger.Watch(ctx, func() { t.Error("an event") }) }()
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if err := trigger.Watch(ctx, func() { t.Error("an event") }); err != nil {
		t.Errorf("ended already: %v", err)
	}
}

// A trigger that is gone, such as that of a removed cgroup, is an error.
func TestWatchOfNothing(t *testing.T) {
	bad := &Trigger{fd: 1 << 20, path: "closed"}
	if err := bad.Watch(t.Context(), func() { t.Error("an event") }); !errors.Is(err, errGone) {
		t.Errorf("got %v", err)
	}
}

// TestKernelTrigger arms the kernel's own trigger.
func TestKernelTrigger(t *testing.T) {
	trigger, err := NewTrigger()
	if err != nil {
		if _, serr := os.Stat("/proc/pressure/memory"); serr != nil {
			t.Skip("the kernel has no pressure stall information (CONFIG_PSI)")
		}
		t.Fatal(err)
	}
	defer trigger.Close()
	t.Logf("watching %s", trigger.Path())
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := trigger.Watch(ctx, func() {}); err != nil {
		t.Error(err)
	}
}
