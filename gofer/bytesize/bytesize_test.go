// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package bytesize

import "testing"

func TestParse(t *testing.T) {
	for text, want := range map[string]int64{
		"1":                   1,
		"4096":                4096,
		"1K":                  1 << 10,
		"512M":                512 << 20,
		"512m":                512 << 20,
		"2GiB":                2 << 30,
		"2gib":                2 << 30,
		"3T":                  3 << 40,
		"3TiB":                3 << 40,
		"4611686018427387904": 1 << 62,
		"4194304T":            1 << 62,
	} {
		if got, err := Parse(text); err != nil || got != want {
			t.Errorf("%q: got %d, %v, want %d", text, got, err, want)
		}
	}
	for _, text := range []string{
		"", "0", "0M", "-1", "+1", "1.5G", "1 G", " 1G", "G", "iB", "GiB", "1GB", "1B", "1iB", "1E", "1KK", "0x10", "1_000",
		"lots", "4611686018427387905", "4194305T", "99999999999999999999", "99999999999999999999G",
	} {
		if got, err := Parse(text); err == nil {
			t.Errorf("%q: got %d", text, got)
		}
	}
}

func TestFormat(t *testing.T) {
	for n, want := range map[int64]string{
		-1:                   "-1 B",
		0:                    "0 B",
		1023:                 "1023 B",
		1024:                 "1 KiB",
		1536:                 "1.5 KiB",
		10 << 10:             "10 KiB",
		12345:                "12.1 KiB",
		1<<20 - 1:            "1 MiB",
		512 << 20:            "512 MiB",
		1000 << 20:           "1000 MiB",
		6318350336:           "5.88 GiB",
		5 << 40:              "5 TiB",
		9007199254740 * 1024: "8389 TiB",
	} {
		if got := Format(n); got != want {
			t.Errorf("%d: got %q, want %q", n, got, want)
		}
	}
}

// FuzzParse checks that what is accepted is a size, and means what Format says.
func FuzzParse(f *testing.F) {
	f.Add("512M")
	f.Add("2GiB")
	f.Fuzz(func(t *testing.T, text string) {
		if n, err := Parse(text); err == nil && (n <= 0 || n > 1<<62 || Format(n) == "") {
			t.Errorf("%q is %d", text, n)
		}
	})
}
