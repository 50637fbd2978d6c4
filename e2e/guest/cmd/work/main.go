// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

// Command work does in a test guest, or anywhere else, what no shell tool does: it reads and verifies files whose content
// tells its own place, reads at random, and keeps a file system busy while it is checked.
//
// Exit code: 0 if all was as expected; 1 if not, with the reason on stderr; 2 on wrong usage.
package main

import (
	"fmt"
	"os"
	"strconv"
	"time"
)

const usage = `usage: work generate FILE BYTES            make a file whose every word tells its place
       work verify FILE BYTES              read it from start to end and verify it
       work readers COUNT FILE BYTES       the same by COUNT readers at once, each beginning at a place of its own
       work mapped FILE BYTES              the same through a private and a shared mapping
       work random FILE SECONDS            read 4 KiB at random places; prints reads per second
       work read FILE                      read it in blocks of 1 MiB, unverified
       work open COUNT DIR                 make COUNT files, keep them open, print a line, and wait to be killed
       work churn DIR STOP PROGRESS        change and verify files until the file STOP is there; PROGRESS gets the rounds`

func main() {
	err := run(os.Args[1:])
	switch {
	case err == errUsage:
		fmt.Fprintln(os.Stderr, usage)
		os.Exit(2)
	case err != nil:
		fmt.Fprintln(os.Stderr, "work:", err)
		os.Exit(1)
	}
}

var errUsage = fmt.Errorf("wrong usage")

func run(args []string) error {
	if len(args) == 0 {
		return errUsage
	}
	command, args := args[0], args[1:]
	number := func(i int) int64 {
		if i >= len(args) {
			return -1
		}
		n, err := strconv.ParseInt(args[i], 10, 64)
		if err != nil {
			return -1
		}
		return n
	}
	switch {
	case command == "generate" && len(args) == 2 && number(1) >= 0:
		return generate(args[0], number(1))
	case command == "verify" && len(args) == 2 && number(1) >= 0:
		return verify(args[0], number(1), 0)
	case command == "readers" && len(args) == 3 && number(0) > 0 && number(2) >= 0:
		return readers(int(number(0)), args[1], number(2))
	case command == "mapped" && len(args) == 2 && number(1) > 0:
		return mapped(args[0], number(1))
	case command == "random" && len(args) == 2 && number(1) > 0:
		return random(args[0], time.Duration(number(1))*time.Second)
	case command == "read" && len(args) == 1:
		return read(args[0])
	case command == "open" && len(args) == 2 && number(0) > 0:
		return open(int(number(0)), args[1])
	case command == "churn" && len(args) == 3:
		return churn(args[0], args[1], args[2])
	}
	return errUsage
}
