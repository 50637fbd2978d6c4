// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package attach

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"

	"golang.org/x/sys/unix"

	"fsva/gofer/atomicfile"
)

// infoType marks volume.json as ours: other programs may well keep a file of
// that name in a directory that somebody mounts.
const infoType = "fsva-volume"

// The values of Info.Coherence.
const (
	Exclusive = "exclusive"
	Shared    = "shared"
)

// maxDentryCache bounds Info.DentryCache: each cached dentry costs the sentry
// memory and may pin a descriptor.
const maxDentryCache = 1 << 20

var nameRE = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.-]{0,127}$`)

// Info is volume.json: what runsc has to know about a volume before the
// sandbox starts. It is immutable while the volume runs.
type Info struct {
	// Version is the constant Version.
	Version int `json:"version"`
	// Name is the volume's name, Appliance its kind of file system.
	Name      string `json:"name"`
	Appliance string `json:"appliance"`
	// Coherence is Exclusive or Shared.
	Coherence string `json:"coherence"`
	// ReadOnly reports whether no client may write.
	ReadOnly bool `json:"readOnly"`
	// StrictFsync asks for truthful fsync errors at the price of speed.
	StrictFsync bool `json:"strictFsync"`
	// DentryCache is the number of dentries a sentry keeps; 0 is the sentry's
	// own default.
	DentryCache int `json:"dentryCache"`
	// Dedicated marks a directory without a socket: runsc starts an instance of the
	// volume for each container, and mounts that one's directory instead. It is a
	// claim only, which runsc checks (package volume).
	Dedicated bool `json:"dedicated,omitempty"`
}

// infoFile is Info as stored.
type infoFile struct {
	Type string `json:"type"`
	Info
}

// Check returns an error that names the first field with a value that no
// volume may have.
func (i Info) Check() error {
	switch {
	case i.Version != Version:
		return fmt.Errorf("version %d, this program knows version %d", i.Version, Version)
	case !ValidName(i.Name):
		return fmt.Errorf("bad volume name %.64q", i.Name)
	case !ValidName(i.Appliance):
		return fmt.Errorf("bad appliance name %.64q", i.Appliance)
	case i.Coherence != Exclusive && i.Coherence != Shared:
		return fmt.Errorf("coherence %.64q is neither %q nor %q", i.Coherence, Exclusive, Shared)
	case i.DentryCache < 0 || i.DentryCache > maxDentryCache:
		return fmt.Errorf("dentryCache %d is not between 0 and %d", i.DentryCache, maxDentryCache)
	}
	return nil
}

// ValidName reports whether s may name a volume or an appliance: 1 to 128
// letters, digits, '_', '.' and '-', beginning with a letter or digit.
func ValidName(s string) bool { return nameRE.MatchString(s) }

// ReadInfo reads dir's volume.json. The error is ErrNotVolume when there is
// none, or when the file of that name is not ours (no regular file, not owned
// by root or this process's user, too big, or without our mark).
func ReadInfo(dir string) (Info, error) {
	path := filepath.Join(dir, InfoName)
	// O_NONBLOCK: the name may belong to a FIFO.
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP) || errors.Is(err, unix.ENXIO) {
		return Info{}, ErrNotVolume
	}
	if err != nil {
		return Info{}, fmt.Errorf("open %s: %w", path, err)
	}
	f := os.NewFile(uintptr(fd), path)
	defer f.Close()
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return Info{}, fmt.Errorf("stat %s: %w", path, err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG || st.Size > maxLine {
		return Info{}, ErrNotVolume
	}
	if (st.Uid != 0 && int(st.Uid) != unix.Geteuid()) || st.Mode&0o022 != 0 {
		return Info{}, ErrNotVolume
	}
	data, err := io.ReadAll(io.LimitReader(f, maxLine+1))
	if err != nil {
		return Info{}, fmt.Errorf("read %s: %w", path, err)
	}
	info, err := decodeInfo(data)
	if err != nil && err != ErrNotVolume {
		return Info{}, fmt.Errorf("%s: %w", path, err)
	}
	return info, err
}

// decodeInfo is ErrNotVolume for what does not carry our mark, and strict
// about what does.
func decodeInfo(data []byte) (Info, error) {
	if len(data) > maxLine {
		return Info{}, ErrNotVolume
	}
	var mark struct {
		Type    string `json:"type"`
		Version int    `json:"version"`
	}
	if err := json.Unmarshal(data, &mark); err != nil || mark.Type != infoType {
		return Info{}, ErrNotVolume
	}
	// Before the unknown fields that a newer version may well have.
	if mark.Version != Version {
		return Info{}, fmt.Errorf("version %d, this program knows version %d", mark.Version, Version)
	}
	var file infoFile
	if err := decodeStrict(data, &file); err != nil {
		return Info{}, err
	}
	if err := file.Info.Check(); err != nil {
		return Info{}, err
	}
	return file.Info, nil
}

// decodeStrict decodes exactly one JSON value without unknown fields.
func decodeStrict(data []byte, v any) error {
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return err
	}
	if _, err := d.Token(); err != io.EOF {
		return errors.New("more than one JSON value")
	}
	return nil
}

// WriteInfo stores i as dir's volume.json, mode 0644, replacing an old one
// atomically.
func WriteInfo(dir string, i Info) error {
	if err := i.Check(); err != nil {
		return fmt.Errorf("%s: %w", filepath.Join(dir, InfoName), err)
	}
	data, err := json.MarshalIndent(infoFile{Type: infoType, Info: i}, "", "  ")
	if err != nil {
		return err
	}
	return atomicfile.Write(filepath.Join(dir, InfoName), append(data, '\n'), atomicfile.Options{Mode: 0o644})
}
