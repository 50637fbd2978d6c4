// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package conformance

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"

	"golang.org/x/sys/unix"
)

var fileChecks = []Check{
	{"file/create-read", func(dir string) error {
		p := filepath.Join(dir, "f")
		if err := os.WriteFile(p, []byte("hello"), 0o644); err != nil {
			return err
		}
		fi, err := os.Stat(p)
		if err != nil {
			return err
		}
		if !fi.Mode().IsRegular() || fi.Size() != 5 {
			return fmt.Errorf("stat: mode %v size %d, want a regular file of 5 bytes", fi.Mode(), fi.Size())
		}
		return wantContent(p, []byte("hello"))
	}},
	{"file/create-exclusive", func(dir string) error {
		p := filepath.Join(dir, "f")
		f, err := os.OpenFile(p, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
		if err != nil {
			return err
		}
		defer f.Close()
		_, err = os.OpenFile(p, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
		return wantErr("second exclusive create", err, unix.EEXIST)
	}},
	{"file/large-odd-sizes", func(dir string) error {
		p := filepath.Join(dir, "f")
		want := pattern(16<<20+4097, 1)
		f, err := os.Create(p)
		if err != nil {
			return err
		}
		defer f.Close()
		for off, n := 0, 1; off < len(want); n = n*3 + 1 {
			if n > 1<<21 {
				n = 65537
			}
			end := min(off+n, len(want))
			if _, err := f.Write(want[off:end]); err != nil {
				return err
			}
			off = end
		}
		if err := f.Close(); err != nil {
			return err
		}
		return wantContent(p, want)
	}},
	{"file/overwrite-middle", func(dir string) error {
		p := filepath.Join(dir, "f")
		want := pattern(300000, 2)
		if err := os.WriteFile(p, want, 0o644); err != nil {
			return err
		}
		f, err := os.OpenFile(p, os.O_RDWR, 0)
		if err != nil {
			return err
		}
		defer f.Close()
		patch := pattern(70001, 3)
		copy(want[65000:], patch)
		if _, err := f.WriteAt(patch, 65000); err != nil {
			return err
		}
		got := make([]byte, len(want))
		if _, err := f.ReadAt(got, 0); err != nil {
			return err
		}
		if err := sameBytes("same descriptor", got, want); err != nil {
			return err
		}
		return wantContent(p, want)
	}},
	{"file/append-two-writers", func(dir string) error {
		p := filepath.Join(dir, "f")
		var fs [2]*os.File
		for i := range fs {
			f, err := os.OpenFile(p, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
			if err != nil {
				return err
			}
			defer f.Close()
			fs[i] = f
		}
		var want bytes.Buffer
		for i := range 40 {
			line := fmt.Sprintf("line %d\n", i)
			want.WriteString(line)
			if _, err := fs[i%2].WriteString(line); err != nil {
				return err
			}
		}
		return wantContent(p, want.Bytes())
	}},
	{"file/truncate", func(dir string) error {
		p := filepath.Join(dir, "f")
		want := pattern(100000, 4)
		if err := os.WriteFile(p, want, 0o644); err != nil {
			return err
		}
		if err := os.Truncate(p, 33333); err != nil {
			return err
		}
		if err := wantContent(p, want[:33333]); err != nil {
			return fmt.Errorf("shrunk: %w", err)
		}
		f, err := os.OpenFile(p, os.O_RDWR, 0)
		if err != nil {
			return err
		}
		defer f.Close()
		if err := f.Truncate(90000); err != nil {
			return err
		}
		if err := wantContent(p, append(want[:33333:33333], make([]byte, 90000-33333)...)); err != nil {
			return fmt.Errorf("grown: %w", err)
		}
		return nil
	}},
	{"file/open-truncate", func(dir string) error {
		p := filepath.Join(dir, "f")
		if err := os.WriteFile(p, pattern(5000, 5), 0o644); err != nil {
			return err
		}
		if err := os.WriteFile(p, []byte("x"), 0o644); err != nil {
			return err
		}
		return wantContent(p, []byte("x"))
	}},
	{"file/hole", func(dir string) error {
		p := filepath.Join(dir, "f")
		f, err := os.Create(p)
		if err != nil {
			return err
		}
		defer f.Close()
		if _, err := f.WriteAt([]byte("end"), 200000); err != nil {
			return err
		}
		return wantContent(p, append(make([]byte, 200000), "end"...))
	}},
	{"file/unlink-while-open", func(dir string) error {
		p := filepath.Join(dir, "f")
		f, err := os.OpenFile(p, os.O_CREATE|os.O_RDWR, 0o644)
		if err != nil {
			return err
		}
		defer f.Close()
		if _, err := f.WriteString("before "); err != nil {
			return err
		}
		if err := os.Remove(p); err != nil {
			return err
		}
		if _, err := os.Stat(p); !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("stat after unlink: %v, want ENOENT", err)
		}
		if _, err := f.WriteString("after"); err != nil {
			return fmt.Errorf("write after unlink: %w", err)
		}
		got := make([]byte, 64)
		n, err := f.ReadAt(got, 0)
		if err != nil && err != io.EOF {
			return fmt.Errorf("read after unlink: %w", err)
		}
		if err := sameBytes("read after unlink", got[:n], []byte("before after")); err != nil {
			return err
		}
		if err := f.Truncate(3); err != nil {
			return fmt.Errorf("truncate after unlink: %w", err)
		}
		fi, err := f.Stat()
		if err != nil {
			return fmt.Errorf("fstat after unlink: %w", err)
		}
		if fi.Size() != 3 {
			return fmt.Errorf("fstat after unlink: size %d, want 3", fi.Size())
		}
		// A new file of the same name is another file.
		if err := os.WriteFile(p, []byte("new"), 0o644); err != nil {
			return err
		}
		if n, err = f.ReadAt(got, 0); err != nil && err != io.EOF {
			return err
		}
		if err := sameBytes("old file", got[:n], []byte("bef")); err != nil {
			return err
		}
		return wantContent(p, []byte("new"))
	}},
	{"file/rename-over-open", func(dir string) error {
		a, b := filepath.Join(dir, "a"), filepath.Join(dir, "b")
		if err := os.WriteFile(a, []byte("from a"), 0o644); err != nil {
			return err
		}
		if err := os.WriteFile(b, []byte("from b"), 0o644); err != nil {
			return err
		}
		f, err := os.Open(b)
		if err != nil {
			return err
		}
		defer f.Close()
		if err := os.Rename(a, b); err != nil {
			return err
		}
		got, err := io.ReadAll(f)
		if err != nil {
			return fmt.Errorf("read of the replaced file: %w", err)
		}
		if err := sameBytes("replaced file", got, []byte("from b")); err != nil {
			return err
		}
		return wantContent(b, []byte("from a"))
	}},
	{"file/sync", func(dir string) error {
		f, err := os.Create(filepath.Join(dir, "f"))
		if err != nil {
			return err
		}
		defer f.Close()
		if _, err := f.Write(pattern(40000, 6)); err != nil {
			return err
		}
		if err := f.Sync(); err != nil {
			return fmt.Errorf("fsync: %w", err)
		}
		if err := unix.Fdatasync(int(f.Fd())); err != nil {
			return fmt.Errorf("fdatasync: %w", err)
		}
		d, err := os.Open(dir)
		if err != nil {
			return err
		}
		defer d.Close()
		if err := d.Sync(); err != nil {
			return fmt.Errorf("fsync of the directory: %w", err)
		}
		if err := unix.Syncfs(int(f.Fd())); err != nil {
			return fmt.Errorf("syncfs: %w", err)
		}
		return f.Close()
	}},
	{"file/synchronous-writes", func(dir string) error {
		p := filepath.Join(dir, "f")
		f, err := os.OpenFile(p, os.O_CREATE|os.O_RDWR|os.O_SYNC, 0o644)
		if err != nil {
			return err
		}
		defer f.Close()
		want := pattern(9000, 7)
		for off := 0; off < len(want); off += 1000 {
			if _, err := f.Write(want[off : off+1000]); err != nil {
				return err
			}
		}
		return wantContent(p, want)
	}},
	{"file/parallel-writers", func(dir string) error {
		p := filepath.Join(dir, "f")
		f, err := os.Create(p)
		if err != nil {
			return err
		}
		defer f.Close()
		const block, writers, rounds = 8192, 8, 16
		want := pattern(block*writers*rounds, 8)
		errs := make([]error, writers)
		var wg sync.WaitGroup
		for w := range writers {
			wg.Go(func() {
				for r := range rounds {
					off := (r*writers + w) * block
					if _, err := f.WriteAt(want[off:off+block], int64(off)); err != nil {
						errs[w] = err
						return
					}
				}
			})
		}
		wg.Wait()
		if err := errors.Join(errs...); err != nil {
			return err
		}
		return wantContent(p, want)
	}},
	{"file/copy-range-and-sendfile", func(dir string) error {
		a, b := filepath.Join(dir, "a"), filepath.Join(dir, "b")
		want := pattern(150000, 9)
		if err := os.WriteFile(a, want, 0o644); err != nil {
			return err
		}
		src, err := os.Open(a)
		if err != nil {
			return err
		}
		defer src.Close()
		dst, err := os.Create(b)
		if err != nil {
			return err
		}
		defer dst.Close()
		// io.Copy uses copy_file_range where it works and falls back to sendfile or read and write.
		if n, err := io.Copy(dst, src); err != nil || n != int64(len(want)) {
			return fmt.Errorf("copy: %d bytes, %w", n, err)
		}
		return wantContent(b, want)
	}},
	{"file/errors", func(dir string) error {
		f := filepath.Join(dir, "f")
		if err := os.WriteFile(f, nil, 0o644); err != nil {
			return err
		}
		_, err := os.Open(filepath.Join(dir, "none"))
		if err := wantErr("open of a missing file", err, unix.ENOENT); err != nil {
			return err
		}
		_, err = os.Open(filepath.Join(f, "below"))
		if err := wantErr("open below a file", err, unix.ENOTDIR); err != nil {
			return err
		}
		_, err = os.OpenFile(dir, os.O_WRONLY, 0)
		if err := wantErr("open of a directory for writing", err, unix.EISDIR); err != nil {
			return err
		}
		if err := wantErr("unlink of a directory", unix.Unlink(dir), unix.EISDIR); err != nil {
			return err
		}
		if err := wantErr("rmdir of a file", unix.Rmdir(f), unix.ENOTDIR); err != nil {
			return err
		}
		_, err = os.Readlink(f)
		return wantErr("readlink of a file", err, unix.EINVAL)
	}},
	{"file/statfs", func(dir string) error {
		var st unix.Statfs_t
		if err := unix.Statfs(dir, &st); err != nil {
			return err
		}
		if st.Bsize <= 0 || st.Namelen < 0 {
			return fmt.Errorf("statfs: block size %d, name length %d", st.Bsize, st.Namelen)
		}
		return nil
	}},
}
