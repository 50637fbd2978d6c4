// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package regions

import (
	"bytes"
	"fmt"
	"math/rand"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// owner changes one file and knows what is in it.
type owner struct {
	w     *writable
	r     *rand.Rand
	id    uint64
	size  int // up to which it is changed
	model []byte
	fhs   []uint64 // all can be read and written
	lent  []int    // descriptors of the region
}

func (o *owner) step(t *testing.T) {
	w, r := o.w, o.r
	at := fuse.InHeader{NodeId: o.id}
	fh := o.fhs[r.Intn(len(o.fhs))]
	switch k := r.Intn(20); {
	case k < 8:
		data := make([]byte, min(1+r.Intn(1<<uint(r.Intn(17))), o.size/4))
		r.Read(data)
		off := r.Intn(o.size)
		if r.Intn(3) == 0 {
			off = len(o.model)
		}
		n, s := w.tryWrite(o.id, fh, off, data)
		if !s.Ok() {
			if s != enospc {
				t.Errorf("write: %v", s)
			}
			return
		}
		if end := off + n; end > len(o.model) {
			o.model = append(o.model, make([]byte, end-len(o.model))...)
		}
		copy(o.model[off:], data[:n])
	case k < 10:
		size := r.Intn(o.size)
		w.setSize(o.id, size)
		o.model = append(o.model[:min(size, len(o.model))], make([]byte, max(0, size-len(o.model)))...)
	case k == 10:
		fh := w.open(o.id, unix.O_RDWR|unix.O_TRUNC)
		o.model = o.model[:0]
		o.fhs = append(o.fhs, fh)
	case k == 11:
		off, n := r.Intn(o.size), 1+r.Intn(50_000)
		in := fuse.FallocateIn{InHeader: at, Fh: fh, Mode: unix.FALLOC_FL_PUNCH_HOLE | unix.FALLOC_FL_KEEP_SIZE, Offset: uint64(off), Length: uint64(n)}
		if s := w.Fallocate(nil, &in); !s.Ok() {
			t.Errorf("fallocate: %v", s)
		}
		if off < len(o.model) {
			clear(o.model[off:min(off+n, len(o.model))])
		}
	case k == 12 && len(o.fhs) > 1:
		w.release(o.id, o.fhs[0])
		o.fhs = o.fhs[1:]
	case k == 13:
		o.fhs = append(o.fhs, w.open(o.id, unix.O_RDWR))
	case k == 14:
		ro := w.open(o.id, unix.O_RDONLY)
		if fd, ok := w.Donate(o.id, ro); ok {
			o.lent = append(o.lent, fd)
		}
		w.release(o.id, ro)
	case k == 15 && len(o.lent) > 0:
		unix.Close(o.lent[0])
		w.Return(o.id)
		o.lent = o.lent[1:]
	case k == 16:
		if s := w.fsync(o.id, fh); !s.Ok() && s != enospc {
			t.Errorf("fsync: %v", s)
		}
	case k == 17:
		var out fuse.AttrOut
		if s := w.GetAttr(nil, &fuse.GetAttrIn{InHeader: at}, &out); !s.Ok() || out.Size != uint64(len(o.model)) {
			t.Errorf("size %d, %v, want %d", out.Size, s, len(o.model))
		}
	default:
		off, n := r.Intn(o.size), r.Intn(100_000)
		got, s := w.tryRead(o.id, fh, off, n)
		want := o.model[min(off, len(o.model)):min(off+n, len(o.model))]
		if !s.Ok() || !bytes.Equal(got, want) {
			t.Errorf("read %d at %d of %d: %s, %v", n, off, len(o.model), difference(got, want), s)
		}
	}
	for _, fd := range o.lent {
		if got := []byte(contents(t, fd)); !bytes.Equal(got, o.model) {
			t.Errorf("the region is not the file: %s", difference(got, o.model))
		}
	}
}

func difference(got, want []byte) string {
	for i := range min(len(got), len(want)) {
		if got[i] != want[i] {
			return fmt.Sprintf("byte %d is %#x, want %#x", i, got[i], want[i])
		}
	}
	return fmt.Sprintf("%d bytes, want %d", len(got), len(want))
}

// Each of several files is changed by its owner, who knows what must be in it at
// any time, while others read and map the same files, the budget changes, the
// server notifies, and some of its writes fail. In the end it has everything.
func TestWritableAgainstModel(t *testing.T) {
	for _, tc := range []struct {
		back bool
		size int
	}{{false, 300_000}, {true, 300_000}, {false, 2 * maxSmall}, {true, 2 * maxSmall}} {
		back, size := tc.back, tc.size
		t.Run(fmt.Sprintf("write-back=%v,size=%d", back, size), func(t *testing.T) {
			const files = 4
			d := newDisk()
			for range files {
				d.files = append(d.files, nil)
			}
			seed := time.Now().UnixNano()
			t.Logf("seed %d", seed)
			var failing atomic.Bool
			failing.Store(true)
			r := rand.New(rand.NewSource(seed)) // guarded by d.mu
			d.fail = func(op string) fuse.Status {
				if op == "WRITE" && failing.Load() && r.Intn(20) == 0 {
					return enospc
				}
				return fuse.OK
			}
			w := newWritable(t, d, WritableOptions{
				WriteBack: back, Budget: 1 << 20, FillLimit: 100_000, MaxRead: 64 << 10, MaxWrite: 32 << 10,
				MaxDirty: 200_000, MaxAge: 20 * time.Millisecond,
			})
			stop := make(chan struct{})
			var others, owners sync.WaitGroup
			for g := range 3 {
				r := rand.New(rand.NewSource(seed + 100 + int64(g)))
				others.Go(func() {
					for {
						select {
						case <-stop:
							return
						default:
						}
						id := uint64(2 + r.Intn(files))
						switch r.Intn(6) {
						case 0:
							w.SetBudget(int64(r.Intn(2 << 20)))
						case 1:
							w.InvalInode(id, int64(r.Intn(size)), int64(r.Intn(100_000)))
						case 2:
							w.Retrieve(id, uint64(r.Intn(size)), 10_000)
						case 3:
							fh := w.open(id, unix.O_RDONLY)
							if fd, ok := w.Donate(id, fh); ok {
								unix.Close(fd)
								w.Return(id)
							}
							w.release(id, fh)
						default:
							fh := w.open(id, unix.O_RDONLY)
							for off := r.Intn(size); off < size; off += 40_000 {
								w.tryRead(id, fh, off, 40_000)
							}
							w.release(id, fh)
						}
					}
				})
			}
			all := make([]*owner, files)
			for i := range all {
				o := &owner{w: w, r: rand.New(rand.NewSource(seed + int64(i))), id: uint64(2 + i), size: size}
				all[i] = o
				o.fhs = []uint64{w.open(o.id, unix.O_RDWR)}
				owners.Go(func() {
					for range 400 {
						o.step(t)
						if t.Failed() {
							return
						}
					}
				})
			}
			owners.Wait()
			close(stop)
			others.Wait()
			failing.Store(false)
			for _, o := range all {
				for _, fh := range o.fhs {
					w.release(o.id, fh)
				}
				for _, fd := range o.lent {
					unix.Close(fd)
					w.Return(o.id)
				}
			}
			w.end()
			for _, o := range all {
				if got := d.get(o.id); !bytes.Equal(got, o.model) {
					t.Errorf("file %d at the server: %s", o.id, difference(got, o.model))
				}
			}
		})
	}
}
