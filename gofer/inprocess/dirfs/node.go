// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package dirfs

import (
	"context"
	"path"
	"sync"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// node is a file. Its name is known to go-fuse's tree.
type node struct {
	fs.Inode
	tree *tree // immutable

	mu sync.Mutex // before tree.mu
	// kept is a descriptor of a file that has lost its name, so that those who
	// still refer to it without an open handle can go on; -1 or 0: none.
	// Guarded by mu. The node is then in tree.keeping.
	kept int
}

var (
	_ = (fs.NodeGetattrer)((*node)(nil))
	_ = (fs.NodeSetattrer)((*node)(nil))
	_ = (fs.NodeStatxer)((*node)(nil))
	_ = (fs.NodeReadlinker)((*node)(nil))
	_ = (fs.NodeOpener)((*node)(nil))
	_ = (fs.NodeOpendirHandler)((*node)(nil))
	_ = (fs.NodeStatfser)((*node)(nil))
	_ = (fs.NodeCopyFileRanger)((*node)(nil))
	_ = (fs.NodeOnForgetter)((*node)(nil))
)

// rel returns the node's path below the root; ok is false when it has none.
func (n *node) rel() (rel string, ok bool) {
	if n.IsRoot() {
		return ".", true
	}
	if _, parent := n.Parent(); parent == nil {
		return "", false
	}
	return n.Path(n.Root()), true
}

// child returns the path of a name in this directory.
func (n *node) child(name string) (string, error) {
	rel, ok := n.rel()
	if !ok {
		return "", unix.ENOENT
	}
	return path.Join(rel, name), nil
}

// open opens the file itself and reads its attributes. A file that is not the
// one the node stands for is ESTALE: somebody else put it there. A file without
// a name is opened through the kept descriptor. The caller owns the descriptor.
func (n *node) open(flags int, st *stat) (int, error) {
	rel, ok := n.rel()
	if !ok {
		return n.reopen(flags, st)
	}
	fd, err := n.tree.open(rel, flags)
	if err != nil {
		return -1, err
	}
	if err := n.verify(fd, st); err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

// verify reads fd's attributes and compares it with the node.
func (n *node) verify(fd int, st *stat) error {
	if err := st.read(fd); err != nil {
		return err
	}
	id, err := n.tree.id(st)
	if err != nil {
		return err
	}
	have := n.StableAttr()
	if id.Ino != have.Ino || (!n.IsRoot() && id.Mode != have.Mode) {
		return unix.ESTALE
	}
	return nil
}

// reopen is open for a file without a name: it duplicates the kept descriptor,
// which must allow what flags ask for.
func (n *node) reopen(flags int, st *stat) (int, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.kept <= 0 {
		return -1, unix.ENOENT
	}
	have, err := unix.FcntlInt(uintptr(n.kept), unix.F_GETFL, 0)
	if err != nil {
		return -1, err
	}
	if flags&unix.O_PATH == 0 {
		mode := have & unix.O_ACCMODE
		if have&unix.O_PATH != 0 || (mode != unix.O_RDWR && mode != flags&unix.O_ACCMODE) {
			return -1, unix.ESTALE
		}
	}
	if err := st.read(n.kept); err != nil {
		return -1, err
	}
	return unix.FcntlInt(uintptr(n.kept), unix.F_DUPFD_CLOEXEC, 0)
}

// hold opens the file so that it can be kept when it loses its name: for as much
// as possible, because what will be asked for is not known.
func (n *node) hold() (int, error) {
	var st stat
	tries := []int{unix.O_PATH}
	switch n.Mode() {
	case unix.S_IFREG:
		// ETXTBSY, EROFS, EPERM (append-only) leave reading.
		tries = []int{unix.O_RDWR, unix.O_RDONLY, unix.O_PATH}
	case unix.S_IFDIR:
		tries = []int{unix.O_RDONLY | unix.O_DIRECTORY, unix.O_PATH}
	}
	var fd int
	var err error
	for _, flags := range tries {
		if fd, err = n.open(flags, &st); err == nil {
			return fd, nil
		}
	}
	return -1, err
}

// keep takes ownership of a descriptor from hold.
func (n *node) keep(fd int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.kept > 0 {
		unix.Close(fd)
		return
	}
	n.kept = fd
	n.tree.mu.Lock()
	n.tree.keeping[n] = struct{}{}
	n.tree.mu.Unlock()
}

// OnForget implements fs.NodeOnForgetter: nobody refers to the node any more. It
// may be called more than once.
func (n *node) OnForget() {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.kept > 0 {
		unix.Close(n.kept)
		n.kept = -1
		n.tree.mu.Lock()
		delete(n.tree.keeping, n)
		n.tree.mu.Unlock()
	}
}

// fill reads attributes through an open file, or by name.
func (n *node) fill(f fs.FileHandle, st *stat) unix.Errno {
	if f, ok := f.(*file); ok {
		return f.do(st.read)
	}
	fd, err := n.open(unix.O_PATH, st)
	if err != nil {
		return toErrno(err)
	}
	unix.Close(fd)
	return 0
}

// Getattr implements fs.NodeGetattrer.
func (n *node) Getattr(ctx context.Context, f fs.FileHandle, out *fuse.AttrOut) unix.Errno {
	var st stat
	if no := n.fill(f, &st); no != 0 {
		return no
	}
	st.attr(n.StableAttr().Ino, &out.Attr)
	return 0
}

// Statx implements fs.NodeStatxer. The mask is not asked for less: what is there
// costs nothing more.
func (n *node) Statx(ctx context.Context, f fs.FileHandle, flags, mask uint32, out *fuse.StatxOut) unix.Errno {
	var st stat
	if no := n.fill(f, &st); no != 0 {
		return no
	}
	out.FromStatx(&st.x)
	return 0
}

// Setattr implements fs.NodeSetattrer. Changes are made in the order owner, mode,
// size, times, so that no change undoes an earlier one: a truncation sets mtime.
// An owner change clears set-ID bits, as it does on Linux, unless the same
// request sets the mode.
func (n *node) Setattr(ctx context.Context, f fs.FileHandle, in *fuse.SetAttrIn, out *fuse.AttrOut) unix.Errno {
	var st stat
	if open, ok := f.(*file); ok {
		no := open.do(func(fd int) error {
			if err := n.change(fd, in); err != nil {
				return err
			}
			return st.read(fd)
		})
		if no != unix.EBADF && no != unix.EINVAL {
			return n.changed(&st, no, out)
		}
		// A size on a handle that is open for reading only: by name.
	}
	flags := unix.O_PATH
	if in.Valid&fuse.FATTR_SIZE != 0 {
		if n.Mode() != unix.S_IFREG {
			return unix.EINVAL
		}
		flags = unix.O_WRONLY
	}
	fd, err := n.open(flags, &st)
	if err != nil {
		return toErrno(err)
	}
	defer unix.Close(fd)
	if err = n.change(fd, in); err == nil {
		err = st.read(fd)
	}
	return n.changed(&st, toErrno(err), out)
}

func (n *node) changed(st *stat, no unix.Errno, out *fuse.AttrOut) unix.Errno {
	if no == 0 {
		st.attr(n.StableAttr().Ino, &out.Attr)
	}
	return no
}

// change applies in to fd, which may be O_PATH unless the size is to change.
func (n *node) change(fd int, in *fuse.SetAttrIn) error {
	uid, setUID := in.GetUID()
	gid, setGID := in.GetGID()
	if setUID || setGID {
		owner, group := -1, -1
		if setUID {
			owner = int(uid)
		}
		if setGID {
			group = int(gid)
		}
		if err := unix.Fchownat(fd, "", owner, group, unix.AT_EMPTY_PATH); err != nil {
			return err
		}
	}
	if mode, ok := in.GetMode(); ok {
		if err := n.chmod(fd, mode); err != nil {
			return err
		}
	}
	if size, ok := in.GetSize(); ok {
		if size > 1<<63-1 {
			return unix.EFBIG
		}
		if err := unix.Ftruncate(fd, int64(size)); err != nil {
			return err
		}
	}
	if in.Valid&(fuse.FATTR_ATIME|fuse.FATTR_MTIME) == 0 {
		return nil
	}
	ts := []unix.Timespec{
		timespec(in.Valid, fuse.FATTR_ATIME, fuse.FATTR_ATIME_NOW, in.Atime, in.Atimensec),
		timespec(in.Valid, fuse.FATTR_MTIME, fuse.FATTR_MTIME_NOW, in.Mtime, in.Mtimensec),
	}
	return unix.UtimesNanoAt(fd, "", ts, unix.AT_EMPTY_PATH)
}

func timespec(valid, set, now uint32, sec uint64, nsec uint32) unix.Timespec {
	switch {
	case valid&set == 0:
		return unix.Timespec{Nsec: unix.UTIME_OMIT}
	case valid&now != 0:
		return unix.Timespec{Nsec: unix.UTIME_NOW}
	}
	return unix.Timespec{Sec: int64(sec), Nsec: int64(min(nsec, 999_999_999))}
}

// chmod changes the mode of what fd, possibly O_PATH, refers to.
func (n *node) chmod(fd int, mode uint32) error {
	if n.Mode() == unix.S_IFLNK {
		return unix.EOPNOTSUPP // chmod(2) has no mode for symbolic links
	}
	err := unix.Fchmodat(fd, "", mode, unix.AT_EMPTY_PATH)
	if err != unix.EOPNOTSUPP {
		return err
	}
	// Linux before 6.6 has no fchmodat2(2). The name was verified a moment ago
	// and its path has no symbolic link; only the owner of the directory, on the
	// host, could win the race, and would win a mode on a file in our root.
	if err := unix.Fchmod(fd, mode); err != unix.EBADF {
		return err
	}
	rel, ok := n.rel()
	if !ok {
		return unix.EOPNOTSUPP
	}
	return unix.Fchmodat(n.tree.fd, rel, mode, 0)
}

// Readlink implements fs.NodeReadlinker.
func (n *node) Readlink(ctx context.Context) ([]byte, unix.Errno) {
	var st stat
	fd, err := n.open(unix.O_PATH, &st)
	if err != nil {
		return nil, toErrno(err)
	}
	defer unix.Close(fd)
	buf := make([]byte, unix.PathMax)
	size, err := unix.Readlinkat(fd, "", buf)
	if err != nil {
		return nil, toErrno(err)
	}
	return buf[:size], 0
}

// openFlags are those that mean something to us. O_APPEND does not: the caller
// says where to write.
const openFlags = unix.O_ACCMODE | unix.O_TRUNC | unix.O_SYNC | unix.O_DSYNC

// Open implements fs.NodeOpener. Only regular files have something to open; the
// others are the client kernel's own business.
func (n *node) Open(ctx context.Context, flags uint32) (fs.FileHandle, uint32, unix.Errno) {
	switch n.Mode() {
	case unix.S_IFREG:
	case unix.S_IFLNK:
		return nil, 0, unix.ELOOP
	case unix.S_IFDIR:
		return nil, 0, unix.EISDIR
	default:
		return nil, 0, unix.ENXIO
	}
	var st stat
	// Truncated only once it is known to be the right file.
	fd, err := n.open(int(flags&openFlags&^unix.O_TRUNC), &st)
	if err != nil {
		return nil, 0, toErrno(err)
	}
	if flags&unix.O_TRUNC != 0 {
		if err := unix.Ftruncate(fd, 0); err != nil {
			unix.Close(fd)
			return nil, 0, toErrno(err)
		}
	}
	return &file{readOnly: flags&unix.O_ACCMODE == unix.O_RDONLY, fd: fd}, 0, 0
}

// OpendirHandle implements fs.NodeOpendirHandler.
func (n *node) OpendirHandle(ctx context.Context, flags uint32) (fs.FileHandle, uint32, unix.Errno) {
	var st stat
	fd, err := n.open(unix.O_RDONLY|unix.O_DIRECTORY, &st)
	if err != nil {
		return nil, 0, toErrno(err)
	}
	if _, named := n.rel(); !named {
		// A duplicate shares its position with the others.
		if _, err := unix.Seek(fd, 0, unix.SEEK_SET); err != nil {
			unix.Close(fd)
			return nil, 0, toErrno(err)
		}
	}
	ds, no := fs.NewLoopbackDirStreamFd(fd)
	return ds, 0, no
}

// Statfs implements fs.NodeStatfser.
func (n *node) Statfs(ctx context.Context, out *fuse.StatfsOut) unix.Errno {
	var st stat
	fd, err := n.open(unix.O_PATH, &st)
	if err != nil {
		return toErrno(err)
	}
	defer unix.Close(fd)
	var s unix.Statfs_t
	if err := unix.Fstatfs(fd, &s); err != nil {
		return toErrno(err)
	}
	*out = fuse.StatfsOut{
		Blocks: s.Blocks, Bfree: s.Bfree, Bavail: s.Bavail, Files: s.Files, Ffree: s.Ffree,
		Bsize: uint32(s.Bsize), NameLen: uint32(s.Namelen), Frsize: uint32(s.Frsize),
	}
	return 0
}

// CopyFileRange implements fs.NodeCopyFileRanger.
func (n *node) CopyFileRange(ctx context.Context, fhIn fs.FileHandle, offIn uint64, _ *fs.Inode, fhOut fs.FileHandle, offOut, length, flags uint64) (uint32, unix.Errno) {
	from, ok1 := fhIn.(*file)
	to, ok2 := fhOut.(*file)
	if !ok1 || !ok2 {
		return 0, unix.EBADF
	}
	if flags != 0 || offIn > 1<<63-1 || offOut > 1<<63-1 {
		return 0, unix.EINVAL
	}
	count := 0
	no := from.do(func(in int) error {
		copy := func(out int) (err error) {
			i, o := int64(offIn), int64(offOut)
			// One reply counts in 32 bits.
			count, err = unix.CopyFileRange(in, &i, out, &o, int(min(length, 1<<30)), 0)
			return err
		}
		if from == to {
			return copy(in) // its lock is held already
		}
		if no := to.do(copy); no != 0 {
			return no
		}
		return nil
	})
	return uint32(max(count, 0)), no
}
