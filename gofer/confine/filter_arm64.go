// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package confine

import (
	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/seccomp"
)

// archCommonRules are the runtime's system calls that only arm64 has.
func archCommonRules() seccomp.SyscallRules { return seccomp.NewSyscallRules() }

// archFileRules: on arm64 every path operation has the *at form only.
func archFileRules() seccomp.SyscallRules { return all(unix.SYS_FSTATAT) }
