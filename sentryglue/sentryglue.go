// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

// Package sentryglue is our runsc: gVisor's, plus FSVA volumes.
//
// A container mounts a volume by bind-mounting the volume's directory (package
// attach). Two additions to stock runsc make the container's sentry talk to
// the volume's gofer instead of showing that directory:
//
//   - The spec pass runs in the process that creates the container, before
//     gVisor's code. It finds the volumes among the bind mounts of config.json,
//     asks their gofers whether they would take this container, writes gVisor
//     mount hints for volumes into config.json's annotations, and leaves a plan
//     in its environment.
//   - The gofer extension runs in runsc's own gofer, which inherits that
//     environment. It gives the sentry's lisafs socket of each planned mount to
//     the volume's gofer and keeps a silent stub in its place.
//
// A container without volumes has no plan, hence no extension: it takes stock
// gVisor's path from the first instruction to the last, and so does every other
// subcommand. (A pod's first container has the hints for what may join it.)
//
// How a hint works here: gVisor applies the caching of a "container"-shared
// bind mount (cache everything) only together with an overlay that would keep
// writes from the volume. The process that creates the container decides about
// the overlay, the sentry about the caching; both look for a hint under the
// mount's source. So the hint is for a made-up source, which the creating
// process does not see, and the extension renames the mount's source to it on
// the way to the sentry. That the mount list goes through the extension's
// hands is a property of this version of gVisor; the extension checks it for
// each mount and fails with a clear error.
//
// There are two such hints, one for exclusive and one for shared volumes, and
// any number of mounts can have the same. So the containers of a pod can have
// volumes, too: gVisor reads hints from the first container of a sandbox only,
// and that one gets both, whatever it mounts itself. gVisor starts the gofer of
// a container that joins a sandbox when the container is started and not when it
// is created, so the spec pass is made then once more.
//
// Trust: config.json comes from the container manager and is trusted, as is
// whoever runs runsc. volume.json and the gofer's answers are bounded and
// checked by package attach. The container's image is not trusted: paths in it
// are resolved inside of it.
//
// Not supported, and refused with one line: volumes in a container that joins
// a sandbox which another runsc has made, or that has a user namespace (its root may not connect to the volume's socket),
// id-mapped volume mounts, hints of the user's own for a volume.
package sentryglue

import (
	"os"
	"slices"
	"strings"

	"gvisor.dev/gvisor/runsc/cli"
	"gvisor.dev/gvisor/runsc/cmd/alias"
	"gvisor.dev/gvisor/runsc/cmd/util"
	"gvisor.dev/gvisor/runsc/fsgofer/extension"
)

// Main is runsc's main function. It does not return.
func Main() {
	if inherited, ok := os.LookupEnv(planEnv); ok {
		if isGofer(os.Args[1:]) {
			p, err := decodePlan(inherited)
			if err != nil {
				util.Fatalf("%v", err)
			}
			extension.Register(newGoferExtension(p))
		} else {
			// Meant for the gofer only, but hooks get the environment, too.
			os.Unsetenv(planEnv)
		}
	}
	alias.HandleAlias()
	commands, topics := commands()
	cli.Run(nil, commands, topics)
}

// isGofer reports whether args are those with which runsc starts its gofer:
// global flags, all in one argument each, then the subcommand.
func isGofer(args []string) bool {
	i := slices.IndexFunc(args, func(a string) bool { return !strings.HasPrefix(a, "-") })
	return i >= 0 && args[i] == "gofer"
}
