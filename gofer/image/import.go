// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package image

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"path/filepath"
	"runtime"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// Progress is told what a long operation does now. It must not block.
type Progress func(step string)

// Import puts an image into the store under a name, which then no longer means what it meant before. from is a file or a
// directory: an OCI layout (also as a tar file), what `docker save` writes, or the tar file of a root file system; tar
// files may be compressed. ref chooses one of several images, by the tag or name it has there. When it fails, or ctx is
// done, the store is as it was.
func (s *Store) Import(ctx context.Context, name, from, ref string, progress Progress) (_ Info, err error) {
	if err := CheckName(name); err != nil {
		return Info{}, err
	}
	f, err := os.Open(from)
	if err != nil {
		return Info{}, fmt.Errorf("import %s: %w", from, plain(err))
	}
	defer f.Close()
	c, err := s.begin()
	if err != nil {
		return Info{}, err
	}
	defer func() { err = errors.Join(err, c.end()) }()
	progress("reading")
	src, err := c.openSource(ctx, f, ref)
	if err == nil {
		err = c.add(ctx, name, src, progress)
	}
	if err != nil {
		return Info{}, fmt.Errorf("import %s: %w", from, s.withPlace(err))
	}
	return s.Inspect(name)
}

// openSource finds out what f is. It uses f for as long as the source is used.
func (c *change) openSource(ctx context.Context, f *os.File, ref string) (*source, error) {
	fi, err := f.Stat()
	if err != nil {
		return nil, err
	}
	switch {
	case fi.IsDir():
		if _, err := os.Stat(filepath.Join(f.Name(), "oci-layout")); err != nil {
			return nil, errors.New("the directory is not an OCI layout (it has no oci-layout)")
		}
		return ociSource(directoryLayout(f.Name()), ref)
	case !fi.Mode().IsRegular():
		return nil, errors.New("neither a file nor a directory")
	}
	z, media, err := decompress(f)
	if err != nil {
		return nil, err
	}
	defer z.Close()
	whole := f
	if media != types.OCIUncompressedLayer {
		// Images are read at more than one place.
		if whole, err = os.OpenFile(filepath.Join(c.dir, "build", "unpacked.tar"), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600); err != nil {
			return nil, err
		}
		c.open = append(c.open, whole)
		u := &unpacker{ctx: ctx, limits: c.s.limits}
		if _, err := io.Copy(whole, &countedReader{r: z, u: u}); err != nil {
			return nil, plain(err)
		}
	}
	a, ok, err := openArchive(whole)
	if err != nil {
		return nil, fmt.Errorf("not a tar file, or a damaged one: %w", err)
	}
	if !ok {
		if ref != "" {
			return nil, errors.New("it is a root file system, so there is nothing to choose with --ref")
		}
		return &source{layers: []layer{{open: func() (io.ReadCloser, error) { return os.Open(f.Name()) }}}}, nil
	}
	if _, ok := a.files["manifest.json"]; ok {
		return dockerSource(a, ref)
	}
	return ociSource(archiveLayout(a), ref)
}

// add copies a source into the change, checks and unpacks it, and commits the change.
func (c *change) add(ctx context.Context, name string, src *source, progress Progress) error {
	if len(src.layers) == 0 {
		return errors.New("the image has no layers")
	}
	if len(src.layers) > c.s.limits.Layers {
		return fmt.Errorf("the image has more than %d layers", c.s.limits.Layers)
	}
	var config *v1.ConfigFile
	if src.config != nil {
		var err error
		if config, err = parseConfig(src.config, len(src.layers)); err != nil {
			return err
		}
	}
	u, err := newUnpacker(ctx, c.rootPath(), c.s.limits)
	if err != nil {
		return plain(err)
	}
	defer u.close()
	var descriptors []v1.Descriptor
	var diffIDs []v1.Hash
	for i, l := range src.layers {
		progress(fmt.Sprintf("unpacking layer %d of %d", i+1, len(src.layers)))
		d, diffID, err := c.addLayer(ctx, u, l)
		if err != nil {
			return err
		}
		if config != nil && config.RootFS.DiffIDs[i] != diffID {
			return fmt.Errorf("layer %d is corrupt: its contents are not what the image's configuration says", i+1)
		}
		descriptors = append(descriptors, d)
		diffIDs = append(diffIDs, diffID)
	}
	if u.files == 0 { // a file of zeros is an empty tar file
		return errors.New("the image has no files")
	}
	if err := finish(u); err != nil {
		return err
	}
	if src.config == nil {
		src.config, err = json.Marshal(v1.ConfigFile{OS: "linux", Architecture: runtime.GOARCH, RootFS: v1.RootFS{Type: "layers", DiffIDs: diffIDs}})
		if err != nil {
			return err
		}
	}
	configBlob, err := c.addJSON(src.config, types.OCIConfigJSON)
	if err != nil {
		return err
	}
	if src.manifest == nil {
		if src.manifest, err = newManifest(configBlob, descriptors); err != nil {
			return err
		}
	}
	manifestBlob, err := c.addJSON(src.manifest, types.OCIManifestSchema1)
	if err != nil {
		return err
	}
	var kind struct{ MediaType types.MediaType }
	if err := json.Unmarshal(src.manifest, &kind); err == nil && kind.MediaType != "" {
		manifestBlob.MediaType = kind.MediaType
	}
	manifestBlob.Platform = &v1.Platform{OS: "linux", Architecture: runtime.GOARCH}
	manifestBlob.Annotations = map[string]string{refName: name}
	progress("storing")
	if err := ctx.Err(); err != nil {
		return err
	}
	return c.commit(chainID(diffIDs), func(index *v1.IndexManifest) error {
		if i := find(index, name); i >= 0 {
			index.Manifests[i] = manifestBlob
			return nil
		}
		index.Manifests = append(index.Manifests, manifestBlob)
		return nil
	})
}

// addLayer copies a layer, checks its digest and unpacks it. It returns the layer's descriptor, and the digest of what it
// unpacks to.
func (c *change) addLayer(ctx context.Context, u *unpacker, l layer) (v1.Descriptor, v1.Hash, error) {
	fail := func(err error) (v1.Descriptor, v1.Hash, error) { return v1.Descriptor{}, v1.Hash{}, err }
	in, err := l.open()
	if err != nil {
		return fail(fmt.Errorf("layer: %w", plain(err)))
	}
	defer in.Close()
	name := filepath.Join(c.dir, "build", "layer")
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return fail(plain(err))
	}
	defer f.Close()
	sum := sha256.New()
	counted := &countedReader{r: in, u: &unpacker{ctx: ctx, limits: c.s.limits}}
	size, err := io.Copy(io.MultiWriter(f, sum), counted)
	if err != nil {
		return fail(fmt.Errorf("layer: %w", plain(err)))
	}
	digest := hashOf(sum)
	if l.digest.Hex != "" && (l.digest != digest || l.size != size) {
		return fail(fmt.Errorf("layer %s is corrupt: it has %d bytes with digest %s, not %d", l.digest, size, digest, l.size))
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return fail(err)
	}
	z, media, err := decompress(f)
	if err != nil {
		return fail(fmt.Errorf("layer %s: %w", digest, err))
	}
	defer z.Close()
	content := sha256.New()
	if err := u.layer(io.TeeReader(z, content)); err != nil {
		return fail(err)
	}
	if err := os.Rename(name, c.blobPath(digest)); err != nil {
		return fail(plain(err))
	}
	return v1.Descriptor{MediaType: media, Size: size, Digest: digest}, hashOf(content), nil
}

// addJSON adds a small blob.
func (c *change) addJSON(data []byte, media types.MediaType) (v1.Descriptor, error) {
	digest, size, err := v1.SHA256(bytes.NewReader(data))
	if err != nil {
		return v1.Descriptor{}, err
	}
	if err := os.WriteFile(c.blobPath(digest), data, 0o600); err != nil {
		return v1.Descriptor{}, plain(err)
	}
	return v1.Descriptor{MediaType: media, Size: size, Digest: digest}, nil
}

func hashOf(h hash.Hash) v1.Hash {
	return v1.Hash{Algorithm: "sha256", Hex: hex.EncodeToString(h.Sum(nil))}
}

// fromHost are files that an FS server with the host's network sees the host's version of. The root has empty ones for
// them to be mounted on.
var fromHost = []string{"hosts", "resolv.conf"}

// finish gives an unpacked root what the start of an FS server relies on.
func finish(u *unpacker) error {
	u.added = map[string]bool{}
	etc, _, err := u.parent("/etc")
	if err != nil {
		return fmt.Errorf("/etc: %w", err)
	}
	defer closeFD(etc)
	for _, name := range fromHost {
		if err := emptyUnlessFile(etc, name); err != nil {
			return fmt.Errorf("/etc/%s: %w", name, err)
		}
	}
	return nil
}
