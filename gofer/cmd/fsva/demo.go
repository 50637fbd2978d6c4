// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"os"
	"os/signal"
	"path/filepath"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"fsva/gofer/demo"
)

// newDemoCommand is `fsva demo`.
func newDemoCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "demo",
		Short: "serve two volumes, use them in a gVisor sandbox, and show what happened",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			self, err := os.Executable()
			if err != nil {
				return fmt.Errorf("find the fsva binary: %w", err)
			}
			runsc := os.Getenv("FSVA_RUNSC")
			if runsc == "" {
				runsc = filepath.Join(filepath.Dir(self), "runsc")
			}
			ctx, stop := signal.NotifyContext(cmd.Context(), unix.SIGINT, unix.SIGTERM)
			defer stop()
			return demo.Run(ctx, demo.Options{Fsva: self, Runsc: runsc, Out: cmd.OutOrStdout()})
		},
	}
}

// newDemoGuestCommand is what the demo runs inside the sandbox.
func newDemoGuestCommand() *cobra.Command {
	return &cobra.Command{
		Use:    demo.GuestCommand + " LIBRARY SCRATCH",
		Short:  "use two volumes (started by `fsva demo` in its sandbox)",
		Hidden: true,
		Args:   cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			return demo.Guest(args[0], args[1], cmd.OutOrStdout())
		},
	}
}
