// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package entrycache

import (
	"slices"
	"strings"
	"sync"

	"github.com/hanwen/go-fuse/v2/fuse"
)

const (
	// maxXattrList is XATTR_LIST_MAX, the longest list there can be.
	maxXattrList = 64 << 10
	// maxKeptList bounds the bytes of a list that is kept: those of 128 Ki files
	// must not add up to more than we want to spend.
	maxKeptList = 512
)

var listBufs = sync.Pool{New: func() any { return new([maxXattrList]byte) }}

// noXattrs is what nearly every file has. It is never written to.
var noXattrs []string

// GetXAttr implements fuse.RawFileSystem.
func (f *FS) GetXAttr(cancel <-chan struct{}, header *fuse.InHeader, attr string, dest []byte) (uint32, fuse.Status) {
	if f.opts.ListsXattrs {
		if names, ok := f.xattrNames(cancel, header); ok && !slices.Contains(names, attr) {
			return 0, fuse.ENOATTR
		}
	}
	return f.RawFileSystem.GetXAttr(cancel, header, attr, dest)
}

// ListXAttr implements fuse.RawFileSystem.
func (f *FS) ListXAttr(cancel <-chan struct{}, header *fuse.InHeader, dest []byte) (uint32, fuse.Status) {
	if f.opts.ListsXattrs {
		if names, ok := f.xattrNames(cancel, header); ok {
			var size int
			for _, name := range names {
				if size+len(name)+1 <= len(dest) {
					copy(dest[size:], name)
					dest[size+len(name)] = 0
				}
				size += len(name) + 1
			}
			if size > len(dest) && len(dest) > 0 {
				return uint32(size), fuse.ERANGE
			}
			return uint32(size), fuse.OK
		}
	}
	return f.RawFileSystem.ListXAttr(cancel, header, dest)
}

// xattrNames returns the names of a node's extended attributes, asking the
// server unless they are known. It reports false if the server does not say.
func (f *FS) xattrNames(cancel <-chan struct{}, header *fuse.InHeader) ([]string, bool) {
	f.mu.Lock()
	n := f.table.nodes[header.NodeId]
	if n != nil && n.xattrs != nil {
		names := *n.xattrs
		f.mu.Unlock()
		return names, true
	}
	before := f.table.markOf(n)
	f.mu.Unlock()

	buf := listBufs.Get().(*[maxXattrList]byte)
	defer listBufs.Put(buf)
	size, status := f.RawFileSystem.ListXAttr(cancel, header, buf[:])
	if !status.Ok() || int(size) > len(buf) {
		return nil, false
	}
	keep := &noXattrs
	if size > 0 {
		names := strings.Split(strings.TrimSuffix(string(buf[:size]), "\x00"), "\x00")
		keep = &names
	}
	if size <= maxKeptList {
		f.mu.Lock()
		if before.unchanged() {
			before.n.xattrs = keep
		}
		f.mu.Unlock()
	}
	return *keep, true
}
