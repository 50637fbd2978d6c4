// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package harness

import (
	"bufio"
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"fsva/gofer/conformance"
)

// Outcomes maps the name of a case to why it failed; "" means that it passed. Skips count as failures with the reason
// "skip: …": a case that cannot be run does not hold.
type Outcomes map[string]string

// ParseFscheck reads the JSON lines that fscheck printed.
func ParseFscheck(out string) (Outcomes, error) {
	found := Outcomes{}
	dec := json.NewDecoder(strings.NewReader(out))
	for dec.More() {
		var o conformance.Outcome
		if err := dec.Decode(&o); err != nil {
			return found, fmt.Errorf("output of fscheck: %w\n%s", err, tail(out))
		}
		if _, dup := found[o.Name]; dup {
			return found, fmt.Errorf("fscheck ran %s twice", o.Name)
		}
		found[o.Name] = o.Err
	}
	return found, nil
}

var caseLine = regexp.MustCompile(`^ +--- (PASS|FAIL|SKIP): TestPosix/(\w+) `)

// ParsePosix reads what `posix.test -test.v` printed. The names get the prefix "posix/".
func ParsePosix(out string) (Outcomes, error) {
	found := Outcomes{}
	var running string
	said := map[string][]string{}
	sc := bufio.NewScanner(strings.NewReader(out))
	sc.Buffer(nil, 1<<20)
	for sc.Scan() {
		line := sc.Text()
		if name, ok := strings.CutPrefix(line, "=== RUN   TestPosix/"); ok {
			running = name
			continue
		}
		if m := caseLine.FindStringSubmatch(line); m != nil {
			why := strings.Join(said[m[2]], "; ")
			switch m[1] {
			case "PASS":
				why = ""
			case "SKIP":
				why = "skip: " + why
			case "FAIL":
				if why == "" {
					why = "failed"
				}
			}
			found["posix/"+m[2]] = why
			continue
		}
		if running != "" && strings.HasPrefix(line, "    ") && len(said[running]) < 5 {
			said[running] = append(said[running], strings.TrimSpace(line))
		}
	}
	if err := sc.Err(); err != nil {
		return found, err
	}
	if len(found) == 0 {
		return found, fmt.Errorf("posix.test ran no case:\n%s", tail(out))
	}
	if i := strings.Index(out, "\npanic: "); i >= 0 {
		return found, fmt.Errorf("posix.test: %s", tail(out[i:]))
	}
	return found, nil
}

// Failed returns the names of the cases that failed, sorted.
func (o Outcomes) Failed() []string {
	var names []string
	for name, why := range o {
		if why != "" {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// Add puts the cases of p into o.
func (o Outcomes) Add(p Outcomes) {
	for name, why := range p {
		o[name] = why
	}
}
