// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package image

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"errors"
	"io"

	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/klauspost/compress/zstd"
)

// Limits of zstd's decoder, in bytes.
const zstdMemory = 256 << 20

// errNotTar is what becomes of compressions that are not for layers.
var errNotTar = errors.New("compressed in a way that images are not (gzip and zstd are known): unpack it first")

// decompress returns the stream that r holds, and the media type of a layer that is compressed as r is.
func decompress(r io.Reader) (io.ReadCloser, types.MediaType, error) {
	b := bufio.NewReaderSize(r, 64<<10)
	start, err := b.Peek(6)
	if err != nil && err != io.EOF {
		return nil, "", err
	}
	switch {
	case bytes.HasPrefix(start, []byte{0x1f, 0x8b}):
		z, err := gzip.NewReader(b)
		return z, types.OCILayer, err
	case bytes.HasPrefix(start, []byte{0x28, 0xb5, 0x2f, 0xfd}):
		z, err := zstd.NewReader(b, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(zstdMemory), zstd.WithDecoderMaxWindow(zstdMemory))
		if err != nil {
			return nil, "", err
		}
		return z.IOReadCloser(), types.OCILayerZStd, nil
	case bytes.HasPrefix(start, []byte("\xfd7zXZ")), bytes.HasPrefix(start, []byte("BZh")):
		return nil, "", errNotTar
	}
	return io.NopCloser(b), types.OCIUncompressedLayer, nil
}
