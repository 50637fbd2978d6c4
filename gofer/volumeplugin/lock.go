// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package volumeplugin

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// keyedLock is a lock for each name. The zero value is ready.
type keyedLock struct {
	mu   sync.Mutex
	held map[string]*holders // guarded by mu
}

type holders struct {
	free  chan struct{} // holds one token while nobody has the lock
	users int           // guarded by keyedLock.mu; that have it or want it
}

// lock waits for the name's lock, or the end of ctx.
func (k *keyedLock) lock(ctx context.Context, name string) (unlock func(), err error) {
	k.mu.Lock()
	h := k.held[name]
	if h == nil {
		h = &holders{free: make(chan struct{}, 1)}
		h.free <- struct{}{}
		if k.held == nil {
			k.held = map[string]*holders{}
		}
		k.held[name] = h
	}
	h.users++
	k.mu.Unlock()
	leave := func() {
		k.mu.Lock()
		defer k.mu.Unlock()
		if h.users--; h.users == 0 {
			delete(k.held, name)
		}
	}
	select {
	case <-h.free:
		return func() { h.free <- struct{}{}; leave() }, nil
	case <-ctx.Done():
		leave()
		return nil, fmt.Errorf("volume %q: another operation on it takes too long: %w", name, ctx.Err())
	}
}

// lockFile takes a lock that ends with the process.
func lockFile(path string) (release func(), err error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	for {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		switch {
		case err == unix.EINTR:
			continue
		case errors.Is(err, unix.EWOULDBLOCK):
			f.Close()
			return nil, fmt.Errorf("another fsva volume-plugin is running (it has locked %s)", path)
		case err != nil:
			f.Close()
			return nil, fmt.Errorf("lock %s: %w", path, err)
		}
		return func() { f.Close() }, nil
	}
}
