// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

// Package images holds the appliances that come with the binary, one directory each. They are data: gofer/appliance
// reads them.
package images

import "embed"

// FS has NAME/appliance.toml for each appliance.
//
//go:embed */appliance.toml
var FS embed.FS
