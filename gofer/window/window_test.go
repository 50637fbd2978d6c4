// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package window

import (
	"errors"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// create makes a window for the duration of the test.
func create(t *testing.T, size int64) (*os.File, ID) {
	t.Helper()
	f, id, err := Create(size)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f, id
}

func TestSizes(t *testing.T) {
	for _, size := range []int64{math.MinInt64, -1, 0, 1, 4096, MinSize / 2, MinSize + 4096, 3 * MinSize, 2 * MaxSize} {
		if _, _, err := Create(size); err == nil {
			t.Errorf("a window of %d bytes was made", size)
		}
	}
}

func TestSizeIsSealed(t *testing.T) {
	f, _ := create(t, MinSize)
	for _, size := range []int64{0, MinSize - 4096, 2 * MinSize} {
		if err := f.Truncate(size); !errors.Is(err, unix.EPERM) {
			t.Errorf("truncate to %d: %v, want EPERM", size, err)
		}
	}
}

// A memfd that its maker could still cut off would be a SIGBUS for the gofer.
func TestUnsealedIsRefused(t *testing.T) {
	fd, err := unix.MemfdCreate("test", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if err := unix.Ftruncate(fd, MinSize); err != nil {
		t.Fatal(err)
	}
	var s Set
	if err := s.Add(fd, ID{1}, MinSize); err == nil {
		t.Error("a window without seals was mapped")
	}
	sealed, id := create(t, MinSize)
	if err := s.Add(int(sealed.Fd()), id, 2*MinSize); err == nil {
		t.Error("a window was mapped beyond its end")
	}
}

func TestClaim(t *testing.T) {
	f, id := create(t, MinSize)
	var s Set
	if _, err := s.Claim(id); err != ErrUnknown {
		t.Errorf("claim before it is there: %v", err)
	}
	if err := s.Add(int(f.Fd()), id, MinSize); err != nil {
		t.Fatal(err)
	}
	if err := s.Add(int(f.Fd()), id, MinSize); err == nil {
		t.Error("a window was added twice")
	}
	w, err := s.Claim(id)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Claim(id); err != ErrInUse {
		t.Errorf("second claim: %v", err)
	}
	if _, _, ok := w.Lease(10); !ok || w.Leased() != 1 {
		t.Errorf("lease: %v, %d leased", ok, w.Leased())
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if w, err = s.Claim(id); err != nil {
		t.Fatal(err)
	}
	if w.Leased() != 0 {
		t.Error("leases of the connection before are there")
	}
	// Taken away under its user: the memory stays until it is given back.
	if err := s.Remove(id); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Claim(id); err != ErrUnknown {
		t.Errorf("claim after its end: %v", err)
	}
	off, buf, ok := w.Lease(1)
	if !ok {
		t.Fatal("no lease in a removed window")
	}
	buf[0] = 'x'
	var got [1]byte
	if _, err := f.ReadAt(got[:], off); err != nil || got[0] != 'x' {
		t.Errorf("the memfd has %q, %v", got, err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if err := s.Remove(id); err != ErrUnknown {
		t.Errorf("second remove: %v", err)
	}
}

func TestData(t *testing.T) {
	f, id := create(t, MinSize)
	var s Set
	if err := s.Add(int(f.Fd()), id, MinSize); err != nil {
		t.Fatal(err)
	}
	w, err := s.Claim(id)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		off int64
		n   int
		ok  bool
	}{
		{HeaderSize, 0, true},
		{HeaderSize, MinSize - HeaderSize, true},
		{MinSize - 1, 1, true},
		{MinSize, 0, true},
		{0, 16, false},
		{HeaderSize - 1, 2, false},
		{MinSize - 1, 2, false},
		{MinSize + 1, 0, false},
		{HeaderSize, math.MaxInt, false},
		{math.MaxInt64, math.MaxInt, false},
		{math.MaxInt64, 1, false},
		{-1, 1, false},
		{math.MinInt64, 1, false},
		{HeaderSize, -1, false},
	} {
		b := w.Data(c.off, c.n)
		if (b != nil) != c.ok || len(b) != cap(b) || c.ok && len(b) != c.n {
			t.Errorf("Data(%d, %d): %d bytes, capacity %d", c.off, c.n, len(b), cap(b))
		}
	}
}

// Leases never overlap, stay inside, and all room comes back, in any order.
func TestLeases(t *testing.T) {
	const size = MinSize
	l := newLeases(size)
	r := rand.New(rand.NewPCG(1, 2))
	held := map[int64]int64{}
	owner := make([]int64, size/page) // of each page; the offset of its lease
	refused := 0
	for range 20000 {
		if r.IntN(2) == 0 {
			n := 1 + r.IntN(64<<10)
			off, ok := l.Lease(n)
			if !ok {
				refused++
				continue
			}
			if off < HeaderSize || off%page != 0 || off+int64(n) > size {
				t.Fatalf("%d bytes leased at %d", n, off)
			}
			for p := off / page; p*page < off+int64(n); p++ {
				if owner[p] != 0 {
					t.Fatalf("page %d has two leases, %d and %d", p, owner[p], off)
				}
				owner[p] = off
			}
			held[off] = int64(n)
			continue
		}
		for off, n := range held {
			if !l.Release(off) {
				t.Fatalf("lease at %d is unknown", off)
			}
			if l.Release(off) {
				t.Fatalf("lease at %d ended twice", off)
			}
			for p := off / page; p*page < off+n; p++ {
				owner[p] = 0
			}
			delete(held, off)
			break
		}
	}
	if refused == 0 {
		t.Error("the window was never full")
	}
	for off := range held {
		l.Release(off)
	}
	if off, ok := l.Lease(size - HeaderSize); !ok || off != HeaderSize {
		t.Errorf("not all room came back: %d extents", len(l.free))
	}
	for _, n := range []int{0, -1, size, math.MaxInt, math.MinInt} {
		if _, ok := l.Lease(n); ok {
			t.Errorf("%d bytes were leased", n)
		}
	}
}

func TestIDText(t *testing.T) {
	_, id := create(t, MinSize)
	text, err := id.MarshalText()
	if err != nil {
		t.Fatal(err)
	}
	var got ID
	if err := got.UnmarshalText(text); err != nil || got != id {
		t.Errorf("%s became %x, %v", text, got, err)
	}
	for _, bad := range []string{"", "00", string(text) + "00", "zz" + string(text[2:])} {
		if err := got.UnmarshalText([]byte(bad)); err == nil {
			t.Errorf("%q is an ID", bad)
		}
	}
}

// A guest finds its windows among its PCI devices.
func TestDevices(t *testing.T) {
	dir := t.TempDir()
	add := func(name, vendor, device string, resource []byte) string {
		path := filepath.Join(dir, name)
		if err := os.Mkdir(path, 0o700); err != nil {
			t.Fatal(err)
		}
		for file, text := range map[string]string{"vendor": vendor + "\n", "device": device + "\n", "enable": "0\n", "resource2": string(resource)} {
			if err := os.WriteFile(filepath.Join(path, file), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		return path
	}
	f, id := create(t, MinSize)
	content := make([]byte, MinSize)
	if _, err := f.ReadAt(content, 0); err != nil {
		t.Fatal(err)
	}
	add("0000:00:01.0", "0x8086", "0x1110", content)
	add("0000:00:02.0", "0x1af4", "0x1000", content)
	add("0000:00:03.0", "0x1af4", "0x1110", make([]byte, MinSize)) // somebody else's
	add("0000:00:04.0", "0x1af4", "0x1110", content[:100])
	ours := add("0000:00:05.0", "0x1af4", "0x1110", content)
	devices, err := devicesIn(dir)
	if err != nil {
		t.Fatal(err)
	}
	if len(devices) != 1 || devices[0].Path != ours || devices[0].ID != id || devices[0].Size() != MinSize {
		t.Fatalf("found %+v, want %s", devices, ours)
	}
	copy(devices[0].Data(HeaderSize, 5), "hello")
	if err := devices[0].Close(); err != nil {
		t.Fatal(err)
	}
	after, err := os.ReadFile(filepath.Join(ours, "resource2"))
	if err != nil || string(after[HeaderSize:HeaderSize+5]) != "hello" {
		t.Errorf("not written: %v", err)
	}
	if !has(ours, "enable", "1") {
		t.Error("the device was not enabled")
	}
	if d, err := devicesIn(filepath.Join(dir, "none")); d != nil || err != nil {
		t.Errorf("without PCI: %v, %v", d, err)
	}
}
