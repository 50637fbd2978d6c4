// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package fsserver

import (
	"fmt"
	"strings"

	"golang.org/x/sys/unix"
)

// capabilities are the numbers of capability names (capabilities(7)).
var capabilities = map[string]int{
	"CHOWN": unix.CAP_CHOWN, "DAC_OVERRIDE": unix.CAP_DAC_OVERRIDE, "DAC_READ_SEARCH": unix.CAP_DAC_READ_SEARCH,
	"FOWNER": unix.CAP_FOWNER, "FSETID": unix.CAP_FSETID, "KILL": unix.CAP_KILL, "SETGID": unix.CAP_SETGID,
	"SETUID": unix.CAP_SETUID, "SETPCAP": unix.CAP_SETPCAP, "LINUX_IMMUTABLE": unix.CAP_LINUX_IMMUTABLE,
	"NET_BIND_SERVICE": unix.CAP_NET_BIND_SERVICE, "NET_BROADCAST": unix.CAP_NET_BROADCAST,
	"NET_ADMIN": unix.CAP_NET_ADMIN, "NET_RAW": unix.CAP_NET_RAW, "IPC_LOCK": unix.CAP_IPC_LOCK,
	"IPC_OWNER": unix.CAP_IPC_OWNER, "SYS_CHROOT": unix.CAP_SYS_CHROOT, "SYS_PTRACE": unix.CAP_SYS_PTRACE,
	"SYS_ADMIN": unix.CAP_SYS_ADMIN, "SYS_NICE": unix.CAP_SYS_NICE, "SYS_RESOURCE": unix.CAP_SYS_RESOURCE,
	"MKNOD": unix.CAP_MKNOD, "LEASE": unix.CAP_LEASE, "SETFCAP": unix.CAP_SETFCAP,
}

// capabilityMask is the set that names stand for.
func capabilityMask(names []string) (uint64, error) {
	var mask uint64
	for _, n := range names {
		c, ok := capabilities[strings.TrimPrefix(n, "CAP_")]
		if !ok {
			return 0, fmt.Errorf("capability %q cannot be given to an FS server", n)
		}
		mask |= 1 << c
	}
	return mask, nil
}

// capabilityNames are names in the form that OCI wants.
func capabilityNames(names []string) []string {
	out := make([]string, 0, len(names))
	for _, n := range names {
		out = append(out, "CAP_"+strings.TrimPrefix(n, "CAP_"))
	}
	return out
}

// dropPrivileges leaves the calling thread, and what it execs, with the
// capabilities in mask and no way to gain others.
//
// Preconditions: the goroutine is locked to its thread.
func dropPrivileges(mask uint64) error {
	for c := 0; c < 64; c++ {
		_, err := unix.PrctlRetInt(unix.PR_CAPBSET_READ, uintptr(c), 0, 0, 0)
		if err == unix.EINVAL {
			break // above the last capability of this kernel (prctl(2))
		}
		if err != nil {
			return fmt.Errorf("read the bounding set: %w", err)
		}
		if mask&(1<<c) != 0 {
			continue
		}
		if err := unix.Prctl(unix.PR_CAPBSET_DROP, uintptr(c), 0, 0, 0); err != nil {
			return fmt.Errorf("drop capability %d from the bounding set: %w", c, err)
		}
	}
	if err := unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0); err != nil {
		return fmt.Errorf("clear ambient capabilities: %w", err)
	}
	if err := unix.Setgroups(nil); err != nil {
		return fmt.Errorf("drop supplementary groups: %w", err)
	}
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	data := [2]unix.CapUserData{
		{Effective: uint32(mask), Permitted: uint32(mask)},
		{Effective: uint32(mask >> 32), Permitted: uint32(mask >> 32)},
	}
	if err := unix.Capset(&hdr, &data[0]); err != nil {
		return fmt.Errorf("set capabilities: %w", err)
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("set no_new_privs: %w", err)
	}
	return nil
}
