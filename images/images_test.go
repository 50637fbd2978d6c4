// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package images_test

import (
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"fsva/gofer/appliance"
	"fsva/images"
)

var update = flag.Bool("update", false, "write the Dockerfiles anew")

// dockerfile is the Dockerfile of an appliance: the packages of its recipe, for those who build images with docker.
func dockerfile(m appliance.Manifest) string {
	return fmt.Sprintf(`# The packages of appliance.toml, for those who build and distribute images with docker:
#   docker build -t fsva-%[1]s images/%[1]s && docker save -o %[1]s.tar fsva-%[1]s && fsva image import %[1]s %[1]s.tar
FROM debian:%[2]s-slim
RUN apt-get update && apt-get install -y --no-install-recommends %[3]s && rm -rf /var/lib/apt/lists/*
`, m.Name, m.Image.Suite, strings.Join(m.Image.Packages, " "))
}

// TestDockerfiles: each recipe has a Dockerfile beside it that says the same. Run with -update to write them.
func TestDockerfiles(t *testing.T) {
	s := appliance.Store{Places: []appliance.Place{{Name: "images", FS: images.FS}}}
	names, err := s.Names()
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		m, err := s.Load(name)
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(name, "Dockerfile")
		got, err := os.ReadFile(path)
		switch {
		case m.InProcess != "" || m.Isolation == appliance.IsolationVM:
			if !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("%s: there should be none: %v", path, err)
			}
			continue
		case len(m.Image.Packages) == 0:
			t.Errorf("%s/appliance.toml has no [image] table", name)
			continue
		case m.Root != appliance.RootImage:
			t.Errorf("%s/appliance.toml: root is %q: an appliance that comes with fsva runs in its image", name, m.Root)
		}
		want := dockerfile(m)
		if *update {
			err = os.WriteFile(path, []byte(want), 0o644)
			got = []byte(want)
		}
		if err != nil || string(got) != want {
			t.Errorf("%s: not what the recipe says (go test ./images -update writes it): %v", path, err)
		}
	}
}
