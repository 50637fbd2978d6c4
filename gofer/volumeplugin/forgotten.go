// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package volumeplugin

import (
	"context"
	"errors"
	"slices"
	"time"

	"fsva/gofer/volume"
)

// A dockerd that is killed does not unmount, and the next one ends the containers of
// the last one without a word to the plugin, unless live-restore is set. So a mount is
// forgotten when the daemon that asked for it has ended and no container uses the
// volume. That is seen from the volume, and no event tells of it.
const watchPeriod = 5 * time.Second

// watch forgets such mounts until ctx ends.
func (p *Plugin) watch(ctx context.Context) {
	tick := time.NewTicker(watchPeriod)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		names, err := p.mounts.names()
		if err != nil {
			p.log.Error("look for mounts that docker has forgotten", "err", err)
		}
		for _, name := range names {
			if err := p.check(ctx, name); err != nil && ctx.Err() == nil {
				p.log.Error("look for mounts that docker has forgotten", "volume", name, "err", err)
			}
		}
	}
}

// check stops a volume whose mounts are all forgotten.
func (p *Plugin) check(ctx context.Context, name string) error {
	unlock, err := p.names.lock(ctx, name)
	if err != nil {
		return err
	}
	defer unlock()
	// What is begun is ended.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), shortTimeout)
	defer cancel()
	r, err := p.mounts.load(name)
	if err != nil || !r.orphaned() {
		return err
	}
	r, err = p.forget(ctx, name, r)
	if err != nil || len(r.Mounts) > 0 {
		return err
	}
	return p.drop(ctx, name, r)
}

// orphaned reports whether a daemon that asked for a mount has ended.
func (r *record) orphaned() bool {
	return slices.ContainsFunc(r.Mounts, func(m mount) bool { return !m.By.alive() })
}

// forget removes the mounts of daemons that have ended from the record, if no container
// uses the volume.
func (p *Plugin) forget(ctx context.Context, name string, r record) (record, error) {
	if !r.orphaned() {
		return r, nil
	}
	d, err := p.Definitions.Get(name)
	if errors.Is(err, volume.ErrNotDefined) {
		d, err = volume.Definition{Name: name, HostMount: r.OnHost}, nil
	}
	if err != nil {
		return r, err
	}
	used, err := p.Processes.Used(ctx, d, p.hostDir(name))
	if err != nil || used {
		return r, err
	}
	before := len(r.Mounts)
	r.Mounts = slices.DeleteFunc(slices.Clone(r.Mounts), func(m mount) bool { return !m.By.alive() })
	p.log.Info("no container has it mounted any more, and docker has not said so", "volume", name, "mounts", before-len(r.Mounts))
	return r, p.mounts.save(name, r)
}
