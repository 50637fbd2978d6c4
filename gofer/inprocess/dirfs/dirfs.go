// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

// Package dirfs serves a directory of this process's root through go-fuse's
// node tree, with POSIX semantics complete enough for a root file system.
//
// The caller is a frontend of ours, running as root or with the capabilities
// that confine.FileCapabilities lists; it holds the names still during an
// operation (package inprocess, guard). What is in the directory is not trusted:
// its owner may rename, replace and remove files while they are served. So a
// path is resolved below the root only, never through a symbolic link, and the
// file that is found must be the one that the node stands for.
//
// It differs from go-fuse's loopback, which was the starting point: a file that
// was removed while somebody still refers to it keeps working without an open
// handle; no operation follows a symbolic link; new files keep their special
// mode bits and the group of a set-group-ID directory; a FIFO in a regular
// file's place cannot block the gofer; numbers of several devices do not clash;
// and no device node is made or opened.
//
// Not supported: paths of more than PATH_MAX bytes below the root, and file
// locks, which each client's kernel keeps for itself (lisafs has none).
package dirfs

import (
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"fsva/gofer/errno"
)

// Options configure New.
type Options struct {
	// Shared says that others change the directory too: nothing is cached.
	Shared bool
	// Log must not be nil.
	Log *slog.Logger
}

// cacheTime is how long callers may keep entries and attributes of a directory
// that nobody else changes.
const cacheTime = time.Second

// New returns a file system for the directory at path. OnUnmount closes it.
//
// Precondition: the process's umask is 0.
func New(path string, o Options) (fuse.RawFileSystem, error) {
	fd, err := unix.Open(path, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open directory %q: %w", path, err)
	}
	var st stat
	if err := st.read(fd); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("stat directory %q: %w", path, err)
	}
	t := &tree{fd: fd, path: path, dev: st.dev(), log: o.Log, others: map[devIno]uint64{}, keeping: map[*node]struct{}{}}
	id, _ := t.id(&st)
	timeout := cacheTime
	if o.Shared {
		timeout = 0
	}
	root := &node{tree: t}
	raw := fs.NewNodeFS(root, &fs.Options{
		EntryTimeout:    &timeout,
		AttrTimeout:     &timeout,
		NullPermissions: true, // mode 0000 is a mode
		RootStableAttr:  &fs.StableAttr{Ino: id.Ino, Gen: id.Gen},
	})
	return &dirFS{RawFileSystem: raw, tree: t}, nil
}

// dirFS closes the root at the end.
type dirFS struct {
	fuse.RawFileSystem
	tree *tree
}

// String implements fuse.RawFileSystem.
func (f *dirFS) String() string { return "dir(" + f.tree.path + ")" }

// Init implements fuse.RawFileSystem. The bridge would ask the server for
// passthrough, which bypasses us.
func (f *dirFS) Init(*fuse.Server) {}

// OnUnmount implements fuse.RawFileSystem.
func (f *dirFS) OnUnmount() {
	f.RawFileSystem.OnUnmount()
	f.tree.closeOnce.Do(func() {
		// Those that nobody has forgotten; clients are gone without a word.
		f.tree.mu.Lock()
		left := slices.Collect(maps.Keys(f.tree.keeping))
		f.tree.mu.Unlock()
		for _, n := range left {
			n.OnForget()
		}
		unix.Close(f.tree.fd)
	})
}

// tree is what the nodes of one file system share.
type tree struct {
	// Immutable.
	fd   int // O_PATH of the root directory
	path string
	dev  uint64 // of the root
	log  *slog.Logger

	closeOnce sync.Once

	mu      sync.Mutex
	others  map[devIno]uint64  // guarded by mu; see id
	keeping map[*node]struct{} // nodes with a kept descriptor; guarded by mu
}

type devIno struct{ dev, ino uint64 }

const (
	// otherBase is the first number given to files whose own number may clash.
	otherBase = 1 << 63
	// maxOthers bounds the table of such files, at about 60 MB.
	maxOthers = 1 << 20
)

// id returns what identifies a file to go-fuse: two files get the same only if
// they are one. Numbers of the root's file system are used as they are; those of
// file systems mounted below it may be the same and are replaced.
func (t *tree) id(st *stat) (fs.StableAttr, error) {
	a := fs.StableAttr{Mode: uint32(st.x.Mode) & unix.S_IFMT, Ino: st.x.Ino, Gen: 1}
	// The time of birth tells a new file from an old one with the same number.
	if st.x.Mask&unix.STATX_BTIME != 0 {
		a.Gen = uint64(st.x.Btime.Sec)*1e9 + uint64(st.x.Btime.Nsec)
	}
	if st.dev() == t.dev && a.Ino < otherBase && a.Ino != 0 {
		return a, nil
	}
	key := devIno{st.dev(), st.x.Ino}
	t.mu.Lock()
	defer t.mu.Unlock()
	n, ok := t.others[key]
	if !ok {
		if len(t.others) >= maxOthers {
			return a, unix.EOVERFLOW
		}
		n = otherBase + uint64(len(t.others))
		t.others[key] = n
	}
	a.Ino = n
	return a, nil
}

// open opens the file at a path relative to the root: never outside it, never
// through a symbolic link. The caller owns the descriptor.
//
// O_NONBLOCK is always added: a FIFO put in the place of a regular file must not
// stop us. It means nothing to regular files and directories.
func (t *tree) open(rel string, flags int) (int, error) {
	return openBeneath(t.fd, rel, flags, 0)
}

func openBeneath(dir int, rel string, flags int, mode uint32) (int, error) {
	if flags&unix.O_PATH == 0 {
		flags |= unix.O_NONBLOCK | unix.O_NOCTTY
	}
	how := unix.OpenHow{
		Flags:   uint64(flags | unix.O_NOFOLLOW | unix.O_CLOEXEC),
		Mode:    uint64(mode),
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS,
	}
	for {
		fd, err := unix.Openat2(dir, rel, &how)
		switch err {
		case unix.EINTR, unix.EAGAIN: // openat2(2): a rename interfered
			continue
		case nil:
			return fd, nil
		}
		return -1, err
	}
}

// stat is a file's attributes.
type stat struct{ x unix.Statx_t }

// read fills s from an open descriptor, which may be O_PATH.
func (s *stat) read(fd int) error {
	return unix.Statx(fd, "", unix.AT_EMPTY_PATH|unix.AT_NO_AUTOMOUNT, unix.STATX_BASIC_STATS|unix.STATX_BTIME, &s.x)
}

func (s *stat) dev() uint64 { return unix.Mkdev(s.x.Dev_major, s.x.Dev_minor) }

// attr fills out; id is the number that the caller sees.
func (s *stat) attr(id uint64, out *fuse.Attr) {
	x := &s.x
	*out = fuse.Attr{
		Ino: id, Size: x.Size, Blocks: x.Blocks, Blksize: x.Blksize,
		Atime: uint64(x.Atime.Sec), Atimensec: x.Atime.Nsec,
		Mtime: uint64(x.Mtime.Sec), Mtimensec: x.Mtime.Nsec,
		Ctime: uint64(x.Ctime.Sec), Ctimensec: x.Ctime.Nsec,
		Mode: uint32(x.Mode), Nlink: x.Nlink,
		Owner: fuse.Owner{Uid: x.Uid, Gid: x.Gid},
		Rdev:  uint32(unix.Mkdev(x.Rdev_major, x.Rdev_minor)),
	}
}

// toErrno is for go-fuse, which takes bare numbers.
func toErrno(err error) unix.Errno { return errno.Errno(err) }
