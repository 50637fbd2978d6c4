// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package vsock

import (
	"strings"
	"testing"
)

func TestParseAddr(t *testing.T) {
	long := "/" + strings.Repeat("x", maxPath-1)
	for _, tc := range []struct {
		in   string
		want Addr
	}{
		{"vsock:3782", Addr{Kind: Kernel, CID: CIDNone, Port: 3782}},
		{"vsock:2:1", Addr{Kind: Kernel, CID: 2, Port: 1}},
		{"vsock:4294967294:4294967294", Addr{Kind: Kernel, CID: 4294967294, Port: 4294967294}},
		{"unix:/run/a.sock", Addr{Kind: Unix, CID: CIDNone, Path: "/run/a.sock"}},
		{"unix:a:b", Addr{Kind: Unix, CID: CIDNone, Path: "a:b"}},
		{"unix:" + long, Addr{Kind: Unix, CID: CIDNone, Path: long}},
		{"hybrid-vsock:/run/v.sock", Addr{Kind: Hybrid, CID: CIDNone, Path: "/run/v.sock"}},
		{"vhost-user-vsock:/run/v.sock", Addr{Kind: VhostUser, CID: CIDNone, Path: "/run/v.sock"}},
	} {
		got, err := ParseAddr(tc.in)
		if err != nil || got != tc.want {
			t.Errorf("ParseAddr(%q) = %+v, %v, want %+v", tc.in, got, err, tc.want)
		}
		if got.String() != tc.in {
			t.Errorf("%+v is written %q, want %q", got, got.String(), tc.in)
		}
	}
}

func TestParseAddrErrors(t *testing.T) {
	for _, in := range []string{
		"", "/run/a.sock", "vsock", "vsock:", "vsock::", "vsock:0", "vsock:01", "vsock:+1", "vsock:-1", "vsock: 1", "vsock:1 ",
		"vsock:0x10", "vsock:4294967295", "vsock:4294967296", "vsock:99999999999999999999", "vsock:0:1", "vsock:2:", "vsock::1",
		"vsock:2:3:4", "vsock:4294967295:1", "VSOCK:2:1", "unix:", "unix:@abstract", "unix:a\x00b", "hybrid-vsock:",
		"vhost-user-vsock:", "tcp:1", "unix:/" + strings.Repeat("x", maxPath),
	} {
		a, err := ParseAddr(in)
		if err == nil {
			t.Errorf("ParseAddr(%q) = %+v, want an error", in, a)
		} else if strings.Contains(err.Error(), "\n") {
			t.Errorf("ParseAddr(%q): an error of more than a line: %v", in, err)
		}
	}
}

func FuzzParseAddr(f *testing.F) {
	for _, s := range []string{"vsock:1", "vsock:2:3", "unix:/a", "hybrid-vsock:a", "vhost-user-vsock:/x", "vsock:2:03"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if a, err := ParseAddr(s); err == nil && a.String() != s {
			t.Errorf("ParseAddr(%q) = %+v, which is written %q", s, a, a.String())
		}
	})
}
