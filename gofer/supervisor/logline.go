// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package supervisor

import (
	"log/slog"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// maxLogFields bounds the attributes of a logLine.
const maxLogFields = 32

var logKey = regexp.MustCompile(`^[A-Za-z0-9_.-]+$`)

// reservedKeys are the names of attributes that are ours to give: a child may not
// speak for another volume.
var reservedKeys = []string{slog.LevelKey, slog.MessageKey, slog.TimeKey, volumeKey, componentKey}

// logLine is what a gofer logs: a line of slog's text format.
type logLine struct {
	level slog.Level
	msg   string
	attrs []slog.Attr // values are strings
}

// parseLogLine splits a line of KEY=VALUE fields, where a value may be quoted as
// in Go, and must have a level and a msg. It reports whether the line is one.
func parseLogLine(line string) (logLine, bool) {
	var l logLine
	var hasLevel, hasMsg bool
	for n := 0; line != ""; n++ {
		key, rest, ok := strings.Cut(line, "=")
		if !ok || !logKey.MatchString(key) || n == maxLogFields {
			return logLine{}, false
		}
		var value string
		if strings.HasPrefix(rest, `"`) {
			quoted, err := strconv.QuotedPrefix(rest)
			if err != nil {
				return logLine{}, false
			}
			if value, err = strconv.Unquote(quoted); err != nil {
				return logLine{}, false
			}
			line = rest[len(quoted):]
			if line != "" && line[0] != ' ' {
				return logLine{}, false
			}
			line = strings.TrimPrefix(line, " ")
		} else {
			value, line, _ = strings.Cut(rest, " ")
		}
		switch {
		case key == slog.LevelKey && !hasLevel:
			hasLevel = l.level.UnmarshalText([]byte(value)) == nil
		case key == slog.MessageKey && !hasMsg:
			l.msg, hasMsg = value, true
		case key == slog.TimeKey: // ours is as good
		default:
			if slices.Contains(reservedKeys, key) {
				key = "its." + key
			}
			l.attrs = append(l.attrs, slog.String(key, value))
		}
	}
	return l, hasLevel && hasMsg
}
