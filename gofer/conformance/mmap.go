// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package conformance

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"

	"golang.org/x/sys/unix"
)

const mapSize = 64 << 10

var mmapChecks = []Check{
	{"mmap/private", func(dir string) error {
		p, want, err := mapFile(dir)
		if err != nil {
			return err
		}
		return withMap(p, os.O_RDONLY, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE, func(_ *os.File, m []byte) error {
			if err := sameBytes("private mapping", m, want); err != nil {
				return err
			}
			m[5000] ^= 0xff
			return wantContent(p, want)
		})
	}},
	{"mmap/shared-read", func(dir string) error {
		p, want, err := mapFile(dir)
		if err != nil {
			return err
		}
		return withMap(p, os.O_RDONLY, unix.PROT_READ, unix.MAP_SHARED, func(_ *os.File, m []byte) error {
			return sameBytes("shared mapping", m, want)
		})
	}},
	{"mmap/shared-read-sees-writes", func(dir string) error {
		p, want, err := mapFile(dir)
		if err != nil {
			return err
		}
		return withMap(p, os.O_RDONLY, unix.PROT_READ, unix.MAP_SHARED, func(_ *os.File, m []byte) error {
			f, err := os.OpenFile(p, os.O_WRONLY, 0)
			if err != nil {
				return err
			}
			defer f.Close()
			for i := range 3 {
				patch := pattern(3000, uint32(20+i))
				copy(want[4000:], patch)
				if _, err := f.WriteAt(patch, 4000); err != nil {
					return err
				}
				if err := sameBytes(fmt.Sprintf("mapping after write %d", i+1), m, want); err != nil {
					return err
				}
			}
			return nil
		})
	}},
	{"mmap/shared-write", func(dir string) error {
		p, want, err := mapFile(dir)
		if err != nil {
			return err
		}
		return withMap(p, os.O_RDWR, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED, func(f *os.File, m []byte) error {
			patch := pattern(9000, 11)
			copy(want[3000:], patch)
			copy(m[3000:], patch)
			if err := unix.Msync(m, unix.MS_SYNC); err != nil {
				return fmt.Errorf("msync: %w", err)
			}
			got := make([]byte, len(want))
			if _, err := f.ReadAt(got, 0); err != nil {
				return err
			}
			if err := sameBytes("read after a store", got, want); err != nil {
				return err
			}
			return wantContent(p, want)
		})
	}},
	{"mmap/after-close-and-unlink", func(dir string) error {
		p, want, err := mapFile(dir)
		if err != nil {
			return err
		}
		return withMap(p, os.O_RDONLY, unix.PROT_READ, unix.MAP_SHARED, func(f *os.File, m []byte) error {
			if err := errors.Join(f.Close(), os.Remove(p)); err != nil {
				return err
			}
			return sameBytes("mapping of the removed file", m, want)
		})
	}},
	{"exec/copy-of-self", func(dir string) error {
		p := filepath.Join(dir, "self")
		if err := copySelf(p); err != nil {
			return err
		}
		return runSelf(p)
	}},
	{"exec/needs-permission", func(dir string) error {
		p := filepath.Join(dir, "self")
		if err := copySelf(p); err != nil {
			return err
		}
		if err := os.Chmod(p, 0o644); err != nil {
			return err
		}
		return wantErr("execution of a file without x", runSelf(p), unix.EACCES)
	}},
}

// mapFile writes a file of mapSize bytes and returns its path and content.
func mapFile(dir string) (string, []byte, error) {
	p, want := filepath.Join(dir, "f"), pattern(mapSize, 10)
	return p, want, os.WriteFile(p, want, 0o644)
}

// withMap opens path, maps all of mapSize and calls fn with both; the mapping ends with fn.
func withMap(path string, flags, prot, mapFlags int, fn func(*os.File, []byte) error) error {
	f, err := os.OpenFile(path, flags, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	m, err := unix.Mmap(int(f.Fd()), 0, mapSize, prot, mapFlags)
	if err != nil {
		return fmt.Errorf("mmap: %w", err)
	}
	return errors.Join(fn(f, m), unix.Munmap(m))
}

// copySelf writes a copy of the running executable.
func copySelf(path string) error {
	src, err := os.Open("/proc/self/exe")
	if err != nil {
		return err
	}
	defer src.Close()
	dst, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY, 0o755)
	if err != nil {
		return err
	}
	_, err = io.Copy(dst, src)
	return errors.Join(err, dst.Close())
}

// runSelf runs a copy of this executable in its helper mode and checks what it prints.
func runSelf(path string) error {
	cmd := exec.Command(path)
	cmd.Env = []string{helperEnv + "=" + helperHello}
	out, err := cmd.Output()
	if err != nil {
		return fmt.Errorf("run %s: %w", filepath.Base(path), err)
	}
	return sameBytes("output of the copy", out, []byte(helloText))
}
