// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package image

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strings"

	"golang.org/x/sys/unix"
)

// Whiteouts, as the OCI image specification calls the entries that remove what lower layers have.
const (
	whiteoutPrefix = ".wh."
	whiteoutOpaque = ".wh..wh..opq"
	whiteoutMeta   = ".wh..wh." // others of that kind are some union file system's own
)

// unpacker builds a root file system from layers. Every name and link in them is resolved below the root, whatever they
// say. Not for concurrent use.
type unpacker struct {
	ctx    context.Context
	limits Limits
	fd     int    // the root, O_PATH
	dir    string // the root, as the kernel names it

	files int
	bytes int64
	added map[string]bool // paths that the layer under way has, below dir
}

// newUnpacker makes the root, which must not exist.
func newUnpacker(ctx context.Context, root string, limits Limits) (*unpacker, error) {
	if err := os.Mkdir(root, 0o755); err != nil {
		return nil, err
	}
	fd, err := unix.Open(root, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	u := &unpacker{ctx: ctx, limits: limits, fd: fd}
	if u.dir, err = os.Readlink(fdPath(fd)); err != nil {
		unix.Close(fd)
		return nil, err
	}
	return u, nil
}

func (u *unpacker) close() { unix.Close(u.fd) }

func fdPath(fd int) string { return fmt.Sprintf("/proc/self/fd/%d", fd) }

// layer unpacks the next layer, a tar stream. It reads r to its end.
func (u *unpacker) layer(r io.Reader) error {
	u.added = map[string]bool{}
	end := &endReader{r: &countedReader{r: r, u: u}}
	t := tar.NewReader(end)
	for {
		h, err := t.Next()
		if err == io.EOF && !end.zero {
			// A tar file that was cut between two entries looks whole to archive/tar.
			return fmt.Errorf("layer: the tar file's end is missing: %w", io.ErrUnexpectedEOF)
		}
		if err == io.EOF {
			break
		}
		if err != nil {
			return fmt.Errorf("layer: %w", err)
		}
		if u.files++; u.files > u.limits.Files {
			return fmt.Errorf("the image has more than %d files", u.limits.Files)
		}
		if err := u.entry(h, t); err != nil {
			return fmt.Errorf("layer: entry %q: %w", clip(h.Name), plain(err))
		}
	}
	if _, err := io.Copy(io.Discard, end); err != nil {
		return fmt.Errorf("layer: %w", err)
	}
	return nil
}

// clip bounds a name for a message.
func clip(name string) string {
	if len(name) > 256 {
		return name[:256] + "..."
	}
	return name
}

// entry unpacks one entry.
func (u *unpacker) entry(h *tar.Header, r io.Reader) error {
	if h.Typeflag == tar.TypeXGlobalHeader {
		return nil
	}
	if strings.ContainsRune(h.Name, 0) || h.Name == "" {
		return errors.New("not a file name")
	}
	for _, part := range strings.Split(h.Name, "/") {
		if part == ".." {
			return errors.New("the name leaves the image's root")
		}
	}
	name := path.Clean("/" + h.Name)
	if name == "/" {
		return nil // its mode and owner are ours
	}
	parent, where, err := u.parent(path.Dir(name))
	if err != nil {
		return err
	}
	defer unix.Close(parent)
	base := path.Base(name)
	switch {
	case base == whiteoutOpaque:
		return u.emptyDir(parent, where)
	case strings.HasPrefix(base, whiteoutMeta):
		return nil
	case strings.HasPrefix(base, whiteoutPrefix):
		base = strings.TrimPrefix(base, whiteoutPrefix)
		if base == "" || base == "." || base == ".." {
			return errors.New("a whiteout of no file")
		}
		return remove(parent, base)
	}
	u.added[where+"/"+base] = true
	return u.create(parent, base, h, r)
}

// create makes the file called base in a directory.
func (u *unpacker) create(parent int, base string, h *tar.Header, r io.Reader) error {
	if h.Typeflag == tar.TypeDir {
		return makeDir(parent, base, h)
	}
	if err := remove(parent, base); err != nil {
		return err
	}
	switch h.Typeflag {
	case tar.TypeReg, tar.TypeRegA, tar.TypeGNUSparse: //nolint:staticcheck // old archives have TypeRegA
		return u.file(parent, base, h, r)
	case tar.TypeSymlink:
		if h.Linkname == "" || len(h.Linkname) >= unix.PathMax {
			return errors.New("not a symbolic link's target")
		}
		if err := unix.Symlinkat(h.Linkname, parent, base); err != nil {
			return err
		}
		return unix.Fchownat(parent, base, h.Uid, h.Gid, unix.AT_SYMLINK_NOFOLLOW)
	case tar.TypeLink:
		target := path.Clean("/" + h.Linkname)
		dir, _, err := u.resolve(path.Dir(target))
		if err != nil {
			return fmt.Errorf("hard link to %q: %w", clip(h.Linkname), err)
		}
		defer unix.Close(dir)
		if err := unix.Linkat(dir, path.Base(target), parent, base, 0); err != nil {
			return fmt.Errorf("hard link to %q: %w", clip(h.Linkname), err)
		}
		return nil
	case tar.TypeChar, tar.TypeBlock, tar.TypeFifo:
		return nil // an FS server could not use it, and has a /dev of its own
	}
	return fmt.Errorf("entries of type %q are not known", h.Typeflag)
}

// file writes a regular file.
func (u *unpacker) file(parent int, base string, h *tar.Header, r io.Reader) error {
	fd, err := unix.Openat(parent, base, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return err
	}
	f := os.NewFile(uintptr(fd), base)
	defer f.Close()
	// A sparse entry unpacks to more than was read.
	if h.Size > u.limits.Bytes-u.bytes {
		return fmt.Errorf("the image unpacks to more than %d bytes", u.limits.Bytes)
	}
	if h.Typeflag == tar.TypeGNUSparse || len(h.PAXRecords) != 0 {
		u.bytes += h.Size
	}
	if _, err := io.Copy(f, r); err != nil {
		return err
	}
	if err := unix.Fchown(fd, h.Uid, h.Gid); err != nil {
		return err
	}
	if err := unix.Fchmod(fd, uint32(h.Mode)&0o7777); err != nil {
		return err
	}
	t := unix.NsecToTimeval(h.ModTime.UnixNano())
	if err := unix.Futimes(fd, []unix.Timeval{t, t}); err != nil {
		return err
	}
	return f.Close()
}

// makeDir makes a directory, or gives one that is there the entry's mode and owner.
func makeDir(parent int, base string, h *tar.Header) error {
	err := unix.Mkdirat(parent, base, 0o755)
	if errors.Is(err, unix.EEXIST) {
		var st unix.Stat_t
		if err := unix.Fstatat(parent, base, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return err
		}
		err = nil
		if st.Mode&unix.S_IFMT != unix.S_IFDIR {
			if err := remove(parent, base); err != nil {
				return err
			}
			err = unix.Mkdirat(parent, base, 0o755)
		}
	}
	if err != nil {
		return err
	}
	fd, err := unix.Openat(parent, base, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := unix.Fchown(fd, h.Uid, h.Gid); err != nil {
		return err
	}
	return unix.Fchmod(fd, uint32(h.Mode)&0o7777)
}

// resolve opens a directory of the root. Links are followed as if the root were the only one. where is its path below
// the root, free of links. The caller owns the descriptor.
func (u *unpacker) resolve(dir string) (fd int, where string, err error) {
	fd, err = unix.Openat2(u.fd, dir, &unix.OpenHow{
		Flags:   unix.O_RDONLY | unix.O_DIRECTORY | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS | unix.RESOLVE_NO_XDEV,
	})
	if err != nil {
		return -1, "", err
	}
	full, err := os.Readlink(fdPath(fd))
	if err == nil {
		var ok bool
		if where, ok = strings.CutPrefix(full, u.dir); !ok || strings.Count(where, "/") > maxDepth {
			err = unix.ENAMETOOLONG
		}
	}
	if err != nil {
		unix.Close(fd)
		return -1, "", err
	}
	return fd, where, nil
}

// parent is resolve for a directory that is made if there is none.
func (u *unpacker) parent(dir string) (fd int, where string, err error) {
	fd, where, err = u.resolve(dir)
	if !errors.Is(err, unix.ENOENT) || dir == "/" {
		return fd, where, err
	}
	if strings.Count(dir, "/") > maxDepth {
		return -1, "", unix.ENAMETOOLONG
	}
	up, where, err := u.parent(path.Dir(dir))
	if err != nil {
		return -1, "", err
	}
	err = unix.Mkdirat(up, path.Base(dir), 0o755)
	unix.Close(up)
	if err != nil {
		return -1, "", err // EEXIST: a symbolic link to nothing
	}
	u.added[where+"/"+path.Base(dir)] = true
	return u.resolve(dir)
}

// emptyDir removes what lower layers have in a directory.
func (u *unpacker) emptyDir(fd int, where string) error {
	names, err := list(fd)
	if err != nil {
		return err
	}
	for _, name := range names {
		if u.added[where+"/"+name] {
			continue
		}
		if err := remove(fd, name); err != nil {
			return err
		}
	}
	return nil
}

// list returns the names in a directory, which stays open.
func list(fd int) ([]string, error) {
	again, err := unix.Openat(fd, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(again), "")
	defer f.Close()
	return f.Readdirnames(-1)
}

// remove removes what is called name in a directory, with all that is below it. Nothing there is no error. It opens one
// descriptor per level, of which there are at most maxDepth.
func remove(parent int, name string) error {
	err := unix.Unlinkat(parent, name, 0)
	if err == nil || errors.Is(err, unix.ENOENT) {
		return nil
	}
	if !errors.Is(err, unix.EISDIR) {
		return err
	}
	fd, err := unix.Openat(parent, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	names, err := list(fd)
	if err != nil {
		return err
	}
	for _, n := range names {
		if err := remove(fd, n); err != nil {
			return err
		}
	}
	return unix.Unlinkat(parent, name, unix.AT_REMOVEDIR)
}

// countedReader bounds what an image unpacks to, and ends when the context does.
type countedReader struct {
	r io.Reader
	u *unpacker
}

func (c *countedReader) Read(p []byte) (int, error) {
	if err := c.u.ctx.Err(); err != nil {
		return 0, err
	}
	n, err := c.r.Read(p)
	if c.u.bytes += int64(n); c.u.bytes > c.u.limits.Bytes {
		return 0, fmt.Errorf("the image unpacks to more than %d bytes", c.u.limits.Bytes)
	}
	return n, err
}

// endReader knows whether what was read last were zeros, as at the end of a tar file.
type endReader struct {
	r    io.Reader
	zero bool
	last int // zero bytes at the end, up to a block
}

func (e *endReader) Read(p []byte) (int, error) {
	n, err := e.r.Read(p)
	zeros := 0
	for zeros < n && zeros < 512 && p[n-1-zeros] == 0 {
		zeros++
	}
	if zeros == n {
		zeros += e.last
	}
	if n > 0 {
		e.last = min(zeros, 512)
	}
	e.zero = e.last == 512
	return n, err
}

func closeFD(fd int) { unix.Close(fd) }

// emptyUnlessFile makes an empty file, unless there is a regular one.
func emptyUnlessFile(dir int, name string) error {
	var st unix.Stat_t
	err := unix.Fstatat(dir, name, &st, unix.AT_SYMLINK_NOFOLLOW)
	if err == nil && st.Mode&unix.S_IFMT == unix.S_IFREG {
		return nil
	}
	if err := remove(dir, name); err != nil {
		return err
	}
	fd, err := unix.Openat(dir, name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_CLOEXEC, 0o644)
	if err != nil {
		return err
	}
	return unix.Close(fd)
}
