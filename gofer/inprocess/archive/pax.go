// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package archive

import (
	"errors"
	"math"
	"strconv"
	"strings"
)

// paxHeader is what extended headers say about the next member.
type paxHeader struct {
	path, link   string
	size         int64
	uid, gid     int64
	mtime        int64
	mtimeNs      uint32
	has          paxField
	xattrs       []xattr
	sparse       paxSparse
	ignoredAttrs int // extended attributes that no Linux file could have
}

// paxField says which members of paxHeader are set.
type paxField uint8

const (
	paxSize paxField = 1 << iota
	paxUID
	paxGID
	paxMtime
)

// paxSparse is GNU's description of a sparse file, formats 0.0, 0.1 and 1.0.
type paxSparse struct {
	major, minor string
	name         string
	size         int64 // of the file with its holes
	hasSize      bool
	entries      []extent // of 0.0 and 0.1: without physical offsets
	hasMap       bool
}

var errPax = errors.New("extended header is malformed")

// keyXattr precedes the name of an extended attribute (star(1), GNU tar).
const keyXattr = "SCHILY.xattr."

// parsePax adds the records in data to h. Later records win; an empty value takes
// an earlier record back, in which case the plain header counts again.
func parsePax(data string, h *paxHeader) error {
	for len(data) > 0 {
		// POSIX: "%d %s=%s\n", <length>, <keyword>, <value>; the length is that of
		// the whole record. Padding at the end is tolerated.
		if data[0] == 0 {
			return nil
		}
		digits, _, ok := strings.Cut(data, " ")
		if !ok || len(digits) > 10 {
			return errPax
		}
		n, err := strconv.ParseUint(digits, 10, 32)
		if err != nil || n > uint64(len(data)) || n < uint64(len(digits))+2 {
			return errPax
		}
		record := data[len(digits)+1 : n]
		data = data[n:]
		if record[len(record)-1] != '\n' {
			return errPax
		}
		key, value, ok := strings.Cut(record[:len(record)-1], "=")
		if !ok || key == "" {
			return errPax
		}
		if err := h.set(key, value); err != nil {
			return err
		}
	}
	return nil
}

// set takes one record.
func (h *paxHeader) set(key, value string) error {
	switch key {
	case "path":
		h.path = value
	case "linkpath":
		h.link = value
	case "size":
		return h.number(paxSize, &h.size, value, false)
	case "uid":
		return h.number(paxUID, &h.uid, value, true)
	case "gid":
		return h.number(paxGID, &h.gid, value, true)
	case "mtime":
		if value == "" {
			h.has &^= paxMtime
			return nil
		}
		var ok bool
		if h.mtime, h.mtimeNs, ok = parseTime(value); !ok {
			return errPax
		}
		h.has |= paxMtime
	default:
		if name, ok := strings.CutPrefix(key, keyXattr); ok {
			h.setXattr(name, value)
		} else if name, ok := strings.CutPrefix(key, "GNU.sparse."); ok {
			return h.sparse.set(name, value)
		}
	}
	return nil
}

func (h *paxHeader) number(field paxField, to *int64, value string, signed bool) error {
	if value == "" {
		h.has &^= field
		return nil
	}
	n, err := strconv.ParseInt(value, 10, 64)
	if err != nil || (n < 0 && !signed) {
		return errPax
	}
	*to = n
	h.has |= field
	return nil
}

// setXattr keeps an attribute unless Linux could not have it: it would be lost
// when extracting, too.
func (h *paxHeader) setXattr(name, value string) {
	if name == "" || len(name) > nameMax || len(value) > xattrListMax || strings.IndexByte(name, 0) >= 0 {
		h.ignoredAttrs++
		return
	}
	list := 0
	for i := range h.xattrs {
		if h.xattrs[i].name == name {
			h.xattrs[i].value = value
			return
		}
		list += len(h.xattrs[i].name) + 1
	}
	if list+len(name)+1 > xattrListMax {
		h.ignoredAttrs++
		return
	}
	h.xattrs = append(h.xattrs, xattr{name, value})
}

// set takes one GNU.sparse record.
func (s *paxSparse) set(key, value string) error {
	number := func() (int64, error) {
		n, err := strconv.ParseInt(value, 10, 64)
		if err != nil || n < 0 {
			return 0, errPax
		}
		return n, nil
	}
	switch key {
	case "major":
		s.major = value
	case "minor":
		s.minor = value
	case "name":
		s.name = value
	case "size", "realsize":
		n, err := number()
		if err != nil {
			return err
		}
		s.size, s.hasSize = n, true
	case "offset": // 0.0: pairs of records
		n, err := number()
		if err != nil {
			return err
		}
		s.entries = append(s.entries, extent{logical: n, length: -1})
		s.hasMap = true
	case "numbytes":
		n, err := number()
		if err != nil {
			return err
		}
		last := len(s.entries) - 1
		if last < 0 || s.entries[last].length >= 0 {
			return errPax
		}
		s.entries[last].length = n
	case "map": // 0.1: all in one
		s.entries, s.hasMap = nil, true
		if value == "" {
			return nil
		}
		parts := strings.Split(value, ",")
		if len(parts)%2 != 0 {
			return errPax
		}
		for i := 0; i < len(parts); i += 2 {
			off, err1 := strconv.ParseInt(parts[i], 10, 64)
			n, err2 := strconv.ParseInt(parts[i+1], 10, 64)
			if err1 != nil || err2 != nil || off < 0 || n < 0 {
				return errPax
			}
			s.entries = append(s.entries, extent{logical: off, length: n})
		}
	}
	return nil
}

// parseTime decodes seconds since the epoch, with a fraction, possibly negative.
// Digits beyond nanoseconds are dropped, towards the past.
func parseTime(s string) (sec int64, nsec uint32, ok bool) {
	whole, frac, _ := strings.Cut(s, ".")
	sec, err := strconv.ParseInt(whole, 10, 64)
	negative := strings.HasPrefix(whole, "-")
	if err != nil {
		return 0, 0, false
	}
	more := false
	for i := 0; i < len(frac); i++ {
		c := frac[i]
		if c < '0' || c > '9' {
			return 0, 0, false
		}
		if i < 9 {
			nsec = nsec*10 + uint32(c-'0')
		} else if c != '0' {
			more = true
		}
	}
	for i := len(frac); i < 9; i++ {
		nsec *= 10
	}
	if !negative {
		return sec, nsec, true
	}
	if more {
		nsec++ // may become a whole second
	}
	if nsec == 0 {
		return sec, 0, true
	}
	if sec == math.MinInt64 {
		return 0, 0, false
	}
	sec, nsec = sec-1, 1_000_000_000-nsec
	return sec, nsec, true
}
