// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package sentryglue

import (
	"context"
	"fmt"
	"os"

	"github.com/google/subcommands"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"gvisor.dev/gvisor/runsc/cmd"
	"gvisor.dev/gvisor/runsc/cmd/alias"
	"gvisor.dev/gvisor/runsc/cmd/nvproxy"
	"gvisor.dev/gvisor/runsc/cmd/profile"
	"gvisor.dev/gvisor/runsc/cmd/sentry/sentrycmd"
	"gvisor.dev/gvisor/runsc/cmd/trace"
	"gvisor.dev/gvisor/runsc/cmd/util"
	"gvisor.dev/gvisor/runsc/config"
	"gvisor.dev/gvisor/runsc/container"
	"gvisor.dev/gvisor/runsc/flag"
	"gvisor.dev/gvisor/runsc/specutils"

	// gVisor carries helper binaries in runsc, see its package maincli.
	_ "gvisor.dev/gvisor/runsc/gvisorbinaries/embed"
)

// commands returns runsc's subcommands with their groups, and its help topics.
// They are those of gVisor's maincli package, which has no way to change one;
// TestCommandsAreStock compares the two.
func commands() (map[util.SubCommand]string, []subcommands.Command) {
	all := alias.Commands()
	for group, members := range map[string][]util.SubCommand{
		"": {
			&creator{SubCommand: new(cmd.Create)},
			&creator{SubCommand: new(cmd.Run)},
			&creator{SubCommand: new(cmd.Restore)},
			new(cmd.Checkpoint), &deleter{new(cmd.Delete)}, new(cmd.Do), new(cmd.Events), new(cmd.Exec),
			new(cmd.FSCheckpoint), new(cmd.Kill), new(cmd.List), new(cmd.PS), new(cmd.Pause),
			new(cmd.PortForward), new(cmd.Read), new(cmd.Resume), new(cmd.SandboxExec), new(cmd.Spec),
			&starter{SubCommand: new(cmd.Start)}, new(cmd.State), new(cmd.Tar), new(cmd.Update), new(cmd.Wait),
		},
		"helpers": {
			new(cmd.CPUFeatures), new(cmd.Features), new(cmd.Install), new(cmd.Mitigate),
			new(cmd.Uninstall), new(nvproxy.Nvproxy), new(trace.Trace),
		},
		"debug": {
			new(cmd.Debug), new(cmd.ReadControl), new(cmd.Statefile), new(cmd.Symbolize),
			new(cmd.Usage), new(cmd.WriteControl), new(profile.Profile),
		},
		"metrics": {
			new(cmd.MetricExport), new(cmd.MetricMetadata), new(cmd.MetricServer),
		},
		"internal use only": {
			new(cmd.Gofer), new(sentrycmd.Boot), new(sentrycmd.Umount),
		},
	} {
		for _, member := range members {
			all[member] = group
		}
	}
	return all, []subcommands.Command{new(cmd.Platforms), new(cmd.Syscalls)}
}

// creator is a subcommand that makes a container from a bundle, with the spec
// pass before it.
type creator struct {
	util.SubCommand
	plan *plan // made by FetchSpec
}

// FetchSpec implements util.SubCommand. gVisor calls it once, before it reads
// config.json for the first time. A volume that cannot be mounted ends the
// process with one line.
func (c *creator) FetchSpec(conf *config.Config, f *flag.FlagSet) (string, *specs.Spec, error) {
	if f.NArg() == 1 { // else gVisor complains
		c.plan = mustPlan(request{
			container: f.Arg(0),
			bundle:    f.Lookup("bundle").Value.String(),
			rootDir:   conf.RootDir,
			restore:   c.Name() == "restore",
		})
	}
	return c.SubCommand.FetchSpec(conf, f)
}

// mustPlan is the spec pass. It leaves the plan for the gofers of this process,
// and ends the process if there is a volume that cannot be mounted.
func mustPlan(r request) *plan {
	p, err := specPass(r, os.Getenv("FSVA_RUNDIR"))
	if err == nil && p != nil {
		err = p.setEnv()
	}
	if err != nil {
		util.Fatalf("%v", err)
	}
	return p
}

// Execute implements subcommands.Command.
func (c *creator) Execute(ctx context.Context, f *flag.FlagSet, args ...any) subcommands.ExitStatus {
	return execute(ctx, c.SubCommand, c.plan, f, args)
}

// execute runs a subcommand that starts the gofer for p, nil if it has no
// volumes.
func execute(ctx context.Context, command util.SubCommand, p *plan, f *flag.FlagSet, args []any) subcommands.ExitStatus {
	if p != nil {
		if err := explainErrors(args[0].(*config.Config)); err != nil {
			return util.Errorf("cannot prepare the container's volumes: %v", err)
		}
	}
	return command.Execute(ctx, f, args...)
}

// starter is the subcommand that starts a container. For one that joins a pod's
// sandbox, gVisor starts the gofer only then, and the spec pass is made again.
type starter struct {
	util.SubCommand
	plan *plan // made by FetchSpec
}

// FetchSpec implements util.SubCommand.
func (s *starter) FetchSpec(conf *config.Config, f *flag.FlagSet) (string, *specs.Spec, error) {
	id, spec, err := s.SubCommand.FetchSpec(conf, f)
	if err != nil || specutils.IsRootContainer(spec) {
		return id, spec, err
	}
	c, err := container.Load(conf.RootDir, container.FullID{ContainerID: id}, container.LoadOpts{SkipCheck: true})
	if err != nil {
		return "", nil, fmt.Errorf("loading container: %w", err)
	}
	s.plan = mustPlan(request{container: id, bundle: c.BundleDir, rootDir: conf.RootDir})
	return id, spec, nil
}

// Execute implements subcommands.Command.
func (s *starter) Execute(ctx context.Context, f *flag.FlagSet, args ...any) subcommands.ExitStatus {
	return execute(ctx, s.SubCommand, s.plan, f, args)
}
