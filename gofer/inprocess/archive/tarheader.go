// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package archive

import (
	"bytes"
	"errors"
	"math"
	"strings"
)

// blockSize is tar's unit: POSIX.1-2017, pax, "ustar Interchange Format".
const blockSize = 512

type block [blockSize]byte

var zeroBlock block

// tarHeader is one header block.
type tarHeader struct {
	name, link string
	typ        byte
	mode       int64
	uid, gid   int64
	mtime      int64
	size       int64
}

var (
	errChecksum = errors.New("checksum does not match")
	errNumber   = errors.New("number field is malformed")
)

// parseHeader decodes a header block in the V7, ustar, star or GNU form.
func parseHeader(b *block) (tarHeader, error) {
	sum, err := parseNumber(b[148:156])
	if err != nil {
		return tarHeader{}, errChecksum
	}
	if unsigned, signed := checksums(b); sum != unsigned && sum != signed {
		return tarHeader{}, errChecksum
	}
	h := tarHeader{name: cstring(b[0:100]), link: cstring(b[157:257]), typ: b[156]}
	for _, f := range []struct {
		to   *int64
		from []byte
	}{
		{&h.mode, b[100:108]}, {&h.uid, b[108:116]}, {&h.gid, b[116:124]}, {&h.size, b[124:136]}, {&h.mtime, b[136:148]},
	} {
		if *f.to, err = parseNumber(f.from); err != nil {
			return tarHeader{}, err
		}
	}
	if h.size < 0 {
		return tarHeader{}, errNumber
	}
	// The GNU form, magic "ustar  ", has other things where ustar's prefix is.
	if string(b[257:263]) == "ustar\x00" {
		prefix := b[345:500]
		if string(b[508:512]) == "tar\x00" {
			prefix = b[345:476] // star keeps times behind it
		}
		if p := cstring(prefix); p != "" {
			h.name = p + "/" + h.name
		}
	}
	return h, nil
}

// checksums returns the sum of the block's bytes, taken as unsigned and, as some
// old programs did, as signed numbers; the checksum field counts as spaces.
func checksums(b *block) (unsigned, signed int64) {
	for i, c := range b {
		if 148 <= i && i < 156 {
			c = ' '
		}
		unsigned += int64(c)
		signed += int64(int8(c))
	}
	return unsigned, signed
}

// cstring returns the bytes up to the first NUL.
func cstring(b []byte) string {
	if i := bytes.IndexByte(b, 0); i >= 0 {
		b = b[:i]
	}
	return string(b)
}

// parseNumber decodes a number field: octal digits, or with the first bit set a
// big-endian two's complement number.
func parseNumber(b []byte) (int64, error) {
	if len(b) > 0 && b[0]&0x80 != 0 {
		// Bit 6 is the sign.
		var n uint64
		negative := b[0]&0x40 != 0
		for i, c := range b {
			if i == 0 {
				c &= 0x7f
			}
			if negative {
				c = ^c
				if i == 0 {
					c &= 0x7f
				}
			}
			if n > math.MaxInt64>>8 {
				return 0, errNumber
			}
			n = n<<8 | uint64(c)
		}
		if negative {
			return ^int64(n), nil
		}
		return int64(n), nil
	}
	s := strings.Trim(string(b), " \x00")
	var n int64
	for i := 0; i < len(s); i++ {
		c := s[i]
		if c == 0 || c == ' ' {
			break // text behind the terminator
		}
		if c < '0' || c > '7' || n > math.MaxInt64>>3 {
			return 0, errNumber
		}
		n = n<<3 | int64(c-'0')
	}
	return n, nil
}
