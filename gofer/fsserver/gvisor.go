// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package fsserver

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// maxFiles is RLIMIT_NOFILE in the sandbox: a passthrough server keeps one
// descriptor per open file and some keep one per node.
const maxFiles = 1 << 16

// execRunsc writes the bundle and becomes the runsc that runs it.
func execRunsc(c *Config) error {
	b, err := json.MarshalIndent(bundleSpec(c), "", "  ")
	if err != nil {
		return fmt.Errorf("encode the sandbox's specification: %w", err)
	}
	if err := os.WriteFile(filepath.Join(c.BundleDir, "config.json"), b, 0o600); err != nil {
		return fmt.Errorf("write the sandbox's specification: %w", err)
	}
	argv := runscArgs(c)
	if err := os.Chdir("/"); err != nil {
		return err
	}
	if err := passChannel(); err != nil {
		return err
	}
	// runsc takes settings from its environment; the machine's are not for it.
	env := []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root"}
	return fmt.Errorf("run %s: %w", c.Runsc.Path, unix.Exec(c.Runsc.Path, argv, env))
}

func runscArgs(c *Config) []string {
	network := "none"
	if c.HostNetwork {
		network = "host"
	}
	args := []string{
		"runsc",
		"--root=" + c.Runsc.Root,
		"--network=" + network,
		"--platform=" + c.Runsc.Platform,
		"--ignore-cgroups",
		"--overlay2=none",
	}
	if c.Runsc.DebugLog != "" {
		args = append(args, "--debug", "--debug-log="+c.Runsc.DebugLog)
	}
	return append(args, "run", "--bundle="+c.BundleDir, fmt.Sprintf("--pass-fd=%d:%d", ServerFD, ServerFD), c.Runsc.ContainerID)
}

// bundleSpec is the sandbox. Sources are mounts of their own, so that changes
// made elsewhere are noticed; the root is not expected to change.
func bundleSpec(c *Config) *specs.Spec {
	caps := capabilityNames(c.Capabilities)
	s := &specs.Spec{
		Version:  specs.Version,
		Hostname: hostname(c.Volume),
		Root:     &specs.Root{Path: c.RootDir, Readonly: true},
		Process: &specs.Process{
			Args:            c.Argv,
			Env:             c.environ(),
			Cwd:             "/",
			User:            specs.User{Umask: new(uint32)}, // 0, as in execProcess
			NoNewPrivileges: true,
			Capabilities:    &specs.LinuxCapabilities{Bounding: caps, Effective: caps, Permitted: caps},
			Rlimits:         []specs.POSIXRlimit{{Type: "RLIMIT_NOFILE", Soft: maxFiles, Hard: maxFiles}},
		},
		Mounts: []specs.Mount{{Destination: "/proc", Type: "proc", Source: "proc"}},
		Linux: &specs.Linux{Namespaces: []specs.LinuxNamespace{
			{Type: specs.PIDNamespace}, {Type: specs.IPCNamespace}, {Type: specs.UTSNamespace}, {Type: specs.MountNamespace},
		}},
	}
	if !c.HostNetwork {
		s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.NetworkNamespace})
	}
	for _, m := range scratchMounts(c) {
		s.Mounts = append(s.Mounts, specs.Mount{
			Destination: m.path, Type: "tmpfs", Source: "tmpfs",
			Options: append([]string{"nosuid", "nodev"}, strings.Split(m.options, ",")...),
		})
	}
	for _, b := range c.Binds {
		access := "rw"
		if b.ReadOnly {
			access = "ro"
		}
		s.Mounts = append(s.Mounts, specs.Mount{
			Destination: b.Target, Type: "bind", Source: b.Host,
			Options: []string{"rbind", "nosuid", "nodev", access},
		})
	}
	return s
}
