// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package runscconfig

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/pelletier/go-toml/v2"
)

const (
	runscPath  = "/usr/local/lib/fsva/bin/runsc"
	dockerFile = "/etc/docker/daemon.json"
	configTOML = "/etc/containerd/config.toml"
	runscTOML  = "/etc/containerd/runsc.toml"
)

// machine is the root of a machine to configure.
type machine struct {
	t    *testing.T
	root string
}

func newMachine(t *testing.T) machine { return machine{t, t.TempDir()} }

func (m machine) options() Options {
	return Options{Prefix: m.root, Runsc: runscPath, StateDir: "/var/lib/fsva"}
}

func (m machine) write(path, text string) {
	m.t.Helper()
	path = filepath.Join(m.root, path)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		m.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		m.t.Fatal(err)
	}
}

func (m machine) read(path string) string {
	m.t.Helper()
	data, err := os.ReadFile(filepath.Join(m.root, path))
	if err != nil {
		m.t.Fatal(err)
	}
	return string(data)
}

// files lists the regular files and links, with their contents.
func (m machine) files() map[string]string {
	m.t.Helper()
	all := make(map[string]string)
	err := filepath.WalkDir(m.root, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := os.ReadFile(path)
		if errors.Is(err, os.ErrNotExist) { // a dangling link
			err = nil
		}
		rel, _ := filepath.Rel(m.root, path)
		all["/"+rel] = string(data)
		return err
	})
	if err != nil {
		m.t.Fatal(err)
	}
	return all
}

type operation func(Target, Options) (*Plan, error)

func (m machine) apply(op operation, target Target, o Options) *Plan {
	m.t.Helper()
	p, err := op(target, o)
	if err != nil {
		m.t.Fatal(err)
	}
	if err := p.Apply(); err != nil {
		m.t.Fatal(err)
	}
	return p
}

// refused checks that the operation fails with a text and changes nothing.
func (m machine) refused(op operation, target Target, o Options, want string) {
	m.t.Helper()
	before := m.files()
	_, err := op(target, o)
	if err == nil || !strings.Contains(err.Error(), want) {
		m.t.Errorf("got error %v, want one with %q", err, want)
	}
	if err != nil && strings.Contains(err.Error(), "\n") {
		m.t.Errorf("the error has several lines: %v", err)
	}
	if diff := cmp.Diff(before, m.files()); diff != "" {
		m.t.Errorf("files have changed (-before +after):\n%s", diff)
	}
}

var dockerFiles = []struct {
	name, before, after string
}{
	{"empty", "", "{\n    \"runtimes\": {\n        \"runsc\": {\n            \"path\": \"RUNSC\"\n        }\n    }\n}\n"},
	{"only space", " \n\n", "{\n    \"runtimes\": {\n        \"runsc\": {\n            \"path\": \"RUNSC\"\n        }\n    }\n}\n"},
	{"empty object", "{}", "{\n    \"runtimes\": {\n        \"runsc\": {\n            \"path\": \"RUNSC\"\n        }\n    }\n}"},
	{"empty object on two lines", "{\n}\n", "{\n    \"runtimes\": {\n        \"runsc\": {\n            \"path\": \"RUNSC\"\n        }\n    }\n}\n"},
	{"settings, two spaces",
		"{\n  \"log-driver\": \"journald\",\n  \"data-root\": \"/srv/docker\"\n}\n",
		"{\n  \"log-driver\": \"journald\",\n  \"data-root\": \"/srv/docker\",\n  \"runtimes\": {\n    \"runsc\": {\n      \"path\": \"RUNSC\"\n    }\n  }\n}\n"},
	{"other runtime, tabs",
		"{\n\t\"runtimes\": {\n\t\t\"nvidia\": {\n\t\t\t\"args\": [],\n\t\t\t\"path\": \"nvidia-container-runtime\"\n\t\t}\n\t},\n\t\"live-restore\": true\n}\n",
		"{\n\t\"runtimes\": {\n\t\t\"nvidia\": {\n\t\t\t\"args\": [],\n\t\t\t\"path\": \"nvidia-container-runtime\"\n\t\t},\n\t\t\"runsc\": {\n\t\t\t\"path\": \"RUNSC\"\n\t\t}\n\t},\n\t\"live-restore\": true\n}\n"},
	{"empty runtimes", "{\n  \"runtimes\": {},\n  \"debug\": true\n}", "{\n  \"runtimes\": {\n    \"runsc\": {\n      \"path\": \"RUNSC\"\n    }\n  },\n  \"debug\": true\n}"},
	{"one line", `{"debug":true,"runtimes":{"x":{"path":"/x"}}}`, `{"debug":true,"runtimes":{"x":{"path":"/x"},"runsc":{"path":"RUNSC"}}}`},
	{"one line with spaces", `{ "debug": true, "hosts": ["unix:///run/docker.sock"] }`, `{ "debug": true, "hosts": ["unix:///run/docker.sock"], "runtimes": {"runsc":{"path":"RUNSC"}} }`},
	{"commas in front", "{ \"debug\": true\n, \"ipv6\": false\n}\n", "{ \"debug\": true\n, \"ipv6\": false, \"runtimes\": {\"runsc\":{\"path\":\"RUNSC\"}}\n}\n"},
	{"lines end in CR LF", "{\r\n  \"debug\": true\r\n}\r\n", "{\r\n  \"debug\": true,\r\n  \"runtimes\": {\r\n    \"runsc\": {\r\n      \"path\": \"RUNSC\"\r\n    }\r\n  }\r\n}\r\n"},
	{"keys in strings", `{"labels": ["runtimes", "}, \"runsc\": {"], "x\"y": {"runtimes": 1}}`, `{"labels": ["runtimes", "}, \"runsc\": {"], "x\"y": {"runtimes": 1}, "runtimes": {"runsc":{"path":"RUNSC"}}}`},
}

func TestDocker(t *testing.T) {
	for _, tc := range dockerFiles {
		t.Run(tc.name, func(t *testing.T) {
			m := newMachine(t)
			m.write(dockerFile, tc.before)
			before := m.files()
			p := m.apply(Install, Docker, m.options())
			if diff := cmp.Diff(strings.ReplaceAll(tc.after, "RUNSC", runscPath), m.read(dockerFile)); diff != "" {
				t.Errorf("installed (-want +got):\n%s", diff)
			}
			if got := m.read(dockerFile + ".fsva-backup"); got != tc.before {
				t.Errorf("the backup has %q", got)
			}
			var diff strings.Builder
			if err := p.Diff(&diff); err != nil {
				t.Fatal(err)
			}
			if !strings.HasPrefix(diff.String(), "--- "+dockerFile+"\n+++ "+dockerFile+"\n@@ ") || !strings.Contains(diff.String(), runscPath) {
				t.Errorf("diff:\n%s", diff.String())
			}
			if p := m.apply(Install, Docker, m.options()); len(p.Changes) != 0 {
				t.Errorf("a second install changes something")
			}
			m.apply(Uninstall, Docker, m.options())
			if diff := cmp.Diff(before, m.files()); diff != "" {
				t.Errorf("install and uninstall leave something (-before +after):\n%s", diff)
			}
			if _, err := Uninstall(Docker, m.options()); !errors.Is(err, ErrNotInstalled) {
				t.Errorf("a second uninstall: %v", err)
			}
		})
	}
}

// TestDockerEdited uninstalls after the user has changed the file, with and
// without the record of what was installed.
func TestDockerEdited(t *testing.T) {
	for _, tc := range dockerFiles {
		for _, record := range []string{"with record", "without"} {
			t.Run(tc.name+" "+record, func(t *testing.T) {
				m := newMachine(t)
				m.write(dockerFile, tc.before)
				m.apply(Install, Docker, m.options())
				text := m.read(dockerFile)
				end := strings.LastIndexByte(text, '}')
				m.write(dockerFile, text[:end]+`, "experimental": true`+text[end:])
				if record == "without" {
					if err := os.RemoveAll(filepath.Join(m.root, "var")); err != nil {
						t.Fatal(err)
					}
				}
				m.apply(Uninstall, Docker, m.options())

				want := map[string]any{}
				if strings.TrimSpace(tc.before) != "" {
					if err := json.Unmarshal([]byte(tc.before), &want); err != nil {
						t.Fatal(err)
					}
				}
				want["experimental"] = true
				got := map[string]any{}
				if err := json.Unmarshal([]byte(m.read(dockerFile)), &got); err != nil {
					t.Fatal(err)
				}
				if record == "without" && want["runtimes"] == nil {
					want["runtimes"] = map[string]any{} // nobody knows whose that was
				}
				if diff := cmp.Diff(want, got); diff != "" {
					t.Errorf("uninstalled (-want +got):\n%s", diff)
				}
			})
		}
	}
}

// TestDockerNeighbours checks that runtimes added on either side stay to the
// byte.
func TestDockerNeighbours(t *testing.T) {
	m := newMachine(t)
	m.write(dockerFile, "{\n  \"runtimes\": {\n    \"a\": { \"path\": \"/a\" }\n  }\n}\n")
	m.apply(Install, Docker, m.options())
	text := m.read(dockerFile)
	m.write(dockerFile, strings.Replace(text, "\n  }\n}", ",\n    \"z\":   {\"path\":\"/z\"}\n  }\n}", 1))
	m.apply(Uninstall, Docker, m.options())
	want := "{\n  \"runtimes\": {\n    \"a\": { \"path\": \"/a\" },\n    \"z\":   {\"path\":\"/z\"}\n  }\n}\n"
	if diff := cmp.Diff(want, m.read(dockerFile)); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

func TestDockerMissing(t *testing.T) {
	m := newMachine(t)
	m.apply(Install, Docker, m.options())
	if got := m.read(dockerFile); !strings.Contains(got, runscPath) {
		t.Errorf("installed %s", got)
	}
	m.apply(Uninstall, Docker, m.options())
	if got := m.files(); len(got) != 0 {
		t.Errorf("left %v", got)
	}
	// Edited, the file stays.
	m.apply(Install, Docker, m.options())
	m.write(dockerFile, strings.Replace(m.read(dockerFile), "{", "{\"debug\": true,", 1))
	m.apply(Uninstall, Docker, m.options())
	if got := m.read(dockerFile); !strings.Contains(got, "debug") || strings.Contains(got, "runtimes") {
		t.Errorf("left %q", got)
	}
}

func TestDockerRefuses(t *testing.T) {
	for _, tc := range []struct{ name, text, want string }{
		{"another runsc", `{"runtimes": {"runsc": {"path": "/usr/bin/runsc", "runtimeArgs": ["--debug"]}}}`, `has a runtime "runsc" that is not ` + runscPath},
		{"a runtime without a path", `{"runtimes": {"runsc": {"runtimeType": "io.containerd.runsc.v1"}}}`, "stays as it is"},
		{"a runtime that is no object", `{"runtimes": {"runsc": "x"}}`, "stays as it is"},
		{"a comment", "{\n  // our settings\n  \"debug\": true\n}", "daemon.json: line 2: "},
		{"a comma too many", "{\n  \"debug\": true,\n}", "daemon.json: line 3: "},
		{"cut off", "{\n  \"debug\": true\n", "daemon.json: line 3: ends too early"},
		{"two values", "{}\n{}\n", "something follows the end"},
		{"an array", "[]", "not what docker accepts"},
		{"null", "null", "not what docker accepts"},
		{"runtimes twice", `{"runtimes": {}, "runtimes": {}}`, `"runtimes" for the second time`},
		{"runtimes null", `{"runtimes": null}`, "is null"},
		{"runtimes an array", `{"runtimes": []}`, "not what docker accepts"},
		{"binary", "\x00\x01", "line 1: "},
	} {
		t.Run(tc.name, func(t *testing.T) {
			m := newMachine(t)
			m.write(dockerFile, tc.text)
			m.refused(Install, Docker, m.options(), tc.want)
		})
	}
	t.Run("uninstall of another runsc", func(t *testing.T) {
		m := newMachine(t)
		m.write(dockerFile, `{"runtimes": {"runsc": {"path": "/usr/bin/runsc"}}}`)
		m.refused(Uninstall, Docker, m.options(), "is not registered")
	})
	t.Run("uninstall of the default", func(t *testing.T) {
		m := newMachine(t)
		m.apply(Install, Docker, m.options())
		m.write(dockerFile, strings.Replace(m.read(dockerFile), "{", `{"default-runtime": "runsc",`, 1))
		m.refused(Uninstall, Docker, m.options(), "default-runtime")
	})
	t.Run("another path than before", func(t *testing.T) {
		m := newMachine(t)
		m.apply(Install, Docker, m.options())
		o := m.options()
		o.Runsc = "/opt/fsva/runsc"
		m.refused(Install, Docker, o, "first run: fsva uninstall docker")
		m.apply(Uninstall, Docker, o) // knows what was installed
		if got := m.files(); len(got) != 0 {
			t.Errorf("left %v", got)
		}
	})
}

func TestOptions(t *testing.T) {
	m := newMachine(t)
	for _, tc := range []struct {
		name   string
		change func(*Options)
		want   string
	}{
		{"reserved name", func(o *Options) { o.Runtime = "runc" }, "cannot be the name"},
		{"name with a slash", func(o *Options) { o.Runtime = "../x" }, "cannot be the name"},
		{"relative runsc", func(o *Options) { o.Runsc = "bin/runsc" }, "not absolute"},
		{"missing prefix", func(o *Options) { o.Prefix += "/none" }, "no such file"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			o := m.options()
			tc.change(&o)
			m.refused(Install, Docker, o, tc.want)
		})
	}
	m.refused(Install, "podman", m.options(), "none of docker and containerd")
}

// TestLinks checks that a configuration behind symbolic links is changed where
// it is, and links are followed below the prefix.
func TestLinks(t *testing.T) {
	m := newMachine(t)
	m.write("/srv/etc/docker.json", "{\"debug\": true}\n")
	if err := os.MkdirAll(filepath.Join(m.root, "etc"), 0o755); err != nil {
		t.Fatal(err)
	}
	for link, target := range map[string]string{"etc/docker": "../srv/etc", "srv/etc/daemon.json": "/srv/etc/docker.json"} {
		if err := os.Symlink(target, filepath.Join(m.root, link)); err != nil {
			t.Fatal(err)
		}
	}
	m.apply(Install, Docker, m.options())
	if got := m.read("/srv/etc/docker.json"); !strings.Contains(got, runscPath) {
		t.Errorf("got %s", got)
	}
	if target, err := os.Readlink(filepath.Join(m.root, "srv/etc/daemon.json")); err != nil || target != "/srv/etc/docker.json" {
		t.Errorf("the link is now %q, %v", target, err)
	}
	m.apply(Uninstall, Docker, m.options())
	if got := m.read("/srv/etc/docker.json"); got != "{\"debug\": true}\n" {
		t.Errorf("got %s", got)
	}

	if err := os.Symlink("loop.json", filepath.Join(m.root, "srv/etc/loop.json")); err != nil {
		t.Fatal(err)
	}
	o := m.options()
	o.ConfigFile = "/srv/etc/loop.json"
	m2 := func() error { _, err := Install(Docker, o); return err }
	if err := m2(); err == nil || !strings.Contains(err.Error(), "too many symbolic links") {
		t.Errorf("a link to itself: %v", err)
	}
	if err := os.Symlink("/srv/new.json", filepath.Join(m.root, "srv/etc/dangling.json")); err != nil {
		t.Fatal(err)
	}
	o.ConfigFile = "/srv/etc/dangling.json"
	m.apply(Install, Docker, o)
	if got := m.read("/srv/new.json"); !strings.Contains(got, runscPath) {
		t.Errorf("a dangling link: %s", got)
	}
}

// TestProtected checks files that cannot or should not be written.
func TestProtected(t *testing.T) {
	m := newMachine(t)
	m.write(dockerFile, "{}")
	file := filepath.Join(m.root, dockerFile)
	if err := os.Chmod(file, 0o444); err != nil {
		t.Fatal(err)
	}
	m.refused(Install, Docker, m.options(), "read-only")
	if err := os.Chmod(file, 0o640); err != nil {
		t.Fatal(err)
	}
	m.apply(Install, Docker, m.options())
	for _, path := range []string{file, file + ".fsva-backup"} {
		if fi, err := os.Stat(path); err != nil || fi.Mode() != 0o640 {
			t.Errorf("%s: mode %v, %v", path, fi.Mode(), err)
		}
	}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(file, 0o755); err != nil {
		t.Fatal(err)
	}
	m.refused(Install, Docker, m.options(), "not a regular file")
}

// TestChangedMeanwhile checks that a plan is for the files that it was made of,
// and that a plan that fails half-way is taken back.
func TestChangedMeanwhile(t *testing.T) {
	m := newMachine(t)
	p, err := Install(Containerd, m.options())
	if err != nil {
		t.Fatal(err)
	}
	m.write(configTOML, "version = 2\n")
	before := m.files()
	if err := p.Apply(); err == nil || !strings.Contains(err.Error(), "changed meanwhile") {
		t.Errorf("got %v", err)
	}
	if diff := cmp.Diff(before, m.files()); diff != "" {
		t.Errorf("files have changed (-before +after):\n%s", diff)
	}
}

func TestBackupsAreKept(t *testing.T) {
	m := newMachine(t)
	m.write(dockerFile, "{}")
	m.write(dockerFile+".fsva-backup", "precious")
	p := m.apply(Install, Docker, m.options())
	if want := filepath.Join(m.root, dockerFile+".fsva-backup.2"); p.Changes[0].Backup != want {
		t.Errorf("backup %s, want %s", p.Changes[0].Backup, want)
	}
	m.apply(Uninstall, Docker, m.options())
	if got := m.read(dockerFile + ".fsva-backup"); got != "precious" {
		t.Errorf("got %q", got)
	}
	if got := m.read(dockerFile); got != "{}" {
		t.Errorf("got %q", got)
	}
}

// runtimes returns the entries at path of a TOML text.
func runtimes(t *testing.T, text string, version int64) map[string]any {
	t.Helper()
	var all map[string]any
	if err := toml.Unmarshal([]byte(text), &all); err != nil {
		t.Fatal(err)
	}
	sub, err := subtable(all, criTables[version])
	if err != nil {
		t.Fatal(err)
	}
	return sub
}

var containerdFiles = map[string]struct {
	text    string // "" is the file in testdata
	version int64
}{
	"containerd-1.6-default.toml": {version: 2},
	"containerd-debian.toml":      {version: 2},
	"containerd-v3.toml":          {version: 3},
	"containerd-docker-ce.toml":   {version: 1},
	"comments":                    {"# nothing\n\n# here yet", 2},
	"no newline at the end":       {"version = 2\n[debug]\n  level = \"info\"", 2},
	"CR LF":                       {"version = 2\r\n\r\n[debug]\r\n  level = \"info\"\r\n", 2},
	"version 1":                   {"[plugins.cri.containerd.runtimes.runc]\n  runtime_type = \"io.containerd.runc.v2\"\n", 1},
	"dotted keys":                 {"version = 2\n[plugins]\n\"io.containerd.grpc.v1.cri\".containerd.snapshotter = \"native\"\n", 2},
}

func containerdText(t *testing.T, name string) string {
	t.Helper()
	if text := containerdFiles[name].text; text != "" {
		return text
	}
	data, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func TestContainerd(t *testing.T) {
	for name, tc := range containerdFiles {
		t.Run(name, func(t *testing.T) {
			m := newMachine(t)
			text := containerdText(t, name)
			m.write(configTOML, text)
			before := m.files()
			p := m.apply(Install, Containerd, m.options())
			got := m.read(configTOML)
			if !strings.HasPrefix(got, text) {
				t.Error("what was there has changed")
			}
			want := map[string]any{
				"runtime_type": "io.containerd.runsc.v1",
				"runtime_path": "/usr/local/lib/fsva/bin/containerd-shim-runsc-v1",
				"options":      map[string]any{"TypeUrl": "io.containerd.runsc.v1.options", "ConfigPath": runscTOML},
			}
			if diff := cmp.Diff(any(want), runtimes(t, got, tc.version)["runsc"]); diff != "" {
				t.Errorf("runtime (-want +got):\n%s", diff)
			}
			if options := m.read(runscTOML); !strings.Contains(options, `binary_name = "`+runscPath+`"`) {
				t.Errorf("options:\n%s", options)
			}
			if noted := len(p.Notes) > 0; noted != (name == "containerd-docker-ce.toml") {
				t.Errorf("notes %q", p.Notes)
			}
			if p := m.apply(Install, Containerd, m.options()); len(p.Changes) != 0 {
				t.Error("a second install changes something")
			}
			m.apply(Uninstall, Containerd, m.options())
			if diff := cmp.Diff(before, m.files()); diff != "" {
				t.Errorf("install and uninstall leave something (-before +after):\n%s", diff)
			}
		})
	}
}

// TestContainerdEdited uninstalls after the user has written around and into
// our tables.
func TestContainerdEdited(t *testing.T) {
	for name, tc := range containerdFiles {
		t.Run(name, func(t *testing.T) {
			m := newMachine(t)
			text := containerdText(t, name)
			m.write(configTOML, text)
			m.apply(Install, Containerd, m.options())
			const added = "\n# a comment of the user's\n[proxy_plugins.x]\n  # and another\n  address = \"/x\"\n"
			edited := strings.Replace(m.read(configTOML), "  runtime_type = \"io.containerd.runsc.v1\"\n",
				"  pod_annotations = [\n    \"dev.gvisor.*\",\n  ]\n  runtime_type = \"io.containerd.runsc.v1\" # sic\n", 1)
			m.write(configTOML, edited+added)
			m.apply(Uninstall, Containerd, m.options())
			got := m.read(configTOML)
			if _, ok := runtimes(t, got, tc.version)["runsc"]; ok {
				t.Error("our runtime is still there")
			}
			want := text
			if !strings.HasSuffix(want, "\n") {
				want += "\n"
			}
			if name == "comments" {
				want += "version = 2\n"
			}
			if diff := cmp.Diff(want+added, got); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
			if got := m.files()[runscTOML]; got != "" {
				t.Error("the shim's options are still there")
			}
		})
	}
}

func TestContainerdMissing(t *testing.T) {
	m := newMachine(t)
	m.apply(Install, Containerd, m.options())
	got := m.read(configTOML)
	if !strings.HasPrefix(got, "version = 2\n") || runtimes(t, got, 2)["runsc"] == nil {
		t.Errorf("installed %s", got)
	}
	m.apply(Uninstall, Containerd, m.options())
	if got := m.files(); len(got) != 0 {
		t.Errorf("left %v", got)
	}
	// The shim's options were edited: they go, and a backup stays.
	m.apply(Install, Containerd, m.options())
	m.write(runscTOML, m.read(runscTOML)+"  debug = \"true\"\n")
	m.apply(Uninstall, Containerd, m.options())
	if got := m.files(); len(got) != 1 || got[runscTOML+".fsva-backup"] == "" {
		t.Errorf("left %v", got)
	}
}

func TestContainerdOtherName(t *testing.T) {
	m := newMachine(t)
	text := "version = 2\n[plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.runsc]\n  runtime_type = \"io.containerd.runsc.v1\"\n"
	m.write(configTOML, text)
	m.write(runscTOML, "binary_name = \"/usr/bin/runsc\"\n")
	before := m.files()
	o := m.options()
	o.Runtime = "gvisor.fsva"
	m.apply(Install, Containerd, o)
	if runtimes(t, m.read(configTOML), 2)["gvisor.fsva"] == nil {
		t.Errorf("got %s", m.read(configTOML))
	}
	m.apply(Uninstall, Containerd, o)
	if diff := cmp.Diff(before, m.files()); diff != "" {
		t.Errorf("-before +after:\n%s", diff)
	}
}

func TestContainerdRefuses(t *testing.T) {
	const table = "[plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.runsc]\n"
	for _, tc := range []struct{ name, text, options, want string }{
		{"another runsc", "version = 2\n" + table + "  runtime_type = \"io.containerd.runsc.v1\"\n", "", "stays as it is"},
		{"an empty runtime", "version = 2\n" + table, "", "stays as it is"},
		{"other options", "version = 2\n", "binary_name = \"/usr/bin/runsc\"\n", "runsc.toml: it exists and its binary_name"},
		{"options that are wrong", "version = 2\n", "binary_name = \n", "runsc.toml: line 1, column "},
		{"syntax", "version = 2\n[debug\n", "", "config.toml: line 2, column "},
		{"a key twice", "version = 2\nroot = \"/a\"\nroot = \"/b\"\n", "", "config.toml: line 3, column "},
		{"version 4", "version = 4\n", "", "versions 1 to 3"},
		{"version as text", "version = \"2\"\n", "", "version is 2"},
		{"not a table", "version = 2\nplugins = 1\n", "", "plugins is not a table"},
		{"an inline table", "version = 2\n[plugins.\"io.containerd.grpc.v1.cri\".containerd]\nruntimes = {runc = {runtime_type = \"x\"}}\n", "", "add the runtime by hand"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			m := newMachine(t)
			m.write(configTOML, tc.text)
			if tc.options != "" {
				m.write(runscTOML, tc.options)
			}
			m.refused(Install, Containerd, m.options(), tc.want)
		})
	}
	t.Run("uninstall of an inline table", func(t *testing.T) {
		m := newMachine(t)
		m.write(configTOML, "version = 2\n[plugins.\"io.containerd.grpc.v1.cri\".containerd]\nruntimes = {runsc = {runtime_path = \"/usr/local/lib/fsva/bin/containerd-shim-runsc-v1\", options = {ConfigPath = \"/etc/containerd/runsc.toml\"}}}\n")
		m.refused(Uninstall, Containerd, m.options(), "remove the runtime by hand")
	})
	t.Run("uninstall of the default", func(t *testing.T) {
		m := newMachine(t)
		m.apply(Install, Containerd, m.options())
		m.write(configTOML, m.read(configTOML)+"[plugins.\"io.containerd.grpc.v1.cri\".containerd]\ndefault_runtime_name = \"runsc\"\n")
		m.refused(Uninstall, Containerd, m.options(), "default_runtime_name")
	})
}

// TestExamples checks that the files for people to copy are what Install
// writes.
func TestExamples(t *testing.T) {
	m := newMachine(t)
	m.apply(Install, Docker, m.options())
	m.apply(Install, Containerd, m.options())
	for example, path := range map[string]string{"docker-daemon.json": dockerFile, "containerd-runsc.toml": runscTOML, "containerd-config.toml": configTOML} {
		want, err := os.ReadFile(example)
		if err != nil {
			t.Fatal(err)
		}
		if example == "containerd-config.toml" { // which has comments of its own
			var a, b map[string]any
			if err := errors.Join(toml.Unmarshal(want, &a), toml.Unmarshal([]byte(m.read(path)), &b)); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(a, b); diff != "" {
				t.Errorf("%s (-example +installed):\n%s", example, diff)
			}
			continue
		}
		if diff := cmp.Diff(string(want), m.read(path)); diff != "" {
			t.Errorf("%s (-example +installed):\n%s", example, diff)
		}
	}
}

func FuzzJSONText(f *testing.F) {
	for _, tc := range dockerFiles {
		f.Add(tc.before)
	}
	f.Fuzz(func(t *testing.T, text string) {
		doc, err := parseDaemonJSON([]byte(text))
		if err != nil || len(doc.other) == 0 {
			return
		}
		if _, ok := doc.runtime("runsc"); ok {
			return
		}
		var path []string
		key, value := dockerRuntimes, `{"runsc":{"path":"/x"}}`
		if doc.hasRuntimes {
			path, key, value = []string{dockerRuntimes}, "runsc", `{"path":"/x"}`
		}
		after, err := setMember([]byte(text), path, key, []byte(value))
		if err != nil {
			t.Fatalf("%q: %v", text, err)
		}
		if err := doc.checkDifference(after, "runsc", true); err != nil {
			t.Fatalf("%q became %q: %v", text, after, err)
		}
		back, err := removeMember(after, path, key)
		if err != nil {
			t.Fatalf("%q: %v", after, err)
		}
		if doc.hasRuntimes && len(doc.runtimes) == 0 {
			return // "{}" may have had space in it
		}
		if string(back) != text {
			t.Fatalf("%q became %q became %q", text, after, back)
		}
	})
}

func FuzzTOMLText(f *testing.F) {
	for _, tc := range containerdFiles {
		f.Add(tc.text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		doc, err := parseContainerdTOML([]byte(text))
		if err != nil || len(doc.all) == 0 {
			return
		}
		if _, ok := doc.runtime("runsc"); ok {
			return
		}
		j := &job{target: Containerd, Options: Options{Runtime: "runsc", Runsc: runscPath, ConfigFile: configTOML}}
		after := appendTables([]byte(text), doc, j.stanza(doc.version))
		if doc.checkDifference(after, "runsc", true, "") != nil {
			return // what Install then refuses
		}
		back, err := removeTables(after, append(criTables[doc.version][:4:4], "runsc"))
		if err != nil {
			t.Fatalf("%q: %v", after, err)
		}
		want := text
		if !strings.HasSuffix(want, "\n") {
			want += "\n"
		}
		if string(back) != want {
			t.Fatalf("%q became %q became %q", text, after, back)
		}
	})
}

func TestRegistered(t *testing.T) {
	m := newMachine(t)
	o := Options{Prefix: m.root, Runsc: runscPath}
	check := func(target Target, want ...string) {
		t.Helper()
		got, err := Registered(target, o)
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("%s: got %q, %v, want %q", target, got, err, want)
		}
	}
	for _, target := range Targets {
		check(target)
		m.apply(Install, target, m.options())
		check(target, "runsc")
		other := m.options()
		other.Runtime = "fsva"
		m.apply(Install, target, other)
		check(target, "fsva", "runsc")
		m.apply(Uninstall, target, m.options())
		check(target, "fsva")
	}
	m.write(dockerFile, "{")
	if _, err := Registered(Docker, o); err == nil {
		t.Error("no error for a file that is wrong")
	}
}
