// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package sentryglue

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/google/subcommands"
	"golang.org/x/sys/unix"

	"fsva/gofer/attach"
	"fsva/gofer/launch"
	"fsva/gofer/supervisor"
	"fsva/gofer/volume"
	"gvisor.dev/gvisor/pkg/log"
	"gvisor.dev/gvisor/runsc/cmd/util"
	"gvisor.dev/gvisor/runsc/config"
	"gvisor.dev/gvisor/runsc/flag"
)

// A dedicated volume has an instance for each container. This process starts it,
// before gVisor's own code runs, and replaces the mount's source in config.json by
// the instance's directory; everything else is as for any volume. The instance ends by
// itself: it is held by a pipe of this process, which hands its container's
// sandbox to it, and then by the sandbox. So it does not matter what fails, or whether
// the container is ever deleted; `runsc delete` only waits for the end.

const (
	// instanceStart bounds the start of an instance, which has a shorter limit of its
	// own, and the wait for a predecessor of the same container.
	instanceStart = 2 * time.Minute
	// instanceEnd is how long `runsc delete` waits. An instance that has more to
	// flush than that goes on alone.
	instanceEnd = 30 * time.Second
)

// dedicatedMount is a dedicated volume among a container's mounts.
type dedicatedMount struct {
	index  int
	volume volume.Definition
}

// dirsIn is where volumes are on this machine; runDir is "" for the default.
func dirsIn(runDir string) (supervisor.Dirs, error) {
	d, err := supervisor.DirsFromEnv()
	if err == nil && runDir != "" {
		d.Run, err = filepath.Abs(runDir)
	}
	return d, err
}

// startInstances starts an instance of each of the volumes, for the container of r,
// changes the sources of their mounts in c, and adds the mounts to p and infos.
func startInstances(r request, d supervisor.Dirs, c *bundleConfig, ds []dedicatedMount, p *plan, infos map[int]attach.Info) error {
	hold, err := newHold()
	if err != nil {
		return fmt.Errorf("cannot start a dedicated volume: %w", err)
	}
	defer hold.Close()
	suffix := volume.InstanceSuffix(r.rootDir, r.container)
	started := map[string]attach.Info{}
	for _, dm := range ds {
		name := dm.volume.Name
		spec := &c.mounts[dm.index]
		m := plannedMount{Index: dm.index, Volume: name, Source: spec.Source, Destination: spec.Destination}
		if err := checkSupported(c, m); err != nil {
			return m.describe(err)
		}
		info, ok := started[name]
		if !ok {
			// Writable if one of the container's mounts of it is.
			readOnly := !slices.ContainsFunc(ds, func(o dedicatedMount) bool {
				return o.volume.Name == name && !hasOption(c.mounts[o.index].Options, "ro")
			})
			info, err = startInstance(d, name, launch.Instance{Name: name + suffix, ReadOnly: readOnly, Hold: hold})
			if err != nil {
				return m.describe(err)
			}
			started[name] = info
		}
		c.setSource(dm.index, d.Volume(info.Name))
		planned := newPlannedMount(dm.index, spec.Source, spec.Destination, spec.Options, info)
		planned.Volume = name
		infos[dm.index] = info
		p.Mounts = append(p.Mounts, planned)
	}
	slices.SortFunc(p.Mounts, func(a, b plannedMount) int { return cmp.Compare(a.Index, b.Index) })
	return nil
}

// startInstance starts one, and returns what its volume.json says.
func startInstance(d supervisor.Dirs, name string, i launch.Instance) (attach.Info, error) {
	ctx, cancel := context.WithTimeout(context.Background(), instanceStart)
	defer cancel()
	// There is no container of this ID: an instance of its name belongs to an earlier
	// one, or to a creation that has failed, and is ending.
	if err := launch.Stop(ctx, d, i.Name, false /* force */); err != nil {
		return attach.Info{}, err
	}
	if err := launch.StartInstance(ctx, d, name, i); err != nil {
		// It knows itself by another name than the user does.
		text := strings.ReplaceAll(err.Error(), fmt.Sprintf("volume %q: ", i.Name), "")
		return attach.Info{}, errors.New(text)
	}
	return attach.ReadInfo(d.Volume(i.Name))
}

// newHold returns the reading end of a pipe whose writing end stays open until this
// process ends. It is a bare descriptor, because nothing refers to it.
func newHold() (*os.File, error) {
	var p [2]int
	if err := unix.Pipe2(p[:], unix.O_CLOEXEC); err != nil {
		return nil, fmt.Errorf("pipe: %w", err)
	}
	return os.NewFile(uintptr(p[0]), "hold"), nil
}

// deleter is the subcommand that deletes containers.
type deleter struct{ util.SubCommand }

// Execute implements subcommands.Command. The container's instances of dedicated
// volumes are ending when it returns, and as a rule gone.
func (d *deleter) Execute(ctx context.Context, f *flag.FlagSet, args ...any) subcommands.ExitStatus {
	status := d.SubCommand.Execute(ctx, f, args...)
	rootDir := args[0].(*config.Config).RootDir
	for _, id := range f.Args() {
		if !containerExists(request{container: id, rootDir: rootDir}) {
			endInstances(ctx, rootDir, id)
		}
	}
	return status
}

// endInstances stops the instances of a container that is gone.
func endInstances(ctx context.Context, rootDir, id string) {
	ctx, cancel := context.WithTimeout(ctx, instanceEnd)
	defer cancel()
	d, err := dirsIn("")
	if err != nil {
		return // creating the container has said it
	}
	names, err := supervisor.Names(d)
	if err != nil {
		log.Warningf("fsva: look for instances of dedicated volumes: %v", err)
	}
	suffix := volume.InstanceSuffix(rootDir, id)
	for _, name := range names {
		if !strings.HasSuffix(name, suffix) {
			continue
		}
		if err := launch.Stop(ctx, d, name, false /* force */); err != nil {
			log.Warningf("fsva: instance %s goes on ending by itself: %v", name, err)
		}
	}
}
