// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

// Package bytesize reads and writes numbers of bytes as people do: 512M, 2GiB.
package bytesize

import (
	"fmt"
	"strconv"
	"strings"
)

// units are the powers of 1024 from 1 on.
const units = "KMGT"

// Parse reads a positive number of bytes with an optional unit: K, M, G or T, or
// KiB and so on, each a power of 1024. What is meant by 1GB is anybody's guess,
// so it is refused. The error is one line.
func Parse(text string) (int64, error) {
	digits, unit := text, int64(1)
	// One of K and KiB, in either case, leaves the number.
	if n := len(text); n > 0 {
		letter := n - 1
		if n > 2 && strings.EqualFold(text[n-2:], "ib") {
			letter = n - 3
		}
		if i := strings.IndexByte(units, text[letter]&^0x20); i >= 0 {
			digits, unit = text[:letter], 1<<(10*(i+1))
		}
	}
	n, err := strconv.ParseUint(digits, 10, 63) // no sign
	if err != nil || n == 0 || n > 1<<62/uint64(unit) {
		return 0, fmt.Errorf("%.40q is not a number of bytes such as 512M", text)
	}
	return int64(n) * unit, nil
}

// Format writes n for people: three significant digits, unless a whole number of
// units is shorter.
func Format(n int64) string {
	if n < 1<<10 {
		return strconv.FormatInt(n, 10) + " B"
	}
	v, unit := float64(n)/(1<<10), 0
	for ; v >= 1023.5 && unit < len(units)-1; unit++ {
		v /= 1 << 10
	}
	decimals := 2
	for limit := 9.995; decimals > 0 && v >= limit; limit *= 10 {
		decimals--
	}
	text := strconv.FormatFloat(v, 'f', decimals, 64)
	if decimals > 0 {
		text = strings.TrimRight(strings.TrimRight(text, "0"), ".")
	}
	return text + " " + units[unit:unit+1] + "iB"
}
