// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

// Package agent runs commands inside a guest for the tests outside of it, over one byte stream: a virtio-serial port. It
// needs no network and no file system of the host's.
//
// Both ends speak JSON values. The guest's end says Hello once; then the host's end sends requests, any number at a time,
// and gets one response for each, in the order in which they end. Client is the host's end, Serve the guest's. Both belong
// to the tests and trust each other; a stream that breaks fails what is under way.
package agent

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"time"
)

// PortName is what the virtio-serial port is called.
const PortName = "fsva.agent"

// Hello is the first value that the guest's end sends.
type Hello struct {
	// Kernel is the guest's kernel release.
	Kernel string `json:"kernel"`
}

// Request asks for a command, or, if Write or Read is set, for a file.
type Request struct {
	ID uint64 `json:"id"`
	// Args is the command, looked up on PATH, and its arguments.
	Args  []string `json:"args,omitempty"`
	Env   []string `json:"env,omitempty"` // further variables
	Dir   string   `json:"dir,omitempty"`
	Stdin []byte   `json:"stdin,omitempty"`
	// Timeout is how long the command may run before it is killed.
	Timeout time.Duration `json:"timeout_ns,omitempty"`
	// Write is the path of a file to create with Stdin as its content and with Mode; its directory is made.
	Write string      `json:"write,omitempty"`
	Mode  fs.FileMode `json:"mode,omitempty"`
	// Read is the path of a file that becomes Stdout.
	Read string `json:"read,omitempty"`
}

// Response says how a request ended.
type Response struct {
	ID     uint64 `json:"id"`
	Stdout []byte `json:"stdout,omitempty"`
	Stderr []byte `json:"stderr,omitempty"`
	// Code is the exit code; -1 when the command was killed.
	Code int `json:"code"`
	// Elapsed is the command's wall time by the guest's clock.
	Elapsed time.Duration `json:"elapsed_ns"`
	// Error says why there is no outcome; empty if there is one.
	Error string `json:"error,omitempty"`
}

// Serve says Hello and answers requests until in ends, then waits for the commands that still run.
func Serve(in io.Reader, out io.Writer, hello Hello) error {
	requests, responses := json.NewDecoder(in), json.NewEncoder(out)
	if err := responses.Encode(hello); err != nil {
		return fmt.Errorf("hello: %w", err)
	}
	var (
		wg      sync.WaitGroup
		mu      sync.Mutex // guards responses and sendErr
		sendErr error
	)
	for {
		var req Request
		err := requests.Decode(&req)
		if err != nil {
			wg.Wait()
			if errors.Is(err, io.EOF) {
				err = nil
			}
			return errors.Join(err, sendErr)
		}
		wg.Go(func() {
			resp := handle(req)
			mu.Lock()
			defer mu.Unlock()
			if err := responses.Encode(resp); err != nil && sendErr == nil {
				sendErr = fmt.Errorf("response: %w", err)
			}
		})
	}
}

func handle(req Request) Response {
	resp := Response{ID: req.ID}
	var err error
	switch {
	case req.Write != "":
		err = errors.Join(os.MkdirAll(filepath.Dir(req.Write), 0o755), os.WriteFile(req.Write, req.Stdin, req.Mode))
	case req.Read != "":
		resp.Stdout, err = os.ReadFile(req.Read)
	case len(req.Args) == 0:
		err = errors.New("no command")
	default:
		err = run(req, &resp)
	}
	if err != nil {
		resp.Error = err.Error()
	}
	return resp
}

func run(req Request, resp *Response) error {
	ctx, cancel := context.WithTimeout(context.Background(), req.Timeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, req.Args[0], req.Args[1:]...)
	var stdout, stderr bytes.Buffer
	cmd.Dir, cmd.Stdin, cmd.Stdout, cmd.Stderr = req.Dir, bytes.NewReader(req.Stdin), &stdout, &stderr
	cmd.Env = append(os.Environ(), req.Env...)
	cmd.WaitDelay = 2 * time.Second // a grandchild may hold the pipes
	start := time.Now()
	err := cmd.Run()
	resp.Elapsed, resp.Stdout, resp.Stderr, resp.Code = time.Since(start), stdout.Bytes(), stderr.Bytes(), -1
	if cmd.ProcessState != nil {
		resp.Code = cmd.ProcessState.ExitCode()
	}
	if ctx.Err() != nil {
		return fmt.Errorf("still running after %v, killed", req.Timeout)
	}
	var exit *exec.ExitError
	// WaitDelay passed: the command itself has ended, and what it left behind is the test's affair.
	if err == nil || errors.As(err, &exit) || errors.Is(err, exec.ErrWaitDelay) {
		return nil
	}
	return err
}
