// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"log/slog"

	"github.com/spf13/cobra"

	"fsva/gofer/fsserver"
	"fsva/gofer/listen"
	"fsva/gofer/vmserver"
)

// newVMServerCommand is the FS server of a volume with isolation vm.
func newVMServerCommand() *cobra.Command {
	readOnly := false
	cmd := &cobra.Command{
		Use:    "vm-server SOURCE",
		Short:  "join a FUSE channel to a virtual machine (started by `fsva serve`)",
		Hidden: true,
		Args:   cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			s, err := listen.ParseSource(args[0])
			if err != nil {
				return usageError{err}
			}
			log := slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), nil))
			return vmserver.Serve(cmd.Context(), s, readOnly, fsserver.ServerFD, log)
		},
	}
	cmd.Flags().BoolVar(&readOnly, "readonly", false, "change nothing")
	return cmd
}
