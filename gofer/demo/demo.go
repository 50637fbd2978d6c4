// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

// Package demo is `fsva demo`: the main job in one command, with nothing
// installed but Go's output. It serves two volumes, an archive and a small
// writable file system, runs a gVisor sandbox with both, and prints what the
// program in the sandbox did, how fast, and where the data lived.
//
// It uses the same commands as a user: `fsva serve`, `fsva stop` and our runsc,
// with a run directory of its own.
package demo

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Names and places of the demo.
const (
	libraryVolume = "demo-library"
	scratchVolume = "demo-scratch"
	libraryPath   = "/library" // in the sandbox
	scratchPath   = "/scratch"
	guestPath     = "/fsva" // our own binary, in the sandbox

	serveTimeout = 20 * time.Second
	runTimeout   = 60 * time.Second
)

// Options says what to run.
type Options struct {
	Fsva  string // path of the fsva binary
	Runsc string // path of our runsc
	Out   io.Writer
}

// Run runs the demo. It leaves nothing behind: no process, mount or file.
func Run(ctx context.Context, o Options) (err error) {
	if os.Getuid() != 0 {
		return errors.New("the demo needs root: gVisor's sandbox is made of namespaces; try sudo")
	}
	if _, err := os.Stat(o.Runsc); err != nil {
		return fmt.Errorf("runsc is not at %s: build it with `make build`", o.Runsc)
	}
	dir, err := os.MkdirTemp("", "fsva-demo-")
	if err != nil {
		return err
	}
	d := &demo{Options: o, dir: dir}
	defer func() { err = errors.Join(err, d.cleanup()) }()

	start := time.Now()
	archive := filepath.Join(dir, "library.tar")
	files, size, err := writeArchive(archive)
	if err != nil {
		return fmt.Errorf("write %s: %w", archive, err)
	}
	d.printf("An archive with %d files, %d MiB, and an empty file system in memory become volumes:\n\n", files, size>>20)
	if err := d.serve(ctx, libraryVolume, "--appliance", "tar", "--source", archive); err != nil {
		return err
	}
	if err := d.serve(ctx, scratchVolume, "--appliance", "mem"); err != nil {
		return err
	}
	d.printf("\nA gVisor sandbox mounts both and works on them:\n\n")
	report, took, err := d.sandbox(ctx)
	if err != nil {
		return err
	}
	for _, s := range report.Steps {
		d.printf("  %-34s %-38s %9s\n", s.What, s.Result, roundTime(s.Took))
	}
	d.printf("  %-34s %-38s %9s\n", "the sandbox, from start to end", "", roundTime(took))
	if err := d.where(archive); err != nil {
		return err
	}
	if err := d.stop(ctx); err != nil {
		return err
	}
	d.printf("\nBoth volumes are stopped; the whole demo took %s.\n", roundTime(time.Since(start)))
	return nil
}

type demo struct {
	Options
	dir    string // everything the demo writes is below
	served []*server
}

// server is an `fsva serve` process.
type server struct {
	name string
	cmd  *exec.Cmd
	done chan error // its end; buffered
	log  *bytes.Buffer
}

func (d *demo) printf(format string, args ...any) { fmt.Fprintf(d.Out, format, args...) }

func (d *demo) runDir() string { return filepath.Join(d.dir, "run") }

func (d *demo) volumeDir(name string) string { return filepath.Join(d.runDir(), "volumes", name) }

func (d *demo) env() []string {
	return append(os.Environ(), "FSVA_RUNDIR="+d.runDir(), "FSVA_STATEDIR="+filepath.Join(d.dir, "state"), "FSVA_RUNSC="+d.Runsc)
}

// serve starts a volume and waits until it is ready.
func (d *demo) serve(ctx context.Context, name string, args ...string) error {
	d.printf("  fsva serve %s %s\n", name, strings.Join(args, " "))
	s := &server{name: name, done: make(chan error, 1), log: new(bytes.Buffer)}
	s.cmd = exec.Command(d.Fsva, append([]string{"serve", name}, args...)...)
	s.cmd.Env = d.env()
	s.cmd.Stderr = s.log
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // Ctrl-C is ours to handle
	out, err := s.cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := s.cmd.Start(); err != nil {
		return fmt.Errorf("start fsva serve: %w", err)
	}
	d.served = append(d.served, s)
	ready := make(chan bool, 1)
	go func() {
		r := bufio.NewReader(out)
		line, err := r.ReadString('\n')
		ready <- err == nil && strings.Contains(line, "ready")
		io.Copy(io.Discard, r) // until the process closes it; nothing in it matters
		s.done <- s.cmd.Wait()
	}()
	ctx, cancel := context.WithTimeout(ctx, serveTimeout)
	defer cancel()
	select {
	case ok := <-ready:
		if !ok {
			<-s.done
			s.done <- nil
			return fmt.Errorf("volume %s did not start: %s", name, lastLine(s.log.String()))
		}
		return nil
	case <-ctx.Done():
		return fmt.Errorf("volume %s is not ready: %w", name, ctx.Err())
	}
}

// stop ends the volumes as `fsva stop` does.
func (d *demo) stop(ctx context.Context) error {
	for _, s := range d.served {
		cmd := exec.CommandContext(ctx, d.Fsva, "stop", s.name)
		cmd.Env = d.env()
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("stop volume %s: %w: %s", s.name, err, lastLine(string(out)))
		}
		if err := <-s.done; err != nil {
			return fmt.Errorf("volume %s ended with %w: %s", s.name, err, lastLine(s.log.String()))
		}
	}
	d.served = nil
	return nil
}

// cleanup ends what a failure has left running and removes the files.
func (d *demo) cleanup() error {
	for _, s := range d.served {
		s.cmd.Process.Signal(unix.SIGTERM) // fails only if it has ended
		select {
		case <-s.done:
		case <-time.After(serveTimeout):
			s.cmd.Process.Kill()
			<-s.done
		}
	}
	return os.RemoveAll(d.dir)
}

// sandbox runs the guest side of the demo under our runsc.
func (d *demo) sandbox(ctx context.Context) (report Report, took time.Duration, err error) {
	bundle := filepath.Join(d.dir, "bundle")
	rootfs := filepath.Join(bundle, "rootfs")
	if err := os.MkdirAll(rootfs, 0o755); err != nil {
		return report, 0, err
	}
	mounts := []map[string]any{
		{"destination": "/proc", "type": "proc", "source": "proc"},
		{"destination": guestPath, "type": "bind", "source": d.Fsva, "options": []string{"bind", "ro"}},
		{"destination": libraryPath, "type": "bind", "source": d.volumeDir(libraryVolume), "options": []string{"bind", "ro"}},
		{"destination": scratchPath, "type": "bind", "source": d.volumeDir(scratchVolume), "options": []string{"bind", "rw"}},
	}
	spec, err := json.Marshal(map[string]any{
		"ociVersion": "1.0.0",
		"process": map[string]any{
			"args": []string{guestPath, GuestCommand, libraryPath, scratchPath},
			"cwd":  "/", "env": []string{"PATH=/"}, "user": map[string]int{"uid": 0, "gid": 0}, "noNewPrivileges": true,
		},
		"root":     map[string]any{"path": "rootfs", "readonly": true},
		"hostname": "demo",
		"mounts":   mounts,
		"linux":    map[string]any{"namespaces": []map[string]string{{"type": "pid"}, {"type": "mount"}, {"type": "network"}, {"type": "ipc"}, {"type": "uts"}}},
	})
	if err != nil {
		return report, 0, err
	}
	if err := os.WriteFile(filepath.Join(bundle, "config.json"), spec, 0o644); err != nil {
		return report, 0, err
	}
	ctx, cancel := context.WithTimeout(ctx, runTimeout)
	defer cancel()
	id := fmt.Sprintf("fsva-demo-%d", os.Getpid())
	runsc := []string{"--root", filepath.Join(d.dir, "runsc"), "--network=none", "--platform=systrap", "--ignore-cgroups"}
	d.printf("  runsc run --bundle … (mounts: %s → %s, %s → %s)\n\n",
		d.volumeDir(libraryVolume), libraryPath, d.volumeDir(scratchVolume), scratchPath)
	cmd := exec.CommandContext(ctx, d.Runsc, append(runsc, "run", "--bundle", bundle, id)...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr, cmd.WaitDelay = &stdout, &stderr, time.Second
	// runsc keeps a network namespace mounted below --root; in a mount namespace
	// of its own that ends with it.
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: unix.CLONE_NEWNS}
	begin := time.Now()
	runErr := cmd.Run()
	took = time.Since(begin)
	if runErr != nil {
		// A sandbox that was cut short is still there.
		exec.Command(d.Runsc, append(runsc, "delete", "--force", id)...).Run()
		return report, took, fmt.Errorf("the sandbox failed: %w: %s", runErr, lastLine(stderr.String()+stdout.String()))
	}
	if err := json.Unmarshal(stdout.Bytes(), &report); err != nil {
		return report, took, fmt.Errorf("read the report of the sandbox: %w: %s", err, lastLine(stdout.String()))
	}
	if report.Error != "" {
		return report, took, fmt.Errorf("in the sandbox: %s", report.Error)
	}
	return report, took, nil
}

// where says where the data lived, and checks that the host has no part in it.
func (d *demo) where(archive string) error {
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		return err
	}
	if strings.Contains(string(mounts), d.dir) {
		return fmt.Errorf("a mount below %s is visible on the host", d.dir)
	}
	d.printf("\nWhere the data lived:\n\n")
	d.printf("  %-12s in %s, read by its gofer, which sees no other file of this machine\n", libraryPath, archive)
	d.printf("  %-12s in a tmpfs that only its gofer sees; it is gone when the volume stops\n", scratchPath)
	d.printf("  on the host  no mount, no /dev/fuse: the sandbox talks to the gofers by socket and shared memory\n")
	return nil
}

func roundTime(t time.Duration) time.Duration {
	switch {
	case t > time.Second:
		return t.Round(10 * time.Millisecond)
	case t > time.Millisecond:
		return t.Round(10 * time.Microsecond)
	}
	return t.Round(100 * time.Nanosecond)
}

// lastLine returns the last line of a program's output that is not empty.
func lastLine(s string) string {
	s = strings.TrimSpace(s)
	if i := strings.LastIndexByte(s, '\n'); i >= 0 {
		s = s[i+1:]
	}
	if s == "" {
		return "it printed nothing"
	}
	return s
}
