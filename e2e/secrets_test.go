// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"fsva/e2e/harness"
	"fsva/gofer/appliance"
	"fsva/gofer/conformance"
	"fsva/images"
)

// TestSecrets serves each appliance that takes a secret file, uses it, and looks for the secret everywhere but in that
// file: command lines and environments of all processes, everything in the run and state directories (volume.json, the
// sandbox's specification, runsc's state, definitions), the control API, and the logs at debug level.
func TestSecrets(t *testing.T) {
	harness.NeedRoot(t)
	tested := map[string]bool{}
	for _, s := range servers {
		if !takesSecret(t, s.appliance) {
			continue
		}
		medium := s.source(t, env.TempDir(t), conformance.Tree{})
		if len(medium.secrets) == 0 {
			continue // rclone on a directory
		}
		tested[s.appliance] = true
		t.Run(s.name(), func(t *testing.T) {
			t.Parallel()
			look := newSecretSearch(medium.secrets)
			runscLog := env.TempDir(t)
			flags := append([]string{"--appliance", s.appliance, "--log-level", "debug"}, medium.flags...)
			v := env.ServeWith(t, []string{"FSVA_RUNSC_DEBUG_LOG=" + runscLog + "/"}, volumeName(t), flags...)
			r := env.Docker(t).Run(t, harness.Container{
				Runtime: harness.RuntimeOurs, Mounts: []string{v.Mount("/data")}, Timeout: time.Minute,
				Args: []string{"sh", "-c", "echo hello >/data/file && cat /data/file && ls -l /data /nothing"},
			})
			look.text("the container's output", r.Stdout+r.Stderr)
			if !strings.HasPrefix(r.Stdout, "hello\n") {
				t.Errorf("the volume does not work: %s%s", r.Stdout, r.Stderr)
			}
			look.processes(t, v)
			defined := v.Name + "-defined"
			for _, args := range [][]string{
				append([]string{"volume", "create", defined, "--appliance", s.appliance}, medium.flags...), {"volume", "inspect", defined}, {"volume", "ls"},
				{"ls"}, {"ls", "--json"}, {"stat", v.Name}, {"stat", "--json", v.Name},
			} {
				r := env.FSVA(t, args...)
				if r.Code != 0 {
					t.Errorf("fsva %q: exit code %d: %s", args, r.Code, r.Stderr)
				}
				look.text(fmt.Sprintf("fsva %q", args), r.Stdout+r.Stderr)
			}
			for _, dir := range []string{env.RunDir, env.StateDir, runscLog} {
				look.files(t, dir)
			}
			output := v.Output() // all of it, its end too
			v.Stop(t)
			look.text("the log", output())
			look.files(t, env.StateDir)
			if r := env.FSVA(t, "volume", "rm", defined); r.Code != 0 {
				t.Errorf("fsva volume rm: %s", r.Stderr)
			}
			for _, place := range look.found {
				t.Errorf("a secret is in %s", place)
			}
			if look.searched < 20 {
				t.Errorf("looked at %d places only", look.searched)
			}
		})
	}
	names, err := fs.Glob(images.FS, "*/"+appliance.ManifestName)
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range names {
		if name := filepath.Dir(path); takesSecret(t, name) && !tested[name] {
			t.Errorf("appliance %s takes a secret and has no entry in servers with one", name)
		}
	}
}

// takesSecret reports whether an appliance has an option that is a secret file.
func takesSecret(t *testing.T, name string) bool {
	t.Helper()
	m, err := appliance.Load(name)
	if err != nil {
		t.Fatal(err)
	}
	return slices.ContainsFunc(m.Options, func(o appliance.OptionSpec) bool { return o.Type == appliance.TypeSecretFile })
}

// secretSearch looks for secrets and notes where they are.
type secretSearch struct {
	secrets  [][]byte
	found    []string
	searched int
}

func newSecretSearch(secrets []string) *secretSearch {
	s := &secretSearch{}
	for _, text := range secrets {
		s.secrets = append(s.secrets, []byte(text))
	}
	return s
}

func (s *secretSearch) bytes(place string, b []byte) {
	s.searched++
	if slices.ContainsFunc(s.secrets, func(secret []byte) bool { return bytes.Contains(b, secret) }) {
		s.found = append(s.found, place)
	}
}

func (s *secretSearch) text(place, text string) { s.bytes(place, []byte(text)) }

// processes looks at all of the machine. Those that are not the volume's may be out of reach.
func (s *secretSearch) processes(t *testing.T, v *harness.Volume) {
	t.Helper()
	ours := map[string]bool{}
	for _, p := range v.Processes() {
		ours[fmt.Sprintf("/proc/%d", p.PID)] = true
	}
	for _, kind := range []string{"cmdline", "environ"} {
		paths, err := filepath.Glob("/proc/[0-9]*/" + kind)
		if err != nil {
			t.Fatal(err)
		}
		for _, path := range paths {
			b, err := os.ReadFile(path)
			switch {
			case err == nil:
				s.bytes(path, b)
			case errors.Is(err, os.ErrNotExist), errors.Is(err, unix.ESRCH): // it has ended
			case errors.Is(err, os.ErrPermission) && !ours[filepath.Dir(path)]:
			default:
				t.Error(err)
			}
		}
	}
	if len(ours) < 4 {
		t.Errorf("only %d processes of the volume", len(ours))
	}
}

// files looks at every regular file below dir, which other tests change.
func (s *secretSearch) files(t *testing.T, dir string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, os.ErrNotExist) || (err == nil && !d.Type().IsRegular()) {
			return nil
		}
		if err != nil {
			return err
		}
		f, err := os.Open(path)
		if errors.Is(err, os.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		defer f.Close()
		b, err := io.ReadAll(io.LimitReader(f, 16<<20))
		s.bytes(path, b)
		return err
	})
	if err != nil {
		t.Error(err)
	}
}
