// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package appliance

import "testing"

func TestParseCacheLimit(t *testing.T) {
	for text, want := range map[string]int64{"default": 0, "1M": 1 << 20, "1048576": 1 << 20, "2GiB": 2 << 30} {
		if got, err := ParseCacheLimit(text); err != nil || got != want {
			t.Errorf("%q: got %d, %v, want %d", text, got, err, want)
		}
	}
	for _, text := range []string{"", "0", "-1", "1048575", "1023K", "Default", "1MB", "all"} {
		if got, err := ParseCacheLimit(text); err == nil {
			t.Errorf("%q: got %d", text, got)
		}
	}
}

func TestCacheLimitOfManifest(t *testing.T) {
	const manifest = "name = \"m\"\ndescription = \"memory\"\nin-process = \"mem\"\nisolation = \"none\"\ncoherence = \"exclusive\"\nsource = \"none\"\n"
	for line, want := range map[string]int64{"": 0, `cache-limit = "default"`: 0, `cache-limit = "64M"`: 64 << 20} {
		m, err := Parse("m.toml", []byte(manifest+line))
		if err != nil {
			t.Fatal(err)
		}
		p, err := m.Resolve(VolumeSpec{Name: "v"})
		if err != nil || p.CacheLimit != want {
			t.Errorf("%q: got %d, %v, want %d", line, p.CacheLimit, err, want)
		}
	}
}
