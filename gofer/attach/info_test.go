// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package attach

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

func goodInfo() Info {
	return Info{Version: 1, Name: "photos", Appliance: "squashfs", Coherence: Exclusive, ReadOnly: true, StrictFsync: true, DentryCache: 20000}
}

func TestInfoRoundTrip(t *testing.T) {
	dir := t.TempDir()
	want := goodInfo()
	for range 2 { // the second replaces the first
		if err := WriteInfo(dir, want); err != nil {
			t.Fatal(err)
		}
	}
	got, err := ReadInfo(dir)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(got, want); diff != "" {
		t.Errorf("ReadInfo (-got +want):\n%s", diff)
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 1 {
		t.Errorf("directory has %v (%v), want only %s", entries, err, InfoName)
	}
}

func TestReadInfoNotVolume(t *testing.T) {
	write := func(data string) func(*testing.T, string) {
		return func(t *testing.T, path string) {
			if err := os.WriteFile(path, []byte(data), 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, tc := range []struct {
		name string
		make func(*testing.T, string)
	}{
		{"absent", func(*testing.T, string) {}},
		{"empty", write("")},
		{"garbage", write("\x00\xff{")},
		{"somebody else's", write(`{"volume": "C:", "version": 1}`)},
		{"too big", write(strings.Repeat(" ", maxLine+1))},
		{"directory", func(t *testing.T, p string) {
			if err := os.Mkdir(p, 0o755); err != nil {
				t.Fatal(err)
			}
		}},
		{"fifo", func(t *testing.T, p string) {
			if err := unix.Mkfifo(p, 0o644); err != nil {
				t.Fatal(err)
			}
		}},
		{"symlink", func(t *testing.T, p string) {
			other := t.TempDir()
			if err := WriteInfo(other, goodInfo()); err != nil {
				t.Fatal(err)
			}
			if err := os.Symlink(filepath.Join(other, InfoName), p); err != nil {
				t.Fatal(err)
			}
		}},
		{"writable by others", func(t *testing.T, p string) {
			if err := WriteInfo(filepath.Dir(p), goodInfo()); err != nil {
				t.Fatal(err)
			}
			if err := os.Chmod(p, 0o666); err != nil {
				t.Fatal(err)
			}
		}},
		{"another user's", func(t *testing.T, p string) {
			if err := WriteInfo(filepath.Dir(p), goodInfo()); err != nil {
				t.Fatal(err)
			}
			if err := os.Chown(p, 12345, 12345); err != nil {
				t.Skipf("needs root: %v", err)
			}
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			dir := t.TempDir()
			tc.make(t, filepath.Join(dir, InfoName))
			if _, err := ReadInfo(dir); err != ErrNotVolume {
				t.Errorf("got %v, want ErrNotVolume", err)
			}
		})
	}
	t.Run("source is a file", func(t *testing.T) {
		file := filepath.Join(t.TempDir(), "f")
		write("x")(t, file)
		if _, err := ReadInfo(file); err != ErrNotVolume {
			t.Errorf("got %v, want ErrNotVolume", err)
		}
	})
}

func TestInfoStrict(t *testing.T) {
	change := func(key string, value any) []byte {
		data, err := json.Marshal(infoFile{Type: infoType, Info: goodInfo()})
		if err != nil {
			t.Fatal(err)
		}
		m := map[string]any{}
		if err := json.Unmarshal(data, &m); err != nil {
			t.Fatal(err)
		}
		m[key] = value
		data, err = json.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	for _, tc := range []struct {
		name string
		data []byte
		want string // part of the error; empty: accepted
	}{
		{"good", change("name", "other"), ""},
		{"newer version", change("version", 2), "version 2, this program knows version 1"},
		{"unknown field", change("colour", "red"), "unknown field"},
		{"path as name", change("name", "../x"), "bad volume name"},
		{"empty name", change("name", ""), "bad volume name"},
		{"control in name", change("name", "a\nb"), "bad volume name"},
		{"long name", change("name", strings.Repeat("a", 129)), "bad volume name"},
		{"empty appliance", change("appliance", ""), "bad appliance name"},
		{"coherence", change("coherence", "sometimes"), "neither"},
		{"negative cache", change("dentryCache", -1), "dentryCache"},
		{"huge cache", change("dentryCache", 1<<30), "dentryCache"},
		{"wrong type", change("readOnly", "yes"), "cannot unmarshal"},
		{"two values", append(change("name", "a"), "{}"...), "volume"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, err := decodeInfo(tc.data)
			if tc.want == "" {
				if err != nil {
					t.Errorf("got %v, want none", err)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v, want %q", err, tc.want)
			}
		})
	}
}

func TestWriteInfoRefusesBad(t *testing.T) {
	dir := t.TempDir()
	bad := goodInfo()
	bad.Coherence = ""
	if err := WriteInfo(dir, bad); err == nil {
		t.Error("got nil, want an error")
	}
	if _, err := ReadInfo(dir); !errors.Is(err, ErrNotVolume) {
		t.Errorf("got %v, want ErrNotVolume", err)
	}
}

func FuzzDecodeInfo(f *testing.F) {
	data, err := json.Marshal(infoFile{Type: infoType, Info: goodInfo()})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	f.Add([]byte(`{"type":"fsva-volume","version":1}`))
	f.Add([]byte(`[]`))
	f.Fuzz(func(t *testing.T, data []byte) {
		i, err := decodeInfo(data)
		if err != nil {
			return
		}
		if err := i.Check(); err != nil {
			t.Fatalf("accepted %+v: %v", i, err)
		}
		again, err := json.Marshal(infoFile{Type: infoType, Info: i})
		if err != nil {
			t.Fatal(err)
		}
		if j, err := decodeInfo(again); err != nil || j != i {
			t.Fatalf("round trip of %+v gave %+v, %v", i, j, err)
		}
	})
}
