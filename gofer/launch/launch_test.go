// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package launch

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"fsva/gofer/supervisor"
	"fsva/gofer/volume"
)

// setUp defines a volume "v" and a dedicated one, "d", and puts a script in the place
// of fsva.
func setUp(t *testing.T, script string) supervisor.Dirs {
	t.Helper()
	bin := t.TempDir()
	if err := os.WriteFile(filepath.Join(bin, "fsva"), []byte("#!/bin/sh\n"+script), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
	d := supervisor.Dirs{Run: t.TempDir(), State: t.TempDir()}
	for _, def := range []volume.Definition{{Name: "v", Appliance: "mem"}, {Name: "d", Appliance: "mem", Dedicated: true}} {
		if _, err := volume.Open(d.State).Create(def); err != nil {
			t.Fatal(err)
		}
	}
	return d
}

func TestStart(t *testing.T) {
	t.Setenv("NOTIFY_SOCKET", "/not/ours")
	d := setUp(t, `echo "$@ rundir=$FSVA_RUNDIR notify=$NOTIFY_SOCKET cwd=$(pwd)"; echo '{"error":""}' >&3`)
	if err := Start(t.Context(), d, "v"); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(volume.Open(d.State).LogPath("v"))
	if want := "serve v --launched rundir=" + d.Run + " notify= cwd=/\n"; err != nil || string(data) != want {
		t.Errorf("log %q, %v; want %q", data, err, want)
	}
	if err := Stop(t.Context(), d, "v", false); err != nil { // it runs no more
		t.Error(err)
	}
}

func TestStartInstance(t *testing.T) {
	d := setUp(t, `echo "$@"; read x <&4; echo "held until the end of file: $?"; echo '{"error":""}' >&3`)
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	w.Close()
	if err := StartInstance(t.Context(), d, "d", Instance{Name: "d.0123456789abcdef", ReadOnly: true, Hold: r}); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(volume.Open(d.State).LogPath("d"))
	if want := "serve d --launched --instance=d.0123456789abcdef --readonly\nheld until the end of file: 1\n"; err != nil || string(data) != want {
		t.Errorf("log %q, %v; want %q", data, err, want)
	}
}

func TestStartErrors(t *testing.T) {
	for _, tc := range []struct {
		name, script, volume, want string
		running                    bool
	}{
		{"its error", `echo '{"error":"the image is broken"}' >&3; exit 1`, "v", "the image is broken", false},
		{"served already", `echo '{"error":"name in use","running":true}' >&3; exit 1`, "v", "name in use", true},
		{"a death without a word", `kill -9 $$`, "v", "(signal: killed) without a word", false},
		{"not a report", `echo hello >&3`, "v", "malformed", false},
		{"undefined", `exit 1`, "w", "no such volume is defined", false},
		{"dedicated", `exit 1`, "d", "is dedicated", false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			d := setUp(t, tc.script)
			err := Start(t.Context(), d, tc.volume)
			if err == nil || !strings.Contains(err.Error(), tc.want) || errors.Is(err, ErrRunning) != tc.running {
				t.Errorf("got %v, want %q", err, tc.want)
			}
		})
	}
}

// TestStartCalledOff: what was started has ended when Start returns.
func TestStartCalledOff(t *testing.T) {
	d := setUp(t, `trap 'echo ended; exit 0' TERM; echo started; while :; do sleep 0.05; done`)
	ctx, cancel := context.WithCancel(t.Context())
	log := volume.Open(d.State).LogPath("v")
	go func() {
		for data := []byte(nil); len(data) == 0; {
			data, _ = os.ReadFile(log)
		}
		cancel()
	}()
	if err := Start(ctx, d, "v"); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	if data, err := os.ReadFile(log); err != nil || string(data) != "started\nended\n" {
		t.Errorf("log %q, %v", data, err)
	}
}

func TestRemove(t *testing.T) {
	d := setUp(t, "exit 1")
	release, err := supervisor.Reserve(d, "v") // as a supervisor does
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Remove(t.Context(), d, "v", false); !errors.Is(err, ErrBusy) {
		t.Errorf("while it runs: %v", err)
	}
	if _, err := volume.Open(d.State).Get("v"); err != nil {
		t.Errorf("the definition is gone: %v", err)
	}
	if err := release(); err != nil {
		t.Fatal(err)
	}
	release, err = supervisor.Reserve(d, "d.0123456789abcdef")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Remove(t.Context(), d, "d", false); !errors.Is(err, ErrBusy) {
		t.Errorf("while an instance runs: %v", err)
	}
	if err := release(); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"v", "d"} {
		if _, err := Remove(t.Context(), d, name, false); err != nil {
			t.Error(err)
		}
		if _, err := Remove(t.Context(), d, name, false); !errors.Is(err, volume.ErrNotDefined) {
			t.Errorf("again: %v", err)
		}
	}
}
