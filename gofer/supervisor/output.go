// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package supervisor

import (
	"bufio"
	"context"
	"errors"
	"io"
	"log/slog"
	"strings"
	"sync"
	"time"

	"fsva/gofer/supervisor/goferproto"
)

const (
	maxOutputLine = 2048 // bytes; the rest of a longer line is dropped
	keptLines     = 32
	// A chatty child may not fill the disk with our log.
	maxLinesPerSecond = 50

	// Attributes of log lines: which volume, in all of them, and whose words they
	// are, in those of a child.
	volumeKey    = "volume"
	componentKey = "component"
)

// output is what a child writes to its standard output and error: the last
// lines are kept, and all are logged once the volume is ready, at a bounded
// rate. The child is not trusted.
type output struct {
	log  *slog.Logger
	name string // of the child
	slog bool   // whether the child logs as parseLogLine wants it

	mu      sync.Mutex
	lines   []string // the last keptLines
	logging bool

	second  time.Time // the second that logged counts for
	logged  int
	dropped int
}

func newOutput(log *slog.Logger, name string) *output {
	return &output{log: log, name: name, slog: name == "gofer" || name == "vsock-device"}
}

// consume reads until the end or an error.
func (o *output) consume(r io.Reader) error {
	br := bufio.NewReaderSize(r, maxOutputLine)
	for {
		line, err := br.ReadSlice('\n')
		if text := goferproto.Line(string(line), maxOutputLine); text != "" {
			o.add(text, time.Now())
		}
		for errors.Is(err, bufio.ErrBufferFull) {
			_, err = br.ReadSlice('\n')
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

func (o *output) add(line string, now time.Time) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.lines) == keptLines {
		o.lines = append(o.lines[:0], o.lines[1:]...)
	}
	o.lines = append(o.lines, line)
	if o.logging {
		o.logLocked(line, now)
	}
}

func (o *output) logLocked(line string, now time.Time) {
	if s := now.Truncate(time.Second); !s.Equal(o.second) {
		if o.dropped > 0 {
			o.log.Warn("output dropped, there is too much of it", componentKey, o.name, "lines", o.dropped)
		}
		o.second, o.logged, o.dropped = s, 0, 0
	}
	if o.logged++; o.logged > maxLinesPerSecond {
		o.dropped++
		return
	}
	l := logLine{level: slog.LevelInfo, msg: line}
	if o.slog {
		if parsed, ok := parseLogLine(line); ok {
			l = parsed
		}
	}
	o.log.LogAttrs(context.Background(), l.level, l.msg, append(l.attrs, slog.String(componentKey, o.name))...)
}

// startLogging logs what there was so far and everything from now on.
func (o *output) startLogging() {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.logging {
		return
	}
	o.logging = true
	for _, l := range o.lines {
		o.logLocked(l, time.Now())
	}
}

// last returns up to n of the last lines as one.
func (o *output) last(n int) string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.lastLocked(n)
}

func (o *output) lastLocked(n int) string {
	return strings.Join(o.lines[max(0, len(o.lines)-n):], "; ")
}

// summary returns, as one line, what may say why the child has ended: what it said
// last. Before the volume is ready that may be advice, and the reason before it.
func (o *output) summary() string {
	const first, last = 2, 3
	o.mu.Lock()
	defer o.mu.Unlock()
	switch text := o.lastLocked(last); {
	case o.logging || len(o.lines) <= last:
		return text
	case len(o.lines) <= first+last:
		return strings.Join(o.lines, "; ")
	default:
		return strings.Join(o.lines[:first], "; ") + "; [...] " + text
	}
}
