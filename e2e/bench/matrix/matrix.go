// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

// Package matrix is the benchmark matrix: the same workloads on the same data through every way to bring a FUSE file
// system into a gVisor sandbox. Workloads and Columns say what is measured; Report holds the samples, judges the
// targets, and is written as JSON, Markdown and SVG.
//
// What runs it is a test of this package, with the build tag bench, because it needs e2e/harness; `make bench` is the
// command. docs/benchmarks.md says what the rows and columns mean.
package matrix

import (
	"fmt"
	"slices"
	"strings"
)

// Column is one way to the data.
type Column struct {
	Name  string
	Title string
	// Via says what serves the data.
	Via Via
	// Isolation is the FS server's, for ViaFSVA.
	Isolation string
	// Sandbox reports whether the workload runs in a gVisor sandbox, under stock runsc unless Via is ViaFSVA.
	Sandbox bool
	// Flags are further flags of that runsc.
	Flags []string
	// MountOptions are options of the data's mount in that sandbox.
	MountOptions []string
	// Slow reports whether --quick leaves it out.
	Slow bool
}

// Via says what serves the data.
type Via int

const (
	ViaKernel Via = iota // the FS server, mounted on the host's kernel
	ViaFSVA              // the same FS server, as an FSVA volume
	ViaLocal             // a directory of the local file system: no FS server
)

// Columns that others are compared with.
const (
	// ColumnSubject is what the targets are about.
	ColumnSubject = "fsva"
	// ColumnPick is what one would pick without FSVA.
	ColumnPick = "kernel-directfs"
)

// limitColumns are the fastest that gVisor's own file access gets. The better one is the limit.
var limitColumns = []string{"limit-gofer", "limit-directfs"}

// Columns returns all columns, in the order of the table.
func Columns() []Column {
	// The sentry keeps 1,000 dentries of a mount unless told otherwise: too few for 5,000 files.
	dcache := []string{"dcache=20000"}
	return []Column{
		{Name: "native", Title: "kernel FUSE, no sandbox"},
		{Name: ColumnPick, Title: "kernel FUSE + stock runsc (directfs)", Sandbox: true},
		{Name: "kernel-gofer", Title: "kernel FUSE + stock runsc --directfs=false", Sandbox: true, Flags: []string{"--directfs=false"},
			Slow: true},
		{Name: ColumnSubject, Title: "FSVA, isolation gvisor", Via: ViaFSVA, Isolation: "gvisor", Sandbox: true},
		{Name: "fsva-process", Title: "FSVA, isolation process", Via: ViaFSVA, Isolation: "process", Sandbox: true, Slow: true},
		{Name: "limit-gofer", Title: "limit: stock runsc exclusive --directfs=false, local files", Via: ViaLocal, Sandbox: true,
			Flags: []string{"--directfs=false", "--file-access-mounts=exclusive"}, MountOptions: dcache},
		{Name: "limit-directfs", Title: "limit: stock runsc exclusive (directfs), local files", Via: ViaLocal, Sandbox: true,
			Flags: []string{"--file-access-mounts=exclusive"}, MountOptions: dcache},
	}
}

// Row is one line of the table.
type Row struct {
	Name  string
	Title string
	// Rate reports whether a sample is operations per second; otherwise it is seconds.
	Rate bool
	// MinPick and MinLimit are the targets: how many times as fast as ColumnPick, and as the limit, ColumnSubject is at
	// least. 0 means no target.
	MinPick, MinLimit float64
}

// Server is the file system that a workload runs on.
type Server string

// The servers.
const (
	Squashfs Server = "squashfs" // squashfuse_ll on an image; read-only
	Bindfs   Server = "bindfs"   // bindfs on a directory; read-write
)

// Data is what a read-write volume holds at first.
type Data int

const (
	DataNone Data = iota
	DataGit       // "tree": a git repository with the source of Go's commands; its files are shared by all sessions
	DataGo        // "module": a Go module, and "cache": a build cache that has what it imports
)

// Workload is what one container runs, from its start to its end. Its rows share that container, so that the warm
// ones come after the cold one.
type Workload struct {
	Name   string
	Server Server
	// Data is what a read-write volume holds at first.
	Data Data
	// Tools are commands that make the workload's programs resident, and touch no data.
	Tools [][]string
	// Steps run in order.
	Steps []Step
	// Slow reports whether --quick leaves it out.
	Slow bool
}

// Step is a command, run in the volume's top directory. "{bench}" in its arguments stands for the directory of the
// benchmark's own files, "{data}" for that top directory, "{seconds}" for how long a time-based command shall run.
type Step struct {
	Args []string
	// Row is what it measures; nil means that it only prepares.
	Row *Row
	// Cold means that the kernel's caches are dropped just before.
	Cold bool
	// Times is how often it runs; the median is the sample. 0 means once.
	Times int
	// Value gets the sample from the command's output; nil means that it is the command's wall time.
	Value func(output string) (float64, error)
}

// Rows returns the rows of the workload, in its order.
func (w *Workload) Rows() []*Row {
	var rows []*Row
	for _, s := range w.Steps {
		if s.Row != nil {
			rows = append(rows, s.Row)
		}
	}
	return rows
}

// SelectColumns returns the columns that a comma-separated list names, in the table's order. For "" it returns all, or,
// with quick, those that are not slow.
func SelectColumns(list string, quick bool) ([]Column, error) {
	all := Columns()
	if list == "" {
		return slices.DeleteFunc(all, func(c Column) bool { return quick && c.Slow }), nil
	}
	wanted := strings.Split(list, ",")
	selected := slices.DeleteFunc(slices.Clone(all), func(c Column) bool { return !slices.Contains(wanted, c.Name) })
	if len(selected) == len(wanted) {
		return selected, nil
	}
	var names []string
	for _, c := range all {
		names = append(names, c.Name)
	}
	return nil, fmt.Errorf("columns %q: want some of %s, each once", list, strings.Join(names, ","))
}

// SelectWorkloads returns the workloads with a row that a comma-separated list names, by its own name or its
// workload's, without the rows that it does not name: their commands only prepare then. For "" it returns all, or,
// with quick, those that are not slow.
func SelectWorkloads(list string, quick bool) ([]Workload, error) {
	all := Workloads()
	if list == "" {
		return slices.DeleteFunc(all, func(w Workload) bool { return quick && w.Slow }), nil
	}
	unused := map[string]bool{}
	for name := range strings.SplitSeq(list, ",") {
		unused[name] = true
	}
	wanted := func(name string) bool {
		_, ok := unused[name]
		if ok {
			unused[name] = false
		}
		return ok
	}
	var selected []Workload
	var names []string
	for _, w := range all {
		whole, rows := wanted(w.Name), 0
		for i, s := range w.Steps {
			if s.Row == nil {
				continue
			}
			names = append(names, s.Row.Name)
			if wanted(s.Row.Name) || whole {
				rows++
			} else {
				w.Steps[i].Row = nil
			}
		}
		if rows > 0 {
			selected = append(selected, w)
		}
	}
	for name, is := range unused {
		if is {
			return nil, fmt.Errorf("no row %q: want some of %s, or the names without -cold and -warm", name, strings.Join(names, ","))
		}
	}
	return selected, nil
}
