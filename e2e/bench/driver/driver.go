// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

// Package driver times commands from inside: it is the one process of a benchmark's container, and runs natively for
// comparison. It reads requests as JSON lines and answers each with a line, so that one container serves many
// measurements and its start is in none of them.
//
// The peer is the benchmark itself and is trusted. Requests are served in order, one at a time.
package driver

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"time"
)

// Request is one command to run.
type Request struct {
	// Args is the command, looked up on PATH, and its arguments.
	Args []string `json:"args"`
	// Dir is the command's working directory. The driver itself never enters it, so that it can be unmounted.
	Dir string `json:"dir"`
	// Output asks for the command's stdout; otherwise that is /dev/null.
	Output bool `json:"output,omitempty"`
}

// Response says how a command ended.
type Response struct {
	// Elapsed is the wall time from before the command was started until it was waited for.
	Elapsed time.Duration `json:"elapsed_ns"`
	Output  string        `json:"output,omitempty"`
	// Error is empty if the command exited with 0; otherwise it says why not, with the end of its stderr.
	Error string `json:"error,omitempty"`
}

// Serve answers requests until in ends. It fails when in holds something else, or out cannot be written; a command that
// fails is an answer.
func Serve(in io.Reader, out io.Writer) error {
	requests, responses := json.NewDecoder(in), json.NewEncoder(out)
	for {
		var req Request
		if err := requests.Decode(&req); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return fmt.Errorf("request: %w", err)
		}
		if err := responses.Encode(run(req)); err != nil {
			return fmt.Errorf("response: %w", err)
		}
	}
}

func run(req Request) Response {
	if len(req.Args) == 0 {
		return Response{Error: "no command"}
	}
	cmd := exec.Command(req.Args[0], req.Args[1:]...)
	var stdout, stderr bytes.Buffer
	cmd.Dir, cmd.Stderr = req.Dir, &stderr
	if req.Output {
		cmd.Stdout = &stdout
	}
	start := time.Now()
	err := cmd.Run()
	r := Response{Elapsed: time.Since(start), Output: stdout.String()}
	if err != nil {
		r.Error = fmt.Sprintf("%q: %v: %s%s", req.Args, err, tail(stdout.String()), tail(stderr.String()))
	}
	return r
}

func tail(s string) string {
	const keep = 2000
	return s[max(0, len(s)-keep):]
}

// filesPerDir bounds the directories that Create makes.
const filesPerDir = 100

// Create makes count files of size bytes in new directories below dir, 100 in each: every file is created, written
// with one write, and closed.
func Create(dir string, count, size int) error {
	content := make([]byte, size)
	for i := range count {
		sub := filepath.Join(dir, fmt.Sprintf("d%03d", i/filesPerDir))
		if i%filesPerDir == 0 {
			if err := os.Mkdir(sub, 0o755); err != nil {
				return err
			}
		}
		for j := range content {
			content[j] = byte((i + 1) * (j + 7))
		}
		if err := os.WriteFile(filepath.Join(sub, fmt.Sprintf("f%05d", i)), content, 0o644); err != nil {
			return err
		}
	}
	return nil
}
