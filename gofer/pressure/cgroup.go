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
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

const (
	// maxLines bounds the lines read of a file in /proc: a machine with many
	// containers has thousands of mounts.
	maxLines = 1 << 20
	// maxLevels bounds the cgroups looked at between ours and the root.
	maxLevels = 256
)

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

// hierarchy is one of the trees of cgroups, as this process sees it.
type hierarchy struct {
	point string // where it is mounted
	own   string // this process's cgroup, point or below it
}

// memoryLimit returns the smallest limit of this process's cgroup and those above,
// math.MaxInt64 if there is none.
func (m machine) memoryLimit() (int64, error) {
	limit := int64(1<<63 - 1)
	v2, v1, err := m.cgroups()
	if err != nil {
		return 0, err
	}
	for _, h := range []struct {
		hierarchy
		file string
	}{{v2, "memory.max"}, {v1, "memory.limit_in_bytes"}} {
		if h.point == "" {
			continue
		}
		dir := h.own
		for range maxLevels {
			n, err := readLimit(m.path(filepath.Join(dir, h.file)))
			if err != nil {
				return 0, err
			}
			limit = min(limit, n)
			if dir == h.point || dir == "/" {
				break
			}
			dir = filepath.Dir(dir)
		}
	}
	return limit, nil
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

// cgroups finds the unified hierarchy and version 1's memory hierarchy. One that
// is not mounted has no point.
func (m machine) cgroups() (v2, v1 hierarchy, err error) {
	var path2, path1 string
	if err := eachLine(m.path("/proc/self/cgroup"), func(line string) {
		controllers, path, ok := parseCgroup(line)
		switch {
		case !ok:
		case len(controllers) == 0:
			path2 = path
		case slices.Contains(controllers, "memory"):
			path1 = path
		}
	}); err != nil {
		return v2, v1, err
	}
	err = eachLine(m.path("/proc/self/mountinfo"), func(line string) {
		mnt, ok := parseMount(line)
		switch {
		case !ok:
		case mnt.fs == "cgroup2" && path2 != "" && v2.point == "":
			v2 = mnt.hierarchy(path2)
		case mnt.fs == "cgroup" && path1 != "" && v1.point == "" && slices.Contains(mnt.super, "memory"):
			v1 = mnt.hierarchy(path1)
		}
	})
	return v2, v1, err
}

// parseCgroup reads a line of /proc/PID/cgroup, cgroups(7): ID:CONTROLLERS:PATH.
// The unified hierarchy has no controllers.
func parseCgroup(line string) (controllers []string, path string, ok bool) {
	parts := strings.SplitN(line, ":", 3)
	if len(parts) != 3 || !strings.HasPrefix(parts[2], "/") {
		return nil, "", false
	}
	if parts[1] != "" {
		controllers = strings.Split(parts[1], ",")
	}
	return controllers, parts[2], true
}

// mount is a line of /proc/PID/mountinfo.
type mount struct {
	root, point, fs string
	super           []string // options
}

// parseMount reads one, proc_pid_mountinfo(5):
// ID PARENT MAJOR:MINOR ROOT POINT OPTIONS [OPTIONAL]... - FS SOURCE SUPEROPTIONS.
func parseMount(line string) (mount, bool) {
	front, back, ok := strings.Cut(line, " - ")
	f, b := strings.Fields(front), strings.Fields(back)
	if !ok || len(f) < 6 || len(b) < 3 {
		return mount{}, false
	}
	return mount{root: unescape(f[3]), point: unescape(f[4]), fs: b[0], super: strings.Split(b[2], ",")}, true
}

// unescape replaces the octal escapes of blanks and backslashes.
var unescape = strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace

// hierarchy places a cgroup that the process calls path. One outside of what is
// mounted is answered by the top of it.
func (mnt mount) hierarchy(path string) hierarchy {
	h := hierarchy{point: filepath.Clean(mnt.point), own: filepath.Clean(mnt.point)}
	rel, err := filepath.Rel(mnt.root, path)
	if err == nil && filepath.IsLocal(rel) {
		h.own = filepath.Join(h.point, rel)
	}
	return h
}

// eachLine calls f with the lines of a file.
func eachLine(path string, f func(line string)) error {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer file.Close()
	s := bufio.NewScanner(file)
	s.Buffer(nil, 1<<20)
	for n := 0; s.Scan() && n < maxLines; n++ {
		f(s.Text())
	}
	if err := s.Err(); err != nil {
		return fmt.Errorf("read %s: %w", path, err)
	}
	return nil
}
