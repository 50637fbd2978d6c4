// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

// Command driver runs and times the benchmark's commands inside a container: see package driver.
//
//	driver                       serve requests from stdin until it ends
//	driver create DIR COUNT SIZE make COUNT files of SIZE bytes below DIR
package main

import (
	"fmt"
	"os"
	"strconv"

	"fsva/e2e/bench/driver"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintf(os.Stderr, "driver: %v\n", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	switch {
	case len(args) == 0:
		return driver.Serve(os.Stdin, os.Stdout)
	case len(args) == 4 && args[0] == "create":
		count, err := strconv.Atoi(args[2])
		if err != nil {
			return err
		}
		size, err := strconv.Atoi(args[3])
		if err != nil {
			return err
		}
		return driver.Create(args[1], count, size)
	default:
		return fmt.Errorf("unknown arguments %q", args)
	}
}
