// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

// Command runsc is gVisor's runsc with FSVA volumes: a bind mount of a running
// volume's directory shows the volume. Everything else is as in gVisor.
package main

import "fsva/sentryglue"

func main() { sentryglue.Main() }
