// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package atomicfile_test

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"fsva/gofer/atomicfile"
)

// check compares a file with what it should be, and its directory with the names that should be there.
func check(t *testing.T, path, data string, mode uint32, uid, gid int, names ...string) {
	t.Helper()
	got, err := os.ReadFile(path)
	if err != nil || string(got) != data {
		t.Errorf("content %q, %v, want %q", got, err, data)
	}
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		t.Fatal(err)
	}
	if st.Mode != unix.S_IFREG|mode || int(st.Uid) != uid || int(st.Gid) != gid {
		t.Errorf("mode %#o, owner %d:%d, want a file with %#o, %d:%d", st.Mode, st.Uid, st.Gid, mode, uid, gid)
	}
	only(t, filepath.Dir(path), names...)
}

func only(t *testing.T, dir string, names ...string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range entries {
		got = append(got, e.Name())
	}
	if fmt.Sprint(got) != fmt.Sprint(names) {
		t.Errorf("in the directory: %q, want %q", got, names)
	}
}

func TestWrite(t *testing.T) {
	me, mine := os.Getuid(), os.Getgid()
	path := filepath.Join(t.TempDir(), "f")
	old := unix.Umask(0o077) // which must not count
	defer unix.Umask(old)
	for _, tc := range []struct {
		data string
		o    atomicfile.Options
	}{
		{"new", atomicfile.Options{Mode: 0o644}},
		{"shorter than before", atomicfile.Options{Mode: 0o600, Durable: true}},
		{"", atomicfile.Options{Mode: 0o444}},
		{"the old one is read-only", atomicfile.Options{Mode: 0o4751, Owner: &atomicfile.Owner{UID: me, GID: mine}}},
	} {
		if err := atomicfile.Write(path, []byte(tc.data), tc.o); err != nil {
			t.Fatal(err)
		}
		check(t, path, tc.data, tc.o.Mode, me, mine, "f")
	}
	t.Chdir(filepath.Dir(path))
	if err := atomicfile.Write("f", []byte("here"), atomicfile.Options{Mode: 0o600, Durable: true}); err != nil {
		t.Fatal(err)
	}
	check(t, path, "here", 0o600, me, mine, "f")
}

// TestWriteOwner gives a file to somebody else, with a set-ID bit, which chown(2) would drop.
func TestWriteOwner(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("giving files away needs root")
	}
	path := filepath.Join(t.TempDir(), "f")
	if err := atomicfile.Write(path, []byte("x"), atomicfile.Options{Mode: 0o6755, Owner: &atomicfile.Owner{UID: 1234, GID: 5678}}); err != nil {
		t.Fatal(err)
	}
	check(t, path, "x", 0o6755, 1234, 5678, "f")
}

// TestWriteReplacesLinks writes to a name that is a link: the file behind it stays what it is.
func TestWriteReplacesLinks(t *testing.T) {
	dir := t.TempDir()
	target, path := filepath.Join(dir, "target"), filepath.Join(dir, "f")
	if err := errors.Join(os.WriteFile(target, []byte("target"), 0o600), os.Symlink("target", path)); err != nil {
		t.Fatal(err)
	}
	if err := atomicfile.Write(path, []byte("x"), atomicfile.Options{Mode: 0o600}); err != nil {
		t.Fatal(err)
	}
	check(t, path, "x", 0o600, os.Getuid(), os.Getgid(), "f", "target")
	check(t, target, "target", 0o600, os.Getuid(), os.Getgid(), "f", "target")
}

// TestReadersSeeOneOfBoth reads a file while it is replaced.
func TestReadersSeeOneOfBoth(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	texts := []string{strings.Repeat("a", 100_000), strings.Repeat("b", 200_000)}
	write := func(i int) {
		if err := atomicfile.Write(path, []byte(texts[i%2]), atomicfile.Options{Mode: 0o600}); err != nil {
			t.Error(err)
		}
	}
	write(0)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for i := range 200 {
			write(i)
		}
	}()
	for {
		select {
		case <-done:
			return
		default:
		}
		if got, err := os.ReadFile(path); err != nil || string(got) != texts[0] && string(got) != texts[1] {
			t.Errorf("%d bytes, %v", len(got), err)
			<-done
			return
		}
	}
}

func TestWriteErrors(t *testing.T) {
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "d", "full"), 0o755); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]error{
		filepath.Join(dir, "none", "f"): unix.ENOENT,
		filepath.Join(dir, "d"):         unix.EEXIST, // what rename(2) says of a directory that is not empty, or EISDIR
	} {
		err := atomicfile.Write(path, []byte("x"), atomicfile.Options{Mode: 0o600, Durable: true})
		var pe *fs.PathError
		if !errors.As(err, &pe) || pe.Path != path || !errors.Is(err, want) && !errors.Is(err, unix.EISDIR) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: got %v, want %v", path, err, want)
		}
	}
	only(t, dir, "d")
}

// TestWriteFullDisk keeps the old content when there is no room for the new one.
func TestWriteFullDisk(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("mounting a tmpfs needs root")
	}
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=64k"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
	path := filepath.Join(dir, "f")
	if err := atomicfile.Write(path, []byte("before"), atomicfile.Options{Mode: 0o640}); err != nil {
		t.Fatal(err)
	}
	err := atomicfile.Write(path, make([]byte, 1<<20), atomicfile.Options{Mode: 0o600})
	if !errors.Is(err, unix.ENOSPC) || err.Error() != "write "+path+": no space left on device" {
		t.Errorf("got %v, want ENOSPC", err)
	}
	check(t, path, "before", 0o640, os.Getuid(), os.Getgid(), "f")
}

// TestSweep removes what a killed process has left, and nothing else.
func TestSweep(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{".f.fsva-new-123", ".hidden", "f", "f.fsva-new-1"} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := atomicfile.Sweep(dir); err != nil {
		t.Error(err)
	}
	only(t, dir, ".hidden", "f", "f.fsva-new-1")
	if err := atomicfile.Sweep(filepath.Join(dir, "none")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no directory: got %v", err)
	}
}
