// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package fusechannel

import (
	"log/slog"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
)

// Options are the caller's choices for a Channel. The zero value is usable.
type Options struct {
	// MaxWrite bounds the data of one READ or WRITE in bytes; 0 means 1 MiB. It is rounded down to whole pages and
	// lowered to what fits in one message of the socket (SO_SNDBUF, which the server's end is taken to share).
	MaxWrite int
	// MaxRead bounds the data of one READ in bytes beyond that; 0 means that nothing else does. It is what the max_read
	// mount option is for the kernel. A server that splices its replies needs at most 60 KiB here.
	MaxRead int
	// InitTimeout bounds the time until the server has answered INIT; 0 means 30 s.
	InitTimeout time.Duration
	// ReadOnly refuses every operation that would change the file system with EROFS, as a read-only mount does.
	ReadOnly bool
	// Locks offers POSIX and flock locks to the server. Without it locks stay with the client's kernel and the lock
	// operations return ENOSYS.
	Locks bool
	// ParallelDirops takes it for agreed that the server is sent several LOOKUP and READDIR requests for one directory at
	// a time, whatever it answers to INIT.
	ParallelDirops bool
	// Notify receives the server's notifications; nil drops them until SetNotifier.
	Notify Notifier
	// Log receives what went wrong; nil discards it. Lines that the server can cause are rate limited.
	Log *slog.Logger
}

// Notifier receives the server's notifications, one at a time and in the order in which they were sent, on a goroutine
// of the channel. The arguments are checked (names are valid, offsets are not negative where stated) but node ids may
// be unknown to the caller: such notifications must be ignored.
//
// A method may use the channel, but must not wait for a lock that some other goroutine holds while it waits for a
// reply of this channel: when the queue of notifications is full the reader waits for it, and after 30 s without
// progress the channel is stopped. A method must not call Channel.Close or Channel.Destroy.
type Notifier interface {
	// InvalInode: forget the attributes of a node and, when off >= 0, its data in [off, off+length), or to the end when
	// length <= 0.
	InvalInode(nodeID uint64, off, length int64)
	// InvalEntry: forget what name in directory parent is; when expireOnly, only that it is still fresh.
	InvalEntry(parent uint64, name string, expireOnly bool)
	// Delete: name in parent, if it is child, has been removed.
	Delete(parent, child uint64, name string)
	// Store: data is the current content of the node at off. data is valid during the call only.
	Store(nodeID, off uint64, data []byte) fuse.Status
	// Retrieve returns what is cached of the node at off, at most size bytes; a shorter result is fine.
	Retrieve(nodeID, off uint64, size uint32) ([]byte, fuse.Status)
}

// EpochNotifier is implemented by Notifiers that can invalidate every entry at once (FUSE_NOTIFY_INC_EPOCH).
type EpochNotifier interface {
	// IncEpoch: all entries and directory listings cached up to now are stale.
	IncEpoch()
}

// PruneNotifier is implemented by Notifiers that can let go of unused nodes on the server's wish (FUSE_NOTIFY_PRUNE).
type PruneNotifier interface {
	// Prune: forget these nodes if they are not in use. nodeIDs is valid during the call only.
	Prune(nodeIDs []uint64)
}

const defaultInitTimeout = 30 * time.Second

func (o Options) withDefaults() Options {
	if o.MaxWrite <= 0 || o.MaxWrite > maxMaxWrite {
		o.MaxWrite = maxMaxWrite
	}
	if o.MaxRead <= 0 || o.MaxRead > maxMaxWrite {
		o.MaxRead = maxMaxWrite
	}
	if o.InitTimeout <= 0 {
		o.InitTimeout = defaultInitTimeout
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return o
}
