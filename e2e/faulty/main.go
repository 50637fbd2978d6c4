// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

// Command faulty shows what an application is told when its file system fails:
//
//	faulty serve SOURCE MOUNTPOINT   a FUSE server of the directory SOURCE/tree that fails on demand
//	faulty probe DIR SOURCE          an application on the file system at DIR that asks it to, and prints what happens
//	faulty count DIR                 an application that does a known number of operations
//
// What fails is in the file SOURCE/faults, one "OPERATION ERRNO" a line, such as "FSYNC EIO".
package main

import (
	"fmt"
	"os"
)

func main() {
	var err error
	switch args := os.Args[1:]; {
	case len(args) == 3 && args[0] == "serve":
		err = serve(args[1], args[2])
	case len(args) == 3 && args[0] == "probe":
		err = (&probe{dir: args[1], source: args[2]}).run()
	case len(args) == 2 && args[0] == "count":
		err = count(args[1])
	default:
		fmt.Fprintln(os.Stderr, "usage: faulty serve SOURCE MOUNTPOINT | probe DIR SOURCE | count DIR")
		os.Exit(2)
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "faulty: %v\n", err)
		os.Exit(1)
	}
}
