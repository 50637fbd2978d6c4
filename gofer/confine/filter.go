// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package confine

import (
	"fmt"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/seccomp"
)

// Profile selects the system calls that remain after InstallFilter.
type Profile int

const (
	// Channel is for a gofer whose file system is behind a FUSE channel: it
	// works on descriptors it was given, and names files only to make copies of
	// data in a tmpfs of its own, the one thing in its root.
	Channel Profile = iota
	// Files is for a gofer that serves files of its own root in-process: it
	// adds what operations on paths below that root take.
	Files
)

// InstallFilter restricts every thread, present and future, to the system
// calls of p. Any other call kills the process (SECCOMP_RET_KILL_PROCESS,
// seccomp(2)), as do executing a program and creating executable memory under
// either profile.
func InstallFilter(p Profile) error {
	rules := commonRules()
	if p == Files {
		rules.Merge(fileRules())
	}
	program := seccomp.Program{
		RuleSets: []seccomp.RuleSet{
			{Rules: seccomp.DenyNewExecMappings, Action: seccomp.KillProcess},
			{Rules: rules, Action: seccomp.Allow},
		},
		Options: seccomp.ProgramOptions{
			DefaultAction: seccomp.KillProcess,
			BadArchAction: seccomp.KillProcess,
			HotSyscalls:   []uintptr{unix.SYS_FUTEX, unix.SYS_SENDMSG, unix.SYS_RECVMSG},
		},
	}
	instructions, _, err := program.Build()
	if err != nil {
		return fmt.Errorf("build the seccomp filter: %w", err)
	}
	if err := seccomp.SetFilter(instructions); err != nil {
		return fmt.Errorf("install the seccomp filter: %w", err)
	}
	return nil
}

// all allows the given system calls with any arguments.
func all(numbers ...uintptr) seccomp.SyscallRules {
	rules := make(map[uintptr]seccomp.SyscallRule, len(numbers))
	for _, n := range numbers {
		rules[n] = seccomp.MatchAll{}
	}
	return seccomp.MakeSyscallRules(rules)
}

// arg returns a rule on one argument of a system call, counted from 0.
func arg(n int, v uintptr) seccomp.SyscallRule {
	var r seccomp.PerArg
	for i := range r {
		r[i] = seccomp.AnyValue{}
	}
	r[n] = seccomp.EqualTo(v)
	return r
}

// commonRules is what the Go runtime, lisafs connections, the attach socket,
// the control channel and memfd regions take.
func commonRules() seccomp.SyscallRules {
	rules := all(
		// Go runtime: memory, threads, timers, signals, the network poller.
		unix.SYS_MUNMAP, unix.SYS_MPROTECT, unix.SYS_MADVISE, unix.SYS_BRK,
		unix.SYS_FUTEX, unix.SYS_SCHED_YIELD, unix.SYS_SCHED_GETAFFINITY,
		unix.SYS_NANOSLEEP, unix.SYS_CLOCK_GETTIME, unix.SYS_GETTIMEOFDAY,
		unix.SYS_GETRANDOM, unix.SYS_GETPID, unix.SYS_GETTID, unix.SYS_TGKILL,
		unix.SYS_RT_SIGACTION, unix.SYS_RT_SIGPROCMASK, unix.SYS_RT_SIGRETURN,
		unix.SYS_SIGALTSTACK, unix.SYS_RESTART_SYSCALL,
		unix.SYS_EXIT, unix.SYS_EXIT_GROUP, unix.SYS_GETCPU, unix.SYS_SYSINFO,
		unix.SYS_TIMER_CREATE, unix.SYS_TIMER_SETTIME, unix.SYS_TIMER_DELETE,
		unix.SYS_SET_ROBUST_LIST, unix.SYS_RSEQ,
		unix.SYS_EPOLL_CREATE1, unix.SYS_EPOLL_CTL, unix.SYS_EPOLL_PWAIT,
		unix.SYS_EVENTFD2, unix.SYS_PIPE2, unix.SYS_PPOLL,
		// Descriptors we hold.
		unix.SYS_CLOSE, unix.SYS_DUP, unix.SYS_DUP3, unix.SYS_READ, unix.SYS_WRITE,
		unix.SYS_PREAD64, unix.SYS_PWRITE64, unix.SYS_LSEEK, unix.SYS_FSTAT,
		unix.SYS_FTRUNCATE, unix.SYS_FALLOCATE,
		// Sockets we were given; none can be created but pairs (below).
		unix.SYS_ACCEPT, unix.SYS_ACCEPT4, unix.SYS_RECVMSG, unix.SYS_SENDMSG,
		unix.SYS_RECVFROM, unix.SYS_SENDTO, unix.SYS_SHUTDOWN,
		unix.SYS_GETSOCKOPT, unix.SYS_SETSOCKOPT, unix.SYS_GETSOCKNAME, unix.SYS_GETPEERNAME,
		// Regions, and flipcall's packet windows.
		unix.SYS_MEMFD_CREATE,
		// Which file system a virtual machine's memory is on (package vhostuser).
		unix.SYS_FSTATFS,
		// Copies of files that change: made, opened twice, unlinked.
		unix.SYS_OPENAT, unix.SYS_UNLINKAT,
	)
	rules.Merge(archCommonRules())
	rules.Merge(seccomp.MakeSyscallRules(map[uintptr]seccomp.SyscallRule{
		// Threads only: a process could outlive us.
		unix.SYS_CLONE: seccomp.PerArg{
			seccomp.MaskedEqual(unix.CLONE_THREAD|unix.CLONE_VM|unix.CLONE_FILES, unix.CLONE_THREAD|unix.CLONE_VM|unix.CLONE_FILES),
			seccomp.AnyValue{}, seccomp.AnyValue{}, seccomp.AnyValue{}, seccomp.AnyValue{}, seccomp.AnyValue{},
		},
		unix.SYS_FCNTL: seccomp.Or{
			arg(1, unix.F_GETFL), arg(1, unix.F_SETFL), arg(1, unix.F_GETFD), arg(1, unix.F_SETFD),
			arg(1, unix.F_DUPFD_CLOEXEC), arg(1, unix.F_ADD_SEALS), arg(1, unix.F_GET_SEALS),
		},
		// DenyNewExecMappings has refused executable ones already.
		unix.SYS_MMAP: seccomp.MatchAll{},
		// fdchannel.NewConnectedSockets.
		unix.SYS_SOCKETPAIR: arg(0, unix.AF_UNIX),
		unix.SYS_PRCTL: seccomp.PerArg{
			seccomp.EqualTo(unix.PR_SET_VMA), seccomp.EqualTo(unix.PR_SET_VMA_ANON_NAME),
			seccomp.AnyValue{}, seccomp.AnyValue{}, seccomp.AnyValue{}, seccomp.AnyValue{},
		},
		// Raising its own soft limit; the hard one needs a capability.
		unix.SYS_PRLIMIT64: arg(0, 0),
		// lisafs looks at the credentials in stat results of descriptors only.
		unix.SYS_STATX: seccomp.PerArg{
			seccomp.NonNegativeFD{}, seccomp.AnyValue{},
			seccomp.MaskedEqual(linux.AT_EMPTY_PATH, linux.AT_EMPTY_PATH),
			seccomp.AnyValue{}, seccomp.AnyValue{}, seccomp.AnyValue{},
		},
	}))
	return rules
}

// fileRules is what serving a directory with go-fuse's loopback file system,
// or an archive with zipfs, takes.
func fileRules() seccomp.SyscallRules {
	rules := all(
		unix.SYS_OPENAT2, unix.SYS_STATX, unix.SYS_FACCESSAT, unix.SYS_FACCESSAT2,
		unix.SYS_GETDENTS64, unix.SYS_READLINKAT, unix.SYS_GETCWD, unix.SYS_FCHDIR,
		unix.SYS_MKDIRAT, unix.SYS_MKNODAT, unix.SYS_LINKAT, unix.SYS_SYMLINKAT,
		unix.SYS_RENAMEAT, unix.SYS_RENAMEAT2,
		unix.SYS_FCHMOD, unix.SYS_FCHMODAT, unix.SYS_FCHMODAT2, unix.SYS_FCHOWN, unix.SYS_FCHOWNAT,
		unix.SYS_TRUNCATE, unix.SYS_UTIMENSAT, unix.SYS_STATFS,
		unix.SYS_FSYNC, unix.SYS_FDATASYNC, unix.SYS_SYNC_FILE_RANGE, unix.SYS_COPY_FILE_RANGE,
		unix.SYS_PREADV, unix.SYS_PWRITEV, unix.SYS_READV, unix.SYS_WRITEV, unix.SYS_FLOCK,
		unix.SYS_GETXATTR, unix.SYS_LGETXATTR, unix.SYS_FGETXATTR,
		unix.SYS_SETXATTR, unix.SYS_LSETXATTR, unix.SYS_FSETXATTR,
		unix.SYS_LISTXATTR, unix.SYS_LLISTXATTR, unix.SYS_FLISTXATTR,
		unix.SYS_REMOVEXATTR, unix.SYS_LREMOVEXATTR, unix.SYS_FREMOVEXATTR,
		unix.SYS_GETUID, unix.SYS_GETEUID, unix.SYS_GETGID, unix.SYS_GETEGID,
	)
	rules.Merge(archFileRules())
	rules.Merge(seccomp.MakeSyscallRules(map[uintptr]seccomp.SyscallRule{
		unix.SYS_FCNTL: seccomp.Or{
			arg(1, unix.F_OFD_GETLK), arg(1, unix.F_OFD_SETLK), arg(1, unix.F_OFD_SETLKW),
		},
	}))
	return rules
}
