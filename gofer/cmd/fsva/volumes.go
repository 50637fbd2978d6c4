// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os/signal"
	"text/tabwriter"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"fsva/gofer/launch"
	"fsva/gofer/supervisor"
	"fsva/gofer/supervisor/goferproto"
	"fsva/gofer/volume"
)

// newVolumeCommand is `fsva volume`.
func newVolumeCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "volume",
		Short: "define volumes, to be served by name",
		Args:  noCommand,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newVolumeCreateCommand(), newVolumeLsCommand(), newVolumeInspectCommand(), newVolumeRmCommand())
	for _, sub := range cmd.Commands() {
		markUsageErrors(sub)
	}
	return cmd
}

func newVolumeCreateCommand() *cobra.Command {
	var f definitionFlags
	cmd := &cobra.Command{
		Use:   "create NAME --appliance A [--source S] [-o NAME=VALUE]... [flags]",
		Short: "define a volume",
		Long: `create checks a volume as fsva serve would and keeps its definition, with the paths
in it made absolute, in the state directory. It prints the directory that containers
mount. fsva serve NAME starts the volume.

A --dedicated volume is not served by hand. Our runsc starts an instance of it for
each container that mounts the directory, and stops it with the container; --cpus,
--memory and --pids are limits of each instance.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			f.Name = args[0]
			if err := supervisor.CheckName(f.Name); err != nil {
				return usageError{err}
			}
			if err := f.parse(); err != nil {
				return usageError{err}
			}
			if f.Appliance == "" {
				return usageError{errNoAppliance}
			}
			dirs, err := supervisor.DirsFromEnv()
			if err != nil {
				return err
			}
			if err := checkImage(f.Definition, dirs); err != nil {
				return err
			}
			d, err := volume.Open(dirs.State).Create(f.Definition)
			if err != nil {
				return err
			}
			_, err = fmt.Fprintln(cmd.OutOrStdout(), mountDir(dirs, d))
			return err
		},
	}
	fl := cmd.Flags()
	fl.SortFlags = false
	f.add(fl)
	fl.BoolVar(&f.Dedicated, "dedicated", false, "an instance for each container, started and stopped with it")
	return cmd
}

// checkImage reports whether there is an image for the volume, if it needs one.
func checkImage(d volume.Definition, dirs supervisor.Dirs) error {
	plan, err := d.Resolve(dirs.State)
	if err != nil {
		return err
	}
	release, err := useImage(&plan, dirs)
	if err == nil {
		release()
	}
	return err
}

// mountDir is what containers mount.
func mountDir(dirs supervisor.Dirs, d volume.Definition) string {
	if d.Dedicated {
		return volume.Open(dirs.State).MountDir(d.Name)
	}
	return dirs.Volume(d.Name)
}

// volumeStatus is a definition and what there is of it.
type volumeStatus struct {
	volume.Definition
	// Directory is what containers mount.
	Directory string `json:"directory"`
	// State is that of the volume, or "stopped"; of a dedicated volume it is empty,
	// and Instances are those that run.
	State     string     `json:"state,omitempty"`
	Instances []instance `json:"instances,omitempty"`
	// Problem is why the volume would not start now.
	Problem string `json:"problem,omitempty"`
}

// instance is one of a dedicated volume.
type instance struct {
	Name      string `json:"name"`
	State     string `json:"state"`
	Container string `json:"container,omitempty"`
}

const stateStopped = "stopped"

// volumeStatuses describes definitions.
func volumeStatuses(ctx context.Context, dirs supervisor.Dirs, all []volume.Definition) ([]volumeStatus, error) {
	running, err := supervisor.List(ctx, dirs)
	if err != nil {
		return nil, err
	}
	byName := map[string]supervisor.Status{}
	instances := map[string][]instance{}
	for _, s := range running {
		byName[s.Name] = s
		if name, ok := volume.SplitInstance(s.Name); ok {
			i := instance{Name: s.Name, State: s.StateText()}
			if s.Gofer != nil && len(s.Gofer.Attached) > 0 {
				i.Container = s.Gofer.Attached[0].Container
			}
			instances[name] = append(instances[name], i)
		}
	}
	out := []volumeStatus{}
	for _, d := range all {
		v := volumeStatus{Definition: d, Directory: mountDir(dirs, d)}
		if d.Dedicated {
			v.Instances = instances[d.Name]
		} else {
			v.State = stateStopped
			if s, ok := byName[d.Name]; ok {
				v.State = s.StateText()
			}
		}
		if err := checkImage(d, dirs); err != nil {
			v.Problem = err.Error()
		}
		out = append(out, v)
	}
	return out, nil
}

func newVolumeLsCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "ls",
		Short: "list the volumes that are defined",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			dirs, err := supervisor.DirsFromEnv()
			if err != nil {
				return err
			}
			// What could be listed is shown even if there is an error.
			all, err := volume.Open(dirs.State).List()
			vs, serr := volumeStatuses(cmd.Context(), dirs, all)
			if serr != nil {
				return serr
			}
			werr := error(nil)
			if asJSON {
				werr = writeJSON(cmd.OutOrStdout(), vs)
			} else {
				werr = writeVolumes(cmd.OutOrStdout(), vs)
			}
			return errors.Join(err, werr)
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func writeVolumes(w io.Writer, all []volumeStatus) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "NAME\tAPPLIANCE\tSTATE\tSOURCE\tDIRECTORY")
	for _, v := range all {
		state := v.State
		if v.Dedicated {
			state = fmt.Sprintf("dedicated, %d running", len(v.Instances))
		}
		if v.Problem != "" && (state == stateStopped || v.Dedicated) {
			state += ": " + v.Problem
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\n", v.Name, v.Appliance, goferproto.Line(state, maxCell),
			orDash(goferproto.Line(v.Source, maxCell)), goferproto.Line(v.Directory, maxCell))
	}
	return t.Flush()
}

func newVolumeInspectCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "inspect NAME...",
		Short: "show definitions as JSON",
		Args:  cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			dirs, err := supervisor.DirsFromEnv()
			if err != nil {
				return err
			}
			var all []volume.Definition
			for _, name := range args {
				d, err := volume.Open(dirs.State).Get(name)
				if err != nil {
					return err
				}
				all = append(all, d)
			}
			vs, err := volumeStatuses(cmd.Context(), dirs, all)
			if err != nil {
				return err
			}
			return writeJSON(cmd.OutOrStdout(), vs)
		},
	}
}

func newVolumeRmCommand() *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use:   "rm NAME...",
		Short: "remove definitions of volumes that do not run",
		Long: `rm removes definitions, and nothing that a volume's source holds. What an appliance
keeps from one run to the next, such as uploads in waiting, stays, and rm says where.`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			dirs, err := supervisor.DirsFromEnv()
			if err != nil {
				return err
			}
			ctx, stop := signal.NotifyContext(cmd.Context(), unix.SIGINT, unix.SIGTERM)
			defer stop()
			var errs []error
			for _, name := range args {
				kept, err := launch.Remove(ctx, dirs, name, force)
				errs = append(errs, err)
				for _, path := range kept {
					fmt.Fprintf(cmd.ErrOrStderr(), "fsva: kept %s\n", path)
				}
			}
			return errors.Join(errs...)
		},
	}
	cmd.Flags().BoolVar(&force, "force", false, "stop a volume that runs, or the instances of a dedicated one")
	return cmd
}
