// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package archive

import (
	"bufio"
	"compress/bzip2"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// gunzip returns a reader of all members of a gzip file. Bytes behind the last
// one that are no member are ignored, as gzip does: padding of tapes and blocks.
func gunzip(src io.Reader) (io.Reader, error) {
	in := bufio.NewReaderSize(src, 256<<10)
	z, err := gzip.NewReader(in)
	if err != nil {
		return nil, err
	}
	z.Multistream(false)
	return &gunzipper{in: in, z: z}, nil
}

type gunzipper struct {
	in *bufio.Reader
	z  *gzip.Reader
}

// Read implements io.Reader.
func (g *gunzipper) Read(p []byte) (int, error) {
	for {
		n, err := g.z.Read(p)
		if n > 0 || !errors.Is(err, io.EOF) {
			if errors.Is(err, io.EOF) {
				err = nil // asked again
			}
			return n, err
		}
		if magic, err := g.in.Peek(2); err != nil || magic[0] != 0x1f || magic[1] != 0x8b {
			return 0, io.EOF
		}
		if err := g.z.Reset(g.in); err != nil {
			return 0, err
		}
		g.z.Multistream(false)
	}
}

// unpackTo unpacks into a new memfd, at most limit bytes. The caller owns it.
func unpackTo(src io.Reader, limit int64) (*os.File, int64, error) {
	fd, err := unix.MemfdCreate("fsva-archive", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, 0, fmt.Errorf("memfd_create: %w", err)
	}
	out := os.NewFile(uintptr(fd), "memfd:fsva-archive")
	// One byte more tells too much from just enough.
	n, err := io.CopyBuffer(struct{ io.Writer }{out}, io.LimitReader(src, limit+1), make([]byte, 1<<20))
	if err == nil && n > limit {
		err = fmt.Errorf("it unpacks to more than %d bytes: raise the option max-unpacked or unpack it yourself", limit)
	}
	if err != nil {
		out.Close()
		return nil, 0, err
	}
	return out, n, nil
}

// bunzip2 returns a reader of a bzip2 file.
func bunzip2(src io.Reader) io.Reader {
	return bzip2.NewReader(bufio.NewReaderSize(src, 256<<10))
}
