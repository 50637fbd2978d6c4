// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
	"golang.org/x/term"

	"fsva/gofer/supervisor"
	"fsva/gofer/top"
)

// newTopCommand is `fsva top`.
func newTopCommand() *cobra.Command {
	var interval time.Duration
	var sort string
	var reverse, once, batch bool
	var count int
	cmd := &cobra.Command{
		Use:   "top [flags]",
		Short: "watch what the volumes do",
		Long: `top shows, for each volume and the time since the last update:

  CLIENTS          sandboxes and guests that have it
  OPS/S            requests of sandboxes a second
  P50, P99         how long they took: half, and 99 of 100, took no longer
  FUSE/S           requests to the file system's server a second
  READ/S, WRITE/S  file data from and to that server, bytes a second
  HITS             reads answered from the cache, of all
  CACHE, LIMIT     what the cache holds, and may hold
  DIRTY            what of it the server does not have yet

Keys: q or ^C quits, R reverses, j and k or the arrows scroll; the last line names
those that sort. --once and --batch write plain tables, to any output.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if interval < 100*time.Millisecond {
				return usageError{fmt.Errorf("--interval %v is less than 100ms", interval)}
			}
			if count < 0 {
				return usageError{fmt.Errorf("--count %d is less than 0", count)}
			}
			order, err := top.ParseOrder(sort)
			if err != nil {
				return usageError{fmt.Errorf("--sort %w", err)}
			}
			order.Reverse = reverse
			dirs, err := supervisor.DirsFromEnv()
			if err != nil {
				return err
			}
			ctx, stop := signal.NotifyContext(cmd.Context(), unix.SIGTERM, unix.SIGINT, unix.SIGHUP, unix.SIGQUIT)
			defer stop()
			o := top.Options{
				Interval: interval, Order: order,
				Take: func(ctx context.Context) (top.Sample, error) { return top.Take(ctx, dirs) },
			}
			if once {
				count = 1
			}
			if once || batch || count > 0 {
				return top.Batch(ctx, cmd.OutOrStdout(), count, o)
			}
			if !term.IsTerminal(unix.Stdout) {
				return usageError{errors.New("standard output is no terminal: use --once or --batch")}
			}
			// Not standard output, which the shell has, too.
			tty, err := os.OpenFile("/dev/tty", os.O_RDWR, 0)
			if err != nil {
				return fmt.Errorf("terminal: %w (see --once and --batch)", err)
			}
			defer tty.Close()
			return top.Live(ctx, tty, o)
		},
	}
	fl := cmd.Flags()
	fl.SortFlags = false
	fl.DurationVarP(&interval, "interval", "d", 2*time.Second, "time between updates")
	fl.StringVar(&sort, "sort", "ops", "`column` to sort by: "+strings.Join(top.SortKeys(), ", "))
	fl.BoolVar(&reverse, "reverse", false, "sort the other way round")
	fl.BoolVarP(&once, "once", "1", false, "write one table, of one interval")
	fl.BoolVarP(&batch, "batch", "b", false, "write tables")
	fl.IntVarP(&count, "count", "n", 0, "write so many tables (default: until stopped)")
	return cmd
}
