// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package sentryglue

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"fsva/gofer/atomicfile"
)

// bundleConfig is a bundle's config.json. All but the annotations and the sources of
// some mounts is kept as it was found, so that fields this program does not know survive.
type bundleConfig struct {
	path        string // with symbolic links resolved
	top         map[string]json.RawMessage
	mounts      []specs.Mount
	annotations map[string]string
	sources     map[int]string // of mounts, changed
}

// setSource changes the source of a mount.
func (c *bundleConfig) setSource(index int, source string) {
	if c.mounts[index].Source == source {
		return
	}
	c.mounts[index].Source = source
	if c.sources == nil {
		c.sources = map[int]string{}
	}
	c.sources[index] = source
}

// encodeMounts returns the mounts with their current sources.
func (c *bundleConfig) encodeMounts() (json.RawMessage, error) {
	var mounts []map[string]json.RawMessage
	if err := json.Unmarshal(c.top["mounts"], &mounts); err != nil {
		return nil, err
	}
	for i, source := range c.sources {
		raw, err := json.Marshal(source)
		if err != nil {
			return nil, err
		}
		// Whoever reads it ignores case, too.
		maps.DeleteFunc(mounts[i], func(key string, _ json.RawMessage) bool { return strings.EqualFold(key, "source") })
		mounts[i]["source"] = raw
	}
	return json.Marshal(mounts)
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

// encode returns c with its current annotations and sources.
func (c *bundleConfig) encode() ([]byte, error) {
	if len(c.sources) > 0 {
		mounts, err := c.encodeMounts()
		if err != nil {
			return nil, err
		}
		c.top["mounts"] = mounts
	}
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
	return atomicfile.Write(c.path, data, atomicfile.Options{
		Mode: st.Mode & 0o7777, Owner: &atomicfile.Owner{UID: int(st.Uid), GID: int(st.Gid)},
	})
}
