// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"fsva/gofer/appliance"
	"fsva/gofer/bytesize"
	"fsva/gofer/fsserver"
	"fsva/gofer/listen"
	"fsva/gofer/supervisor"
	"fsva/gofer/window"
)

// serveFlags are the flags of `fsva serve`.
type serveFlags struct {
	appliance    string
	root         string
	strictFsync  bool
	cacheLimit   string
	startTimeout time.Duration
	logs         logFlags
	listen       []string
	window       string
	windowSocket string
	volume       appliance.VolumeSpec
}

// newServeCommand is `fsva serve`.
func newServeCommand() *cobra.Command {
	var f serveFlags
	cmd := &cobra.Command{
		Use:   "serve NAME --appliance A [--source S] [flags]",
		Short: "serve a volume until stopped (SIGTERM, SIGINT or fsva stop)",
		Long: `serve runs one volume in the foreground. It prints a line when containers can
mount RUNDIR/volumes/NAME, and tells a service manager (sd_notify).

The first SIGTERM or SIGINT flushes what clients have open and stops the file
system; a second one does not wait.

--listen lets Linux guests use the volume, too. It takes
  unix:PATH               a unix socket of fsva mount
  vsock:PORT,cid=CID      the kernel's vsock; guests with that CID only (repeatable, or cid=any)
  vhost-user-vsock:PATH   a vsock device for QEMU; options cid=CID (default 3), port=PORT (3782)
  hybrid-vsock:PATH       the vsock socket of Firecracker or Cloud Hypervisor; option port=PORT
  virtiofs:PATH           a virtio-fs device for QEMU and others: guests need no fsva
and, after a comma, the option ro: guests cannot change anything. Sockets have the
mode 0600.

FSVA_RUNSC names the runsc for isolation gvisor (default: beside fsva, then
PATH), FSVA_RUNSC_PLATFORM its --platform, FSVA_RUNSC_DEBUG_LOG its --debug-log.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			f.volume.Name = args[0]
			return serve(cmd, f)
		},
	}
	fl := cmd.Flags()
	fl.SortFlags = false
	fl.StringVar(&f.appliance, "appliance", "", "kind of file system, such as squashfs, sshfs or dir")
	fl.StringVar(&f.volume.Source, "source", "", "what it holds: a file, a directory, a remote name or a virtual machine's address, as the appliance wants")
	fl.StringArrayVar(&f.volume.Options, "option", nil, "an appliance's own option, `NAME=VALUE`; may be repeated")
	fl.StringVar(&f.volume.Isolation, "isolation", "", "gvisor, process, none or vm (default: the appliance's)")
	fl.StringVar(&f.volume.Coherence, "coherence", "", "exclusive or shared (default: the appliance's)")
	fl.StringVar(&f.volume.Network, "network", "", "none or host: the file system server's network (default none)")
	fl.BoolVar(&f.volume.ReadOnly, "readonly", false, "refuse all changes")
	fl.BoolVar(&f.strictFsync, "strict-fsync", false, "report fsync errors truthfully on an exclusive volume, at the price of speed")
	fl.StringVar(&f.cacheLimit, "cache-limit", "", "`bytes` of file data that the volume's cache keeps, such as 512M (default: the appliance's, or a quarter of the memory)")
	fl.StringVar(&f.volume.Cache, "cache", "", "writethrough, or writeback: writes wait in the gofer until close or fsync (default: the appliance's)")
	fl.StringArrayVar(&f.listen, "listen", nil, "where guests reach the volume, `KIND:ADDRESS[,OPTION...]` (above); may be repeated")
	fl.StringVar(&f.windowSocket, "window-socket", "", "`path` of the socket from which QEMU gets a window for its guest (ivshmem)")
	fl.StringVar(&f.window, "window", fmt.Sprintf("%dM", window.DefaultSize>>20), "`bytes` of a window, a power of two")
	fl.StringVar(&f.root, "root", "", "`directory` to use as the appliance's root file system")
	fl.DurationVar(&f.startTimeout, "start-timeout", supervisor.DefaultStartTimeout, "how long the file system may take to start")
	f.logs.add(fl)
	return cmd
}

// serve runs the volume that the flags describe.
func serve(cmd *cobra.Command, f serveFlags) error {
	if err := supervisor.CheckName(f.volume.Name); err != nil {
		return usageError{err}
	}
	if f.appliance == "" && f.volume.Isolation == appliance.IsolationVM {
		f.appliance = "vm"
	}
	if f.appliance == "" {
		return usageError{errors.New("--appliance is missing")}
	}
	if f.startTimeout <= 0 {
		return usageError{fmt.Errorf("--start-timeout %v is not a time to wait", f.startTimeout)}
	}
	var cacheLimit int64
	if f.cacheLimit != "" {
		var err error
		if cacheLimit, err = appliance.ParseCacheLimit(f.cacheLimit); err != nil {
			return usageError{fmt.Errorf("--%w", err)}
		}
	}
	listeners, windows, err := f.guests()
	if err != nil {
		return usageError{err}
	}
	log, level, err := f.logs.logger(cmd.ErrOrStderr())
	if err != nil {
		return usageError{err}
	}
	manifest, err := appliance.Load(f.appliance)
	if err != nil {
		return err
	}
	if f.root != "" {
		if manifest.Root, err = filepath.Abs(f.root); err != nil {
			return fmt.Errorf("--root: %w", err)
		}
	}
	dirs, err := supervisor.DirsFromEnv()
	if err != nil {
		return err
	}
	f.volume.StateDir = dirs.VolumeState(f.volume.Name)
	plan, err := manifest.Resolve(f.volume)
	if err != nil {
		return err
	}
	if f.cacheLimit != "" {
		plan.CacheLimit = cacheLimit
	}
	if plan.StateDir != "" {
		if err := os.MkdirAll(plan.StateDir, 0o700); err != nil {
			return fmt.Errorf("volume %q: state directory: %w", plan.Name, err)
		}
	}
	for _, dir := range plan.Make {
		if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
			return fmt.Errorf("volume %q: %w", plan.Name, err)
		}
	}
	files, err := fsserver.RaiseFileLimit()
	if err != nil {
		return err
	}
	c := volumeConfig(plan, files)
	c.Dirs = dirs
	c.Info.StrictFsync = f.strictFsync
	c.Listen, c.Window = listeners, windows
	c.StartTimeout = f.startTimeout
	c.Platform = os.Getenv("FSVA_RUNSC_PLATFORM")
	c.RunscDebugLog = os.Getenv("FSVA_RUNSC_DEBUG_LOG")
	c.Gofer.LogLevel = level.String()
	c.Log = log
	c.Ready = func(dir string) {
		fmt.Fprintf(cmd.OutOrStdout(), "fsva: volume %q ready at %s\n", plan.Name, dir)
	}
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, unix.SIGTERM, unix.SIGINT, unix.SIGHUP)
	defer signal.Stop(signals)
	c.Signals = signals
	// Whoever read our output may go; the volume stays.
	signal.Notify(make(chan os.Signal, 1), unix.SIGPIPE)
	return supervisor.Serve(cmd.Context(), c)
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
