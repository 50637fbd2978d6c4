// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package attach

import (
	"errors"
	"strings"
	"testing"
	"unicode/utf8"
)

func TestDecodeRequest(t *testing.T) {
	for _, tc := range []struct{ name, line, want string }{
		{"check", `{"version":1,"op":"check","container":"c","destination":"/d","readOnly":true}` + "\n", ""},
		{"attach", `{"version":1,"op":"attach"}` + "\n", ""},
		{"no newline", `{"version":1,"op":"check"}`, "not one line"},
		{"bytes after the line", `{"version":1,"op":"check"}` + "\nx", "not one line"},
		{"two lines", "{}\n{}\n", "not one line"},
		{"other version", `{"version":2,"op":"check"}` + "\n", "version 2"},
		{"unknown op", `{"version":1,"op":"detach"}` + "\n", "unknown request"},
		{"unknown field", `{"version":1,"op":"check","uid":0}` + "\n", "unknown field"},
		{"two values", `{"version":1,"op":"check"} {}` + "\n", "more than one"},
		{"long id", `{"version":1,"op":"check","container":"` + strings.Repeat("c", 1025) + `"}` + "\n", "container id"},
		{"long destination", `{"version":1,"op":"check","destination":"` + strings.Repeat("d", 4097) + `"}` + "\n", "destination"},
		{"empty", "\n", "bad message"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, err := decodeRequest([]byte(tc.line))
			if (err == nil) != (tc.want == "") || err != nil && !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v, want %q", err, tc.want)
			}
		})
	}
}

func TestDecodeReply(t *testing.T) {
	if err := decodeReply([]byte("{}\n")); err != nil {
		t.Errorf("empty reply: got %v, want none", err)
	}
	for _, tc := range []struct{ name, line, want string }{
		{"plain", `{"error":"volume \"v\" is exclusive"}`, `volume "v" is exclusive`},
		{"escapes and lines", `{"error":"a\u001b[31mb\nc\u0000"}`, "a [31mb c"},
		{"only blanks", `{"error":" \n"}`, "refused without a reason"},
		{"long", `{"error":"` + strings.Repeat("ä", 600) + `"}`, strings.Repeat("ä", 512)},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var refused *RefusedError
			if err := decodeReply([]byte(tc.line + "\n")); !errors.As(err, &refused) || refused.Text != tc.want {
				t.Errorf("got %v, want %q", err, tc.want)
			}
		})
	}
}

func FuzzDecodeRequest(f *testing.F) {
	f.Add([]byte(`{"version":1,"op":"check","container":"c","destination":"/d","readOnly":true}` + "\n"))
	f.Add([]byte(`{"version":1,"op":"attach"}` + "\n"))
	f.Fuzz(func(t *testing.T, line []byte) {
		r, err := decodeRequest(line)
		if err != nil {
			return
		}
		again, err := encodeLine(r)
		if err != nil {
			t.Fatal(err)
		}
		if s, err := decodeRequest(again); err != nil || s != r {
			t.Fatalf("round trip of %+v gave %+v, %v", r, s, err)
		}
	})
}

func FuzzDecodeReply(f *testing.F) {
	f.Add([]byte(`{"error":"no"}` + "\n"))
	f.Fuzz(func(t *testing.T, line []byte) {
		var refused *RefusedError
		if err := decodeReply(line); errors.As(err, &refused) {
			if len(refused.Text) > maxRefusal || strings.ContainsAny(refused.Text, "\n\x1b\x00") || !utf8.ValidString(refused.Text) {
				t.Fatalf("unclean text %q", refused.Text)
			}
		}
	})
}
