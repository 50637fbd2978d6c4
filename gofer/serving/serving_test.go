// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package serving

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	gctx "gvisor.dev/gvisor/pkg/context"
	"gvisor.dev/gvisor/pkg/lisafs"
	"gvisor.dev/gvisor/pkg/unet"

	"fsva/gofer/attach"
	"fsva/gofer/supervisor/goferproto"
)

// childEnv makes the test binary a gofer.
const childEnv = "FSVA_SERVING_TEST_GOFER"

func TestMain(m *testing.M) {
	if os.Getenv(childEnv) != "" {
		os.Exit(Main())
	}
	os.Exit(m.Run())
}

// gofer is a gofer process as the supervisor starts it.
type gofer struct {
	conn *goferproto.Conn
	dir  string // the volume directory
	cmd  *exec.Cmd
}

// startGofer starts a gofer in namespaces of its own and sends it cfg, and what
// follows that.
func startGofer(t *testing.T, cfg goferproto.Config, more ...goferproto.Request) *gofer {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root: namespaces")
	}
	cfg.Version = goferproto.Version
	cfg.Volume.Version, cfg.Volume.Name, cfg.Volume.Appliance = attach.Version, "vol", "test"
	if cfg.Volume.Coherence == "" {
		cfg.Volume.Coherence = attach.Exclusive
	}
	dir := t.TempDir()
	if err := attach.WriteInfo(dir, cfg.Volume); err != nil {
		t.Fatal(err)
	}
	listener, err := attach.Listen(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	ours, theirs, err := goferproto.Socketpair()
	if err != nil {
		t.Fatal(err)
	}
	conn, err := goferproto.NewConn(ours)
	if err != nil {
		t.Fatal(err)
	}
	control := os.NewFile(uintptr(theirs), "control")
	defer control.Close()
	if err := conn.SendConfig(cfg); err != nil {
		t.Fatal(err)
	}
	for _, r := range more {
		if err := conn.SendRequest(r); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), childEnv+"=1")
	cmd.Stderr = &logWriter{t: t}
	cmd.ExtraFiles = []*os.File{control, listener, nil /* FDChannel */}
	for _, l := range cfg.Listen {
		f, err := l.Bind()
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		cmd.ExtraFiles = append(cmd.ExtraFiles, f)
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWNET | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS,
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	conn.SetReadDeadline(time.Now().Add(30 * time.Second))
	g := &gofer{conn: conn, dir: dir, cmd: cmd}
	t.Cleanup(func() {
		conn.Close()
		cmd.Process.Kill() // fails when it has ended, as it should
		cmd.Wait()
	})
	return g
}

// logWriter shows what the gofer logs.
type logWriter struct{ t *testing.T }

func (w *logWriter) Write(b []byte) (int, error) {
	w.t.Logf("gofer: %s", strings.TrimSpace(string(b)))
	return len(b), nil
}

func (g *gofer) reply(t *testing.T) goferproto.Reply {
	t.Helper()
	r, err := g.conn.RecvReply()
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// mount attaches as a sandbox does and mounts the volume.
func (g *gofer) mount(t *testing.T, r attach.Request) (*lisafs.Client, lisafs.ClientFD) {
	t.Helper()
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	conn, err := attach.Attach(g.dir, r, pair[1])
	unix.Close(pair[1])
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(conn) })
	sock, err := unet.NewSocket(pair[0])
	if err != nil {
		t.Fatal(err)
	}
	c, root, _, err := lisafs.NewClient(sock)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c, c.NewFD(root.ControlFD)
}

// open creates a file and returns it open for reading and writing.
func create(t *testing.T, c *lisafs.Client, dir lisafs.ClientFD, name string) lisafs.ClientFD {
	t.Helper()
	_, fd, hostFD, err := dir.OpenCreateAt(gctx.Background(), name, unix.O_RDWR, 0o644, 0, 0)
	if err != nil || hostFD >= 0 {
		t.Fatalf("create %s: %v, host descriptor %d", name, err, hostFD)
	}
	return c.NewFD(fd)
}

func TestServeInMemory(t *testing.T) {
	g := startGofer(t, goferproto.Config{InProcess: "mem", Options: map[string]string{"size": "1M"}})
	if r := g.reply(t); r.Ready == nil {
		t.Fatalf("got %+v, want readiness", r)
	}
	c, root := g.mount(t, attach.Request{Container: "one", Destination: "/data"})
	if err := attach.Check(g.dir, attach.Request{Version: attach.Version, Op: attach.OpCheck, Container: "two"}); err == nil || !strings.Contains(err.Error(), "one") {
		t.Errorf("a second client of an exclusive volume: got %v, want a refusal that names the first", err)
	}
	file := create(t, c, root, "file")
	if n, err := file.Write(gctx.Background(), []byte("hello"), 0); n != 5 || err != nil {
		t.Fatalf("write: %d, %v", n, err)
	}
	got := make([]byte, 10)
	if n, err := file.Read(gctx.Background(), got, 0); err != nil || string(got[:n]) != "hello" {
		t.Errorf("read %q, %v", got[:n], err)
	}
	// The size option bounds the memory.
	if n, err := file.Write(gctx.Background(), make([]byte, 2<<20), 0); err == nil && n == 2<<20 {
		t.Error("wrote more than the volume holds")
	}

	if err := g.conn.SendRequest(goferproto.Request{ID: 1, Op: goferproto.OpStat}); err != nil {
		t.Fatal(err)
	}
	r := g.reply(t)
	if r.ID != 1 || r.Stat == nil || r.Stat.Clients != 1 || r.Stat.Refused != 1 || r.Stat.Attached[0].Destination != "/data" {
		t.Errorf("stat: got %+v, want one client and one refused", r.Stat)
	}
	if err := g.conn.SendRequest(goferproto.Request{ID: 2, Op: goferproto.OpStop}); err != nil {
		t.Fatal(err)
	}
	if r := g.reply(t); r.ID != 2 || r.Error != "" {
		t.Errorf("stop: got %+v", r)
	}
	if err := g.cmd.Wait(); err != nil {
		t.Errorf("the gofer ended with %v", err)
	}
	// The client has noticed.
	if _, err := file.Read(gctx.Background(), got, 0); err == nil {
		t.Error("read from a volume that has stopped")
	}
}

// A confined gofer can make regions, write them back, and hand them out.
func TestWriteBackInTheConfinedProcess(t *testing.T) {
	g := startGofer(t, goferproto.Config{InProcess: "mem", WriteBack: true, CacheLimit: 64 << 20})
	if r := g.reply(t); r.Ready == nil || !r.Ready.Cache {
		t.Fatalf("got %+v, want readiness and a cache", r)
	}
	ctx := gctx.Background()
	c, root := g.mount(t, attach.Request{Container: "one", Destination: "/data", Descriptors: 1})
	file := create(t, c, root, "file")
	if n, err := file.Write(ctx, []byte("hello"), 0); n != 5 || err != nil {
		t.Fatalf("write: %d, %v", n, err)
	}
	dirty := func() int64 {
		t.Helper()
		if err := g.conn.SendRequest(goferproto.Request{ID: 1, Op: goferproto.OpStat}); err != nil {
			t.Fatal(err)
		}
		r := g.reply(t)
		if r.Stat == nil || r.Stat.Cache == nil {
			t.Fatalf("stat: got %+v", r)
		}
		return r.Stat.Cache.Dirty
	}
	if n := dirty(); n != 5 {
		t.Errorf("%d bytes are dirty after a write of 5", n)
	}
	if err := file.Flush(ctx); err != nil {
		t.Fatal(err)
	}
	if n := dirty(); n != 0 {
		t.Errorf("%d bytes are dirty after close", n)
	}
	_, inodes, err := root.WalkMultiple(ctx, []string{"file"})
	if err != nil || len(inodes) != 1 {
		t.Fatalf("walk: %d, %v", len(inodes), err)
	}
	again := c.NewFD(inodes[0].ControlFD)
	_, host, err := again.OpenAt(ctx, unix.O_RDONLY)
	if err != nil || host < 0 {
		t.Fatalf("open for reading: descriptor %d, %v", host, err)
	}
	defer unix.Close(host)
	got := make([]byte, 10)
	if n, err := unix.Pread(host, got, 0); err != nil || string(got[:n]) != "hello" {
		t.Errorf("the descriptor has %q, %v", got[:n], err)
	}
	if err := g.conn.SendRequest(goferproto.Request{ID: 2, Op: goferproto.OpStop}); err != nil {
		t.Fatal(err)
	}
	if r := g.reply(t); r.Error != "" {
		t.Errorf("stop: got %+v", r)
	}
	if err := g.cmd.Wait(); err != nil {
		t.Errorf("the gofer ended with %v", err)
	}
}

// The process that answers requests has given up what it was started with.
func TestGoferIsConfined(t *testing.T) {
	g := startGofer(t, goferproto.Config{InProcess: "mem"})
	if r := g.reply(t); r.Ready == nil {
		t.Fatalf("got %+v, want readiness", r)
	}
	proc := fmt.Sprintf("/proc/%d", g.cmd.Process.Pid)
	status, err := os.ReadFile(proc + "/status")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"NoNewPrivs:\t1", "Seccomp:\t2", "CapInh:\t0000000000000000", "CapAmb:\t0000000000000000"} {
		if !strings.Contains(string(status), want) {
			t.Errorf("status has no %q:\n%s", want, status)
		}
	}
	entries, err := os.ReadDir(proc + "/root")
	if err != nil {
		t.Fatal(err)
	}
	if len(entries) != 1 || entries[0].Name() != "mem" {
		t.Errorf("its root has %v, want only mem", entries)
	}
}

func TestStartFailureIsOneLine(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		cfg  goferproto.Config
		want string
	}{
		"no such source": {goferproto.Config{InProcess: "dir", Source: "/source", Binds: []goferproto.Bind{{Host: "/does/not/exist", Target: "/source"}}}, "/does/not/exist"},
		"bad size":       {goferproto.Config{InProcess: "mem", Options: map[string]string{"size": "much"}}, `"much"`},
		"unknown kind":   {goferproto.Config{InProcess: "floppy"}, "floppy"},
		"not an archive": {goferproto.Config{InProcess: "tar", Source: "/source", Binds: []goferproto.Bind{{Host: self, Target: "/source", ReadOnly: true}}}, "archive"},
		"no FS server":   {goferproto.Config{}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			g := startGofer(t, tc.cfg)
			r := g.reply(t)
			if r.Error == "" || strings.Contains(r.Error, "\n") || !strings.Contains(r.Error, tc.want) {
				t.Errorf("got %+v, want one line with %q", r, tc.want)
			}
			if err := g.cmd.Wait(); err == nil {
				t.Error("the gofer ended with status 0")
			}
		})
	}
}

// A gofer whose supervisor is gone does not stay.
func TestEndsWithItsSupervisor(t *testing.T) {
	g := startGofer(t, goferproto.Config{InProcess: "mem"})
	if r := g.reply(t); r.Ready == nil {
		t.Fatalf("got %+v, want readiness", r)
	}
	g.conn.Close()
	if err := g.cmd.Wait(); err != nil {
		t.Errorf("the gofer ended with %v", err)
	}
}

// What goes through the buffer cache is changed by one client only.
func TestCachesWrites(t *testing.T) {
	for _, tc := range []struct {
		inProcess, coherence         string
		readOnly, strict, back, want bool
	}{
		{"", attach.Exclusive, false, false, false, true},
		{"", attach.Exclusive, false, false, true, true},
		{"", attach.Exclusive, true, false, false, false},
		{"", attach.Shared, false, false, false, false},
		{"", attach.Shared, false, false, true, false},
		{"", attach.Exclusive, false, true, false, false},
		{"", attach.Exclusive, false, true, true, true},
		{"mem", attach.Exclusive, false, false, false, false},
		{"dir", attach.Exclusive, false, false, true, true},
	} {
		cfg := goferproto.Config{
			InProcess: tc.inProcess, WriteBack: tc.back,
			Volume: attach.Info{Coherence: tc.coherence, ReadOnly: tc.readOnly, StrictFsync: tc.strict},
		}
		if got := cachesWrites(cfg); got != tc.want {
			t.Errorf("%+v: got %v", tc, got)
		}
	}
}

// Only what nobody changes may be kept and handed out.
func TestUnchanging(t *testing.T) {
	for _, tc := range []struct {
		inProcess, coherence string
		readOnly, want       bool
	}{
		{"", attach.Exclusive, true, true},
		{"", attach.Exclusive, false, false},
		{"", attach.Shared, true, false},
		{"tar", attach.Exclusive, true, true},
		{"dir", attach.Exclusive, true, false},
		{"mem", attach.Exclusive, true, false},
	} {
		cfg := goferproto.Config{InProcess: tc.inProcess, Volume: attach.Info{Coherence: tc.coherence, ReadOnly: tc.readOnly}}
		if got := unchanging(cfg); got != tc.want {
			t.Errorf("%+v: got %v", tc, got)
		}
	}
}
