// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package image

import (
	"archive/tar"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// source is an image that is not in the store yet.
type source struct {
	manifest []byte // as it came; nil when it is to be made
	config   []byte // of a root file system's tar: nil
	layers   []layer
}

// layer is one of its layers.
type layer struct {
	open   func() (io.ReadCloser, error)
	digest v1.Hash // of what open returns; zero when it is not known
	size   int64   // if digest is known
}

// archive are the files of a tar file, by their cleaned names.
type archive struct {
	f     *os.File
	files map[string]section
	links map[string]string
}

type section struct{ offset, size int64 }

// maxArchive bounds the entries of a tar file that holds an image: blobs, and some names for them.
const maxArchive = 4096

// openArchive reads the table of contents of a tar file. ok is false when there is none that an image may have: the tar
// file is a root file system, then.
func openArchive(f *os.File) (a *archive, ok bool, err error) {
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return nil, false, err
	}
	a = &archive{f: f, files: map[string]section{}, links: map[string]string{}}
	t := tar.NewReader(f)
	for n := 0; ; n++ {
		h, err := t.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return nil, false, err
		}
		if n == maxArchive {
			return nil, false, nil
		}
		name := path.Clean("/" + h.Name)[1:]
		switch h.Typeflag {
		case tar.TypeReg, tar.TypeRegA: //nolint:staticcheck // old archives have TypeRegA
			offset, err := f.Seek(0, io.SeekCurrent)
			if err != nil {
				return nil, false, err
			}
			a.files[name] = section{offset, h.Size}
		case tar.TypeSymlink:
			a.links[name] = path.Join("/", path.Dir(name), h.Linkname)[1:]
		case tar.TypeLink:
			a.links[name] = path.Clean("/" + h.Linkname)[1:]
		}
	}
	_, docker := a.files["manifest.json"]
	_, oci := a.files["oci-layout"]
	return a, docker || oci, nil
}

// open opens one of the files. It is read through a descriptor that it shares with others, at its own offset.
func (a *archive) open(name string) (io.ReadCloser, error) {
	for range 8 { // old versions of docker save an equal layer as a link
		to, ok := a.links[name]
		if !ok {
			break
		}
		name = to
	}
	s, ok := a.files[name]
	if !ok {
		return nil, fmt.Errorf("%q is not in it", clip(name))
	}
	return io.NopCloser(io.NewSectionReader(a.f, s.offset, s.size)), nil
}

// read reads a small file.
func (a *archive) read(name string) ([]byte, error) {
	r, err := a.open(name)
	if err != nil {
		return nil, err
	}
	data, err := io.ReadAll(io.LimitReader(r, maxJSON+1))
	if err == nil && len(data) > maxJSON {
		err = fmt.Errorf("%q is larger than %d bytes", clip(name), maxJSON)
	}
	return data, err
}

// dockerSource is an image of what `docker save` writes. ref is one of its tags; it may be empty if there is one image.
func dockerSource(a *archive, ref string) (*source, error) {
	data, err := a.read("manifest.json")
	if err != nil {
		return nil, err
	}
	var images []struct {
		Config   string
		RepoTags []string
		Layers   []string
	}
	if err := json.Unmarshal(data, &images); err != nil {
		return nil, fmt.Errorf("manifest.json: %w", err)
	}
	var tags []string
	chosen := -1
	for i, image := range images {
		tags = append(tags, image.RepoTags...)
		if ref == "" || slices.Contains(image.RepoTags, ref) {
			chosen = i
		}
	}
	if err := choice(ref, tags, len(images), chosen); err != nil {
		return nil, err
	}
	config, err := a.read(path.Clean("/" + images[chosen].Config)[1:])
	if err != nil {
		return nil, fmt.Errorf("configuration: %w", err)
	}
	s := &source{config: config}
	for _, name := range images[chosen].Layers {
		name := path.Clean("/" + name)[1:]
		s.layers = append(s.layers, layer{open: func() (io.ReadCloser, error) { return a.open(name) }})
	}
	return s, nil
}

// choice says what is wrong with the choice of one image by its reference.
func choice(ref string, known []string, images, chosen int) error {
	for i := range known {
		known[i] = clip(known[i])
	}
	switch {
	case images == 0:
		return errors.New("there is no image for " + platform + " in it")
	case ref == "" && images > 1:
		return fmt.Errorf("there are %d images in it: choose one with --ref (%s)", images, strings.Join(known[:min(len(known), 20)], ", "))
	case chosen < 0:
		return fmt.Errorf("there is no image %q in it (known are %s)", ref, strings.Join(known[:min(len(known), 20)], ", "))
	}
	return nil
}

// platform is what images must be for.
const platform = "linux/" + runtime.GOARCH

// layout is an OCI image layout, in a directory or a tar file.
type layout struct {
	read func(name string) ([]byte, error)
	blob func(v1.Hash) (io.ReadCloser, error)
}

func directoryLayout(dir string) layout {
	return layout{
		read: func(name string) ([]byte, error) { return readFile(filepath.Join(dir, name)) },
		blob: func(h v1.Hash) (io.ReadCloser, error) { return os.Open(filepath.Join(dir, "blobs", "sha256", h.Hex)) },
	}
}

func archiveLayout(a *archive) layout {
	return layout{
		read: a.read,
		blob: func(h v1.Hash) (io.ReadCloser, error) { return a.open("blobs/sha256/" + h.Hex) },
	}
}

// ociSource is an image of a layout. ref is the name that its index has for it; it may be empty if there is one image
// for this machine.
func ociSource(l layout, ref string) (*source, error) {
	data, err := l.read("index.json")
	if err != nil {
		return nil, fmt.Errorf("index.json: %w", plain(err))
	}
	// An index may hold others, of images for several machines.
	var found []v1.Descriptor
	var known []string
	nested := 0
	var collect func(data []byte, inherited string) error
	collect = func(data []byte, inherited string) error {
		var index v1.IndexManifest
		if err := json.Unmarshal(data, &index); err != nil {
			return fmt.Errorf("index: %w", err)
		}
		for _, d := range index.Manifests {
			name := inherited
			if n := d.Annotations[refName]; n != "" {
				name = n
			}
			switch {
			case d.Platform != nil && (d.Platform.OS != "linux" || d.Platform.Architecture != runtime.GOARCH):
			case d.MediaType.IsIndex():
				if nested++; nested > 16 {
					return errors.New("index: more than 16 others in it")
				}
				inner, err := readBlob(l.blob, d.Digest, d.Size)
				if err != nil {
					return err
				}
				if err := collect(inner, name); err != nil {
					return err
				}
			case d.MediaType.IsImage():
				if name != "" {
					known = append(known, name)
				}
				if ref == "" || name == ref {
					found = append(found, d)
				}
			}
		}
		return nil
	}
	if err := collect(data, ""); err != nil {
		return nil, err
	}
	switch {
	case ref != "" && len(found) == 0:
		return nil, choice(ref, known, 1, -1)
	case ref != "" && len(found) > 1:
		return nil, fmt.Errorf("there are %d images %q in it", len(found), ref)
	}
	if err := choice(ref, known, len(found), 0); err != nil {
		return nil, err
	}
	manifest, err := readBlob(l.blob, found[0].Digest, found[0].Size)
	if err != nil {
		return nil, err
	}
	var m v1.Manifest
	if err := json.Unmarshal(manifest, &m); err != nil {
		return nil, fmt.Errorf("manifest: %w", err)
	}
	s := &source{manifest: manifest}
	if s.config, err = readBlob(l.blob, m.Config.Digest, m.Config.Size); err != nil {
		return nil, err
	}
	for _, d := range m.Layers {
		if err := checkHash(d.Digest); err != nil {
			return nil, err
		}
		if !d.MediaType.IsDistributable() {
			return nil, fmt.Errorf("layer %s is not in it (%s)", d.Digest, clip(string(d.MediaType)))
		}
		s.layers = append(s.layers, layer{
			open:   func() (io.ReadCloser, error) { return l.blob(d.Digest) },
			digest: d.Digest, size: d.Size,
		})
	}
	return s, nil
}

// parseConfig checks what the store relies on.
func parseConfig(data []byte, layers int) (*v1.ConfigFile, error) {
	var c v1.ConfigFile
	if err := json.Unmarshal(data, &c); err != nil {
		return nil, fmt.Errorf("configuration: %w", err)
	}
	if c.OS != "linux" || c.Architecture != runtime.GOARCH {
		return nil, fmt.Errorf("the image is for %s/%s, not %s", clip(c.OS), clip(c.Architecture), platform)
	}
	if len(c.RootFS.DiffIDs) != layers {
		return nil, fmt.Errorf("the image has %d layers, and its configuration %d", layers, len(c.RootFS.DiffIDs))
	}
	for _, d := range c.RootFS.DiffIDs {
		if err := checkHash(d); err != nil {
			return nil, err
		}
	}
	return &c, nil
}

// newManifest makes the manifest of an image that came without one.
func newManifest(config v1.Descriptor, layers []v1.Descriptor) ([]byte, error) {
	return json.Marshal(v1.Manifest{SchemaVersion: 2, MediaType: types.OCIManifestSchema1, Config: config, Layers: layers})
}
