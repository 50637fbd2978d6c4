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
	regions *regions.FS          // nil: file data is not cached
	live    *regions.Live        // nil: clients get no copies of files that change
	written *regions.Writable    // nil: what clients write is not cached
	done    <-chan struct{}      // closed when the file system is lost; nil: never
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

// addRegions puts the buffer cache, or copies of files, in front of fs.
func (b *backend) addRegions(cfg goferproto.Config, maxRead, maxWrite int, log *slog.Logger) error {
	budget := cfg.CacheLimit
	switch {
	case unchanging(cfg):
	case cachesWrites(cfg):
		o := regions.WritableOptions{
			Dir: copiesDir, Budget: budget, MaxRead: maxRead, MaxWrite: maxWrite, WriteBack: cfg.WriteBack, Log: log,
		}
		if needsCopies(cfg) {
			o.FillLimit, o.ExecFillLimit = regions.DefaultLiveFill, regions.DefaultLiveExecFill
		}
		b.written = regions.NewWritable(b.fs, o)
		b.fs = b.written
		return nil
	case needsCopies(cfg):
		b.live = regions.NewLive(b.fs, regions.LiveOptions{Dir: copiesDir, Budget: budget, MaxRead: maxRead, Log: log})
		b.fs = b.live
		return nil
	default:
		return nil
	}
	b.regions = regions.New(b.fs, regions.Options{Budget: budget, MaxRead: maxRead, Log: log})
	b.fs = b.regions
	return nil
}

// agreements are what frontends ask a file system beyond the RawFileSystem: what
// was settled in INIT. They must show through the caches.
type agreements struct{ channel *fusechannel.Channel }

func (a agreements) Has(capability uint64) bool { return a.channel.Has(capability) }
func (a agreements) MaxRead() int               { return a.channel.MaxRead() }
func (a agreements) MaxWrite() int              { return a.channel.MaxWrite() }

// donor gives clients descriptors of file data.
type donor interface {
	Donate(nodeID, fh uint64) (fd int, ok bool)
	Return(nodeID uint64)
}

// A channel behind one cache, or two.
type (
	cachedChannel struct {
		*entrycache.FS
		agreements
	}
	regionChannel struct {
		*prefetch.FS
		donor
		agreements
	}
	liveChannel struct {
		*regions.Live
		agreements
	}
	writtenChannel struct {
		*regions.Writable
		agreements
	}
)

// open connects to the FS server, or makes the in-process file system.
func open(cfg goferproto.Config, log *slog.Logger) (backend, error) {
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
		b := backend{fs: fs}
		return b, b.addRegions(cfg, 0, 0, log)
	}
	timeout := time.Duration(cfg.InitTimeoutMs) * time.Millisecond
	channel, err := fusechannel.New(context.Background(), goferproto.FDChannel, fusechannel.Options{
		InitTimeout: timeout, ReadOnly: cfg.Volume.ReadOnly, Log: log,
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
	cache := entrycache.New(below, entrycache.Options{
		ReadOnly:      cfg.Volume.ReadOnly,
		CacheSymlinks: channel.Has(fuse.CAP_CACHE_SYMLINKS),
		AutoInvalData: channel.Has(fuse.CAP_AUTO_INVAL_DATA),
		ListsXattrs:   listsXattrs,
	})
	b := backend{fs: cachedChannel{cache, agreements{channel}}, channel: channel, done: channel.Done()}
	if err := b.addRegions(cfg, channel.MaxRead(), channel.MaxWrite(), log); err != nil {
		channel.Close()
		return backend{}, err
	}
	if b.regions != nil {
		ahead := prefetch.New(b.regions, prefetch.Options{
			Entries: channel.Has(fuse.CAP_PARALLEL_DIROPS), Xattrs: listsXattrs, Data: true,
		})
		b.fs = regionChannel{ahead, b.regions, agreements{channel}}
	}
	if b.live != nil {
		b.fs = liveChannel{b.live, agreements{channel}}
	}
	if b.written != nil {
		b.fs = writtenChannel{b.written, agreements{channel}}
	}
	channel.SetNotifier(notifier{cache, b.regions, b.live, b.written, shown})
	return b, nil
}

// notifier passes the server's notifications to the caches.
type notifier struct {
	*entrycache.FS
	regions *regions.FS
	live    *regions.Live
	written *regions.Writable
	shown   func(nodeID uint64) uint64 // the ID by which the caches know a node
}

func (n notifier) Delete(parent, child uint64, name string) {
	n.FS.Delete(parent, n.shown(child), name)
}

func (n notifier) InvalInode(nodeID uint64, off, length int64) {
	nodeID = n.shown(nodeID)
	n.FS.InvalInode(nodeID, off, length)
	if off < 0 { // it speaks of attributes only
		return
	}
	if n.regions != nil {
		n.regions.InvalInode(nodeID)
	}
	if n.live != nil {
		n.live.InvalInode(nodeID)
	}
	if n.written != nil {
		n.written.InvalInode(nodeID, off, length)
	}
}

// Store asks the server again for what it offers. Notifications and replies take
// different ways, so the data may be older than a write or a truncation that has
// been acknowledged meanwhile.
func (n notifier) Store(nodeID, off uint64, data []byte) fuse.Status {
	n.InvalInode(nodeID, int64(min(off, math.MaxInt64)), int64(len(data)))
	return fuse.OK
}

func (n notifier) Retrieve(nodeID, off uint64, size uint32) ([]byte, fuse.Status) {
	if n.written == nil {
		return n.FS.Retrieve(nodeID, off, size)
	}
	return n.written.Retrieve(n.shown(nodeID), off, size)
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
	r := &goferproto.Ready{Cache: b.cache() != nil}
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
