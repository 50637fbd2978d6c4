// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package volumeplugin

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"fsva/gofer/fusemount"
	"fsva/gofer/launch"
	"fsva/gofer/supervisor"
	"fsva/gofer/volume"
)

const (
	// flushTime is how long a volume may take to stop in order, before it is killed:
	// docker waits for one minute.
	flushTime = 30 * time.Second
	// probeTime is how long a mount on the host may take to answer.
	probeTime = 5 * time.Second
)

// System is the Processes of this machine. It must be used by the fsva binary itself,
// which is what it starts.
type System struct{ Dirs supervisor.Dirs }

// Start is a method of Processes.
func (s System) Start(ctx context.Context, name, socket string) error {
	var flags []string
	if socket != "" {
		flags = append(flags, "--listen=unix:"+socket)
	}
	return launch.Start(ctx, s.Dirs, name, flags...)
}

// Stop is a method of Processes.
func (s System) Stop(ctx context.Context, name string) error {
	flush, cancel := context.WithTimeout(ctx, flushTime)
	defer cancel()
	err := launch.Stop(flush, s.Dirs, name, false)
	if err != nil && flush.Err() != nil && ctx.Err() == nil {
		return launch.Stop(ctx, s.Dirs, name, true)
	}
	return err
}

// Status is a method of Processes.
func (s System) Status(ctx context.Context, name string) (supervisor.Status, error) {
	return supervisor.Stat(ctx, s.Dirs, name)
}

// MountOnHost is a method of Processes.
func (s System) MountOnHost(ctx context.Context, name, socket, dir string) error {
	cmd := exec.CommandContext(ctx, "/proc/self/exe", "mount", "unix:"+socket, dir, "-o", "volume="+name)
	cmd.Dir = "/"
	cmd.Env = slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "NOTIFY_SOCKET=") })
	out, err := cmd.CombinedOutput()
	if err != nil {
		text := strings.ReplaceAll(strings.TrimSpace(string(out)), "\n", "; ")
		return fmt.Errorf("volume %q: mount it for runc: %w: %s", name, err, strings.TrimPrefix(text, "fsva: "))
	}
	return nil
}

// Unmount is a method of Processes. What is in use goes with its last user.
func (s System) Unmount(dir string) error {
	for {
		mounted, err := fusemount.Mounted(dir)
		if err != nil || !mounted {
			return err
		}
		err = fusemount.Unmount(dir, false)
		if errors.Is(err, unix.EBUSY) {
			err = fusemount.Unmount(dir, true)
		}
		if err != nil && !errors.Is(err, unix.EINVAL) { // unmounted by itself meanwhile
			return err
		}
	}
}

// Mounted is a method of Processes.
func (s System) Mounted(dir string) bool {
	if mounted, err := fusemount.Mounted(dir); err != nil || !mounted {
		return false
	}
	answer := make(chan error, 1)
	go func() { // ends with the answer, or with the mount
		var st unix.Statfs_t
		answer <- unix.Statfs(dir, &st)
	}()
	select {
	case err := <-answer:
		return err == nil
	case <-time.After(probeTime):
		return false
	}
}

// Used is a method of Processes.
func (s System) Used(ctx context.Context, d volume.Definition, dir string) (bool, error) {
	switch {
	case d.HostMount:
		return fusemount.MountedElsewhere(dir)
	case d.Dedicated:
		running, err := supervisor.Running(s.Dirs)
		return len(volume.Instances(running, d.Name)) > 0, err
	}
	st, err := s.Status(ctx, d.Name)
	if errors.Is(err, supervisor.ErrUnknownVolume) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	if st.Gofer == nil {
		return st.State != supervisor.Failed, nil // it restarts, or does not answer
	}
	return st.Gofer.Clients > 0, nil
}
