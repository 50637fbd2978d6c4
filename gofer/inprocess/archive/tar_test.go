// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package archive

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// entry is one member of a test archive.
type entry struct {
	tar.Header
	data string
}

func file(name, data string) entry {
	return entry{tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o644, Size: int64(len(data))}, data}
}

func other(typ byte, name, link string) entry {
	return entry{Header: tar.Header{Name: name, Typeflag: typ, Mode: 0o755, Linkname: link}}
}

func makeTar(t testing.TB, entries ...entry) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, e := range entries {
		if err := w.WriteHeader(&e.Header); err != nil {
			t.Fatalf("%s: %v", e.Name, err)
		}
		if _, err := io.WriteString(w, e.data); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

func TestTarNames(t *testing.T) {
	long := strings.Repeat("n", 255)
	for _, tc := range []struct {
		name    string
		entries []entry
		want    string
	}{
		{"empty", nil, ""},
		{"plain", []entry{other(tar.TypeDir, "d/", ""), file("d/f", "x"), file("g", "")}, `
d 040755 0:0 n2
d/f 100644 0:0 n1 "x"
g 100644 0:0 n1 ""`},
		{"dot, absolute and doubled slashes", []entry{file("./a", "1"), file("/b", "2"), file("c//./d", "3"), other(tar.TypeDir, "./", "")}, `
a 100644 0:0 n1 "1"
b 100644 0:0 n1 "2"
c 040755 0:0 n2
c/d 100644 0:0 n1 "3"`},
		{"dotdot is left out", []entry{file("../a", "1"), file("b/../c", "2"), file("..d", "3"), file("..", "4")}, `
..d 100644 0:0 n1 "3"`},
		{"last wins", []entry{file("a", "1"), file("a", "2"), other(tar.TypeSymlink, "a", "t")}, `
a 120755 0:0 n1 -> t`},
		{"a directory stays", []entry{file("d/f", "1"), file("d", "2"), other(tar.TypeLink, "d", "d/f")}, `
d 040755 0:0 n2
d/f 100644 0:0 n1 "1"`},
		{"a directory replaces a file", []entry{file("d", "1"), other(tar.TypeDir, "d", ""), file("d/f", "2")}, `
d 040755 0:0 n2
d/f 100644 0:0 n1 "2"`},
		{"below a file", []entry{file("f", "1"), file("f/g", "2")}, `
f 100644 0:0 n1 "1"`},
		{"hard links", []entry{file("f", "1"), other(tar.TypeLink, "g", "f"), other(tar.TypeLink, "d/h", "./g"), other(tar.TypeLink, "x", "none"), other(tar.TypeLink, "y", "d"), other(tar.TypeLink, "f", "f")}, `
d 040755 0:0 n2
d/h 100644 0:0 n3 "1"
f 100644 0:0 n3 "1"
g 100644 0:0 n3 "1"`},
		{"a link keeps what was replaced", []entry{file("f", "1"), other(tar.TypeLink, "g", "f"), file("f", "2")}, `
f 100644 0:0 n1 "2"
g 100644 0:0 n1 "1"`},
		{"kinds", []entry{other(tar.TypeFifo, "p", ""), other(tar.TypeChar, "c", ""), other(tar.TypeBlock, "b", ""), other(tar.TypeSymlink, "l", "../../etc")}, `
l 120755 0:0 n1 -> ../../etc
p 010755 0:0 n1`},
		{"long names", []entry{file(long, "1"), file(long+"n", "2"), file(strings.Repeat("d/", 3000)+"x", "3"), other(tar.TypeSymlink, "l", strings.Repeat("t", 4095)), other(tar.TypeSymlink, "m", strings.Repeat("t", 4096))}, `
l 120755 0:0 n1 -> ` + strings.Repeat("t", 4095) + `
` + long + ` 100644 0:0 n1 "1"`},
		{"nlink of directories", []entry{other(tar.TypeDir, "a/b", ""), other(tar.TypeDir, "a/c", "")}, `
a 040755 0:0 n4
a/b 040755 0:0 n2
a/c 040755 0:0 n2`},
		{"bytes that are not UTF-8", []entry{file("\xff\x01", "1")}, "\xff\x01 100644 0:0 n1 \"1\""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			diff(t, serve(t, makeTar(t, tc.entries...), testOptions).tree(), tc.want)
		})
	}
}

func TestTarAttributes(t *testing.T) {
	when := time.Unix(-5, 250_000_000)
	f := file("f", "abc")
	f.Header.Format = tar.FormatPAX
	f.Header.Mode, f.Header.Uid, f.Header.Gid, f.Header.ModTime = 0o6755, 1<<21+5, 7, when
	f.Header.PAXRecords = map[string]string{"SCHILY.xattr.user.a": "1\x002", "SCHILY.xattr.user.b": "", "SCHILY.xattr.security.c": "3"}
	d := other(tar.TypeDir, "./", "")
	d.Header.Mode, d.Header.Uid = 0o1777, 9
	c := serve(t, makeTar(t, f, d), testOptions)

	e := c.must("f")
	if e.Mode != unix.S_IFREG|0o6755 || e.Uid != 1<<21+5 || e.Gid != 7 || int64(e.Mtime) != when.Unix() || int(e.Mtimensec) != when.Nanosecond() || e.Blocks != 1 {
		t.Errorf("attributes of f: %+v", e.Attr)
	}
	if r := c.must(""); r.Mode != unix.S_IFDIR|0o1777 || r.Uid != 9 || r.Nlink != 2 {
		t.Errorf("attributes of the root: %+v", r.Attr)
	}
	h := &fuse.InHeader{NodeId: e.NodeId}
	buf := make([]byte, 100)
	if n, st := c.GetXAttr(nil, h, "user.a", buf); !st.Ok() || string(buf[:n]) != "1\x002" {
		t.Errorf("user.a: %q %v", buf[:n], st)
	}
	if n, st := c.GetXAttr(nil, h, "user.a", nil); !st.Ok() || n != 3 {
		t.Errorf("size of user.a: %d %v", n, st)
	}
	if n, st := c.GetXAttr(nil, h, "user.a", buf[:1]); st != fuse.ERANGE || n != 3 {
		t.Errorf("user.a in one byte: %d %v", n, st)
	}
	if _, st := c.GetXAttr(nil, h, "user.x", buf); st != fuse.ENOATTR {
		t.Errorf("user.x: %v", st)
	}
	n, st := c.ListXAttr(nil, h, buf)
	if got := strings.Split(strings.TrimSuffix(string(buf[:n]), "\x00"), "\x00"); !st.Ok() || len(got) != 3 {
		t.Errorf("list: %q %v", got, st)
	}
}

func TestTarOperations(t *testing.T) {
	c := serve(t, makeTar(t, file("f", "0123456789"), other(tar.TypeDir, "d", ""), other(tar.TypeSymlink, "l", "f"), other(tar.TypeFifo, "p", "")), testOptions)
	for _, tc := range []struct {
		path  string
		flags uint32
		want  fuse.Status
	}{
		{"f", unix.O_RDONLY, fuse.OK},
		{"f", unix.O_RDWR, fuse.EROFS},
		{"f", unix.O_TRUNC, fuse.EROFS},
		{"d", unix.O_RDONLY, fuse.Status(unix.EISDIR)},
		{"l", unix.O_RDONLY, fuse.Status(unix.ELOOP)},
		{"p", unix.O_RDONLY, fuse.Status(unix.ENXIO)},
	} {
		in := fuse.OpenIn{InHeader: fuse.InHeader{NodeId: c.must(tc.path).NodeId}, Flags: tc.flags}
		if st := c.Open(nil, &in, &fuse.OpenOut{}); st != tc.want {
			t.Errorf("open %s %#x: %v, want %v", tc.path, tc.flags, st, tc.want)
		}
	}
	f := c.must("f").NodeId
	for _, tc := range []struct {
		off  uint64
		n    int
		want string
	}{
		{0, 4, "0123"}, {8, 4, "89"}, {10, 4, ""}, {11, 4, ""}, {1<<64 - 1, 4, ""}, {1 << 63, 4, ""}, {3, 0, ""},
	} {
		if got, st := c.readAt(f, make([]byte, tc.n), tc.off); !st.Ok() || string(got) != tc.want {
			t.Errorf("read %d at %d: %q %v", tc.n, tc.off, got, st)
		}
	}
	for _, id := range []uint64{0, 6, 1 << 32, 1<<32 + 1, 1<<64 - 1} {
		h := fuse.InHeader{NodeId: id}
		if st := c.GetAttr(nil, &fuse.GetAttrIn{InHeader: h}, &fuse.AttrOut{}); st != fuse.ENOENT {
			t.Errorf("getattr of node %d: %v", id, st)
		}
		if st := c.ReadDirPlus(nil, &fuse.ReadIn{InHeader: h}, fuse.NewDirEntryList(nil, 0)); st != fuse.ENOENT {
			t.Errorf("readdir of node %d: %v", id, st)
		}
	}
	if st := c.Lookup(nil, &fuse.InHeader{NodeId: f}, "x", &fuse.EntryOut{}); st != fuse.ENOTDIR {
		t.Errorf("lookup in a file: %v", st)
	}
	list := fuse.NewDirEntryList(make([]byte, 100), 1<<63)
	if st := c.ReadDir(nil, &fuse.ReadIn{InHeader: fuse.InHeader{NodeId: 1}, Offset: 1 << 63}, list); !st.Ok() || len(list.Bytes()) != 0 {
		t.Errorf("readdir behind the end: %v", st)
	}
}

func TestTarErrors(t *testing.T) {
	good := makeTar(t, file("first", "1"), file("second", strings.Repeat("x", 2000)))
	damaged := func(change func(b []byte)) []byte {
		b := bytes.Clone(good)
		change(b)
		return b
	}
	gz := func(b []byte) []byte {
		var buf bytes.Buffer
		w := gzip.NewWriter(&buf)
		w.Write(b)
		w.Close()
		return buf.Bytes()
	}
	for _, tc := range []struct {
		name string
		data []byte
		o    Options
		want string
	}{
		{"empty file", nil, Options{}, "the file is empty"},
		{"text", []byte(strings.Repeat("no archive at all\n", 100)), Options{}, "neither a zip nor a tar archive"},
		{"short", []byte("x"), Options{}, "neither a zip nor a tar archive"},
		{"checksum", damaged(func(b []byte) { b[1024+3] ^= 1 }), Options{}, "tar header at byte 1024: checksum does not match"},
		{"cut off in the data", good[:1024+512+1000], Options{}, "truncated: a member at byte 1536 has 2000 bytes, but only 1000 are left"},
		{"cut off in a header", good[:1024+100], Options{}, "tar header at byte 1024: unexpected EOF (is the archive complete?)"},
		{"too many files", good, Options{MaxFiles: 2}, "more than 2 files"},
		{"gzip of no tar", gz([]byte("hello")), Options{}, "tar.gz: there is no tar archive in it"},
		{"gzip cut off", gz(good)[:100], Options{}, "tar.gz: unexpected EOF (is the archive complete?)"},
		{"gzip too large", gz(good), Options{MaxUnpacked: 4095}, "tar.gz: it unpacks to more than 4095 bytes: raise the option max-unpacked"},
		{"bzip2 damaged", []byte("BZh9garbagegarbage"), Options{}, "tar.bz2: bzip2 data invalid"},
		{"xz", []byte("\xfd7zXZ\x00garbage"), Options{}, "xz is not supported"},
		{"zstd", []byte("\x28\xb5\x2f\xfdgarbage"), Options{}, "zstd is not supported"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			tc.o.Log = testOptions.Log
			_, err := openBytes(t, tc.data, tc.o)
			if err == nil || !strings.Contains(err.Error(), tc.want) || strings.Contains(err.Error(), "\n") {
				t.Errorf("got %v, want %q", err, tc.want)
			}
		})
	}
}

// An archive may end without zero blocks, and a gzip file may end with padding.
func TestTarEnds(t *testing.T) {
	data := makeTar(t, file("f", "x"))
	var packed bytes.Buffer
	for _, half := range [][]byte{data[:700], data[700:]} { // two gzip members
		w := gzip.NewWriter(&packed)
		w.Write(half)
		w.Close()
	}
	packed.Write(make([]byte, 100))
	for name, data := range map[string][]byte{
		"no mark": data[:1024], "no padding": data[:513], "garbage behind": append(bytes.Clone(data), "garbage"...), "gzip": packed.Bytes(),
	} {
		t.Run(name, func(t *testing.T) {
			diff(t, serve(t, data, testOptions).tree(), `f 100644 0:0 n1 "x"`)
		})
	}
}

// Global headers give owners and times to the members behind them.
func TestTarGlobalHeader(t *testing.T) {
	g := entry{Header: tar.Header{Typeflag: tar.TypeXGlobalHeader, Name: "g", PAXRecords: map[string]string{"uid": "42", "path": "all-the-same"}}}
	own := file("b", "2")
	own.Header.Uid = 1 << 21 // too large for the plain header
	diff(t, serve(t, makeTar(t, g, file("a", "1"), own), testOptions).tree(), `
a 100644 42:0 n1 "1"
b 100644 2097152:0 n1 "2"`)
}

func TestManyEntries(t *testing.T) {
	const n = 20_000
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for i := range n {
		if err := w.WriteHeader(&tar.Header{Name: fmt.Sprintf("d/%05d", (i*7919)%n), Typeflag: tar.TypeReg}); err != nil {
			t.Fatal(err)
		}
	}
	w.Close()
	c := serve(t, buf.Bytes(), testOptions)
	names := c.names("d")
	if len(names) != n || names[0] != "00000" || names[n-1] != fmt.Sprint(n-1) {
		t.Errorf("%d names, from %s to %s", len(names), names[0], names[len(names)-1])
	}
	seen := map[uint64]bool{}
	for _, name := range names {
		seen[c.must("d/"+name).Ino] = true
	}
	if len(seen) != n {
		t.Errorf("%d inode numbers for %d files", len(seen), n)
	}
}

func TestNumbers(t *testing.T) {
	for _, tc := range []struct {
		in   string
		want int64
		ok   bool
	}{
		{"0000644\x00", 0o644, true}, {"   644 \x00", 0o644, true}, {"", 0, true}, {"\x00\x00", 0, true},
		{"644 \x00zz", 0o644, true}, {"64x", 0, false}, {"-1", 0, false}, {"777777777777777777777", 1<<63 - 1, true},
		{"7777777777777777777777", 0, false},
		{"\x80\x00\x00\x01\x00", 256, true}, {"\xff\xff\xff\xff", -1, true}, {"\xff\xff\xff\xfe", -2, true},
		{"\x80\xff\xff\xff\xff\xff\xff\xff\xff", 0, false}, {"\x80\x7f\xff\xff\xff\xff\xff\xff\xff", 1<<63 - 1, true},
	} {
		got, err := parseNumber([]byte(tc.in))
		if (err == nil) != tc.ok || (tc.ok && got != tc.want) {
			t.Errorf("%q: %d %v, want %d %v", tc.in, got, err, tc.want, tc.ok)
		}
	}
	for _, tc := range []struct {
		in   string
		sec  int64
		nsec uint32
		ok   bool
	}{
		{"1.5", 1, 500_000_000, true}, {"-1.5", -2, 500_000_000, true}, {"-0.25", -1, 750_000_000, true}, {"7", 7, 0, true},
		{"1.0000000019", 1, 1, true}, {"-1.0000000001", -2, 999_999_999, true}, {"-1.9999999999", -2, 0, true},
		{"x", 0, 0, false}, {"1.x", 0, 0, false}, {"", 0, 0, false}, {"-9223372036854775808.5", 0, 0, false},
	} {
		sec, nsec, ok := parseTime(tc.in)
		if ok != tc.ok || (ok && (sec != tc.sec || nsec != tc.nsec)) {
			t.Errorf("%q: %d %d %v", tc.in, sec, nsec, ok)
		}
	}
}
