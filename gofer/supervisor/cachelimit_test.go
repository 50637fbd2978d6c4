// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package supervisor

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"fsva/gofer/pressure"
	"fsva/gofer/supervisor/goferproto"
)

const mib = int64(1) << 20

// fakeApply is a gofer that notes the limits it is told, or does not listen.
type fakeApply struct {
	mu   sync.Mutex
	told []int64
	deaf bool
}

func (f *fakeApply) apply(_ context.Context, bytes int64) (*goferproto.Cache, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.deaf {
		return nil, errors.New("no answer")
	}
	f.told = append(f.told, bytes)
	return &goferproto.Cache{Limit: bytes}, nil
}

// take returns what it was told since the last time.
func (f *fakeApply) take() []int64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	told := f.told
	f.told = nil
	return told
}

func (f *fakeApply) setDeaf(deaf bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.deaf = deaf
}

// follow is told about pressure and about the time by fakes; it tells the gofer
// the limits of the table.
func TestFollow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		gofer := &fakeApply{}
		c := &cacheLimit{log: slog.New(slog.DiscardHandler), limiter: pressure.NewLimiter(400 * mib), apply: gofer.apply}
		events := make(chan struct{})
		done := make(chan struct{})
		go func() {
			defer close(done)
			c.follow(ctx, events, func(context.Context) (int64, error) { return 320 * mib, nil })
		}()
		expect := func(when string, want ...int64) {
			t.Helper()
			synctest.Wait()
			if told := gofer.take(); !slices.Equal(told, want) {
				t.Errorf("%s: the gofer was told %v, want %v", when, told, want)
			}
		}
		time.Sleep(time.Hour)
		expect("nothing happens")
		events <- struct{}{}
		expect("pressure", 240*mib)
		time.Sleep(2 * time.Second)
		events <- struct{}{}
		expect("more pressure", 180*mib)
		time.Sleep(9 * time.Second)
		expect("not long enough without")
		time.Sleep(time.Second)
		expect("the first step", 225*mib)
		if _, err := c.change(ctx, func(l *pressure.Limiter) { l.Set(300 * mib) }); err != nil {
			t.Error(err)
		}
		expect("the user has another wish", 225*mib)
		time.Sleep(time.Hour)
		expect("the rest of the way", 225*mib*5/4, 300*mib)
		if l := c.get(); l.Configured != 300*mib || l.Effective != 300*mib || l.Reductions != 2 {
			t.Errorf("in the end %+v", l)
		}
		cancel()
		<-done
	})
}

// A gofer that does not take a limit is told the next one.
func TestFollowAfterErrors(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		log := &logBuffer{}
		gofer := &fakeApply{deaf: true}
		c := &cacheLimit{log: slog.New(slog.NewTextHandler(log, nil)), limiter: pressure.NewLimiter(400 * mib), apply: gofer.apply}
		events := make(chan struct{})
		done := make(chan struct{})
		go func() {
			defer close(done)
			c.follow(ctx, events, func(context.Context) (int64, error) { return 320 * mib, nil })
		}()
		events <- struct{}{}
		synctest.Wait()
		if !strings.Contains(log.String(), "no answer") {
			t.Errorf("log: %s", log)
		}
		gofer.setDeaf(false)
		time.Sleep(pressure.GrowAfter)
		synctest.Wait()
		if told := gofer.take(); !slices.Equal(told, []int64{300 * mib}) {
			t.Errorf("told %v", told)
		}
		cancel()
		<-done
	})
}

func TestSetCacheLimit(t *testing.T) {
	c := newTestConfig(t, IsolationNone, "")
	c.Gofer.Options["gofer"] = "cache"
	c.CacheLimit = 80 * mib
	r := serve(t, c)
	s, err := Stat(t.Context(), c.Dirs, "vol")
	if err != nil {
		t.Fatal(err)
	}
	if l := s.CacheLimit; l == nil || l.Configured != 80*mib || l.Effective != 80*mib || s.Gofer.Cache.Limit != 80*mib {
		t.Errorf("at the start: %+v, gofer %+v", l, s.Gofer.Cache)
	}
	if s.RPCs["PRead"].Requests != 5 || s.FUSE["READ"].Errors != 1 || s.GuestRequests != nil { // nobody listens for guests
		t.Errorf("requests: %+v, %+v, %+v", s.RPCs, s.FUSE, s.GuestRequests)
	}
	got, err := SetCacheLimit(t.Context(), c.Dirs, "vol", 70*mib)
	if err != nil || got.Limit.Configured != 70*mib || got.Cache.Limit != 70*mib || got.Cache.Resident != 70*mib {
		t.Errorf("70 MiB: %+v, %v", got, err)
	}
	want, err := DefaultCacheLimit()
	if err != nil {
		t.Fatal(err)
	}
	got, err = SetCacheLimit(t.Context(), c.Dirs, "vol", 0)
	if err != nil || got.Limit.Configured != want || got.Cache.Limit != want {
		t.Errorf("default: %+v, %v, want %d", got, err, want)
	}
	if _, err := SetCacheLimit(t.Context(), c.Dirs, "vol", -1); err == nil {
		t.Error("a negative limit was set")
	}
	if _, err := SetCacheLimit(t.Context(), c.Dirs, "other", 1); !errors.Is(err, ErrUnknownVolume) {
		t.Errorf("unknown volume: %v", err)
	}
	if s := r.log.String(); strings.Contains(s, "has none") {
		t.Errorf("log:\n%s", s)
	}
}

func TestVolumeWithoutCache(t *testing.T) {
	c := newTestConfig(t, IsolationNone, "")
	c.CacheLimit = 80 * mib
	r := serve(t, c)
	_, err := SetCacheLimit(t.Context(), c.Dirs, "vol", 70*mib)
	if err == nil || err.Error() != `volume "vol": `+errNoCache.Error() {
		t.Errorf("got %v", err)
	}
	s, err := Stat(t.Context(), c.Dirs, "vol")
	if err != nil || s.CacheLimit != nil {
		t.Errorf("%+v, %v", s.CacheLimit, err)
	}
	r.signals <- unix.SIGTERM
	if err := r.wait(t); err != nil {
		t.Error(err)
	}
	if !strings.Contains(r.log.String(), "the volume has none") {
		t.Errorf("the flag without effect is not mentioned:\n%s", r.log)
	}
}
