// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package sentryglue

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// bundleConfig is a bundle's config.json. All but the annotations is kept as it
// was found, so that fields this program does not know survive.
type bundleConfig struct {
	path        string // with symbolic links resolved
	top         map[string]json.RawMessage
	mounts      []specs.Mount
	annotations map[string]string
}

// readBundleConfig reads the config.json of the bundle in dir.
func readBundleConfig(dir string) (*bundleConfig, error) {
	path, err := filepath.EvalSymlinks(filepath.Join(dir, "config.json"))
	if err != nil {
		return nil, err
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	c, err := decodeBundleConfig(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	c.path = path
	return c, nil
}

func decodeBundleConfig(data []byte) (*bundleConfig, error) {
	c := &bundleConfig{}
	if err := json.Unmarshal(data, &c.top); err != nil {
		return nil, err
	}
	if raw, ok := c.top["mounts"]; ok {
		if err := json.Unmarshal(raw, &c.mounts); err != nil {
			return nil, fmt.Errorf("mounts: %w", err)
		}
	}
	if raw, ok := c.top["annotations"]; ok {
		if err := json.Unmarshal(raw, &c.annotations); err != nil {
			return nil, fmt.Errorf("annotations: %w", err)
		}
	}
	return c, nil
}

// encode returns c with its current annotations.
func (c *bundleConfig) encode() ([]byte, error) {
	raw, err := json.Marshal(c.annotations)
	if err != nil {
		return nil, err
	}
	if c.top == nil {
		c.top = make(map[string]json.RawMessage)
	}
	if _, had := c.top["annotations"]; had || len(c.annotations) > 0 {
		c.top["annotations"] = raw
	}
	return json.Marshal(c.top)
}

// write replaces config.json, in one step, keeping its mode and owner.
func (c *bundleConfig) write() error {
	data, err := c.encode()
	if err != nil {
		return fmt.Errorf("encode %s: %w", c.path, err)
	}
	var st unix.Stat_t
	if err := unix.Stat(c.path, &st); err != nil {
		return fmt.Errorf("stat %s: %w", c.path, err)
	}
	f, err := os.CreateTemp(filepath.Dir(c.path), ".config.json.")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(data)
	if err == nil && (int(st.Uid) != unix.Geteuid() || int(st.Gid) != unix.Getegid()) {
		err = f.Chown(int(st.Uid), int(st.Gid))
	}
	if err == nil {
		err = unix.Fchmod(int(f.Fd()), st.Mode&0o7777)
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", f.Name(), err)
	}
	return os.Rename(f.Name(), c.path)
}
