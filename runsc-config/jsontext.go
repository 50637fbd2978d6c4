// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package runscconfig

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
)

// Edits of JSON as text, so that what is not edited stays as it was written.

// member is one "key": value of an object, as offsets into the text.
type member struct {
	key        string
	start      int // of the key
	value, end int // of the value
}

// object is a JSON object, as offsets into the text.
type object struct {
	open, close int // of the braces
	members     []member
}

// checkJSON returns an error with a line number unless data is one JSON value
// in which no object has a key twice.
func checkJSON(data []byte) error {
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.UseNumber()
	fail := func(err error) error {
		var syntax *json.SyntaxError
		at := dec.InputOffset()
		if errors.As(err, &syntax) {
			at = syntax.Offset
		}
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			err, at = errors.New("ends too early"), int64(len(data))
		}
		return fmt.Errorf("line %d: %w", 1+bytes.Count(data[:at], []byte("\n")), err)
	}
	var check func() error
	check = func() error {
		tok, err := dec.Token()
		if err != nil {
			return fail(err)
		}
		delim, ok := tok.(json.Delim)
		if !ok {
			return nil
		}
		seen := make(map[string]bool)
		for dec.More() {
			if delim == '{' {
				key, err := dec.Token()
				if err != nil {
					return fail(err)
				}
				name, ok := key.(string)
				if !ok {
					return fail(errors.New("a key that is not a string"))
				}
				if seen[name] {
					return fail(fmt.Errorf("%q for the second time", name))
				}
				seen[name] = true
			}
			if err := check(); err != nil {
				return err
			}
		}
		if _, err := dec.Token(); err != nil {
			return fail(err)
		}
		return nil
	}
	if err := check(); err != nil {
		return err
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return fail(errors.New("something follows the end"))
	}
	return nil
}

// findObject returns the object at path in data, which checkJSON has accepted.
func findObject(data []byte, path []string) (object, error) {
	base := 0
	for {
		o, err := scanObject(data, base)
		if err != nil || len(path) == 0 {
			return o, err
		}
		m, ok := o.find(path[0])
		if !ok {
			return object{}, fmt.Errorf("no %q", path[0])
		}
		base, path = m.value, path[1:]
	}
}

func (o object) find(key string) (member, bool) {
	for _, m := range o.members {
		if m.key == key {
			return m, true
		}
	}
	return member{}, false
}

// scanObject reads the object that begins at or after base.
func scanObject(data []byte, base int) (object, error) {
	dec := json.NewDecoder(bytes.NewReader(data[base:]))
	at := func() int { return base + int(dec.InputOffset()) }
	tok, err := dec.Token()
	if err != nil {
		return object{}, err
	}
	if tok != json.Delim('{') {
		return object{}, errors.New("not an object")
	}
	o := object{open: at() - 1}
	for dec.More() {
		before := at()
		tok, err := dec.Token()
		if err != nil {
			return object{}, err
		}
		m := member{start: before + bytes.IndexByte(data[before:], '"')}
		m.key, _ = tok.(string)
		var raw json.RawMessage
		if err := dec.Decode(&raw); err != nil {
			return object{}, err
		}
		m.end = at()
		m.value = m.end - len(raw)
		o.members = append(o.members, m)
	}
	if _, err := dec.Token(); err != nil {
		return object{}, err
	}
	o.close = at() - 1
	return o, nil
}

// setMember adds a member with a new key at the end of the object at path, in
// the style of its surroundings.
func setMember(data []byte, path []string, key string, value []byte) ([]byte, error) {
	o, err := findObject(data, path)
	if err != nil {
		return nil, err
	}
	newline := "\n"
	if bytes.Contains(data, []byte("\r\n")) {
		newline = "\r\n"
	}
	unit := indentUnit(data)
	text := func(indent string) (string, error) {
		var pretty bytes.Buffer
		if err := json.Indent(&pretty, value, indent, unit); err != nil {
			return "", err
		}
		return quote(key) + ": " + strings.ReplaceAll(pretty.String(), "\n", newline), nil
	}
	if len(o.members) == 0 {
		outer := indentOf(data, o.open)
		t, err := text(outer + unit)
		if err != nil {
			return nil, err
		}
		return splice(data, o.open+1, o.close, newline+outer+unit+t+newline+outer), nil
	}
	last := o.members[len(o.members)-1]
	gap := string(data[o.open+1 : o.members[0].start]) // how the first one is set off
	if len(o.members) > 1 {
		between := data[o.members[len(o.members)-2].end:last.start]
		gap = string(between[bytes.IndexByte(between, ',')+1:])
	}
	if !strings.Contains(gap, "\n") { // all in one line
		var compact bytes.Buffer
		if err := json.Compact(&compact, value); err != nil {
			return nil, err
		}
		separator := ": "
		if data[last.value-1] == ':' {
			separator = ":"
		}
		if gap == "" && separator == ": " {
			gap = " "
		}
		return splice(data, last.end, last.end, ","+gap+quote(key)+separator+compact.String()), nil
	}
	indent := gap[strings.LastIndexByte(gap, '\n')+1:]
	t, err := text(indent)
	if err != nil {
		return nil, err
	}
	return splice(data, last.end, last.end, ","+newline+indent+t), nil
}

// removeMember removes a member of the object at path, with its comma.
func removeMember(data []byte, path []string, key string) ([]byte, error) {
	o, err := findObject(data, path)
	if err != nil {
		return nil, err
	}
	for i, m := range o.members {
		switch {
		case m.key != key:
		case len(o.members) == 1:
			return splice(data, o.open+1, o.close, ""), nil
		case i == len(o.members)-1:
			return splice(data, o.members[i-1].end, m.end, ""), nil
		default:
			return splice(data, m.start, o.members[i+1].start, ""), nil
		}
	}
	return nil, fmt.Errorf("no %q", key)
}

// splice returns data with data[from:to] replaced.
func splice(data []byte, from, to int, text string) []byte {
	return append(append(append([]byte(nil), data[:from]...), text...), data[to:]...)
}

// indentOf returns the white space at the beginning of the line that has the
// offset at.
func indentOf(data []byte, at int) string {
	line := data[bytes.LastIndexByte(data[:at], '\n')+1:]
	return string(line[:len(line)-len(bytes.TrimLeft(line, " \t"))])
}

// indentUnit returns what data indents by: the indentation of its first
// indented line, or four spaces, as docker's documentation does it.
func indentUnit(data []byte) string {
	for line := range bytes.Lines(data) {
		trimmed := bytes.TrimLeft(line, " \t")
		if n := len(line) - len(trimmed); n > 0 && len(bytes.TrimSpace(line)) > 0 {
			return string(line[:n])
		}
	}
	return "    "
}
