// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package archive

import (
	"archive/zip"
	"bytes"
	"compress/flate"
	"compress/gzip"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// member is one member of a test archive.
type member struct {
	zip.FileHeader
	data string
}

func zipFile(name, data string, method uint16) member {
	m := member{zip.FileHeader{Name: name, Method: method}, data}
	m.CreatorVersion = madeByUnix << 8
	m.ExternalAttrs = (unix.S_IFREG | 0o644) << 16
	return m
}

func zipOther(name, data string, mode uint32) member {
	m := zipFile(name, data, zip.Store)
	m.ExternalAttrs = mode << 16
	return m
}

func makeZip(t testing.TB, members ...member) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := zip.NewWriter(&buf)
	for i := range members {
		m := &members[i]
		f, err := w.CreateHeader(&m.FileHeader)
		if err != nil {
			t.Fatalf("%s: %v", m.Name, err)
		}
		if _, err := io.WriteString(f, m.data); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

func TestZipTree(t *testing.T) {
	dos := func(name string, attrs uint32) member {
		m := zipFile(name, "", zip.Store)
		m.CreatorVersion, m.ExternalAttrs = madeByFAT<<8, attrs
		return m
	}
	for _, tc := range []struct {
		name    string
		members []member
		want    string
	}{
		{"empty", nil, ""},
		{"stored and deflated", []member{zipFile("s", "stored", zip.Store), zipFile("d/z", strings.Repeat("z", 10), zip.Deflate), zipFile("e", "", zip.Deflate)}, `
d 040755 0:0 n2
d/z 100644 0:0 n1 "zzzzzzzzzz"
e 100644 0:0 n1 ""
s 100644 0:0 n1 "stored"`},
		{"kinds", []member{
			zipOther("l", "../t", unix.S_IFLNK|0o777), {zip.FileHeader{Name: "dl", Method: zip.Deflate, CreatorVersion: madeByUnix << 8, ExternalAttrs: unix.S_IFLNK << 16}, "deflated"},
			zipOther("d/", "", unix.S_IFDIR|0o1700), zipOther("p", "", unix.S_IFIFO|0o600), zipOther("c", "", unix.S_IFCHR), zipOther("s", "", unix.S_IFSOCK),
			zipOther("none", "", unix.S_IFLNK), zipOther("long", strings.Repeat("x", 5000), unix.S_IFLNK), zipOther("nul", "a\x00b", unix.S_IFLNK), zipOther("u", "", 0o4755),
		}, `
d 041700 0:0 n2
dl 120000 0:0 n1 -> deflated
l 120777 0:0 n1 -> ../t
nul 120000 0:0 n1 -> 5=input/output error
p 010600 0:0 n1
u 104755 0:0 n1 ""`},
		{"names", []member{zipFile("/a", "1", 0), zipFile("../b", "2", 0), zipFile("c", "3", 0), zipFile("c", "4", 0), zipFile("c/d", "5", 0), zipFile(`b\s`, "6", 0), zipFile("ä", "7", 0)}, `
a 100644 0:0 n1 "1"
b\s 100644 0:0 n1 "6"
c 100644 0:0 n1 "4"
ä 100644 0:0 n1 "7"`},
		{"MS-DOS", []member{dos("a", 0), dos("b", 1), dos(`d\e`, 0), dos("f", 0x11)}, `
a 100644 0:0 n1 ""
b 100444 0:0 n1 ""
d 040755 0:0 n2
d/e 100644 0:0 n1 ""
f 040555 0:0 n2`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			diff(t, serve(t, makeZip(t, tc.members...), testOptions).tree(), tc.want)
		})
	}
}

func TestZipExtras(t *testing.T) {
	m := zipFile("f", "x", zip.Store)
	m.Modified = time.Date(2020, 1, 2, 3, 4, 5, 0, time.UTC) // writes "UT"
	m.Extra = []byte("ux\x0b\x00\x01\x04\xe8\x03\x00\x00\x04\x05\x00\x00\x00")
	n := zipFile("n", "", zip.Store)
	n.Extra = binary.LittleEndian.AppendUint64([]byte("\x0a\x00\x20\x00\x00\x00\x00\x00\x01\x00\x18\x00"), 116444736000000000+15_000_001)
	n.Extra = append(n.Extra, make([]byte, 16)...)
	d := zipFile("d", "", zip.Store)
	d.ModifiedDate, d.ModifiedTime = (2001-1980)<<9|9<<5|11, 1<<11|2<<5|3
	c := serve(t, makeZip(t, m, n, d), testOptions)
	if e := c.must("f"); int64(e.Mtime) != m.Modified.Unix() || e.Uid != 1000 || e.Gid != 5 {
		t.Errorf("f: %+v", e.Attr)
	}
	if e := c.must("n"); e.Mtime != 1 || e.Mtimensec != 500_000_100 {
		t.Errorf("n: %+v", e.Attr)
	}
	if e := c.must("d"); int64(e.Mtime) != time.Date(2001, 9, 11, 1, 2, 6, 0, time.UTC).Unix() {
		t.Errorf("d: %+v", e.Attr)
	}
}

// at finds the n'th appearance of a signature.
func at32(t *testing.T, data []byte, sig uint32, n int) int {
	t.Helper()
	pos := 0
	for ; ; n-- {
		i := bytes.Index(data[pos:], binary.LittleEndian.AppendUint32(nil, sig))
		if i < 0 {
			t.Fatalf("no %#x", sig)
		}
		if pos += i; n == 0 {
			return pos
		}
		pos += 4
	}
}

func TestZipMembersInTrouble(t *testing.T) {
	text := strings.Repeat("all work and no play ", 10_000) // larger than heapMax
	good := makeZip(t, zipFile("z", text, zip.Deflate), zipFile("s", "stored", zip.Store))
	for _, tc := range []struct {
		name   string
		file   string
		change func(t *testing.T, b []byte)
		want   fuse.Status
	}{
		{"fine", "z", func(*testing.T, []byte) {}, fuse.OK},
		{"data", "z", func(t *testing.T, b []byte) { b[60] ^= 0xff }, fuse.EIO},
		{"checksum", "z", func(t *testing.T, b []byte) { b[at32(t, b, sigCentral, 0)+16] ^= 1 }, fuse.EIO},
		{"too short", "z", func(t *testing.T, b []byte) { b[at32(t, b, sigCentral, 0)+24]++ }, fuse.EIO},
		{"too long", "z", func(t *testing.T, b []byte) { b[at32(t, b, sigCentral, 0)+24]-- }, fuse.EIO},
		{"empty", "z", func(t *testing.T, b []byte) { copy(b[at32(t, b, sigCentral, 0)+24:], make([]byte, 4)) }, fuse.OK},
		{"huge", "z", func(t *testing.T, b []byte) { copy(b[at32(t, b, sigCentral, 0)+24:], "\xfe\xff\xff\xff") }, fuse.Status(unix.EFBIG)},
		{"encrypted", "z", func(t *testing.T, b []byte) { b[at32(t, b, sigCentral, 0)+8] |= 1 }, fuse.EACCES},
		{"method", "z", func(t *testing.T, b []byte) { b[at32(t, b, sigCentral, 0)+10] = 93 }, fuse.EIO},
		{"no local header", "s", func(t *testing.T, b []byte) { b[at32(t, b, sigLocal, 1)] = 0 }, fuse.EIO},
		{"local header elsewhere", "s", func(t *testing.T, b []byte) { copy(b[at32(t, b, sigCentral, 1)+42:], "\x01\x00\x00\x00") }, fuse.EIO},
		{"local extra too long", "s", func(t *testing.T, b []byte) { copy(b[at32(t, b, sigLocal, 1)+28:], "\xff\xff") }, fuse.EIO},
		{"sizes of a stored one", "s", func(t *testing.T, b []byte) { b[at32(t, b, sigCentral, 1)+24]++ }, fuse.EIO},
	} {
		t.Run(tc.name, func(t *testing.T) {
			data := bytes.Clone(good)
			tc.change(t, data)
			o := testOptions
			o.MaxUnpacked = 1 << 20
			c := serve(t, data, o)
			for range 2 { // a failure is remembered
				got, st := c.content(tc.file)
				if st != tc.want {
					t.Errorf("status %v, want %v", st, tc.want)
				}
				if tc.name == "fine" && got != text {
					t.Errorf("%d bytes differ", len(got))
				}
			}
			if u := c.cache.used; tc.want != fuse.OK && u != 0 {
				t.Errorf("%d bytes in the cache", u)
			}
		})
	}
}

func TestZipErrors(t *testing.T) {
	good := makeZip(t, zipFile("a", "1", zip.Store), zipFile("b", "2", zip.Store))
	for _, tc := range []struct {
		name   string
		change func(t *testing.T, b []byte) []byte
		want   string
	}{
		{"cut off", func(t *testing.T, b []byte) []byte { return b[:len(b)-10] }, "no end of central directory: not a zip archive, or truncated"},
		{"count", func(t *testing.T, b []byte) []byte { b[at32(t, b, sigEnd, 0)+10]++; return b }, "central directory has 2 entries, its end record says 3"},
		{"directory outside", func(t *testing.T, b []byte) []byte { b[at32(t, b, sigEnd, 0)+18] = 1; return b }, "central directory: "},
		{"entry", func(t *testing.T, b []byte) []byte { b[at32(t, b, sigCentral, 1)] = 0; return b }, "central directory is damaged at byte "},
		{"name too long", func(t *testing.T, b []byte) []byte { b[at32(t, b, sigCentral, 1)+28] = 200; return b }, "an entry is cut off"},
		{"offset", func(t *testing.T, b []byte) []byte { b[at32(t, b, sigCentral, 1)+44] = 1; return b }, `entry "b" has impossible sizes`},
		{"parts", func(t *testing.T, b []byte) []byte { b[at32(t, b, sigEnd, 0)+4] = 1; return b }, "zip archive in several parts"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, err := openBytes(t, tc.change(t, bytes.Clone(good)), testOptions)
			if err == nil || !strings.Contains(err.Error(), tc.want) || strings.Contains(err.Error(), "\n") {
				t.Errorf("got %v, want %q", err, tc.want)
			}
		})
	}
}

// TestKinds opens archives as what they are not. A file of zeros is an empty tar and
// no zip, and a zip archive in a tar does not make that a zip with something in front.
func TestKinds(t *testing.T) {
	inner := makeZip(t, zipFile("a", "1", zip.Store))
	tarball, zipped := makeTar(t, file("a.zip", string(inner))), slices.Concat([]byte("#!/bin/sh\nexit\n"), inner)
	var gz bytes.Buffer
	w := gzip.NewWriter(&gz)
	w.Write(tarball)
	w.Close()
	for _, tc := range []struct {
		name         string
		data         []byte
		asZip, asTar string // what is wrong with it as a zip, as a tar; "" if nothing is
	}{
		{"zip", inner, "", "it is a zip archive, not a tar archive"},
		{"zip with a program in front", zipped, "", "it is a zip archive, not a tar archive"},
		{"zip with zeros in front", slices.Concat(make([]byte, 4096), inner), "", ""}, // as a tar it is empty
		{"tar with a zip in it", tarball, "it is a tar archive, not a zip archive", ""},
		{"tar.gz", gz.Bytes(), "it is a tar.gz archive, not a zip archive", ""},
		{"zeros", make([]byte, 8192), errNoZip.Error(), ""},
		{"empty", nil, "the file is empty", "the file is empty"},
		{"text", []byte(strings.Repeat("no archive at all\n", 100)), errNoZip.Error(), "not a tar archive"},
	} {
		for kind, want := range map[string]string{KindZip: tc.asZip, KindTar: tc.asTar} {
			o := testOptions
			o.Kind = kind
			got := ""
			if _, err := openBytes(t, tc.data, o); err != nil {
				got = err.Error()
			}
			if got != want {
				t.Errorf("%s as %s: got %q, want %q", tc.name, kind, got, want)
			}
		}
	}
}

func TestZipInFrontAndBehind(t *testing.T) {
	want := `a 100644 0:0 n1 "1"`
	good := makeZip(t, zipFile("a", "1", zip.Store))
	var commented bytes.Buffer
	w := zip.NewWriter(&commented)
	m := zipFile("a", "1", zip.Store)
	f, err := w.CreateHeader(&m.FileHeader)
	if err != nil {
		t.Fatal(err)
	}
	io.WriteString(f, "1")
	w.SetComment(strings.Repeat("PK\x05\x06 is no end record here. ", 100))
	w.Close()
	for name, data := range map[string][]byte{
		"program in front": append([]byte("#!/bin/sh\nexit\n"), good...),
		"comment":          commented.Bytes(),
	} {
		t.Run(name, func(t *testing.T) { diff(t, serve(t, data, testOptions).tree(), want) })
	}
}

// A zip64 archive with more than 65,535 members.
func TestZip64(t *testing.T) {
	var buf bytes.Buffer
	w := zip.NewWriter(&buf)
	const n = 70_000
	for i := range n {
		if _, err := w.CreateHeader(&zip.FileHeader{Name: fmt.Sprintf("d/%d", i)}); err != nil {
			t.Fatal(err)
		}
	}
	w.Close()
	c := serve(t, buf.Bytes(), testOptions)
	if got := c.must("d"); c.index.nodes[got.NodeId-1].count != n {
		t.Errorf("%d names, want %d", c.index.nodes[got.NodeId-1].count, n)
	}
	c.must("d/69999")
}

// A member with 64-bit sizes and offset, written by hand.
func TestZip64Member(t *testing.T) {
	var packed bytes.Buffer
	z, _ := flate.NewWriter(&packed, 9)
	io.WriteString(z, "hello")
	z.Close()
	local := le.AppendUint32(nil, sigLocal)
	local = append(local, make([]byte, 22)...)
	local = append(local, 1, 0, 0, 0, 'f')
	data := append(local, packed.Bytes()...)
	dir := len(data)
	h := make([]byte, lenCentral)
	le.PutUint32(h, sigCentral)
	h[5] = madeByUnix
	le.PutUint16(h[10:], zipDeflate)
	le.PutUint32(h[16:], crc32.ChecksumIEEE([]byte("hello")))
	copy(h[20:28], "\xff\xff\xff\xff\xff\xff\xff\xff")
	h[28], h[30] = 1, 28
	le.PutUint32(h[38:], (unix.S_IFREG|0o600)<<16)
	copy(h[42:], "\xff\xff\xff\xff")
	data = append(append(data, h...), 'f')
	data = append(data, 1, 0, 24, 0)
	data = le.AppendUint64(data, 5)
	data = le.AppendUint64(data, uint64(packed.Len()))
	data = le.AppendUint64(data, 0)
	size := len(data) - dir
	end := make([]byte, lenEnd)
	le.PutUint32(end, sigEnd)
	le.PutUint16(end[10:], 1)
	le.PutUint32(end[12:], uint32(size))
	le.PutUint32(end[16:], uint32(dir))
	diff(t, serve(t, append(data, end...), testOptions).tree(), `f 100600 0:0 n1 "hello"`)
}

// Many readers of more than the cache can hold see the right bytes, and the
// limits hold.
func TestCache(t *testing.T) {
	const files, size = 20, 3 * heapMax
	rnd := rand.New(rand.NewPCG(1, 2))
	var members []member
	var want []string
	for i := range files {
		b := make([]byte, size/(i%3+1))
		for j := range b {
			b[j] = "abcdefgh"[rnd.IntN(8)]
		}
		want = append(want, string(b))
		members = append(members, zipFile(fmt.Sprint(i), string(b), zip.Deflate))
	}
	o := testOptions
	o.CacheSize, o.MaxUnpacked = 2*size, 5*size
	c := serve(t, makeZip(t, members...), o)
	var wg sync.WaitGroup
	for g := range 4 {
		wg.Go(func() {
			rnd := rand.New(rand.NewPCG(3, uint64(g)))
			buf := make([]byte, 10_000)
			for range 300 {
				i := rnd.IntN(files)
				node := c.must(fmt.Sprint(i)).NodeId
				off := rnd.IntN(len(want[i]))
				got, st := c.readAt(node, buf, uint64(off))
				if !st.Ok() || string(got) != want[i][off:min(off+len(buf), len(want[i]))] {
					t.Errorf("file %d at %d: %d bytes, %v", i, off, len(got), st)
				}
			}
		})
	}
	wg.Wait()
	c.cache.mu.Lock()
	defer c.cache.mu.Unlock()
	var used int64
	memfds := 0
	for _, item := range c.cache.items {
		used += item.size
		if item.fd >= 0 {
			memfds++
		}
		if item.users != 0 {
			t.Errorf("node %d has %d users", item.node, item.users)
		}
	}
	if used != c.cache.used || used > c.cache.hard || memfds != c.cache.memfds || len(c.cache.items) != c.cache.lru.Len() {
		t.Errorf("used %d (%d), memfds %d (%d), limit %d", used, c.cache.used, memfds, c.cache.memfds, c.cache.hard)
	}
}

// What was not read for a while makes room; what was, stays.
func TestCacheIdle(t *testing.T) {
	data := strings.Repeat("x", 1000)
	var members []member
	for i := range 4 {
		members = append(members, zipFile(fmt.Sprint(i), data, zip.Deflate))
	}
	o := testOptions
	o.CacheSize, o.MaxUnpacked = 2000, 10_000
	c := serve(t, makeZip(t, members...), o)
	read := func(name string) {
		if _, st := c.content(name); !st.Ok() {
			t.Fatal(st)
		}
	}
	read("0")
	read("1")
	read("2")
	if len(c.cache.items) != 3 {
		t.Errorf("%d members are kept while in use, want 3", len(c.cache.items))
	}
	for _, item := range c.cache.items {
		item.last = item.last.Add(-2 * busyTime)
	}
	read("3")
	if len(c.cache.items) != 2 {
		t.Errorf("%d members are kept when idle, want 2", len(c.cache.items))
	}
}
