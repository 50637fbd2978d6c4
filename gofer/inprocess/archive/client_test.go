// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package archive

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"testing"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

var testOptions = Options{Log: slog.New(slog.DiscardHandler)}

// client asks a file system as a frontend does.
type client struct {
	t testing.TB
	*FS
}

// serve opens data as an archive.
func serve(t testing.TB, data []byte, o Options) client {
	t.Helper()
	fs, err := openBytes(t, data, o)
	if err != nil {
		t.Fatal(err)
	}
	return client{t, fs}
}

func openBytes(t testing.TB, data []byte, o Options) (*FS, error) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "archive")
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	fs, err := Open(path, o)
	if err == nil {
		t.Cleanup(fs.OnUnmount)
	}
	return fs, err
}

// find looks up a path, component by component.
func (c client) find(path string) (fuse.EntryOut, fuse.Status) {
	out := fuse.EntryOut{NodeId: fuse.FUSE_ROOT_ID}
	for _, name := range strings.Split(path, "/") {
		if name == "" {
			continue
		}
		var next fuse.EntryOut
		if st := c.Lookup(nil, &fuse.InHeader{NodeId: out.NodeId}, name, &next); !st.Ok() {
			return next, st
		}
		out = next
	}
	var attr fuse.AttrOut
	if st := c.GetAttr(nil, &fuse.GetAttrIn{InHeader: fuse.InHeader{NodeId: out.NodeId}}, &attr); !st.Ok() {
		return out, st
	}
	out.Attr = attr.Attr
	return out, fuse.OK
}

func (c client) must(path string) fuse.EntryOut {
	c.t.Helper()
	e, st := c.find(path)
	if !st.Ok() {
		c.t.Fatalf("lookup %s: %v", path, st)
	}
	return e
}

func (c client) open(path string) (uint64, fuse.Status) {
	c.t.Helper()
	e := c.must(path)
	in := fuse.OpenIn{InHeader: fuse.InHeader{NodeId: e.NodeId}}
	var out fuse.OpenOut
	return e.NodeId, c.Open(nil, &in, &out)
}

func (c client) readAt(node uint64, buf []byte, off uint64) ([]byte, fuse.Status) {
	in := fuse.ReadIn{InHeader: fuse.InHeader{NodeId: node}, Offset: off, Size: uint32(len(buf))}
	res, st := c.Read(nil, &in, buf)
	if !st.Ok() {
		return nil, st
	}
	data, st := res.Bytes(buf)
	return data, st
}

// content reads a file in pieces.
func (c client) content(path string) (string, fuse.Status) {
	c.t.Helper()
	node, st := c.open(path)
	if !st.Ok() {
		return "", st
	}
	var all []byte
	buf := make([]byte, 1000)
	for {
		data, st := c.readAt(node, buf, uint64(len(all)))
		if !st.Ok() {
			return "", st
		}
		if len(data) == 0 {
			return string(all), fuse.OK
		}
		all = append(all, data...)
	}
}

// names lists a directory in small replies, with and without attributes.
func (c client) names(path string) []string {
	c.t.Helper()
	node := c.must(path).NodeId
	var lists [2][]string
	for plus := range lists {
		for off := uint64(0); ; {
			list := fuse.NewDirEntryList(make([]byte, 600), off)
			in := fuse.ReadIn{InHeader: fuse.InHeader{NodeId: node}, Offset: off}
			var entries []fuse.DirEntry
			var err error
			if plus == 1 {
				if st := c.ReadDirPlus(nil, &in, list); !st.Ok() {
					c.t.Fatalf("readdirplus %s: %v", path, st)
				}
				entries, _, err = fuse.ParseDirLookupEntries(list.Bytes())
			} else {
				if st := c.ReadDir(nil, &in, list); !st.Ok() {
					c.t.Fatalf("readdir %s: %v", path, st)
				}
				entries, err = fuse.ParseDirEntries(list.Bytes())
			}
			if err != nil {
				c.t.Fatalf("readdir %s: %v", path, err)
			}
			if len(entries) == 0 {
				break
			}
			for _, e := range entries {
				if e.Name != "." && e.Name != ".." {
					lists[plus] = append(lists[plus], e.Name)
				}
			}
			off = list.Offset
		}
	}
	if a, b := fmt.Sprint(lists[0]), fmt.Sprint(lists[1]); a != b {
		c.t.Errorf("readdir %s: %s, with attributes %s", path, a, b)
	}
	return lists[0]
}

// tree describes everything, one line for each name.
func (c client) tree() string {
	c.t.Helper()
	var lines []string
	var walk func(dir string)
	walk = func(dir string) {
		for _, name := range c.names(dir) {
			path := dir + "/" + name
			e := c.must(path)
			line := fmt.Sprintf("%s %06o %d:%d n%d", path[1:], e.Mode, e.Uid, e.Gid, e.Nlink)
			switch e.Mode & unix.S_IFMT {
			case unix.S_IFREG:
				text, st := c.content(path)
				if !st.Ok() {
					text = st.String()
				}
				line += fmt.Sprintf(" %q", text)
			case unix.S_IFLNK:
				target, st := c.Readlink(nil, &fuse.InHeader{NodeId: e.NodeId})
				if !st.Ok() {
					target = []byte(st.String())
				}
				line += " -> " + string(target)
			}
			lines = append(lines, line)
			if e.Mode&unix.S_IFMT == unix.S_IFDIR {
				walk(path)
			}
		}
	}
	walk("")
	sort.Strings(lines)
	return strings.Join(lines, "\n")
}

func diff(t *testing.T, got, want string) {
	t.Helper()
	if got = strings.TrimSpace(got); got != strings.TrimSpace(want) {
		t.Errorf("got\n%s\nwant\n%s", got, strings.TrimSpace(want))
	}
}
