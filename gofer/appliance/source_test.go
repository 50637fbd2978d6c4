// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package appliance

import "testing"

func TestMountedBelow(t *testing.T) {
	const mountinfo = `22 1 8:1 / / rw - ext4 /dev/sda1 rw
23 22 0:20 / /data rw - btrfs /dev/sdb rw
24 22 0:21 / /data/a\040b/sub rw shared:1 - tmpfs tmpfs rw
25 22 0:21 / /database/x rw - tmpfs tmpfs rw
`
	for dir, want := range map[string]bool{
		"/": true, "/data": true, "/data/a b": true, "/data/a b/sub": false, "/data/a": false,
		"/database": true, "/database/x": false, "/dat": false, "/other": false,
	} {
		if got := mountedBelow(mountinfo, dir); got != want {
			t.Errorf("%s: got %v, want %v", dir, got, want)
		}
	}
}
