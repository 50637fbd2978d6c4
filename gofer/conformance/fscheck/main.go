// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

// Command fscheck runs the directory-level checks of package conformance and prints one JSON line for each. It is
// static, so that it runs in any container.
//
// Exit code: 0 if every check ran, whatever the outcomes; 1 if the run itself could not go on; 2 on wrong usage. Who
// started it judges the outcomes.
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"regexp"
	"slices"

	"fsva/gofer/conformance"
)

func main() {
	conformance.Helper()
	dir := flag.String("dir", "", "directory to check; write and prepare make it")
	mode := flag.String("mode", "write", "write: the checks of a writable directory; prepare: make the fixed tree; tree: verify it; readonly: verify that it refuses changes")
	match := flag.String("run", "", "run only the checks whose name matches this expression")
	skip := flag.String("skip", "^$", "do not run the checks whose name matches this expression")
	var tree conformance.Tree
	flag.IntVar(&tree.Files, "files", 100, "files in the tree's big directory")
	flag.BoolVar(&tree.Sparse, "sparse", false, "the tree has a sparse file of 5 GiB")
	flag.BoolVar(&tree.Xattr, "xattr", false, "the tree has an extended attribute")
	flag.BoolVar(&tree.HardLink, "hardlink", false, "the tree has a hard link")
	flag.BoolVar(&tree.Symlinks, "symlinks", false, "the tree has symbolic links")
	flag.IntVar(&tree.NameMax, "name-max", 0, "bytes of the tree's longest name (default 255)")
	flag.Parse()
	re, err := regexp.Compile(*match)
	not, notErr := regexp.Compile(*skip)
	if err != nil || notErr != nil || *dir == "" || flag.NArg() != 0 {
		fmt.Fprintln(os.Stderr, "usage: fscheck -dir DIR [-mode write|prepare|tree|readonly] [-run REGEXP] [-skip REGEXP] [tree flags]")
		os.Exit(2)
	}
	if err := run(*dir, *mode, re, not, tree); err != nil {
		fmt.Fprintln(os.Stderr, "fscheck:", err)
		os.Exit(1)
	}
}

func run(dir, mode string, re, not *regexp.Regexp, tree conformance.Tree) error {
	var checks []conformance.Check
	switch mode {
	case "prepare", "write":
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
		if mode == "prepare" {
			return tree.Write(dir)
		}
		checks = conformance.WriteChecks()
	case "tree":
		checks = conformance.TreeChecks(tree)
	case "readonly":
		checks = conformance.ReadOnlyChecks()
	default:
		return fmt.Errorf("unknown mode %q", mode)
	}
	checks = slices.DeleteFunc(checks, func(c conformance.Check) bool { return !re.MatchString(c.Name) || not.MatchString(c.Name) })
	enc := json.NewEncoder(os.Stdout)
	var encErr error
	_, err := conformance.Run(checks, dir, mode != "write", func(o conformance.Outcome) {
		if err := enc.Encode(o); err != nil {
			encErr = err
		}
	})
	if err != nil {
		return err
	}
	return encErr
}
