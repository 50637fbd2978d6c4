// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"runtime"
	"runtime/debug"
)

// version is set by the Makefile.
var version = "devel"

// gvisorModule is the module whose version we share with our runsc.
const gvisorModule = "gvisor.dev/gvisor"

// gvisorVersion is the version of gVisor that this binary contains.
func gvisorVersion() string {
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, m := range info.Deps {
			if m.Path == gvisorModule {
				return m.Version
			}
		}
	}
	return "unknown"
}

// versionText is what `fsva --version` prints.
func versionText() string {
	return fmt.Sprintf("fsva %s\ngVisor %s\n%s %s/%s\n", version, gvisorVersion(), runtime.Version(), runtime.GOOS, runtime.GOARCH)
}
