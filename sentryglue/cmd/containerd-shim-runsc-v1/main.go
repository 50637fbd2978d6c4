// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

// Command containerd-shim-runsc-v1 is gVisor's shim between containerd and
// runsc, from the gVisor version that our runsc is built of. containerd starts
// it by this name; its options name our runsc (see runsc-config).
//
// Two things are added. containerd 1.6 and earlier expect "start" to print the
// shim's address and nothing else, where gVisor's prints the JSON of later ones.
// And the exit status of a container that ends at once is known; see exits.
package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"

	"gvisor.dev/gvisor/pkg/shim/v1/extension"
	"gvisor.dev/gvisor/shim/v1/cli"
)

func main() {
	extension.NewExtension, extension.NewPodExtension = watchExits, watchExits
	// containerd 1.7 and later say which version of the protocol they know.
	if _, says := os.LookupEnv("MAX_SHIM_VERSION"); says || !slices.Contains(os.Args[1:], "start") {
		cli.Main()
		return
	}
	if err := startPlainly(os.Stdout, cli.Main); err != nil {
		fmt.Fprintf(os.Stderr, "containerd-shim-runsc-v1: %v\n", err)
		os.Exit(1)
	}
}

// startPlainly runs start, which prints JSON to os.Stdout, and writes the
// address in it to w. Of an error, start itself exits.
func startPlainly(w io.Writer, start func()) error {
	r, pipe, err := os.Pipe()
	if err != nil {
		return err
	}
	defer r.Close()
	stdout := os.Stdout
	os.Stdout = pipe
	start() // prints less than a pipe holds
	os.Stdout = stdout
	if err := pipe.Close(); err != nil {
		return err
	}
	out, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	address, err := plainAddress(out)
	if err != nil {
		return err
	}
	_, err = io.WriteString(w, address)
	return err
}

// plainAddress returns the address in what "start" has printed; anything but
// JSON is one already.
func plainAddress(out []byte) (string, error) {
	if len(out) == 0 || out[0] != '{' {
		return string(out), nil
	}
	var params struct {
		Address  string `json:"address"`
		Protocol string `json:"protocol"`
	}
	if err := json.Unmarshal(out, &params); err != nil {
		return "", fmt.Errorf("the parameters %.200q: %w", out, err)
	}
	if params.Protocol != "ttrpc" || params.Address == "" {
		return "", fmt.Errorf("this containerd cannot use the parameters %.200q", out)
	}
	return params.Address, nil
}
