// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package archive

import (
	"bytes"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// The ways in which GNU tar writes sparse files.
var sparseFormats = map[string][]string{
	"old":  {"--format=gnu"},
	"0.0":  {"--format=posix", "--sparse-version=0.0"},
	"0.1":  {"--format=posix", "--sparse-version=0.1"},
	"1.0":  {"--format=posix", "--sparse-version=1.0"},
	"none": nil,
}

// makeSparse writes a file with many parts and holes and returns its content.
func makeSparse(t testing.TB, path string, parts int) []byte {
	t.Helper()
	rnd := rand.New(rand.NewPCG(5, 6))
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	content := make([]byte, parts*12288+5000)
	for i := range parts {
		off := i*12288 + rnd.IntN(2)*4096
		part := content[off : off+1+rnd.IntN(4000)]
		for j := range part {
			part[j] = byte(rnd.IntN(256))
		}
		if _, err := f.WriteAt(part, int64(off)); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.Truncate(int64(len(content))); err != nil {
		t.Fatal(err)
	}
	return content
}

func runTar(t testing.TB, dir string, args ...string) []byte {
	t.Helper()
	if _, err := exec.LookPath("tar"); err != nil {
		t.Skip("needs tar")
	}
	out := filepath.Join(t.TempDir(), "out")
	if text, err := exec.Command("tar", append([]string{"-C", dir, "-cf", out}, args...)...).CombinedOutput(); err != nil {
		t.Fatalf("tar: %v: %s", err, text)
	}
	data, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// sparseSamples are small archives for the fuzzer.
func sparseSamples(t testing.TB) (samples [][]byte) {
	dir := t.TempDir()
	makeSparse(t, filepath.Join(dir, "f"), 2)
	for name, args := range sparseFormats {
		if name == "none" {
			continue
		}
		samples = append(samples, runTar(t, dir, append(args, "-b1", "--sparse", "f")...))
	}
	return samples
}

func TestSparse(t *testing.T) {
	dir := t.TempDir()
	want := makeSparse(t, filepath.Join(dir, "f"), 200)
	if err := os.WriteFile(filepath.Join(dir, "g"), []byte("next"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "hole"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(filepath.Join(dir, "hole"), 1<<40); err != nil {
		t.Fatal(err)
	}
	for name, args := range sparseFormats {
		t.Run(name, func(t *testing.T) {
			members := []string{"f", "g"}
			if name != "none" {
				args, members = append(args, "--sparse"), append(members, "hole")
			}
			data := runTar(t, dir, append(args, members...)...)
			c := serve(t, data, testOptions)
			got, st := c.content("f")
			if !st.Ok() || got != string(want) {
				t.Fatalf("%d bytes of %d, %v", len(got), len(want), st)
			}
			node := c.must("f").NodeId
			rnd := rand.New(rand.NewPCG(7, 8))
			for range 500 {
				off, n := rnd.IntN(len(want)), rnd.IntN(40_000)
				got, st := c.readAt(node, make([]byte, n), uint64(off))
				if !st.Ok() || !bytes.Equal(got, want[off:min(off+n, len(want))]) {
					t.Fatalf("%d bytes at %d: %d bytes, %v", n, off, len(got), st)
				}
			}
			if got, st := c.content("g"); got != "next" {
				t.Errorf("the next member: %q %v", got, st)
			}
			if name == "none" {
				return
			}
			if len(data) > len(want) {
				t.Errorf("the test's file is not sparse: %d bytes packed", len(data))
			}
			hole := c.must("hole")
			if hole.Size != 1<<40 || hole.Blocks != 0 {
				t.Errorf("hole: size %d, blocks %d", hole.Size, hole.Blocks)
			}
			if got, st := c.readAt(hole.NodeId, make([]byte, 10), 1<<39); !st.Ok() || !bytes.Equal(got, make([]byte, 10)) {
				t.Errorf("read in the hole: %q %v", got, st)
			}
			// Data and holes follow each other and are where the bytes say.
			pos, parts := uint64(0), 0
			for {
				var data, end fuse.LseekOut
				in := fuse.LseekIn{InHeader: fuse.InHeader{NodeId: node}, Offset: pos, Whence: unix.SEEK_DATA}
				if st := c.Lseek(nil, &in, &data); st == fuse.Status(unix.ENXIO) {
					break
				} else if !st.Ok() {
					t.Fatal(st)
				}
				if strings.Trim(string(want[pos:data.Offset]), "\x00") != "" {
					t.Errorf("data in the hole at %d", pos)
				}
				in.Offset, in.Whence = data.Offset, unix.SEEK_HOLE
				if st := c.Lseek(nil, &in, &end); !st.Ok() || end.Offset <= data.Offset {
					t.Fatalf("hole behind %d: %d %v", data.Offset, end.Offset, st)
				}
				pos = end.Offset
				if parts++; pos >= uint64(len(want)) {
					break
				}
			}
			if parts < 100 {
				t.Errorf("%d parts", parts)
			}
		})
	}
}
