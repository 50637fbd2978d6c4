// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package entrycache

// Child returns the node that a name had when it was last looked up. It is a
// guess: what is cached may be out of date, and no request is sent.
func (f *FS) Child(parent uint64, name string) (nodeID uint64, ok bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	e := f.table.entryOf(f.table.nodes[parent], name)
	if e == nil || e.child == nil {
		return 0, false
	}
	return e.child.id, true
}
