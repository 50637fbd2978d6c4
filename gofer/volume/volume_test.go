// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package volume

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"fsva/gofer/attach"
)

// files lists what is below dir.
func files(t *testing.T, dir string) []string {
	t.Helper()
	var all []string
	if err := filepath.WalkDir(dir, func(path string, e os.DirEntry, err error) error {
		if err == nil && !e.IsDir() {
			rel, _ := filepath.Rel(dir, path)
			all = append(all, rel)
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return all
}

func TestStore(t *testing.T) {
	state, work := t.TempDir(), t.TempDir()
	t.Chdir(work)
	if err := os.Mkdir("src", 0o700); err != nil {
		t.Fatal(err)
	}
	s := Open(state)
	want := Definition{Name: "v", Appliance: "dir", Source: filepath.Join(work, "src"), Coherence: "shared", Limits: Limits{CPU: 0.5}}
	d := want
	d.Source = "src"
	if got, err := s.Create(d); err != nil || cmp.Diff(got, want) != "" {
		t.Fatalf("Create: %v %s", err, cmp.Diff(got, want))
	}
	if _, err := s.Create(d); !errors.Is(err, ErrExists) {
		t.Errorf("Create again: %v", err)
	}
	if got, err := s.Get("v"); err != nil || cmp.Diff(got, want) != "" {
		t.Errorf("Get: %v %s", err, cmp.Diff(got, want))
	}
	st, err := os.Stat(filepath.Join(state, "volumes/v/definition.json"))
	if err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("definition.json: %v, %v", st.Mode(), err)
	}
	// What an appliance keeps is no definition, and stays.
	for _, dir := range []string{"other/data", "v/data"} {
		if err := os.MkdirAll(filepath.Join(state, "volumes", dir), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := s.List(); err != nil || cmp.Diff(got, []Definition{want}) != "" {
		t.Errorf("List: %v %v", got, err)
	}
	// What a process that was killed has left goes.
	if err := os.WriteFile(filepath.Join(state, "volumes/v/.definition.json.fsva-new-1"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	kept, err := s.Remove("v")
	if err != nil || cmp.Diff(kept, []string{filepath.Join(state, "volumes/v/data")}) != "" {
		t.Errorf("Remove: %v, %v", kept, err)
	}
	if _, err := s.Remove("v"); !errors.Is(err, ErrNotDefined) {
		t.Errorf("Remove again: %v", err)
	}
	if _, err := s.Get("v"); !errors.Is(err, ErrNotDefined) {
		t.Errorf("Get: %v", err)
	}
	if left := files(t, state); len(left) > 0 {
		t.Errorf("left %v", left)
	}
}

// TestCreateRefuses: what fsva serve would refuse is not stored.
func TestCreateRefuses(t *testing.T) {
	state := t.TempDir()
	s := Open(state)
	for _, tc := range []struct {
		d    Definition
		want string
	}{
		{Definition{Name: "../v", Appliance: "mem"}, "volume name"},
		{Definition{Name: "v"}, "the appliance is missing"},
		{Definition{Name: "v", Appliance: "nonesuch"}, `unknown appliance "nonesuch"`},
		{Definition{Name: "v", Appliance: "dir"}, "needs a source"},
		{Definition{Name: "v", Appliance: "dir", Source: "/nonexistent"}, "/nonexistent"},
		{Definition{Name: "v", Appliance: "mem", Options: []string{"nonesuch=1"}}, `no option "nonesuch"`},
		{Definition{Name: "v", Appliance: "mem", Coherence: "loose"}, `coherence "loose"`},
		{Definition{Name: "v", Appliance: "mem", Isolation: "gvisor"}, "isolation"},
		{Definition{Name: "v", Appliance: "mem", CacheLimit: "lots"}, "lots"},
		{Definition{Name: "v", Appliance: "mem", Limits: Limits{Memory: 1 << 20}}, "memory limit 1 MiB"},
		{Definition{Name: "v", Appliance: "mem", Limits: Limits{CPU: -1}}, "cpu limit"},
		{Definition{Name: strings.Repeat("v", 47), Appliance: "mem", Dedicated: true}, "at most 46"},
	} {
		_, err := s.Create(tc.d)
		if err == nil || !strings.Contains(err.Error(), tc.want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%+v: %v, want one line with %q", tc.d, err, tc.want)
		}
		if left := files(t, state); len(left) > 0 {
			t.Errorf("%+v: left %v", tc.d, left)
		}
	}
}

func TestGetRefuses(t *testing.T) {
	s := Open(t.TempDir())
	if err := os.MkdirAll(s.dir("v"), 0o700); err != nil {
		t.Fatal(err)
	}
	for data, want := range map[string]string{
		"":                            "unexpected end",
		`{"version": 2}`:              "version 2",
		`{"version": 1, "future": 1}`: "unknown field",
		`{"version": 1, "name": "w"}`: `the definition of "w"`,
		`{"version": 1, "name": "v", "limits": {"pids": 1}}`: "pids limit",
		strings.Repeat(" ", maxDefinition+1):                 "more than",
	} {
		if err := os.WriteFile(s.path("v"), []byte(data), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Get("v"); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.40q: %v, want %q", data, err, want)
		}
		if all, err := s.List(); err == nil || len(all) > 0 {
			t.Errorf("%.40q: List: %v, %v", data, all, err)
		}
	}
	// It can be removed all the same.
	if _, err := s.Remove("v"); err != nil {
		t.Error(err)
	}
}

// TestMounted: only the definition's own directory, and those of instances, are a
// dedicated volume.
func TestMounted(t *testing.T) {
	s, run := Open(t.TempDir()), t.TempDir()
	for _, d := range []Definition{{Name: "v", Appliance: "mem", Dedicated: true}, {Name: "plain", Appliance: "mem"}} {
		if _, err := s.Create(d); err != nil {
			t.Fatal(err)
		}
	}
	dir := func(files map[string]string) string {
		d := t.TempDir()
		for name, data := range files {
			if err := os.WriteFile(filepath.Join(d, name), []byte(data), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		return d
	}
	claim := func(name string) string {
		d := t.TempDir()
		if err := attach.WriteInfo(d, attach.Info{Version: 1, Name: name, Appliance: "mem", Coherence: "exclusive", Dedicated: true}); err != nil {
			t.Fatal(err)
		}
		return d
	}
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(s.MountDir("v"), link); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(s.MountDir("undefined"), 0o755); err != nil { // as docker does
		t.Fatal(err)
	}
	instance := filepath.Join(run, "volumes", "v"+InstanceSuffix("/root", "c"))
	for _, tc := range []struct {
		name, dir string
		ok        bool
		want      string // in the error
	}{
		{"its directory", s.MountDir("v"), true, ""},
		{"by a link", link, true, ""},
		{"of an instance", instance, true, ""},
		{"of a plain volume that looks like one", filepath.Join(run, "volumes", "plain"+InstanceSuffix("/root", "c")), false, ""},
		{"nothing", t.TempDir(), false, ""},
		{"not there", "/nonexistent", false, ""},
		{"some other volume.json", dir(map[string]string{"volume.json": `{}`}), false, ""},
		{"copied", claim("v"), true, "not the directory of a dedicated volume"},
		{"a claim to be a plain one", claim("plain"), true, "not the directory of a dedicated volume"},
		{"a name that is long", claim(strings.Repeat("v", 100)), true, "not the directory of a dedicated volume"},
		{"undefined", s.MountDir("undefined"), true, `no dedicated volume "undefined"`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			d, ok, err := s.Mounted(tc.dir, run)
			if ok != tc.ok || (err == nil) != (tc.want == "") || err != nil && !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v, %v, %v; want %v, %q", d, ok, err, tc.ok, tc.want)
			}
			if ok && err == nil && d.Name != "v" {
				t.Errorf("got %+v", d)
			}
		})
	}
	// A container that had the directory as data has spoiled it.
	if err := os.WriteFile(filepath.Join(s.MountDir("v"), "volume.json"), []byte("{}"), 0o644); err != nil {
		t.Fatal(err)
	}
	if d, ok, err := s.Mounted(s.MountDir("v"), run); !ok || err != nil || d.Name != "v" {
		t.Errorf("spoiled: %v, %v, %v", d, ok, err)
	}
}

func TestInstanceNames(t *testing.T) {
	long := strings.Repeat("n", MaxDedicatedName)
	for _, volume := range []string{"v", "a.b-c_d", long} {
		i := volume + InstanceSuffix("/run/runsc", strings.Repeat("0123456789abcdef", 4))
		if len(i) > 63 {
			t.Errorf("%q has %d characters", i, len(i))
		}
		if name, ok := SplitInstance(i); !ok || name != volume {
			t.Errorf("%q is of %q, %v", i, name, ok)
		}
	}
	if InstanceSuffix("/a", "b") == InstanceSuffix("/b", "b") || InstanceSuffix("/a", "b") == InstanceSuffix("/a", "c") || InstanceSuffix("/a/", "b") != InstanceSuffix("/a", "b") {
		t.Error("suffixes of different containers are the same, or of one differ")
	}
	for _, name := range []string{"", "v", ".0123456789abcdef", "v.0123456789abcdeg", "v0123456789abcdef"} {
		if of, ok := SplitInstance(name); ok {
			t.Errorf("%q is taken for an instance of %q", name, of)
		}
	}
	if got := Instances([]string{"v", "v.0123456789abcdef", "w.0123456789abcdef"}, "v"); len(got) != 1 || got[0] != "v.0123456789abcdef" {
		t.Errorf("got %v", got)
	}
}

// TestClaim: one writer or several readers.
func TestClaim(t *testing.T) {
	s := Open(t.TempDir())
	d, err := s.Create(Definition{Name: "v", Appliance: "mem", Dedicated: true})
	if err != nil {
		t.Fatal(err)
	}
	now := make(chan struct{})
	close(now)
	claim := func(readOnly bool, done <-chan struct{}) func() {
		t.Helper()
		release, err := s.Claim(d, true, readOnly, done)
		if err != nil {
			t.Fatal(err)
		}
		return release
	}
	a, b := claim(true, nil), claim(true, nil)
	if _, err := s.Claim(d, true, false, now); err == nil || !strings.Contains(err.Error(), "exclusive") {
		t.Errorf("writer beside readers: %v", err)
	}
	a()
	b()
	if release, err := s.Claim(d, false, false, now); err != nil {
		t.Error(err)
	} else {
		release()
	}
}
