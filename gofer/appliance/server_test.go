// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package appliance_test

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"fsva/gofer/appliance"
	"fsva/gofer/fsserver"
	"fsva/gofer/fusechannel"
	"fsva/gofer/fusehelper"
)

// TestMain lets this binary be the stage that becomes an FS server, and fusermount inside of it.
func TestMain(m *testing.M) {
	if slices.Contains(fusehelper.Names, filepath.Base(os.Args[0])) {
		os.Exit(fusehelper.Main(os.Args))
	}
	if len(os.Args) == 2 && os.Args[1] == "fs-server" {
		os.Exit(fsserver.Main())
	}
	os.Exit(m.Run())
}

// needRoot skips a test that starts FS servers.
func needRoot(t *testing.T) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("an FS server in namespaces of its own needs root")
	}
}

// output collects what a server prints.
type output struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.String()
}

// server is a running FS server with an open channel.
type server struct {
	*fusechannel.Channel
	t      *testing.T
	output output
	exited chan struct{} // closed when the process is gone
	err    error         // of the process, once exited
}

// start runs a plan's server as the supervisor does and connects to it. At the end of the test it must end by itself when
// the channel is destroyed.
func start(t *testing.T, p appliance.Plan) *server {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	if p.Root == appliance.RootImage {
		p.Root = appliance.RootHost // what matters here is the program, not where it comes from
	}
	dir := t.TempDir()
	c := fsserver.Config{
		Spec: fsserver.Spec{
			Argv: p.Argv, Env: p.Env, Root: p.Root, Capabilities: p.Capabilities, HostNetwork: p.Network,
			Preload: p.Mount == appliance.MountSyscall,
		},
		Volume: "test", Isolation: p.Isolation, RootDir: dir + "/root", BundleDir: dir + "/bundle", Helper: exe, Shim: dir + "/shim.so",
	}
	for _, b := range p.Binds {
		c.Binds = append(c.Binds, fsserver.Bind{Host: b.Host, Target: b.Path, ReadOnly: b.ReadOnly})
	}
	for _, d := range []string{c.RootDir, c.BundleDir} {
		if err := os.Mkdir(d, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	command(t, "../mountshim/build.sh", c.Shim)
	if p.Isolation == appliance.IsolationGVisor {
		c.Runsc = fsserver.Runsc{Path: runsc(t), Root: dir + "/runsc", ContainerID: "fsva-appliance-test", Platform: "systrap"}
	}

	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	for _, fd := range fds {
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, 4<<20); err != nil {
			t.Fatal(err)
		}
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	theirs := os.NewFile(uintptr(fds[1]), "channel")
	s := &server{t: t, exited: make(chan struct{})}
	cmd := exec.Command("/proc/self/exe", "fs-server")
	cmd.ExtraFiles = []*os.File{r, theirs}
	cmd.Stdout, cmd.Stderr = &s.output, &s.output
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: fsserver.CloneFlags(c.Isolation, c.HostNetwork), Pdeathsig: unix.SIGKILL}
	err = cmd.Start()
	r.Close()
	theirs.Close()
	if err != nil {
		w.Close()
		unix.Close(fds[0])
		t.Fatal(err)
	}
	go func() {
		s.err = cmd.Wait()
		close(s.exited)
	}()
	t.Cleanup(func() {
		s.stop(cmd, c)
		if t.Failed() {
			t.Logf("%q printed:\n%s", p.Argv, s.output.String())
		}
	})
	if err := json.NewEncoder(w).Encode(c); err != nil {
		t.Fatal(err)
	}
	w.Close()
	s.Channel, err = fusechannel.New(context.Background(), fds[0], fusechannel.Options{ReadOnly: p.ReadOnly, InitTimeout: time.Minute})
	if err != nil {
		t.Fatalf("connect to %q: %v", p.Argv, err)
	}
	return s
}

// stop ends the channel and expects the server to end too.
func (s *server) stop(cmd *exec.Cmd, c fsserver.Config) {
	if s.Channel != nil {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if err := s.Destroy(ctx); err != nil {
			s.t.Errorf("destroy: %v", err)
		}
		select {
		case <-s.exited:
		case <-ctx.Done():
			s.t.Error("the server did not end with its channel")
		}
	}
	_ = cmd.Process.Kill() // gone already in a test that passes
	<-s.exited
	if c.Runsc.Path != "" {
		command(s.t, c.Runsc.Path, "--root="+c.Runsc.Root, "delete", "--force", c.Runsc.ContainerID)
	}
}

//bazel:data //gofer/mountshim:files

// runsc is a runsc that knows --pass-fd: FSVA_TEST_RUNSC, or the one that `make build` made.
func runsc(t *testing.T) string {
	t.Helper()
	path := os.Getenv("FSVA_TEST_RUNSC")
	if path == "" {
		path = "../../bin/runsc"
	}
	path, err := filepath.Abs(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); err != nil {
		t.Skipf("needs a runsc (make runsc, or FSVA_TEST_RUNSC): %v", err)
	}
	return path
}

// command runs a program that must succeed.
func command(t *testing.T, argv ...string) {
	t.Helper()
	if out, err := exec.Command(argv[0], argv[1:]...).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", strings.Join(argv, " "), err, out)
	}
}
