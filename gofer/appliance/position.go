// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package appliance

import (
	"bytes"

	"github.com/pelletier/go-toml/v2/unstable"
)

// locate returns the line and column, from 1, of a key in a TOML document that has been decoded without error. A key
// is a path of names and, for elements of an array of tables, indexes: "option", 2, "type". When the key itself is not
// there the nearest part of the document that holds it is returned, so that a missing key points at its table.
func locate(data []byte, key []any) (line, column int) {
	line, column = 1, 1
	if len(key) == 0 {
		return line, column
	}
	var p unstable.Parser
	p.Reset(data)
	var table []any
	count := map[string]int{}
	best := 0
	for p.NextExpression() {
		e := p.Expression()
		var names []any
		start := -1
		for it := e.Key(); it.Next(); {
			n := it.Node()
			names = append(names, string(n.Data))
			if start < 0 {
				start = int(n.Raw.Offset)
			}
		}
		path := names
		switch e.Kind {
		case unstable.ArrayTable:
			if len(names) == 1 {
				name := names[0].(string)
				path = []any{name, count[name]}
				count[name]++
			}
			table = path
		case unstable.Table:
			table = path
		case unstable.KeyValue:
			path = append(append([]any{}, table...), names...)
		}
		if n := commonPrefix(path, key); start >= 0 && n > best && (n == len(path) || n == len(key)) {
			best = n
			line, column = lineColumn(data, start)
		}
	}
	return line, column
}

// commonPrefix counts the leading elements that a and b share.
func commonPrefix(a, b []any) int {
	n := 0
	for n < len(a) && n < len(b) && a[n] == b[n] {
		n++
	}
	return n
}

// lineColumn turns an offset into a line and a column in bytes, from 1.
func lineColumn(data []byte, offset int) (line, column int) {
	before := data[:min(offset, len(data))]
	return 1 + bytes.Count(before, []byte{'\n'}), offset - (bytes.LastIndexByte(before, '\n') + 1) + 1
}
