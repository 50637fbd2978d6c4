// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package image

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sys/unix"

	"fsva/gofer/atomicfile"
)

// flock opens path and locks it with how. The lock goes with the file.
func flock(path string, flags, how int) (*os.File, error) {
	f, err := os.OpenFile(path, flags, 0o600)
	if err != nil {
		return nil, err
	}
	for {
		if err = unix.Flock(int(f.Fd()), how); !errors.Is(err, unix.EINTR) {
			break
		}
	}
	if err != nil {
		f.Close()
		return nil, &os.PathError{Op: "lock", Path: path, Err: err}
	}
	return f, nil
}

// lease keeps a root from being removed.
func lease(root string) (release func(), err error) {
	f, err := flock(root, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, unix.LOCK_SH|unix.LOCK_NB)
	if err != nil {
		return nil, err
	}
	return func() { f.Close() }, nil
}

// leased reports whether somebody has a lease of a root.
func leased(root string) (bool, error) {
	f, err := flock(root, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return true, nil
	}
	if err != nil {
		return false, err
	}
	return false, f.Close()
}

// lock takes the store's lock for a moment. There must be a store.
func (s *Store) lock() (unlock func(), err error) {
	f, err := flock(s.at("lock"), unix.O_RDWR|unix.O_CREAT, unix.LOCK_EX)
	if err != nil {
		return nil, err
	}
	return func() { f.Close() }, nil
}

// read returns the index, which does not change, nor do blobs and roots, until unlock.
func (s *Store) read() (index *v1.IndexManifest, unlock func(), err error) {
	unlock = func() {}
	if _, err := os.Stat(s.at("index.json")); err == nil {
		if unlock, err = s.lock(); err != nil {
			return nil, nil, fmt.Errorf("image store %s: %w", s.dir, plain(err))
		}
	}
	if index, err = s.readIndex(); err != nil {
		unlock()
		return nil, nil, err
	}
	return index, unlock, nil
}

// change is something that is being prepared. Its directory has what will be in the store.
type change struct {
	s     *Store
	dir   string
	owner *os.File // holds the flock of dir
	open  []*os.File
}

// begin makes the store if there is none, and a directory in tmp with blobs, a place for a root, and trash.
func (s *Store) begin() (*change, error) {
	c, err := s.tryBegin()
	if err != nil {
		return nil, fmt.Errorf("image store %s: %w", s.dir, plain(err))
	}
	return c, nil
}

func (s *Store) tryBegin() (_ *change, err error) {
	for _, dir := range []string{"blobs/sha256", "roots", "tmp"} {
		if err := os.MkdirAll(s.at(dir), 0o700); err != nil {
			return nil, err
		}
	}
	unlock, err := s.lock()
	if err != nil {
		return nil, err
	}
	left, dir, owner, err := func() (left []*os.File, dir string, owner *os.File, err error) {
		defer unlock()
		left, err = s.leftovers()
		if err != nil {
			return left, "", nil, err
		}
		if dir, err = os.MkdirTemp(s.at("tmp"), ""); err != nil {
			return left, "", nil, err
		}
		owner, err = flock(dir, unix.O_RDONLY|unix.O_DIRECTORY, unix.LOCK_EX|unix.LOCK_NB)
		return left, dir, owner, err
	}()
	for _, f := range left {
		err = errors.Join(err, os.RemoveAll(f.Name()), f.Close())
	}
	c := &change{s: s, dir: dir, owner: owner}
	if err == nil {
		for _, name := range []string{"blobs", "trash", "build"} {
			err = errors.Join(err, os.Mkdir(filepath.Join(dir, name), 0o700))
		}
	}
	if err != nil {
		if owner != nil {
			return nil, errors.Join(err, c.end())
		}
		return nil, err
	}
	return c, nil
}

// leftovers takes over the directories in tmp whose owners are gone. The caller holds the store's lock.
func (s *Store) leftovers() ([]*os.File, error) {
	entries, err := os.ReadDir(s.at("tmp"))
	if err != nil {
		return nil, err
	}
	var left []*os.File
	for _, e := range entries {
		f, err := flock(s.at("tmp", e.Name()), unix.O_RDONLY|unix.O_DIRECTORY, unix.LOCK_EX|unix.LOCK_NB)
		if errors.Is(err, unix.EWOULDBLOCK) || errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return left, err
		}
		left = append(left, f)
	}
	return left, nil
}

// end removes what is left of the change.
func (c *change) end() error {
	var err error
	for _, f := range c.open {
		err = errors.Join(err, f.Close())
	}
	return errors.Join(err, os.RemoveAll(c.dir), c.owner.Close())
}

func (c *change) blobPath(h v1.Hash) string { return filepath.Join(c.dir, "blobs", h.Hex) }
func (c *change) rootPath() string          { return filepath.Join(c.dir, "root") }

// commit moves blobs and root, if there is one, into place, changes the index, and takes what nobody needs any more out
// of the store.
func (c *change) commit(chain v1.Hash, edit func(*v1.IndexManifest) error) error {
	if err := c.flush(); err != nil {
		return fmt.Errorf("image store: flush %s: %w", c.dir, err)
	}
	unlock, err := c.s.lock()
	if err != nil {
		return err
	}
	defer unlock()
	index, err := c.s.readIndex()
	if err != nil {
		return err
	}
	if err := edit(index); err != nil {
		return err
	}
	blobs, err := os.ReadDir(filepath.Join(c.dir, "blobs"))
	if err != nil {
		return err
	}
	for _, b := range blobs {
		if err := os.Rename(filepath.Join(c.dir, "blobs", b.Name()), c.s.at("blobs", "sha256", b.Name())); err != nil {
			return err
		}
	}
	if chain.Hex != "" {
		if err := c.placeRoot(chain); err != nil {
			return err
		}
	}
	for _, dir := range []string{"blobs/sha256", "roots"} {
		if err := atomicfile.SyncDir(c.s.at(dir)); err != nil {
			return err
		}
	}
	if err := c.s.writeIndex(index); err != nil {
		return err
	}
	return c.collect(index)
}

// placeRoot moves the new root into place. One that is there already has the same contents: it stays if it is in use, and
// is replaced otherwise, in case it was damaged. The caller holds the store's lock.
func (c *change) placeRoot(chain v1.Hash) error {
	place := c.s.rootPath(chain)
	used, err := leased(place)
	switch {
	case errors.Is(err, os.ErrNotExist):
	case err != nil:
		return err
	case used:
		return nil
	default:
		if err := os.Rename(place, filepath.Join(c.dir, "trash", "replaced")); err != nil {
			return err
		}
	}
	return os.Rename(c.rootPath(), place)
}

// flush brings what was written to the disk.
func (c *change) flush() error { return c.s.sync(int(c.owner.Fd())) }

// collect moves the blobs and roots that the index does not need to the change's trash, but for roots in use. The caller
// holds the store's lock.
func (c *change) collect(index *v1.IndexManifest) error {
	needed := map[string]bool{}
	for _, d := range index.Manifests {
		needed["blobs/sha256/"+d.Digest.Hex] = true
		st, err := c.s.load(d)
		if err != nil {
			// Something is damaged: what else it needs is not known, so everything stays.
			return nil
		}
		needed["roots/"+st.chain.Hex] = true
		needed["blobs/sha256/"+st.manifest.Config.Digest.Hex] = true
		for _, l := range st.manifest.Layers {
			needed["blobs/sha256/"+l.Digest.Hex] = true
		}
	}
	for _, dir := range []string{"blobs/sha256", "roots"} {
		entries, err := os.ReadDir(c.s.at(dir))
		if err != nil {
			return err
		}
		for _, e := range entries {
			if needed[dir+"/"+e.Name()] {
				continue
			}
			if e.IsDir() {
				if used, err := leased(c.s.at(dir, e.Name())); err != nil {
					return err
				} else if used {
					continue
				}
			}
			if err := os.Rename(c.s.at(dir, e.Name()), filepath.Join(c.dir, "trash", e.Name()+"-"+filepath.Base(dir))); err != nil {
				return err
			}
		}
	}
	return nil
}

// Remove forgets an image and removes what no other needs. An image that a volume runs in is not removed. The error is a
// *NotFoundError if there is none of that name.
func (s *Store) Remove(name string) (err error) {
	if _, err := s.Inspect(name); errors.As(err, new(*NotFoundError)) {
		return err
	}
	c, err := s.begin()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.end()) }()
	return c.commit(v1.Hash{}, func(index *v1.IndexManifest) error {
		i := find(index, name)
		if i < 0 {
			return &NotFoundError{name}
		}
		st, err := s.load(index.Manifests[i])
		if err == nil {
			used, err := leased(s.rootPath(st.chain))
			if err != nil && !errors.Is(err, os.ErrNotExist) {
				return fmt.Errorf("image %q: %w", name, err)
			}
			if used {
				return fmt.Errorf("image %q is in use: stop the volumes that run in it first (fsva ls)", name)
			}
		} // else it is damaged, and may go
		index.Manifests = append(index.Manifests[:i], index.Manifests[i+1:]...)
		return nil
	})
}
