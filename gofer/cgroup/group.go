// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package cgroup

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// prefix begins the names of our groups, at the top of each hierarchy.
	prefix = "fsva-"
	// cpuPeriod is in microseconds, the kernel's default.
	cpuPeriod = 100_000
	// removeTimeout bounds the wait for processes that have ended to be forgotten: the
	// kernel has no other way to wait for that in both versions.
	removeTimeout = 5 * time.Second
	removePause   = 10 * time.Millisecond
)

// machine is where the kernel's files are. Tests have one that is not the kernel.
type machine struct {
	root  string
	mkdir func(path string) error
	rmdir func(path string) error
}

var kernel = machine{
	root:  "/",
	mkdir: func(path string) error { return os.Mkdir(path, 0o755) },
	rmdir: unix.Rmdir,
}

func (m machine) path(p string) string { return filepath.Join(m.root, p) }

// Group is a cgroup of this process, in as many hierarchies as its limits need.
type Group struct {
	m    machine
	dirs []joined
}

// joined is the group in one hierarchy.
type joined struct {
	dir  string // without root, as the rest
	from string // where the process was
	top  string // the hierarchy's top
}

// setting is a value for a file of a controller.
type setting struct{ controller, v1File, v1, v2File, v2 string }

// settings are what l means to the kernel.
func (l Limits) settings() []setting {
	var all []setting
	if l.CPU != 0 {
		quota := strconv.FormatInt(int64(math.Round(l.CPU*cpuPeriod)), 10)
		all = append(all, setting{"cpu", "cpu.cfs_quota_us", quota, "cpu.max", quota + " " + strconv.Itoa(cpuPeriod)})
	}
	if l.Memory != 0 {
		n := strconv.FormatInt(l.Memory, 10)
		all = append(all, setting{"memory", "memory.limit_in_bytes", n, "memory.max", n})
	}
	if l.Pids != 0 {
		n := strconv.FormatInt(l.Pids, 10)
		all = append(all, setting{"pids", "pids.max", n, "pids.max", n})
	}
	return all
}

// Enter moves this process into a new group of that name, at the top of each
// hierarchy that its limits need; what the process starts from then on is in there,
// too. Without limits there is no group, and all methods of it do nothing. An error,
// one line, leaves things as they were.
//
// Preconditions: the name is a file name that nobody else uses here, see Remove.
func Enter(name string, l Limits) (*Group, error) { return kernel.enter(name, l) }

func (m machine) enter(name string, l Limits) (*Group, error) {
	g := &Group{m: m}
	settings := l.settings()
	if len(settings) == 0 {
		return g, nil
	}
	v2, v1, err := Find(m.root)
	if err != nil {
		return nil, fmt.Errorf("find cgroups: %w", err)
	}
	for _, s := range settings {
		if err := g.apply(name, s, v2, v1[s.controller]); err != nil {
			return nil, errors.Join(fmt.Errorf("limit of %s: %w", s.controller, err), g.Leave())
		}
	}
	// Last, so that no limit is in force while others are being written.
	for _, j := range g.dirs {
		if err := m.move(j.dir); err != nil {
			return nil, errors.Join(fmt.Errorf("enter cgroup %s: %w", j.dir, err), g.Leave())
		}
	}
	return g, nil
}

// apply makes the group in the hierarchy of the controller, and writes the limit.
func (g *Group) apply(name string, s setting, v2, v1 Hierarchy) error {
	h, file, value := v1, s.v1File, s.v1
	if h.Point == "" {
		if v2.Point == "" {
			return errors.New("this machine has no such cgroup controller mounted")
		}
		h, file, value = v2, s.v2File, s.v2
		if err := g.m.enable(v2.Point, s.controller); err != nil {
			return err
		}
	}
	j := joined{filepath.Join(h.Point, prefix+name), h.Own, h.Point}
	if !slices.Contains(g.dirs, j) {
		if err := g.m.mkdir(g.m.path(j.dir)); err != nil {
			return fmt.Errorf("create cgroup %s: %w", j.dir, cause(err))
		}
		g.dirs = append(g.dirs, j)
	}
	if err := g.m.write(filepath.Join(j.dir, file), value); err != nil {
		return fmt.Errorf("set %s: %w", filepath.Join(j.dir, file), err)
	}
	return nil
}

// enable lets the groups at the top of version 2's hierarchy have the controller.
func (m machine) enable(top, controller string) error {
	data, err := os.ReadFile(m.path(filepath.Join(top, "cgroup.controllers")))
	if err != nil {
		return cause(err)
	}
	if !slices.Contains(strings.Fields(string(data)), controller) {
		return fmt.Errorf("%s does not have this cgroup controller", top)
	}
	err = m.write(filepath.Join(top, "cgroup.subtree_control"), "+"+controller)
	if errors.Is(err, unix.EBUSY) || errors.Is(err, unix.ENOTSUP) {
		return fmt.Errorf("%s holds processes, so it cannot have groups with this controller: fsva has to run where that is the machine's own top", top)
	}
	return err
}

// Dirs are the group's directories, one in each hierarchy that it is in.
func (g *Group) Dirs() []string {
	var dirs []string
	for _, j := range g.dirs {
		dirs = append(dirs, j.dir)
	}
	return dirs
}

// Leave moves this process back to where it was, and removes the group. The processes
// that were started in it must have ended. It may be called more than once.
func (g *Group) Leave() error {
	var errs []error
	for _, j := range g.dirs {
		err := g.m.move(j.from)
		if err != nil {
			err = g.m.move(j.top) // the old one is gone
		}
		if err == nil {
			err = g.m.remove(j.dir)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("leave cgroup %s: %w", j.dir, err))
		}
	}
	g.dirs = nil
	return errors.Join(errs...)
}

// Remove removes what is left of a group whose processes have all ended.
func Remove(name string) error { return kernel.removeAll(name) }

func (m machine) removeAll(name string) error {
	v2, v1, err := Find(m.root)
	if err != nil {
		return fmt.Errorf("find cgroups: %w", err)
	}
	tops := []string{v2.Point}
	for _, c := range []string{"cpu", "memory", "pids"} {
		tops = append(tops, v1[c].Point)
	}
	var errs []error
	for _, top := range tops {
		if top == "" {
			continue
		}
		if err := m.remove(filepath.Join(top, prefix+name)); err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// remove removes a cgroup, if it is there, when its last process is forgotten.
func (m machine) remove(dir string) error {
	for deadline := time.Now().Add(removeTimeout); ; {
		err := m.rmdir(m.path(dir))
		if err == nil || errors.Is(err, unix.ENOENT) {
			return nil
		}
		if !errors.Is(err, unix.EBUSY) || time.Now().After(deadline) {
			return fmt.Errorf("remove %s: %w", dir, cause(err))
		}
		time.Sleep(removePause)
	}
}

// move puts this process, all threads of it, into a group.
func (m machine) move(dir string) error {
	return m.write(filepath.Join(dir, "cgroup.procs"), strconv.Itoa(os.Getpid()))
}

// write writes one of the kernel's files, which takes a value in one piece.
func (m machine) write(path, value string) error {
	f, err := os.OpenFile(m.path(path), os.O_WRONLY|os.O_TRUNC, 0)
	if err != nil {
		return cause(err)
	}
	_, err = f.WriteString(value)
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	return cause(err)
}

// cause drops operation and path from an error of package os: the caller names them.
func cause(err error) error {
	var pe *fs.PathError
	if errors.As(err, &pe) {
		return pe.Err
	}
	return err
}
