// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package archive

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Section numbers below are those of PKWARE's APPNOTE.TXT 6.3.10.

// zipMember is what reading a member takes.
type zipMember struct {
	stored int64 // bytes in the archive
	crc    uint32
	method uint16
	flags  uint16
}

const (
	zipStored  = 0 // 4.4.5
	zipDeflate = 8

	zipEncrypted = 1 << 0 // 4.4.4

	sigLocal    = 0x04034b50 // 4.3.7
	sigCentral  = 0x02014b50 // 4.3.12
	sigSignatur = 0x05054b50 // 4.3.13
	sigEnd64    = 0x06064b50 // 4.3.14
	sigLocator  = 0x07064b50 // 4.3.15
	sigEnd      = 0x06054b50 // 4.3.16

	lenLocal   = 30
	lenCentral = 46
	lenEnd64   = 56
	lenLocator = 20
	lenEnd     = 22
)

var le = binary.LittleEndian

// zipEnd is the end of the central directory, from either form of the record.
type zipEnd struct {
	pos     int64 // of the record
	entries uint64
	zip64   bool
	size    uint64 // of the directory
	offset  uint64
}

var errNoZip = errors.New("no end of central directory: not a zip archive, or truncated")

// findEnd looks for the record at the end of the file, behind which there may be
// a comment.
func findEnd(src io.ReaderAt, size int64) (zipEnd, error) {
	n := min(size, lenEnd+math.MaxUint16)
	buf := make([]byte, n)
	if err := readFull(src, buf, size-n); err != nil {
		return zipEnd{}, fmt.Errorf("end of the zip archive: %w", err)
	}
	for i := len(buf) - lenEnd; i >= 0; i-- {
		if le.Uint32(buf[i:]) != sigEnd || int(le.Uint16(buf[i+20:])) > len(buf)-i-lenEnd {
			continue
		}
		b := buf[i:]
		end := zipEnd{
			pos: size - n + int64(i), entries: uint64(le.Uint16(b[10:])),
			size: uint64(le.Uint32(b[12:])), offset: uint64(le.Uint32(b[16:])),
		}
		if le.Uint16(b[4:]) != 0 && le.Uint16(b[4:]) != math.MaxUint16 {
			return zipEnd{}, errors.New("zip archive in several parts: join them first (zip -s 0)")
		}
		return end, end.read64(src)
	}
	return zipEnd{}, errNoZip
}

// read64 replaces e by the zip64 form of the record, if there is one.
func (e *zipEnd) read64(src io.ReaderAt) error {
	if e.entries != math.MaxUint16 && e.size != math.MaxUint32 && e.offset != math.MaxUint32 {
		return nil
	}
	var loc [lenLocator]byte
	if e.pos < lenLocator {
		return nil
	}
	if err := readFull(src, loc[:], e.pos-lenLocator); err != nil {
		return fmt.Errorf("zip64 locator: %w", err)
	}
	if le.Uint32(loc[:]) != sigLocator {
		return nil // the numbers are what they are
	}
	// Data may stand before the archive, so the place is tried first as it is
	// written and then directly before the locator.
	var b [lenEnd64]byte
	for _, pos := range []uint64{le.Uint64(loc[8:]), uint64(e.pos - lenLocator - lenEnd64)} {
		if pos > uint64(e.pos)-lenLocator {
			continue
		}
		if err := readFull(src, b[:], int64(pos)); err != nil || le.Uint32(b[:]) != sigEnd64 {
			continue
		}
		*e = zipEnd{
			pos: int64(pos), zip64: true, entries: le.Uint64(b[32:]),
			size: le.Uint64(b[40:]), offset: le.Uint64(b[48:]),
		}
		return nil
	}
	return errors.New("zip64 end of central directory is not where it should be")
}

// indexZip reads the central directory of the zip archive in the first size
// bytes of src. Member data is not looked at.
func indexZip(src io.ReaderAt, size int64, b *builder) (*index, error) {
	end, err := findEnd(src, size)
	if err != nil {
		return nil, err
	}
	if end.size > uint64(end.pos) || end.offset > uint64(end.pos) {
		return nil, fmt.Errorf("central directory: %d bytes at byte %d are not all in the archive", end.size, end.offset)
	}
	// What stands before the archive, such as a self-extracting program, moves
	// everything.
	base := end.pos - int64(end.size) - int64(end.offset)
	w := window{src: src}
	if base < 0 || (base > 0 && isCentral(&w, int64(end.offset))) {
		base = 0
	}
	z := zipScanner{builder: b, src: &w, base: base, dir: base + int64(end.offset)}
	count, err := z.directory(min(int64(end.size), end.pos-z.dir))
	if err != nil {
		return nil, err
	}
	// Old programs count modulo 65536.
	if count != end.entries && (end.zip64 || count%65536 != end.entries) {
		return nil, fmt.Errorf("central directory has %d entries, its end record says %d", count, end.entries)
	}
	return b.finish(), nil
}

func isCentral(w *window, pos int64) bool {
	var sig [4]byte
	return w.read(sig[:], pos) == nil && le.Uint32(sig[:]) == sigCentral
}

// zipScanner walks through a central directory.
type zipScanner struct {
	*builder
	src  *window
	base int64 // added to all offsets
	dir  int64 // where the directory starts
}

// directory reads size bytes of headers and returns how many there are.
func (z *zipScanner) directory(size int64) (count uint64, err error) {
	var fixed [lenCentral]byte
	var variable []byte
	for pos := int64(0); pos < size; count++ {
		damaged := func(what string) error {
			return fmt.Errorf("central directory is damaged at byte %d: %s", z.dir+pos, what)
		}
		if size-pos < lenCentral {
			if size-pos >= 4 && z.src.read(fixed[:4], z.dir+pos) == nil && le.Uint32(fixed[:]) == sigSignatur {
				return count, nil
			}
			return 0, damaged("an entry is cut off")
		}
		if err := z.src.read(fixed[:], z.dir+pos); err != nil {
			return 0, fmt.Errorf("central directory at byte %d: %w", z.dir+pos, err)
		}
		switch le.Uint32(fixed[:]) {
		case sigCentral:
		case sigSignatur:
			return count, nil
		default:
			return 0, damaged("no entry where one should be")
		}
		names, extras := int(le.Uint16(fixed[28:])), int(le.Uint16(fixed[30:]))
		total := int64(lenCentral + names + extras + int(le.Uint16(fixed[32:])))
		if total > size-pos {
			return 0, damaged("an entry is cut off")
		}
		if cap(variable) < names+extras {
			variable = make([]byte, 2*math.MaxUint16)
		}
		variable = variable[:names+extras]
		if err := z.src.read(variable, z.dir+pos+lenCentral); err != nil {
			return 0, fmt.Errorf("central directory at byte %d: %w", z.dir+pos, err)
		}
		if err := z.entry(&fixed, string(variable[:names]), variable[names:]); err != nil {
			if errors.Is(err, errEntry) {
				return 0, damaged(fmt.Sprintf("entry %.200q has impossible sizes", variable[:names]))
			}
			return 0, err
		}
		pos += total
	}
	return count, nil
}

var errEntry = errors.New("impossible sizes")

// Systems in "version made by", 4.4.2.2.
const (
	madeByFAT  = 0
	madeByUnix = 3
	madeByNTFS = 10
	madeByVFAT = 14
	madeByMac  = 19 // Darwin
)

// entry enters one member.
func (z *zipScanner) entry(h *[lenCentral]byte, name string, extra []byte) error {
	member := zipMember{
		flags: le.Uint16(h[8:]), method: le.Uint16(h[10:]), crc: le.Uint32(h[16:]),
	}
	size, stored, offset := uint64(le.Uint32(h[24:])), uint64(le.Uint32(h[20:])), uint64(le.Uint32(h[42:]))
	n := node{member: memberZip}
	mtime := dosTime(le.Uint16(h[12:]), le.Uint16(h[14:]))
	n.mtime = mtime.Unix()
	if err := zipExtra(extra, &n, &size, &stored, &offset); err != nil {
		return err
	}
	// Members are before the directory; the subtractions cannot wrap.
	limit := uint64(z.dir - z.base)
	if size > math.MaxInt64 || offset > limit || stored > limit-offset {
		return errEntry
	}
	n.size, n.off, member.stored = int64(size), z.base+int64(offset), int64(stored)

	system, attrs := h[5], le.Uint32(h[38:])
	if (system == madeByFAT || system == madeByNTFS || system == madeByVFAT) && !strings.Contains(name, "/") {
		name = strings.ReplaceAll(name, `\`, "/")
	}
	n.mode = zipMode(system, attrs)
	if strings.HasSuffix(name, "/") {
		n.mode = n.mode&0o7777 | unix.S_IFDIR
	}
	return z.skip(name, z.enter(name, &n, &member))
}

// enter adds the member to the index; an errSkip says why it cannot.
func (z *zipScanner) enter(name string, n *node, member *zipMember) error {
	switch n.mode & unix.S_IFMT {
	case unix.S_IFREG:
	case unix.S_IFLNK:
		// The target is the member's data, read when it is asked for.
		if n.size == 0 || n.size > pathMax {
			return errSkip("it is a symbolic link without a proper target")
		}
	case unix.S_IFDIR, unix.S_IFIFO:
		n.size, n.member = 0, memberPlain
		_, err := z.add(name, *n)
		return err
	default:
		return errSkip("it is a device or a socket")
	}
	n.aux = uint32(len(z.index.zips))
	if _, err := z.add(name, *n); err != nil {
		return err
	}
	z.index.zips = append(z.index.zips, *member)
	return nil
}

// zipMode returns the mode that the external attributes give, 4.4.15: Unix has it
// in the upper half, MS-DOS has a directory and a read-only bit.
func zipMode(system byte, attrs uint32) uint32 {
	if mode := attrs >> 16; (system == madeByUnix || system == madeByMac) && mode != 0 {
		if mode&unix.S_IFMT == 0 {
			mode |= unix.S_IFREG
		}
		return mode
	}
	mode := uint32(unix.S_IFREG | 0o644)
	if attrs&0x10 != 0 {
		mode = unix.S_IFDIR | 0o755
	}
	if attrs&0x01 != 0 {
		mode &^= 0o222
	}
	return mode
}

// dosTime decodes 4.4.6. It has no time zone; UTC is as good as any. Fields out of
// range carry over, as with time.Date.
func dosTime(t, d uint16) time.Time {
	return time.Date(int(d>>9)+1980, time.Month(d>>5&15), int(d&31), int(t>>11), int(t>>5&63), int(t&31)*2, 0, time.UTC)
}

// Extra fields, 4.5.2 and 4.6, and Info-ZIP's.
const (
	extraZip64 = 0x0001
	extraNTFS  = 0x000a
	extraTime  = 0x5455 // "UT"
	extraOwner = 0x7875 // "ux"
)

// zipExtra applies the extra fields of a central header: large sizes, better times,
// and owners. A malformed field ends the list, as other programs have it.
func zipExtra(extra []byte, n *node, size, stored, offset *uint64) error {
	need64 := *size == math.MaxUint32 || *stored == math.MaxUint32 || *offset == math.MaxUint32
	for len(extra) >= 4 {
		id, length := le.Uint16(extra), int(le.Uint16(extra[2:]))
		extra = extra[4:]
		if length > len(extra) {
			break
		}
		f := extra[:length]
		extra = extra[length:]
		switch id {
		case extraZip64: // 4.5.3: those of the three that did not fit, in this order
			if !need64 {
				continue
			}
			need64 = false
			for _, v := range []*uint64{size, stored, offset} {
				if *v != math.MaxUint32 {
					continue
				}
				if len(f) < 8 {
					return errEntry
				}
				*v, f = le.Uint64(f), f[8:]
			}
		case extraTime:
			if len(f) >= 5 && f[0]&1 != 0 {
				n.mtime, n.mtimeNs = int64(int32(le.Uint32(f[1:]))), 0
			}
		case extraNTFS: // 4.5.5: four bytes, then tagged attributes; 1 has the times
			for f = f[min(4, len(f)):]; len(f) >= 4; {
				tag, l := le.Uint16(f), int(le.Uint16(f[2:]))
				f = f[4:]
				if l > len(f) {
					break
				}
				if tag == 1 && l >= 8 {
					// 100 ns since 1601.
					ticks := int64(le.Uint64(f)) - 116444736000000000
					n.mtime = ticks / 1e7
					ns := ticks % 1e7
					if ns < 0 {
						n.mtime, ns = n.mtime-1, ns+1e7
					}
					n.mtimeNs = uint32(ns * 100)
				}
				f = f[l:]
			}
		case extraOwner:
			if len(f) < 1 || f[0] != 1 {
				continue
			}
			uid, rest, ok1 := sizedNumber(f[1:])
			gid, _, ok2 := sizedNumber(rest)
			if ok1 && ok2 {
				n.uid, n.gid = ownerID(uid), ownerID(gid)
			}
		}
	}
	return nil
}

// sizedNumber reads a length byte and a little-endian number of that length; -1
// for one that is too large.
func sizedNumber(b []byte) (n int64, rest []byte, ok bool) {
	if len(b) < 1 || int(b[0]) > len(b)-1 {
		return 0, nil, false
	}
	num, rest := b[1:1+b[0]], b[1+b[0]:]
	for i, c := range num {
		if i >= 7 && c != 0 {
			return -1, rest, true
		}
		if i < 7 {
			n |= int64(c) << (8 * i)
		}
	}
	return n, rest, true
}
