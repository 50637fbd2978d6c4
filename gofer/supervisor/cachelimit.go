// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package supervisor

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"fsva/gofer/pressure"
	"fsva/gofer/supervisor/goferproto"
)

// CacheLimit is what a volume's buffer cache may take, in bytes.
type CacheLimit struct {
	Configured int64 `json:"configured"`
	// Effective is the limit in force: less than Configured while memory is short,
	// and for some time after.
	Effective int64 `json:"effective"`
	// Reductions counts the times that the limit was reduced for that reason.
	Reductions uint64 `json:"reductions"`
	// Watching is the kernel's file that says when memory is short. It is empty
	// when there is none to watch; WatchError then says why.
	Watching   string `json:"watching,omitempty"`
	WatchError string `json:"watchError,omitempty"`
}

// CacheLimitReply is the reply of POST /v1/cache-limit.
type CacheLimitReply struct {
	Limit CacheLimit       `json:"limit"`
	Cache goferproto.Cache `json:"cache"` // after the change
}

// DefaultCacheLimit is a quarter of the memory that the machine, and the cgroup of
// this process, have: sandboxes, FS servers and the host's page cache want theirs.
func DefaultCacheLimit() (int64, error) {
	n, err := pressure.Available()
	if err != nil {
		return 0, fmt.Errorf("find out how much memory there is: %w", err)
	}
	return n / 4, nil
}

// errNoCache answers requests about the cache of a volume that has none.
var errNoCache = errors.New("it has no cache of its own, so there is no limit to set")

// cacheLimit keeps the limit of a volume's cache: what was configured, and what
// memory pressure makes of it.
//
// Lock order: order, then mu.
type cacheLimit struct {
	log *slog.Logger
	// apply tells the gofer and returns the cache's account.
	apply func(ctx context.Context, bytes int64) (*goferproto.Cache, error)

	order sync.Mutex // held across apply, so that the last change is the last one told

	mu         sync.Mutex
	limiter    *pressure.Limiter // guarded by mu, as what follows
	watching   string
	watchError string
}

func (c *cacheLimit) get() CacheLimit {
	c.mu.Lock()
	defer c.mu.Unlock()
	return CacheLimit{
		Configured: c.limiter.Configured(), Effective: c.limiter.Effective(), Reductions: c.limiter.Reductions(),
		Watching: c.watching, WatchError: c.watchError,
	}
}

// change changes the limit and tells the gofer. An error means that the gofer may
// not know; it is told again with the next change.
func (c *cacheLimit) change(ctx context.Context, f func(*pressure.Limiter)) (*goferproto.Cache, error) {
	c.order.Lock()
	defer c.order.Unlock()
	c.mu.Lock()
	f(c.limiter)
	bytes := c.limiter.Effective()
	c.mu.Unlock()
	return c.apply(ctx, bytes)
}

// setWatch notes what is watched, or why nothing is.
func (c *cacheLimit) setWatch(path string, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.watching, c.watchError = path, ""
	if err != nil {
		c.watchError = err.Error()
	}
}

// watch adapts the limit to memory pressure until ctx ends. resident returns the
// bytes in the cache.
func (c *cacheLimit) watch(ctx context.Context, resident func(context.Context) (int64, error)) {
	trigger, err := pressure.NewTrigger()
	c.setWatch("", err)
	if err != nil {
		c.log.Info("memory pressure is not watched: the cache keeps its limit when memory is short", "err", err)
		return
	}
	defer trigger.Close()
	c.setWatch(trigger.Path(), nil)
	events := make(chan struct{}, 1)
	var follower sync.WaitGroup
	defer follower.Wait()
	follower.Go(func() { c.follow(ctx, events, resident) })
	if err := trigger.Watch(ctx, func() {
		select {
		case events <- struct{}{}:
		default: // the one before is not handled yet
		}
	}); err != nil {
		c.setWatch("", err)
		c.log.Warn("memory pressure is not watched any more", "err", err)
	}
}

// follow reduces the limit at each event and lets it grow when it is time to,
// until ctx ends.
func (c *cacheLimit) follow(ctx context.Context, events <-chan struct{}, resident func(context.Context) (int64, error)) {
	for {
		c.mu.Lock()
		at, growing := c.limiter.GrowAt()
		c.mu.Unlock()
		var grow <-chan time.Time
		if growing {
			grow = time.After(time.Until(at))
		}
		var err error
		select {
		case <-ctx.Done():
			return
		case <-events:
			err = c.reduce(ctx, resident)
		case <-grow:
			_, err = c.change(ctx, func(l *pressure.Limiter) { l.Grow(time.Now()) })
		}
		if err != nil && ctx.Err() == nil {
			c.log.Warn("limit of the cache", "err", err)
		}
	}
}

// reduce answers one event.
func (c *cacheLimit) reduce(ctx context.Context, resident func(context.Context) (int64, error)) error {
	before := c.get()
	held, err := resident(ctx)
	if err != nil {
		return err
	}
	if _, err := c.change(ctx, func(l *pressure.Limiter) { l.Reduce(time.Now(), held) }); err != nil {
		return err
	}
	if after := c.get(); after.Effective < before.Effective {
		c.log.Info("memory is short: the cache gets less", "resident", held, "limit", after.Effective, "configured", after.Configured)
	}
	return nil
}

// newCacheLimit prepares the limit that the volume starts with.
func (v *volume) newCacheLimit() error {
	bytes := v.cfg.CacheLimit
	if bytes == 0 {
		var err error
		if bytes, err = DefaultCacheLimit(); err != nil {
			return fmt.Errorf("%w (give --cache-limit)", err)
		}
	}
	v.cache = &cacheLimit{log: v.log, limiter: pressure.NewLimiter(bytes), apply: v.applyCacheLimit}
	return nil
}

// applyCacheLimit tells the gofer.
func (v *volume) applyCacheLimit(ctx context.Context, bytes int64) (*goferproto.Cache, error) {
	ctx, cancel := context.WithTimeout(ctx, goferStatTimeout)
	defer cancel()
	r, err := v.currentGofer().ask(ctx, goferproto.Request{Op: goferproto.OpCacheLimit, Bytes: bytes})
	if err != nil {
		return nil, err
	}
	if r.Cache == nil {
		return nil, fmt.Errorf("%w: no cache in the reply", goferproto.ErrMalformed)
	}
	return r.Cache, nil
}

// setCacheLimit is POST /v1/cache-limit; 0 bytes are the default.
func (v *volume) setCacheLimit(ctx context.Context, bytes int64) (CacheLimitReply, error) {
	if !v.hasCache() {
		return CacheLimitReply{}, errNoCache
	}
	if bytes == 0 {
		var err error
		if bytes, err = DefaultCacheLimit(); err != nil {
			return CacheLimitReply{}, err
		}
	}
	cache, err := v.cache.change(ctx, func(l *pressure.Limiter) { l.Set(bytes) })
	if err != nil {
		return CacheLimitReply{}, err
	}
	v.log.Info("limit of the cache set", "bytes", bytes)
	return CacheLimitReply{Limit: v.cache.get(), Cache: *cache}, nil
}

// hasCache reports whether the gofer is ready and has a cache.
func (v *volume) hasCache() bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.ready != nil && v.ready.Cache
}

// residentBytes asks the gofer what its cache holds.
func (v *volume) residentBytes(ctx context.Context) (int64, error) {
	ctx, cancel := context.WithTimeout(ctx, goferStatTimeout)
	defer cancel()
	s, err := v.currentGofer().stat(ctx)
	if err != nil {
		return 0, err
	}
	if s.Cache == nil {
		return 0, fmt.Errorf("%w: no cache in the reply", goferproto.ErrMalformed)
	}
	return s.Cache.Resident, nil
}
