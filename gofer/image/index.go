// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package image

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"fsva/gofer/atomicfile"
)

// refName is the annotation by which an OCI layout names its images.
const refName = "org.opencontainers.image.ref.name"

const ociLayout = `{"imageLayoutVersion":"1.0.0"}`

// readIndex returns the images of the store; none when there is no store yet.
func (s *Store) readIndex() (*v1.IndexManifest, error) {
	data, err := readFile(s.at("index.json"))
	if errors.Is(err, os.ErrNotExist) {
		return &v1.IndexManifest{SchemaVersion: 2, MediaType: types.OCIImageIndex}, nil
	}
	if err != nil {
		return nil, fmt.Errorf("image store %s: %w", s.dir, err)
	}
	var index v1.IndexManifest
	if err := json.Unmarshal(data, &index); err != nil {
		return nil, fmt.Errorf("image store: %s: %w", s.at("index.json"), err)
	}
	return &index, nil
}

// writeIndex replaces index.json. The caller holds the store's lock.
func (s *Store) writeIndex(index *v1.IndexManifest) error {
	data, err := json.MarshalIndent(index, "", "  ")
	if err != nil {
		return err
	}
	if err := atomicfile.Sweep(s.dir); err != nil {
		return err
	}
	o := atomicfile.Options{Mode: 0o600, Durable: true}
	if err := atomicfile.Write(s.at("oci-layout"), []byte(ociLayout), o); err != nil {
		return err
	}
	return atomicfile.Write(s.at("index.json"), data, o)
}

// find returns an image's place in the index, or -1.
func find(index *v1.IndexManifest, name string) int {
	return slices.IndexFunc(index.Manifests, func(d v1.Descriptor) bool { return d.Annotations[refName] == name })
}

// stored is what the store knows about an image.
type stored struct {
	manifest *v1.Manifest
	config   *v1.ConfigFile
	chain    v1.Hash
}

// load reads an image's manifest and configuration.
func (s *Store) load(d v1.Descriptor) (*stored, error) {
	open := func(h v1.Hash) (io.ReadCloser, error) { return os.Open(s.blobPath(h)) }
	data, err := readBlob(open, d.Digest, d.Size)
	if err != nil {
		return nil, err
	}
	var m v1.Manifest
	if err := json.Unmarshal(data, &m); err != nil {
		return nil, fmt.Errorf("manifest %s: %w", d.Digest, err)
	}
	if data, err = readBlob(open, m.Config.Digest, m.Config.Size); err != nil {
		return nil, err
	}
	var c v1.ConfigFile
	if err := json.Unmarshal(data, &c); err != nil {
		return nil, fmt.Errorf("configuration %s: %w", m.Config.Digest, err)
	}
	return &stored{manifest: &m, config: &c, chain: chainID(c.RootFS.DiffIDs)}, nil
}

// info describes an image for people and programs.
func (s *Store) info(d v1.Descriptor) (Info, error) {
	name := d.Annotations[refName]
	st, err := s.load(d)
	if err != nil {
		return Info{}, fmt.Errorf("image %q is damaged (build or import it again): %w", name, err)
	}
	i := Info{
		Name: name, Digest: d.Digest.String(), Root: s.rootPath(st.chain),
		Recipe: st.config.Config.Labels[labelRecipe], Packages: strings.Fields(st.config.Config.Labels[labelPackages]),
	}
	for _, l := range st.manifest.Layers {
		i.Layers = append(i.Layers, l.Digest.String())
		i.Size += l.Size
	}
	i.InUse, err = leased(i.Root)
	if err != nil {
		return Info{}, fmt.Errorf("image %q is damaged (build or import it again): %w", name, err)
	}
	return i, nil
}

// List describes all images, sorted by name.
func (s *Store) List() ([]Info, error) {
	index, unlock, err := s.read()
	if err != nil {
		return nil, err
	}
	defer unlock()
	infos := []Info{}
	for _, d := range index.Manifests {
		i, err := s.info(d)
		if err != nil {
			return nil, err
		}
		infos = append(infos, i)
	}
	slices.SortFunc(infos, func(a, b Info) int { return strings.Compare(a.Name, b.Name) })
	return infos, nil
}

// Inspect describes one image. The error is a *NotFoundError if there is none of that name.
func (s *Store) Inspect(name string) (Info, error) {
	index, unlock, err := s.read()
	if err != nil {
		return Info{}, err
	}
	defer unlock()
	i := find(index, name)
	if i < 0 {
		return Info{}, &NotFoundError{name}
	}
	return s.info(index.Manifests[i])
}

// Acquire returns the unpacked root file system of an image, which stays as it is until release is called or the process
// ends, even if the image is replaced. The error is a *NotFoundError if there is no image of that name.
func (s *Store) Acquire(name string) (root string, release func(), err error) {
	index, unlock, err := s.read()
	if err != nil {
		return "", nil, err
	}
	defer unlock()
	i := find(index, name)
	if i < 0 {
		return "", nil, &NotFoundError{name}
	}
	st, err := s.load(index.Manifests[i])
	if err != nil {
		return "", nil, fmt.Errorf("image %q is damaged (build or import it again): %w", name, err)
	}
	root = s.rootPath(st.chain)
	release, err = lease(root)
	if err != nil {
		return "", nil, fmt.Errorf("image %q is damaged (build or import it again): %w", name, err)
	}
	return root, release, nil
}

// chainID names a stack of layers, as the OCI image specification says.
func chainID(diffIDs []v1.Hash) v1.Hash {
	var chain v1.Hash
	for i, d := range diffIDs {
		if i == 0 {
			chain = d
			continue
		}
		sum := sha256.Sum256([]byte(chain.String() + " " + d.String()))
		chain = v1.Hash{Algorithm: "sha256", Hex: hex.EncodeToString(sum[:])}
	}
	return chain
}

// checkHash says whether a digest from a peer may be used as a file name.
func checkHash(h v1.Hash) error {
	if _, err := hex.DecodeString(h.Hex); h.Algorithm != "sha256" || len(h.Hex) != 2*sha256.Size || err != nil || strings.ToLower(h.Hex) != h.Hex {
		return fmt.Errorf("digest %q is not a sha256 digest", h.String())
	}
	return nil
}

// readBlob reads a JSON blob of a size and digest that are known.
func readBlob(open func(v1.Hash) (io.ReadCloser, error), h v1.Hash, size int64) ([]byte, error) {
	if err := checkHash(h); err != nil {
		return nil, err
	}
	if size < 0 || size > maxJSON {
		return nil, fmt.Errorf("blob %s has %d bytes, more than a manifest or configuration may have", h, size)
	}
	f, err := open(h)
	if err != nil {
		return nil, fmt.Errorf("blob %s: %w", h, plain(err))
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, size+1))
	if err != nil {
		return nil, fmt.Errorf("blob %s: %w", h, plain(err))
	}
	if got := sha256.Sum256(data); int64(len(data)) != size || hex.EncodeToString(got[:]) != h.Hex {
		return nil, fmt.Errorf("blob %s is corrupt", h)
	}
	return data, nil
}

// readFile reads a small file.
func readFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxJSON+1))
	if err == nil && len(data) > maxJSON {
		err = fmt.Errorf("%s is larger than %d bytes", path, maxJSON)
	}
	return data, err
}
