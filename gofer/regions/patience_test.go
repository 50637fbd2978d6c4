// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package regions

import (
	"bytes"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

func TestPatience(t *testing.T) {
	var p patience
	now := time.Unix(1000, 0)
	check := func(want time.Duration) {
		t.Helper()
		if got := p.left(now, maxWait); got != want {
			t.Errorf("%v are left, want %v", got, want)
		}
	}
	check(maxWait)
	p.spend(now, maxPatience-maxWait/2)
	check(maxWait / 2)
	p.spend(now, maxWait)
	check(0)
	now = now.Add(maxWait / 2 * patienceRecovers)
	check(0)
	now = now.Add(maxWait / 4 * patienceRecovers)
	check(maxWait / 4)
	p.spend(now.Add(-time.Hour), 0) // a clock that goes back gives nothing and takes nothing
	check(maxWait / 4)
	now = now.Add(time.Hour)
	check(maxWait)
	p.spend(now, maxPatience)
	check(0) // an hour does not save up more than the maximum
}

func TestWorthIt(t *testing.T) {
	const limit = 10 * probe
	for _, c := range []struct {
		elapsed    time.Duration
		done, size int64
		want       bool
	}{
		{probe - 1, 0, 1 << 40, true}, // too early to tell
		{probe, 100, 1000, true},
		{probe, 99, 1000, false},
		{limit, 1000, 1000, true},
		{limit, 500, 1000, true}, // half done
		{limit, 499, 1000, false},
		{2 * limit, 999, 1000, false},
		{probe, 1 << 60, 1 << 62, true},
		{probe, 0, 1, false},
	} {
		if got := worthIt(c.elapsed, limit, c.done, c.size); got != c.want {
			t.Errorf("after %v with %d of %d bytes it is worth it: %v, want %v", c.elapsed, c.done, c.size, got, c.want)
		}
	}
}

// slowSource takes a while for each read.
type slowSource struct {
	*source
	delay time.Duration
}

func (s slowSource) Read(cancel <-chan struct{}, in *fuse.ReadIn, buf []byte) (fuse.ReadResult, fuse.Status) {
	time.Sleep(s.delay)
	return s.source.Read(cancel, in, buf)
}

func TestLargeFileIsDonatedIfItIsSoonComplete(t *testing.T) {
	for _, c := range []struct {
		delay   time.Duration // of each of 32 reads
		budget  int64
		donated bool
		atLeast time.Duration
		atMost  time.Duration
	}{
		{10 * time.Millisecond, 1 << 30, true, 32 * 10 / maxFillers * time.Millisecond, maxWait},
		{maxWait, 1 << 30, false, maxWait, maxWait},    // the first piece tells
		{10 * time.Millisecond, 48 << 20, false, 0, 0}, // would take most of the cache
	} {
		synctest.Test(t, func(t *testing.T) {
			s := newSource(32 << 20)
			f := New(slowSource{s, c.delay}, Options{Budget: c.budget})
			start := time.Now()
			fh := openFile(t, f, 2)
			if d := time.Since(start); d < c.atLeast || d > c.atMost {
				t.Errorf("with %v for each read the open took %v, want %v to %v", c.delay, d, c.atLeast, c.atMost)
			}
			fd, ok := f.Donate(2, fh)
			if ok != c.donated {
				t.Errorf("with %v for each read the file was donated: %v", c.delay, ok)
			}
			if ok {
				if !bytes.Equal([]byte(contents(t, fd)), s.files[0]) {
					t.Error("wrong data")
				}
				unix.Close(fd)
			}
			release(f, 2, fh)
			finish(t, f, s)
		})
	}
}

// A program that opens many large files does not wait for all of each.
func TestPatienceEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sizes := make([]int, 40)
		for i := range sizes {
			sizes[i] = 8 << 20
		}
		s := newSource(sizes...)
		f := New(slowSource{s, 500 * time.Millisecond}, Options{Budget: 1 << 30, OpenWait: time.Second})
		start := time.Now()
		for i := range sizes {
			release(f, uint64(2+i), openFile(t, f, uint64(2+i)))
		}
		if d := time.Since(start); d > 2*maxPatience {
			t.Errorf("%d opens took %v", len(sizes), d)
		}
		finish(t, f, s)
	})
}

func TestLargeWritableFileIsDonatedIfItIsSoonComplete(t *testing.T) {
	d := newDisk(randomBytes(8 << 20))
	w := newWritable(t, d, WritableOptions{OpenWait: time.Hour})
	fh := w.open(2, unix.O_RDONLY)
	fd, ok := w.Donate(2, fh)
	if !ok {
		t.Fatal("it was not complete when it was opened")
	}
	if !bytes.Equal([]byte(contents(t, fd)), d.files[0]) {
		t.Error("wrong data")
	}
	unix.Close(fd)
	w.Return(2)
	w.release(2, fh)
	w.end()
}
