// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"io"
	"log/slog"

	"github.com/spf13/pflag"
)

// logFlags are the flags of commands that log.
type logFlags struct {
	level  string
	format string
}

// add defines the flags.
func (f *logFlags) add(fl *pflag.FlagSet) {
	fl.StringVar(&f.level, "log-level", "info", "debug, info, warn or error")
	fl.StringVar(&f.format, "log-format", "text", "text, or json: one object a line")
}

// logger returns a logger to w, and the least level that it logs. An error is one
// of usage.
func (f *logFlags) logger(w io.Writer) (*slog.Logger, slog.Level, error) {
	level, err := parseLogLevel(f.level)
	if err != nil {
		return nil, 0, fmt.Errorf("--log-level %w", err)
	}
	log, err := newLogger(w, level, f.format)
	if err != nil {
		return nil, 0, fmt.Errorf("--log-format %w", err)
	}
	return log, level, nil
}

// parseLogLevel parses the name of a level.
func parseLogLevel(text string) (slog.Level, error) {
	var level slog.Level
	if err := level.UnmarshalText([]byte(text)); err != nil {
		return 0, fmt.Errorf("%q is not debug, info, warn or error", text)
	}
	return level, nil
}

// newLogger logs to w what is of at least that level, as text or json.
func newLogger(w io.Writer, level slog.Level, format string) (*slog.Logger, error) {
	o := &slog.HandlerOptions{Level: level}
	switch format {
	case "text":
		return slog.New(slog.NewTextHandler(w, o)), nil
	case "json":
		return slog.New(slog.NewJSONHandler(w, o)), nil
	}
	return nil, fmt.Errorf("%q is neither text nor json", format)
}
