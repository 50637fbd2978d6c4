// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package archive

import (
	"fmt"
	"io"
	"math"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// maxSpecial bounds a member that describes the next one (long names, extended
// headers, sparse maps in the data).
const maxSpecial = 1 << 20

// tarScanner walks through a tar archive.
type tarScanner struct {
	*builder
	src    window
	size   int64
	pos    int64 // of the next header
	global paxHeader
}

// indexTar reads all headers of the tar archive in the first size bytes of src.
//
// The error says what is wrong and where. Bytes behind the end-of-archive mark
// are not looked at; an archive that ends without one is accepted, as tar does.
func indexTar(src io.ReaderAt, size int64, b *builder) (*index, error) {
	s := &tarScanner{builder: b, src: window{src: src}, size: size}
	for {
		more, err := s.member()
		if err != nil {
			return nil, err
		}
		if !more {
			return b.finish(), nil
		}
	}
}

// at adds the place to an error.
func at(pos int64, what string, err error) error {
	return fmt.Errorf("%s at byte %d: %w", what, pos, err)
}

// block reads the header block at pos; false at the end of the archive.
func (s *tarScanner) block(b *block) (bool, error) {
	if s.pos == s.size {
		return false, nil
	}
	if s.size-s.pos < blockSize {
		return false, at(s.pos, "tar header", io.ErrUnexpectedEOF)
	}
	if err := s.src.read(b[:], s.pos); err != nil {
		return false, at(s.pos, "tar header", err)
	}
	if *b == zeroBlock {
		return false, nil
	}
	s.pos += blockSize
	return true, nil
}

// data returns where the n bytes of data at pos are, and moves behind them.
func (s *tarScanner) data(n int64) (int64, error) {
	start := s.pos
	// Subtractions on our side cannot wrap.
	if n > s.size-start {
		return 0, fmt.Errorf("truncated: a member at byte %d has %d bytes, but only %d are left", start, n, s.size-start)
	}
	padding := -n & (blockSize - 1)
	// The last member's padding may be missing.
	s.pos = start + min(n+padding, s.size-start)
	return start, nil
}

// special reads the data of a member that describes the next one.
func (s *tarScanner) special(n int64) (string, error) {
	if n > maxSpecial {
		return "", fmt.Errorf("extended header at byte %d: %d bytes are more than the limit of %d", s.pos, n, maxSpecial)
	}
	start, err := s.data(n)
	if err != nil {
		return "", err
	}
	buf := make([]byte, n)
	if err := s.src.read(buf, start); err != nil {
		return "", at(start, "extended header", err)
	}
	return string(buf), nil
}

// member reads one member with all that describes it; false at the end.
func (s *tarScanner) member() (bool, error) {
	var b block
	var longName, longLink string
	pax := s.global
	for {
		start := s.pos
		ok, err := s.block(&b)
		if !ok || err != nil {
			return false, err
		}
		h, err := parseHeader(&b)
		if err != nil {
			return false, at(start, "tar header", err)
		}
		switch h.typ {
		case 'x', 'X', 'g': // 'X' is Solaris's
			text, err := s.special(h.size)
			if err != nil {
				return false, err
			}
			to := &pax
			if h.typ == 'g' {
				to = &s.global
			}
			if err := parsePax(text, to); err != nil {
				return false, at(start, "tar header", err)
			}
			if h.typ == 'g' {
				// Names, sizes and attributes cannot be those of every member.
				g := paxHeader{uid: to.uid, gid: to.gid, mtime: to.mtime, mtimeNs: to.mtimeNs, has: to.has &^ paxSize}
				s.global, pax = g, g
			}
		case 'L', 'K':
			text, err := s.special(h.size)
			if err != nil {
				return false, err
			}
			if h.typ == 'L' {
				longName = cstring([]byte(text))
			} else {
				longLink = cstring([]byte(text))
			}
		default:
			if longName != "" {
				h.name = longName
			}
			if longLink != "" {
				h.link = longLink
			}
			return true, s.file(start, &h, &pax, &b)
		}
	}
}

// file enters a member.
func (s *tarScanner) file(start int64, h *tarHeader, pax *paxHeader, b *block) error {
	if pax.path != "" {
		h.name = pax.path
	}
	if pax.link != "" {
		h.link = pax.link
	}
	if pax.has&paxSize != 0 {
		h.size = pax.size
	}
	if pax.has&paxUID != 0 {
		h.uid = pax.uid
	}
	if pax.has&paxGID != 0 {
		h.gid = pax.gid
	}
	n := node{
		mode: uint32(h.mode) & 0o7777, uid: ownerID(h.uid), gid: ownerID(h.gid),
		mtime: h.mtime,
	}
	if pax.has&paxMtime != 0 {
		n.mtime, n.mtimeNs = pax.mtime, pax.mtimeNs
	}
	// Links, devices and directories have no data, whatever their size says.
	switch h.typ {
	case '1', '2', '3', '4', '5', '6':
		h.size = 0
	}
	var extents []extent
	var err error
	if n.size, extents, err = s.sparse(start, h, pax, b); err != nil {
		return err
	}
	if n.off, err = s.data(h.size); err != nil {
		return err
	}
	if extents != nil {
		if extents, err = s.place(&n, extents, h.size); err != nil {
			return at(start, "sparse member", err)
		}
	}
	if err := s.enter(h, &n, extents, pax); err != nil {
		return s.skip(h.name, err)
	}
	return nil
}

// enter adds the member to the index; an errSkip says why it cannot.
func (s *tarScanner) enter(h *tarHeader, n *node, extents []extent, pax *paxHeader) error {
	switch h.typ {
	case 0, '0', '7', 'S':
		n.mode |= unix.S_IFREG
		if h.typ != 'S' && strings.HasSuffix(h.name, "/") {
			n.mode, n.size, extents = n.mode&^unix.S_IFMT|unix.S_IFDIR, 0, nil // how old programs mark directories
			n.member = memberPlain
		}
	case '1':
		return s.link(h.name, h.link)
	case '2':
		if err := s.symlink(n, h.link); err != nil {
			return err
		}
	case '5', 'D': // 'D' is a directory with a list of its names as data
		n.mode, n.size = n.mode|unix.S_IFDIR, 0
	case '6':
		n.mode |= unix.S_IFIFO
	case '3', '4':
		return errSkip("it is a device")
	default:
		return errSkip(fmt.Sprintf("its type %q is not known", h.typ))
	}
	if n.member == memberSparse {
		n.aux = uint32(len(s.index.sparse))
		s.index.sparse = append(s.index.sparse, extents)
	}
	id, err := s.add(h.name, *n)
	if err != nil {
		return err
	}
	if pax.ignoredAttrs > 0 {
		s.log.Debug("extended attributes of a member are not valid on Linux", "name", h.name, "count", pax.ignoredAttrs)
	}
	if len(pax.xattrs) == 0 {
		return nil
	}
	for i, x := range pax.xattrs {
		if err := s.charge(len(x.name) + len(x.value) + 32); err != nil {
			return err
		}
		// Not the whole header with them.
		pax.xattrs[i] = xattr{strings.Clone(x.name), strings.Clone(x.value)}
	}
	s.xattrs[id] = pax.xattrs
	return nil
}

// symlink makes n a symbolic link.
func (b *builder) symlink(n *node, target string) (err error) {
	switch {
	case target == "" || strings.IndexByte(target, 0) >= 0:
		return errSkip("it is a symbolic link without a proper target")
	case len(target) > pathMax:
		return errSkip("it is a symbolic link with a target of more than 4095 bytes")
	}
	n.mode, n.size, n.member = n.mode&^unix.S_IFMT|unix.S_IFLNK, int64(len(target)), memberText
	n.aux, err = b.addText(target)
	return err
}

// ownerID is a user or group number; nobody for one that Linux does not have.
func ownerID(n int64) uint32 {
	if n < 0 || n >= math.MaxUint32 {
		return 65534
	}
	return uint32(n)
}

// sparse reads the map of a sparse member, in whichever of GNU's four ways it is
// written, and returns the size with the holes. For other members it returns
// h.size and nil. A map in front of the data is taken off h.size.
func (s *tarScanner) sparse(start int64, h *tarHeader, pax *paxHeader, b *block) (int64, []extent, error) {
	p := &pax.sparse
	fail := func(err error) (int64, []extent, error) { return 0, nil, at(start, "sparse member", err) }
	switch {
	case h.typ == 'S':
		size, list, err := s.oldSparse(b)
		if err != nil {
			return fail(err)
		}
		return size, list, nil
	case h.typ != 0 && h.typ != '0' && h.typ != '7':
		return 0, nil, nil
	case p.major == "1" && p.minor == "0":
		if p.name != "" {
			h.name = p.name
		}
		if !p.hasSize {
			return fail(errSparse)
		}
		list, used, err := s.sparseInData(h.size)
		if err != nil {
			return fail(err)
		}
		s.pos += used
		h.size -= used
		return p.size, list, nil
	case p.hasMap && (p.major == "" || p.major == "0"):
		if p.name != "" {
			h.name = p.name
		}
		if !p.hasSize {
			return fail(errSparse)
		}
		if p.entries == nil {
			p.entries = []extent{}
		}
		return p.size, p.entries, nil
	}
	return h.size, nil, nil
}

var errSparse = fmt.Errorf("the map is malformed")

// oldSparse reads the map in the header block of an 'S' member and in the blocks
// that follow it: entries of two 12-byte numbers (GNU tar, "Old GNU Format").
func (s *tarScanner) oldSparse(b *block) (int64, []extent, error) {
	size, err := parseNumber(b[483:495])
	if err != nil || size < 0 {
		return 0, nil, errSparse
	}
	list := []extent{}
	entries, extended := b[386:386+4*24], b[482] != 0
	for {
		for ; len(entries) >= 24; entries = entries[24:] {
			if entries[0] == 0 {
				break
			}
			off, err1 := parseNumber(entries[:12])
			n, err2 := parseNumber(entries[12:24])
			if err1 != nil || err2 != nil {
				return 0, nil, errSparse
			}
			list = append(list, extent{logical: off, length: n})
		}
		if !extended {
			return size, list, nil
		}
		if len(list) > maxExtents {
			return 0, nil, errExtents
		}
		var more block
		if s.size-s.pos < blockSize {
			return 0, nil, io.ErrUnexpectedEOF
		}
		if err := s.src.read(more[:], s.pos); err != nil {
			return 0, nil, err
		}
		s.pos += blockSize
		entries, extended = more[:21*24], more[504] != 0
	}
}

var errExtents = fmt.Errorf("sparse files have more than %d parts", maxExtents)

// sparseInData reads a map of format 1.0 from the first blocks of the data:
// decimal numbers, each with a newline, the first one the number of pairs.
func (s *tarScanner) sparseInData(size int64) (list []extent, used int64, err error) {
	limit := min(size, s.size-s.pos)
	var b block
	var line []byte
	next := func() (int64, error) {
		for {
			if used%blockSize == 0 { // a block starts
				if limit-used < blockSize {
					return 0, errSparse
				}
				if err := s.src.read(b[:], s.pos+used); err != nil {
					return 0, err
				}
			}
			c := b[used%blockSize]
			used++
			if c == '\n' {
				break
			}
			if c < '0' || c > '9' || len(line) > 20 {
				return 0, errSparse
			}
			line = append(line, c)
		}
		n, err := strconv.ParseInt(string(line), 10, 64)
		line = line[:0]
		if err != nil {
			return 0, errSparse
		}
		return n, nil
	}
	count, err := next()
	if err != nil {
		return nil, 0, err
	}
	if count > maxExtents {
		return nil, 0, errExtents
	}
	list = []extent{}
	for range count {
		off, err := next()
		if err != nil {
			return nil, 0, err
		}
		n, err := next()
		if err != nil {
			return nil, 0, err
		}
		list = append(list, extent{logical: off, length: n})
	}
	used += -used & (blockSize - 1)
	return list, used, nil
}

// place checks a sparse map and fills in where the parts are: one behind the
// other, from n.off on, stored bytes in all. It returns the parts that are not
// empty, neighbours joined; n.off becomes the number of stored bytes.
func (s *tarScanner) place(n *node, list []extent, stored int64) ([]extent, error) {
	var end, used int64
	kept := list[:0]
	for _, e := range list {
		if e.length < 0 || e.logical < end || e.length > n.size-e.logical || e.length > stored-used {
			return nil, errSparse
		}
		e.physical = n.off + used
		used += e.length
		switch last := len(kept) - 1; {
		case e.length == 0:
		case last >= 0 && kept[last].logical+kept[last].length == e.logical:
			kept[last].length += e.length
		default:
			kept = append(kept, e)
		}
		end = e.logical + e.length
	}
	if used != stored {
		return nil, errSparse
	}
	if s.extents += len(kept); s.extents > maxExtents {
		return nil, errExtents
	}
	n.member, n.off = memberSparse, stored
	return slices.Clip(kept), nil
}
