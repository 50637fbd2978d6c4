// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package cgroup

import (
	"path/filepath"
	"testing"
)

const (
	mountV2 = "29 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate"
	mountV1 = "30 24 0:27 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory"
)

// FuzzProcFiles checks that no line of /proc/self/cgroup and mountinfo leads out
// of the mount.
func FuzzProcFiles(f *testing.F) {
	f.Add("0::/a/b", mountV2)
	f.Add("4:memory:/docker/x", mountV1)
	f.Add("0::/../..", `1 2 0:3 /../x /c\040g rw - cgroup2 cgroup2 rw`)
	f.Fuzz(func(t *testing.T, group, mountinfo string) {
		_, path, ok := parseCgroup(group)
		mnt, mok := parseMount(mountinfo)
		if !ok || !mok {
			return
		}
		h := mnt.hierarchy(path)
		if rel, err := filepath.Rel(h.Point, h.Own); err != nil || !filepath.IsLocal(rel) {
			t.Errorf("%q in %q is %+v", path, mountinfo, h)
		}
	})
}
