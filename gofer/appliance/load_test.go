// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package appliance

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"

	"fsva/images"
)

// TestBuiltIn checks every appliance that comes with the binary.
func TestBuiltIn(t *testing.T) {
	s := Store{Places: []Place{{"(built in)", images.FS}}}
	names, err := s.Names()
	if err != nil {
		t.Fatal(err)
	}
	if len(names) < 10 {
		t.Errorf("only %d appliances: %q", len(names), names)
	}
	for _, name := range names {
		m, err := s.Load(name)
		if err != nil {
			t.Error(err)
		}
		if m.Mount == MountSyscall && m.InProcess != "" {
			t.Errorf("%s: in-process with a mount", name)
		}
	}
}

func TestLoadOrder(t *testing.T) {
	manifest := func(name, description string) *fstest.MapFile {
		text := strings.NewReplacer(`"demo"`, `"`+name+`"`, "a demonstration", description).Replace(goodManifest)
		return &fstest.MapFile{Data: []byte(text)}
	}
	s := Store{Places: []Place{
		{"first", fstest.MapFS{"a/appliance.toml": manifest("a", "first a")}},
		{"second", fstest.MapFS{"a/appliance.toml": manifest("a", "second a"), "b/appliance.toml": manifest("b", "second b"), "other/README": {}}},
		{"third", fstest.MapFS{
			"c/appliance.toml": manifest("b", "misnamed"),
			"d/appliance.toml": {Data: []byte("name = \"d\"\nnme = 1\n")},
		}},
	}}
	for name, want := range map[string]string{"a": "first a", "b": "second b"} {
		if m, err := s.Load(name); err != nil || m.Description != want {
			t.Errorf("%s: got %q, %v, want %q", name, m.Description, err, want)
		}
	}
	for name, want := range map[string]string{
		"c":         `third/c/appliance.toml:1:1: name "b" is not that of its directory, "c"`,
		"d":         `third/d/appliance.toml:2:1: unknown key "nme"; did you mean name?`,
		"e":         `unknown appliance "e" (known are a, b, c, d)`,
		"other":     `unknown appliance "other" (known are a, b, c, d)`,
		"../a":      `unknown appliance "../a" (known are a, b, c, d)`,
		"":          `unknown appliance "" (known are a, b, c, d)`,
		"a/../../b": `unknown appliance "a/../../b" (known are a, b, c, d)`,
	} {
		if _, err := s.Load(name); err == nil || err.Error() != want {
			t.Errorf("%q:\ngot  %v\nwant %s", name, err, want)
		}
	}
}

func TestUnknownAppliance(t *testing.T) {
	store := Store{Places: []Place{{"(built in)", images.FS}}}
	_, err := store.Load("squashf")
	var unknown *UnknownError
	if !errors.As(err, &unknown) {
		t.Fatalf("got %v, want an UnknownError", err)
	}
	names, nerr := store.Names()
	want := `unknown appliance "squashf"; did you mean squashfs? (known are ` + strings.Join(names, ", ") + ")"
	if got := err.Error(); nerr != nil || got != want {
		t.Errorf("\ngot  %s\nwant %s (%v)", got, want, nerr)
	}
}

// TestImagesVariable checks that FSVA_IMAGES goes before what is built in.
func TestImagesVariable(t *testing.T) {
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "mem"), 0o755); err != nil {
		t.Fatal(err)
	}
	text := strings.NewReplacer(`"demo"`, `"mem"`).Replace(goodManifest)
	if err := os.WriteFile(filepath.Join(dir, "mem", ManifestName), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	t.Setenv(ImagesEnv, "/no/such:"+dir)
	if m, err := Load("mem"); err != nil || m.Description != "a demonstration" {
		t.Errorf("got %q, %v, want our own", m.Description, err)
	}
}
