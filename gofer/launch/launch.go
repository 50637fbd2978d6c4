// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

// Package launch starts defined volumes in the background, as `fsva serve NAME`
// would in the foreground, and stops them.
//
// What is started is a supervisor of its own: it outlives whoever started it, in a
// session of its own, and logs to the file that package volume names. Until it is
// ready it is its starter's child: it reports on a pipe, one JSON line, that it is
// ready or why not.
//
// An instance of a dedicated volume ends with its container. It is held by a pipe
// while its container is being made, and by its clients from then on: it ends when
// the pipe is closed and there are no clients, see Config.Hold of package supervisor.
//
// The package keeps no state, and its functions may be called concurrently.
package launch

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"fsva/gofer/supervisor"
	"fsva/gofer/volume"
)

const (
	// grace is how long a start that was called off may take to clean up.
	grace = 15 * time.Second
	// maxLog is the size from which on a log is put aside at the next start.
	maxLog = 1 << 20
	// stopPause is how long Stop waits before it asks a supervisor again that does
	// not listen yet.
	stopPause = 20 * time.Millisecond
)

// Flags of `fsva serve` for what this package starts; the user has no use for them.
const (
	FlagLaunched = "launched" // report to Child, and be held if so told
	FlagInstance = "instance" // =NAME: be that instance of a dedicated volume
)

// Descriptors of what is started.
const (
	fdReport = 3
	fdHold   = 4
)

// ErrRunning is wrapped by the error of a start when the name is served already.
var ErrRunning = errors.New("already running")

// Instance is one of a dedicated volume.
type Instance struct {
	Name     string // see volume.InstanceSuffix
	ReadOnly bool   // whatever the definition says
	// Hold is the reading end of a pipe whose writing end the starter keeps until
	// the container's sandbox has the volume. It stays the caller's.
	Hold *os.File
}

// Start starts the volume that is defined as name and returns when it is ready, or
// with the one line that says why it is not: then nothing of it is left. The end of
// ctx calls the start off. The error wraps ErrRunning if the volume is served
// already, by whomever. flags are further ones for `fsva serve`.
func Start(ctx context.Context, d supervisor.Dirs, name string, flags ...string) error {
	return start(ctx, d, name, nil, flags...)
}

// StartInstance is Start for an instance of a dedicated volume.
func StartInstance(ctx context.Context, d supervisor.Dirs, name string, i Instance) error {
	return start(ctx, d, name, &i)
}

func start(ctx context.Context, d supervisor.Dirs, name string, i *Instance, flags ...string) error {
	store := volume.Open(d.State)
	def, err := store.Get(name)
	if err != nil {
		return err
	}
	if def.Dedicated && i == nil {
		return fmt.Errorf("volume %q is dedicated: an instance starts with each container that mounts %s", name, store.MountDir(name))
	}
	fsva, err := findFsva()
	if err != nil {
		return err
	}
	log, err := openLog(store.LogPath(name))
	if err != nil {
		return fmt.Errorf("volume %q: %w", name, err)
	}
	defer log.Close()
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	defer r.Close()
	cmd := exec.Command(fsva, append([]string{"serve", name, "--" + FlagLaunched}, flags...)...)
	cmd.Dir = "/"
	cmd.Env = environment(os.Environ(), d)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.ExtraFiles = []*os.File{w}
	if i != nil {
		cmd.Args = append(cmd.Args, "--"+FlagInstance+"="+i.Name)
		if i.ReadOnly {
			cmd.Args = append(cmd.Args, "--readonly")
		}
		cmd.ExtraFiles = append(cmd.ExtraFiles, i.Hold)
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	err = cmd.Start()
	w.Close()
	if err != nil {
		return fmt.Errorf("start fsva: %w", err)
	}
	ended := make(chan struct{})
	go func() { // reaps it whenever that is
		cmd.Wait() // what it has to say is in the report
		close(ended)
	}()
	answer := make(chan error, 1)
	go func() { answer <- receive(r) }()
	select {
	case err := <-answer:
		if errors.Is(err, errNoReport) {
			<-ended
			return fmt.Errorf("volume %q: fsva serve ended (%v) without a word; see %s", name, cmd.ProcessState, log.Name())
		}
		if err != nil {
			<-ended // it has cleaned up
		}
		return err
	case <-ctx.Done():
		endNow(cmd, ended)
		return fmt.Errorf("volume %q: the start was called off: %w", name, ctx.Err())
	}
}

// endNow ends what was started, in order if it can.
func endNow(cmd *exec.Cmd, ended <-chan struct{}) {
	for _, sig := range []os.Signal{unix.SIGTERM, unix.SIGKILL} {
		if err := cmd.Process.Signal(sig); err != nil {
			break // it has ended
		}
		select {
		case <-ended:
			return
		case <-time.After(grace):
		}
	}
	<-ended
}

// Stop stops whatever serves the name and returns when nothing of it is left. That
// nobody serves it is no error. With force it does not wait for flushes.
func Stop(ctx context.Context, d supervisor.Dirs, name string, force bool) error {
	for {
		err := supervisor.Stop(ctx, d, name, force)
		if !errors.Is(err, supervisor.ErrUnknownVolume) {
			return err
		}
		// It is gone, or does not listen yet, or no more.
		if served, err := supervisor.Served(d, name); !served {
			return err
		}
		select {
		case <-time.After(stopPause):
		case <-ctx.Done():
			return fmt.Errorf("volume %q is still running: %w", name, ctx.Err())
		}
	}
}

// findFsva returns the fsva binary: this one, or the one beside it, or the first on
// PATH.
func findFsva() (string, error) {
	exe, p, err := supervisor.Beside("fsva")
	switch {
	case exe != "" && filepath.Base(exe) == "fsva":
		return "/proc/self/exe", nil
	case errors.Is(err, exec.ErrNotFound):
		return "", fmt.Errorf("fsva is neither beside %s nor on PATH", exe)
	}
	return p, err
}

// notInherited are variables that are about the process that they were given to.
var notInherited = []string{"NOTIFY_SOCKET=", "LISTEN_", "WATCHDOG_", "FSVA_RUNSC_PLAN=", "FSVA_RUNDIR=", "FSVA_STATEDIR="}

// environment is what a supervisor inherits.
func environment(all []string, d supervisor.Dirs) []string {
	env := []string{"FSVA_RUNDIR=" + d.Run, "FSVA_STATEDIR=" + d.State}
next:
	for _, v := range all {
		for _, n := range notInherited {
			if strings.HasPrefix(v, n) {
				continue next
			}
		}
		env = append(env, v)
	}
	return env
}

// openLog opens a log to be appended to, and puts it aside first when it is large.
func openLog(path string) (*os.File, error) {
	if st, err := os.Lstat(path); err == nil && st.Size() > maxLog {
		if err := os.Rename(path, path+".1"); err != nil && !errors.Is(err, os.ErrNotExist) {
			return nil, err
		}
	}
	return os.OpenFile(path, os.O_WRONLY|os.O_APPEND|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
}
