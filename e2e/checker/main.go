// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

// Command checker looks for stale, torn and lost bytes on a file system that many
// processes use at once, in several containers or sandboxes.
//
// # Model
//
// A board, a file that all processes map, holds the truth. The files under test
// are slots; each slot has one owner, a process that changes it, and everybody
// reads it. A file consists of blocks, and a block is in one of three states: data,
// which follows from the block's place and a version number, so that nobody has to
// store it; zeros, after the file has grown over it; or absent, beyond the end.
// Before a change, the owner notes on the board the versions that it starts to
// make, and afterwards that they are acknowledged. A reader takes what is
// acknowledged before it reads, and what is started after: what it read must be
// in between.
//
//   - Older than acknowledged is stale.
//   - Anything else than the block of one version is torn, or somebody else's.
//     Only while a change of the block is under way may it be a mixture, and then
//     each byte must still be that of one of the versions: no file system, Linux'
//     own included, lets a read or a mapping wait for a write.
//   - A read must not go back behind what the same descriptor, or mapping, saw.
//   - The board also holds which versions fsync has made safe. What is in the
//     backing store must not be older: neither during the run, nor after a crash.
//
// Names follow the same rule: a slot is at one of its worker's places, and moves,
// is replaced by a new file, or vanishes, while readers keep descriptors and
// mappings of the old file, whose contents must stay.
//
// Block sizes are those of sectors and pages, but also odd ones, so that writes
// and truncations split pages. One file for each owner, which nobody else reads,
// is changed at any byte, and compared with a copy in memory.
//
// Changes may also come from elsewhere (behind the back of the file system under
// test): they are acknowledged only when they must be visible.
//
// The commands are init, work, verify, serve (a FUSE server that sends
// notifications) and records; see their flags. The exit code is 0 if all is as it
// must be, 1 if not, 2 for a usage error.
package main

import (
	"flag"
	"fmt"
	"os"
)

var commands = map[string]func(args []string) error{
	"init":    cmdInit,
	"work":    cmdWork,
	"process": cmdProcess, // started by work
	"verify":  cmdVerify,
	"serve":   cmdServe,
	"records": cmdRecords,
}

func main() {
	if len(os.Args) < 2 || commands[os.Args[1]] == nil {
		fmt.Fprintln(os.Stderr, "usage: checker init|work|verify|serve|records [flags]")
		os.Exit(2)
	}
	if err := commands[os.Args[1]](os.Args[2:]); err != nil {
		fmt.Fprintf(os.Stderr, "checker %s: %v\n", os.Args[1], err)
		os.Exit(1)
	}
}

// flags parses the flags of one command; a mistake ends the process.
func flags(name string, args []string, define func(*flag.FlagSet)) {
	f := flag.NewFlagSet("checker "+name, flag.ExitOnError)
	define(f)
	_ = f.Parse(args) // ExitOnError
	if f.NArg() > 0 {
		fmt.Fprintf(os.Stderr, "checker %s: unexpected %q\n", name, f.Arg(0))
		os.Exit(2)
	}
}
