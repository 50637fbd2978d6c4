// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build bench

package matrix

import (
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"fsva/e2e/bench/driver"
	"fsva/e2e/harness"
)

// site is what all sessions share: the sandboxes' root file system and the data. Used by one goroutine.
type site struct {
	// root is the sandboxes' root file system: the machine's own /usr, and "bench" with the benchmark's files.
	root string
	// tree is the directory that image holds; both are made when a workload first needs them.
	tree, image string
	// state is the state directory of the workloads' runsc.
	state string
	// goroot is the Go toolchain, at the same place in the sandboxes.
	goroot string
	// git and module hold what DataGit and DataGo name; "" until a workload needs them.
	git, module string
	// sessions counts the sessions, to name them.
	sessions int
}

func newSite(t *testing.T, columns []Column) *site {
	t.Helper()
	for _, c := range columns {
		if c.Sandbox { // built now, if they have to be, not while something is measured
			env.Binary(t, runtimeOf(c))
		}
	}
	s := &site{root: env.TempDir(t), state: env.TempDir(t)}
	t.Cleanup(func() {
		// runsc leaves an empty network namespace there, mounted, for the next sandbox.
		if err := unix.Unmount(filepath.Join(s.state, "null-netns"), 0); err != nil && !errors.Is(err, unix.ENOENT) {
			t.Errorf("unmount runsc's network namespace: %v", err)
		}
	})
	for _, dir := range []string{"etc", "proc", "sys", "dev", "tmp", "data", "usr", "bench/empty"} {
		if err := os.MkdirAll(filepath.Join(s.root, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"bin", "sbin", "lib", "lib64"} {
		if err := os.Symlink("usr/"+name, filepath.Join(s.root, name)); err != nil {
			t.Fatal(err)
		}
	}
	for name, content := range map[string]string{"passwd": "root:x:0:0:root:/root:/bin/sh\n", "group": "root:x:0:\n"} {
		if err := os.WriteFile(filepath.Join(s.root, "etc", name), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"alternatives", "ld.so.cache"} {
		harness.Must(t, "cp", "-a", "/etc/"+name, filepath.Join(s.root, "etc", name))
	}
	bindReadOnly(t, "/usr", filepath.Join(s.root, "usr"))
	s.goroot = strings.TrimSpace(harness.Must(t, "go", "env", "GOROOT"))
	if !strings.HasPrefix(s.goroot, "/usr/") {
		target := filepath.Join(s.root, s.goroot)
		if err := os.MkdirAll(target, 0o755); err != nil {
			t.Fatal(err)
		}
		bindReadOnly(t, s.goroot, target)
	}
	harness.Must(t, "go", "build", "-C", env.Root, "-o", s.bench("driver"), "./e2e/bench/cmd/driver")
	return s
}

// bench returns the path, on the host, of one of the benchmark's own files.
func (s *site) bench(name string) string { return filepath.Join(s.root, "bench", name) }

// bindReadOnly binds a directory until the test ends.
func bindReadOnly(t *testing.T, source, target string) {
	t.Helper()
	if err := unix.Mount(source, target, "", unix.MS_BIND, ""); err != nil {
		t.Fatalf("bind %s to %s: %v", source, target, err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(target, 0); err != nil {
			t.Errorf("unmount %s: %v", target, err)
		}
	})
	if err := unix.Mount("", target, "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY, ""); err != nil {
		t.Fatalf("remount %s read-only: %v", target, err)
	}
}

// prepare makes what the sessions of a workload start from. t must be the whole run's.
func (s *site) prepare(t *testing.T, w *Workload) {
	t.Helper()
	if w.Server == Squashfs {
		if s.image == "" {
			s.makeImage(t)
		}
		return
	}
	harness.NeedCommand(t, "bindfs", "bindfs")
	commands := filepath.Join(s.goroot, "src/cmd")
	switch w.Name {
	case "untar":
		harness.Must(t, "tar", "-C", filepath.Dir(commands), "-cf", s.bench("source.tar"), filepath.Base(commands))
	case "gitstatus":
		s.git = env.TempDir(t)
		tree := filepath.Join(s.git, "tree")
		harness.Must(t, "cp", "-r", commands, tree)
		for _, args := range [][]string{{"init", "--quiet"}, {"add", "--all", "--force"},
			{"-c", "user.name=bench", "-c", "user.email=bench@localhost", "commit", "--quiet", "-m", "all"}} {
			harness.Must(t, append([]string{"env", "GIT_CONFIG_GLOBAL=/dev/null", "git", "-C", tree}, args...)...)
		}
	case "gobuild":
		s.makeModule(t)
	case "cbuild":
		found, err := filepath.Glob(filepath.Join(env.Root, "bin/bench/zlib_*.orig.tar.*"))
		if err != nil || len(found) != 1 {
			t.Fatalf("bin/bench has %d archives of zlib's source, want one: run scripts/setup bench (%v)", len(found), err)
		}
		harness.Must(t, "cp", found[0], s.bench("program.tar"))
	case "postmark":
		harness.NeedCommand(t, "postmark", "postmark")
		if err := os.WriteFile(s.bench("postmark"), []byte(postmark), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// makeModule makes what DataGo names: a module that needs no other one to build, and the standard library, built.
func (s *site) makeModule(t *testing.T) {
	t.Helper()
	s.module = env.TempDir(t)
	source := strings.TrimSpace(harness.Must(t, "go", "list", "-C", env.Root, "-m", "-f", "{{.Dir}}", "github.com/pelletier/go-toml/v2"))
	harness.Must(t, "cp", "-r", "--no-preserve=mode", source, filepath.Join(s.module, "module"))
	run := func(args ...string) string {
		args = goCommand(args...)
		for i := range args {
			args[i] = strings.ReplaceAll(args[i], "{data}", s.module)
		}
		return harness.Must(t, append([]string{"env", "-C", s.module}, args...)...)
	}
	standard := strings.Fields(run("list", "-deps", "-f", "{{if .Standard}}{{.ImportPath}}{{end}}", "./..."))
	run(append([]string{"build"}, standard...)...)
}

// makeImage makes the tree of the read-only workloads, and a squashfs image of it.
func (s *site) makeImage(t *testing.T) {
	t.Helper()
	harness.NeedCommand(t, "squashfuse_ll", "squashfuse")
	harness.NeedCommand(t, "fio", "fio")
	harness.NeedCommand(t, "busybox", "busybox-static")
	mk := harness.NeedCommand(t, "mksquashfs", "squashfs-tools")
	progress("making the files and a squashfs image of them")
	dir := env.TempDir(t)
	s.tree, s.image = filepath.Join(dir, "tree"), filepath.Join(dir, "tree.squashfs")
	files := filepath.Join(s.tree, "files")
	if err := os.MkdirAll(files, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := driver.Create(files, smallFiles, smallFileSize); err != nil {
		t.Fatal(err)
	}
	if err := makeBig(filepath.Join(s.tree, "big"), bigFileSize); err != nil {
		t.Fatal(err)
	}
	var names strings.Builder
	if err := filepath.WalkDir(files, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		rel, err := filepath.Rel(s.tree, path)
		fmt.Fprintln(&names, rel)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(s.bench("names"), []byte(names.String()), 0o644); err != nil {
		t.Fatal(err)
	}
	harness.Must(t, mk, s.tree, s.image, "-comp", "zstd", "-Xcompression-level", "3", "-quiet", "-no-progress")
}

// makeBig makes a file that compresses to about half, always the same.
func makeBig(path string, size int64) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer f.Close() // a second close, after a failure
	random := rand.NewChaCha8([32]byte{})
	block := make([]byte, 4096)
	for i := range block {
		block[i] = byte(i)
	}
	chunk := make([]byte, 0, 1<<20)
	for range size / (1 << 20) {
		chunk = chunk[:0]
		for len(chunk) < cap(chunk) {
			if _, err := random.Read(block[:len(block)/2]); err != nil {
				return err
			}
			chunk = append(chunk, block...)
		}
		if _, err := f.Write(chunk); err != nil {
			return err
		}
	}
	return f.Close()
}
