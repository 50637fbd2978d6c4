// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package fusesession

import (
	"testing"

	"github.com/hanwen/go-fuse/v2/fuse"

	"fsva/gofer/fusewire"
)

// TestAccount counts the requests of two sessions in one account: with and without an errno, without a reply, and of kinds
// that nobody knows.
func TestAccount(t *testing.T) {
	var a Account
	for range 2 {
		c := newClient(t, newLoopback(t, t.TempDir()), Options{Account: &a})
		c.create("f")
		e := c.lookup(fuse.FUSE_ROOT_ID, "f")
		_, st := call(c, fusewire.OpLookup, fuse.FUSE_ROOT_ID, none, "none")
		c.want(st, fuse.ENOENT)
		c.raw(message(fusewire.OpForget, c.next(), e.NodeId, &fuse.ForgetIn{Nlookup: 1}))
		_, st = call(c, 3000, fuse.FUSE_ROOT_ID, none)
		c.want(st, fuse.ENOSYS)
	}
	ops := a.Ops()
	for name, want := range map[string][3]uint64{ // requests, errors, and those with a reply
		"INIT": {2, 0, 2}, "CREATE": {2, 0, 2}, "LOOKUP": {4, 2, 4}, "FORGET": {2, 0, 0},
	} {
		op := ops[name]
		if got := [3]uint64{op.Requests, op.Errors, op.Latency.Count}; got != want {
			t.Errorf("%s: got %d, want %d", name, got, want)
		}
	}
	if len(ops) != 4 {
		t.Errorf("got %+v", ops)
	}
}
