// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package fusesession

import (
	"sync/atomic"
	"time"

	"fsva/gofer/fusewire"
	"fsva/gofer/latency"
)

// Account counts the requests of any number of sessions, by operation. The zero
// value is empty and ready. It must not be copied; its methods may be called
// concurrently.
type Account struct {
	ops [fusewire.OpCount]struct {
		requests, errors atomic.Uint64
		latency          latency.Histogram // of those that have a reply
	}
}

// observe counts a request that was begun at start and is done.
func (a *Account) observe(r *request, start time.Duration) {
	if r.Opcode >= fusewire.OpCount || fusewire.OpNames[r.Opcode] == "" {
		return
	}
	op := &a.ops[r.Opcode]
	op.requests.Add(1)
	if r.failed {
		op.errors.Add(1)
	}
	if r.replied {
		op.latency.Observe(latency.Now() - start)
	}
}

// Ops returns what was counted so far, by the names of fusewire.OpNames. The time
// of a request is the file system's, with that for a turn: what a client adds to it
// on the way is not known here.
func (a *Account) Ops() map[string]latency.Op {
	ops := make(map[string]latency.Op)
	for i := range a.ops {
		op := &a.ops[i]
		if n := op.requests.Load(); n > 0 {
			ops[fusewire.OpNames[i]] = latency.Op{Requests: n, Errors: op.errors.Load(), Latency: op.latency.Summary()}
		}
	}
	return ops
}
