// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package appliance

import (
	"reflect"
	"strings"
)

// tomlKeys returns the TOML keys of struct v's fields.
func tomlKeys(v any) []string {
	t := reflect.TypeOf(v)
	var keys []string
	for i := range t.NumField() {
		keys = append(keys, t.Field(i).Tag.Get("toml"))
	}
	return keys
}

// oneLine makes s fit on one line.
func oneLine(s string) string { return strings.Join(strings.Fields(s), " ") }

// list joins words for a message.
func list(words []string) string { return strings.Join(words, ", ") }

// didYouMean returns "; did you mean ...?" when one of known is close to word, else nothing.
func didYouMean(word string, known []string) string {
	best, bestDistance := "", 3
	for _, k := range known {
		d := distance(strings.ToLower(word), strings.ToLower(k))
		if d < bestDistance && d <= max(len(word), len(k))/3 {
			best, bestDistance = k, d
		}
	}
	if best == "" && len(word) >= 3 {
		for _, k := range known {
			if strings.Contains(k, word) || (len(k) >= 4 && strings.Contains(word, k)) {
				best = k
				break
			}
		}
	}
	if best == "" {
		return ""
	}
	return "; did you mean " + best + "?"
}

// distance is the number of insertions, deletions, replacements and swaps of neighbours between a and b. Both are
// names; anything longer than a name is far from everything.
func distance(a, b string) int {
	const far = 1 << 20
	if len(a) > 64 || len(b) > 64 {
		return far
	}
	rows := make([][]int, len(a)+1)
	for i := range rows {
		rows[i] = make([]int, len(b)+1)
		rows[i][0] = i
	}
	for j := range rows[0] {
		rows[0][j] = j
	}
	for i := 1; i <= len(a); i++ {
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			rows[i][j] = min(rows[i-1][j]+1, rows[i][j-1]+1, rows[i-1][j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				rows[i][j] = min(rows[i][j], rows[i-2][j-2]+1)
			}
		}
	}
	return rows[len(a)][len(b)]
}
