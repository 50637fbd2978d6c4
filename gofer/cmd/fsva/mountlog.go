// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"io"
	"log/syslog"
	"os"
	"sync"
)

// mountLog is where `fsva mount` logs: stderr, then, in the background, the system's log; or a file all the time. It
// is an io.Writer that gets one line at a time. Safe for concurrent use.
type mountLog struct {
	file *os.File // nil without log-file=

	mu sync.Mutex
	w  io.Writer // guarded by mu
}

// newMountLog logs to the file that path names, which may be there already, or to stderr if it is empty.
func newMountLog(path string, stderr io.Writer) (*mountLog, error) {
	if path == "" {
		return &mountLog{w: stderr}, nil
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("log file: %w", err)
	}
	return &mountLog{file: f, w: f}, nil
}

// Write implements io.Writer.
func (l *mountLog) Write(line []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.w.Write(line)
}

// detach gives up stderr, if there is no file: open says what takes its place. Nothing changes if that fails.
func (l *mountLog) detach(open func() (*syslog.Writer, error)) error {
	if l.file != nil {
		return nil
	}
	w, err := open()
	if err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.w = w
	return nil
}

// openSyslog connects to the log daemon of this machine.
func openSyslog() (*syslog.Writer, error) {
	return syslog.New(syslog.LOG_DAEMON|syslog.LOG_NOTICE, "fsva")
}
