// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

// Package image keeps the root file systems that FS servers run in.
//
// An image comes from a recipe (Build: Debian packages, by mmdebstrap) or from elsewhere (Import: an OCI layout, what
// `docker save` writes, or the tar file of a root file system). What an import reads is hostile: names, links and sizes
// in it may be anything, digests are checked, and nothing outside of the store is read or written on its account.
//
// The store is a directory of one user, root:
//
//	oci-layout index.json blobs/   an OCI image layout; index.json names the images
//	roots/HEX/                     the unpacked root file system of a chain of layers, named by its chain ID
//	tmp/                           work under way; what a killed process left is removed by the next change
//	lock                           held for moments
//
// Blobs and roots are named by their contents and never change. Images with the same layers share both. A change is
// prepared in tmp, flushed to the disk, moved into place and then made visible by replacing index.json, so it happens
// whole or not at all, whatever fails, and readers wait for none.
//
// Lock order:
//
//	flock of lock
//	  flock of a directory in tmp or roots (never waited for)
//
// Reference Model: who holds a shared flock of a root uses it (Acquire); the kernel drops it with the process. Only roots
// without one are removed.
//
// Not supported: extended attributes and device files in images (an FS server could not use them), registries.
package image

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sys/unix"
)

// Labels of an image's configuration.
const (
	labelRecipe   = "dev.fsva.recipe"   // what it was built from
	labelPackages = "dev.fsva.packages" // NAME=VERSION of each Debian package in it, separated by spaces
)

// Limits bound what an image may take.
type Limits struct {
	Layers int   // layers of an image
	Files  int   // entries of all its layers
	Bytes  int64 // of all its layers together, unpacked
}

// DefaultLimits are those of Open.
var DefaultLimits = Limits{Layers: 128, Files: 1 << 20, Bytes: 16 << 30}

const (
	maxJSON  = 4 << 20 // of an index, a manifest or a configuration
	maxDepth = 256     // of a directory in an image
)

// Store is a directory of images. Its methods may be used by any number of goroutines and processes at a time.
type Store struct {
	dir    string
	limits Limits
	sync   func(fd int) error // brings the file system of fd to the disk
}

// Open returns the store of a state directory (FSVA_STATEDIR). It is made when something is put in it.
func Open(stateDir string) *Store {
	return &Store{dir: filepath.Join(stateDir, "images"), limits: DefaultLimits, sync: unix.Syncfs}
}

// Info describes an image.
type Info struct {
	Name     string   `json:"name"`
	Digest   string   `json:"digest"`   // of its OCI manifest
	Root     string   `json:"root"`     // its unpacked root file system
	Size     int64    `json:"size"`     // bytes of its layers as they are stored
	Layers   []string `json:"layers"`   // their digests, the lowest first
	Recipe   string   `json:"recipe"`   // what Build made it from; empty for an imported one
	Packages []string `json:"packages"` // NAME=VERSION of the Debian packages in it, if known
	InUse    bool     `json:"in_use"`   // a volume runs in it
}

// NotFoundError says that there is no image of that name.
type NotFoundError struct{ Name string }

func (e *NotFoundError) Error() string { return fmt.Sprintf("there is no image %q", e.Name) }

var namePattern = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,62}$`)

// CheckName says what is wrong with the name of an image.
func CheckName(name string) error {
	if !namePattern.MatchString(name) {
		return fmt.Errorf("image name %q must be lower-case letters, digits and dashes, at most 63", name)
	}
	return nil
}

func (s *Store) at(elem ...string) string {
	return filepath.Join(append([]string{s.dir}, elem...)...)
}

func (s *Store) blobPath(h v1.Hash) string { return s.at("blobs", "sha256", h.Hex) }
func (s *Store) rootPath(h v1.Hash) string { return s.at("roots", h.Hex) }

// withPlace adds where the store is to an error about its disk.
func (s *Store) withPlace(err error) error {
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) || errors.Is(err, unix.EROFS) {
		return fmt.Errorf("%w: %s (FSVA_STATEDIR chooses another disk)", err, s.dir)
	}
	return err
}

// plain drops operation and path of package os from an error, for messages that name a better path.
func plain(err error) error {
	var pe *os.PathError
	if errors.As(err, &pe) {
		return pe.Err
	}
	return err
}
