// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package archive

import (
	"log/slog"
	"os"
	"slices"
	"sort"
	"sync"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// FS is an open archive. Node numbers are index+1, so that the root has FUSE's 1,
// and inode numbers are the same. It is safe for concurrent use.
type FS struct {
	fuse.RawFileSystem // answers ENOSYS for all that changes things

	// Immutable.
	format      string
	index       *index
	data        *os.File // the archive, or for a packed one what is in it
	size        int64    // of data
	archiveSize int64
	cache       *cache // zip only
	log         *slog.Logger

	closeOnce sync.Once

	reportMu sync.Mutex
	reported map[uint32]bool // members whose trouble was logged; guarded by reportMu
}

var _ fuse.RawFileSystem = (*FS)(nil)

// validity is how long answers may be kept: they never change.
const validity = time.Hour

// String implements fuse.RawFileSystem.
func (fs *FS) String() string { return "archive(" + fs.format + ")" }

// Init implements fuse.RawFileSystem.
func (fs *FS) Init(*fuse.Server) {}

// SetDebug implements fuse.RawFileSystem.
func (fs *FS) SetDebug(bool) {}

// OnUnmount implements fuse.RawFileSystem.
func (fs *FS) OnUnmount() {
	fs.closeOnce.Do(func() {
		if fs.cache != nil {
			fs.cache.close()
		}
		fs.data.Close() // opened for reading: nothing can be lost
	})
}

// Forget implements fuse.RawFileSystem: nodes stay.
func (fs *FS) Forget(nodeid, nlookup uint64) {}

// node returns the node with a FUSE number, or nil.
func (fs *FS) node(nodeid uint64) (uint32, *node) {
	if nodeid-1 >= uint64(len(fs.index.nodes)) { // 0 wraps
		return 0, nil
	}
	id := uint32(nodeid - 1)
	return id, &fs.index.nodes[id]
}

func (fs *FS) attr(id uint32, n *node, out *fuse.Attr) {
	bytes := uint64(n.size)
	if n.member == memberSparse {
		bytes = uint64(n.off)
	}
	*out = fuse.Attr{
		Ino: uint64(id) + 1, Size: uint64(n.size), Blocks: (bytes + 511) / 512, Blksize: 4096,
		Mtime: uint64(n.mtime), Mtimensec: n.mtimeNs,
		Atime: uint64(n.mtime), Atimensec: n.mtimeNs,
		Ctime: uint64(n.mtime), Ctimensec: n.mtimeNs,
		Mode: n.mode, Nlink: n.nlink, Owner: fuse.Owner{Uid: n.uid, Gid: n.gid},
	}
}

func (fs *FS) entry(id uint32, out *fuse.EntryOut) {
	out.NodeId = uint64(id) + 1
	fs.attr(id, &fs.index.nodes[id], &out.Attr)
	out.SetEntryTimeout(validity)
	out.SetAttrTimeout(validity)
}

// Lookup implements fuse.RawFileSystem.
func (fs *FS) Lookup(cancel <-chan struct{}, header *fuse.InHeader, name string, out *fuse.EntryOut) fuse.Status {
	dir, n := fs.node(header.NodeId)
	switch {
	case n == nil:
		return fuse.ENOENT
	case !n.isDir():
		return fuse.ENOTDIR
	}
	id, ok := fs.index.lookup(dir, name)
	if !ok {
		return fuse.ENOENT
	}
	fs.entry(id, out)
	return fuse.OK
}

// GetAttr implements fuse.RawFileSystem.
func (fs *FS) GetAttr(cancel <-chan struct{}, in *fuse.GetAttrIn, out *fuse.AttrOut) fuse.Status {
	id, n := fs.node(in.NodeId)
	if n == nil {
		return fuse.ENOENT
	}
	fs.attr(id, n, &out.Attr)
	out.SetTimeout(validity)
	return fuse.OK
}

// Readlink implements fuse.RawFileSystem.
func (fs *FS) Readlink(cancel <-chan struct{}, header *fuse.InHeader) ([]byte, fuse.Status) {
	id, n := fs.node(header.NodeId)
	switch {
	case n == nil:
		return nil, fuse.ENOENT
	case n.mode&unix.S_IFMT != unix.S_IFLNK:
		return nil, fuse.EINVAL
	case n.member == memberText:
		return []byte(fs.index.texts[n.aux]), fuse.OK
	}
	target := make([]byte, n.size) // at most pathMax
	k, no := fs.read(cancel, id, n, target, 0)
	if no != 0 {
		return nil, fuse.Status(no)
	}
	for _, c := range target {
		if c == 0 {
			return nil, fuse.EIO
		}
	}
	if k != len(target) {
		return nil, fuse.EIO
	}
	return target, fuse.OK
}

// Access implements fuse.RawFileSystem. Permissions are the frontend's to check.
func (fs *FS) Access(cancel <-chan struct{}, in *fuse.AccessIn) fuse.Status {
	if in.Mask&unix.W_OK != 0 {
		return fuse.EROFS
	}
	return fuse.OK
}

// GetXAttr implements fuse.RawFileSystem.
func (fs *FS) GetXAttr(cancel <-chan struct{}, header *fuse.InHeader, attr string, dest []byte) (uint32, fuse.Status) {
	id, n := fs.node(header.NodeId)
	if n == nil {
		return 0, fuse.ENOENT
	}
	for _, x := range fs.index.xattrs[id] {
		if x.name == attr {
			return sized(x.value, dest)
		}
	}
	return 0, fuse.ENOATTR
}

// ListXAttr implements fuse.RawFileSystem.
func (fs *FS) ListXAttr(cancel <-chan struct{}, header *fuse.InHeader, dest []byte) (uint32, fuse.Status) {
	id, n := fs.node(header.NodeId)
	if n == nil {
		return 0, fuse.ENOENT
	}
	var names []byte
	for _, x := range fs.index.xattrs[id] {
		names = append(append(names, x.name...), 0)
	}
	return sized(string(names), dest)
}

// sized answers with a value, or only its size if there is no buffer.
func sized(value string, dest []byte) (uint32, fuse.Status) {
	size := uint32(len(value))
	switch {
	case len(dest) == 0:
		return size, fuse.OK
	case len(dest) < len(value):
		return size, fuse.ERANGE
	}
	copy(dest, value)
	return size, fuse.OK
}

// Open implements fuse.RawFileSystem. There is no handle: reads name the node.
func (fs *FS) Open(cancel <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	id, n := fs.node(in.NodeId)
	if n == nil {
		return fuse.ENOENT
	}
	switch n.mode & unix.S_IFMT {
	case unix.S_IFREG:
	case unix.S_IFDIR:
		return fuse.Status(unix.EISDIR)
	case unix.S_IFLNK:
		return fuse.Status(unix.ELOOP)
	default:
		return fuse.Status(unix.ENXIO)
	}
	if in.Flags&unix.O_ACCMODE != unix.O_RDONLY || in.Flags&unix.O_TRUNC != 0 {
		return fuse.EROFS
	}
	if n.member == memberZip {
		if no, err := checkMember(n, &fs.index.zips[n.aux]); no != 0 {
			fs.report(id, err)
			return fuse.Status(no)
		}
	}
	out.OpenFlags = fuse.FOPEN_KEEP_CACHE | fuse.FOPEN_NOFLUSH
	return fuse.OK
}

// maxReports bounds the members whose trouble is logged: finding a name takes a
// look through all of them.
const maxReports = 100

// report logs a member's trouble, once.
func (fs *FS) report(id uint32, err error) {
	fs.reportMu.Lock()
	defer fs.reportMu.Unlock()
	if fs.reported[id] || len(fs.reported) > maxReports {
		return
	}
	fs.reported[id] = true
	if len(fs.reported) > maxReports {
		fs.log.Warn("more members cannot be read; no more of them are logged")
		return
	}
	fs.log.Warn("a member cannot be read", "name", fs.path(id), "err", err)
}

// path returns one name of a node, for messages.
func (fs *FS) path(id uint32) string {
	var path string
	for range pathMax {
		if id == root {
			return "/" + path
		}
		i := slices.IndexFunc(fs.index.dirents, func(d dirent) bool { return d.node == id })
		if i < 0 {
			break // replaced by a later member
		}
		if path != "" {
			path = "/" + path
		}
		path = fs.index.dirents[i].name + path
		id = uint32(slices.IndexFunc(fs.index.nodes, func(n node) bool {
			return n.isDir() && n.first <= uint32(i) && uint32(i)-n.first < n.count
		}))
	}
	return path
}

// Read implements fuse.RawFileSystem.
func (fs *FS) Read(cancel <-chan struct{}, in *fuse.ReadIn, buf []byte) (fuse.ReadResult, fuse.Status) {
	id, n := fs.node(in.NodeId)
	switch {
	case n == nil:
		return nil, fuse.ENOENT
	case n.mode&unix.S_IFMT != unix.S_IFREG:
		return nil, fuse.EINVAL
	case in.Offset >= uint64(n.size):
		return fuse.ReadResultData(nil), fuse.OK
	}
	k, no := fs.read(cancel, id, n, buf, int64(in.Offset))
	if no != 0 {
		return nil, fuse.Status(no)
	}
	return fuse.ReadResultData(buf[:k]), fuse.OK
}

// read copies bytes of a file; it stops at the file's end.
func (fs *FS) read(cancel <-chan struct{}, id uint32, n *node, buf []byte, off int64) (int, unix.Errno) {
	if off >= n.size {
		return 0, 0
	}
	buf = buf[:min(int64(len(buf)), n.size-off)]
	var err error
	switch n.member {
	case memberPlain:
		err = readFull(fs.data, buf, n.off+off)
	case memberSparse:
		err = fs.readSparse(fs.index.sparse[n.aux], buf, off)
	case memberZip:
		m := &fs.index.zips[n.aux]
		var no unix.Errno
		if no, err = checkMember(n, m); no != 0 {
			fs.report(id, err)
			return 0, no
		}
		if m.method == zipDeflate {
			return fs.cache.read(cancel, id, n, m, buf, off)
		}
		var start int64
		if start, err = dataOffset(fs.data, fs.size, n, m); err == nil {
			err = readFull(fs.data, buf, start+off)
		}
	}
	if err != nil {
		fs.report(id, err)
		return 0, unix.EIO
	}
	return len(buf), 0
}

// readSparse fills buf from the parts of a sparse file, with zeros between them.
// The parts are stored one behind the other, so one read gets them all: at the end
// of buf, from where each moves towards the front to its place. A part's place is
// never behind where it was read, because only holes are to follow.
func (fs *FS) readSparse(list []extent, buf []byte, off int64) error {
	end := off + int64(len(buf))
	first := sort.Search(len(list), func(i int) bool { return list[i].logical+list[i].length > off })
	list = list[first:]
	list = list[:sort.Search(len(list), func(i int) bool { return list[i].logical >= end })]
	if len(list) == 0 {
		clear(buf)
		return nil
	}
	start := max(list[0].logical, off)
	from := list[0].physical + start - list[0].logical
	last := list[len(list)-1]
	stored := last.physical + min(last.logical+last.length, end) - last.logical - from
	src := buf[int64(len(buf))-stored:]
	if err := readFull(fs.data, src, from); err != nil {
		return err
	}
	done := int64(0)
	for _, e := range list {
		at := max(e.logical, off) - off
		n := min(e.logical+e.length, end) - off - at
		clear(buf[done:at])
		copy(buf[at:], src[:n])
		done, src = at+n, src[n:]
	}
	clear(buf[done:])
	return nil
}

// Lseek implements fuse.RawFileSystem for SEEK_DATA and SEEK_HOLE.
func (fs *FS) Lseek(cancel <-chan struct{}, in *fuse.LseekIn, out *fuse.LseekOut) fuse.Status {
	_, n := fs.node(in.NodeId)
	switch {
	case n == nil:
		return fuse.ENOENT
	case n.mode&unix.S_IFMT != unix.S_IFREG || (in.Whence != unix.SEEK_DATA && in.Whence != unix.SEEK_HOLE):
		return fuse.EINVAL
	case in.Offset >= uint64(n.size):
		return fuse.Status(unix.ENXIO)
	}
	list := []extent{{length: n.size}}
	if n.member == memberSparse {
		list = fs.index.sparse[n.aux]
	}
	pos := int64(in.Offset)
	for _, e := range list[sort.Search(len(list), func(i int) bool { return list[i].logical+list[i].length > pos }):] {
		if in.Whence == unix.SEEK_DATA {
			out.Offset = uint64(max(pos, e.logical))
			return fuse.OK
		}
		if e.logical > pos {
			break
		}
		pos = e.logical + e.length
	}
	if in.Whence == unix.SEEK_DATA {
		return fuse.Status(unix.ENXIO)
	}
	out.Offset = uint64(pos)
	return fuse.OK
}

// Flush implements fuse.RawFileSystem.
func (fs *FS) Flush(cancel <-chan struct{}, in *fuse.FlushIn) fuse.Status { return fuse.OK }

// Fsync implements fuse.RawFileSystem.
func (fs *FS) Fsync(cancel <-chan struct{}, in *fuse.FsyncIn) fuse.Status { return fuse.OK }

// FsyncDir implements fuse.RawFileSystem.
func (fs *FS) FsyncDir(cancel <-chan struct{}, in *fuse.FsyncIn) fuse.Status { return fuse.OK }

// Release implements fuse.RawFileSystem.
func (fs *FS) Release(cancel <-chan struct{}, in *fuse.ReleaseIn) {}

// ReleaseDir implements fuse.RawFileSystem.
func (fs *FS) ReleaseDir(in *fuse.ReleaseIn) {}

// StatFs implements fuse.RawFileSystem: full, as read-only media are.
func (fs *FS) StatFs(cancel <-chan struct{}, header *fuse.InHeader, out *fuse.StatfsOut) fuse.Status {
	const unit = 4096
	*out = fuse.StatfsOut{
		Blocks: (uint64(fs.archiveSize) + unit - 1) / unit, Files: uint64(len(fs.index.nodes)),
		Bsize: unit, Frsize: unit, NameLen: nameMax,
	}
	return fuse.OK
}
