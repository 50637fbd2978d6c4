// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"

	"fsva/gofer/volume"
)

// completions runs what a shell runs.
func completions(t *testing.T, args ...string) []string {
	t.Helper()
	root := newRootCommand()
	var stdout, stderr bytes.Buffer
	root.SetArgs(append([]string{cobra.ShellCompNoDescRequestCmd}, args...))
	root.SetOut(&stdout)
	root.SetErr(&stderr)
	if status := run(root); status != 0 {
		t.Fatalf("%q: status %d, %s", args, status, &stderr)
	}
	text, _, _ := strings.Cut(stdout.String(), ":") // the directive
	return strings.Fields(text)
}

func TestCompletions(t *testing.T) {
	runDir, stateDir := t.TempDir(), t.TempDir()
	t.Setenv("FSVA_RUNDIR", runDir)
	t.Setenv("FSVA_STATEDIR", stateDir)
	if got := completions(t, "stat", ""); len(got) != 0 {
		t.Errorf("where no volume ever was: %q", got)
	}
	if err := os.Mkdir(filepath.Join(runDir, "control"), 0o700); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"photos.sock", "music.sock", ".hidden.sock", "other"} {
		if err := os.WriteFile(filepath.Join(runDir, "control", name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"d1", "d2"} {
		if _, err := volume.Open(stateDir).Create(volume.Definition{Name: name, Appliance: "mem"}); err != nil {
			t.Fatal(err)
		}
	}
	for _, tc := range []struct {
		args string // split at spaces; the last one is what is being typed
		want string // all, or with … at the end some
	}{
		{"stat ", "music photos"},
		{"stop ", "music photos"},
		{"stat photos ", ""},
		{"ctl ", "music photos"},
		{"ctl photos ", "cache-limit"},
		{"serve ", "d1 d2"},
		{"volume rm d1 ", "d2"},
		{"volume inspect ", "d1 d2"},
		{"install ", "docker containerd"},
		{"image build bindfs ", "dir …"},
		{"image rm ", ""},
		{"serve v --appliance ", "bindfs dir …"},
		{"serve v --appliance rclone --option ", "config= …"},
		{"serve v --option ", ""},
		{"serve v --isolation ", "gvisor process none vm"},
		{"top --log-format ", ""},
		{"export /d --log-format ", "text json"},
		{"st", "stat stop"},
	} {
		got := completions(t, strings.Split(tc.args, " ")...)
		want, some := strings.CutSuffix(tc.want, "…")
		if all := strings.Fields(want); !slices.Equal(got, all) && !(some && len(got) > len(all) && slices.Equal(got[:len(all)], all)) {
			t.Errorf("fsva %s: got %q, want %q", tc.args, got, tc.want)
		}
	}
}

// What is completed exists.
func TestCompletionsAreOfCommands(t *testing.T) {
	root := newRootCommand()
	for path := range argCompletions {
		if c, rest, err := root.Find(strings.Fields(path)); err != nil || len(rest) > 0 {
			t.Errorf("%q: there is %q, %v", path, c.CommandPath(), err)
		}
	}
	for name := range flagCompletions {
		used := false
		eachCommand(root, func(c *cobra.Command) { used = used || c.Flags().Lookup(name) != nil })
		if !used {
			t.Errorf("no command has --%s", name)
		}
	}
}

func eachCommand(c *cobra.Command, f func(*cobra.Command)) {
	f(c)
	for _, sub := range c.Commands() {
		eachCommand(sub, f)
	}
}

func TestCompletionScripts(t *testing.T) {
	for shell, want := range map[string]string{"bash": "complete -o", "zsh": "#compdef fsva", "fish": "complete -c fsva"} {
		root := newRootCommand()
		var stdout bytes.Buffer
		root.SetArgs([]string{"completion", shell})
		root.SetOut(&stdout)
		if status := run(root); status != 0 || !strings.Contains(stdout.String(), want) {
			t.Errorf("%s: status %d, %.100s", shell, status, &stdout)
		}
		path, err := exec.LookPath(shell)
		if err != nil {
			continue // its script is cobra's, and tested there
		}
		cmd := exec.Command(path, "-n")
		cmd.Stdin = &stdout
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%s -n: %v: %s", shell, err, out)
		}
	}
}

func TestManPages(t *testing.T) {
	t.Setenv("SOURCE_DATE_EPOCH", "1700000000")
	dirs := [2]string{t.TempDir(), t.TempDir()}
	for _, dir := range dirs {
		if err := writeManPages(newRootCommand(), filepath.Join(dir, "new")); err != nil {
			t.Fatal(err)
		}
	}
	root := newRootCommand()
	pages := 0
	eachCommand(root, func(c *cobra.Command) {
		name := strings.ReplaceAll(c.CommandPath(), " ", "-") + ".1"
		text, err := os.ReadFile(filepath.Join(dirs[0], "new", name))
		if c != root && !c.IsAvailableCommand() {
			if err == nil {
				t.Errorf("%s is of a hidden command", name)
			}
			return
		}
		if err != nil {
			t.Error(err)
			return
		}
		pages++
		if !bytes.Contains(text, []byte("Nov 2023")) || !bytes.Contains(text, []byte(".SH SYNOPSIS")) {
			t.Errorf("%s: %.300s", name, text)
		}
		again, err := os.ReadFile(filepath.Join(dirs[1], "new", name))
		if err != nil || !bytes.Equal(text, again) {
			t.Errorf("%s is not the same twice, %v", name, err)
		}
	})
	if found, err := os.ReadDir(filepath.Join(dirs[0], "new")); err != nil || len(found) != pages {
		t.Errorf("%d pages of %d commands, %v", len(found), pages, err)
	}
	serve, err := os.ReadFile(filepath.Join(dirs[0], "new", "fsva-serve.1"))
	if err != nil {
		t.Fatal(err)
	}
	// A list stays one.
	if !strings.Contains(string(serve), "\n  virtiofs:PATH  ") || !strings.Contains(string(serve), "FSVA_RUNSC_PLATFORM") {
		t.Errorf("got\n%s", serve)
	}
}

func TestVersion(t *testing.T) {
	root := newRootCommand()
	var stdout bytes.Buffer
	root.SetArgs([]string{"--version"})
	root.SetOut(&stdout)
	if status := run(root); status != 0 || !strings.HasPrefix(stdout.String(), "fsva "+version+"\ngVisor ") || !strings.HasSuffix(stdout.String(), "\n") {
		t.Errorf("status %d, %q", status, &stdout)
	}
}
