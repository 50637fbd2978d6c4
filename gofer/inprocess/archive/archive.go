// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

// Package archive serves zip and tar archives, read-only, as a fuse.RawFileSystem
// of its own: the tree is fixed, so nodes are numbers and nothing is counted.
//
// The archive is hostile: its headers are checked, everything that it could make
// grow is bounded (Options, and the constants in index.go), and no header decides
// how much memory is taken before that many bytes were really there. The caller
// is a frontend of ours; node numbers that do not exist are answered with
// ENOENT all the same.
//
// What is shown:
//   - of several members with one name the last, as after extracting; but a
//     directory stays a directory, and a member below a file is left out;
//   - names without leading "/" and without "." components; a member with ".." in
//     its name is left out, so are devices, and names and targets that Linux could
//     not have; one log line counts them;
//   - directories that only other members' names imply, mode 0755;
//   - hard links, symbolic links, FIFOs, owners as numbers, set-ID bits, times in
//     nanoseconds, extended attributes (tar: SCHILY.xattr), sparse files.
//
// Formats: zip (stored and deflated members, zip64, a program in front), tar (V7,
// ustar, pax, GNU and star), and tar packed with gzip or bzip2, which is
// unpacked into memory once. They are told apart by their contents. A file of
// zeros is an empty tar, as it is for tar itself.
//
// A stored zip member's checksum is not verified: it would mean reading all of it
// for any part. Encrypted members are EACCES.
//
// Lock order: cache.mu, then FS.reportMu.
package archive

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// Options configure Open. Zero values mean the defaults.
type Options struct {
	// Kind is KindZip or KindTar: anything else is then refused. Empty means
	// whichever it is.
	Kind string
	// MaxUnpacked bounds what a packed tar may unpack to, the size of one
	// compressed zip member, and all unpacked members that are in use at a time.
	MaxUnpacked int64
	// CacheSize bounds the unpacked zip members that are kept for later.
	CacheSize int64
	// MaxFiles bounds the files and directories.
	MaxFiles int
	// Log must not be nil.
	Log *slog.Logger
}

// The kinds of archives. A tar may be packed.
const (
	KindZip = "zip"
	KindTar = "tar"
)

const (
	// DefaultMaxUnpacked is Options.MaxUnpacked's default.
	DefaultMaxUnpacked = 4 << 30
	// DefaultCacheSize is Options.CacheSize's default.
	DefaultCacheSize = 256 << 20
)

// Open reads the index of the archive in the file at path. The file stays open
// until the file system's OnUnmount. Errors are one line, to which the caller adds
// the file's name.
func Open(path string, o Options) (*FS, error) {
	if o.MaxUnpacked <= 0 {
		o.MaxUnpacked = DefaultMaxUnpacked
	}
	if o.CacheSize <= 0 {
		o.CacheSize = DefaultCacheSize
	}
	// O_NONBLOCK: a FIFO is refused, not waited for.
	file, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, err
	}
	fs, err := open(file, o)
	if err != nil {
		file.Close()
		if errors.Is(err, io.ErrUnexpectedEOF) {
			err = fmt.Errorf("%w (is the archive complete?)", err)
		}
		return nil, err
	}
	return fs, nil
}

// open takes ownership of file if it succeeds.
func open(file *os.File, o Options) (*FS, error) {
	info, err := file.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, errors.New("not a regular file")
	}
	size := info.Size()
	b := newBuilder(o.Log, o.MaxFiles, info.ModTime().Unix())
	format, err := detect(file, size, o.Kind)
	if err != nil {
		return nil, err
	}
	fs := &FS{RawFileSystem: fuse.NewDefaultRawFileSystem(), format: format, data: file, size: size, archiveSize: size, log: o.Log, reported: map[uint32]bool{}}
	switch format {
	case KindZip:
		if fs.index, err = indexZip(file, size, b); err != nil {
			return nil, err
		}
		fs.cache = newCache(file, size, o.CacheSize, o.MaxUnpacked, fs.report)
	case KindTar:
		if fs.index, err = indexTar(file, size, b); err != nil {
			return nil, err
		}
	default:
		if err := fs.openPacked(file, o, b); err != nil {
			return nil, fmt.Errorf("%s: %w", format, err)
		}
	}
	o.Log.Debug("archive is open", "format", format, "files", len(fs.index.nodes), "names", len(fs.index.dirents)+1)
	return fs, nil
}

// openPacked unpacks a compressed tar archive and indexes it. The file itself is
// not needed any more.
func (fs *FS) openPacked(file *os.File, o Options, b *builder) (err error) {
	in := io.NewSectionReader(file, 0, fs.size)
	var unpacked io.Reader = bunzip2(in)
	if fs.format == "tar.gz" {
		if unpacked, err = gunzip(in); err != nil {
			return err
		}
	}
	mem, size, err := unpackTo(unpacked, o.MaxUnpacked)
	if err != nil {
		return err
	}
	if !isTar(mem, size, true) {
		mem.Close()
		return errors.New("there is no tar archive in it")
	}
	if fs.index, err = indexTar(mem, size, b); err != nil {
		mem.Close()
		return err
	}
	fs.data, fs.size = mem, size
	if err := file.Close(); err != nil {
		mem.Close()
		return err
	}
	return nil
}

// detect names the archive's format. It is an error if that is not of the kind
// wanted; any is when kind is empty.
func detect(src io.ReaderAt, size int64, kind string) (string, error) {
	if size == 0 {
		return "", errors.New("the file is empty")
	}
	var magic [6]byte
	if _, err := src.ReadAt(magic[:], 0); err != nil && !errors.Is(err, io.EOF) {
		return "", err
	}
	var format string
	switch {
	case bytes.HasPrefix(magic[:], []byte("PK\x03\x04")):
		format = KindZip
	case bytes.HasPrefix(magic[:], []byte("\x1f\x8b")):
		format = "tar.gz"
	case bytes.HasPrefix(magic[:], []byte("BZh")):
		format = "tar.bz2"
	case isTar(src, size, kind != KindZip):
		format = KindTar
	case bytes.HasPrefix(magic[:], []byte("\xfd7zXZ\x00")):
		return "", errors.New("xz is not supported: unpack it, or pack it with gzip")
	case bytes.HasPrefix(magic[:], []byte("\x28\xb5\x2f\xfd")):
		return "", errors.New("zstd is not supported: unpack it, or pack it with gzip")
	default:
		// A zip archive may be empty, or have a program in front.
		switch _, err := findEnd(src, size); {
		case err == nil:
			format = KindZip
		case errors.Is(err, errNoZip) && kind == KindTar:
			return "", errors.New("not a tar archive")
		case errors.Is(err, errNoZip) && kind == "":
			return "", errors.New("neither a zip nor a tar archive")
		default:
			return "", err
		}
	}
	if kind != "" && (format == KindZip) != (kind == KindZip) {
		return "", fmt.Errorf("it is a %s archive, not a %s archive", format, kind)
	}
	return format, nil
}

// isTar reports whether the first block is a header, or zeros, which are the end
// of an archive, if it may be empty.
func isTar(src io.ReaderAt, size int64, mayBeEmpty bool) bool {
	var b block
	if size < blockSize || readFull(src, b[:], 0) != nil {
		return false
	}
	if b == zeroBlock {
		return mayBeEmpty
	}
	_, err := parseHeader(&b)
	return !errors.Is(err, errChecksum)
}
