// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package serving

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"

	"fsva/gofer/attach"
	"fsva/gofer/entrycache"
	"fsva/gofer/fusechannel"
	"fsva/gofer/hardlinks"
	"fsva/gofer/inprocess"
	"fsva/gofer/prefetch"
	"fsva/gofer/regions"
	"fsva/gofer/supervisor/goferproto"
)

// backend is the volume's file system, with what the process needs to know of
// where it comes from.
type backend struct {
	fs      fuse.RawFileSystem
	channel *fusechannel.Channel // nil in process
	cache   cache                // nil: file data is not kept
	done    <-chan struct{}      // closed when the file system is lost; nil: never
}

// cache is a buffer cache, of any kind.
type cache interface {
	fuse.RawFileSystem
	donor
	// InvalInode takes the server's word that data of a file has changed: length
	// bytes from off on, or all from off on if length is not positive.
	InvalInode(nodeID uint64, off, length int64)
	// SetBudget changes how many bytes are kept. What clients hold counts, but
	// only they can give it up.
	SetBudget(bytes int64)
	Stats() regions.Stats
}

// donor gives clients descriptors of file data.
type donor interface {
	Donate(nodeID, fh uint64) (fd int, ok bool)
	Return(nodeID uint64)
}

// retriever is a cache that has data which its server may ask for.
type retriever interface {
	Retrieve(nodeID, off uint64, size uint32) ([]byte, fuse.Status)
}

// unchanging reports whether a volume's files can be kept and handed out: nobody
// writes them, and its file system owns their source. (A directory's pages are in
// the host's page cache already.)
func unchanging(cfg goferproto.Config) bool {
	return cfg.Volume.ReadOnly && cfg.Volume.Coherence == attach.Exclusive &&
		cfg.InProcess != "dir" && cfg.InProcess != "mem"
}

// cachesWrites reports whether the files of a volume are changed by one sandbox
// only, whose writes go through the buffer cache. (What a directory or memory gets
// is in the host's page cache already, unless it is to be put off.)
func cachesWrites(cfg goferproto.Config) bool {
	if cfg.Volume.ReadOnly || cfg.Volume.Coherence != attach.Exclusive {
		return false
	}
	return cfg.WriteBack || !cfg.Volume.StrictFsync && cfg.InProcess != "dir" && cfg.InProcess != "mem"
}

// needsCopies reports whether sandboxes can map a volume's files only if they get
// a descriptor: where they do not share handles (see newPlannedMount in
// sentryglue).
func needsCopies(cfg goferproto.Config) bool {
	return !unchanging(cfg) && (cfg.Volume.Coherence == attach.Shared || cfg.Volume.StrictFsync)
}

// needsCopiesDir reports whether the volume's regions are files.
func needsCopiesDir(cfg goferproto.Config) bool { return cachesWrites(cfg) || needsCopies(cfg) }

// newCache returns the buffer cache of a volume, or what gives out copies of its
// files; nil if it has neither. maxRead and maxWrite may be 0: not known.
func newCache(below fuse.RawFileSystem, cfg goferproto.Config, maxRead, maxWrite int, log *slog.Logger) cache {
	budget := cfg.CacheLimit
	switch {
	case unchanging(cfg):
		return regions.New(below, regions.Options{Budget: budget, MaxRead: maxRead, Log: log})
	case cachesWrites(cfg):
		o := regions.WritableOptions{
			Dir: copiesDir, Budget: budget, MaxRead: maxRead, MaxWrite: maxWrite, WriteBack: cfg.WriteBack, Log: log,
		}
		if needsCopies(cfg) {
			o.FillLimit, o.ExecFillLimit = regions.DefaultLiveFill, regions.DefaultLiveExecFill
		}
		return regions.NewWritable(below, o)
	case needsCopies(cfg):
		return regions.NewLive(below, regions.LiveOptions{Dir: copiesDir, Budget: budget, MaxRead: maxRead, Log: log})
	}
	return nil
}

// agreements are what frontends ask a file system beyond the RawFileSystem: what
// was settled in INIT. They must show through the caches.
type agreements struct{ channel *fusechannel.Channel }

func (a agreements) Has(capability uint64) bool { return a.channel.Has(capability) }
func (a agreements) MaxRead() int               { return a.channel.MaxRead() }
func (a agreements) MaxWrite() int              { return a.channel.MaxWrite() }

// cachedChannel is a channel behind the cache of its entries: what is below a
// buffer cache, or what frontends get if there is none.
type cachedChannel struct {
	*entrycache.FS
	agreements
}

// top is a channel with a buffer cache, as frontends get it.
type top struct {
	fuse.RawFileSystem
	donor
	agreements
}

// open connects to the FS server, or makes the in-process file system. What the
// server notifies of goes to told, too.
func open(cfg goferproto.Config, told subscriber, log *slog.Logger) (backend, error) {
	if cfg.InProcess != "" {
		source := cfg.Source
		if cfg.InProcess == "mem" {
			source = memRoot
		}
		fs, err := inprocess.Open(cfg.InProcess, source, inprocess.Options{
			ReadOnly: cfg.Volume.ReadOnly,
			Shared:   cfg.Volume.Coherence == attach.Shared,
			Settings: cfg.Options,
			Log:      log,
		})
		if err != nil {
			return backend{}, err
		}
		b := backend{fs: fs, cache: newCache(fs, cfg, 0, 0, log)}
		if b.cache != nil {
			b.fs = b.cache
		}
		return b, nil
	}
	timeout := time.Duration(cfg.InitTimeoutMs) * time.Millisecond
	channel, err := fusechannel.New(context.Background(), goferproto.FDChannel, fusechannel.Options{
		InitTimeout: timeout, ReadOnly: cfg.Volume.ReadOnly, ParallelDirops: cfg.ParallelDirops, MaxRead: cfg.MaxRead, Log: log,
	})
	if err != nil {
		return backend{}, err
	}
	var below fuse.RawFileSystem = channel
	shown := func(nodeID uint64) uint64 { return nodeID }
	if cfg.NodePerName {
		links := hardlinks.New(channel)
		below, shown = links, links.Shown
	}
	listsXattrs := cfg.ListsXattrs && cfg.Volume.Coherence == attach.Exclusive
	entries := entrycache.New(below, entrycache.Options{
		ReadOnly:      cfg.Volume.ReadOnly,
		Unchanging:    unchanging(cfg),
		Exclusive:     cfg.Volume.Coherence == attach.Exclusive,
		CacheSymlinks: channel.Has(fuse.CAP_CACHE_SYMLINKS),
		AutoInvalData: channel.Has(fuse.CAP_AUTO_INVAL_DATA),
		ListsXattrs:   listsXattrs,
	})
	cached := cachedChannel{entries, agreements{channel}}
	b := backend{fs: cached, channel: channel, done: channel.Done()}
	b.cache = newCache(cached, cfg, channel.MaxRead(), channel.MaxWrite(), log)
	if b.cache != nil {
		var fs fuse.RawFileSystem = b.cache
		if r, ok := b.cache.(*regions.FS); ok {
			fs = prefetch.New(r, prefetch.Options{
				Entries: channel.Has(fuse.CAP_PARALLEL_DIROPS), Xattrs: listsXattrs, Data: true,
				Listings: channel.Has(fuse.CAP_PARALLEL_DIROPS), Plus: channel.Has(fuse.CAP_READDIRPLUS),
			})
		}
		b.fs = top{fs, b.cache, cached.agreements}
	}
	channel.SetNotifier(notifier{entries, b.cache, told, shown})
	return b, nil
}

// notifier passes the server's notifications to the caches, and then to those
// clients that can take them, who ask again.
type notifier struct {
	*entrycache.FS
	cache cache                      // nil: none
	told  subscriber                 // guests
	shown func(nodeID uint64) uint64 // the ID by which the caches and clients know a node
}

var _ fusechannel.EpochNotifier = notifier{}

func (n notifier) IncEpoch() {
	n.FS.IncEpoch()
	n.told.IncEpoch()
}

func (n notifier) Delete(parent, child uint64, name string) {
	n.FS.Delete(parent, n.shown(child), name)
	n.told.Delete(parent, n.shown(child), name)
}

func (n notifier) InvalEntry(parent uint64, name string, expireOnly bool) {
	n.FS.InvalEntry(parent, name, expireOnly)
	n.told.InvalEntry(parent, name, expireOnly)
}

func (n notifier) InvalInode(nodeID uint64, off, length int64) {
	nodeID = n.shown(nodeID)
	n.FS.InvalInode(nodeID, off, length)
	if off >= 0 && n.cache != nil { // else it speaks of attributes only
		n.cache.InvalInode(nodeID, off, length)
	}
	n.told.InvalInode(nodeID, off, length)
}

// Store asks the server again for what it offers. Notifications and replies take
// different ways, so the data may be older than a write or a truncation that has
// been acknowledged meanwhile.
func (n notifier) Store(nodeID, off uint64, data []byte) fuse.Status {
	n.InvalInode(nodeID, int64(min(off, math.MaxInt64)), int64(len(data)))
	return fuse.OK
}

func (n notifier) Retrieve(nodeID, off uint64, size uint32) ([]byte, fuse.Status) {
	if r, ok := n.cache.(retriever); ok {
		return r.Retrieve(n.shown(nodeID), off, size)
	}
	return n.FS.Retrieve(nodeID, off, size)
}

// err says why the file system is lost, once done is closed.
func (b *backend) err() error {
	if err := b.channel.Err(); err != nil {
		return err
	}
	return errors.New("the FUSE channel is closed")
}

// ready describes the backend to the supervisor.
func (b *backend) ready() *goferproto.Ready {
	r := &goferproto.Ready{Cache: b.cache != nil}
	if b.channel != nil {
		r.FuseMinor = b.channel.InitOut().Minor
		r.MaxRead, r.MaxWrite = uint32(b.channel.MaxRead()), uint32(b.channel.MaxWrite())
	}
	return r
}

// close ends the file system in order: DESTROY lets the server write back what
// it holds.
func (b *backend) close() error {
	b.fs.OnUnmount() // regions, then what is below; a channel takes its leave next
	if b.channel == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), stopTimeout)
	defer cancel()
	if err := b.channel.Destroy(ctx); err != nil {
		return fmt.Errorf("unmount the FS server: %w", err)
	}
	return nil
}
