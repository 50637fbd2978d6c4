// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package volumeplugin

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"fsva/gofer/atomicfile"
	"fsva/gofer/supervisor"
)

const (
	recordVersion = 1
	maxRecord     = 4 << 20
	// Bounds of what docker can have recorded.
	maxID     = 256
	maxMounts = 10000
)

// record is what the plugin knows of a volume that docker has mounted.
type record struct {
	Version int `json:"version"`
	// Owned says that the plugin started the volume, so that it also stops it: the
	// supervisor PID, or whoever serves it if that was not noted in time.
	Owned bool `json:"owned,omitempty"`
	PID   int  `json:"pid,omitempty"`
	// OnHost says that the volume is mounted on the host as well.
	OnHost bool `json:"onHost,omitempty"`
	// Mounts are docker's, one for each that a container has.
	Mounts []mount `json:"mounts,omitempty"`
}

// mount is one of docker's.
type mount struct {
	ID string `json:"id"`
	// By is the daemon that asked for it. One that is killed does not take its mounts
	// back, and the next one has forgotten them.
	By process `json:"by,omitzero"`
}

// used reports whether there is anything to undo.
func (r *record) used() bool { return r.Owned || r.OnHost || len(r.Mounts) > 0 }

// add adds a mount. Docker repeats a request when an answer is lost, and a container
// that is started again has the same ID.
func (r *record) add(m mount) error {
	i := slices.IndexFunc(r.Mounts, func(o mount) bool { return o.ID == m.ID })
	switch {
	case m.ID == "":
		return errors.New("the request names no mount (ID)")
	case len(m.ID) > maxID:
		return fmt.Errorf("the mount's ID has %d characters, the most is %d", len(m.ID), maxID)
	case i >= 0:
		r.Mounts[i] = m
		return nil
	case len(r.Mounts) == maxMounts:
		return fmt.Errorf("it is mounted %d times already", maxMounts)
	}
	r.Mounts = append(r.Mounts, m)
	return nil
}

// ours reports whether the supervisor that says s is the one that the plugin started.
func (r *record) ours(s supervisor.Status) bool {
	return r.Owned && (r.PID == 0 || r.PID == s.PID)
}

// records are the records on disk. Operations on one volume must not run at the same time.
type records struct{ dir string }

const recordSuffix = ".json"

func (t records) path(name string) string { return filepath.Join(t.dir, name+recordSuffix) }

// load returns a volume's record; an empty one if there is none.
func (t records) load(name string) (record, error) {
	f, err := os.Open(t.path(name))
	if errors.Is(err, os.ErrNotExist) {
		return record{Version: recordVersion}, nil
	}
	if err != nil {
		return record{}, err
	}
	defer f.Close()
	var r record
	b, err := io.ReadAll(io.LimitReader(f, maxRecord))
	if err == nil {
		err = json.Unmarshal(b, &r)
	}
	if err == nil && r.Version != recordVersion {
		err = fmt.Errorf("version %d is not %d", r.Version, recordVersion)
	}
	if err != nil {
		return record{}, fmt.Errorf("who has volume %q mounted is not known: %s: %w: remove the file when no container uses the volume", name, f.Name(), err)
	}
	return r, nil
}

// save replaces a volume's record; one with nothing in it goes.
func (t records) save(name string, r record) error {
	if !r.used() {
		if err := os.Remove(t.path(name)); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
		return nil
	}
	b, err := json.Marshal(r)
	if err != nil {
		return err
	}
	if err := atomicfile.Write(t.path(name), b, atomicfile.Options{Mode: 0o600}); err != nil {
		return fmt.Errorf("note who has volume %q mounted: %w", name, err)
	}
	return nil
}

// names lists the volumes that have a record.
func (t records) names() ([]string, error) {
	entries, err := os.ReadDir(t.dir)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, e := range entries {
		if name, ok := strings.CutSuffix(e.Name(), recordSuffix); ok {
			names = append(names, name)
		}
	}
	return names, nil
}
