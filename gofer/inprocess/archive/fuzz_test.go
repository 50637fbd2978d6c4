// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package archive

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// fuzzOptions keep one input's time and memory small.
func fuzzBuilder() *builder { return newBuilder(testOptions.Log, 2000, 0) }

// checkIndex verifies what the rest of the package relies on, and reads all of it.
func checkIndex(t *testing.T, x *index, data []byte) {
	t.Helper()
	if len(x.nodes) > 2000 {
		t.Fatalf("%d nodes", len(x.nodes))
	}
	names := make([]uint32, len(x.nodes))
	for i, n := range x.nodes {
		if int(n.parent) >= len(x.nodes) || !x.nodes[n.parent].isDir() {
			t.Fatalf("node %d has parent %d", i, n.parent)
		}
		if n.size < 0 || n.off < 0 || n.mtimeNs >= 1e9 {
			t.Fatalf("node %d: %+v", i, n)
		}
		if !n.isDir() && n.count != 0 || int(n.first)+int(n.count) > len(x.dirents) {
			t.Fatalf("node %d: %+v", i, n)
		}
		for j, e := range x.dirents[n.first : n.first+n.count] {
			names[e.node]++
			if e.name == "" || e.name == "." || e.name == ".." || len(e.name) > nameMax || strings.ContainsAny(e.name, "/\x00") {
				t.Fatalf("name %q", e.name)
			}
			if j > 0 && x.dirents[int(n.first)+j-1].name >= e.name {
				t.Fatalf("names of node %d are not in order", i)
			}
			if id, ok := x.lookup(uint32(i), e.name); !ok || id != e.node {
				t.Fatalf("lookup of %q: %d %v", e.name, id, ok)
			}
			if child := x.nodes[e.node]; child.isDir() && child.parent != uint32(i) {
				t.Fatalf("parent of %q is %d, not %d", e.name, child.parent, i)
			}
		}
	}
	for i, n := range x.nodes {
		if n.isDir() && i != root && names[i] != 1 || !n.isDir() && n.nlink != names[i] {
			t.Fatalf("node %d has %d names and nlink %d", i, names[i], n.nlink)
		}
	}
	f, err := os.Create(filepath.Join(t.TempDir(), "data"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.Write(data); err != nil {
		t.Fatal(err)
	}
	fs := &FS{
		RawFileSystem: fuse.NewDefaultRawFileSystem(), index: x, data: f, size: int64(len(data)),
		log: testOptions.Log, reported: map[uint32]bool{},
	}
	fs.cache = newCache(f, fs.size, 1<<20, 1<<20, fs.report)
	defer fs.cache.close()
	buf := make([]byte, 70_000)
	for i := range x.nodes {
		h := fuse.InHeader{NodeId: uint64(i) + 1}
		fs.Readlink(nil, &h)
		fs.ListXAttr(nil, &h, buf)
		fs.Open(nil, &fuse.OpenIn{InHeader: h}, &fuse.OpenOut{})
		for _, off := range []uint64{0, 1, uint64(x.nodes[i].size) / 2, uint64(x.nodes[i].size) - 1} {
			in := fuse.ReadIn{InHeader: h, Offset: off}
			if res, st := fs.Read(nil, &in, buf); st.Ok() {
				got, _ := res.Bytes(buf)
				if want := uint64(x.nodes[i].size) - off; off < uint64(x.nodes[i].size) && uint64(len(got)) != min(want, uint64(len(buf))) {
					t.Fatalf("node %d at %d: %d bytes", i, off, len(got))
				}
			}
			for _, whence := range []uint32{unix.SEEK_DATA, unix.SEEK_HOLE} {
				fs.Lseek(nil, &fuse.LseekIn{InHeader: h, Offset: off, Whence: whence}, &fuse.LseekOut{})
			}
		}
		fs.ReadDirPlus(nil, &fuse.ReadIn{InHeader: h}, fuse.NewDirEntryList(buf, 0))
	}
}

func FuzzTar(f *testing.F) {
	attrs := file("x", "abc")
	attrs.Header.PAXRecords = map[string]string{"SCHILY.xattr.user.a": "1"}
	long := file(strings.Repeat("long/", 60)+"x", "abc")
	gnu := long
	gnu.Header.Format = tar.FormatGNU
	f.Add(makeTar(f, file("a", "1"), other(tar.TypeLink, "b", "a"), other(tar.TypeSymlink, "c", "a"), other(tar.TypeDir, "d/", "")))
	f.Add(makeTar(f, attrs, long))
	f.Add(makeTar(f, gnu))
	for _, name := range sparseSamples(f) {
		f.Add(name)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		if len(data) > 1<<20 {
			return
		}
		data = bytes.Clone(data)
		repair(data)
		x, err := indexTar(bytes.NewReader(data), int64(len(data)), fuzzBuilder())
		if err == nil {
			checkIndex(t, x, data)
		}
		compareTar(t, data, x, err)
	})
}

// repair gives the header blocks the checksum that they should have: a fuzzer does
// not find it.
func repair(data []byte) {
	for ; len(data) >= blockSize; data = data[blockSize:] {
		if b := (*block)(data); string(b[257:262]) == "ustar" {
			sum, _ := checksums(b)
			copy(b[148:156], fmt.Sprintf("%06o\x00 ", sum))
		}
	}
}

// compareTar checks that what archive/tar reads to the end, we read, too, and see
// the same files in it.
func compareTar(t *testing.T, data []byte, x *index, ours error) {
	const most = 1 << 16 // bytes of a member that are compared
	files := map[string]string{}
	r := tar.NewReader(bytes.NewReader(data))
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil || h.Typeflag == tar.TypeLink {
			return
		}
		// Where we differ on purpose: numbers that no file has, headers that
		// archive/tar takes for files, global headers, which it leaves to its
		// caller, and our limits.
		if h.Size < 0 || strings.ContainsRune("XgDMVN", rune(h.Typeflag)) || len(files) > 50 || strings.Count(h.Name, "/") > 20 {
			return
		}
		var content strings.Builder
		if _, err := io.CopyN(&content, r, most); err != nil && !errors.Is(err, io.EOF) {
			return
		}
		if h.Typeflag == tar.TypeReg || h.Typeflag == tar.TypeGNUSparse {
			files[h.Name] = content.String()
		}
	}
	if ours != nil {
		t.Fatalf("archive/tar reads this to the end: %v", ours)
	}
	for name, want := range files {
		parts, err := split(name)
		if err != nil {
			continue
		}
		id, ok := uint32(root), true
		for _, p := range parts {
			if id, ok = x.lookup(id, p); !ok {
				break
			}
		}
		if n := &x.nodes[id]; ok && n.mode&unix.S_IFMT == unix.S_IFREG {
			if n.size < int64(len(want)) || n.size > int64(len(want)) && len(want) < most {
				t.Fatalf("%q has %d bytes, archive/tar says %d", name, n.size, len(want))
			}
		}
	}
}

func FuzzZip(f *testing.F) {
	f.Add(makeZip(f, zipFile("a", "stored", zip.Store), zipFile("b/c", strings.Repeat("deflated", 20), zip.Deflate), zipOther("l", "a", unix.S_IFLNK)))
	ext := zipFile("u", "x", zip.Store)
	ext.Extra = []byte("ux\x0b\x00\x01\x04\xe8\x03\x00\x00\x04\x05\x00\x00\x00\x0a\x00\x08\x00\x00\x00\x00\x00\x01\x00\x18\x00")
	f.Add(makeZip(f, ext))
	f.Add(makeZip(f))
	f.Fuzz(func(t *testing.T, data []byte) {
		if len(data) > 1<<20 {
			return
		}
		x, err := indexZip(bytes.NewReader(data), int64(len(data)), fuzzBuilder())
		if err == nil {
			checkIndex(t, x, data)
		}
	})
}

func FuzzPax(f *testing.F) {
	f.Add("12 path=abc\n20 mtime=-12.0000001\n")
	f.Add("25 GNU.sparse.map=1,2,3,4\n22 GNU.sparse.offset=1\n")
	f.Add("30 SCHILY.xattr.user.a=\x00b\n\n\n\n")
	f.Fuzz(func(t *testing.T, data string) {
		var h paxHeader
		if parsePax(data, &h) == nil && h.mtimeNs >= 1e9 {
			t.Errorf("mtime has %d ns", h.mtimeNs)
		}
	})
}
