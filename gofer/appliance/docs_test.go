// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package appliance

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"fsva/images"
)

//bazel:data //:docs

// optionRow matches a row of a page's table of options.
var optionRow = regexp.MustCompile("(?m)^\\| `([^`]+)` \\|")

// TestDocs checks that each appliance that comes with the binary has a page, docs/appliances/NAME.md, whose table of
// options is that of the manifest, and a row in the index, docs/appliances.md.
func TestDocs(t *testing.T) {
	s := Store{Places: []Place{{"(built in)", images.FS}}}
	names, err := s.Names()
	if err != nil {
		t.Fatal(err)
	}
	index, err := os.ReadFile("../../docs/appliances.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		m, err := s.Load(name)
		if err != nil {
			t.Fatal(err)
		}
		if link := "| [`" + name + "`](appliances/" + name + ".md) |"; !strings.Contains(string(index), link) {
			t.Errorf("docs/appliances.md has no row %s", link)
		}
		page, err := os.ReadFile("../../docs/appliances/" + name + ".md")
		if err != nil {
			t.Error(err)
			continue
		}
		var documented []string
		_, section, _ := strings.Cut(string(page), "\n## Options\n")
		section, _, _ = strings.Cut(section, "\n## ")
		for _, row := range optionRow.FindAllStringSubmatch(section, -1) {
			documented = append(documented, row[1])
		}
		if options := m.optionNames(); !slices.Equal(documented, options) {
			t.Errorf("docs/appliances/%s.md has the options %q, the manifest has %q", name, documented, options)
		}
		for _, heading := range []string{"## Credentials", "## Example"} {
			if !strings.Contains(string(page), "\n"+heading+"\n") {
				t.Errorf("docs/appliances/%s.md has no section %q", name, heading)
			}
		}
	}
}
