// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package listen

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"fsva/gofer/fusestream"
	"fsva/gofer/vsock"
)

func TestParse(t *testing.T) {
	wd, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	secret := secretFile(t, "open sesame\n", 0o640)
	for text, want := range map[string]Spec{
		"unix:/a,secret-file=" + secret:     {Kind: vsock.Unix, Path: "/a", Secret: []byte("open sesame")},
		"vsock:1024,cid=3,cid=70":           {Kind: vsock.Kernel, Port: 1024, CIDs: []uint32{3, 70}},
		"vsock:1024,ro,cid=any":             {Kind: vsock.Kernel, Port: 1024, CIDs: []uint32{AnyCID}, ReadOnly: true},
		"unix:/a/b":                         {Kind: vsock.Unix, Path: "/a/b"},
		"unix:c:d,ro":                       {Kind: vsock.Unix, Path: wd + "/c:d", ReadOnly: true},
		"virtiofs:/v/../w":                  {Kind: Virtiofs, Path: "/w"},
		"vhost-user-vsock:/v":               {Kind: vsock.VhostUser, Path: "/v", Port: vsock.DefaultPort, CIDs: []uint32{3}},
		"vhost-user-vsock:/v,cid=9,port=22": {Kind: vsock.VhostUser, Path: "/v", Port: 22, CIDs: []uint32{9}},
		"hybrid-vsock:/v,port=7":            {Kind: vsock.Hybrid, Path: "/v", Port: 7},
	} {
		got, err := Parse(text)
		if d := cmp.Diff(want, got); d != "" || err != nil {
			t.Errorf("%s: %v (-want +got)\n%s", text, err, d)
		}
	}
	for text, want := range map[string]string{
		"":                                  "want vsock:PORT",
		"/some/path":                        "want vsock:PORT",
		"tcp:1":                             `"tcp" is none of`,
		"vsock:1024":                        "which guests may connect",
		"vsock:0,cid=3":                     "port",
		"vsock:4294967295,cid=3":            "port",
		"vsock:2:1024,cid=3":                "port",
		"vsock:1,cid=any,cid=3":             "do not go together",
		"vsock:1,cid=3,port=2":              `option "port=2"`,
		"unix:":                             "missing",
		"unix:/a,cid=3":                     `option "cid=3"`,
		"unix:/a,rw":                        `option "rw"`,
		"unix:/a,secret-file=/nonexistent":  "secret-file: open /nonexistent",
		"virtiofs:/a,secret-file=" + secret: `option "secret-file=`,
		"virtiofs:/a,":                      `option ""`,
		"vhost-user-vsock:/a,cid=2":         "is not a guest's",
		"vhost-user-vsock:/a,cid=any":       "cid",
		"hybrid-vsock:/a,cid=3,cid=4":       "one guest",
		"hybrid-vsock:/a,port=123456789012": "port",
	} {
		if s, err := Parse(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %+v, %v, want an error with %q", text, s, err, want)
		}
	}
}

// secretFile makes a file.
func secretFile(t *testing.T, content string, mode os.FileMode) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, mode); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestReadSecret(t *testing.T) {
	long := strings.Repeat("s", fusestream.MaxSecret)
	for content, want := range map[string]string{"a b\r\n": "a b", "a\nb\n\n": "a\nb", long + "\r\n": long} {
		if got, err := ReadSecret(secretFile(t, content, 0o600)); err != nil || string(got) != want {
			t.Errorf("%q: %q, %v", content, got, err)
		}
	}
	for _, c := range []struct {
		content string
		mode    os.FileMode
		want    string
	}{
		{"hidden", 0o644, "everybody may use it (mode 0644): chmod o= "},
		{"\n", 0o600, "is empty"},
		{long + "s", 0o600, "more than 256 bytes"},
	} {
		got, err := ReadSecret(secretFile(t, c.content, c.mode))
		if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "hidden") {
			t.Errorf("%q: %q, %v, want an error with %q", c.content, got, err, c.want)
		}
	}
}

// What is logged and shown of a listener does not have its secret.
func TestSecretNotShown(t *testing.T) {
	s, err := Parse("unix:/a,secret-file=" + secretFile(t, "hidden", 0o600))
	if err != nil {
		t.Fatal(err)
	}
	if text := s.String() + s.Addr().String() + fmt.Sprintf("%+v", s.Options()); strings.Contains(text, "hidden") {
		t.Error(text)
	}
	if _, err := ParseSource("unix:/a,secret-file=" + secretFile(t, "hidden", 0o600)); err == nil || strings.Contains(err.Error(), "hidden") {
		t.Errorf("as a source: %v", err)
	}
}

func TestOptions(t *testing.T) {
	for text, want := range map[string]vsock.Options{
		"vsock:1,cid=any":           {Port: 1},
		"vsock:1,cid=3,cid=4":       {Port: 1, Allow: []uint32{3, 4}},
		"hybrid-vsock:/a":           {Port: vsock.DefaultPort},
		"hybrid-vsock:/a,cid=8":     {Port: vsock.DefaultPort, CID: 8},
		"vhost-user-vsock:/a,cid=8": {Port: vsock.DefaultPort, CID: 8},
		"unix:/a":                   {},
	} {
		s, err := Parse(text)
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(want, s.Options()); d != "" {
			t.Errorf("%s (-want +got)\n%s", text, d)
		}
	}
}

func TestBind(t *testing.T) {
	for _, kind := range []string{"unix:", "virtiofs:", "vhost-user-vsock:", "hybrid-vsock:"} {
		s, err := Parse(kind + filepath.Join(t.TempDir(), "sock"))
		if err != nil {
			t.Fatal(err)
		}
		f, err := s.Bind()
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if info, err := os.Stat(s.SocketPath()); err != nil || info.Mode() != os.ModeSocket|0o600 {
			t.Errorf("%s: %v, %v", s, info, err)
		}
		c, err := net.Dial("unix", s.SocketPath())
		if err != nil {
			t.Fatalf("%s: %v", s, err)
		}
		c.Close()
	}
}

func TestParseSource(t *testing.T) {
	for text, want := range map[string]string{ // with its socket in /source
		"vsock:3:1024":                       "vsock:3:1024",
		"unix:/run/a/export.sock":            "unix:/source/export.sock",
		"hybrid-vsock:/run/vm,port=7":        "hybrid-vsock:/source/vm,port=7",
		"vhost-user-vsock:/run/a/vm.s,cid=9": "vhost-user-vsock:/source/vm.s,cid=9",
	} {
		s, err := ParseSource(text)
		if err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		if got := s.In("/source"); got != want {
			t.Errorf("%s is %s in /source, want %s", text, got, want)
		}
		if again, err := ParseSource(s.In("/source")); err != nil || again.In("/source") != want {
			t.Errorf("%s, %v", again.In("/source"), err)
		}
		if s.Listens() != strings.HasPrefix(text, "vhost") {
			t.Errorf("%s listens: %v", text, s.Listens())
		}
	}
	for text, want := range map[string]string{
		"":            "want vsock:CID:PORT",
		"vsock:1024":  "CID is missing",
		"virtiofs:/a": "want vsock:CID:PORT",
		"unix:/a,ro":  "--readonly",
		"unix:":       "missing",
	} {
		if s, err := ParseSource(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %+v, %v, want an error with %q", text, s, err, want)
		}
	}
}
