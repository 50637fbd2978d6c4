// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package listen

import (
	"bytes"
	"fmt"
	"io"
	"io/fs"
	"os"

	"fsva/gofer/fusestream"
)

// CheckSecretFile returns an error if everybody may use a file that holds a secret. It names the file, and says what to do.
func CheckSecretFile(path string, info fs.FileInfo) error {
	if mode := info.Mode().Perm(); mode&0o007 != 0 {
		return fmt.Errorf("%s holds a secret but everybody may use it (mode %04o): chmod o= %s", path, mode, path)
	}
	return nil
}

// ReadSecret reads what both ends of a connection have to know from a file, without the end of its line. A file that
// everybody may use, an empty one and one with more than fusestream.MaxSecret bytes are errors, which have nothing of
// the file's content in them.
func ReadSecret(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if err := CheckSecretFile(path, info); err != nil {
		return nil, err
	}
	b, err := io.ReadAll(io.LimitReader(f, fusestream.MaxSecret+2))
	if err != nil {
		return nil, err
	}
	b = bytes.TrimRight(b, "\r\n")
	switch {
	case len(b) == 0:
		return nil, fmt.Errorf("%s is empty", path)
	case len(b) > fusestream.MaxSecret:
		return nil, fmt.Errorf("%s has more than %d bytes", path, fusestream.MaxSecret)
	}
	return b, nil
}
