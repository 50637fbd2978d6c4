// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package appliance

import "strings"

// IsLocalSource reports whether source is, to this appliance, the path of a file or directory of this machine.
func (m *Manifest) IsLocalSource(source string) bool {
	switch m.Source {
	case SourceFile, SourceDirectory:
		return source != ""
	case SourceDirectoryOrRemote:
		return strings.HasPrefix(source, "/") || strings.HasPrefix(source, ".")
	}
	return false
}

// IsPathOption reports whether the appliance has an option of that name whose value is a path of this machine.
func (m *Manifest) IsPathOption(name string) bool {
	o, ok := m.option(name)
	return ok && o.isPath()
}
