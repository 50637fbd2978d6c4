// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package image

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// entry is one entry of a test's tar file.
type entry struct {
	name, link, body string
	kind             byte
	mode             int64
}

func file(name, body string) entry    { return entry{name: name, body: body, kind: tar.TypeReg} }
func dir(name string) entry           { return entry{name: name, kind: tar.TypeDir, mode: 0o755} }
func symlink(name, link string) entry { return entry{name: name, link: link, kind: tar.TypeSymlink} }
func hard(name, link string) entry    { return entry{name: name, link: link, kind: tar.TypeLink} }

// tarOf makes a tar file.
func tarOf(t testing.TB, entries ...entry) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, e := range entries {
		mode := e.mode
		if mode == 0 {
			mode = 0o644
		}
		h := &tar.Header{Name: e.name, Linkname: e.link, Typeflag: e.kind, Mode: mode, Size: int64(len(e.body)), Uid: os.Getuid(), Gid: os.Getgid()}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(e.body)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// unpack unpacks layers to dir/root.
func unpack(t testing.TB, dir string, limits Limits, layers ...[]byte) error {
	t.Helper()
	u, err := newUnpacker(t.Context(), filepath.Join(dir, "root"), limits)
	if err != nil {
		t.Fatal(err)
	}
	defer u.close()
	for _, l := range layers {
		if err := u.layer(bytes.NewReader(l)); err != nil {
			return err
		}
	}
	return nil
}

// tree lists a directory: NAME/, NAME=CONTENTS, NAME->TARGET, sorted.
func tree(t testing.TB, dir string) string {
	t.Helper()
	var out []string
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil || p == dir {
			return err
		}
		name := strings.TrimPrefix(p, dir+"/")
		switch {
		case d.IsDir():
			name += "/"
		case d.Type()&fs.ModeSymlink != 0:
			to, err := os.Readlink(p)
			if err != nil {
				return err
			}
			name += "->" + to
		case d.Type().IsRegular():
			data, err := os.ReadFile(p)
			if err != nil {
				return err
			}
			name += "=" + string(data)
		default:
			name += "?"
		}
		out = append(out, name)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(out)
	return strings.Join(out, " ")
}

func TestUnpack(t *testing.T) {
	for _, tc := range []struct {
		name   string
		layers [][]entry
		want   string
	}{
		{"plain", [][]entry{{dir("./"), dir("./d"), file("./d/f", "x"), symlink("./s", "d/f")}}, "d/ d/f=x s->d/f"},
		{"absolute names are below the root", [][]entry{{file("/etc/f", "x")}}, "etc/ etc/f=x"},
		{"a file replaced by a directory, and back", [][]entry{{file("a", "1"), dir("b"), file("b/c", "2")}, {dir("a"), file("a/x", "3"), file("b", "4")}}, "a/ a/x=3 b=4"},
		{"a later layer wins", [][]entry{{file("f", "old"), hard("g", "f")}, {file("f", "new")}}, "f=new g=old"},
		{"hard link", [][]entry{{file("d/f", "x"), hard("g", "d/f"), hard("h", "/g")}}, "d/ d/f=x g=x h=x"},
		{"hard link to a symbolic link", [][]entry{{symlink("s", "/etc/passwd"), hard("g", "s")}}, "g->/etc/passwd s->/etc/passwd"},
		{"hard link of another layer", [][]entry{{file("f", "x")}, {hard("g", "f")}}, "f=x g=x"},
		{"whiteout", [][]entry{{file("d/f", "x"), file("d/g", "y"), dir("e"), file("e/f/g", "z")}, {file("d/.wh.f", ""), file(".wh.e", "")}}, "d/ d/g=y"},
		{"whiteout of nothing", [][]entry{{file("f", "x")}, {file(".wh.g", ""), file("d/.wh.x", "")}}, "d/ f=x"},
		{"opaque", [][]entry{{file("d/old", "x"), file("d/e/old", "y")}, {file("d/new", "n"), file("d/.wh..wh..opq", ""), file("d/e/new", "m")}}, "d/ d/e/ d/e/new=m d/new=n"},
		{"other union file systems' own", [][]entry{{file(".wh..wh.plnk/1.2", "x"), file(".wh..wh.aufs", "x")}}, ".wh..wh.plnk/ .wh..wh.plnk/1.2=x"},
		{"devices and fifos are left out", [][]entry{{{name: "null", kind: tar.TypeChar}, {name: "sda", kind: tar.TypeBlock}, {name: "fifo", kind: tar.TypeFifo}, file("f", "x")}}, "f=x"},
		{"links are followed below the root", [][]entry{{dir("usr/lib"), symlink("lib", "/usr/lib"), file("lib/f", "x")}}, "lib->/usr/lib usr/ usr/lib/ usr/lib/f=x"},
		{"a link upwards ends at the root", [][]entry{{symlink("up", "../../../../.."), file("up/f", "x")}}, "f=x up->../../../../.."},
		{"a link to the machine's files", [][]entry{{symlink("e", "/"), file("e/tmp/fsva-escape", "x")}}, "e->/ tmp/ tmp/fsva-escape=x"},
		{"a symbolic link is replaced, not followed", [][]entry{{file("t", "old"), symlink("s", "t")}, {file("s", "new")}}, "s=new t=old"},
		{"a directory in the place of a link", [][]entry{{symlink("s", "/etc")}, {dir("s"), file("s/f", "x")}}, "s/ s/f=x"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			base := t.TempDir()
			var layers [][]byte
			for _, l := range tc.layers {
				layers = append(layers, tarOf(t, l...))
			}
			if err := unpack(t, base, DefaultLimits, layers...); err != nil {
				t.Fatal(err)
			}
			if got := tree(t, base+"/root"); got != tc.want {
				t.Errorf("\ngot  %s\nwant %s", got, tc.want)
			}
			if got, err := os.ReadDir(base); err != nil || len(got) != 1 {
				t.Errorf("beside the root: %v, %v", got, err)
			}
		})
	}
}

func TestUnpackKeepsModes(t *testing.T) {
	base := t.TempDir()
	if err := unpack(t, base, DefaultLimits, tarOf(t, entry{name: "s", kind: tar.TypeReg, mode: 0o4755}, entry{name: "d", kind: tar.TypeDir, mode: 0o1700})); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]fs.FileMode{"s": 0o755 | fs.ModeSetuid, "d": 0o700 | fs.ModeSticky | fs.ModeDir} {
		fi, err := os.Stat(base + "/root/" + name)
		if err != nil || fi.Mode() != want {
			t.Errorf("%s: got %v, %v, want %v", name, fi.Mode(), err, want)
		}
	}
}

func TestUnpackRefuses(t *testing.T) {
	deep := strings.Repeat("d/", maxDepth+1) + "f"
	whole := tarOf(t, file("f", strings.Repeat("x", 4096)), file("g", strings.Repeat("y", 4096)))
	small := Limits{Layers: 1, Files: 3, Bytes: 8192}
	sparse := tarOf(t, file("f", strings.Repeat("x", 9000)))
	for _, tc := range []struct {
		name   string
		limits Limits
		tar    []byte
		want   string
	}{
		{"a name that leaves the root", DefaultLimits, tarOf(t, file("../f", "x")), `entry "../f": the name leaves the image's root`},
		{"in the middle", DefaultLimits, tarOf(t, file("a/../../f", "x")), "the name leaves the image's root"},
		{"whiteout of the parent", DefaultLimits, tarOf(t, file("d/.wh...", "")), "a whiteout of no file"},
		{"whiteout of the directory", DefaultLimits, tarOf(t, file("d/.wh..", "")), "a whiteout of no file"},
		{"whiteout of nothing", DefaultLimits, tarOf(t, file("d/.wh.", "")), "a whiteout of no file"},
		{"hard link to the machine's file", DefaultLimits, tarOf(t, hard("p", "/etc/passwd")), `hard link to "/etc/passwd": no such file or directory`},
		{"hard link upwards", DefaultLimits, tarOf(t, hard("p", "../../../../../../etc/passwd")), "no such file or directory"},
		{"hard link through a link", DefaultLimits, tarOf(t, symlink("e", "/etc"), hard("p", "e/passwd")), "no such file or directory"},
		{"hard link to a directory", DefaultLimits, tarOf(t, dir("d"), hard("p", "d")), "operation not permitted"},
		{"hard link to itself", DefaultLimits, tarOf(t, hard("p", "p")), "no such file or directory"},
		{"a loop of links", DefaultLimits, tarOf(t, symlink("a", "b"), symlink("b", "a"), file("a/f", "x")), "too many levels of symbolic links"},
		{"a link to nothing", DefaultLimits, tarOf(t, symlink("a", "b"), file("a/f", "x")), "file exists"},
		{"a file as a directory", DefaultLimits, tarOf(t, file("a", "x"), file("a/f", "x")), "not a directory"},
		{"a link to a kernel's magic", DefaultLimits, tarOf(t, symlink("a", "/proc/self/root"), file("a/f", "x")), "file exists"},
		{"too deep", DefaultLimits, tarOf(t, file(deep, "x")), "file name too long"},
		{"too long a part", DefaultLimits, tarOf(t, file(strings.Repeat("n", 256), "x")), "file name too long"},
		{"unknown type", DefaultLimits, tarOf(t, entry{name: "f", kind: 'Q'}), `entries of type 'Q' are not known`},
		{"too many files", small, tarOf(t, dir("a"), dir("b"), dir("c"), dir("d")), "the image has more than 3 files"},
		{"too many bytes", small, sparse, "the image unpacks to more than 8192 bytes"},
		{"not a tar file", DefaultLimits, []byte(strings.Repeat("no tar ", 200)), "invalid tar header"},
		{"nothing", DefaultLimits, nil, "the tar file's end is missing"},
		{"cut in a file", DefaultLimits, whole[:2000], "unexpected EOF"},
		{"cut in a header", DefaultLimits, whole[:512+4096+100], "unexpected EOF"},
		{"cut between files", DefaultLimits, whole[:512+4096], "the tar file's end is missing"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			base := t.TempDir()
			err := unpack(t, base, tc.limits, tc.tar)
			if err == nil || !strings.Contains(err.Error(), tc.want) || strings.Contains(err.Error(), "\n") {
				t.Errorf("got %v, want %q", err, tc.want)
			}
			if got, err := os.ReadDir(base); err != nil || len(got) != 1 {
				t.Errorf("beside the root: %v, %v", got, err)
			}
		})
	}
}

// TestUnpackDepthThroughLinks: links must not be a way to make directories deeper than can be removed again.
func TestUnpackDepthThroughLinks(t *testing.T) {
	half := strings.TrimSuffix(strings.Repeat("d/", maxDepth/2), "/")
	var entries []entry
	at := ""
	for i := range 4 {
		link := fmt.Sprintf("l%d", i)
		entries = append(entries, dir(at+half), symlink(link, at+half))
		at = link + "/"
	}
	err := unpack(t, t.TempDir(), DefaultLimits, tarOf(t, entries...))
	if err == nil || !strings.Contains(err.Error(), unix.ENAMETOOLONG.Error()) {
		t.Errorf("got %v", err)
	}
}

// FuzzUnpack: whatever a layer says, nothing beside the root changes, and what was unpacked can be removed.
func FuzzUnpack(f *testing.F) {
	f.Add(tarOf(f, dir("d"), file("d/f", "x"), symlink("s", "/"), hard("h", "d/f"), file("s/../x", "")))
	f.Add(tarOf(f, file("d/.wh.f", ""), file("d/.wh..wh..opq", ""), symlink("up", ".."), file("up/beside", "changed")))
	f.Fuzz(func(t *testing.T, data []byte) {
		base := t.TempDir()
		if err := os.WriteFile(base+"/beside", []byte("as it was"), 0o600); err != nil {
			t.Fatal(err)
		}
		_ = unpack(t, base, Limits{Layers: 1, Files: 100, Bytes: 1 << 20}, data) // most are mistakes
		if err := os.RemoveAll(base + "/root"); err != nil {
			t.Error(err)
		}
		if got := tree(t, base); got != "beside=as it was" {
			t.Errorf("beside the root: %s", got)
		}
	})
}
