// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package demo

import (
	"archive/tar"
	"bufio"
	"fmt"
	"math/rand"
	"os"
	"time"
)

// Shape of the archive.
const (
	archiveDirs     = 20
	archivePerDir   = 50
	archiveFileSize = 2 << 10
	archiveBlob     = "blob"
	archiveBlobSize = 32 << 20
)

// writeArchive writes the archive that the demo serves: many small files and
// one large one. Its contents are the same each time.
func writeArchive(path string) (files int, size int64, err error) {
	f, err := os.Create(path)
	if err != nil {
		return 0, 0, err
	}
	defer f.Close()
	buffered := bufio.NewWriterSize(f, 1<<20)
	w := tar.NewWriter(buffered)
	random := rand.New(rand.NewSource(1))
	content := make([]byte, archiveBlobSize)
	random.Read(content)
	add := func(name string, body []byte) error {
		files++
		size += int64(len(body))
		err := w.WriteHeader(&tar.Header{
			Name: name, Typeflag: tar.TypeReg, Mode: 0o644, Size: int64(len(body)), ModTime: time.Unix(1_700_000_000, 0),
		})
		if err == nil {
			_, err = w.Write(body)
		}
		return err
	}
	if err := add(archiveBlob, content); err != nil {
		return 0, 0, err
	}
	for d := range archiveDirs {
		for i := range archivePerDir {
			at := random.Intn(len(content) - archiveFileSize)
			if err := add(fmt.Sprintf("shelf-%02d/book-%02d", d, i), content[at:at+archiveFileSize]); err != nil {
				return 0, 0, err
			}
		}
	}
	if err := w.Close(); err != nil {
		return 0, 0, err
	}
	if err := buffered.Flush(); err != nil {
		return 0, 0, err
	}
	return files, size, f.Close()
}
