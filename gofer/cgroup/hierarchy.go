// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

// Package cgroup finds the control groups of this process, versions 1 and 2, and puts
// the process into one of its own that has limits.
//
// It reads the kernel's files only. There are no locks: a Group belongs to one
// goroutine.
package cgroup

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// maxLines bounds the lines read of a file in /proc: a machine with many containers
// has thousands of mounts.
const maxLines = 1 << 20

// Hierarchy is one of the trees of cgroups, as this process sees it.
type Hierarchy struct {
	Point string // where it is mounted; empty if it is not
	Own   string // this process's cgroup, Point or below it
}

// Find returns version 2's hierarchy and those of version 1, by controller. root is
// the directory that holds /proc, "/" but in tests; paths are without it.
func Find(root string) (v2 Hierarchy, v1 map[string]Hierarchy, err error) {
	path2, path1 := "", map[string]string{}
	if err := eachLine(filepath.Join(root, "/proc/self/cgroup"), func(line string) {
		controllers, path, ok := parseCgroup(line)
		switch {
		case !ok:
		case len(controllers) == 0:
			path2 = path
		}
		for _, c := range controllers {
			path1[c] = path
		}
	}); err != nil {
		return v2, nil, err
	}
	v1 = map[string]Hierarchy{}
	err = eachLine(filepath.Join(root, "/proc/self/mountinfo"), func(line string) {
		mnt, ok := parseMount(line)
		switch {
		case !ok:
		case mnt.fs == "cgroup2" && path2 != "" && v2.Point == "":
			v2 = mnt.hierarchy(path2)
		case mnt.fs == "cgroup":
			for _, option := range mnt.super {
				if path := path1[option]; path != "" && v1[option].Point == "" {
					v1[option] = mnt.hierarchy(path)
				}
			}
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
func (mnt mount) hierarchy(path string) Hierarchy {
	h := Hierarchy{Point: filepath.Clean(mnt.point), Own: filepath.Clean(mnt.point)}
	rel, err := filepath.Rel(mnt.root, path)
	if err == nil && filepath.IsLocal(rel) {
		h.Own = filepath.Join(h.Point, rel)
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
