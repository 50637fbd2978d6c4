// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package volumeplugin

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"

	"fsva/gofer/atomicfile"
	"fsva/gofer/supervisor"
	"fsva/gofer/volume"
)

// Definitions are the volumes there are; *volume.Store is one.
type Definitions interface {
	Create(volume.Definition) (volume.Definition, error)
	Get(name string) (volume.Definition, error)
	List() ([]volume.Definition, error)
	Remove(name string) (kept []string, err error)
	// MountDir is what containers mount of a dedicated volume.
	MountDir(name string) string
}

// Processes serve volumes. Their methods are not called for one volume at the same time.
type Processes interface {
	// Start serves a defined volume, in processes that outlive this one, and returns
	// when it is ready. A non-empty socket is where `fsva mount` is to reach it. After
	// an error nothing of it is left.
	Start(ctx context.Context, name, socket string) error
	// Stop ends it and returns when nothing of it is left. That it is gone already is
	// no error.
	Stop(ctx context.Context, name string) error
	// Status describes it; the error wraps supervisor.ErrUnknownVolume if nobody serves it.
	Status(ctx context.Context, name string) (supervisor.Status, error)
	// MountOnHost mounts what is reached at socket on the directory; Unmount undoes
	// that, and is no error where nothing is mounted.
	MountOnHost(ctx context.Context, name, socket, dir string) error
	Unmount(dir string) error
	// Mounted reports whether the directory is a mount that works.
	Mounted(dir string) bool
	// Used reports whether any container uses the volume; dir is where it is mounted on
	// the host, if it is.
	Used(ctx context.Context, d volume.Definition, dir string) (bool, error)
}

// Config is a plugin.
type Config struct {
	Dirs        supervisor.Dirs
	Definitions Definitions
	Processes   Processes
	Log         *slog.Logger
}

// Plugin answers docker. Its methods may be called concurrently.
type Plugin struct {
	Config
	log     *slog.Logger
	mounts  records
	names   keyedLock
	release func() // of the lock
}

// New prepares the plugin's directories and settles what an earlier plugin that was
// interrupted has left. It is an error if another one is alive.
func New(ctx context.Context, c Config) (*Plugin, error) {
	p := &Plugin{Config: c, log: c.Log}
	for _, dir := range []struct {
		path string
		mode os.FileMode
	}{
		// Others than root pass through to what is mounted.
		{p.Dirs.Run, 0o755}, {p.at(""), 0o711}, {p.at("host"), 0o711}, {p.at("mounts"), 0o700}, {p.at("sockets"), 0o700},
	} {
		if err := os.MkdirAll(dir.path, dir.mode); err != nil {
			return nil, fmt.Errorf("%w (FSVA_RUNDIR chooses another directory)", err)
		}
	}
	var err error
	if p.release, err = lockFile(p.at("lock")); err != nil {
		return nil, err
	}
	p.mounts = records{p.at("mounts")}
	if err := p.settle(ctx); err != nil {
		p.release()
		return nil, err
	}
	return p, nil
}

// Close gives up the right to be the plugin. Volumes go on.
func (p *Plugin) Close() { p.release() }

func (p *Plugin) at(name string) string      { return filepath.Join(p.Dirs.Run, "plugin", name) }
func (p *Plugin) socket(name string) string  { return filepath.Join(p.at("sockets"), name) }
func (p *Plugin) hostDir(name string) string { return filepath.Join(p.at("host"), name) }

// mountpoint is what containers get of a volume.
func (p *Plugin) mountpoint(d volume.Definition) string {
	switch {
	case d.HostMount:
		return p.hostDir(d.Name)
	case d.Dedicated:
		return p.Definitions.MountDir(d.Name)
	}
	return p.Dirs.Volume(d.Name)
}

// settle stops what was started for mounts that never came about.
func (p *Plugin) settle(ctx context.Context) error {
	// What a plugin that was killed has left: nobody saves a record yet.
	if err := atomicfile.Sweep(p.mounts.dir); err != nil {
		return err
	}
	names, err := p.mounts.names()
	if err != nil {
		return err
	}
	for _, name := range names {
		r, err := p.mounts.load(name)
		if err != nil {
			p.log.Error("the volume cannot be used by docker", "volume", name, "err", err)
			continue
		}
		if len(r.Mounts) > 0 {
			p.log.Info("mounted before", "volume", name, "mounts", len(r.Mounts))
			continue
		}
		if err := p.drop(ctx, name, r); err != nil {
			p.log.Error("stop what nobody has mounted", "volume", name, "err", err)
		}
	}
	return nil
}

// Create defines a volume. With the options that it has already, or none, an
// existing one is no error.
func (p *Plugin) Create(ctx context.Context, name string, options map[string]string) error {
	unlock, err := p.names.lock(ctx, name)
	if err != nil {
		return err
	}
	defer unlock()
	if len(options) == 0 {
		_, err := p.Definitions.Get(name)
		if errors.Is(err, volume.ErrNotDefined) {
			err = fmt.Errorf("volume %q is not defined: say what it is with -o appliance=NAME -o source=…, or define it with fsva volume create", name)
		}
		return err
	}
	d, err := parseOptions(name, options)
	if err != nil {
		return fmt.Errorf("volume %q: %w", name, err)
	}
	_, err = p.Definitions.Create(d)
	if !errors.Is(err, volume.ErrExists) {
		return err
	}
	old, gerr := p.Definitions.Get(name)
	if gerr != nil {
		return gerr
	}
	if d, err = d.Absolute(); err != nil {
		return err
	}
	if diff := difference(old, d); diff != "" {
		return fmt.Errorf("volume %q is defined with another %s: remove it first, or create it with the same options", name, diff)
	}
	return nil
}

// Remove forgets a volume. What its appliance keeps between runs stays.
func (p *Plugin) Remove(ctx context.Context, name string) error {
	unlock, err := p.names.lock(ctx, name)
	if err != nil {
		return err
	}
	defer unlock()
	r, err := p.mounts.load(name)
	if err != nil {
		return err
	}
	if r, err = p.forget(ctx, name, r); err != nil {
		return err
	}
	if n := len(r.Mounts); n > 0 {
		return fmt.Errorf("volume %q is in use: docker has it mounted for %s", name, count(n, "container"))
	}
	if err := p.drop(ctx, name, r); err != nil {
		return err
	}
	switch s, err := p.Processes.Status(ctx, name); {
	case err == nil:
		return fmt.Errorf("volume %q is in use: pid %d serves it (fsva stop %s)", name, s.PID, name)
	case !errors.Is(err, supervisor.ErrUnknownVolume):
		return err
	}
	kept, err := p.Definitions.Remove(name)
	if len(kept) > 0 {
		p.log.Warn("the volume is removed, what its appliance kept is not", "volume", name, "files", kept)
	}
	return err
}

// count is a number of things, such as "2 containers".
func count(n int, thing string) string {
	if n != 1 {
		thing += "s"
	}
	return strconv.Itoa(n) + " " + thing
}
