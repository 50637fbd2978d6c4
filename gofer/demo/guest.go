// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package demo

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// GuestCommand is the hidden command that runs inside the sandbox.
const GuestCommand = "demo-guest"

// Report is what the guest prints, as JSON.
type Report struct {
	Steps []Step `json:"steps"`
	Error string `json:"error,omitempty"`
}

// Step is one thing the guest did.
type Step struct {
	What   string        `json:"what"`
	Result string        `json:"result"`
	Took   time.Duration `json:"took"`
}

// Guest is the program in the sandbox. It uses the volumes mounted at library
// and scratch and writes a Report to out.
func Guest(library, scratch string, out io.Writer) error {
	var r Report
	for _, step := range []struct {
		what string
		do   func() (string, error)
	}{
		{"list the archive", func() (string, error) { return list(library) }},
		{"read every small file", func() (string, error) { return readAll(library) }},
		{"the same again", func() (string, error) { return readAll(library) }},
		{"read the large file", func() (string, error) { return readBlob(library) }},
		{"map it, touch every page", func() (string, error) { return mapBlob(library) }},
		{"try to write to the archive", func() (string, error) { return refuseWrite(library) }},
		{"write 500 files", func() (string, error) { return writeFiles(scratch) }},
		{"copy 32 MiB, fsync, compare", func() (string, error) { return copyBlob(library, scratch) }},
		{"change it through a mapping", func() (string, error) { return changeMapped(scratch) }},
		{"rename, link, unlink while open", func() (string, error) { return names(scratch) }},
	} {
		begin := time.Now()
		result, err := step.do()
		if err != nil {
			r.Error = fmt.Sprintf("%s: %v", step.what, err)
			break
		}
		r.Steps = append(r.Steps, Step{What: step.what, Result: result, Took: time.Since(begin)})
	}
	return json.NewEncoder(out).Encode(r)
}

func list(dir string) (string, error) {
	files, dirs := 0, 0
	err := filepath.WalkDir(dir, func(_ string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if e.IsDir() {
			dirs++
			return nil
		}
		files++
		_, err = e.Info()
		return err
	})
	return fmt.Sprintf("%d files in %d directories", files, dirs-1), err
}

func readAll(dir string) (string, error) {
	files, total := 0, 0
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() || e.Name() == archiveBlob {
			return err
		}
		b, err := os.ReadFile(path)
		files++
		total += len(b)
		return err
	})
	return fmt.Sprintf("%d files, %.1f MiB", files, float64(total)/(1<<20)), err
}

func readBlob(dir string) (string, error) {
	begin := time.Now()
	f, err := os.Open(filepath.Join(dir, archiveBlob))
	if err != nil {
		return "", err
	}
	defer f.Close()
	n, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{f}, make([]byte, 1<<20))
	return rate(n, begin), err
}

func rate(n int64, begin time.Time) string {
	return fmt.Sprintf("%d MiB at %.0f MiB/s", n>>20, float64(n)/(1<<20)/time.Since(begin).Seconds())
}

func mapBlob(dir string) (string, error) {
	begin := time.Now()
	f, err := os.Open(filepath.Join(dir, archiveBlob))
	if err != nil {
		return "", err
	}
	defer f.Close()
	m, err := unix.Mmap(int(f.Fd()), 0, archiveBlobSize, unix.PROT_READ, unix.MAP_PRIVATE)
	if err != nil {
		return "", fmt.Errorf("mmap: %w", err)
	}
	defer unix.Munmap(m)
	sum := byte(0)
	for i := 0; i < len(m); i += os.Getpagesize() {
		sum ^= m[i]
	}
	_ = sum // only touching the pages counts
	return rate(int64(len(m)), begin), nil
}

func refuseWrite(dir string) (string, error) {
	err := os.WriteFile(filepath.Join(dir, "new"), nil, 0o644)
	if !errors.Is(err, unix.EROFS) {
		return "", fmt.Errorf("got %v, want EROFS", err)
	}
	return "refused: " + unix.EROFS.Error(), nil
}

func writeFiles(dir string) (string, error) {
	body := bytes.Repeat([]byte("fsva "), 400)
	for i := range 500 {
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("file-%03d", i)), body, 0o640); err != nil {
			return "", err
		}
	}
	entries, err := os.ReadDir(dir)
	return fmt.Sprintf("%d files, %d bytes each", len(entries), len(body)), err
}

func copyBlob(from, to string) (string, error) {
	src, err := os.Open(filepath.Join(from, archiveBlob))
	if err != nil {
		return "", err
	}
	defer src.Close()
	dst, err := os.Create(filepath.Join(to, archiveBlob))
	if err != nil {
		return "", err
	}
	defer dst.Close()
	want := sha256.New()
	if _, err := io.CopyBuffer(struct{ io.Writer }{io.MultiWriter(dst, want)}, struct{ io.Reader }{src}, make([]byte, 1<<20)); err != nil {
		return "", err
	}
	if err := dst.Sync(); err != nil {
		return "", err
	}
	if _, err := dst.Seek(0, io.SeekStart); err != nil {
		return "", err
	}
	got := sha256.New()
	if _, err := io.Copy(got, dst); err != nil {
		return "", err
	}
	if !bytes.Equal(got.Sum(nil), want.Sum(nil)) {
		return "", errors.New("the copy differs")
	}
	return fmt.Sprintf("sha256 %x… is the same", got.Sum(nil)[:4]), nil
}

func changeMapped(dir string) (string, error) {
	f, err := os.OpenFile(filepath.Join(dir, archiveBlob), os.O_RDWR, 0)
	if err != nil {
		return "", err
	}
	defer f.Close()
	m, err := unix.Mmap(int(f.Fd()), 0, archiveBlobSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return "", fmt.Errorf("mmap: %w", err)
	}
	defer unix.Munmap(m)
	copy(m[1<<20:], "written through memory")
	if err := unix.Msync(m, unix.MS_SYNC); err != nil {
		return "", fmt.Errorf("msync: %w", err)
	}
	got := make([]byte, 22)
	if _, err := f.ReadAt(got, 1<<20); err != nil {
		return "", err
	}
	if string(got) != "written through memory" {
		return "", fmt.Errorf("read %q back", got)
	}
	return "read(2) sees it", nil
}

func names(dir string) (string, error) {
	at := func(name string) string { return filepath.Join(dir, name) }
	if err := os.Rename(at("file-000"), at("renamed")); err != nil {
		return "", err
	}
	if err := os.Link(at("renamed"), at("linked")); err != nil {
		return "", err
	}
	if err := os.Symlink("linked", at("symlink")); err != nil {
		return "", err
	}
	f, err := os.Open(at("symlink"))
	if err != nil {
		return "", err
	}
	defer f.Close()
	for _, name := range []string{"renamed", "linked", "symlink"} {
		if err := os.Remove(at(name)); err != nil {
			return "", err
		}
	}
	b, err := io.ReadAll(f)
	return fmt.Sprintf("%d bytes read after the last unlink", len(b)), err
}
