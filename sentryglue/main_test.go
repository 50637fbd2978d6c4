// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package sentryglue

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hanwen/go-fuse/v2/fs"
	"golang.org/x/sys/unix"

	"fsva/gofer/attach"
	"fsva/gofer/lisaserver"
	"gvisor.dev/gvisor/runsc/cli/maincli"
	"gvisor.dev/gvisor/runsc/config"
	"gvisor.dev/gvisor/runsc/specutils"
)

// TestMain lets the test binary be runsc, ours or stock, which saves linking
// one: runsc starts its other processes from /proc/self/exe under that name or
// names that begin with "runsc".
func TestMain(m *testing.M) {
	switch name := filepath.Base(os.Args[0]); {
	case name == "stock":
		maincli.Main()
	case strings.HasPrefix(name, "runsc"), os.Args[0] == specutils.ExePath:
		Main()
	case name == helperName:
		os.Exit(helper(os.Args[1:]))
	}
	os.Exit(m.Run())
}

const helperName = "sentryglue-helper"

// helper runs inside of a container.
func helper(args []string) int {
	if len(args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: helper mmap FILE")
		return 2
	}
	switch args[0] {
	case "mmap":
		if err := writeByMapping(args[1]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		fmt.Println("mmap ok")
		return 0
	}
	return 2
}

// writeByMapping writes a file through a shared mapping.
func writeByMapping(path string) error {
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_CREAT, 0o644)
	if err != nil {
		return fmt.Errorf("open: %w", err)
	}
	defer unix.Close(fd)
	if err := unix.Ftruncate(fd, 4096); err != nil {
		return fmt.Errorf("truncate: %w", err)
	}
	mem, err := unix.Mmap(fd, 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return fmt.Errorf("mmap: %w", err)
	}
	copy(mem, "written through a mapping")
	if err := unix.Msync(mem, unix.MS_SYNC); err != nil {
		return fmt.Errorf("msync: %w", err)
	}
	return unix.Munmap(mem)
}

// needRunsc skips tests where containers cannot be made.
func needRunsc(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	if _, err := os.Stat("/bin/busybox"); err != nil {
		t.Skipf("needs a static busybox: %v", err)
	}
	if config.CgoEnabled {
		t.Skip("needs a static test binary: CGO_ENABLED=0")
	}
	if testing.Short() {
		t.Skip("runs containers")
	}
}

// testGofer is a volume's gofer in this process: our lisafs server over a
// directory. Who may attach is up to a field.
type testGofer struct {
	info    attach.Info
	dir     string // the volume directory
	backing string // what the volume shows
	server  *lisaserver.Server
	served  chan error // how connections ended

	mu       sync.Mutex
	refuse   error
	refuseAt string // the op to refuse, "" for all
	requests []attach.Request
	wg       sync.WaitGroup
}

func (g *testGofer) note(r attach.Request) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.requests = append(g.requests, r)
	if g.refuseAt != "" && g.refuseAt != r.Op {
		return nil
	}
	return g.refuse
}

// Check implements attach.Handler.
func (g *testGofer) Check(r attach.Request) error { return g.note(r) }

// Attach implements attach.Handler.
func (g *testGofer) Attach(r attach.Request, lisafsFD int, conn *os.File) error {
	if err := g.note(r); err != nil {
		return err
	}
	g.wg.Go(func() {
		defer conn.Close()
		g.served <- g.server.Serve(lisafsFD, lisaserver.ConnOptions{ReadOnly: r.ReadOnly || g.info.ReadOnly, Container: r.Container})
	})
	return nil
}

func (g *testGofer) seen() []attach.Request {
	g.mu.Lock()
	defer g.mu.Unlock()
	return append([]attach.Request(nil), g.requests...)
}

func (g *testGofer) setRefusal(op string, err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.refuseAt, g.refuse = op, err
}

// startGofer runs the gofer of a volume until the test ends. Its directory is
// on tmpfs, as a run directory is.
func startGofer(t *testing.T, info attach.Info) *testGofer {
	t.Helper()
	info.Version, info.Appliance = 1, "test"
	g := &testGofer{
		info:    info,
		dir:     filepath.Join(tmpfsDir(t), "volumes", info.Name),
		backing: t.TempDir(),
		served:  make(chan error, 100),
	}
	root, err := fs.NewLoopbackRoot(g.backing)
	if err != nil {
		t.Fatal(err)
	}
	// No kernel in between: every answer is fresh.
	g.server = lisaserver.New(fs.NewNodeFS(root, &fs.Options{}), lisaserver.Options{})
	if err := os.MkdirAll(g.dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := attach.WriteInfo(g.dir, info); err != nil {
		t.Fatal(err)
	}
	l, err := attach.Listen(g.dir)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- attach.Serve(ctx, l, g, slog.New(slog.DiscardHandler)) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("attach.Serve: %v", err)
		}
		// The containers are gone, and so are their connections.
		g.wg.Wait()
		g.server.Close()
		close(g.served)
		for err := range g.served {
			if err != nil {
				t.Errorf("lisaserver.Serve: %v", err)
			}
		}
	})
	return g
}

func tmpfsDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "sentryglue-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		// runsc keeps an empty network namespace in its --root.
		if err := unix.Unmount(filepath.Join(dir, "runsc/null-netns"), unix.MNT_DETACH); err != nil && err != unix.ENOENT {
			t.Errorf("unmount null-netns: %v", err)
		}
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// bundle is a container to be.
type bundle struct {
	dir  string
	root string // runsc's --root
	spec map[string]any
}

type mountSpec struct {
	Destination string   `json:"destination"`
	Type        string   `json:"type"`
	Source      string   `json:"source"`
	Options     []string `json:"options,omitempty"`
}

func bind(source, destination string, options ...string) mountSpec {
	return mountSpec{destination, "bind", source, append([]string{"rbind"}, options...)}
}

// newBundle makes a busybox container with the given mounts and shell script.
func newBundle(t *testing.T, script string, mounts ...mountSpec) *bundle {
	t.Helper()
	dir := t.TempDir()
	rootfs := filepath.Join(dir, "rootfs")
	for _, d := range []string{"bin", "proc", "tmp", "run"} {
		if err := os.MkdirAll(filepath.Join(rootfs, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	box, err := os.ReadFile("/bin/busybox")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(rootfs, "bin/busybox"), box, 0o755); err != nil {
		t.Fatal(err)
	}
	mounts = append([]mountSpec{{Destination: "/proc", Type: "proc", Source: "proc"}}, mounts...)
	b := &bundle{dir: dir, root: filepath.Join(tmpfsDir(t), "runsc"), spec: map[string]any{
		"ociVersion": "1.0.0",
		"process": map[string]any{
			"args": []string{"/bin/busybox", "sh", "-c", "export PATH=/bin; busybox --install -s /bin 2>/dev/null\n" + script},
			"cwd":  "/", "env": []string{"PATH=/bin"}, "user": map[string]any{"uid": 0, "gid": 0},
			"capabilities": map[string]any{"bounding": []string{"CAP_CHOWN"}, "effective": []string{"CAP_CHOWN"}, "permitted": []string{"CAP_CHOWN"}},
		},
		"root":     map[string]any{"path": "rootfs"},
		"hostname": "test",
		"mounts":   mounts,
		"linux":    map[string]any{"namespaces": []map[string]any{{"type": "pid"}, {"type": "mount"}, {"type": "network"}, {"type": "ipc"}, {"type": "uts"}}},
		"x-unknown": map[string]any{
			"number": json.Number("12345678901234567890"),
		},
	}}
	b.write(t)
	return b
}

// write makes config.json from b.spec.
func (b *bundle) write(t *testing.T) {
	t.Helper()
	data, err := json.Marshal(b.spec)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(b.dir, "config.json"), data, 0o640); err != nil {
		t.Fatal(err)
	}
}

// command returns a command of runsc (name is "runsc" or "stock").
func (b *bundle) command(t *testing.T, name string, global []string, args ...string) *exec.Cmd {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(cancel)
	cmd := exec.CommandContext(ctx, self)
	cmd.Args = append([]string{name, "--root=" + b.root, "--network=none", "--platform=systrap", "--ignore-cgroups"}, global...)
	cmd.Args = append(cmd.Args, args...)
	cmd.WaitDelay = 10 * time.Second
	return cmd
}

// result is what a run has left.
type result struct {
	stdout, stderr string
	code           int
}

// run runs the container to its end and deletes it.
func (b *bundle) run(t *testing.T, name string, global ...string) result {
	t.Helper()
	id := fmt.Sprintf("c%d", time.Now().UnixNano())
	r := output(t, b.command(t, name, global, "run", "--bundle", b.dir, id))
	b.delete(t, id)
	return r
}

// delete removes what may be left of a container.
func (b *bundle) delete(t *testing.T, id string) {
	t.Helper()
	output(t, b.command(t, "stock", nil, "delete", "--force", id))
}

// output runs cmd with pipes.
func output(t *testing.T, cmd *exec.Cmd) result {
	t.Helper()
	var out, errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errOut
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatalf("%v: %v", cmd.Args, err)
	}
	return result{out.String(), errOut.String(), cmd.ProcessState.ExitCode()}
}

// jsonErrors returns the messages of a --log file.
func jsonErrors(t *testing.T, path string) []string {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var msgs []string
	for d := json.NewDecoder(f); ; {
		var entry struct{ Msg, Level string }
		if err := d.Decode(&entry); err == io.EOF {
			return msgs
		} else if err != nil {
			t.Fatal(err)
		}
		if entry.Level == "error" {
			msgs = append(msgs, entry.Msg)
		}
	}
}
