// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"fsva/gofer/appliance"
	"fsva/gofer/fsserver"
	"fsva/gofer/supervisor"
)

// serveFlags are the flags of `fsva serve`.
type serveFlags struct {
	appliance    string
	root         string
	strictFsync  bool
	cacheLimit   string
	startTimeout time.Duration
	logLevel     string
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
	fl.StringVar(&f.volume.Source, "source", "", "what it holds: a file, a directory or a remote name, as the appliance wants")
	fl.StringArrayVar(&f.volume.Options, "option", nil, "an appliance's own option, `NAME=VALUE`; may be repeated")
	fl.StringVar(&f.volume.Isolation, "isolation", "", "gvisor, process or none (default: the appliance's)")
	fl.StringVar(&f.volume.Coherence, "coherence", "", "exclusive or shared (default: the appliance's)")
	fl.StringVar(&f.volume.Network, "network", "", "none or host: the file system server's network (default none)")
	fl.BoolVar(&f.volume.ReadOnly, "readonly", false, "refuse all changes")
	fl.BoolVar(&f.strictFsync, "strict-fsync", false, "report fsync errors truthfully on an exclusive volume, at the price of speed")
	fl.StringVar(&f.cacheLimit, "cache-limit", "", "`bytes` of file data that the volume's cache keeps, such as 512M (default: the appliance's, or a quarter of the memory)")
	fl.StringVar(&f.volume.Cache, "cache", "", "writethrough, or writeback: writes wait in the gofer until close or fsync (default: the appliance's)")
	fl.StringVar(&f.root, "root", "", "`directory` to use as the appliance's root file system")
	fl.DurationVar(&f.startTimeout, "start-timeout", supervisor.DefaultStartTimeout, "how long the file system may take to start")
	fl.StringVar(&f.logLevel, "log-level", "info", "debug, info, warn or error")
	return cmd
}

// serve runs the volume that the flags describe.
func serve(cmd *cobra.Command, f serveFlags) error {
	if err := supervisor.CheckName(f.volume.Name); err != nil {
		return usageError{err}
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
	var level slog.Level
	if err := level.UnmarshalText([]byte(strings.ToUpper(f.logLevel))); err != nil {
		return usageError{fmt.Errorf("--log-level %q is not debug, info, warn or error", f.logLevel)}
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
	files, err := fsserver.RaiseFileLimit()
	if err != nil {
		return err
	}
	c := volumeConfig(plan, files)
	c.Dirs = dirs
	c.Info.StrictFsync = f.strictFsync
	c.StartTimeout = f.startTimeout
	c.Platform = os.Getenv("FSVA_RUNSC_PLATFORM")
	c.RunscDebugLog = os.Getenv("FSVA_RUNSC_DEBUG_LOG")
	c.Gofer.LogLevel = level.String()
	c.Log = slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), &slog.HandlerOptions{Level: level}))
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
