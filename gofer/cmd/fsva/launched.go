// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"

	"fsva/gofer/appliance"
	"fsva/gofer/launch"
	"fsva/gofer/supervisor"
	"fsva/gofer/volume"
)

// claimTimeout is how long an instance waits for another one that is ending.
const claimTimeout = 10 * time.Second

// serveLaunched is serve for what package launch has started.
func serveLaunched(cmd *cobra.Command, f serveFlags) (err error) {
	child, hold, err := launch.NewChild(f.instance != "")
	if err != nil {
		return usageError{err}
	}
	f.ready = child.Ready
	f.hold = hold
	defer func() {
		if err != nil {
			child.Failed(err)
		}
	}()
	return serve(cmd, f)
}

// asInstance makes a plan that of an instance of the dedicated volume d. The instance
// has the right to the volume's source until release is called.
func (f *serveFlags) asInstance(d volume.Definition, p *appliance.Plan, dirs supervisor.Dirs) (release func(), err error) {
	if name, ok := volume.SplitInstance(f.instance); !ok || name != d.Name {
		return nil, usageError{fmt.Errorf("%q is not the name of an instance of volume %q", f.instance, d.Name)}
	}
	done := make(chan struct{})
	timer := time.AfterFunc(claimTimeout, func() { close(done) })
	defer timer.Stop()
	release, err = volume.Open(dirs.State).Claim(d, p.Coherence == appliance.CoherenceExclusive && p.Source != "", p.ReadOnly, done)
	if err == nil {
		p.Name = f.instance
	}
	return release, err
}

// launchedFlags are those that package launch gives; see there.
type launchedFlags struct {
	launched bool
	instance string
	ready    func()
	hold     *os.File
}
