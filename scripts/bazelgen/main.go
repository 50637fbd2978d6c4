// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

// Command bazelgen writes the BUILD.bazel file of every Go package of this module from the package's own files:
//
//	go run ./scripts/bazelgen [-check]
//
// With -check it writes nothing, names the files that are not up to date, and fails if there are any. What imports do
// not say is said in a package's tests, in comments of their own:
//
//	//bazel:data LABEL...    the tests read these files of other directories
//	//bazel:tags TAG...      more tags for the target of the tests, such as manual
//
// It reads only what package clauses, imports and build constraints need, and runs no go command: it takes a fraction
// of a second. A BUILD.bazel file without its first line is somebody's own and left alone.
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

func main() {
	check := flag.Bool("check", false, "write nothing; fail if a file is not up to date")
	flag.Parse()
	if flag.NArg() > 0 {
		fmt.Fprintf(os.Stderr, "bazelgen: unexpected argument %q\n", flag.Arg(0))
		os.Exit(2)
	}
	if err := run(".", *check); err != nil {
		fmt.Fprintf(os.Stderr, "bazelgen: %v\n", err)
		os.Exit(1)
	}
}

// run brings the BUILD.bazel files of the module in root up to date, or only checks them.
func run(root string, check bool) error {
	want, err := generate(root)
	if err != nil {
		return err
	}
	have, err := existing(root)
	if err != nil {
		return err
	}
	stale := false
	for _, name := range union(want, have) {
		byHand := have[name] != "" && !strings.HasPrefix(have[name], header)
		if byHand || want[name] == have[name] {
			continue
		}
		stale = true
		if check {
			fmt.Fprintf(os.Stderr, "bazelgen: not up to date: %s\n", name)
			continue
		}
		path := filepath.Join(root, name)
		if want[name] == "" {
			err = os.Remove(path)
		} else {
			err = os.WriteFile(path, []byte(want[name]), 0o644)
		}
		if err != nil {
			return err
		}
		fmt.Println(name)
	}
	if check && stale {
		return errors.New("run `make bazel` and commit what it changes")
	}
	return nil
}
