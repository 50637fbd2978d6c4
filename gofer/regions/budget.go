// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package regions

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// DefaultBudget is a quarter of the machine's memory: sandboxes, FS servers and
// the host's own page cache want theirs. It opens no file, so that a confined
// process can ask.
func DefaultBudget() (int64, error) {
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err != nil {
		return 0, fmt.Errorf("sysinfo: %w", err)
	}
	return int64(info.Totalram) * int64(info.Unit) / 4, nil
}
