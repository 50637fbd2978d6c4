// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package serving

import "sync"

// subscriber is a client that takes notifications: a guest's kernel can be told to
// forget, a sandbox's sentry cannot. The methods must not block. Nodes that the
// client does not know are ignored.
type subscriber interface {
	InvalInode(nodeID uint64, off, length int64)
	InvalEntry(parent uint64, name string, expireOnly bool)
	Delete(parent, child uint64, name string)
	IncEpoch()
}

// audience is the subscribers of a volume. It is one itself: it tells all of them.
type audience struct {
	mu      sync.RWMutex
	members map[subscriber]struct{} // guarded by mu
}

var _ subscriber = (*audience)(nil)

// join adds l until leave is called.
func (a *audience) join(l subscriber) (leave func()) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.members == nil {
		a.members = make(map[subscriber]struct{})
	}
	a.members[l] = struct{}{}
	return func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		delete(a.members, l)
	}
}

func (a *audience) each(tell func(subscriber)) {
	a.mu.RLock()
	defer a.mu.RUnlock()
	for l := range a.members {
		tell(l)
	}
}

func (a *audience) InvalInode(nodeID uint64, off, length int64) {
	a.each(func(l subscriber) { l.InvalInode(nodeID, off, length) })
}

func (a *audience) InvalEntry(parent uint64, name string, expireOnly bool) {
	a.each(func(l subscriber) { l.InvalEntry(parent, name, expireOnly) })
}

func (a *audience) IncEpoch() { a.each(subscriber.IncEpoch) }

func (a *audience) Delete(parent, child uint64, name string) {
	a.each(func(l subscriber) { l.Delete(parent, child, name) })
}
