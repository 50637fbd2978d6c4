// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"

	"github.com/spf13/cobra"

	"fsva/gofer/serving"
	"fsva/gofer/vsockdevice"
)

// newVsockDeviceCommand is another confined child of `fsva serve`.
func newVsockDeviceCommand() *cobra.Command {
	return &cobra.Command{
		Use:    "vsock-device",
		Short:  "have a guest's vsock device (started by `fsva serve`)",
		Hidden: true,
		Args:   cobra.NoArgs,
		Run:    func(*cobra.Command, []string) { os.Exit(vsockdevice.Main()) },
	}
}

// newGoferCommand is the confined child of `fsva serve`.
func newGoferCommand() *cobra.Command {
	return &cobra.Command{
		Use:    "gofer",
		Short:  "serve a volume to sandboxes (started by `fsva serve`)",
		Hidden: true,
		Args:   cobra.NoArgs,
		Run:    func(*cobra.Command, []string) { os.Exit(serving.Main()) },
	}
}
