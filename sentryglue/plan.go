// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package sentryglue

import (
	"encoding/json"
	"fmt"
	"os"
	"strconv"

	"fsva/gofer/attach"
)

// planEnv carries the plan from the process that creates a container to the
// gofer that it starts.
const planEnv = "FSVA_RUNSC_PLAN"

// plan is what the gofer extension has to do.
type plan struct {
	Mounts []plannedMount `json:"mounts"`
	// Share is the part of the sandbox's descriptors that is this container's:
	// one in so many.
	Share int `json:"share"`
}

// plannedMount is one volume among the container's mounts.
type plannedMount struct {
	Index       int    `json:"index"` // in the spec's mounts
	Volume      string `json:"volume"`
	Source      string `json:"source"` // the volume's directory
	Destination string `json:"destination"`
	// HintSource is hintExclusive or hintShared.
	HintSource string   `json:"hintSource"`
	Options    []string `json:"options"` // to add to the mount's own
	ReadOnly   bool     `json:"readOnly"`
}

// newPlannedMount plans the volume info as the mount of the given index and
// destination.
func newPlannedMount(index int, source, destination string, options []string, info attach.Info) plannedMount {
	m := plannedMount{
		Index:       index,
		Volume:      info.Name,
		Source:      source,
		Destination: destination,
		HintSource:  hintExclusive,
		ReadOnly:    info.ReadOnly || hasOption(options, "ro"),
	}
	if info.Coherence == attach.Shared {
		m.HintSource = hintShared
	}
	if m.ReadOnly && !hasOption(options, "ro") {
		m.Options = append(m.Options, "ro")
	}
	// As FUSE mounts are: what a file system says of device numbers and set-user-ID
	// programs is not the container's. (The sentry would open a device node of the
	// volume as its own device of that number.)
	for _, o := range []string{"nosuid", "nodev"} {
		if !hasOption(options, o) {
			m.Options = append(m.Options, o)
		}
	}
	// Sharing handles hides the close of a file, lets mappings go stale that a
	// second client writes to, and swallows the error of fsync.
	if info.Coherence == attach.Shared || info.StrictFsync && !m.ReadOnly {
		if !hasOption(options, "disable_file_handle_sharing") {
			m.Options = append(m.Options, "disable_file_handle_sharing")
		}
	}
	if info.DentryCache > 0 && !hasOption(options, "dcache") {
		m.Options = append(m.Options, "dcache="+strconv.Itoa(info.DentryCache))
	}
	return m
}

// cannotMount begins every error about a mount; reason.go knows them by it.
const cannotMount = "cannot mount volume "

// describe returns err with the volume and the mount it is about.
func (m plannedMount) describe(err error) error {
	return fmt.Errorf(cannotMount+"%q at %q: %w", m.Volume, m.Destination, err)
}

// setEnv leaves p for the gofers that this process starts.
func (p *plan) setEnv() error {
	data, err := json.Marshal(p)
	if err != nil {
		return fmt.Errorf("encode the plan for volumes: %w", err)
	}
	return os.Setenv(planEnv, string(data))
}

func decodePlan(s string) (*plan, error) {
	p := &plan{}
	if err := json.Unmarshal([]byte(s), p); err != nil {
		return nil, fmt.Errorf("%s: %w", planEnv, err)
	}
	return p, nil
}
