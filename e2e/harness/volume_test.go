// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package harness

import "testing"

func TestMentions(t *testing.T) {
	for text, want := range map[string]bool{
		"/run/private/checker-bindfs":                     true,
		"/run/private/checker-bindfs/root":                true,
		"fsva-checker-bindfs.scope":                       true,
		"/run/private/checker-bindfs-strict":              false,
		"/run/private/checker-bindfs2":                    false,
		"/run/checker-bindfs-strict/tmp/checker-bindfs/x": true,
		"/run/private/checker":                            false,
	} {
		if got := mentions(text, "checker-bindfs"); got != want {
			t.Errorf("%q: got %v", text, got)
		}
	}
}
