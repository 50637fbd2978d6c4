// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package launch

import (
	"context"
	"errors"
	"fmt"

	"fsva/gofer/supervisor"
	"fsva/gofer/volume"
)

// ErrBusy is wrapped by the error of Remove for a volume that runs.
var ErrBusy = errors.New("in use")

// busyError is ErrBusy in words.
type busyError struct{ text string }

func (e *busyError) Error() string        { return e.text }
func (e *busyError) Is(target error) bool { return target == ErrBusy }

// Remove removes the definition of a volume that does not run; with force it stops
// the volume, or all its instances. Otherwise nothing has changed after an error. It
// returns what Store.Remove does.
func Remove(ctx context.Context, d supervisor.Dirs, name string, force bool) (kept []string, err error) {
	store := volume.Open(d.State)
	def, err := store.Get(name)
	if errors.Is(err, volume.ErrNotDefined) {
		return nil, err
	}
	// One that cannot be read can still be removed.
	if err == nil && def.Dedicated {
		return removeDedicated(ctx, d, store, name, force)
	}
	release, err := supervisor.Reserve(d, name)
	if errors.Is(err, supervisor.ErrInUse) {
		if !force {
			return nil, &busyError{fmt.Sprintf("volume %q is %v: fsva stop %s first, or use --force", name, err, name)}
		}
		if err := Stop(ctx, d, name, false /* force */); err != nil {
			return nil, err
		}
		release, err = supervisor.Reserve(d, name)
	}
	if err != nil {
		return nil, fmt.Errorf("volume %q: %w", name, err)
	}
	defer func() {
		if rerr := release(); err == nil {
			err = rerr
		}
	}()
	return store.Remove(name)
}

func removeDedicated(ctx context.Context, d supervisor.Dirs, store *volume.Store, name string, force bool) ([]string, error) {
	running, err := instances(d, name)
	if err != nil {
		return nil, err
	}
	if len(running) > 0 && !force {
		return nil, &busyError{fmt.Sprintf("volume %q is dedicated and %d containers have an instance of it (fsva ls): remove them first, or use --force", name, len(running))}
	}
	kept, err := store.Remove(name) // from here on no other instance starts
	if err != nil {
		return nil, err
	}
	if running, err = instances(d, name); err != nil {
		return kept, err
	}
	var errs []error
	for _, i := range running {
		errs = append(errs, Stop(ctx, d, i, false /* force */))
	}
	return kept, errors.Join(errs...)
}

// instances lists the instances of a dedicated volume that run.
func instances(d supervisor.Dirs, name string) ([]string, error) {
	names, err := supervisor.Names(d)
	if err != nil {
		return nil, err
	}
	var running []string
	for _, i := range volume.Instances(names, name) {
		served, err := supervisor.Served(d, i)
		if err != nil {
			return nil, err
		}
		if served {
			running = append(running, i)
		}
	}
	return running, nil
}
