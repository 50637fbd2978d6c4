// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package pressure

import (
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// fakeMachine is a directory with the given files.
func fakeMachine(t *testing.T, files map[string]string) machine {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		p := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return machine(dir)
}

const (
	mountV2 = "29 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"
	mountV1 = "30 24 0:27 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n" +
		"31 24 0:28 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu,cpuacct\n"
)

func TestMemoryLimit(t *testing.T) {
	for name, tc := range map[string]struct {
		files map[string]string
		want  int64
	}{
		"version 2": {map[string]string{
			"proc/self/cgroup":                           "0::/a.slice/b.service\n",
			"proc/self/mountinfo":                        mountV2,
			"sys/fs/cgroup/a.slice/b.service/memory.max": "1073741824\n",
			"sys/fs/cgroup/a.slice/memory.max":           "max\n",
		}, 1 << 30},
		"version 2, the parent has less": {map[string]string{
			"proc/self/cgroup":                           "0::/a.slice/b.service\n",
			"proc/self/mountinfo":                        mountV2,
			"sys/fs/cgroup/a.slice/b.service/memory.max": "max\n",
			"sys/fs/cgroup/a.slice/memory.max":           "4096\n",
		}, 4096},
		"version 2, root": {map[string]string{
			"proc/self/cgroup": "0::/\n", "proc/self/mountinfo": mountV2,
		}, math.MaxInt64},
		"version 2, a namespace's view from outside": {map[string]string{
			"proc/self/cgroup": "0::/../../other\n", "proc/self/mountinfo": mountV2,
			"sys/fs/cgroup/memory.max": "8192\n", "sys/other/memory.max": "1\n",
		}, 8192},
		"version 1 and an empty version 2": {map[string]string{
			"proc/self/cgroup": "4:memory:/docker/x\n1:cpu,cpuacct:/\n0::/\n",
			"proc/self/mountinfo": mountV1 +
				"32 24 0:29 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n",
			"sys/fs/cgroup/memory/docker/x/memory.limit_in_bytes": "9223372036854771712\n",
			"sys/fs/cgroup/memory/docker/memory.limit_in_bytes":   "65536\n",
			"sys/fs/cgroup/memory/memory.limit_in_bytes":          "9223372036854771712\n",
		}, 65536},
		"version 1 in a container: the mount's root is the cgroup": {map[string]string{
			"proc/self/cgroup":                             "4:memory:/docker/x/y\n",
			"proc/self/mountinfo":                          strings.Replace(mountV1, "0:27 / ", "0:27 /docker/x ", 1),
			"sys/fs/cgroup/memory/y/memory.limit_in_bytes": "777\n",
			"sys/fs/cgroup/memory/memory.limit_in_bytes":   "1000\n",
		}, 777},
		"a mount point with a blank": {map[string]string{
			"proc/self/cgroup":     "0::/x\n",
			"proc/self/mountinfo":  strings.Replace(mountV2, "/sys/fs/cgroup", `/sys/c\040g`, 1),
			"sys/c g/x/memory.max": "5\n",
		}, 5},
		"no cgroups": {map[string]string{"proc/self/cgroup": "", "proc/self/mountinfo": ""}, math.MaxInt64},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := fakeMachine(t, tc.files).memoryLimit()
			if err != nil || got != tc.want {
				t.Errorf("got %d, %v, want %d", got, err, tc.want)
			}
		})
	}
}

func TestMemoryLimitErrors(t *testing.T) {
	for name, files := range map[string]map[string]string{
		"no /proc":     {},
		"no mountinfo": {"proc/self/cgroup": "0::/\n"},
		"not a number": {
			"proc/self/cgroup": "0::/x\n", "proc/self/mountinfo": mountV2, "sys/fs/cgroup/x/memory.max": "plenty\n",
		},
		"endless": {
			"proc/self/cgroup": "0::/x\n", "proc/self/mountinfo": mountV2,
			"sys/fs/cgroup/x/memory.max": strings.Repeat("9", 100_000),
		},
		"an endless line": {"proc/self/cgroup": strings.Repeat("x", 2<<20)},
	} {
		if got, err := fakeMachine(t, files).memoryLimit(); err == nil {
			t.Errorf("%s: got %d", name, got)
		}
	}
}

func TestAvailable(t *testing.T) {
	got, err := Available()
	if err != nil || got <= 0 {
		t.Errorf("got %d, %v", got, err)
	}
}
