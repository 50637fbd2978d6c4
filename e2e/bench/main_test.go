// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build e2e || bench

// Package bench measures whole containers: what a volume costs when one starts, and how fast an FS server in its own
// gVisor sandbox is against the same server mounted on the kernel. Each benchmark measures its baseline in the same
// run, alternating with what it is compared to, and reports medians and their ratio. One iteration is a whole
// comparison, so run it with -benchtime 1x; no number is judged here.
//
//	go test -tags e2e -run '^$' -bench . -benchtime 1x ./e2e/bench
package bench

import (
	"os"
	"testing"

	"fsva/e2e/harness"
)

// env is what all benchmarks share; nil without root. Set before they start.
var env *harness.Env

func TestMain(m *testing.M) {
	os.Exit(harness.Main(m.Run, func(e *harness.Env) { env = e }))
}
