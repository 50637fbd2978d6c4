// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package archive

import (
	"bufio"
	"compress/flate"
	"errors"
	"fmt"
	"hash"
	"hash/crc32"
	"io"
	"sync"

	"golang.org/x/sys/unix"
)

// dataOffset returns where a zip member's bytes start: behind its local header,
// whose extra field may differ from the central one.
func dataOffset(src io.ReaderAt, size int64, n *node, m *zipMember) (int64, error) {
	var b [lenLocal]byte
	if err := readFull(src, b[:], n.off); err != nil {
		return 0, fmt.Errorf("local header at byte %d: %w", n.off, err)
	}
	if le.Uint32(b[:]) != sigLocal {
		return 0, fmt.Errorf("no local header at byte %d", n.off)
	}
	off := n.off + lenLocal + int64(le.Uint16(b[26:])) + int64(le.Uint16(b[28:]))
	if off > size || m.stored > size-off {
		return 0, fmt.Errorf("member data at byte %d is not all in the archive", off)
	}
	return off, nil
}

// checkMember says why a zip member cannot be read: EACCES for an encrypted one,
// EIO for others.
func checkMember(n *node, m *zipMember) (unix.Errno, error) {
	switch {
	case m.flags&zipEncrypted != 0:
		return unix.EACCES, errors.New("the member is encrypted")
	case m.method == zipStored && m.stored != n.size:
		return unix.EIO, errors.New("the sizes of a stored member differ")
	case m.method != zipStored && m.method != zipDeflate:
		return unix.EIO, fmt.Errorf("compression method %d is not supported", m.method)
	}
	return 0, nil
}

// inflater is what unpacking a member needs; kept for the next one, because it is
// 100 KiB of memory (BenchmarkZip).
type inflater struct {
	in    *bufio.Reader
	flate io.ReadCloser
	crc   hash.Hash32
	buf   []byte
}

var inflaters = sync.Pool{New: func() any {
	return &inflater{
		in:    bufio.NewReaderSize(nil, 32<<10),
		flate: flate.NewReader(nil),
		crc:   crc32.NewIEEE(),
		buf:   make([]byte, 64<<10),
	}
}}

// errSize is reported for a member that is longer or shorter than it says.
var errSize = errors.New("the member does not have the size that it says")

// inflate unpacks a deflated member into sink, piece by piece, and checks its
// size and checksum. sink never gets more than n.size bytes.
func inflate(src io.ReaderAt, size int64, n *node, m *zipMember, sink func([]byte) error) error {
	off, err := dataOffset(src, size, n, m)
	if err != nil {
		return err
	}
	f := inflaters.Get().(*inflater)
	defer func() {
		f.in.Reset(nil)
		inflaters.Put(f)
	}()
	f.in.Reset(io.NewSectionReader(src, off, m.stored))
	if err := f.flate.(flate.Resetter).Reset(f.in, nil); err != nil {
		return err
	}
	f.crc.Reset()
	for left := n.size; ; {
		k, err := f.flate.Read(f.buf)
		if int64(k) > left {
			return errSize
		}
		left -= int64(k)
		if k > 0 {
			f.crc.Write(f.buf[:k])
			if err := sink(f.buf[:k]); err != nil {
				return err
			}
		}
		switch {
		case errors.Is(err, io.EOF) && left != 0:
			return errSize
		case errors.Is(err, io.EOF):
			if f.crc.Sum32() != m.crc {
				return errors.New("the member's checksum does not match")
			}
			return nil
		case err != nil:
			return err
		}
	}
}
