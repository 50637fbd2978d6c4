// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package supervisor

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"fsva/gofer/attach"
)

// running is a volume being served in the test's process.
type running struct {
	cfg     Config
	signals chan os.Signal
	done    chan struct{}
	err     error // valid once done is closed
	log     *logBuffer
}

// logBuffer is a log that the test and the supervisor share.
type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// begin starts to serve c; ready is closed at readiness.
func begin(t *testing.T, c Config) (r *running, ready chan struct{}) {
	t.Helper()
	r = &running{signals: make(chan os.Signal, 2), done: make(chan struct{}), log: &logBuffer{}}
	ready = make(chan struct{})
	c.Signals = r.signals
	c.Log = slog.New(slog.NewTextHandler(r.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	c.Ready = func(string) { close(ready) }
	r.cfg = c
	go func() {
		defer close(r.done)
		r.err = Serve(context.Background(), c)
	}()
	t.Cleanup(func() {
		select {
		case r.signals <- unix.SIGTERM:
		case <-r.done:
		}
		<-r.done
		noLeftovers(t, c)
		if t.Failed() {
			t.Logf("log:\n%s", r.log)
		}
	})
	return r, ready
}

// serve starts to serve c and waits until it is ready.
func serve(t *testing.T, c Config) *running {
	t.Helper()
	r, ready := begin(t, c)
	select {
	case <-ready:
	case <-r.done:
		t.Fatalf("not ready: %v", r.err)
	}
	return r
}

// wait returns what Serve did.
func (r *running) wait(t *testing.T) error {
	t.Helper()
	select {
	case <-r.done:
		return r.err
	case <-time.After(time.Minute):
		t.Fatal("Serve does not end")
		return nil
	}
}

// waitState polls until the volume is in a state: failures are noticed by other
// processes.
func (r *running) waitState(t *testing.T, want State) Status {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		s, err := Stat(t.Context(), r.cfg.Dirs, r.cfg.Info.Name)
		if err != nil {
			t.Fatal(err)
		}
		if s.State == want {
			return s
		}
		if time.Now().After(deadline) {
			t.Fatalf("state is %q, want %q", s.StateText(), want)
		}
	}
}

// waitReason polls until the volume has failed for a reason with a text.
func (r *running) waitReason(t *testing.T, want string) Status {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		s := r.waitState(t, Failed)
		if strings.Contains(s.Reason, want) {
			return s
		}
		if time.Now().After(deadline) {
			t.Fatalf("reason is %q, want %q", s.Reason, want)
		}
	}
}

var isolations = []string{IsolationNone, IsolationProcess, IsolationGVisor}

func TestServeAndStop(t *testing.T) {
	for _, isolation := range isolations {
		t.Run(isolation, func(t *testing.T) {
			c := newTestConfig(t, isolation, "serve")
			r := serve(t, c)
			dir := c.Dirs.Volume("vol")
			info, err := attach.ReadInfo(dir)
			if err != nil || info != c.Info {
				t.Errorf("volume.json: %+v, %v", info, err)
			}
			if fi, err := os.Stat(filepath.Join(dir, attach.SocketName)); err != nil || fi.Mode() != os.ModeSocket|0o600 {
				t.Errorf("gofer.sock: %v, %v", fi, err)
			}
			all, err := List(t.Context(), c.Dirs)
			if err != nil || len(all) != 1 {
				t.Fatalf("List: %+v, %v", all, err)
			}
			s := all[0]
			if s.Name != "vol" || s.Appliance != "fake" || s.State != Serving || s.Isolation != isolation ||
				s.Source != "somewhere" || s.Directory != dir || s.PID != os.Getpid() || s.GoferPID == 0 {
				t.Errorf("status: %+v", s)
			}
			if s.Gofer == nil || s.Gofer.Clients != 1 || s.Gofer.Requests != 17 || s.Ready == nil {
				t.Errorf("gofer's part of the status: %+v", s)
			}
			if isolation != IsolationNone && (s.ServerPID == 0 || s.Ready.FuseMinor != 31) {
				t.Errorf("FS server's part of the status: %+v", s)
			}
			if err := Stop(t.Context(), c.Dirs, "vol", false); err != nil {
				t.Fatal(err)
			}
			// Stop returned: everything is gone already.
			noLeftovers(t, c)
			if err := r.wait(t); err != nil {
				t.Errorf("Serve: %v", err)
			}
			if isolation != IsolationNone {
				if _, err := os.Stat(filepath.Join(c.Server.Binds[0].Host, "destroyed")); err != nil {
					t.Errorf("the FS server did not get DESTROY: %v", err)
				}
			}
			if log := r.log.String(); isolation != IsolationNone && !strings.Contains(log, "fake server: serve") {
				t.Errorf("the FS server's output is not in the log")
			} else if strings.Contains(log, "level=WARN") || strings.Contains(log, "level=ERROR") {
				t.Error("an ordinary stop warns")
			}
			if _, err := Stat(t.Context(), c.Dirs, "vol"); !errors.Is(err, ErrUnknownVolume) {
				t.Errorf("Stat after the end: %v", err)
			}
			if err := Stop(t.Context(), c.Dirs, "vol", false); !errors.Is(err, ErrUnknownVolume) {
				t.Errorf("Stop after the end: %v", err)
			}
		})
	}
}

func TestSignalStops(t *testing.T) {
	c := newTestConfig(t, IsolationProcess, "serve")
	r := serve(t, c)
	r.signals <- unix.SIGTERM
	if err := r.wait(t); err != nil {
		t.Error(err)
	}
}

func TestSecondSignalStopsHard(t *testing.T) {
	c := newTestConfig(t, IsolationProcess, "stubborn")
	c.Gofer.Options["gofer"] = "hang on stop"
	r := serve(t, c)
	r.signals <- unix.SIGTERM
	r.waitState(t, Stopping)
	start := time.Now()
	// One right away belongs to the first (as timeout(1) sends them); an
	// impatient user's later ones do not.
	impatient := make(chan struct{})
	defer close(impatient)
	go func() {
		for {
			select {
			case r.signals <- unix.SIGTERM:
			case <-impatient:
				return
			}
		}
	}()
	if err := r.wait(t); err == nil || !strings.Contains(err.Error(), "stop: ") {
		t.Errorf("Serve: %v", err)
	}
	if d := time.Since(start); d < signalPause/2 || d > serverGrace {
		t.Errorf("took %v", d)
	}
}

func TestStubbornServerIsKilled(t *testing.T) {
	for _, isolation := range isolations[1:] {
		t.Run(isolation, func(t *testing.T) {
			c := newTestConfig(t, isolation, "stubborn")
			r := serve(t, c)
			if err := Stop(t.Context(), c.Dirs, "vol", false); err != nil {
				t.Fatal(err)
			}
			if err := r.wait(t); err != nil {
				t.Errorf("Serve: %v", err)
			}
			if !strings.Contains(r.log.String(), "does not end") {
				t.Error("nothing in the log")
			}
		})
	}
}

func TestFlushErrorIsReported(t *testing.T) {
	c := newTestConfig(t, IsolationNone, "")
	c.Gofer.Options["gofer"] = "flush error"
	r := serve(t, c)
	r.signals <- unix.SIGTERM
	if err := r.wait(t); err == nil || err.Error() != `volume "vol": stop: flush of 1 file: input/output error` {
		t.Errorf("got %v", err)
	}
}

func TestStartFailures(t *testing.T) {
	for _, tc := range []struct {
		name      string
		isolation string
		how       string
		change    func(*Config)
		want      string
	}{
		{"server exits, process", IsolationProcess, "exit", nil, "FS server exited with status 7 before it was ready: fake server: exit; first line; no such?[2J image"},
		{"server exits, gvisor", IsolationGVisor, "exit", nil, "no such?[2J image"},
		{"server is silent, process", IsolationProcess, "silent", func(c *Config) { c.StartTimeout = time.Second }, "no answer to FUSE INIT within 1s"},
		{"server is silent, gvisor", IsolationGVisor, "silent", func(c *Config) { c.StartTimeout = 2 * time.Second }, "no answer to FUSE INIT within 2s"},
		{"server is missing, process", IsolationProcess, "", func(c *Config) { c.Server.Argv = []string{"nonesuch"} }, "start the FS server: nonesuch: not found"},
		{"server is missing, gvisor", IsolationGVisor, "", func(c *Config) { c.Server.Argv = []string{"nonesuch"} }, "nonesuch"},
		{"gofer dies", IsolationProcess, "serve", func(c *Config) { c.Gofer.Options["gofer"] = "die" }, "gofer exited with status 3 before it was ready: gofer: something is wrong"},
		{"gofer refuses", IsolationNone, "", func(c *Config) { c.Gofer.Options["gofer"] = "refuse" }, "no such source"},
		{"gofer is malformed", IsolationNone, "", func(c *Config) { c.Gofer.Options["gofer"] = "malformed" }, "gofer was killed"},
		{"no shim", IsolationProcess, "serve", func(c *Config) { c.Server.Preload = true }, "libfsvamount.so"},
		{"no runsc", IsolationGVisor, "serve", func(c *Config) { c.Runsc = "/nonesuch/runsc" }, "/nonesuch/runsc"},
		{"not a runsc", IsolationGVisor, "serve", func(c *Config) { c.Runsc = "/bin/echo" }, "not a runsc"},
		{"bad name", IsolationNone, "", func(c *Config) { c.Info.Name = "../x" }, "volume name"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c := newTestConfig(t, tc.isolation, tc.how)
			if tc.change != nil {
				tc.change(&c)
			}
			r, ready := begin(t, c)
			err := r.wait(t)
			select {
			case <-ready:
				t.Error("became ready")
			default:
			}
			if err == nil || !strings.Contains(err.Error(), tc.want) || strings.Contains(err.Error(), "\n") {
				t.Errorf("got %q, want one line with %q", err, tc.want)
			}
			noLeftovers(t, c)
			for _, line := range strings.Split(r.log.String(), "\n") {
				// Users of serve see this error only.
				if strings.Contains(line, "level=INFO") || strings.Contains(line, "level=WARN") {
					t.Errorf("logged before readiness: %s", line)
				}
			}
		})
	}
}

func TestStopDuringStart(t *testing.T) {
	c := newTestConfig(t, IsolationProcess, "silent")
	r, _ := begin(t, c)
	for {
		if s, err := Stat(t.Context(), c.Dirs, "vol"); err == nil && s.State == Starting {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	if err := Stop(t.Context(), c.Dirs, "vol", false); err != nil {
		t.Error(err)
	}
	if err := r.wait(t); err == nil || !strings.Contains(err.Error(), "stopped before it was ready") {
		t.Errorf("got %v", err)
	}
}

func TestServerDiesLater(t *testing.T) {
	for _, isolation := range isolations[1:] {
		t.Run(isolation, func(t *testing.T) {
			c := newTestConfig(t, isolation, "die later")
			r := serve(t, c)
			s := r.waitReason(t, "status 9")
			if !strings.Contains(s.Reason, "assertion failed") || s.GoferPID == 0 || s.ServerPID != 0 {
				t.Errorf("status: %+v", s)
			}
			if err := Stop(t.Context(), c.Dirs, "vol", false); err != nil {
				t.Error(err)
			}
			if err := r.wait(t); err != nil {
				t.Errorf("Serve: %v", err)
			}
		})
	}
}

func TestGoferDiesLater(t *testing.T) {
	c := newTestConfig(t, IsolationProcess, "serve")
	c.Gofer.Options["gofer"] = "die on stat"
	r := serve(t, c)
	r.waitState(t, Failed) // which makes it die
	r.waitReason(t, "gofer exited with status 4")
	// Attaches are refused at once, not left waiting in a backlog.
	conn, err := net.Dial("unix", filepath.Join(c.Dirs.Volume("vol"), attach.SocketName))
	if !errors.Is(err, unix.ECONNREFUSED) {
		t.Errorf("connect: %v, %v", conn, err)
	}
}

// TestGoferDiesLast is about a gofer that says why, then the FS server ends well, and only then the gofer does.
func TestGoferDiesLast(t *testing.T) {
	c := newTestConfig(t, IsolationProcess, "serve")
	c.Gofer.Options["gofer"] = "die last on stat"
	r := serve(t, c)
	r.waitState(t, Failed) // which makes it die
	r.waitReason(t, "gofer exited with status 4")
	if err := Stop(t.Context(), c.Dirs, "vol", false); err != nil {
		t.Error(err)
	}
}

func TestGoferMakesNoSenseLater(t *testing.T) {
	for _, isolation := range isolations[:2] {
		c := newTestConfig(t, isolation, "serve")
		c.Gofer.Options["gofer"] = "fail twice"
		r := serve(t, c)
		r.waitReason(t, "gofer was killed by signal 9")
		if err := Stop(t.Context(), c.Dirs, "vol", false); err != nil {
			t.Error(err)
		}
	}
}

func TestNameInUse(t *testing.T) {
	c := newTestConfig(t, IsolationNone, "")
	serve(t, c)
	c2 := c
	c2.Log = slog.New(slog.DiscardHandler)
	err := Serve(t.Context(), c2)
	want := fmt.Sprintf(`name in use: volume "vol" is already served by pid %d`, os.Getpid())
	if err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
	c2.Info.Name = "other"
	r2 := serve(t, c2)
	all, err := List(t.Context(), c.Dirs)
	if err != nil || len(all) != 2 || all[0].Name != "other" || all[1].Name != "vol" {
		t.Errorf("List: %+v, %v", all, err)
	}
	if err := Stop(t.Context(), c.Dirs, "other", true); err != nil {
		t.Error(err)
	}
	r2.wait(t)
	// Cleanups check for leftovers: stop the first one too.
	if err := Stop(t.Context(), c.Dirs, "vol", false); err != nil {
		t.Error(err)
	}
}

func TestVolumeDirectoryNotWritable(t *testing.T) {
	c := newTestConfig(t, IsolationNone, "")
	if err := os.WriteFile(c.Dirs.Run, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	err := Serve(t.Context(), c)
	if err == nil || !strings.Contains(err.Error(), "volume directory not writable") || strings.Contains(err.Error(), "\n") {
		t.Errorf("got %v", err)
	}
}

func TestForeignFilesAreKept(t *testing.T) {
	c := newTestConfig(t, IsolationNone, "")
	c.Log = slog.New(slog.DiscardHandler)
	keep := filepath.Join(c.Dirs.Volume("vol"), "precious")
	if err := os.MkdirAll(filepath.Dir(keep), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(keep, []byte("x"), 0o644); err != nil {
		t.Fatal(err)
	}
	err := Serve(t.Context(), c)
	if err == nil || !strings.Contains(err.Error(), "not FSVA's") {
		t.Errorf("got %v", err)
	}
	if _, err := os.Stat(keep); err != nil {
		t.Error(err)
	}
}

func TestNotify(t *testing.T) {
	c := newTestConfig(t, IsolationNone, "")
	path := filepath.Join(t.TempDir(), "notify")
	l, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	t.Setenv("NOTIFY_SOCKET", path)
	r := serve(t, c)
	buf := make([]byte, 256)
	n, err := l.Read(buf)
	if err != nil || !strings.HasPrefix(string(buf[:n]), "READY=1\n") {
		t.Errorf("got %q, %v", buf[:n], err)
	}
	r.signals <- unix.SIGINT
	n, err = l.Read(buf)
	if err != nil || string(buf[:n]) != "STOPPING=1" {
		t.Errorf("got %q, %v", buf[:n], err)
	}
	if err := r.wait(t); err != nil {
		t.Error(err)
	}
}

// serveForTest is a supervisor in a process of its own, to be killed.
func serveForTest() int {
	dirs := Dirs{Run: os.Getenv("FSVA_RUNDIR"), State: os.Getenv("FSVA_STATEDIR")}
	c := testConfigFor(dirs, os.Getenv("FSVA_TEST_SERVE"), os.Getenv("FSVA_RUNSC"))
	c.Log = slog.New(slog.NewTextHandler(os.Stderr, nil))
	c.Ready = func(string) { fmt.Println("ready") }
	if err := Serve(context.Background(), c); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

func TestSupervisorIsKilled(t *testing.T) {
	for _, isolation := range isolations {
		t.Run(isolation, func(t *testing.T) {
			c := newTestConfig(t, isolation, "serve")
			cmd := exec.Command("/proc/self/exe")
			cmd.Env = append(os.Environ(), "FSVA_TEST_SERVE="+isolation, "FSVA_RUNDIR="+c.Dirs.Run, "FSVA_STATEDIR="+c.Dirs.State, "FSVA_RUNSC="+c.Runsc)
			out, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			cmd.Stderr = os.Stderr
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			line := make([]byte, 6)
			if _, err := io.ReadFull(out, line); err != nil || string(line) != "ready\n" {
				t.Fatalf("%q, %v", line, err)
			}
			s, err := Stat(t.Context(), c.Dirs, "vol")
			if err != nil || s.State != Serving {
				t.Fatalf("%+v, %v", s, err)
			}
			cmd.Process.Kill()
			cmd.Wait()
			// The processes are the kernel's to reap now.
			for deadline := time.Now().Add(20 * time.Second); len(processesOf(t, c)) > 0; time.Sleep(10 * time.Millisecond) {
				if time.Now().After(deadline) {
					t.Fatalf("still alive: %q", processesOf(t, c))
				}
			}
			t.Setenv("FSVA_RUNSC", c.Runsc)
			all, err := List(t.Context(), c.Dirs)
			if err != nil || len(all) != 0 {
				t.Errorf("List: %+v, %v", all, err)
			}
			noLeftovers(t, c)
		})
	}
}

func TestStartAfterKilledSupervisor(t *testing.T) {
	c := newTestConfig(t, IsolationNone, "")
	for _, dir := range []string{c.Dirs.Volume("vol"), c.Dirs.private("vol") + "/bundle", c.Dirs.private("vol") + "/volume", c.Dirs.control(), filepath.Dir(c.Dirs.lock("vol"))} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, f := range []string{c.Dirs.Volume("vol") + "/volume.json", c.Dirs.private("vol") + "/bundle/config.json", c.Dirs.control() + "/vol.sock", c.Dirs.lock("vol")} {
		if err := os.WriteFile(f, []byte("stale"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := Stat(t.Context(), c.Dirs, "vol"); !errors.Is(err, ErrUnknownVolume) {
		t.Errorf("Stat: %v", err)
	}
	serve(t, c)
}

func TestListRemovesEmptyVolumeDirectory(t *testing.T) {
	c := newTestConfig(t, IsolationNone, "")
	if err := os.MkdirAll(c.Dirs.Volume("vol"), 0o755); err != nil {
		t.Fatal(err)
	}
	all, err := List(t.Context(), c.Dirs)
	if err != nil || len(all) != 0 {
		t.Errorf("%v, %v", all, err)
	}
	noLeftovers(t, c)
}

func TestListWithoutRunDirectory(t *testing.T) {
	all, err := List(t.Context(), Dirs{Run: filepath.Join(t.TempDir(), "absent")})
	if err != nil || len(all) != 0 {
		t.Errorf("%v, %v", all, err)
	}
}

// TestLongRunDirectory has paths that do not fit into a socket address.
func TestLongRunDirectory(t *testing.T) {
	for _, isolation := range isolations {
		t.Run(isolation, func(t *testing.T) {
			c := newTestConfig(t, isolation, "serve")
			c.Dirs.Run = filepath.Join(t.TempDir(), strings.Repeat("x", 150))
			serve(t, c)
			if s, err := Stat(t.Context(), c.Dirs, "vol"); err != nil || s.State != Serving {
				t.Errorf("%+v, %v", s, err)
			}
			if err := Stop(t.Context(), c.Dirs, "vol", false); err != nil {
				t.Error(err)
			}
		})
	}
}
