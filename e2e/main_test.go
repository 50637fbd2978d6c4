// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build e2e

// Package e2e runs the whole of FSVA as its users do: docker run, our runsc, fsva serve, the FUSE servers that Debian
// packages. It needs root and the packages that scripts/setup lists; package harness gives each run a docker daemon of
// its own and checks after each volume that nothing is left of it.
//
//	make e2e
//	go test -tags e2e -timeout 40m ./e2e -run TestServers/squashfs
//
// Environment: FSVA_BIN_DIR takes fsva and runsc from there; FSVA_E2E_RUNSC_ARGS adds flags to the runtimes, for
// example "--debug --debug-log=/tmp/runsc/"; CI=true turns a skip for a missing privilege or program into a failure.
package e2e

import (
	"fmt"
	"os"
	"testing"

	"fsva/e2e/harness"
)

// env is what all tests share; nil without root. Set before the tests start.
var env *harness.Env

func TestMain(m *testing.M) {
	if dir, ok := os.LookupEnv(mapEnv); ok {
		fmt.Fprintln(os.Stderr, mapFiles(dir)) // it returns an error only
		os.Exit(1)
	}
	os.Exit(harness.Main(m.Run, func(e *harness.Env) { env = e }))
}
