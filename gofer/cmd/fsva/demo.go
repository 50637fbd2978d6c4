// Copyright 2026 The FSVA Authors.
//
// Licensed under the Apache License, Version 2.0 (the "License");
// you may not use this file except in compliance with the License.
// You may obtain a copy of the License at
//
//     http://www.apache.org/licenses/LICENSE-2.0
//
// Unless required by applicable law or agreed to in writing, software
// distributed under the License is distributed on an "AS IS" BASIS,
// WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
// See the License for the specific language governing permissions and
// limitations under the License.

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
