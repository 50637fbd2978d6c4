// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"fsva/gofer/appliance"
	"fsva/gofer/bytesize"
	"fsva/gofer/fsserver"
	"fsva/gofer/launch"
	"fsva/gofer/listen"
	"fsva/gofer/supervisor"
	"fsva/gofer/volume"
	"fsva/gofer/window"
)

// serveFlags are the flags of `fsva serve`.
type serveFlags struct {
	launchedFlags
	volume       definitionFlags
	startTimeout time.Duration
	logs         logFlags
	listen       []string
	window       string
	windowSocket string
}

// newServeCommand is `fsva serve`.
func newServeCommand() *cobra.Command {
	var f serveFlags
	cmd := &cobra.Command{
		Use:   "serve NAME [--appliance A] [--source S] [flags]",
		Short: "serve a volume until stopped (SIGTERM, SIGINT or fsva stop)",
		Long: `serve runs one volume in the foreground. It prints a line when containers can
mount RUNDIR/volumes/NAME, and tells a service manager (sd_notify).

A volume that fsva volume create has defined needs no flags but those about guests,
the start and the log; others may repeat its definition and not contradict it.
Without a definition --appliance says what the volume is.

The first SIGTERM or SIGINT flushes what clients have open and stops the file
system; a second one does not wait.

--listen lets Linux guests use the volume, too. It takes
  unix:PATH               a unix socket of fsva mount
  vsock:PORT,cid=CID      the kernel's vsock; guests with that CID only (repeatable, or cid=any)
  vhost-user-vsock:PATH   a vsock device for QEMU; options cid=CID (default 3), port=PORT (3782)
  hybrid-vsock:PATH       the vsock socket of Firecracker or Cloud Hypervisor; option port=PORT
  virtiofs:PATH           a virtio-fs device for QEMU and others: guests need no fsva
and, after a comma, the options ro: guests cannot change anything, and (not virtiofs)
secret-file=PATH: fsva mount must have the same secret (-o secret-file=PATH). Sockets
have the mode 0600.

FSVA_RUNSC names the runsc for isolation gvisor (default: beside fsva, then
PATH), FSVA_RUNSC_PLATFORM its --platform, FSVA_RUNSC_DEBUG_LOG its --debug-log.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			f.volume.Name = args[0]
			if f.launched {
				return serveLaunched(cmd, f)
			}
			return serve(cmd, f)
		},
	}
	fl := cmd.Flags()
	fl.SortFlags = false
	f.volume.add(fl)
	fl.StringArrayVar(&f.listen, "listen", nil, "where guests reach the volume, `KIND:ADDRESS[,OPTION...]` (above); may be repeated")
	fl.StringVar(&f.windowSocket, "window-socket", "", "`path` of the socket from which QEMU gets a window for its guest (ivshmem)")
	fl.StringVar(&f.window, "window", fmt.Sprintf("%dM", window.DefaultSize>>20), "`bytes` of a window, a power of two")
	fl.DurationVar(&f.startTimeout, "start-timeout", supervisor.DefaultStartTimeout, "how long the file system may take to start")
	f.logs.add(fl)
	fl.BoolVar(&f.launched, launch.FlagLaunched, false, "report to the process that started this one")
	fl.StringVar(&f.instance, launch.FlagInstance, "", "be that instance of a dedicated volume")
	for _, name := range []string{launch.FlagLaunched, launch.FlagInstance} {
		fl.Lookup(name).Hidden = true
	}
	return cmd
}

// serve runs the volume that the flags describe.
func serve(cmd *cobra.Command, f serveFlags) (err error) {
	if err := supervisor.CheckName(f.volume.Name); err != nil {
		return usageError{err}
	}
	if f.startTimeout <= 0 {
		return usageError{fmt.Errorf("--start-timeout %v is not a time to wait", f.startTimeout)}
	}
	if err := f.volume.parse(); err != nil {
		return usageError{err}
	}
	listeners, windows, err := f.guests()
	if err != nil {
		return usageError{err}
	}
	log, level, err := f.logs.logger(cmd.ErrOrStderr())
	if err != nil {
		return usageError{err}
	}
	dirs, err := supervisor.DirsFromEnv()
	if err != nil {
		return err
	}
	d, err := f.definition(cmd, dirs)
	if err != nil {
		return err
	}
	plan, err := d.Resolve(dirs.State)
	if err != nil {
		return err
	}
	if f.instance != "" {
		release, err := f.asInstance(d, &plan, dirs)
		if err != nil {
			return err
		}
		defer release()
	}
	release, err := useImage(&plan, dirs)
	if err != nil {
		return err
	}
	defer release()
	made, err := makeDirs(plan)
	ready := false
	defer func() {
		if !ready && !errors.Is(err, supervisor.ErrInUse) { // they are another one's then
			removeEmpty(made)
		}
	}()
	if err != nil {
		return fmt.Errorf("volume %q: %w", plan.Name, err)
	}
	files, err := fsserver.RaiseFileLimit()
	if err != nil {
		return err
	}
	c := volumeConfig(plan, files)
	c.Dirs = dirs
	c.Info.StrictFsync = d.StrictFsync
	c.Limits, c.Hold = d.Limits, f.hold
	c.Listen, c.Window = listeners, windows
	c.StartTimeout = f.startTimeout
	c.Platform = os.Getenv("FSVA_RUNSC_PLATFORM")
	c.RunscDebugLog = os.Getenv("FSVA_RUNSC_DEBUG_LOG")
	c.Gofer.LogLevel = level.String()
	c.Log = log
	c.Ready = func(dir string) {
		ready = true
		fmt.Fprintf(cmd.OutOrStdout(), "fsva: volume %q ready at %s\n", plan.Name, dir)
		if f.ready != nil {
			f.ready()
		}
	}
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, unix.SIGTERM, unix.SIGINT, unix.SIGHUP)
	defer signal.Stop(signals)
	c.Signals = signals
	// Whoever read our output may go; the volume stays.
	signal.Notify(make(chan os.Signal, 1), unix.SIGPIPE)
	return supervisor.Serve(cmd.Context(), c)
}

// makeDirs makes the directories that a plan needs, and returns those that were not
// there, parents first.
func makeDirs(p appliance.Plan) (made []string, err error) {
	for dir := p.StateDir; dir != ""; dir = filepath.Dir(dir) {
		if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
			break
		}
		made = append([]string{dir}, made...)
	}
	if p.StateDir != "" {
		if err := os.MkdirAll(p.StateDir, 0o700); err != nil {
			return made, fmt.Errorf("state directory: %w", err)
		}
	}
	for _, dir := range p.Make {
		switch err := os.Mkdir(dir, 0o755); {
		case err == nil:
			made = append(made, dir)
		case !errors.Is(err, os.ErrExist):
			return made, err
		}
	}
	return made, nil
}

// removeEmpty takes makeDirs back. What somebody has put something into stays.
func removeEmpty(made []string) {
	for _, dir := range slices.Backward(made) {
		_ = os.Remove(dir)
	}
}

// definition returns the definition of the volume to serve: the stored one, or else
// what the flags say.
func (f *serveFlags) definition(cmd *cobra.Command, dirs supervisor.Dirs) (volume.Definition, error) {
	store := volume.Open(dirs.State)
	stored, err := store.Get(f.volume.Name)
	if errors.Is(err, volume.ErrNotDefined) && f.instance == "" {
		if f.volume.Appliance == "" {
			return volume.Definition{}, usageError{fmt.Errorf("%w, and no volume %q is defined (fsva volume ls)", errNoAppliance, f.volume.Name)}
		}
		return f.volume.Definition, nil
	}
	if err != nil {
		return volume.Definition{}, err
	}
	switch {
	case f.instance == "" && stored.Dedicated:
		return volume.Definition{}, fmt.Errorf("volume %q is dedicated: an instance starts with each container that mounts %s", stored.Name, store.MountDir(stored.Name))
	case f.instance != "" && !stored.Dedicated:
		return volume.Definition{}, fmt.Errorf("volume %q is not dedicated", stored.Name)
	case f.instance != "":
		stored.ReadOnly = stored.ReadOnly || f.volume.ReadOnly
		return stored, nil
	}
	d, err := f.volume.merge(stored, cmd.Flags())
	if err != nil {
		return volume.Definition{}, usageError{err}
	}
	return d, nil
}

// guests returns what the flags about guests say.
func (f *serveFlags) guests() ([]listen.Spec, supervisor.WindowConfig, error) {
	if len(f.listen) > listen.Max {
		return nil, supervisor.WindowConfig{}, fmt.Errorf("--listen is given %d times, the most is %d", len(f.listen), listen.Max)
	}
	var specs []listen.Spec
	for _, text := range f.listen {
		s, err := listen.Parse(text)
		if err != nil {
			return nil, supervisor.WindowConfig{}, fmt.Errorf("--listen: %w", err)
		}
		specs = append(specs, s)
	}
	if f.windowSocket == "" {
		return specs, supervisor.WindowConfig{}, nil
	}
	size, err := bytesize.Parse(f.window)
	if err == nil {
		err = window.CheckSize(size)
	}
	if err != nil {
		return nil, supervisor.WindowConfig{}, fmt.Errorf("--window: %w", err)
	}
	path, err := filepath.Abs(f.windowSocket)
	if err != nil {
		return nil, supervisor.WindowConfig{}, fmt.Errorf("--window-socket: %w", err)
	}
	return specs, supervisor.WindowConfig{Size: size, Path: path}, nil
}
