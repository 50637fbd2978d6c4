// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

// Command containerd-shim-runsc-v1 is gVisor's shim between containerd and
// runsc, unchanged, from the gVisor version that our runsc is built of.
// containerd starts it by this name; its options name our runsc (see
// runsc-config).
package main

import "gvisor.dev/gvisor/shim/v1/cli"

func main() { cli.Main() }
