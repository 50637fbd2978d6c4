// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package volumeplugin

import (
	"context"
	"errors"

	"fsva/gofer/supervisor"
	"fsva/gofer/volume"
)

// Entry is a volume as docker sees it.
type Entry struct {
	Name string
	// Mountpoint is what containers get; empty while docker has it nowhere mounted.
	Mountpoint string
	// Status is for `docker volume inspect`. No secret is in it.
	Status map[string]any
}

// Get describes a volume.
func (p *Plugin) Get(ctx context.Context, name string) (Entry, error) {
	d, err := p.Definitions.Get(name)
	if err != nil {
		return Entry{}, err
	}
	e, r, err := p.entry(d)
	if err != nil {
		return Entry{}, err
	}
	e.Status = map[string]any{"appliance": d.Appliance, "mounts": len(r.Mounts)}
	if d.Source != "" {
		e.Status["source"] = d.Source
	}
	switch s, err := p.Processes.Status(ctx, name); {
	case err == nil:
		e.Status["state"] = s.StateText()
	case errors.Is(err, supervisor.ErrUnknownVolume):
		e.Status["state"] = "not served"
	default:
		e.Status["state"] = err.Error()
	}
	return e, nil
}

// Path returns the Mountpoint of an Entry.
func (p *Plugin) Path(_ context.Context, name string) (string, error) {
	d, err := p.Definitions.Get(name)
	if err != nil {
		return "", err
	}
	e, _, err := p.entry(d)
	return e.Mountpoint, err
}

// List describes all volumes, without their Status. One that cannot be read hides no other.
func (p *Plugin) List(context.Context) ([]Entry, error) {
	all, err := p.Definitions.List()
	if err != nil {
		p.log.Error("list the volumes", "err", err)
	}
	var entries []Entry
	for _, d := range all {
		e, _, err := p.entry(d)
		if err != nil {
			p.log.Error("list the volumes", "err", err)
		}
		entries = append(entries, e)
	}
	return entries, nil
}

// entry is what is known of a volume without asking anybody.
func (p *Plugin) entry(d volume.Definition) (Entry, record, error) {
	e := Entry{Name: d.Name}
	r, err := p.mounts.load(d.Name)
	if err == nil && len(r.Mounts) > 0 {
		e.Mountpoint = p.mountpoint(d)
	}
	return e, r, err
}
