// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package harness

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Volume is a running `fsva serve`.
type Volume struct {
	Name string
	// Dir is what containers bind-mount.
	Dir string

	env    *Env
	proc   *process
	notify *readiness
}

const (
	startTimeout = 60 * time.Second
	stopTimeout  = 30 * time.Second
)

// FSVAEnv is the environment of every fsva the tests start.
func (e *Env) FSVAEnv() []string {
	return []string{"FSVA_RUNDIR=" + e.RunDir, "FSVA_STATEDIR=" + e.StateDir}
}

// Serve starts `fsva serve name flags…` and returns when it says that it is ready. The test's clean-up stops it and
// checks that nothing is left.
func (e *Env) Serve(t testing.TB, name string, flags ...string) *Volume {
	t.Helper()
	return e.ServeWith(t, nil, name, flags...)
}

// ServeWith is Serve with more in the environment, as NAME=VALUE.
func (e *Env) ServeWith(t testing.TB, environ []string, name string, flags ...string) *Volume {
	t.Helper()
	v, err := e.startVolume(t, environ, name, flags...)
	if err != nil {
		t.Fatalf("fsva serve %s %s: %v", name, strings.Join(flags, " "), err)
	}
	t.Cleanup(func() { v.Stop(t) })
	return v
}

// ServeLater is Serve for a volume that needs something else first. It returns at once; await waits until the volume is
// ready, at most timeout.
func (e *Env) ServeLater(t testing.TB, name string, flags ...string) (v *Volume, await func(timeout time.Duration) error) {
	t.Helper()
	v, await, err := e.launch(t, nil, name, flags...)
	if err != nil {
		t.Fatalf("fsva serve %s %s: %v", name, strings.Join(flags, " "), err)
	}
	t.Cleanup(func() { v.Stop(t) })
	return v, await
}

func (e *Env) startVolume(t testing.TB, environ []string, name string, flags ...string) (*Volume, error) {
	t.Helper()
	v, await, err := e.launch(t, environ, name, flags...)
	if err == nil {
		err = await(startTimeout)
	}
	return v, err
}

// launch starts fsva serve. await waits until the volume is ready, and kills it if that takes too long.
func (e *Env) launch(t testing.TB, environ []string, name string, flags ...string) (v *Volume, await func(timeout time.Duration) error, err error) {
	t.Helper()
	NeedRoot(t)
	e.Binary(t, "runsc") // it stands beside fsva
	fsva := e.Binary(t, "fsva")
	e.Images(t)
	ready, err := newReadiness(e.Dir)
	if err != nil {
		return nil, nil, err
	}
	v = &Volume{Name: name, Dir: filepath.Join(e.RunDir, "volumes", name), env: e, notify: ready}
	args := append([]string{fsva, "serve", name}, flags...)
	v.proc = startProcess(t, append(append(e.FSVAEnv(), "NOTIFY_SOCKET="+ready.path), environ...), args...)
	go func() { // the service manager listens for as long as the service runs
		<-v.proc.done
		ready.close()
	}()
	proc := v.proc
	return v, func(timeout time.Duration) error {
		err := ready.await(proc.done, timeout)
		if err == nil {
			return nil
		}
		if !proc.ended() {
			proc.kill()
		}
		return fmt.Errorf("%w\n%s", err, tail(proc.output()))
	}, nil
}

// PID returns the supervisor's process id.
func (v *Volume) PID() int { return v.proc.pid() }

// Processes returns the supervisor and everything below it.
func (v *Volume) Processes() []Proc {
	var all []Proc
	if p, ok := readProc(v.PID()); ok {
		all = append(all, p)
	}
	return append(all, descendants(v.PID())...)
}

// Gofer returns the volume's gofer process.
func (v *Volume) Gofer(t testing.TB) Proc {
	t.Helper()
	for _, p := range descendants(v.PID()) {
		if p.PPID == v.PID() && strings.Contains(p.Cmdline+" ", " gofer ") && !strings.Contains(p.Cmdline, "runsc") {
			return p
		}
	}
	t.Fatalf("no gofer below the supervisor: %v", v.Processes())
	return Proc{}
}

// Stdout returns what the supervisor has printed: the readiness line.
func (v *Volume) Stdout() string { return v.proc.out.String() }

// Log returns what the supervisor, and through it the gofer and the FS server, wrote to stderr.
func (v *Volume) Log() string { return v.proc.err.String() }

// Output returns a function that gives all that the supervisor has printed, after its end too.
func (v *Volume) Output() func() string { return v.proc.output }

// Mount returns a docker -v argument for the volume.
func (v *Volume) Mount(dest string) string { return v.Dir + ":" + dest }

// Stop ends the volume by SIGTERM, once, and checks that it ends well and leaves nothing.
func (v *Volume) Stop(t testing.TB) {
	t.Helper()
	if v.proc == nil {
		return
	}
	proc := v.proc
	v.proc = nil
	if proc.ended() {
		t.Errorf("volume %s ended by itself: %v\n%s", v.Name, proc.cmd.ProcessState, tail(proc.output()))
		return
	}
	below := descendants(proc.pid())
	if err := proc.cmd.Process.Signal(unix.SIGTERM); err != nil {
		t.Errorf("volume %s: %v", v.Name, err)
	}
	if !proc.waitFor(stopTimeout) {
		t.Errorf("volume %s does not stop within %v; killing it\n%s", v.Name, stopTimeout, tail(proc.output()))
		proc.kill()
	} else if code := proc.cmd.ProcessState.ExitCode(); code != 0 {
		t.Errorf("volume %s: exit code %d after SIGTERM\n%s", v.Name, code, tail(proc.output()))
	}
	for _, p := range awaitGone(below, time.Now().Add(5*time.Second)) {
		t.Errorf("volume %s left process %v", v.Name, p)
		if err := unix.Kill(p.PID, unix.SIGKILL); err != nil {
			t.Error(err)
		}
	}
	if err := v.env.NothingLeft(v.Name); err != nil {
		t.Errorf("volume %s: %v", v.Name, err)
	}
	if t.Failed() {
		t.Logf("log of volume %s:\n%s", v.Name, tail(proc.output()))
	}
}

// NothingLeft returns an error that names every file, mount and cgroup which a volume of this name left behind.
func (e *Env) NothingLeft(name string) error {
	var errs []error
	for _, sub := range []string{"volumes/" + name, "control/" + name + ".sock", "private/" + name, "runsc/" + name} {
		if _, err := os.Lstat(filepath.Join(e.RunDir, sub)); !errors.Is(err, os.ErrNotExist) {
			errs = append(errs, fmt.Errorf("left %s (%v)", filepath.Join(e.RunDir, sub), err))
		}
	}
	mounts, err := mountsBelow(e.RunDir)
	if err != nil {
		errs = append(errs, err)
	}
	for _, m := range mounts {
		if mentions(m, name) {
			errs = append(errs, fmt.Errorf("left mount %s", m))
		}
	}
	for _, p := range processes() {
		if p.State != 'Z' && strings.Contains(p.Cmdline, filepath.Join(e.RunDir, "volumes", name)+"/") {
			errs = append(errs, fmt.Errorf("left process %v", p))
		}
	}
	for _, pattern := range []string{"/sys/fs/cgroup/*", "/sys/fs/cgroup/*/*", "/sys/fs/cgroup/*/*/*"} {
		dirs, err := filepath.Glob(pattern)
		if err != nil {
			errs = append(errs, err)
		}
		for _, d := range dirs {
			if fi, err := os.Stat(d); err == nil && fi.IsDir() && mentions(filepath.Base(d), name) {
				errs = append(errs, fmt.Errorf("left cgroup %s", d))
			}
		}
	}
	return errors.Join(errs...)
}

// mentions reports whether text has the name of a volume in it that does not go on: another test may use the volume
// NAME-strict at the same time.
func mentions(text, name string) bool {
	for {
		_, after, found := strings.Cut(text, name)
		if !found {
			return false
		}
		if after == "" || !isNameByte(after[0]) {
			return true
		}
		text = after
	}
}

func isNameByte(b byte) bool {
	return b == '-' || '0' <= b && b <= '9' || 'a' <= b && b <= 'z' || 'A' <= b && b <= 'Z'
}

// RunscStates returns the entries of the state directory of the runsc that runs FS servers: one for each volume. The
// directory itself may be missing.
func (e *Env) RunscStates() ([]string, error) {
	entries, err := os.ReadDir(filepath.Join(e.RunDir, "runsc"))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	var found []string
	for _, entry := range entries {
		found = append(found, entry.Name())
	}
	return found, nil
}

// FSVA runs another fsva command, at most a minute. It does not judge the exit code.
func (e *Env) FSVA(t testing.TB, args ...string) Result {
	t.Helper()
	if os.Geteuid() == 0 {
		e.Images(t)
	}
	return Run(t, time.Minute, e.FSVAEnv(), append([]string{e.Binary(t, "fsva")}, args...)...)
}

// readiness is the service manager's end of sd_notify.
type readiness struct {
	path  string
	conn  *net.UnixConn
	ready chan struct{} // closed when READY=1 came
}

func newReadiness(dir string) (*readiness, error) {
	f, err := os.CreateTemp(dir, "notify")
	if err != nil {
		return nil, err
	}
	path := f.Name()
	if err := errors.Join(f.Close(), os.Remove(path)); err != nil {
		return nil, err
	}
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		return nil, err
	}
	r := &readiness{path: path, conn: conn, ready: make(chan struct{})}
	go r.receive()
	return r, nil
}

// receive reads until close.
func (r *readiness) receive() {
	buf := make([]byte, 4096)
	for said := false; ; {
		n, err := r.conn.Read(buf)
		if err != nil {
			return
		}
		for line := range strings.Lines(string(buf[:n])) {
			if strings.TrimSpace(line) == "READY=1" && !said {
				said = true
				close(r.ready)
			}
		}
	}
}

// await waits for READY=1, the end of the process, or the timeout.
func (r *readiness) await(ended <-chan struct{}, timeout time.Duration) error {
	select {
	case <-r.ready:
		return nil
	case <-ended:
		return errors.New("it ended before it was ready")
	case <-time.After(timeout):
		return fmt.Errorf("not ready after %v", timeout)
	}
}

func (r *readiness) close() {
	// The socket file is below the run's temporary directory; a failure leaves it for the guardian.
	_ = r.conn.Close()
}

// Kill ends the supervisor by SIGKILL, and returns when it and everything below it has ended by itself.
func (v *Volume) Kill(t testing.TB) {
	t.Helper()
	proc := v.proc
	v.proc = nil
	below := descendants(proc.pid())
	if err := proc.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	<-proc.done
	for _, p := range awaitGone(below, time.Now().Add(10*time.Second)) {
		t.Errorf("volume %s: process outlives its killed supervisor: %v", v.Name, p)
		if err := unix.Kill(p.PID, unix.SIGKILL); err != nil {
			t.Error(err)
		}
	}
}

// Ended waits until the volume has ended, because it was asked to by other means than Stop, and checks the same.
func (v *Volume) Ended(t testing.TB) {
	t.Helper()
	proc := v.proc
	v.proc = nil
	if !proc.waitFor(stopTimeout) {
		t.Errorf("volume %s has not ended", v.Name)
		proc.kill()
	}
	if code := proc.cmd.ProcessState.ExitCode(); code != 0 {
		t.Errorf("volume %s: exit code %d\n%s", v.Name, code, tail(proc.output()))
	}
	if err := v.env.NothingLeft(v.Name); err != nil {
		t.Errorf("volume %s: %v", v.Name, err)
	}
}
