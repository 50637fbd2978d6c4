// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build bench

package matrix

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"fsva/e2e/bench/driver"
	"fsva/e2e/harness"
)

// panicLog is the file in a sandbox's bundle that its sentry writes its last words to.
const panicLog = "panic.log"

const (
	commandTimeout = 5 * time.Minute  // for one command of a workload
	stopTimeout    = 30 * time.Second // for a driver whose stdin has ended
)

// session is a driver that has the data of one column before it.
type session struct {
	data  string // the data's directory, as the driver sees it
	bench string // that of the benchmark's own files
	// bundle is the sandbox's; "" without one.
	bundle string
	cmd    *exec.Cmd
	in     *os.File // requests
	out    *os.File // responses
	dec    *json.Decoder
	err    bytes.Buffer  // stderr; complete once done is closed
	done   chan struct{} // closed when cmd has ended
	// failed reports whether a failure was returned: how cmd ends is then part of that, and no second failure.
	failed bool
}

// runtimeOf returns the name of the column's runsc.
func runtimeOf(col Column) string {
	if col.Via == ViaFSVA {
		return "runsc"
	}
	return "runsc-stock"
}

// start starts the FS server of a column anew, and then the driver, in a sandbox if the column has one. The test's
// clean-up ends both.
func (s *site) start(t *testing.T, w *Workload, col Column) *session {
	t.Helper()
	s.sessions++
	id := fmt.Sprintf("fsva-bench-%d-%d", os.Getpid(), s.sessions)
	readOnly := w.Server == Squashfs
	if !readOnly {
		unix.Sync() // what earlier sessions wrote is not written back during this one
	}
	source := s.source(t, w)
	var dir string
	switch col.Via {
	case ViaLocal:
		dir = source
		if readOnly {
			dir = s.tree
		}
	case ViaKernel:
		dir = env.Native(t, nativeCommand(w.Server, source)...)
	case ViaFSVA:
		dir = env.Serve(t, id, "--appliance", string(w.Server), "--source", source, "--isolation", col.Isolation).Dir
	}
	if !col.Sandbox {
		return startDriver(t, exec.Command(s.bench("driver")), append(os.Environ(), s.environ()...), dir, s.bench(""))
	}

	options := append([]string{"rbind"}, col.MountOptions...)
	if readOnly {
		options = append(options, "ro")
	}
	bundle := env.TempDir(t)
	spec, err := json.Marshal(s.spec(specs.Mount{Destination: "/data", Type: "bind", Source: dir, Options: options}))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(bundle, "config.json"), spec, 0o644); err != nil {
		t.Fatal(err)
	}
	args := append([]string{"--root", s.state, "--network=none", "--platform=systrap", "--ignore-cgroups",
		"--overlay2=none", "--panic-log=" + filepath.Join(bundle, panicLog)}, col.Flags...)
	args = append(args, strings.Fields(os.Getenv("FSVA_E2E_RUNSC_ARGS"))...) // for debugging, as in the end-to-end tests
	cmd := exec.Command(env.Binary(t, runtimeOf(col)), append(args, "run", "--bundle", bundle, id)...)
	session := startDriver(t, cmd, append(os.Environ(), env.FSVAEnv()...), "/data", "/bench")
	session.bundle = bundle
	return session
}

// source returns what the FS server of a new session shall serve.
func (s *site) source(t *testing.T, w *Workload) string {
	t.Helper()
	switch {
	case w.Server == Squashfs:
		return s.image
	case w.Data == DataGit:
		return s.git
	}
	dir := env.TempDir(t)
	if w.Data == DataGo {
		harness.Must(t, "cp", "-a", s.module+"/.", dir)
	}
	return dir
}

// nativeCommand is how the appliance's server is started, but with a mount on the kernel. MNT stands for where.
func nativeCommand(server Server, source string) []string {
	if server == Bindfs {
		return []string{"bindfs", "-f", "-o", "big_writes", "--multithreaded", "--xattr-rw", source, "MNT"}
	}
	return []string{"squashfuse_ll", "-f", "-o", "allow_other", source, "MNT"}
}

// environ is the environment of the workloads' commands.
func (s *site) environ() []string {
	return []string{"PATH=" + filepath.Join(s.goroot, "bin") + ":/usr/local/bin:/usr/bin:/usr/sbin", "LC_ALL=C"}
}

// spec returns the container that runs the driver.
func (s *site) spec(data specs.Mount) specs.Spec {
	caps := []string{"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_FSETID", "CAP_MKNOD", "CAP_SETGID", "CAP_SETUID"}
	return specs.Spec{
		Version: "1.0.0",
		Root:    &specs.Root{Path: s.root, Readonly: true},
		Process: &specs.Process{
			Args:         []string{"/bench/driver"},
			Env:          append(s.environ(), "HOME=/tmp"),
			Cwd:          "/",
			Capabilities: &specs.LinuxCapabilities{Bounding: caps, Effective: caps, Permitted: caps},
		},
		Mounts: []specs.Mount{
			{Destination: "/proc", Type: "proc", Source: "proc"},
			{Destination: "/tmp", Type: "tmpfs", Source: "tmpfs"},
			data,
		},
		Linux: &specs.Linux{Namespaces: []specs.LinuxNamespace{
			{Type: specs.PIDNamespace}, {Type: specs.NetworkNamespace}, {Type: specs.IPCNamespace}, {Type: specs.UTSNamespace}, {Type: specs.MountNamespace},
		}},
	}
}

// startDriver starts cmd, which must come to run the driver on its own stdin and stdout.
func startDriver(t *testing.T, cmd *exec.Cmd, environ []string, data, bench string) *session {
	t.Helper()
	requests, in, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	out, responses, err := os.Pipe()
	if err != nil {
		t.Fatal(errors.Join(err, requests.Close(), in.Close()))
	}
	s := &session{data: data, bench: bench, cmd: cmd, in: in, out: out, dec: json.NewDecoder(out), done: make(chan struct{})}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = requests, responses, &s.err
	cmd.Env = environ
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	cmd.WaitDelay = 5 * time.Second
	err = errors.Join(cmd.Start(), requests.Close(), responses.Close())
	if err != nil {
		t.Fatal(errors.Join(err, in.Close(), out.Close()))
	}
	var waited error // read after done
	go func() {
		waited = cmd.Wait()
		close(s.done)
	}()
	t.Cleanup(func() {
		// The driver ends when its stdin does.
		if err := in.Close(); err != nil {
			t.Error(err)
		}
		select {
		case <-s.done:
		case <-time.After(stopTimeout):
			t.Errorf("%s has not ended after %v: killing it", cmd.Path, stopTimeout)
			if err := cmd.Process.Kill(); err != nil {
				t.Error(err)
			}
			<-s.done
		}
		if err := out.Close(); err != nil {
			t.Error(err)
		}
		if waited != nil && !s.failed {
			t.Errorf("%s: %v\n%s", strings.Join(cmd.Args, " "), waited, s.err.String())
		}
	})
	return s
}

// run has the driver run a command, and fails unless that exits with 0.
func (s *session) run(args []string, output bool) (driver.Response, error) {
	replace := strings.NewReplacer("{bench}", s.bench, "{data}", s.data, "{seconds}", seconds())
	req := driver.Request{Dir: s.data, Output: output}
	for _, a := range args {
		req.Args = append(req.Args, replace.Replace(a))
	}
	line, err := json.Marshal(req)
	if err != nil {
		return driver.Response{}, err
	}
	if _, err := s.in.Write(append(line, '\n')); err != nil {
		return driver.Response{}, s.ended(err)
	}
	if err := s.out.SetReadDeadline(time.Now().Add(commandTimeout)); err != nil {
		return driver.Response{}, err
	}
	var resp driver.Response
	if err := s.dec.Decode(&resp); err != nil {
		return driver.Response{}, s.ended(fmt.Errorf("%q: %w", req.Args, err))
	}
	if resp.Error != "" {
		return resp, errors.New(resp.Error)
	}
	return resp, nil
}

// ended adds to err why the driver has ended, if it has.
func (s *session) ended(err error) error {
	select {
	case <-s.done:
		crash, rerr := os.ReadFile(filepath.Join(s.bundle, panicLog)) // empty unless the sentry crashed
		if rerr != nil {
			crash = []byte(rerr.Error())
		}
		return fmt.Errorf("%w; %v: %s %.2000s", err, s.cmd.ProcessState, s.err.String(), crash)
	case <-time.After(time.Second): // it closes its pipes before it can be waited for
		return err
	}
}

// seconds is how long time-based commands run.
func seconds() string {
	if *quickFlag {
		return "1"
	}
	return "3"
}

// prepare waits until the driver runs, and makes the workload's programs resident.
func (s *session) prepare(w *Workload) error {
	if _, err := s.run([]string{"true"}, false); err != nil {
		return err
	}
	return s.warmTools(w)
}

func (s *session) warmTools(w *Workload) error {
	for _, args := range w.Tools {
		if _, err := s.run(args, false); err != nil {
			return err
		}
	}
	return nil
}

// sample runs a step as often as it wants, once in a quick run, and returns the median.
func (s *session) sample(w *Workload, step Step) (float64, error) {
	times := max(step.Times, 1)
	if *quickFlag {
		times = 1
	}
	var samples []float64
	for range times {
		sample, err := s.once(w, step)
		if err != nil {
			return 0, err
		}
		samples = append(samples, sample)
	}
	return Median(samples), nil
}

func (s *session) once(w *Workload, step Step) (float64, error) {
	if step.Cold {
		if err := dropCaches(); err != nil {
			return 0, err
		}
		// The programs come from the same disk: theirs is not the time to measure.
		if err := s.warmTools(w); err != nil {
			return 0, err
		}
	}
	resp, err := s.run(step.Args, step.Value != nil)
	if err != nil {
		return 0, err
	}
	if step.Value != nil {
		return step.Value(resp.Output)
	}
	return resp.Elapsed.Seconds(), nil
}

// dropCaches makes the kernel forget all clean pages, dentries and inodes.
func dropCaches() error {
	unix.Sync()
	return os.WriteFile("/proc/sys/vm/drop_caches", []byte("3\n"), 0)
}
