// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"fsva/gofer/appliance"
	"fsva/gofer/image"
	"fsva/gofer/listen"
	"fsva/gofer/supervisor"
	"fsva/gofer/top"
	"fsva/gofer/volume"
	"fsva/gofer/vsock"
)

// complete is what may follow on a command line, for a shell.
type complete = func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective)

// argCompletions say what the arguments of commands can be, by the command's path.
var argCompletions = map[string]complete{
	"serve":          first(definedVolumes),
	"stat":           first(runningVolumes),
	"stop":           first(runningVolumes),
	"ctl":            ctlArgs,
	"volume rm":      each(definedVolumes),
	"volume inspect": each(definedVolumes),
	"image build":    each(appliances),
	"image rm":       each(storedImages),
	"image inspect":  first(storedImages),
	"install":        first(words("docker", "containerd")),
	"uninstall":      first(words("docker", "containerd")),
}

// flagCompletions say what the values of flags can be, by the flag's name, which means
// the same in all commands.
var flagCompletions = map[string]complete{
	"appliance":  appliances,
	"option":     options,
	"isolation":  words(appliance.IsolationGVisor, appliance.IsolationProcess, appliance.IsolationNone, appliance.IsolationVM),
	"coherence":  words(appliance.CoherenceExclusive, appliance.CoherenceShared),
	"network":    words("none", "host"),
	"cache":      words("writethrough", "writeback"),
	"log-level":  words("debug", "info", "warn", "error"),
	"log-format": words("text", "json"),
	"sort":       words(top.SortKeys()...),
	"listen":     listeners,
}

// addCompletions adds what is known of the values of arguments and flags to all
// commands below cmd. Other values are completed as files.
func addCompletions(cmd *cobra.Command) {
	for _, c := range cmd.Commands() {
		_, path, _ := strings.Cut(c.CommandPath(), " ")
		if f, ok := argCompletions[path]; ok && c.ValidArgs == nil {
			c.ValidArgsFunction = f
		}
		for name, f := range flagCompletions {
			if c.Flags().Lookup(name) == nil {
				continue
			}
			if err := c.RegisterFlagCompletionFunc(name, f); err != nil {
				panic(err) // the command has one of its own
			}
		}
		addCompletions(c)
	}
}

// words are all that a value can be.
func words(all ...string) complete {
	return func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
		return all, cobra.ShellCompDirectiveNoFileComp
	}
}

// found are names that had to be looked for. A shell has no use for the error.
func found(names []string, err error) ([]string, cobra.ShellCompDirective) {
	if err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}

// first completes the first argument of commands that take names.
func first(f complete) complete {
	return func(cmd *cobra.Command, args []string, begun string) ([]string, cobra.ShellCompDirective) {
		if len(args) > 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return f(cmd, args, begun)
	}
}

// each completes every argument, with what is not yet among them.
func each(f complete) complete {
	return func(cmd *cobra.Command, args []string, begun string) ([]string, cobra.ShellCompDirective) {
		names, directive := f(cmd, args, begun)
		return slices.DeleteFunc(names, func(n string) bool { return slices.Contains(args, n) }), directive
	}
}

// appliances are all that can be found.
func appliances(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	return found(appliance.Names())
}

// storedImages are those that were built or imported.
func storedImages(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	dirs, err := supervisor.DirsFromEnv()
	if err != nil {
		return found(nil, err)
	}
	all, err := image.Open(dirs.State).List()
	var names []string
	for _, i := range all {
		names = append(names, i.Name)
	}
	return found(names, err)
}

// runningVolumes are those that are being served.
func runningVolumes(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	dirs, err := supervisor.DirsFromEnv()
	if err != nil {
		return found(nil, err)
	}
	return found(supervisor.Running(dirs))
}

// definedVolumes are those that fsva volume create has made.
func definedVolumes(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	dirs, err := supervisor.DirsFromEnv()
	if err != nil {
		return found(nil, err)
	}
	all, err := volume.Open(dirs.State).List()
	var names []string
	for _, d := range all {
		names = append(names, d.Name)
	}
	return found(names, err)
}

func ctlArgs(cmd *cobra.Command, args []string, begun string) ([]string, cobra.ShellCompDirective) {
	switch len(args) {
	case 0:
		return runningVolumes(cmd, args, begun)
	case 1:
		return words("cache-limit")(cmd, args, begun)
	case 2:
		return words("default")(cmd, args, begun)
	}
	return found(nil, nil)
}

// options are the names of an appliance's own options, if the appliance is known.
func options(cmd *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
	f := cmd.Flags().Lookup("appliance")
	if f == nil || f.Value.String() == "" {
		return found(nil, nil)
	}
	m, err := appliance.Load(f.Value.String())
	if err != nil {
		return found(nil, err)
	}
	var names []string
	for _, o := range m.Options {
		names = append(names, o.Name+"=")
	}
	return names, cobra.ShellCompDirectiveNoFileComp | cobra.ShellCompDirectiveNoSpace
}

// listeners are the kinds of addresses for guests; fsva metrics has its own.
func listeners(cmd *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
	kinds := []string{string(vsock.Unix) + ":"}
	switch cmd.Name() {
	case "metrics":
		kinds = append(kinds, "127.0.0.1:")
	case "serve":
		kinds = append(kinds, string(vsock.VhostUser)+":", string(listen.Virtiofs)+":")
		fallthrough
	default:
		kinds = append(kinds, string(vsock.Kernel)+":", string(vsock.Hybrid)+":")
	}
	return kinds, cobra.ShellCompDirectiveNoFileComp | cobra.ShellCompDirectiveNoSpace
}
