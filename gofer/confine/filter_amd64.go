// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package confine

import (
	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/seccomp"
)

// archCommonRules are the runtime's system calls that only amd64 has.
func archCommonRules() seccomp.SyscallRules {
	rules := all(unix.SYS_POLL, unix.SYS_EPOLL_WAIT)
	rules.Merge(seccomp.MakeSyscallRules(map[uintptr]seccomp.SyscallRule{
		unix.SYS_ARCH_PRCTL: seccomp.MatchAll{},
	}))
	return rules
}

// archFileRules are the path operations without an *at form in their name.
func archFileRules() seccomp.SyscallRules {
	return all(
		unix.SYS_OPEN, unix.SYS_CREAT, unix.SYS_STAT, unix.SYS_LSTAT, unix.SYS_NEWFSTATAT, unix.SYS_ACCESS,
		unix.SYS_READLINK, unix.SYS_GETDENTS, unix.SYS_MKDIR, unix.SYS_RMDIR, unix.SYS_MKNOD,
		unix.SYS_UNLINK, unix.SYS_LINK, unix.SYS_SYMLINK, unix.SYS_RENAME,
		unix.SYS_CHMOD, unix.SYS_CHOWN, unix.SYS_LCHOWN, unix.SYS_UTIMES, unix.SYS_FUTIMESAT,
	)
}
