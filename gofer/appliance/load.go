// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package appliance

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"fsva/images"
)

// ManifestName is the file that makes a directory an appliance.
const ManifestName = "appliance.toml"

// ImagesEnv names the variable that holds directories of appliances, separated by colons, searched before all others.
const ImagesEnv = "FSVA_IMAGES"

// Store finds appliances. The first place that has one by that name wins; a place that cannot be read is an error, a
// missing one is not.
type Store struct {
	Places []Place
}

// Place is one directory of appliances.
type Place struct {
	Name string // as it appears in errors: the directory's path, or what it is
	FS   fs.FS
}

// DefaultStore searches FSVA_IMAGES, images beside the parent directory of the running binary, /usr/share/fsva/images,
// and last the appliances built into the binary.
func DefaultStore() Store {
	dirs := filepath.SplitList(os.Getenv(ImagesEnv))
	if exe, err := os.Executable(); err == nil {
		dirs = append(dirs, filepath.Join(filepath.Dir(filepath.Dir(exe)), "images"))
	}
	dirs = append(dirs, "/usr/share/fsva/images")
	var s Store
	for _, dir := range dirs {
		if dir != "" {
			s.Places = append(s.Places, Place{Name: dir, FS: os.DirFS(dir)})
		}
	}
	s.Places = append(s.Places, Place{Name: "(built in)", FS: images.FS})
	return s
}

// Load finds an appliance in the default store.
func Load(name string) (Manifest, error) { return DefaultStore().Load(name) }

// Names lists the appliances of the default store, sorted.
func Names() ([]string, error) { return DefaultStore().Names() }

// UnknownError says that there is no appliance of that name. Its text is one line and lists those that there are.
type UnknownError struct {
	Name  string
	Known []string
}

func (e *UnknownError) Error() string {
	return fmt.Sprintf("unknown appliance %q%s (known are %s)", e.Name, didYouMean(e.Name, e.Known), list(e.Known))
}

// Load finds and reads an appliance's manifest.
func (s Store) Load(name string) (Manifest, error) {
	if namePattern.MatchString(name) {
		for _, place := range s.Places {
			data, err := readManifest(place.FS, name)
			if errors.Is(err, fs.ErrNotExist) {
				continue
			}
			file := filepath.Join(place.Name, name, ManifestName)
			if err != nil {
				return Manifest{}, fmt.Errorf("manifest %s: %w", file, plainCause(err))
			}
			m, err := Parse(file, data)
			if err != nil {
				return Manifest{}, err
			}
			if m.Name != name {
				line, column := locate(data, []any{"name"})
				return Manifest{}, &ParseError{File: file, Line: line, Column: column, Reason: fmt.Sprintf("name %q is not that of its directory, %q", m.Name, name)}
			}
			return m, nil
		}
	}
	known, err := s.Names()
	if err != nil {
		return Manifest{}, err
	}
	return Manifest{}, &UnknownError{Name: name, Known: known}
}

// readManifest reads at most one byte more than a manifest may have, so that Parse can refuse it.
func readManifest(place fs.FS, name string) ([]byte, error) {
	f, err := place.Open(name + "/" + ManifestName)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, maxManifest+1))
}

// Names lists all appliances, sorted.
func (s Store) Names() ([]string, error) {
	var names []string
	for _, place := range s.Places {
		found, err := fs.Glob(place.FS, "*/"+ManifestName)
		if err != nil {
			return nil, fmt.Errorf("appliances in %s: %w", place.Name, err)
		}
		for _, f := range found {
			if dir := filepath.Dir(f); namePattern.MatchString(dir) {
				names = append(names, dir)
			}
		}
	}
	slices.Sort(names)
	return slices.Compact(names), nil
}
