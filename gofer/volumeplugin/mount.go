// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package volumeplugin

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"

	"fsva/gofer/supervisor"
	"fsva/gofer/volume"
)

// Mount has a volume served, if it is not yet, and returns the directory that a
// container is to get. id names the container's mount; to repeat it changes nothing.
func (p *Plugin) Mount(ctx context.Context, name, id string) (dir string, err error) {
	unlock, err := p.names.lock(ctx, name)
	if err != nil {
		return "", err
	}
	defer unlock()
	d, err := p.Definitions.Get(name)
	if err != nil {
		return "", err
	}
	r, err := p.mounts.load(name)
	if err != nil {
		return "", err
	}
	before, who := slices.Clone(r.Mounts), callerOf(ctx)
	if err := r.add(mount{id, who.process}); err != nil {
		return "", fmt.Errorf("volume %q: %w", name, err)
	}
	after := r.Mounts
	r.Mounts = before // until it can be used
	err = p.bringUp(ctx, d, &r)
	if err == nil && who.gone() {
		err = errors.New("docker no longer waits for it") // and would not unmount it
	}
	if err == nil {
		r.Mounts = after
		if err = p.mounts.save(name, r); err == nil {
			return p.mountpoint(d), nil
		}
	}
	if len(before) == 0 {
		if derr := p.drop(context.WithoutCancel(ctx), name, r); derr != nil {
			err = fmt.Errorf("%w; %w", err, derr)
		}
	}
	return "", err
}

// Unmount takes back a Mount. After the last one the volume is stopped, if it was
// the plugin that started it.
func (p *Plugin) Unmount(ctx context.Context, name, id string) error {
	unlock, err := p.names.lock(ctx, name)
	if err != nil {
		return err
	}
	defer unlock()
	r, err := p.mounts.load(name)
	if err != nil {
		return err
	}
	r.Mounts = slices.DeleteFunc(r.Mounts, func(m mount) bool { return m.ID == id })
	if len(r.Mounts) > 0 {
		return p.mounts.save(name, r)
	}
	return p.drop(ctx, name, r)
}

// bringUp makes a volume usable, and notes in its record what was done for that.
func (p *Plugin) bringUp(ctx context.Context, d volume.Definition, r *record) error {
	if d.Dedicated {
		return nil // our runsc starts the container's instance
	}
	if err := p.serve(ctx, d, r); err != nil {
		return err
	}
	if !d.HostMount {
		return nil
	}
	return p.mountOnHost(ctx, d, r)
}

// serve has the volume served, by us unless somebody does already.
func (p *Plugin) serve(ctx context.Context, d volume.Definition, r *record) error {
	s, err := p.Processes.Status(ctx, d.Name)
	switch {
	case errors.Is(err, supervisor.ErrUnknownVolume):
		return p.start(ctx, d, r)
	case err != nil:
		return err
	}
	ours := r.ours(s)
	switch s.State {
	case supervisor.Serving, supervisor.Restarting:
		if d.HostMount && !ours {
			return fmt.Errorf("volume %q is for runc and served by pid %d, which the plugin did not start: fsva stop %s, and the plugin does", d.Name, s.PID, d.Name)
		}
		return p.note(d.Name, r, ours, s.PID)
	case supervisor.Failed:
		if !ours {
			return fmt.Errorf("volume %q is %s (fsva stop %s, then serve it again)", d.Name, s.StateText(), d.Name)
		}
		if err := p.Processes.Stop(ctx, d.Name); err != nil {
			return err
		}
		return p.start(ctx, d, r)
	}
	return fmt.Errorf("volume %q is %s, served by pid %d: try again when it is ready", d.Name, s.StateText(), s.PID)
}

// start starts the volume. First it is noted that it is ours: if the plugin is killed
// meanwhile, the next one stops it.
func (p *Plugin) start(ctx context.Context, d volume.Definition, r *record) error {
	if err := p.note(d.Name, r, true, 0); err != nil {
		return err
	}
	socket := ""
	if d.HostMount {
		socket = p.socket(d.Name)
	}
	if err := p.Processes.Start(ctx, d.Name, socket); err != nil {
		if nerr := p.note(d.Name, r, false, 0); nerr != nil {
			return fmt.Errorf("%w; %w", err, nerr)
		}
		return err
	}
	s, err := p.Processes.Status(ctx, d.Name)
	if err != nil {
		return err
	}
	return p.note(d.Name, r, true, s.PID)
}

// note saves whether the volume is ours.
func (p *Plugin) note(name string, r *record, owned bool, pid int) error {
	if !owned {
		pid = 0
	}
	if r.Owned == owned && r.PID == pid {
		return nil
	}
	r.Owned, r.PID = owned, pid
	return p.mounts.save(name, *r)
}

// mountOnHost mounts a volume that is being served on the host, unless it is.
func (p *Plugin) mountOnHost(ctx context.Context, d volume.Definition, r *record) error {
	dir := p.hostDir(d.Name)
	if r.OnHost && p.Processes.Mounted(dir) {
		return nil
	}
	if err := p.Processes.Unmount(dir); err != nil {
		return err
	}
	if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	r.OnHost = true
	if err := p.mounts.save(d.Name, *r); err != nil {
		return err
	}
	return p.Processes.MountOnHost(ctx, d.Name, p.socket(d.Name), dir)
}

// drop undoes bringUp for a volume that nobody has mounted any more. What cannot be
// undone stays noted.
func (p *Plugin) drop(ctx context.Context, name string, r record) error {
	r.Mounts = nil
	if err := p.mounts.save(name, r); err != nil {
		return err
	}
	if r.OnHost {
		dir := p.hostDir(name)
		if err := p.Processes.Unmount(dir); err != nil {
			return err
		}
		if err := os.Remove(dir); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
		r.OnHost = false
		if err := p.mounts.save(name, r); err != nil {
			return err
		}
	}
	if !r.Owned {
		return nil
	}
	s, err := p.Processes.Status(ctx, name)
	if err != nil && !errors.Is(err, supervisor.ErrUnknownVolume) {
		return err
	}
	if err == nil && r.ours(s) {
		if err := p.Processes.Stop(ctx, name); err != nil {
			return err
		}
	}
	r.Owned, r.PID = false, 0
	return p.mounts.save(name, r)
}
