// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package supervisor

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
)

func TestLockTellsItsHolder(t *testing.T) {
	p := filepath.Join(t.TempDir(), "lock")
	l, err := acquire(p)
	if err != nil {
		t.Fatal(err)
	}
	var used *inUseError
	if _, err := acquire(p); !errors.As(err, &used) || used.pid != os.Getpid() {
		t.Errorf("second acquire: %v", err)
	}
	f, err := os.Open(p)
	if err != nil {
		t.Fatal(err)
	}
	released := make(chan error)
	go func() { released <- waitReleased(f) }()
	if err := l.release(); err != nil {
		t.Error(err)
	}
	if err := <-released; err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(p); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("file is left: %v", err)
	}
}

// TestLockIsExclusive has many take and release a lock whose file comes and
// goes: never do two have it.
func TestLockIsExclusive(t *testing.T) {
	p := filepath.Join(t.TempDir(), "lock")
	var holders, taken atomic.Int32
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 200 {
				l, err := acquire(p)
				var used *inUseError
				if errors.As(err, &used) {
					continue
				}
				if err != nil {
					t.Error(err)
					return
				}
				taken.Add(1)
				if n := holders.Add(1); n != 1 {
					t.Errorf("%d holders", n)
				}
				holders.Add(-1)
				if err := l.release(); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if taken.Load() == 0 {
		t.Error("nobody got it")
	}
}

func TestJoinIsOneLine(t *testing.T) {
	a, b := errors.New("a"), fmt.Errorf("b: %w", os.ErrNotExist)
	if err := join(nil, nil); err != nil {
		t.Errorf("join of nothing: %v", err)
	}
	if err := join(nil, a); err != a {
		t.Errorf("join of one: %v", err)
	}
	if err := join(a, b); err.Error() != "a; b: file does not exist" || !errors.Is(err, os.ErrNotExist) {
		t.Errorf("join of two: %v", err)
	}
}

func TestCheckName(t *testing.T) {
	for name, ok := range map[string]bool{
		"a": true, "A.b_c-9": true, fmt.Sprintf("%063d", 1): true,
		"": false, ".a": false, "-a": false, "a/b": false, "a b": false, "ä": false, fmt.Sprintf("%064d", 1): false, "a\n": false,
	} {
		if err := CheckName(name); (err == nil) != ok {
			t.Errorf("CheckName(%q) = %v", name, err)
		}
	}
}
