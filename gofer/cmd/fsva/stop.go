// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os/signal"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"fsva/gofer/supervisor"
)

// newStopCommand is `fsva stop`.
func newStopCommand() *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use:   "stop NAME",
		Short: "stop serving a volume and wait until it is gone",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			dirs, err := supervisor.DirsFromEnv()
			if err != nil {
				return err
			}
			ctx, stop := signal.NotifyContext(cmd.Context(), unix.SIGINT, unix.SIGTERM)
			defer stop()
			return supervisor.Stop(ctx, dirs, args[0], force)
		},
	}
	cmd.Flags().BoolVar(&force, "force", false, "kill instead of waiting until clients' data is flushed")
	return cmd
}
