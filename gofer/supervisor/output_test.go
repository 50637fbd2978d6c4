// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package supervisor

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"
	"time"
)

func TestOutputIsBounded(t *testing.T) {
	var log bytes.Buffer
	o := newOutput(slog.New(slog.NewTextHandler(&log, nil)), "fs-server")
	long := strings.Repeat("x", 10*maxOutputLine)
	in := strings.Repeat("early\n", 100) + long + "\n\n \nbad \x1b[2J\xff\nlast, without an end"
	if err := o.consume(strings.NewReader(in)); err != nil {
		t.Fatal(err)
	}
	if len(o.lines) != keptLines {
		t.Errorf("%d lines kept", len(o.lines))
	}
	if got := o.last(2); got != "bad ?[2J?; last, without an end" {
		t.Errorf("last lines: %q", got)
	}
	if n := len(o.lines[keptLines-3]); n > maxOutputLine {
		t.Errorf("line of %d bytes kept", n)
	}
	if log.Len() > 0 {
		t.Errorf("logged before startLogging: %s", log.String())
	}
	o.startLogging()
	if n := strings.Count(log.String(), "\n"); n != keptLines {
		t.Errorf("%d lines logged at the start", n)
	}
	log.Reset()
	now := time.Now().Add(time.Hour).Truncate(time.Second)
	for range 3 * maxLinesPerSecond {
		o.add("chatter", now)
	}
	if n := strings.Count(log.String(), "\n"); n != maxLinesPerSecond {
		t.Errorf("%d lines logged in one second", n)
	}
	log.Reset()
	o.add("later", now.Add(time.Second))
	if s := log.String(); !strings.Contains(s, "lines=100") || !strings.Contains(s, "msg=later") {
		t.Errorf("after a flood: %s", s)
	}
}

func TestOutputSummary(t *testing.T) {
	for text, want := range map[string][2]string{ // before the volume is ready, and after
		"":                 {"", ""},
		"a\nb\nc":          {"a; b; c", "a; b; c"},
		"a\nb\nc\nd":       {"a; b; c; d", "b; c; d"},
		"a\nb\nc\nd\ne":    {"a; b; c; d; e", "c; d; e"},
		"a\nb\nc\nd\ne\nf": {"a; b; [...] d; e; f", "d; e; f"},
	} {
		o := newOutput(slog.New(slog.DiscardHandler), "fs-server")
		if err := o.consume(strings.NewReader(text)); err != nil {
			t.Fatal(err)
		}
		before := o.summary()
		o.startLogging()
		if got := [2]string{before, o.summary()}; got != want {
			t.Errorf("%q: got %q, want %q", text, got, want)
		}
	}
}

func TestGoferLogsAreMerged(t *testing.T) {
	var log bytes.Buffer
	h := slog.NewTextHandler(&log, &slog.HandlerOptions{ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey {
			return slog.Attr{}
		}
		return a
	}})
	o := newOutput(slog.New(h), "gofer")
	o.startLogging()
	now := time.Now()
	for line, want := range map[string]string{
		`level=WARN msg="client gone" container="a b" n=3`: `level=WARN msg="client gone" container="a b" n=3 component=gofer`,
		`time=2026-01-01T00:00:00Z level=ERROR msg=x`:      `level=ERROR msg=x component=gofer`,
		`level=INFO`:                 `level=INFO msg="level=INFO" component=gofer`,
		`level=INFO msg="never ends`: `level=INFO msg="level=INFO msg=\"never ends" component=gofer`,
		`level=INFO msg="a"b=c`:      `level=INFO msg="level=INFO msg=\"a\"b=c" component=gofer`,
		`panic: runtime error`:       `level=INFO msg="panic: runtime error" component=gofer`,
		`level=INFO msg=x volume=other component=supervisor level=WARN`: `level=INFO msg=x its.volume=other its.component=supervisor its.level=WARN component=gofer`,
		`level=NONE msg=x`: `level=INFO msg="level=NONE msg=x" component=gofer`,
		`level=INFO msg=x ` + strings.Repeat("a=b ", 100) + `c=`: `level=INFO msg="level=INFO msg=x `,
	} {
		log.Reset()
		o.add(line, now)
		if got := strings.TrimSpace(log.String()); got != want && !(len(line) > 200 && strings.HasPrefix(got, want)) {
			t.Errorf("%s\ngot  %s\nwant %s", line, got, want)
		}
	}
}

// FuzzParseLogLine checks that a line is split into what makes the same line
// again, or refused.
func FuzzParseLogLine(f *testing.F) {
	f.Add(`level=INFO msg="client attached" container=c1 destination="/a b"`)
	f.Add(`level=WARN+1 msg=`)
	f.Fuzz(func(t *testing.T, line string) {
		l, ok := parseLogLine(line)
		if !ok {
			return
		}
		if len(l.attrs) > maxLogFields {
			t.Fatalf("%d attributes", len(l.attrs))
		}
		var b bytes.Buffer
		slog.New(slog.NewTextHandler(&b, &slog.HandlerOptions{Level: slog.Level(-1 << 30)})).LogAttrs(t.Context(), l.level, l.msg, l.attrs...)
		again, ok := parseLogLine(strings.TrimSuffix(b.String(), "\n"))
		if !ok {
			t.Fatalf("%q became %q, which is no line", line, b.String())
		}
		if again.level != l.level || again.msg != l.msg || len(again.attrs) != len(l.attrs) {
			t.Errorf("%q: got %+v, then %+v", line, l, again)
		}
	})
}
