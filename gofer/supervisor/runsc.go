// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package supervisor

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"fsva/gofer/supervisor/goferproto"
)

// oldestRunsc is the date of the first release that may run an FS server.
const oldestRunsc = "20250101"

// runscTimeout bounds a runsc command that does nothing lengthy.
const runscTimeout = 30 * time.Second

// FindRunsc returns the path of the runsc that runs FS servers: FSVA_RUNSC, or
// the one beside this binary, or the first on PATH.
func FindRunsc() (string, error) {
	if p := os.Getenv("FSVA_RUNSC"); p != "" {
		p, err := exec.LookPath(p)
		if err != nil {
			return "", fmt.Errorf("FSVA_RUNSC: %w", err)
		}
		return filepath.Abs(p)
	}
	exe, p, err := Beside("runsc")
	if errors.Is(err, exec.ErrNotFound) {
		return "", fmt.Errorf("isolation gvisor needs runsc, which is neither beside %s nor on PATH: build it with make build, set FSVA_RUNSC, or choose --isolation process", exe)
	}
	return p, err
}

// Beside returns the path of this binary, and that of the program of the given name
// beside it, or of the first on PATH. The error is exec.ErrNotFound if there is neither.
func Beside(name string) (exe, path string, err error) {
	if exe, err = os.Executable(); err != nil {
		return "", "", err
	}
	if path, err = exec.LookPath(filepath.Join(filepath.Dir(exe), name)); err == nil {
		return exe, path, nil
	}
	if path, err = exec.LookPath(name); err != nil {
		return exe, "", exec.ErrNotFound
	}
	path, err = filepath.Abs(path)
	return exe, path, err
}

// Library returns where libfsvamount.so should be: beside this binary.
func Library() (string, error) {
	exe, err := os.Executable()
	return filepath.Join(filepath.Dir(exe), "libfsvamount.so"), err
}

// checkRunsc reports why the runsc at path cannot run FS servers.
func checkRunsc(ctx context.Context, path string) error {
	version, err := runRunsc(ctx, path, "--version")
	if err != nil {
		return err
	}
	if err := checkVersion(version); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	help, err := runRunsc(ctx, path, "help", "run")
	if err != nil {
		return err
	}
	if !strings.Contains(help, "-pass-fd") {
		return fmt.Errorf("%s is too old: it does not know --pass-fd (gVisor release %s or later does)", path, oldestRunsc)
	}
	return nil
}

var versionDate = regexp.MustCompile(`20[0-9]{6}`)

// checkVersion judges the output of runsc --version. Builds without a release
// date in their version pass.
func checkVersion(out string) error {
	first, _, _ := strings.Cut(out, "\n")
	version, ok := strings.CutPrefix(strings.TrimSpace(first), "runsc version ")
	if !ok {
		return fmt.Errorf("not a runsc: --version says %q", goferproto.Line(first, 80))
	}
	if date := versionDate.FindString(version); date != "" && date < oldestRunsc {
		return fmt.Errorf("runsc %s is too old: FS servers need gVisor release %s or later", goferproto.Line(version, 80), oldestRunsc)
	}
	return nil
}

// runRunsc runs a short command and returns its standard output.
func runRunsc(ctx context.Context, path string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, runscTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.WaitDelay = time.Second
	stdout, stderr := &boundedBuffer{limit: 64 << 10}, &boundedBuffer{limit: 64 << 10}
	cmd.Stdout, cmd.Stderr = stdout, stderr
	if err := cmd.Run(); err != nil {
		if ctx.Err() == context.DeadlineExceeded {
			err = fmt.Errorf("no answer within %v", runscTimeout)
		}
		text := goferproto.Line(stderr.String(), 500)
		if text != "" {
			text = ": " + text
		}
		return "", fmt.Errorf("%s %s: %w%s", path, strings.Join(args, " "), err, text)
	}
	return stdout.String(), nil
}

// deleteSandbox removes the container that root, the state of a runsc that runs
// no other, knows about, killing what is left of it, and then root. That there
// is none is no error.
func deleteSandbox(ctx context.Context, runsc, root, id string) error {
	entries, err := os.ReadDir(root)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if len(entries) > 0 {
		if runsc == "" {
			if runsc, err = FindRunsc(); err != nil {
				return err
			}
		}
		if _, err := runRunsc(ctx, runsc, "--root="+root, "delete", "--force", id); err != nil {
			return err
		}
	}
	// What a deletion leaves are empty files.
	if entries, err = os.ReadDir(root); err != nil {
		return err
	}
	for _, e := range entries {
		if err := remove(filepath.Join(root, e.Name())); err != nil {
			return err
		}
	}
	return remove(root)
}

// boundedBuffer keeps the first bytes written to it.
type boundedBuffer struct {
	bytes.Buffer
	limit int
}

// Write never fails and never keeps more than the limit.
func (b *boundedBuffer) Write(p []byte) (int, error) {
	b.Buffer.Write(p[:min(len(p), max(0, b.limit-b.Len()))])
	return len(p), nil
}
