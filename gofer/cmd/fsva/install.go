// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"fsva/gofer/supervisor"
	runscconfig "fsva/runsc-config"
)

// newInstallCommand is `fsva install`.
func newInstallCommand() *cobra.Command {
	return newConfigCommand("install", "register our runsc with docker or containerd",
		`Adds one runtime to the configuration of docker (/etc/docker/daemon.json) or
containerd (/etc/containerd/config.toml), and shows the difference. Nothing that
is there is changed; a runtime of the same name that is not ours is an error. The
file that was there is kept beside the new one. fsva uninstall takes back what
was added, and nothing else.`,
		runscconfig.Install)
}

// newUninstallCommand is `fsva uninstall`.
func newUninstallCommand() *cobra.Command {
	return newConfigCommand("uninstall", "undo fsva install",
		`Removes from the configuration of docker or containerd what fsva install has
added, and nothing else, and shows the difference. Containers that run go on.`,
		runscconfig.Uninstall)
}

func newConfigCommand(name, short, long string, plan func(runscconfig.Target, runscconfig.Options) (*runscconfig.Plan, error)) *cobra.Command {
	var (
		o      runscconfig.Options
		dryRun bool
	)
	cmd := &cobra.Command{
		Use:       name + " docker|containerd",
		Short:     short,
		Long:      long,
		Args:      cobra.MatchAll(cobra.ExactArgs(1), cobra.OnlyValidArgs),
		ValidArgs: []string{string(runscconfig.Docker), string(runscconfig.Containerd)},
		RunE: func(cmd *cobra.Command, args []string) error {
			dirs, err := supervisor.DirsFromEnv()
			if err != nil {
				return err
			}
			o.StateDir = dirs.State
			if o.Runsc == "" {
				if o.Runsc, err = runscFor(o.Prefix); err != nil {
					return err
				}
			}
			p, err := plan(runscconfig.Target(args[0]), o)
			if err != nil {
				return err
			}
			if name == "install" {
				if err := checkBinaries(o, runscconfig.Target(args[0]), p); err != nil {
					return err
				}
			}
			return carryOut(cmd.OutOrStdout(), p, dryRun)
		},
	}
	f := cmd.Flags()
	f.BoolVar(&dryRun, "dry-run", false, "show the difference and change nothing")
	f.StringVar(&o.Prefix, "prefix", "", "the directory that stands for /, to prepare an image or a package")
	f.StringVar(&o.ConfigFile, "config-file", "", "the configuration file, if not the usual one")
	f.StringVar(&o.Runtime, "runtime", runscconfig.DefaultRuntime, "the runtime's name")
	f.StringVar(&o.Runsc, "runsc", "", "our runsc, with the shim beside it (default: beside fsva)")
	return cmd
}

// runscFor returns the runsc beside this program, as the machine whose root is
// prefix sees it.
func runscFor(prefix string) (string, error) {
	exe, err := os.Executable()
	if err != nil {
		return "", err
	}
	if exe, err = filepath.EvalSymlinks(exe); err != nil {
		return "", err
	}
	runsc := filepath.Join(filepath.Dir(exe), "runsc")
	if prefix == "" {
		return runsc, nil
	}
	root, err := filepath.Abs(prefix)
	if err != nil {
		return "", err
	}
	if rel, err := filepath.Rel(root, runsc); err == nil && filepath.IsLocal(rel) {
		return filepath.Join("/", rel), nil
	}
	return runsc, nil
}

// checkBinaries returns an error if what the runtime needs is not on this
// machine, and notes what a prefix does not have yet.
func checkBinaries(o runscconfig.Options, t runscconfig.Target, p *runscconfig.Plan) error {
	for _, path := range runscconfig.Binaries(t, o.Runsc) {
		_, err := os.Stat(filepath.Join(o.Prefix, path))
		switch {
		case err == nil:
		case o.Prefix != "":
			p.Notes = append(p.Notes, fmt.Sprintf("%s has no %s yet", o.Prefix, path))
		default:
			return fmt.Errorf("%w: build it with make build, or say where it is with --runsc", err)
		}
	}
	return nil
}

// carryOut shows p and, unless it is only to be shown, applies it.
func carryOut(w io.Writer, p *runscconfig.Plan, dryRun bool) error {
	var text strings.Builder
	if err := p.Diff(&text); err != nil {
		return err
	}
	if !dryRun {
		if err := p.Apply(); err != nil {
			return err
		}
	}
	for _, note := range p.Notes {
		fmt.Fprintf(&text, "note: %s\n", note)
	}
	switch {
	case len(p.Changes) == 0:
		text.WriteString("nothing to change\n")
	case dryRun:
		text.WriteString("nothing has been changed (--dry-run)\n")
	default:
		for _, c := range p.Changes {
			if c.Backup != "" {
				fmt.Fprintf(&text, "kept what was in %s as %s\n", c.Path, c.Backup)
			}
		}
		if p.Service != "" {
			fmt.Fprintf(&text, "now run: %s\n", p.Service)
		}
	}
	_, err := io.WriteString(w, text.String())
	return err
}
