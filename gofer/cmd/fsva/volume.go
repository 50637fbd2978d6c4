// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fsva/gofer/appliance"
	"fsva/gofer/attach"
	"fsva/gofer/fsserver"
	"fsva/gofer/supervisor"
	"fsva/gofer/supervisor/goferproto"
)

// maxDentryCache is how many names a sandbox remembers of a volume. gVisor's
// default of 1000 makes a second pass over a source tree as slow as the first; one
// costs the sandbox about 1 KiB.
const maxDentryCache = 20000

// dentryCache returns the number for a volume whose processes may have files open
// files each. An exclusive sandbox keeps a file open at the server for as long as
// it remembers its name, and a sandbox around the server needs two descriptors for
// each. A third of them is left for what applications have open and for the rest.
func dentryCache(p appliance.Plan, files uint64) int {
	n := files / 3 * 2
	if p.Isolation == appliance.IsolationGVisor {
		n /= 2
	}
	if p.Coherence == appliance.CoherenceShared {
		n = maxDentryCache // it closes with the application
	}
	return int(min(n, maxDentryCache))
}

// keepsWrites reports whether what the file system has acknowledged outlives the
// gofer and the FS server, whose processes end together. A directory of this machine
// or, through an export, of a virtual machine has it in its kernel's cache. Of other
// servers it is not known: sshfs and ext2fs hold data back, and s3fs and rclone send a
// file when it is closed.
func keepsWrites(p appliance.Plan) bool {
	return p.InProcess == appliance.InProcessDir || p.Isolation == appliance.IsolationVM
}

// volumeConfig is what a plan means to the supervisor, whose processes may have
// files open files each.
func volumeConfig(p appliance.Plan, files uint64) supervisor.Config {
	c := supervisor.Config{
		Info: attach.Info{
			Version: attach.Version, Name: p.Name, Appliance: p.Appliance, Coherence: p.Coherence, ReadOnly: p.ReadOnly,
			DentryCache: dentryCache(p, files),
		},
		Isolation:  p.Isolation,
		Source:     p.Source,
		CacheLimit: p.CacheLimit,
		Gofer: goferproto.Config{
			StableIno: p.StableIno, NodePerName: p.NodePerName, ListsXattrs: p.ListsXattrs, ParallelDirops: p.ParallelDirops,
			MaxRead: p.MaxRead, WriteBack: p.WriteBack, KeepsWrites: keepsWrites(p), InProcess: p.InProcess,
		},
	}
	if p.InProcess != "" {
		c.Gofer.Options = p.Settings
		if p.Source != "" {
			c.Gofer.Source = appliance.RootSource
			c.Gofer.Binds = []goferproto.Bind{{Host: p.Source, Target: appliance.RootSource, ReadOnly: p.ReadOnly}}
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
		Batch:        p.Batch,
	}
	for _, b := range p.Binds {
		c.Server.Binds = append(c.Server.Binds, fsserver.Bind{Host: b.Host, Target: b.Path, ReadOnly: b.ReadOnly})
	}
	return c
}
