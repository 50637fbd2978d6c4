// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package volume

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"fsva/gofer/atomicfile"
	"fsva/gofer/attach"
	"fsva/gofer/supervisor"
)

const (
	definitionName = "definition.json"
	logName        = "log"
	// maxDefinition bounds a stored definition in bytes.
	maxDefinition = 256 << 10
)

var (
	// ErrNotDefined is wrapped by errors about volumes without a definition.
	ErrNotDefined = errors.New("no such volume is defined (see fsva volume ls)")
	// ErrExists is wrapped by errors of Create for a name that is taken.
	ErrExists = errors.New("a volume of that name is defined already (see fsva volume inspect)")
)

func notDefined(name string) error { return fmt.Errorf("volume %q: %w", name, ErrNotDefined) }

// Store is the definitions of a state directory. Its methods may be called
// concurrently, and by several processes.
type Store struct{ state string }

// Open returns the store below stateDir, an absolute path. Nothing is made before
// the first Create.
func Open(stateDir string) *Store { return &Store{state: stateDir} }

func (s *Store) volumes() string            { return filepath.Join(s.state, "volumes") }
func (s *Store) dir(name string) string     { return filepath.Join(s.volumes(), name) }
func (s *Store) path(name string) string    { return filepath.Join(s.dir(name), definitionName) }
func (s *Store) dedicated() string          { return filepath.Join(s.state, "dedicated") }
func (s *Store) LogPath(name string) string { return filepath.Join(s.dir(name), logName) }

// MountDir is the directory of a dedicated volume that containers mount.
func (s *Store) MountDir(name string) string { return filepath.Join(s.dedicated(), name) }

// file is a Definition as stored.
type file struct {
	Version int `json:"version"`
	Definition
}

// lock keeps other processes from changing the store.
func (s *Store) lock() (unlock func(), err error) {
	if err := os.MkdirAll(s.state, 0o755); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(s.volumes(), 0o700); err != nil {
		return nil, err
	}
	f, err := os.Open(s.volumes())
	if err != nil {
		return nil, err
	}
	for {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX)
		if err == nil {
			return func() { f.Close() }, nil
		}
		if err != unix.EINTR {
			f.Close()
			return nil, fmt.Errorf("lock %s: %w", f.Name(), err)
		}
	}
}

// Create checks d as if it were to be served and stores it, its paths made absolute.
// It returns what was stored. After an error nothing has changed.
func (s *Store) Create(d Definition) (Definition, error) {
	if err := supervisor.CheckName(d.Name); err != nil {
		return Definition{}, err
	}
	d, err := d.Absolute()
	if err != nil {
		return Definition{}, err
	}
	plan, err := d.Resolve(s.state)
	if err != nil {
		return Definition{}, err
	}
	data, err := json.MarshalIndent(file{Version, d}, "", "  ")
	if err != nil {
		return Definition{}, err
	}
	data = append(data, '\n')
	if len(data) > maxDefinition {
		return Definition{}, fmt.Errorf("volume %q: the definition has %d bytes, the most is %d", d.Name, len(data), maxDefinition)
	}
	unlock, err := s.lock()
	if err != nil {
		return Definition{}, fmt.Errorf("volume %q: state directory: %w", d.Name, err)
	}
	defer unlock()
	if _, err := os.Lstat(s.path(d.Name)); err == nil {
		return Definition{}, fmt.Errorf("volume %q: %w", d.Name, ErrExists)
	} else if !errors.Is(err, os.ErrNotExist) {
		return Definition{}, err
	}
	err = os.MkdirAll(s.dir(d.Name), 0o700)
	if err == nil && d.Dedicated {
		err = s.makeMountDir(d.info(plan))
	}
	if err == nil {
		err = atomicfile.Write(s.path(d.Name), data, atomicfile.Options{Mode: 0o600, Durable: true})
	}
	if err != nil {
		return Definition{}, errors.Join(fmt.Errorf("volume %q: %w", d.Name, err), s.clear(d.Name))
	}
	return d, nil
}

// makeMountDir makes the directory that containers mount. There may be an empty one,
// made by docker for somebody who was early, or what a crash has left.
func (s *Store) makeMountDir(info attach.Info) error {
	dir := s.MountDir(info.Name)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	return attach.WriteInfo(dir, info)
}

// Get returns the definition of a volume. The error wraps ErrNotDefined if there is
// none.
func (s *Store) Get(name string) (Definition, error) {
	if err := supervisor.CheckName(name); err != nil {
		return Definition{}, err
	}
	f, err := os.Open(s.path(name))
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ENOTDIR) {
		return Definition{}, notDefined(name)
	}
	if err != nil {
		return Definition{}, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxDefinition+1))
	if err != nil {
		return Definition{}, fmt.Errorf("volume %q: %w", name, err)
	}
	d, err := decode(data)
	if err == nil && d.Name != name {
		err = fmt.Errorf("it is the definition of %q", d.Name)
	}
	if err != nil {
		return Definition{}, fmt.Errorf("volume %q: %s: %w", name, s.path(name), err)
	}
	return d, nil
}

func decode(data []byte) (Definition, error) {
	if len(data) > maxDefinition {
		return Definition{}, fmt.Errorf("more than %d bytes", maxDefinition)
	}
	var version struct {
		Version int `json:"version"`
	}
	if err := json.Unmarshal(data, &version); err != nil {
		return Definition{}, err
	}
	// Before the unknown fields that a newer version may well have.
	if version.Version != Version {
		return Definition{}, fmt.Errorf("version %d, this program knows version %d", version.Version, Version)
	}
	var f file
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&f); err != nil {
		return Definition{}, err
	}
	return f.Definition, f.Limits.Check()
}

// List returns all definitions, by name. Those that can be read are returned even if
// there is an error.
func (s *Store) List() ([]Definition, error) {
	entries, err := os.ReadDir(s.volumes())
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var all []Definition
	var errs []error
	for _, e := range entries {
		if supervisor.CheckName(e.Name()) != nil {
			continue
		}
		d, err := s.Get(e.Name())
		if errors.Is(err, ErrNotDefined) {
			continue // only what an appliance keeps
		}
		if err != nil {
			errs = append(errs, err)
			continue
		}
		all = append(all, d)
	}
	return all, errors.Join(errs...)
}

// Remove removes a definition, whether the volume runs or not: that is the caller's
// to find out, see Held. What the appliance keeps from one run to the next stays,
// and is returned: it may be somebody's data.
func (s *Store) Remove(name string) (kept []string, err error) {
	if err := supervisor.CheckName(name); err != nil {
		return nil, err
	}
	if _, err := os.Lstat(s.path(name)); errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ENOTDIR) {
		return nil, notDefined(name)
	}
	unlock, err := s.lock()
	if err != nil {
		return nil, err
	}
	defer unlock()
	err = os.Remove(s.path(name))
	if errors.Is(err, os.ErrNotExist) {
		return nil, notDefined(name)
	}
	if err != nil {
		return nil, fmt.Errorf("volume %q: %w", name, err)
	}
	if err := s.clear(name); err != nil {
		return nil, fmt.Errorf("volume %q is removed, but: %w", name, err)
	}
	entries, err := os.ReadDir(s.dir(name))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	for _, e := range entries {
		kept = append(kept, filepath.Join(s.dir(name), e.Name()))
	}
	return kept, nil
}

// clear removes what a volume without a definition has no use for. It removes only
// what it knows, and directories only when they are empty.
func (s *Store) clear(name string) error {
	var errs []error
	for _, dir := range []string{s.dir(name), s.MountDir(name)} {
		if err := atomicfile.Sweep(dir); err != nil && !errors.Is(err, os.ErrNotExist) && !errors.Is(err, unix.ENOTDIR) {
			errs = append(errs, err)
		}
	}
	for _, path := range []string{
		s.LogPath(name), s.LogPath(name) + ".1", filepath.Join(s.MountDir(name), attach.InfoName),
		s.MountDir(name), s.dir(name),
	} {
		err := os.Remove(path)
		if err != nil && !errors.Is(err, os.ErrNotExist) && !errors.Is(err, unix.ENOTEMPTY) && !errors.Is(err, unix.ENOTDIR) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}
