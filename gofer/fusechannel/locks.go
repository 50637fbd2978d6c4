// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package fusechannel

import "github.com/hanwen/go-fuse/v2/fuse"

// nodeLocks serialises requests per node, for servers that did not say they can take them concurrently
// (fuse_lock_inode in fs/fuse/inode.c). Nodes share a fixed number of locks: sharing one only costs concurrency,
// because nobody holds two. A lock can be given up on.
type nodeLocks [64]chan struct{}

func newNodeLocks() *nodeLocks {
	var l nodeLocks
	for i := range l {
		l[i] = make(chan struct{}, 1)
	}
	return &l
}

// lock locks a node and returns its unlock, or EINTR when cancel fires first. On a nil receiver it does nothing.
func (l *nodeLocks) lock(cancel <-chan struct{}, nodeID uint64) (unlock func(), st fuse.Status) {
	if l == nil {
		return func() {}, fuse.OK
	}
	ch := l[nodeID*0x9E3779B97F4A7C15>>58]
	select {
	case ch <- struct{}{}:
		return func() { <-ch }, fuse.OK
	case <-cancel:
		return nil, fuse.EINTR
	}
}
