// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package appliance

import (
	"regexp"
	"strings"
	"testing"

	"fsva/images"
)

// secretName matches the names of options that take a secret.
var secretName = regexp.MustCompile(`pass|secret|credential|token|identity|private|^key`)

// TestSecretsAreFiles checks that no appliance that comes with the binary takes a secret as text.
func TestSecretsAreFiles(t *testing.T) {
	s := Store{Places: []Place{{"(built in)", images.FS}}}
	names, err := s.Names()
	if err != nil {
		t.Fatal(err)
	}
	files := 0
	for _, name := range names {
		m, err := s.Load(name)
		if err != nil {
			t.Fatal(err)
		}
		for _, o := range m.Options {
			if o.Type == TypeSecretFile {
				files++
			} else if secretName.MatchString(o.Name) {
				t.Errorf("appliance %s: option %s is a %s, not a %s", name, o.Name, o.Type, TypeSecretFile)
			}
		}
	}
	if files < 5 {
		t.Errorf("only %d options are secret files", files)
	}
}

// TestPasswordsRefused checks that a secret in a source or an option is refused, by an error that does not repeat it.
func TestPasswordsRefused(t *testing.T) {
	for name, tc := range map[string]struct {
		source, option string
		refused        bool
	}{
		"a remote":                {source: "store:some/where"},
		"a user":                  {source: "me@host:dir"},
		"a remote without a name": {source: ":webdav:"},
		"an odd path":             {source: "store:a,b=c"},
		"a plain URL":             {source: "store:", option: "http://127.0.0.1:8080/a:b@c"},
		"connection string":       {source: ":s3,secret_access_key=marker:bucket", refused: true},
		"remote with options":     {source: "store,pass=marker:", refused: true},
		"password in a URL":       {source: "http://me:marker@host:80/dir", refused: true},
		"option with password":    {source: "store:", option: "https://me:marker@host", refused: true},
	} {
		t.Run(name, func(t *testing.T) {
			m := Manifest{Name: "demo", Command: []string{"sh"}, Mount: MountHelper, Isolation: IsolationGVisor, Coherence: CoherenceShared,
				Source: SourceRemote, Root: RootHost, Options: []OptionSpec{{Name: "url", Type: TypeString, Args: []string{"--url=${value}"}}}}
			v := VolumeSpec{Name: "v", Source: tc.source}
			if tc.option != "" {
				v.Options = []string{"url=" + tc.option}
			}
			_, err := m.Resolve(v)
			switch {
			case (err != nil) != tc.refused:
				t.Errorf("got %v, want refused: %v", err, tc.refused)
			case err != nil && strings.Contains(err.Error(), "marker"):
				t.Errorf("the error repeats the secret: %v", err)
			}
		})
	}
}
