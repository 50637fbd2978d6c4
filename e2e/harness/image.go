// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package harness

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// imageState is the state directory, below the repository, that has the images of all test runs: an image is built again
// only when its recipe changes. `make clean` removes it.
const imageState = "bin/e2e"

// linkImages lets the state directory of an Env have the images of all runs.
func linkImages(root, stateDir string) error {
	images := filepath.Join(root, imageState, "images")
	if err := os.MkdirAll(images, 0o700); err != nil {
		return err
	}
	return os.Symlink(images, filepath.Join(stateDir, "images"))
}

// Images builds the images of all appliances that have a recipe, unless there are images of these recipes already. Serve
// and FSVA do that by themselves.
func (e *Env) Images(t testing.TB) {
	t.Helper()
	if e.parent != nil {
		e.parent.Images(t)
		return
	}
	fsva := e.Binary(t, "fsva")
	e.imagesOnce.Do(func() { e.imagesErr = buildImages(fsva, e.FSVAEnv()) })
	if e.imagesErr != nil {
		t.Fatal(e.imagesErr)
	}
}

func buildImages(fsva string, environ []string) error {
	cmd := exec.Command(fsva, "image", "build", "--all", "--if-needed")
	cmd.Env = append(os.Environ(), environ...)
	start := time.Now()
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s: %w\n%s", strings.Join(cmd.Args, " "), err, out)
	}
	if len(out) > 0 {
		progress("built images in %.0f s", time.Since(start).Seconds())
	}
	return nil
}
