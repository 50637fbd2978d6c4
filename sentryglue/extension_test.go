// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package sentryglue

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"gvisor.dev/gvisor/runsc/specutils"
)

func TestAssignFDs(t *testing.T) {
	parse := func(s string) []specutils.GoferMountConf {
		t.Helper()
		var confs specutils.GoferMountConfFlags
		if err := confs.Set(s); err != nil {
			t.Fatal(err)
		}
		return confs
	}
	spec := &specs.Spec{Mounts: []specs.Mount{
		{Type: "proc", Destination: "/proc"},
		{Type: "bind", Source: "/a", Destination: "/a"},
		{Type: "none", Source: "/b", Destination: "/b", Options: []string{"rbind"}},
		{Type: "tmpfs", Destination: "/t"},
		{Type: "bind", Source: "/c", Destination: "/c"},
	}}
	for _, tc := range []struct {
		name  string
		confs string
		fds   []int
		want  map[int]lisafsFD // nil: an error
	}{
		{"all", "lisafs:self,lisafs:none,lisafs:none,lisafs:memory", []int{10, 11, 12, 13}, map[int]lisafsFD{1: {11, false}, 2: {12, false}, 4: {13, true}}},
		{"root without a gofer", "erofs:memory,lisafs:none,lisafs:none,lisafs:none", []int{11, 12, 13}, map[int]lisafsFD{1: {11, false}, 2: {12, false}, 4: {13, false}}},
		{"one on tmpfs", "lisafs:none,lisafs:none,none:self,lisafs:none", []int{10, 11, 13}, map[int]lisafsFD{1: {11, false}, 4: {13, false}}},
		{"too few descriptors", "lisafs:none,lisafs:none,lisafs:none,lisafs:none", []int{10, 11, 12}, nil},
		{"too many descriptors", "lisafs:none,lisafs:none,lisafs:none,lisafs:none", []int{10, 11, 12, 13, 14}, nil},
		{"too few mounts", "lisafs:none,lisafs:none,lisafs:none", []int{10, 11, 12}, nil},
		{"too many mounts", "lisafs:none,lisafs:none,lisafs:none,lisafs:none,lisafs:none", []int{10, 11, 12, 13, 14}, nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got, err := assignFDs(spec, tc.fds, parse(tc.confs))
			if tc.want == nil {
				if err == nil {
					t.Errorf("got %v, want an error", got)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(got, tc.want, cmp.AllowUnexported(lisafsFD{})); diff != "" {
				t.Errorf("(-got +want):\n%s", diff)
			}
		})
	}
	if _, err := assignFDs(spec, []int{1}, nil); err == nil {
		t.Error("no mount configurations: got nil, want an error")
	}
}

// TestGuard: when gVisor stops to show an extension's changes of the mounts to
// its own code, a container with a volume fails instead of working without the
// volume's caching rules.
func TestGuard(t *testing.T) {
	e := newGoferExtension(&plan{Mounts: []plannedMount{{HintSource: "fsva:v:0"}}})
	e.sources = []string{"/run/fsva/volumes/v"}
	try := func(source string) (claimed bool, err error) {
		impl, _, err := e.TryHandleMount(nil, &specs.Mount{Source: source}, "/v", false)
		return impl != nil, err
	}
	if claimed, err := try("fsva:v:0"); !claimed || err != nil {
		t.Errorf("changed mount: got %v, %v; want a claim", claimed, err)
	}
	if claimed, err := try("/run/fsva/volumes/v"); claimed || err == nil {
		t.Errorf("unchanged mount: got %v, %v; want an error", claimed, err)
	}
	if claimed, err := try("/somewhere"); claimed || err != nil {
		t.Errorf("other mount: got %v, %v; want neither", claimed, err)
	}
	if impl, _, err := e.TryHandleMount(nil, nil, "/", false); impl != nil || err != nil {
		t.Errorf("root: got %v, %v; want neither", impl, err)
	}
}

func TestReasonWriter(t *testing.T) {
	const old = `{"msg":"cannot mount volume \"old\" at \"/o\": an earlier command's","level":"error"}`
	const gofers = `{"msg":"preparing gofer extensions: cannot mount volume \"v\" at \"/d\": why","level":"error","time":"t1"}`
	const generic = `{"msg":"cannot create sandbox: EOF","level":"error","time":"t2"}`
	for _, tc := range []struct{ name, log, want string }{
		{"with a reason", old + gofers, `cannot mount volume "v" at "/d": why`},
		{"other errors first", old + `{"msg":"x","level":"error"}` + "\n" + gofers, `cannot mount volume "v" at "/d": why`},
		{"without", old, "cannot create sandbox: EOF"},
		{"garbage", old + "W1122 text log\n" + gofers, "cannot create sandbox: EOF"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var out, stderr bytes.Buffer
			w := &reasonWriter{next: &out, stderr: &stderr, log: strings.NewReader(tc.log), start: int64(len(old))}
			if n, err := w.Write([]byte(generic)); n != len(generic) || err != nil {
				t.Fatalf("got %d, %v", n, err)
			}
			var entry struct{ Msg, Level, Time string }
			if err := json.Unmarshal(out.Bytes(), &entry); err != nil {
				t.Fatal(err)
			}
			if entry.Msg != tc.want || entry.Level != "error" || entry.Time != "t2" {
				t.Errorf("got %+v, want message %q", entry, tc.want)
			}
			if got := strings.TrimSpace(stderr.String()); got != "" && got != tc.want {
				t.Errorf("stderr has %q", got)
			}
		})
	}
}

func TestIsGofer(t *testing.T) {
	for args, want := range map[string]bool{
		"--root=/r --log-fd=3 gofer --bundle /b c":  true,
		"--root=/r boot --bundle /b c":              false,
		"--root=/r create --bundle /b gofer":        false,
		"":                                          false,
		"--root=/r --debug=true gofer --io-fds=5 c": true,
	} {
		if got := isGofer(strings.Fields(args)); got != want {
			t.Errorf("%q: got %v, want %v", args, got, want)
		}
	}
}
