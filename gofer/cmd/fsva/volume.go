// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"path"
	"path/filepath"

	"fsva/gofer/appliance"
	"fsva/gofer/attach"
	"fsva/gofer/fsserver"
	"fsva/gofer/supervisor"
	"fsva/gofer/supervisor/goferproto"
)

// dentryCache is how many names a sandbox remembers of a volume. gVisor's default
// of 1000 makes a second pass over a source tree as slow as the first; one costs
// the sandbox about 1 KiB.
const dentryCache = 20000

// volumeConfig is what a plan means to the supervisor.
func volumeConfig(p appliance.Plan) supervisor.Config {
	c := supervisor.Config{
		Info: attach.Info{
			Version: attach.Version, Name: p.Name, Appliance: p.Appliance, Coherence: p.Coherence, ReadOnly: p.ReadOnly,
			DentryCache: dentryCache,
		},
		Isolation: p.Isolation,
		Source:    p.Source,
		Gofer:     goferproto.Config{StableIno: p.StableIno, InProcess: p.InProcess},
	}
	if p.InProcess != "" {
		c.Gofer.Options = p.Settings
		if p.Source != "" {
			// An archive's name tells its format.
			target := appliance.RootSource
			if p.InProcess == appliance.InProcessArchive {
				target = path.Join(target, filepath.Base(p.Source))
			}
			c.Gofer.Source = target
			c.Gofer.Binds = []goferproto.Bind{{Host: p.Source, Target: target, ReadOnly: p.ReadOnly}}
		}
		return c
	}
	c.Server = &fsserver.Spec{
		Argv:         p.Argv,
		Env:          p.Env,
		Root:         p.Root,
		Capabilities: p.Capabilities,
		HostNetwork:  p.Network,
		Preload:      p.Mount == appliance.MountSyscall,
	}
	for _, b := range p.Binds {
		c.Server.Binds = append(c.Server.Binds, fsserver.Bind{Host: b.Host, Target: b.Path, ReadOnly: b.ReadOnly})
	}
	return c
}
