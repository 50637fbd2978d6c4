// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package archive

import (
	"archive/zip"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/hanwen/go-fuse/v2/fuse"
)

// benchFiles is a tree of 5,000 files of 2 KiB, as in the measurements.
const benchFiles, benchSize = 5000, 2048

func benchContent(i int) string {
	rnd := rand.New(rand.NewPCG(uint64(i), 0))
	b := make([]byte, benchSize)
	for j := range b {
		b[j] = "etaoin shrdlu\n"[rnd.IntN(14)]
	}
	return string(b)
}

func benchName(i int) string { return fmt.Sprintf("d%02d/file-%04d", i%50, i) }

// BenchmarkReadAll looks up, opens and reads each of 5,000 files; one operation is
// all of them. "host" is the same on the host's own file system, for comparison;
// "cold" opens the archive again each time.
func BenchmarkReadAll(b *testing.B) {
	var entries []entry
	var stored, deflated []member
	dir := b.TempDir()
	for i := range benchFiles {
		entries = append(entries, file(benchName(i), benchContent(i)))
		stored = append(stored, zipFile(benchName(i), benchContent(i), zip.Store))
		deflated = append(deflated, zipFile(benchName(i), benchContent(i), zip.Deflate))
		path := filepath.Join(dir, benchName(i))
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			b.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(benchContent(i)), 0o644); err != nil {
			b.Fatal(err)
		}
	}
	b.Run("host", func(b *testing.B) {
		b.ReportAllocs()
		b.SetBytes(benchFiles * benchSize)
		for b.Loop() {
			for i := range benchFiles {
				if _, err := os.ReadFile(filepath.Join(dir, benchName(i))); err != nil {
					b.Fatal(err)
				}
			}
		}
	})
	for _, tc := range []struct {
		name string
		data []byte
	}{
		{"tar", makeTar(b, entries...)},
		{"zip-stored", makeZip(b, stored...)},
		{"zip-deflated", makeZip(b, deflated...)},
	} {
		path := filepath.Join(dir, tc.name)
		if err := os.WriteFile(path, tc.data, 0o644); err != nil {
			b.Fatal(err)
		}
		open := func() client {
			fs, err := Open(path, testOptions)
			if err != nil {
				b.Fatal(err)
			}
			return client{b, fs}
		}
		b.Run(tc.name+"/index", func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				open().OnUnmount()
			}
		})
		b.Run(tc.name+"/cold", func(b *testing.B) {
			b.ReportAllocs()
			b.SetBytes(benchFiles * benchSize)
			for b.Loop() {
				c := open()
				readAll(c)
				c.OnUnmount()
			}
		})
		b.Run(tc.name+"/warm", func(b *testing.B) {
			c := open()
			defer c.OnUnmount()
			readAll(c)
			b.ReportAllocs()
			b.SetBytes(benchFiles * benchSize)
			for b.Loop() {
				readAll(c)
			}
		})
	}
}

func readAll(c client) {
	buf := make([]byte, 2*benchSize)
	for i := range benchFiles {
		node, st := c.open(benchName(i))
		if !st.Ok() {
			c.t.Fatal(st)
		}
		if data, st := c.readAt(node, buf, 0); !st.Ok() || len(data) != benchSize {
			c.t.Fatalf("%s: %d bytes, %v", benchName(i), len(data), st)
		}
	}
}

// BenchmarkList reads a directory of 100,000 files with attributes.
func BenchmarkList(b *testing.B) {
	const n = 100_000
	entries := make([]entry, n)
	for i := range entries {
		entries[i] = file(fmt.Sprintf("d/file-%06d", i), "")
	}
	c := serve(b, makeTar(b, entries...), testOptions)
	dir := c.must("d").NodeId
	buf := make([]byte, 64<<10)
	b.ReportAllocs()
	for b.Loop() {
		for off := uint64(0); ; {
			list := fuse.NewDirEntryList(buf, off)
			in := fuse.ReadIn{InHeader: fuse.InHeader{NodeId: dir}, Offset: off}
			if st := c.ReadDirPlus(nil, &in, list); !st.Ok() {
				b.Fatal(st)
			}
			if off == list.Offset {
				break
			}
			off = list.Offset
		}
	}
}
