// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package sentryglue

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"fsva/gofer/attach"
)

// answers is a gofer that only answers checks.
type answers struct{ err error }

func (a answers) Check(attach.Request) error                 { return a.err }
func (a answers) Attach(attach.Request, int, *os.File) error { return errors.New("not here") }

// makeVolume makes a volume directory under dir whose gofer answers err.
func makeVolume(t *testing.T, dir string, info attach.Info, err error) string {
	t.Helper()
	info.Version, info.Appliance = 1, "test"
	v := filepath.Join(dir, info.Name)
	if err := os.MkdirAll(v, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := attach.WriteInfo(v, info); err != nil {
		t.Fatal(err)
	}
	l, lerr := attach.Listen(v)
	if lerr != nil {
		t.Fatal(lerr)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- attach.Serve(ctx, l, answers{err}, slog.New(slog.DiscardHandler)) }()
	t.Cleanup(func() {
		cancel()
		<-done
	})
	return v
}

type object = map[string]any

// makeConfig writes a bundle with the given mounts and annotations.
func makeConfig(t *testing.T, annotations object, mounts ...object) request {
	t.Helper()
	config := object{"ociVersion": "1.0.0", "mounts": mounts, "future": object{"n": json.Number("12345678901234567890"), "s": "a<b&c"}}
	if annotations != nil {
		config["annotations"] = annotations
	}
	data, err := json.Marshal(config)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "config.json"), data, 0o640); err != nil {
		t.Fatal(err)
	}
	return request{container: "c", bundle: dir, rootDir: filepath.Join(dir, "no-runsc")}
}

func readConfig(t *testing.T, r request) object {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(r.bundle, "config.json"))
	if err != nil {
		t.Fatal(err)
	}
	d := json.NewDecoder(strings.NewReader(string(data)))
	d.UseNumber()
	var config object
	if err := d.Decode(&config); err != nil {
		t.Fatal(err)
	}
	return config
}

func bindObject(source, destination string, options ...string) object {
	return object{"type": "bind", "source": source, "destination": destination, "options": append([]string{"rbind"}, options...)}
}

func TestSpecPass(t *testing.T) {
	run := t.TempDir()
	exclusive := makeVolume(t, run, attach.Info{Name: "exclusive", Coherence: attach.Exclusive, DentryCache: 9}, nil)
	shared := makeVolume(t, run, attach.Info{Name: "shared", Coherence: attach.Shared}, nil)
	r := makeConfig(t, object{"keep": "me", "dev.gvisor.spec.mount.fsva-7.source": "stale", "dev.gvisor.spec.mount.mine.source": "/elsewhere"},
		object{"type": "proc", "source": "proc", "destination": "/proc"},
		bindObject(exclusive, "/e"),
		bindObject(t.TempDir(), "/plain"),
		bindObject(shared, "/s", "ro"),
	)
	before := readConfig(t, r)
	var first []byte
	for range 2 { // the second pass finds the first one's work
		p, err := specPass(r, "")
		if err != nil {
			t.Fatal(err)
		}
		want := &plan{Mounts: []plannedMount{
			{Index: 1, Volume: "exclusive", Source: exclusive, Destination: "/e", HintSource: "fsva:exclusive", Options: []string{"nosuid", "nodev", "dcache=9"}},
			{Index: 3, Volume: "shared", Source: shared, Destination: "/s", HintSource: "fsva:shared", Options: []string{"nosuid", "nodev", "disable_file_handle_sharing"}, ReadOnly: true},
		}, Share: 1}
		if diff := cmp.Diff(p, want); diff != "" {
			t.Errorf("plan (-got +want):\n%s", diff)
		}
		data, err := os.ReadFile(filepath.Join(r.bundle, "config.json"))
		if err != nil {
			t.Fatal(err)
		}
		if first != nil && string(first) != string(data) {
			t.Errorf("second pass changed config.json to %s", data)
		}
		first = data
	}
	before["annotations"] = object{
		"keep":                              "me",
		"dev.gvisor.spec.mount.mine.source": "/elsewhere",
		"dev.gvisor.spec.mount.fsva-container.source": "fsva:exclusive", "dev.gvisor.spec.mount.fsva-container.type": "bind",
		"dev.gvisor.spec.mount.fsva-container.share": "container", "dev.gvisor.spec.mount.fsva-container.directfs": "off",
		"dev.gvisor.spec.mount.fsva-shared.source": "fsva:shared", "dev.gvisor.spec.mount.fsva-shared.type": "bind",
		"dev.gvisor.spec.mount.fsva-shared.share": "shared", "dev.gvisor.spec.mount.fsva-shared.directfs": "off",
	}
	if diff := cmp.Diff(readConfig(t, r), before); diff != "" {
		t.Errorf("config.json (-got +want):\n%s", diff)
	}
	st, err := os.Stat(filepath.Join(r.bundle, "config.json"))
	if err != nil || st.Mode() != 0o640 {
		t.Errorf("config.json: %v, %v; want mode 0640", st.Mode(), err)
	}
	if entries, err := os.ReadDir(r.bundle); err != nil || len(entries) != 1 {
		t.Errorf("bundle has %v, %v", entries, err)
	}
}

// TestSpecPassLeavesAlone: without volumes, config.json is not even rewritten.
func TestSpecPassLeavesAlone(t *testing.T) {
	locked := filepath.Join(t.TempDir(), "volume.json")
	for name, source := range map[string]string{
		"plain":   t.TempDir(),
		"absent":  "/nonexistent",
		"file":    "/etc/passwd",
		"volumes": filepath.Join(t.TempDir(), "volumes", "data"),
		"other's": filepath.Dir(locked),
	} {
		if err := os.WriteFile(locked, []byte(`{"some": "other program's"}`), 0o600); err != nil {
			t.Fatal(err)
		}
		r := makeConfig(t, nil, bindObject(source, "/x"))
		path := filepath.Join(r.bundle, "config.json")
		before, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		p, err := specPass(r, "")
		if p != nil || err != nil {
			t.Errorf("%s: got %+v, %v; want nothing", name, p, err)
		}
		if after, err := os.Stat(path); err != nil || !os.SameFile(before, after) {
			t.Errorf("%s: config.json was replaced (%v)", name, err)
		}
	}
	// Errors in config.json are gVisor's to report.
	r := makeConfig(t, nil)
	for _, data := range []string{"", "{", `{"mounts": 1}`, `{"annotations": []}`} {
		if err := os.WriteFile(filepath.Join(r.bundle, "config.json"), []byte(data), 0o600); err != nil {
			t.Fatal(err)
		}
		if p, err := specPass(r, ""); p != nil || err != nil {
			t.Errorf("%q: got %+v, %v; want nothing", data, p, err)
		}
	}
	if p, err := specPass(request{bundle: "/nonexistent"}, ""); p != nil || err != nil {
		t.Errorf("no bundle: got %+v, %v; want nothing", p, err)
	}
}

func TestSpecPassRefuses(t *testing.T) {
	run := t.TempDir()
	exclusive := makeVolume(t, run, attach.Info{Name: "exclusive", Coherence: attach.Exclusive}, nil)
	shared := makeVolume(t, run, attach.Info{Name: "shared", Coherence: attach.Shared}, nil)
	busy := makeVolume(t, run, attach.Info{Name: "busy", Coherence: attach.Exclusive}, errors.New("in use by container x"))
	link := filepath.Join(run, "link")
	if err := os.Symlink(exclusive, link); err != nil {
		t.Fatal(err)
	}
	newer := filepath.Join(run, "newer")
	if err := os.Mkdir(newer, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(newer, attach.InfoName), []byte(`{"type":"fsva-volume","version":2}`), 0o600); err != nil {
		t.Fatal(err)
	}
	// Container managers make missing sources; here are two, in a default and
	// in another run directory.
	dead := filepath.Join(run, "default", "volumes", "dead")
	elsewhere := filepath.Join(run, "elsewhere", "volumes", "dead")
	for _, d := range []string{dead, elsewhere, filepath.Join(run, "elsewhere", "control"), filepath.Join(run, "elsewhere", "locks")} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	idMapped := bindObject(shared, "/s")
	idMapped["uidMappings"] = []object{{"containerID": 0, "hostID": 1000, "size": 1}}
	idMapped["gidMappings"] = idMapped["uidMappings"]

	for _, tc := range []struct {
		name        string
		annotations object
		mounts      []object
		want        string // empty: accepted
	}{
		{"running", nil, []object{bindObject(exclusive, "/e")}, ""},
		{"shared twice", nil, []object{bindObject(shared, "/a"), bindObject(shared, "/b")}, ""},
		{"exclusive twice", nil, []object{bindObject(exclusive, "/a"), bindObject(exclusive, "/b")},
			`cannot mount volume "exclusive" at "/b": the volume is exclusive and this container has it at "/a" already`},
		{"exclusive twice by another path", nil, []object{bindObject(exclusive, "/a", "ro"), bindObject(link, "/b")}, "has it at"},
		{"exclusive twice, read-only", nil, []object{bindObject(exclusive, "/a", "ro"), bindObject(exclusive, "/b", "ro")}, ""},
		{"refused", nil, []object{bindObject(busy, "/b")}, `cannot mount volume "busy" at "/b": in use by container x`},
		{"empty directory", nil, []object{bindObject(dead, "/d")}, "the volume is not running; start it with: fsva serve dead"},
		{"empty directory elsewhere", nil, []object{bindObject(elsewhere, "/d")}, "fsva serve dead"},
		{"newer version", nil, []object{bindObject(newer, "/n")}, "version 2"},
		{"pod without a sandbox", object{"io.kubernetes.cri.container-type": "container"}, []object{bindObject(shared, "/s")}, "its annotations do not say which"},
		{"pod with a sandbox elsewhere", object{"io.kubernetes.cri.container-type": "container", "io.kubernetes.cri.sandbox-id": "s1"}, []object{bindObject(shared, "/s")},
			`cannot mount volume "shared" at "/s": the pod has no sandbox s1 here`},
		{"pod's sandbox", object{"io.kubernetes.cri.container-type": "sandbox"}, []object{bindObject(shared, "/s")}, ""},
		{"pod without volumes", object{"io.kubernetes.cri.container-type": "container"}, []object{bindObject(run, "/s")}, ""},
		{"id-mapped", nil, []object{idMapped}, "id-mapped"},
		{"dev", nil, []object{bindObject(shared, "/dev/")}, "at /dev"},
		{"own hint", object{"dev.gvisor.spec.mount.mine.source": shared + "/"}, []object{bindObject(shared, "/s")}, `annotation "dev.gvisor.spec.mount.mine.source"`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := makeConfig(t, tc.annotations, tc.mounts...)
			_, err := specPass(r, filepath.Join(run, "default"))
			if tc.want == "" {
				if err != nil {
					t.Errorf("got %v, want no error", err)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), tc.want) || strings.Contains(err.Error(), "\n") {
				t.Errorf("got %v, want %q", err, tc.want)
			}
		})
	}
}

// TestSpecPassRelative: gVisor takes relative paths from the bundle.
func TestSpecPassRelative(t *testing.T) {
	r := makeConfig(t, nil, bindObject("vol", "/v"))
	makeVolume(t, r.bundle, attach.Info{Name: "vol", Coherence: attach.Shared}, nil)
	p, err := specPass(r, "")
	if err != nil || len(p.Mounts) != 1 || p.Mounts[0].Source != filepath.Join(r.bundle, "vol") {
		t.Errorf("got %+v, %v", p, err)
	}
}

// TestBundleConfigKeepsAll: whatever gVisor can read stays as it was but for the
// hints. A table and no fuzz target: config.json is trusted, and a fuzz build of
// this package instruments all of gVisor for minutes.
func TestBundleConfigKeepsAll(t *testing.T) {
	for _, data := range []string{
		`{"mounts":[{"destination":"/d","source":"/s","type":"bind","future":1}],"annotations":{"a":"b"},"x":[1.5e300,{"y":null}]}`,
		`{"annotations":null,"n":12345678901234567890}`,
		`{"annotations":{"dev.gvisor.spec.mount.fsva-0.source":"stale","\u00e4<&>":"\ud83d\ude00"}}`,
		`{"x":"\u0000\u2028"}`,
		`null`,
	} {
		c, err := decodeBundleConfig([]byte(data))
		if err != nil {
			t.Errorf("%s: %v", data, err)
			continue
		}
		c.setHints(true)
		out, err := c.encode()
		if err != nil {
			t.Fatal(err)
		}
		var before, after object
		if err := json.Unmarshal([]byte(data), &before); err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(out, &after); err != nil {
			t.Fatalf("%s: %v", out, err)
		}
		d, err := decodeBundleConfig(out)
		if err != nil || d.annotations["dev.gvisor.spec.mount.fsva-shared.source"] != "fsva:shared" {
			t.Errorf("%s: %v", out, err)
		}
		delete(before, "annotations")
		delete(after, "annotations")
		if diff := cmp.Diff(after, before, cmpopts.EquateEmpty()); diff != "" {
			t.Errorf("%s (-got +want):\n%s", data, diff)
		}
	}
}
