// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package cgroup

import (
	"fmt"
	"math"

	"fsva/gofer/bytesize"
)

// Limits bound what the processes of a group may take together. Zero is no limit.
type Limits struct {
	CPU    float64 `json:"cpu,omitempty"`    // processors
	Memory int64   `json:"memory,omitempty"` // bytes
	Pids   int64   `json:"pids,omitempty"`   // processes and threads
}

// The least that limits may be. A volume does not start with less memory or fewer
// threads than that.
const (
	MinCPU    = 0.01
	MinMemory = 64 << 20
	MinPids   = 64
)

// maxCPU keeps a quota in microseconds far from overflowing.
const maxCPU = 1 << 16

// Check reports which limit is none.
func (l Limits) Check() error {
	switch {
	case l.CPU != 0 && !(l.CPU >= MinCPU && l.CPU <= maxCPU):
		return fmt.Errorf("cpu limit %v is not between %v and %d processors", l.CPU, MinCPU, maxCPU)
	case l.Memory != 0 && l.Memory < MinMemory:
		return fmt.Errorf("memory limit %s is below the least that a volume starts with, %s", bytesize.Format(l.Memory), bytesize.Format(MinMemory))
	case l.Pids != 0 && (l.Pids < MinPids || l.Pids > math.MaxInt32):
		return fmt.Errorf("pids limit %d is not between %d, the least that a volume starts with, and %d", l.Pids, MinPids, math.MaxInt32)
	}
	return nil
}
