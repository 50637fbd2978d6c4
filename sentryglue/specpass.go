// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package sentryglue

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"fsva/gofer/attach"
	"fsva/gofer/volume"
	"gvisor.dev/gvisor/runsc/boot"
	"gvisor.dev/gvisor/runsc/container"
	"gvisor.dev/gvisor/runsc/specutils"
)

const (
	defaultRunDir = "/run/fsva"

	// hintName begins the names of our hints. The names of this form are ours:
	// hints of an earlier pass over the same config.json are replaced.
	hintName = "fsva-"

	// hintExclusive and hintShared are the made-up sources under which the sentry
	// finds the hints for volumes. gVisor makes every real source absolute:
	// these cannot be one.
	hintExclusive = "fsva:exclusive"
	hintShared    = "fsva:shared"
)

// request is what the spec pass has to know about a command line.
type request struct {
	container string // its id
	bundle    string // the bundle's directory, "" is the working directory
	rootDir   string // where runsc keeps its state
	restore   bool   // the container may exist already
}

// specPass looks for volumes among the mounts of the container that r makes.
// If there are any, it asks their gofers, updates config.json and returns the
// plan for the gofer extension. The error, one line, is for the user. runDir
// is where volumes have their directories, "" for the default.
func specPass(r request, runDir string) (*plan, error) {
	bundle, err := filepath.Abs(r.bundle)
	if err != nil {
		return nil, nil // gVisor's to report
	}
	c, err := readBundleConfig(bundle)
	if err != nil {
		return nil, nil // gVisor's to report
	}
	dirs, err := dirsIn(runDir)
	if err != nil {
		return nil, fmt.Errorf("cannot look for volumes: %w", err)
	}
	store := volume.Open(dirs.State)
	var dedicated []dedicatedMount
	p := &plan{}
	infos := make(map[int]attach.Info)
	for i, m := range c.mounts {
		if !specutils.IsGoferMount(m) {
			continue
		}
		source := m.Source
		if !filepath.IsAbs(source) {
			source = filepath.Join(bundle, source)
		}
		if d, ok, err := store.Mounted(source, dirs.Run); err != nil {
			return nil, fmt.Errorf(cannotMount+"%q at %q: %w", filepath.Base(source), m.Destination, err)
		} else if ok {
			dedicated = append(dedicated, dedicatedMount{i, d})
			continue
		}
		info, err := attach.ReadInfo(source)
		if errors.Is(err, attach.ErrNotVolume) {
			if name, ok := deadVolume(source, runDir); ok {
				return nil, plannedMount{Volume: name, Destination: m.Destination}.describe(notRunning(name))
			}
			continue
		}
		if errno := unix.Errno(0); errors.As(err, &errno) {
			continue // as much of a secret to us as, say, a user's FUSE mount
		}
		if err != nil {
			return nil, fmt.Errorf("cannot mount a volume at %q: %w", m.Destination, err)
		}
		infos[i] = info
		p.Mounts = append(p.Mounts, newPlannedMount(i, source, m.Destination, m.Options, info))
	}
	kind := specutils.SpecContainerType(&specs.Spec{Annotations: c.annotations})
	joins := kind == specutils.ContainerTypeContainer
	if len(p.Mounts) > 0 && r.restore && !joins && containerExists(r) {
		// Created by an earlier command, which has attached its volumes.
		return nil, nil
	}
	if len(dedicated) > 0 {
		if !joins && containerExists(r) {
			return nil, nil // as above, or gVisor's to report
		}
		if err := startInstances(r, dirs, c, dedicated, p, infos); err != nil {
			return nil, err
		}
	}
	for i, m := range p.Mounts {
		if err := checkSupported(c, m); err != nil {
			return nil, m.describe(err)
		}
		if err := checkTwice(p.Mounts[:i], m, infos[m.Index]); err != nil {
			return nil, m.describe(err)
		}
		if err := checkRunning(m, r.container); err != nil {
			return nil, m.describe(err)
		}
	}
	if len(p.Mounts) > 0 {
		if p.Share, err = descriptorShare(r, c, kind); err != nil {
			return nil, p.Mounts[0].describe(err)
		}
	}
	before := maps.Clone(c.annotations)
	// The containers of a pod get their hints from its sandbox, which has to
	// have them before it is known what they mount.
	c.setHints(!joins && len(p.Mounts) > 0 || kind == specutils.ContainerTypeSandbox)
	if !maps.Equal(before, c.annotations) || len(c.sources) > 0 {
		// Without a volume, only a container that joins later would miss the
		// hints, and is told.
		if err := c.write(); err != nil && len(p.Mounts) > 0 {
			return nil, fmt.Errorf("cannot prepare the container's volumes: %w", err)
		}
	}
	if len(p.Mounts) == 0 {
		return nil, nil
	}
	return p, nil
}

// setHints makes the hints in c's annotations those for volumes, or none.
func (c *bundleConfig) setHints(wanted bool) {
	maps.DeleteFunc(c.annotations, func(key, _ string) bool {
		return strings.HasPrefix(key, boot.MountPrefix+hintName)
	})
	if !wanted {
		return
	}
	if c.annotations == nil {
		c.annotations = make(map[string]string)
	}
	// What gVisor caches: everything for the only container, nothing unchecked
	// otherwise.
	for share, source := range map[string]string{"container": hintExclusive, "shared": hintShared} {
		for key, value := range map[string]string{
			"source": source,
			"type":   boot.Bind,
			"share":  share,
			// The volume's gofer has no directory to open for the sentry.
			"directfs": "off",
		} {
			c.annotations[boot.MountPrefix+hintName+share+"."+key] = value
		}
	}
}

// descriptorShare returns which part of its sandbox's descriptors the
// container c of the given kind may use: one in so many. It fails for a
// container that joins a sandbox without our hints.
//
// The container that finds k-1 others gets 1/(k(k+1)), whatever joins and leaves
// later: of the containers that got 1/(k(k+1)) or more, at most k are there at
// any time, so that all together have less than 1/2 + 1/6 + 1/12 + ... = 1.
func descriptorShare(r request, c *bundleConfig, kind specutils.ContainerType) (int, error) {
	switch kind {
	case specutils.ContainerTypeSandbox:
		return 1 * 2, nil
	case specutils.ContainerTypeContainer:
	default:
		return 1, nil // nothing can join it
	}
	id, ok := specutils.SandboxID(&specs.Spec{Annotations: c.annotations})
	if !ok {
		return 0, errors.New("this container joins a pod's sandbox, and its annotations do not say which")
	}
	all, err := container.LoadSandbox(r.rootDir, id, container.LoadOpts{})
	if err != nil {
		return 0, fmt.Errorf("look for the pod's sandbox: %w", err)
	}
	k, found := 1, false
	for _, other := range all {
		if other.Sandbox == nil || other.Sandbox.ID != id || other.ID == r.container {
			continue
		}
		k++
		if other.ID == id {
			found = true
			if hints := other.Sandbox.MountHints; hints == nil || hints.FindMount(hintExclusive) == nil || hints.FindMount(hintShared) == nil {
				return 0, fmt.Errorf("the pod's sandbox %s was made by another runsc, which does not know volumes; make the pod again with this one", id)
			}
		}
	}
	if !found {
		return 0, fmt.Errorf("the pod has no sandbox %s here", id)
	}
	return k * (k + 1), nil
}

// checkSupported refuses what this package cannot do for the mount m.
func checkSupported(c *bundleConfig, m plannedMount) error {
	mount := c.mounts[m.Index]
	switch {
	case specutils.IsIDMappedMount(mount):
		return errors.New("id-mapped mounts of volumes are not supported")
	case filepath.Clean(m.Destination) == "/dev":
		return errors.New("a volume cannot be mounted at /dev")
	}
	for key, value := range c.annotations {
		name, isHint := strings.CutPrefix(key, boot.MountPrefix)
		if !isHint || strings.HasPrefix(name, hintName) || !strings.HasSuffix(name, ".source") {
			continue
		}
		if filepath.Clean(value) == filepath.Clean(m.Source) {
			return fmt.Errorf("annotation %q is a mount hint for it; remove it, a volume brings its own", key)
		}
	}
	return nil
}

// checkTwice refuses a second mount of a volume that its clients cache without
// looking, when one of them writes.
func checkTwice(earlier []plannedMount, m plannedMount, info attach.Info) error {
	if info.Coherence != attach.Exclusive {
		return nil
	}
	for _, other := range earlier {
		if !(other.ReadOnly && m.ReadOnly) && sameDir(other.Source, m.Source) {
			return fmt.Errorf("the volume is exclusive and this container has it at %q already; mount both read-only, or serve the volume with --coherence shared", other.Destination)
		}
	}
	return nil
}

func sameDir(a, b string) bool {
	ai, aerr := os.Stat(a)
	bi, berr := os.Stat(b)
	return aerr == nil && berr == nil && os.SameFile(ai, bi)
}

// checkRunning asks the volume's gofer.
func checkRunning(m plannedMount, container string) error {
	err := attach.Check(m.Source, attach.Request{
		Container:   container,
		Destination: m.Destination,
		ReadOnly:    m.ReadOnly,
	})
	if errors.Is(err, attach.ErrNotRunning) {
		return notRunning(m.Volume)
	}
	return err
}

// notRunning is the error for a volume without a gofer.
func notRunning(name string) error {
	return fmt.Errorf("the volume is not running; start it with: fsva serve %s", name)
}

// deadVolume reports whether dir, which holds no volume.json, is the place of a
// volume that does not run, and its name. A container manager makes the
// missing source of a bind mount as an empty directory, and an empty directory
// is not what was asked for.
func deadVolume(dir, runDir string) (name string, ok bool) {
	dir = filepath.Clean(dir)
	volumes := filepath.Dir(dir)
	if filepath.Base(volumes) != "volumes" {
		return "", false
	}
	if name = filepath.Base(dir); !attach.ValidName(name) {
		return "", false
	}
	if runDir == "" {
		runDir = defaultRunDir
	}
	if volumes == filepath.Join(runDir, "volumes") {
		return name, true
	}
	// The directories of a supervisor that runs elsewhere.
	for _, sibling := range []string{"control", "locks"} {
		if st, err := os.Lstat(filepath.Join(filepath.Dir(volumes), sibling)); err != nil || !st.IsDir() {
			return "", false
		}
	}
	return name, true
}

// containerExists reports whether runsc knows the container.
func containerExists(r request) bool {
	_, err := container.Load(r.rootDir, container.FullID{ContainerID: r.container}, container.LoadOpts{SkipCheck: true})
	return err == nil
}

// hasOption reports whether opts has the option name, with or without a value.
// As in gVisor, a later "rw" does not undo a "ro".
func hasOption(opts []string, name string) bool {
	for _, o := range opts {
		if key, _, _ := strings.Cut(o, "="); key == name {
			return true
		}
	}
	return false
}
