// Copyright 2026 The FSVA Authors.
//
// Licensed under the Apache License, Version 2.0 (the "License");
// you may not use this file except in compliance with the License.
// You may obtain a copy of the License at
//
//     http://www.apache.org/licenses/LICENSE-2.0
//
// Unless required by applicable law or agreed to in writing, software
// distributed under the License is distributed on an "AS IS" BASIS,
// WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
// See the License for the specific language governing permissions and
// limitations under the License.

package serving

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"

	"fsva/gofer/attach"
	"fsva/gofer/entrycache"
	"fsva/gofer/fusechannel"
	"fsva/gofer/inprocess"
	"fsva/gofer/supervisor/goferproto"
)

// backend is the volume's file system, with what the process needs to know of
// where it comes from.
type backend struct {
	fs      fuse.RawFileSystem
	cache   *entrycache.FS       // nil in process: the answers are in memory already
	channel *fusechannel.Channel // nil in process
	done    <-chan struct{}      // closed when the file system is lost; nil: never
}

// cachedChannel is the cache in front of a channel, with what frontends ask a
// file system beyond the RawFileSystem: the agreements made in INIT.
type cachedChannel struct {
	*entrycache.FS
	channel *fusechannel.Channel
}

func (c cachedChannel) Has(capability uint64) bool { return c.channel.Has(capability) }
func (c cachedChannel) MaxRead() int               { return c.channel.MaxRead() }
func (c cachedChannel) MaxWrite() int              { return c.channel.MaxWrite() }

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
		return backend{fs: fs}, nil
	}
	timeout := time.Duration(cfg.InitTimeoutMs) * time.Millisecond
	channel, err := fusechannel.New(context.Background(), goferproto.FDChannel, fusechannel.Options{
		InitTimeout: timeout, ReadOnly: cfg.Volume.ReadOnly, Log: log,
	})
	if err != nil {
		return backend{}, err
	}
	cache := entrycache.New(channel, entrycache.Options{
		ReadOnly:      cfg.Volume.ReadOnly,
		CacheSymlinks: channel.Has(fuse.CAP_CACHE_SYMLINKS),
	})
	channel.SetNotifier(cache)
	return backend{fs: cachedChannel{cache, channel}, cache: cache, channel: channel, done: channel.Done()}, nil
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
	r := &goferproto.Ready{}
	if b.channel != nil {
		r.FuseMinor = b.channel.InitOut().Minor
		r.MaxRead, r.MaxWrite = uint32(b.channel.MaxRead()), uint32(b.channel.MaxWrite())
	}
	return r
}

// stat adds the channel's counts.
func (b *backend) stat(s *goferproto.Stat) {
	if b.channel == nil {
		return
	}
	c := b.channel.Stats()
	for _, n := range c.Ops {
		s.Requests += n
	}
	for _, n := range c.Notifications {
		s.Notifies += n
	}
	s.BadReplies, s.InFlight = c.Malformed, uint64(c.InFlight)
	s.Replies = s.Requests - min(s.Requests, s.InFlight)
	s.BytesRead, s.BytesWrite = c.BytesRead, c.BytesWritten
}

// close ends the file system in order: DESTROY lets the server write back what
// it holds.
func (b *backend) close() error {
	if b.channel == nil {
		b.fs.OnUnmount()
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), stopTimeout)
	defer cancel()
	if err := b.channel.Destroy(ctx); err != nil {
		return fmt.Errorf("unmount the FS server: %w", err)
	}
	return nil
}
