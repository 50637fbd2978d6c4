// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package pressure

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"fsva/gofer/cgroup"
)

// maxLevels bounds the cgroups looked at between ours and the root.
const maxLevels = 256

// Available is the memory that this process may count on, in bytes: the
// machine's, or what the process's cgroup (version 1 or 2) and those around it
// allow if that is less.
func Available() (int64, error) {
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err != nil {
		return 0, fmt.Errorf("sysinfo: %w", err)
	}
	limit, err := machine("/").memoryLimit()
	return min(limit, int64(info.Totalram)*int64(info.Unit)), err
}

// machine is the directory that holds /proc and /sys.
type machine string

func (m machine) path(p string) string { return filepath.Join(string(m), p) }

// memoryLimit returns the smallest limit of this process's cgroup and those above,
// math.MaxInt64 if there is none.
func (m machine) memoryLimit() (int64, error) {
	limit := int64(1<<63 - 1)
	v2, v1, err := cgroup.Find(string(m))
	if err != nil {
		return 0, err
	}
	for _, h := range []struct {
		cgroup.Hierarchy
		file string
	}{{v2, "memory.max"}, {v1["memory"], "memory.limit_in_bytes"}} {
		if h.Point == "" {
			continue
		}
		dir := h.Own
		for range maxLevels {
			n, err := readLimit(m.path(filepath.Join(dir, h.file)))
			if err != nil {
				return 0, err
			}
			limit = min(limit, n)
			if dir == h.Point || dir == "/" {
				break
			}
			dir = filepath.Dir(dir)
		}
	}
	return limit, nil
}

// plenty tells whether this process has no limit of its own and a quarter of the
// machine's memory is available (proc_meminfo(5)). An error counts as no.
func (m machine) plenty() bool {
	limit, err := m.memoryLimit()
	if err != nil {
		return false
	}
	f, err := os.Open(m.path("/proc/meminfo"))
	if err != nil {
		return false
	}
	defer f.Close()
	var total, available int64
	lines := bufio.NewScanner(io.LimitReader(f, 1<<16))
	for lines.Scan() {
		// Another line leaves both as they are.
		_, _ = fmt.Sscanf(lines.Text(), "MemTotal: %d kB", &total)
		_, _ = fmt.Sscanf(lines.Text(), "MemAvailable: %d kB", &available)
	}
	return total > 0 && limit>>10 >= total && available >= total/4
}

// readLimit reads a number of bytes, or "max". A file that is not there is no
// limit: a root has none, nor has a hierarchy without the memory controller.
func readLimit(path string) (int64, error) {
	const none = 1<<63 - 1
	f, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return none, nil
	}
	if err != nil {
		return 0, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, 64))
	if err != nil {
		return 0, fmt.Errorf("read %s: %w", path, err)
	}
	text := strings.TrimSpace(string(b))
	if text == "max" {
		return none, nil
	}
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		return 0, fmt.Errorf("read %s: %q is not a number of bytes", path, text)
	}
	return int64(min(n, none)), nil
}
