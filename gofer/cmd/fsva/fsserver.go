// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"

	"github.com/spf13/cobra"

	"fsva/gofer/fsserver"
)

// newFSServerCommand is the other child of `fsva serve`; it becomes the FS
// server, or the runsc that runs it.
func newFSServerCommand() *cobra.Command {
	return &cobra.Command{
		Use:    "fs-server",
		Short:  "run a file system server (started by `fsva serve`)",
		Hidden: true,
		Args:   cobra.NoArgs,
		Run:    func(*cobra.Command, []string) { os.Exit(fsserver.Main()) },
	}
}
