// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package appliance

import (
	"fmt"

	"fsva/gofer/bytesize"
)

// MinCacheLimit is the smallest limit of a volume's cache, in bytes: less holds no
// read of the size that sandboxes ask for.
const MinCacheLimit = 1 << 20

// ParseCacheLimit reads the limit of a volume's cache: a number of bytes such as
// 512M, or "default", which is 0.
func ParseCacheLimit(text string) (int64, error) {
	if text == "default" {
		return 0, nil
	}
	n, err := bytesize.Parse(text)
	if err != nil {
		return 0, fmt.Errorf("cache-limit: %w, or default", err)
	}
	if n < MinCacheLimit {
		return 0, fmt.Errorf("cache-limit: %s is less than the smallest, 1M", text)
	}
	return n, nil
}
