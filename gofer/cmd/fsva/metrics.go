// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"os/signal"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"fsva/gofer/metrics"
	"fsva/gofer/supervisor"
)

// newMetricsCommand is `fsva metrics`.
func newMetricsCommand() *cobra.Command {
	var listen string
	var timeout time.Duration
	var logs logFlags
	cmd := &cobra.Command{
		Use:   "metrics --listen unix:PATH|127.0.0.1:PORT [flags]",
		Short: "serve metrics of all volumes to Prometheus until stopped",
		Long: `metrics answers scrapes at /metrics. At each one it asks all volumes; those that do
not answer in time have fsva_volume_up 0, and the others are not held up.

It listens on a unix socket, with the mode 0600, or on an address of this machine
only.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if listen == "" {
				return usageError{errors.New("--listen is missing")}
			}
			if timeout <= 0 {
				return usageError{fmt.Errorf("--timeout %v is not a time to wait", timeout)}
			}
			log, _, err := logs.logger(cmd.ErrOrStderr())
			if err != nil {
				return usageError{err}
			}
			dirs, err := supervisor.DirsFromEnv()
			if err != nil {
				return err
			}
			l, err := metrics.Listen(listen)
			if err != nil {
				return fmt.Errorf("--listen: %w", err)
			}
			ctx, stop := signal.NotifyContext(cmd.Context(), unix.SIGTERM, unix.SIGINT, unix.SIGHUP)
			defer stop()
			fmt.Fprintf(cmd.OutOrStdout(), "fsva: metrics at %s, %s\n", l.Addr(), metrics.Path)
			return metrics.Serve(ctx, l, metrics.Options{
				Dirs: dirs, Timeout: timeout, Build: metrics.Build{Version: version, GVisor: gvisorVersion()}, Log: log,
			})
		},
	}
	fl := cmd.Flags()
	fl.SortFlags = false
	fl.StringVar(&listen, "listen", "", "`address`, unix:PATH or 127.0.0.1:PORT")
	fl.DurationVar(&timeout, "timeout", metrics.DefaultTimeout, "how long a scrape waits for volumes, unless Prometheus waits less")
	logs.add(fl)
	return cmd
}
