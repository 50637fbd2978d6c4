// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/pflag"

	"fsva/gofer/appliance"
	"fsva/gofer/bytesize"
	"fsva/gofer/volume"
)

// definitionFlags are the flags that say what a volume is, of `fsva serve` and
// `fsva volume create`.
type definitionFlags struct {
	volume.Definition
	memory string
}

func (f *definitionFlags) add(fl *pflag.FlagSet) {
	fl.StringVar(&f.Appliance, "appliance", "", "kind of file system, such as squashfs, sshfs or dir")
	fl.StringVar(&f.Source, "source", "", "what it holds: a file, a directory, a remote name or a virtual machine's address, as the appliance wants")
	fl.StringArrayVarP(&f.Options, "option", "o", nil, "an appliance's own option, `NAME=VALUE`; may be repeated")
	fl.StringVar(&f.Isolation, "isolation", "", "gvisor, process, none or vm (default: the appliance's)")
	fl.StringVar(&f.Coherence, "coherence", "", "exclusive or shared (default: the appliance's)")
	fl.StringVar(&f.Network, "network", "", "none or host: the file system server's network (default none)")
	fl.BoolVar(&f.ReadOnly, "readonly", false, "refuse all changes")
	fl.BoolVar(&f.StrictFsync, "strict-fsync", false, "report fsync errors truthfully on an exclusive volume, at the price of speed")
	fl.StringVar(&f.CacheLimit, "cache-limit", "", "`bytes` of file data that the volume's cache keeps, such as 512M (default: the appliance's, or a quarter of the memory)")
	fl.StringVar(&f.Cache, "cache", "", "writethrough, or writeback: writes wait in the gofer until close or fsync (default: the appliance's)")
	fl.StringVar(&f.Root, "root", "", "`root` file system of the server: image, host (this machine's programs, for development) or a directory (default: the appliance's)")
	fl.Float64Var(&f.Limits.CPU, "cpus", 0, "processors that all processes of the volume may use together, such as 1.5")
	fl.StringVar(&f.memory, "memory", "", "`bytes` of memory that they may have, the cache included, such as 512M")
	fl.Int64Var(&f.Limits.Pids, "pids", 0, "processes and threads that they may be")
}

// parse checks what can be checked without the appliance. Errors are about the
// command line.
func (f *definitionFlags) parse() error {
	if f.CacheLimit != "" {
		if _, err := appliance.ParseCacheLimit(f.CacheLimit); err != nil {
			return fmt.Errorf("--%w", err)
		}
	}
	if f.memory != "" {
		var err error
		if f.Limits.Memory, err = bytesize.Parse(f.memory); err != nil {
			return fmt.Errorf("--memory: %w", err)
		}
	}
	if err := f.Limits.Check(); err != nil {
		return err
	}
	if f.Root != "" && f.Root != appliance.RootHost && f.Root != appliance.RootImage {
		var err error
		if f.Root, err = filepath.Abs(f.Root); err != nil {
			return fmt.Errorf("--root: %w", err)
		}
	}
	if f.Appliance == "" && f.Isolation == appliance.IsolationVM {
		f.Appliance = "vm"
	}
	return nil
}

// errNoAppliance is about a command line that does not say what the volume is.
var errNoAppliance = errors.New("--appliance is missing")

// merge returns the stored definition of the volume that the flags are about. Flags
// may repeat what it says, and not contradict it: who serves a volume under its name
// gets the volume of that name.
func (f *definitionFlags) merge(stored volume.Definition, fl *pflag.FlagSet) (volume.Definition, error) {
	given := f.Definition
	if given.Appliance == "" {
		given.Appliance = stored.Appliance
	}
	if given.Appliance == stored.Appliance {
		var err error
		if given, err = given.Absolute(); err != nil {
			return volume.Definition{}, err
		}
	}
	for _, field := range []struct {
		flag string
		same bool
	}{
		{"appliance", given.Appliance == stored.Appliance},
		{"source", given.Source == stored.Source},
		{"option", containsOptions(stored.Options, given.Options)},
		{"isolation", given.Isolation == stored.Isolation},
		{"coherence", given.Coherence == stored.Coherence},
		{"network", given.Network == stored.Network},
		{"readonly", given.ReadOnly == stored.ReadOnly},
		{"strict-fsync", given.StrictFsync == stored.StrictFsync},
		{"cache-limit", given.CacheLimit == stored.CacheLimit},
		{"cache", given.Cache == stored.Cache},
		{"root", given.Root == stored.Root},
		{"cpus", given.Limits.CPU == stored.Limits.CPU},
		{"memory", given.Limits.Memory == stored.Limits.Memory},
		{"pids", given.Limits.Pids == stored.Limits.Pids},
	} {
		if fl.Changed(field.flag) && !field.same {
			return volume.Definition{}, fmt.Errorf("--%s contradicts the definition of volume %q (fsva volume inspect %s): leave it away, or serve under another name", field.flag, stored.Name, stored.Name)
		}
	}
	return stored, nil
}

// containsOptions reports whether each of some is among all.
func containsOptions(all, some []string) bool {
	full := func(option string) string {
		if !strings.Contains(option, "=") {
			option += "=true"
		}
		return option
	}
	return !slices.ContainsFunc(some, func(o string) bool {
		return !slices.ContainsFunc(all, func(other string) bool { return full(o) == full(other) })
	})
}
