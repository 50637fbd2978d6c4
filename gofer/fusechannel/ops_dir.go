// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package fusechannel

import (
	"fmt"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"fsva/gofer/fusewire"
)

// maxDirRead bounds one READDIR: servers allocate what is asked for.
const maxDirRead = 64 << 10

// newEntry performs an operation that makes a name and replies with its entry: typ, unless 0, is the type it must have.
func (c *Channel) newEntry(cancel <-chan struct{}, opcode uint32, h *fuse.InHeader, in []byte, n int, name, second string, typ uint32, out *fuse.EntryOut) fuse.Status {
	if c.opts.ReadOnly {
		return fuse.EROFS
	}
	if st := checkName(name); st != fuse.OK {
		return st
	}
	ca, st := c.begin(cancel, opcode, h, shape{fixed: c.proto.entryOut()})
	if st != fuse.OK {
		return st
	}
	if n > 0 {
		ca.body(in, n)
	}
	ca.str(name)
	if second != "" {
		ca.str(second)
	}
	st = c.finish(cancel, opcode, ca)
	if st == fuse.OK {
		*out = fuse.EntryOut{}
		copy(bytesOf(out), ca.outBytes())
	}
	c.end(ca)
	if st != fuse.OK {
		return st
	}
	return c.entry(opcode, out, typ)
}

// masked returns mode as it is sent: a server without DONT_MASK expects that the umask has been applied.
func (c *Channel) masked(mode, umask uint32) uint32 {
	if c.Has(fuse.CAP_DONT_MASK) {
		return mode
	}
	return mode &^ (umask & 0o777)
}

// Mknod implements fuse.RawFileSystem.
func (c *Channel) Mknod(cancel <-chan struct{}, input *fuse.MknodIn, name string, out *fuse.EntryOut) fuse.Status {
	in := *input
	if in.Mode&unix.S_IFMT == 0 {
		in.Mode |= unix.S_IFREG // as mknod(2)
	}
	in.Mode = c.masked(in.Mode, in.Umask)
	return c.newEntry(cancel, fusewire.OpMknod, &in.InHeader, bytesOf(&in), c.proto.mknodIn(), name, "", in.Mode&unix.S_IFMT, out)
}

// Mkdir implements fuse.RawFileSystem.
func (c *Channel) Mkdir(cancel <-chan struct{}, input *fuse.MkdirIn, name string, out *fuse.EntryOut) fuse.Status {
	in := *input
	in.Mode = c.masked(in.Mode, in.Umask)
	if c.proto.minor < 12 {
		in.Umask = 0 // was padding
	}
	return c.newEntry(cancel, fusewire.OpMkdir, &in.InHeader, bytesOf(&in), 8, name, "", unix.S_IFDIR, out)
}

// Symlink implements fuse.RawFileSystem.
func (c *Channel) Symlink(cancel <-chan struct{}, header *fuse.InHeader, pointedTo string, linkName string, out *fuse.EntryOut) fuse.Status {
	if st := checkTarget(pointedTo); st != fuse.OK {
		return st
	}
	return c.newEntry(cancel, fusewire.OpSymlink, header, nil, 0, linkName, pointedTo, unix.S_IFLNK, out)
}

// Link implements fuse.RawFileSystem. Whether the entry has the old file's type is for the caller to check.
func (c *Channel) Link(cancel <-chan struct{}, input *fuse.LinkIn, filename string, out *fuse.EntryOut) fuse.Status {
	return c.newEntry(cancel, fusewire.OpLink, &input.InHeader, bytesOf(input), 8, filename, "", 0, out)
}

// Unlink implements fuse.RawFileSystem.
func (c *Channel) Unlink(cancel <-chan struct{}, header *fuse.InHeader, name string) fuse.Status {
	return c.removeName(cancel, fusewire.OpUnlink, header, name)
}

// Rmdir implements fuse.RawFileSystem.
//
// libfuse keeps a removed file that is open under a hidden name in its directory until RELEASE. Applications have closed
// it before, but a sentry closes only when the file is removed, and nobody waits for RELEASE: RMDIR may overtake it. So
// a directory that is not empty while there are RELEASEs under way is tried once more when they are done.
func (c *Channel) Rmdir(cancel <-chan struct{}, header *fuse.InHeader, name string) fuse.Status {
	releasing := c.forgets.releasing()
	st := c.removeName(cancel, fusewire.OpRmdir, header, name)
	if releasing && st == fuse.Status(unix.ENOTEMPTY) {
		c.forgets.awaitReleases()
		st = c.removeName(cancel, fusewire.OpRmdir, header, name)
	}
	return st
}

func (c *Channel) removeName(cancel <-chan struct{}, opcode uint32, h *fuse.InHeader, name string) fuse.Status {
	if c.opts.ReadOnly {
		return fuse.EROFS
	}
	if st := checkName(name); st != fuse.OK {
		return st
	}
	return c.simple(cancel, opcode, h, name)
}

// Rename implements fuse.RawFileSystem. Flags need RENAME2; without it they are EINVAL, as rename(2) says of a file
// system that does not support them.
func (c *Channel) Rename(cancel <-chan struct{}, input *fuse.RenameIn, oldName string, newName string) fuse.Status {
	if c.opts.ReadOnly {
		return fuse.EROFS
	}
	if st := checkName(oldName); st != fuse.OK {
		return st
	}
	if st := checkName(newName); st != fuse.OK {
		return st
	}
	opcode, size := uint32(fusewire.OpRename), 8
	if input.Flags != 0 {
		if input.Flags&^(unix.RENAME_NOREPLACE|unix.RENAME_EXCHANGE|unix.RENAME_WHITEOUT) != 0 {
			return fuse.EINVAL
		}
		if c.proto.minor < 23 || c.missing(fusewire.OpRename2) {
			return fuse.EINVAL
		}
		opcode, size = fusewire.OpRename2, 16
	}
	ca, st := c.begin(cancel, opcode, &input.InHeader, shape{})
	if st != fuse.OK {
		return st
	}
	ca.body(bytesOf(input), size)
	ca.str(oldName)
	ca.str(newName)
	st = c.finish(cancel, opcode, ca)
	c.end(ca)
	return c.remember(opcode, st)
}

// OpenDir implements fuse.RawFileSystem. For a server without OPENDIR it succeeds with handle 0, which ReleaseDir and
// FsyncDir then keep to themselves, and with KEEP_CACHE and CACHE_DIR (fuse_file_open in fs/fuse/file.c).
func (c *Channel) OpenDir(cancel <-chan struct{}, input *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	if !c.missing(fusewire.OpOpenDir) {
		in := *input
		in.Flags &^= unix.O_CREAT | unix.O_EXCL | unix.O_NOCTTY
		in.Mode = 0
		st := c.open(cancel, fusewire.OpOpenDir, &in, out)
		out.OpenFlags &^= fuse.FOPEN_DIRECT_IO
		if c.remember(fusewire.OpOpenDir, st) != fuse.ENOSYS {
			return st
		}
	}
	*out = fuse.OpenOut{OpenFlags: fuse.FOPEN_KEEP_CACHE | fuse.FOPEN_CACHE_DIR}
	return fuse.OK
}

// ReadDir implements fuse.RawFileSystem: entries are added to out. The server is asked for no more than fits there
// (input.Size, or out's capacity when that is 0). "." and ".." are passed on when the server sends them; names longer
// than 255 bytes are left out.
func (c *Channel) ReadDir(cancel <-chan struct{}, input *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	return c.readDir(cancel, fusewire.OpReadDir, input, out)
}

// ReadDirPlus implements fuse.RawFileSystem: like ReadDir, with an entry for each name. Those with a node id are
// lookups that the caller has to give back with Forget; "." and ".." have none. It returns ENOSYS, and nothing is sent,
// if the server has no READDIRPLUS: the caller then uses ReadDir.
func (c *Channel) ReadDirPlus(cancel <-chan struct{}, input *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	if !c.Has(fuse.CAP_READDIRPLUS) {
		return fuse.ENOSYS
	}
	return c.readDir(cancel, fusewire.OpReadDirPlus, input, out)
}

func (c *Channel) readDir(cancel <-chan struct{}, opcode uint32, input *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	bufp := c.dirBufs.Get().(*[]byte)
	defer c.dirBufs.Put(bufp)
	have := out.Bytes()
	size := cap(have) - len(have)
	if input.Size != 0 {
		size = min(size, int(input.Size))
	}
	buf := (*bufp)[:min(size, len(*bufp))]

	unlock, st := c.dirLocks.lock(cancel, input.NodeId)
	if st != fuse.OK {
		return st
	}
	in := *input
	in.Size = uint32(len(buf))
	ca, st := c.begin(cancel, opcode, &in.InHeader, shape{dst: buf})
	if st != fuse.OK {
		unlock()
		return st
	}
	ca.body(bytesOf(&in), c.proto.rwIn())
	st = c.finish(cancel, opcode, ca)
	buf = buf[:ca.n]
	c.end(ca)
	unlock()
	if st != fuse.OK {
		return st
	}
	var skipped, bad int
	var ok bool
	if opcode == fusewire.OpReadDirPlus {
		skipped, bad, ok = fillDirPlus(buf, out, func(id uint64) { c.Forget(id, 1) })
	} else {
		skipped, ok = fillDir(buf, out)
	}
	if bad > 0 {
		c.malformed("%d unusable entries in the reply to READDIRPLUS", bad)
	}
	if skipped > 0 {
		c.stats.skipped.Add(uint64(skipped))
		c.log.warn("directory entries with names longer than 255 bytes were left out", func() string { return fmt.Sprint(skipped) })
	}
	if !ok {
		return c.badReply(opcode)
	}
	return fuse.OK
}

// ReleaseDir implements fuse.RawFileSystem. It does not wait for the server.
func (c *Channel) ReleaseDir(input *fuse.ReleaseIn) {
	if c.missing(fusewire.OpOpenDir) {
		return
	}
	c.release(fusewire.OpReleaseDir, input)
}

// FsyncDir implements fuse.RawFileSystem.
func (c *Channel) FsyncDir(cancel <-chan struct{}, input *fuse.FsyncIn) fuse.Status {
	if c.opts.ReadOnly {
		return fuse.OK
	}
	return c.plainOnce(cancel, fusewire.OpFsyncDir, &input.InHeader, bytesOf(input), 16)
}
