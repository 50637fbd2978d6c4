// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package regions

import "golang.org/x/sys/unix"

// filesWithin returns how many files may have data when each costs so many
// descriptors: they take half of what this process may have open, and the rest is
// for clients and for the file system below.
func filesWithin(perFile int) int {
	var limit unix.Rlimit
	if unix.Prlimit(0, unix.RLIMIT_NOFILE, nil, &limit) != nil { // which cannot fail
		return DefaultMaxFiles
	}
	return int(min(uint64(DefaultMaxFiles), limit.Cur/2/uint64(perFile)))
}
