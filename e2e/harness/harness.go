// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

// Package harness gives end-to-end tests a machine of their own: a docker daemon, volumes served by the real fsva,
// containers run by the real runsc, file systems mounted on the kernel for comparison; and it checks that each of them
// leaves nothing behind.
//
// Test packages call Main from TestMain. It runs the tests in a child process, in a mount namespace of its own, below a
// guardian that outlives them: whatever way the tests end (a failure, a panic, go test's timeout, a signal), the
// guardian ends every process that came from them, by its id, and the namespace takes their mounts along.
//
// Everything here is for tests: helpers take a testing.TB and fail it. The peers (docker, runsc, FS servers) are
// trusted not to be hostile, but not to answer: every wait has a deadline.
package harness

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// Env is what the tests of one package share.
type Env struct {
	// Dir is the package's temporary directory; everything is below it. Immutable.
	Dir string
	// Root is the repository. Immutable.
	Root string
	// RunDir and StateDir are FSVA_RUNDIR and FSVA_STATEDIR of every fsva the tests start. Immutable.
	RunDir, StateDir string
	// parent has the binaries of an Env that Apart made. Immutable.
	parent *Env

	mu     sync.Mutex
	builds map[string]func() (string, error) // guarded by mu
	// dockerMu is held while docker is started. It comes before mu.
	dockerMu sync.Mutex
	docker   *Docker // guarded by dockerMu; nil until first asked for
	dockerer error   // guarded by dockerMu; why there is no docker

	imagesOnce sync.Once
	imagesErr  error // immutable once imagesOnce is done
}

// newEnv prepares dir, which must exist. Binaries and docker come when a test first asks.
func newEnv(dir string) (*Env, error) {
	root, err := moduleRoot()
	if err != nil {
		return nil, err
	}
	e := &Env{Dir: dir, Root: root, RunDir: filepath.Join(dir, "run"), StateDir: filepath.Join(dir, "state"), builds: map[string]func() (string, error){}}
	for _, d := range []string{e.RunDir, e.StateDir, filepath.Join(dir, "bin")} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return nil, err
		}
	}
	return e, linkImages(e.Root, e.StateDir)
}

// Apart returns an Env for one test, with directories and a docker daemon of its own, so that it can restart the daemon
// and count what there is. The test's clean-up ends it.
func (e *Env) Apart(t testing.TB) *Env {
	t.Helper()
	a, err := newEnv(e.TempDir(t))
	if err != nil {
		t.Fatal(err)
	}
	a.parent = e
	t.Cleanup(func() {
		if err := errors.Join(a.close(), removeCgroups(filepath.Base(a.Dir))); err != nil {
			t.Error(err)
		}
	})
	return a
}

// close ends what the tests shared and reports what was left behind.
func (e *Env) close() error {
	e.dockerMu.Lock()
	d := e.docker
	e.dockerMu.Unlock()
	var errs []error
	if d != nil {
		errs = append(errs, d.stop())
	}
	errs = append(errs, noMountsBelow(e.Dir))
	return errors.Join(errs...)
}

func moduleRoot() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for d := dir; d != "/"; d = filepath.Dir(d) {
		if _, err := os.Stat(filepath.Join(d, "go.mod")); err == nil {
			return d, nil
		}
	}
	return "", fmt.Errorf("no go.mod above %s", dir)
}

// What Binary knows to build; the value is the package.
var commands = map[string]string{
	"fsva":                     "./gofer/cmd/fsva",
	"runsc":                    "./sentryglue/cmd/runsc",
	"runsc-stock":              "gvisor.dev/gvisor/runsc",
	"containerd-shim-runsc-v1": "./sentryglue/cmd/containerd-shim-runsc-v1",
	"fscheck":                  "./gofer/conformance/fscheck",
	"posix.test":               "./gofer/conformance/posix",
	"cgroup.test":              "./gofer/cgroup",
	"faulty":                   "./e2e/faulty",
	"checker":                  "./e2e/checker",
	"guest-init":               "./e2e/guest/cmd/init",
	"guest-work":               "./e2e/guest/cmd/work",
	"vsockpeer":                "./e2e/guest/cmd/vsockpeer",
}

// Binary returns the path of one of the project's binaries. With FSVA_BIN_DIR set it must be there; otherwise the one
// in the repository's bin is taken, and what is not there is built. The test binaries are always built.
func (e *Env) Binary(t testing.TB, name string) string {
	t.Helper()
	path, err := e.binary(name)
	if err != nil {
		t.Fatalf("binary %s: %v", name, err)
	}
	return path
}

func (e *Env) binary(name string) (string, error) {
	if e.parent != nil {
		return e.parent.binary(name)
	}
	e.mu.Lock()
	build, ok := e.builds[name]
	if !ok {
		build = sync.OnceValues(func() (string, error) { return e.findOrBuild(name) })
		e.builds[name] = build
	}
	e.mu.Unlock()
	return build()
}

func (e *Env) findOrBuild(name string) (string, error) {
	pkg, ok := commands[name]
	if !ok {
		return "", errors.New("unknown")
	}
	isTool := strings.Contains(pkg, "/conformance/") || strings.HasPrefix(pkg, "./e2e/") || strings.HasSuffix(name, ".test")
	if !isTool {
		dir, given := os.LookupEnv("FSVA_BIN_DIR")
		if !given {
			dir = filepath.Join(e.Root, "bin")
		}
		p := filepath.Join(dir, name)
		if _, err := os.Stat(p); err == nil {
			return p, nil
		} else if given && name != "runsc-stock" {
			return "", fmt.Errorf("FSVA_BIN_DIR is set: %w", err)
		}
	}
	out := filepath.Join(e.Dir, "bin", name)
	args := []string{"build", "-o", out, pkg}
	if strings.HasSuffix(name, ".test") {
		args = []string{"test", "-c", "-o", out, pkg}
	}
	cmd := exec.Command("go", args...)
	cmd.Dir = e.Root
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	start := time.Now()
	if b, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("go %s: %w\n%s", strings.Join(args, " "), err, b)
	}
	progress("built %s in %.0f s", name, time.Since(start).Seconds())
	return out, nil
}

// Tools returns a directory that holds fscheck and posix.test, to be bound into containers.
func (e *Env) Tools(t testing.TB) string {
	t.Helper()
	e.Binary(t, "fscheck")
	return filepath.Dir(e.Binary(t, "posix.test"))
}

// TempDir makes a directory for the test below the package's, removed when the test ends. Its path is short, unlike
// t.TempDir's, so that sockets fit in it, and others may enter it.
func (e *Env) TempDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp(e.Dir, "t")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := noMountsBelow(dir); err != nil {
			t.Error(err)
			return // never remove through a mount
		}
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// progress tells whoever watches what takes long.
func progress(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "e2e: "+format+"\n", args...)
}

// need ends the test if a privilege or feature of the machine is missing: as skipped, or, where CI promises to have
// it, as failed.
func need(t testing.TB, have bool, what string) {
	t.Helper()
	if have {
		return
	}
	if os.Getenv("CI") == "true" {
		t.Fatalf("missing: %s (CI=true, so this is a failure)", what)
	}
	t.Skipf("missing: %s", what)
}

// NeedCommand ends the test unless the machine has the command, and returns its path.
func NeedCommand(t testing.TB, name, debianPackage string) string {
	t.Helper()
	p, err := exec.LookPath(name)
	if err != nil {
		for _, dir := range []string{"/usr/sbin", "/sbin"} {
			if _, serr := os.Stat(filepath.Join(dir, name)); serr == nil {
				p, err = filepath.Join(dir, name), nil
			}
		}
	}
	need(t, err == nil, fmt.Sprintf("%s (apt-get install %s)", name, debianPackage))
	return p
}

// NeedRoot ends the test unless it runs as root.
func NeedRoot(t testing.TB) {
	t.Helper()
	need(t, os.Geteuid() == 0, "privilege: root")
}

// NeedKernelFUSE ends the test unless this kernel can mount FUSE file systems.
func NeedKernelFUSE(t testing.TB) {
	t.Helper()
	f, err := os.OpenFile("/dev/fuse", os.O_RDWR, 0)
	if err == nil {
		f.Close()
	}
	need(t, err == nil, "kernel feature: /dev/fuse")
}
