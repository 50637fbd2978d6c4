// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

// Command gotest runs `go test -json` and prints what a person waiting for it
// wants to see: each package's result line as go test words it, the output of
// the tests that failed, a sign of life while nothing else is printed, and
// every skipped test with its reason.
//
//	go run ./scripts/gotest [-each] [-results FILE] -- [go test flags] [packages]
//
// With CI=true in the environment a skip that .ci/allowed-skips does not name
// fails the run. The exit status is go test's, or 1 for a forbidden skip.
//
// Its peer is our own go command: trusted.
package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"time"
)

const (
	allowedSkipsFile = ".ci/allowed-skips"
	// quietLimit is how long nothing may be printed before a sign of life.
	quietLimit = 15 * time.Second
)

func main() {
	each := flag.Bool("each", false, "print a line for each top-level test, not only for failures")
	results := flag.String("results", "", "append the package result lines to `FILE`")
	flag.Parse()

	status, err := run(os.Stdout, *each, *results, flag.Args())
	if err != nil {
		fmt.Fprintf(os.Stderr, "gotest: %v\n", err)
	}
	os.Exit(status)
}

// run runs go test with args and returns the exit status for the process.
func run(out io.Writer, each bool, resultsFile string, args []string) (int, error) {
	allowed, err := readAllowedSkips(allowedSkipsFile)
	if err != nil {
		return 1, err
	}

	cmd := exec.Command("go", append([]string{"test", "-json"}, args...)...)
	cmd.Stderr = os.Stderr
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return 1, err
	}
	if err := cmd.Start(); err != nil {
		return 1, err
	}

	r := newReport(out, each)
	follow(r, stdout)
	waitErr := cmd.Wait()

	forbidden := r.finish(allowed)
	if resultsFile != "" {
		if err := appendLines(resultsFile, r.packageLines); err != nil {
			return 1, err
		}
	}
	var exit *exec.ExitError
	switch {
	case errors.As(waitErr, &exit):
		return max(exit.ExitCode(), 1), nil
	case waitErr != nil:
		return 1, waitErr
	case len(forbidden) > 0 && os.Getenv("CI") == "true":
		return 1, fmt.Errorf("%d skipped tests are not named in %s", len(forbidden), allowedSkipsFile)
	}
	return 0, nil
}

// follow feeds the events on in to r until EOF and lets r show a sign of life
// when none come.
func follow(r *report, in io.Reader) {
	lines := make(chan []byte)
	go func() {
		defer close(lines)
		br := bufio.NewReader(in)
		for {
			line, err := br.ReadBytes('\n')
			if len(line) > 0 {
				lines <- line
			}
			if err != nil {
				return
			}
		}
	}()

	tick := time.NewTicker(quietLimit)
	defer tick.Stop()
	for {
		select {
		case line, ok := <-lines:
			if !ok {
				return
			}
			var e event
			if err := json.Unmarshal(line, &e); err != nil {
				// Not an event: go itself complaining before any test ran.
				e = event{Action: "build-output", Output: string(line)}
			}
			r.add(e)
		case <-tick.C:
			r.alive(time.Now())
		}
	}
}

func appendLines(path string, lines []string) error {
	f, err := os.OpenFile(filepath.Clean(path), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o644)
	if err != nil {
		return err
	}
	for _, line := range lines {
		if _, err := io.WriteString(f, line); err != nil {
			return errors.Join(err, f.Close())
		}
	}
	return f.Close()
}
