// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package appliance

import (
	"os"
	"strings"
	"testing"

	"fsva/images"
)

// TestDocs checks that each appliance that comes with the binary has a page, docs/appliances/NAME.md, that names its
// options, and a row in the index, docs/appliances.md.
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
		for _, option := range m.optionNames() {
			if !strings.Contains(string(page), "`"+option+"`") {
				t.Errorf("docs/appliances/%s.md does not name the option %s", name, option)
			}
		}
	}
}
