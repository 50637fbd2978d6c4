// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package harness

import "testing"

func TestParseSmaps(t *testing.T) {
	const text = `00400000-00452000 r-xp 00000000 fd:00 173521 /bin/program with spaces
Size:                328 kB
KernelPageSize:        4 kB
Rss:                 100 kB
Pss:                  50 kB
Anonymous:             4 kB
VmFlags: rd ex mr mw me
7f0000000000-7f0000200000 r--s 00000000 00:01 77 /memfd:fsva-region (deleted)
Rss:                2048 kB
Pss:                 256 kB
Anonymous:             0 kB
7f0000200000-7f0000300000 rw-p 00000000 00:00 0
Rss:                1000 kB
Pss:                1000 kB
Anonymous:          1000 kB
`
	m, err := parseSmaps(text)
	want := Memory{RSS: 3148 << 10, PSS: 1306 << 10, Anonymous: 1004 << 10, RegionRSS: 2048 << 10, RegionPSS: 256 << 10}
	if err != nil || m != want {
		t.Errorf("got %+v, %v, want %+v", m, err, want)
	}
	if _, err := parseSmaps("Rss: many kB\n"); err == nil {
		t.Error("a number that is none is no error")
	}
}
