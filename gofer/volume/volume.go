// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

// Package volume keeps definitions of volumes: what `fsva volume create` was told,
// for `fsva serve NAME`, the docker volume plugin and dedicated volumes.
//
// A definition is root's own word and is stored where only root writes. Secrets are
// not in it, only the paths of files that hold them. Below the state directory:
//
//	volumes/NAME/definition.json  the definition, mode 0600; its existence is the volume's
//	volumes/NAME/log              what its supervisor logs when it runs in the background
//	volumes/NAME/...              what its appliance keeps from one run to the next
//	dedicated/NAME/volume.json    of a dedicated volume: the directory that containers mount
//
// A container may have had dedicated/NAME mounted as plain data and have written what
// it liked into it. So nothing in there is believed: Mounted compares the directory
// itself with the one that belongs to the definition.
//
// Create and Remove of one store exclude each other, in all processes. The package
// starts nothing.
package volume

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"fsva/gofer/appliance"
	"fsva/gofer/attach"
	"fsva/gofer/cgroup"
	"fsva/gofer/supervisor"
)

// Version is the version of stored definitions.
const Version = 1

// Definition is a volume as its user defined it. Empty fields mean the appliance's
// own default.
type Definition struct {
	Name      string `json:"name"`
	Appliance string `json:"appliance"`
	// Source, and the values of options that are files, are absolute where they are
	// paths of this machine.
	Source      string   `json:"source,omitempty"`
	Options     []string `json:"options,omitempty"` // NAME=VALUE
	Isolation   string   `json:"isolation,omitempty"`
	Coherence   string   `json:"coherence,omitempty"`
	Network     string   `json:"network,omitempty"`
	Cache       string   `json:"cache,omitempty"`
	CacheLimit  string   `json:"cacheLimit,omitempty"` // as appliance.ParseCacheLimit reads it
	ReadOnly    bool     `json:"readOnly,omitempty"`
	StrictFsync bool     `json:"strictFsync,omitempty"`
	// Root is what to use as the appliance's root file system instead of what its manifest says: a directory,
	// appliance.RootImage or appliance.RootHost.
	Root string `json:"root,omitempty"`
	// Dedicated gives each container an instance of its own, which our runsc starts.
	Dedicated bool `json:"dedicated,omitempty"`
	// HostMount has the docker volume plugin mount it on the host, for containers of runc.
	HostMount bool `json:"hostMount,omitempty"`
	// Limits are those of all the volume's processes together.
	Limits Limits `json:"limits,omitzero"`
}

// Limits bound what the processes of a volume, or of one instance of a dedicated
// volume, may take together.
type Limits = cgroup.Limits

// suffixLen is the length of what an instance's name has after that of its volume.
const suffixLen = 1 + 16

// Resolve checks d in full and returns what is to be started. Errors are one line and
// say what to change. stateDir is the state directory of the machine.
func (d Definition) Resolve(stateDir string) (appliance.Plan, error) {
	if err := supervisor.CheckName(d.Name); err != nil {
		return appliance.Plan{}, err
	}
	if err := d.Limits.Check(); err != nil {
		return appliance.Plan{}, fmt.Errorf("volume %q: %w", d.Name, err)
	}
	m, err := d.manifest()
	if err != nil {
		return appliance.Plan{}, err
	}
	if d.Root != "" {
		m.Root = d.Root
	}
	plan, err := m.Resolve(appliance.VolumeSpec{
		Name: d.Name, Source: d.Source, Isolation: d.Isolation, Coherence: d.Coherence, Network: d.Network,
		Cache: d.Cache, ReadOnly: d.ReadOnly, Options: d.Options,
		StateDir: supervisor.Dirs{State: stateDir}.VolumeState(d.Name),
	})
	if err != nil {
		return appliance.Plan{}, err
	}
	if d.CacheLimit != "" {
		if plan.CacheLimit, err = appliance.ParseCacheLimit(d.CacheLimit); err != nil {
			return appliance.Plan{}, err
		}
	}
	return plan, d.checkDedicated(plan)
}

func (d Definition) checkDedicated(p appliance.Plan) error {
	switch {
	case !d.Dedicated:
		return nil
	case len(d.Name) > MaxDedicatedName:
		return fmt.Errorf("volume name %q: a dedicated volume's has at most %d characters, because its instances add some", d.Name, MaxDedicatedName)
	case p.StateDir != "":
		return fmt.Errorf("appliance %q keeps data from one run to the next, which instances cannot share: its volumes cannot be dedicated", d.Appliance)
	case p.Isolation == appliance.IsolationVM:
		return errors.New("a file system in a virtual machine has one client, the volume: it cannot be dedicated")
	}
	return nil
}

// manifest is that of d's appliance.
func (d *Definition) manifest() (appliance.Manifest, error) {
	name := d.Appliance
	if name == "" && d.Isolation == appliance.IsolationVM {
		name = "vm"
	}
	if name == "" {
		return appliance.Manifest{}, errors.New("the appliance is missing")
	}
	return appliance.Load(name)
}

// Absolute returns d with the paths of this machine in it made absolute, so that it
// means the same in every working directory. Unknown appliances are an error; what
// else is wrong is for Resolve to say.
func (d Definition) Absolute() (Definition, error) {
	m, err := d.manifest()
	if err != nil {
		return Definition{}, err
	}
	d.Appliance = m.Name
	d.Options = slices.Clone(d.Options)
	var paths []*string
	if m.IsLocalSource(d.Source) {
		paths = append(paths, &d.Source)
	}
	if d.Root != "" && d.Root != appliance.RootHost && d.Root != appliance.RootImage {
		paths = append(paths, &d.Root)
	}
	for _, p := range paths {
		if *p, err = filepath.Abs(*p); err != nil {
			return Definition{}, err
		}
	}
	for i, o := range d.Options {
		name, value, ok := strings.Cut(o, "=")
		if !ok || value == "" || !m.IsPathOption(name) {
			continue
		}
		if value, err = filepath.Abs(value); err != nil {
			return Definition{}, err
		}
		d.Options[i] = name + "=" + value
	}
	return d, nil
}

// info is the volume.json of a dedicated volume.
func (d Definition) info(p appliance.Plan) attach.Info {
	return attach.Info{
		Version: attach.Version, Name: d.Name, Appliance: p.Appliance, Coherence: p.Coherence,
		ReadOnly: p.ReadOnly, StrictFsync: d.StrictFsync, Dedicated: true,
	}
}
