// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package supervisor

import "testing"

func TestHostPaths(t *testing.T) {
	hosts := map[string]string{"/source": "/srv/my dir", "/source/a.img": "/srv/a.img", "/fsva/files/passfile": "/etc/pw"}
	for text, want := range map[string]string{
		"":                                    "",
		"no path here: 1/2 and/or":            "no path here: 1/2 and/or",
		"/source":                             "/srv/my dir",
		"open /source/x/y: no such file":      "open /srv/my dir/x/y: no such file",
		"e2fsck -fy /source/a.img.":           "e2fsck -fy /srv/a.img.",
		"'/source/a.img' and \"/source/b\"":   "'/srv/a.img' and \"/srv/my dir/b\"",
		"--config=/source/.c (/source/.c)":    "--config=/srv/my dir/.c (/srv/my dir/.c)",
		"cat /fsva/files/passfile /source/q;": "cat /etc/pw /srv/my dir/q;",
		"/sources /source-2 /x/source ./source a/source /": "/sources /source-2 /x/source ./source a/source /",
		"/source/tree/source/a.img":                        "/srv/my dir/tree/source/a.img",
		"///source //":                                     "///source //",
	} {
		if got := hostPaths(text, hosts); got != want {
			t.Errorf("%q: got %q, want %q", text, got, want)
		}
	}
}

func TestNotReady(t *testing.T) {
	v := &volume{}
	if got := v.notReady("text").Error(); got != "text" {
		t.Errorf("without a source: %q", got)
	}
	v.cfg.Source = "me@host:dir"
	if got := v.notReady("text").Error(); got != "source me@host:dir: text" {
		t.Errorf("with a source: %q", got)
	}
}
