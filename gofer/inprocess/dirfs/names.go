// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package dirfs

import (
	"context"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

var (
	_ = (fs.NodeLookuper)((*node)(nil))
	_ = (fs.NodeMknoder)((*node)(nil))
	_ = (fs.NodeMkdirer)((*node)(nil))
	_ = (fs.NodeSymlinker)((*node)(nil))
	_ = (fs.NodeLinker)((*node)(nil))
	_ = (fs.NodeCreater)((*node)(nil))
	_ = (fs.NodeTmpfiler)((*node)(nil))
	_ = (fs.NodeUnlinker)((*node)(nil))
	_ = (fs.NodeRmdirer)((*node)(nil))
	_ = (fs.NodeRenamer)((*node)(nil))
)

// Lookup implements fs.NodeLookuper.
func (n *node) Lookup(ctx context.Context, name string, out *fuse.EntryOut) (*fs.Inode, unix.Errno) {
	rel, err := n.child(name)
	if err != nil {
		return nil, toErrno(err)
	}
	fd, err := n.tree.open(rel, unix.O_PATH)
	if err != nil {
		return nil, toErrno(err)
	}
	defer unix.Close(fd)
	return n.entry(ctx, fd, out)
}

// entry makes the inode for an open file, which may be one that go-fuse knows.
func (n *node) entry(ctx context.Context, fd int, out *fuse.EntryOut) (*fs.Inode, unix.Errno) {
	var st stat
	if err := st.read(fd); err != nil {
		return nil, toErrno(err)
	}
	return n.entryOf(ctx, &st, out)
}

func (n *node) entryOf(ctx context.Context, st *stat, out *fuse.EntryOut) (*fs.Inode, unix.Errno) {
	id, err := n.tree.id(st)
	if err != nil {
		n.tree.log.Warn("too many files on file systems below the volume's own", "path", n.tree.path, "limit", maxOthers)
		return nil, toErrno(err)
	}
	st.attr(id.Ino, &out.Attr)
	return n.NewInode(ctx, &node{tree: n.tree}, id), 0
}

// dir opens this directory for operations on its names.
func (n *node) dir(st *stat) (int, error) {
	return n.open(unix.O_PATH|unix.O_DIRECTORY, st)
}

// own gives the new file behind fd, which may be O_PATH, to the caller, as if
// the caller had made it: the group of a set-group-ID directory stays, and so do
// the special bits of mode, which a change of owner clears. Where the host does
// not allow that, the file stays as it is.
func (n *node) own(ctx context.Context, fd int, mode uint32, parent, st *stat) error {
	if err := st.read(fd); err != nil {
		return err
	}
	caller, ok := fuse.FromContext(ctx)
	if !ok {
		return nil
	}
	uid, gid := int(caller.Uid), int(caller.Gid)
	if parent.x.Mode&unix.S_ISGID != 0 {
		gid = int(st.x.Gid)
	}
	if uid != int(st.x.Uid) || gid != int(st.x.Gid) {
		if err := unix.Fchownat(fd, "", uid, gid, unix.AT_EMPTY_PATH); err != nil {
			n.tree.log.Debug("cannot give a new file to its maker", "uid", uid, "gid", gid, "err", err)
		}
		if err := st.read(fd); err != nil {
			return err
		}
	}
	const special = unix.S_ISUID | unix.S_ISGID | unix.S_ISVTX
	missing := mode & special &^ uint32(st.x.Mode)
	if missing == 0 || st.x.Mode&unix.S_IFMT == unix.S_IFLNK {
		return nil
	}
	err := unix.Fchmodat(fd, "", uint32(st.x.Mode)&^unix.S_IFMT|missing, unix.AT_EMPTY_PATH)
	if err == unix.EOPNOTSUPP {
		err = unix.Fchmod(fd, uint32(st.x.Mode)&^unix.S_IFMT|missing) // before Linux 6.6
	}
	if err != nil {
		n.tree.log.Debug("cannot set the special mode bits of a new file", "mode", mode, "err", err)
		return nil
	}
	return st.read(fd)
}

// made completes mknod, mkdir and symlink: it hands the new name to its maker
// and returns its inode. If that fails the name is removed again.
func (n *node) made(ctx context.Context, dirfd int, name string, mode uint32, parent *stat, unlinkFlags int, out *fuse.EntryOut) (*fs.Inode, unix.Errno) {
	inode, err := func() (*fs.Inode, error) {
		fd, err := openBeneath(dirfd, name, unix.O_PATH, 0)
		if err != nil {
			return nil, err
		}
		defer unix.Close(fd)
		var st stat
		if err := n.own(ctx, fd, mode, parent, &st); err != nil {
			return nil, err
		}
		inode, no := n.entryOf(ctx, &st, out)
		if no != 0 {
			return nil, no
		}
		return inode, nil
	}()
	if err != nil {
		if uerr := unix.Unlinkat(dirfd, name, unlinkFlags); uerr != nil {
			n.tree.log.Warn("a file that could not be handed out is left behind", "name", name, "err", uerr)
		}
		return nil, toErrno(err)
	}
	return inode, 0
}

// Mknod implements fs.NodeMknoder. Device nodes are refused, as they are to a
// process without CAP_MKNOD.
func (n *node) Mknod(ctx context.Context, name string, mode, rdev uint32, out *fuse.EntryOut) (*fs.Inode, unix.Errno) {
	switch mode & unix.S_IFMT {
	case 0, unix.S_IFREG, unix.S_IFIFO, unix.S_IFSOCK:
	default:
		return nil, unix.EPERM
	}
	var parent stat
	dirfd, err := n.dir(&parent)
	if err != nil {
		return nil, toErrno(err)
	}
	defer unix.Close(dirfd)
	if err := unix.Mknodat(dirfd, name, mode, 0); err != nil {
		return nil, toErrno(err)
	}
	return n.made(ctx, dirfd, name, mode, &parent, 0, out)
}

// Mkdir implements fs.NodeMkdirer.
func (n *node) Mkdir(ctx context.Context, name string, mode uint32, out *fuse.EntryOut) (*fs.Inode, unix.Errno) {
	var parent stat
	dirfd, err := n.dir(&parent)
	if err != nil {
		return nil, toErrno(err)
	}
	defer unix.Close(dirfd)
	if err := unix.Mkdirat(dirfd, name, mode&0o7777); err != nil {
		return nil, toErrno(err)
	}
	return n.made(ctx, dirfd, name, mode, &parent, unix.AT_REMOVEDIR, out)
}

// Symlink implements fs.NodeSymlinker.
func (n *node) Symlink(ctx context.Context, target, name string, out *fuse.EntryOut) (*fs.Inode, unix.Errno) {
	var parent stat
	dirfd, err := n.dir(&parent)
	if err != nil {
		return nil, toErrno(err)
	}
	defer unix.Close(dirfd)
	if err := unix.Symlinkat(target, dirfd, name); err != nil {
		return nil, toErrno(err)
	}
	return n.made(ctx, dirfd, name, 0, &parent, 0, out)
}

// Link implements fs.NodeLinker.
func (n *node) Link(ctx context.Context, target fs.InodeEmbedder, name string, out *fuse.EntryOut) (*fs.Inode, unix.Errno) {
	from, ok := target.(*node)
	if !ok {
		return nil, unix.EXDEV
	}
	var parent stat
	dirfd, err := n.dir(&parent)
	if err != nil {
		return nil, toErrno(err)
	}
	defer unix.Close(dirfd)
	if err := from.linkTo(dirfd, name); err != nil {
		return nil, toErrno(err)
	}
	fd, err := openBeneath(dirfd, name, unix.O_PATH, 0)
	if err != nil {
		return nil, toErrno(err)
	}
	defer unix.Close(fd)
	return n.entry(ctx, fd, out)
}

// linkTo gives the file another name.
func (n *node) linkTo(dirfd int, name string) error {
	if oldName, parent := n.Parent(); parent != nil {
		var st stat
		olddir, err := parent.Operations().(*node).dir(&st)
		if err != nil {
			return err
		}
		defer unix.Close(olddir)
		return unix.Linkat(olddir, oldName, dirfd, name, 0)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.kept <= 0 {
		return unix.ENOENT
	}
	// For a file made with O_TMPFILE. Others have no links left: ENOENT.
	return unix.Linkat(n.kept, "", dirfd, name, unix.AT_EMPTY_PATH)
}

// Create implements fs.NodeCreater.
func (n *node) Create(ctx context.Context, name string, flags, mode uint32, out *fuse.EntryOut) (*fs.Inode, fs.FileHandle, uint32, unix.Errno) {
	var parent, st stat
	dirfd, err := n.dir(&parent)
	if err != nil {
		return nil, nil, 0, toErrno(err)
	}
	defer unix.Close(dirfd)
	fd, err := openBeneath(dirfd, name, int(flags&openFlags)|unix.O_CREAT|unix.O_EXCL, mode&0o7777)
	if err == unix.EEXIST && flags&unix.O_EXCL == 0 {
		return n.openChild(ctx, name, flags, out)
	}
	if err != nil {
		return nil, nil, 0, toErrno(err)
	}
	if err := n.own(ctx, fd, mode, &parent, &st); err != nil {
		unix.Close(fd)
		return nil, nil, 0, toErrno(err)
	}
	inode, no := n.entryOf(ctx, &st, out)
	if no != 0 {
		unix.Close(fd)
		return nil, nil, 0, no
	}
	return inode, &file{fd: fd}, 0, 0
}

// openChild opens a file that somebody else made just before.
func (n *node) openChild(ctx context.Context, name string, flags uint32, out *fuse.EntryOut) (*fs.Inode, fs.FileHandle, uint32, unix.Errno) {
	inode, no := n.Lookup(ctx, name, out)
	if no != 0 {
		return nil, nil, 0, no
	}
	if inode.Mode() != unix.S_IFREG {
		return nil, nil, 0, unix.EEXIST
	}
	// The bridge would replace the node it knows by a new one.
	if known := n.GetChild(name); known != nil && known.StableAttr() == inode.StableAttr() {
		inode = known
	}
	rel, err := n.child(name)
	if err != nil {
		return nil, nil, 0, toErrno(err)
	}
	fd, err := n.tree.open(rel, int(flags&openFlags&^unix.O_TRUNC))
	if err != nil {
		return nil, nil, 0, toErrno(err)
	}
	var st stat
	err = inode.Operations().(*node).verify(fd, &st)
	if err == nil && flags&unix.O_TRUNC != 0 {
		if err = unix.Ftruncate(fd, 0); err == nil {
			err = st.read(fd)
		}
	}
	if err != nil {
		unix.Close(fd)
		return nil, nil, 0, toErrno(err)
	}
	st.attr(inode.StableAttr().Ino, &out.Attr)
	return inode, &file{fd: fd}, 0, 0
}

// Tmpfile implements fs.NodeTmpfiler.
func (n *node) Tmpfile(ctx context.Context, flags, mode uint32, out *fuse.EntryOut) (*fs.Inode, fs.FileHandle, uint32, unix.Errno) {
	rel, ok := n.rel()
	if !ok {
		return nil, nil, 0, unix.ENOENT
	}
	var parent, st stat
	dirfd, err := n.dir(&parent)
	if err != nil {
		return nil, nil, 0, toErrno(err)
	}
	unix.Close(dirfd)
	fd, err := openBeneath(n.tree.fd, rel, int(flags&openFlags)|unix.O_TMPFILE, mode&0o7777)
	if err != nil {
		return nil, nil, 0, toErrno(err)
	}
	if err := n.own(ctx, fd, mode, &parent, &st); err != nil {
		unix.Close(fd)
		return nil, nil, 0, toErrno(err)
	}
	kept, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		unix.Close(fd)
		return nil, nil, 0, toErrno(err)
	}
	inode, no := n.entryOf(ctx, &st, out)
	if no != 0 {
		unix.Close(fd)
		unix.Close(kept)
		return nil, nil, 0, no
	}
	inode.Operations().(*node).keep(kept)
	return inode, &file{fd: fd}, 0, 0
}

// Unlink implements fs.NodeUnlinker.
func (n *node) Unlink(ctx context.Context, name string) unix.Errno {
	return n.remove(name, 0)
}

// Rmdir implements fs.NodeRmdirer.
func (n *node) Rmdir(ctx context.Context, name string) unix.Errno {
	return n.remove(name, unix.AT_REMOVEDIR)
}

func (n *node) remove(name string, flags int) unix.Errno {
	var st stat
	dirfd, err := n.dir(&st)
	if err != nil {
		return toErrno(err)
	}
	defer unix.Close(dirfd)
	return n.losing(name, func() error { return unix.Unlinkat(dirfd, name, flags) })
}

// losing runs do, which takes the name away from its file, and keeps the file for
// those who refer to it.
func (n *node) losing(name string, do func() error) unix.Errno {
	var victim *node
	held := -1
	if in := n.GetChild(name); in != nil {
		victim = in.Operations().(*node)
		var err error
		if held, err = victim.hold(); err != nil {
			// The name's file is another by now, or there are no descriptors left:
			// what is open stays usable, the rest will be ENOENT.
			n.tree.log.Debug("cannot hold a file that is removed", "name", name, "err", err)
		}
	}
	err := do()
	switch {
	case held < 0:
	case err != nil:
		unix.Close(held)
	default:
		victim.keep(held)
		if victim.Forgotten() { // since GetChild: OnForget does not come again
			victim.OnForget()
		}
	}
	return toErrno(err)
}

// Rename implements fs.NodeRenamer.
func (n *node) Rename(ctx context.Context, name string, newParent fs.InodeEmbedder, newName string, flags uint32) unix.Errno {
	to, ok := newParent.(*node)
	if !ok {
		return unix.EXDEV
	}
	// RENAME_WHITEOUT makes a device node.
	if flags&^(unix.RENAME_NOREPLACE|unix.RENAME_EXCHANGE) != 0 {
		return unix.EINVAL
	}
	var st stat
	from, err := n.dir(&st)
	if err != nil {
		return toErrno(err)
	}
	defer unix.Close(from)
	todir, err := to.dir(&st)
	if err != nil {
		return toErrno(err)
	}
	defer unix.Close(todir)
	rename := func() error { return unix.Renameat2(from, name, todir, newName, uint(flags)) }
	if flags != 0 {
		return toErrno(rename()) // replaces nothing
	}
	return to.losing(newName, rename)
}
