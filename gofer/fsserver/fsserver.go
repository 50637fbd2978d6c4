// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

// Package fsserver is the stage between the supervisor and a third-party FS
// server: it builds the only file tree that the server will see and then
// becomes the server (isolation process) or the runsc that runs it (isolation
// gvisor).
//
// The peer is the supervisor, which is trusted, and so is its Config. The
// appliance's root is not: its symbolic links are never followed outside of it.
// What the stage becomes is untrusted, so nothing but the FUSE channel, standard
// input and output, and the tree survives the last exec.
//
// The tree is a tmpfs in the stage's own mount namespace, so nothing has to be
// unmounted: it goes away with the last process in it.
//
//	/bin /etc /usr …   the appliance's root, read-only (for HostRoot: parts of it)
//	/source            the source, or the directory that holds the source file
//	/volume            an empty directory to name as the mountpoint
//	/fsva/bin          fusermount, fusermount3, libfsvamount.so
//	/fsva/files        one file or directory per file option
//	/tmp /run /root    empty, writable, private (and /var for HostRoot)
//	/dev /proc         a minimal set; no /sys
package fsserver

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"
)

// File descriptors of a stage.
const (
	// FDConfig is the read end of a pipe that holds one Config.
	FDConfig = 3
	// FDChannel is the FS server's end of the FUSE channel.
	FDChannel = 4
	// ServerFD is where the FS server finds that end.
	ServerFD = 100
)

// StageFailed is the exit status of a stage that did not get as far as its last
// exec; the reason is the last line on standard error.
const StageFailed = 125

// HostRoot as Config.Root stands for parts of this machine's own root.
const HostRoot = "host"

// Values of Config.Isolation.
const (
	IsolationGVisor  = "gvisor"
	IsolationProcess = "process"
	// IsolationVM is process for a server that is our own, and connects to a virtual
	// machine.
	IsolationVM = "vm"
)

// Places in the FS server's root.
const (
	binDir    = "/fsva/bin"
	volumeDir = "/volume"
	shimPath  = binDir + "/libfsvamount.so"

	// SelfPath is where a server that is our own binary is.
	SelfPath = binDir + "/fsva"
)

const maxConfig = 1 << 20

// Spec is what to run, as the appliance says.
type Spec struct {
	// Argv is the server and its arguments, Env its whole environment but for
	// PATH, HOME and LD_PRELOAD, which have defaults.
	Argv []string `json:"argv"`
	Env  []string `json:"env,omitempty"`
	// Root is HostRoot or the absolute path of a directory.
	Root  string `json:"root"`
	Binds []Bind `json:"binds,omitempty"`
	// Capabilities are what the server has as uid 0, with or without "CAP_".
	Capabilities []string `json:"capabilities,omitempty"`
	// HostNetwork gives it this machine's network instead of none.
	HostNetwork bool `json:"hostNetwork,omitempty"`
	// Preload preloads the shim that stands in for mount(2).
	Preload bool `json:"preload,omitempty"`
	// Batch preloads the shim, if there is one, to hand several requests at a
	// time to a server that handles one at a time.
	Batch bool `json:"batch,omitempty"`
}

// Bind is a host file or directory in the FS server's root.
type Bind struct {
	Host     string `json:"host"`
	Target   string `json:"target"`
	ReadOnly bool   `json:"readOnly,omitempty"`
}

// Config is what the supervisor tells a stage.
type Config struct {
	Spec
	// Volume names the volume; it is the sandbox's hostname.
	Volume    string `json:"volume"`
	Isolation string `json:"isolation"`
	// RootDir is an empty directory to mount the tree on, BundleDir an empty
	// one for runsc's config.json.
	RootDir   string `json:"rootDir"`
	BundleDir string `json:"bundleDir,omitempty"`
	// Hide are host paths that must not be seen even below Root.
	Hide []string `json:"hide,omitempty"`
	// Helper is the host path of the fsva binary, the stand-in for fusermount.
	Helper string `json:"helper"`
	// Shim is the host path of libfsvamount.so; it may be empty without Preload.
	Shim string `json:"shim,omitempty"`
	// Runsc says how to run runsc.
	Runsc Runsc `json:"runsc,omitzero"`
}

// Runsc is a runsc and its settings.
type Runsc struct {
	Path        string `json:"path"`
	Root        string `json:"root"` // runsc --root
	ContainerID string `json:"containerId"`
	Platform    string `json:"platform"`
	DebugLog    string `json:"debugLog,omitempty"` // runsc --debug-log; none when empty
}

// check reports what the rest of the package could not work with.
func (c *Config) check() error {
	if len(c.Argv) == 0 || c.Argv[0] == "" {
		return errors.New("no command to run")
	}
	for _, p := range []string{c.RootDir, c.Helper} {
		if !path.IsAbs(p) {
			return fmt.Errorf("path %q is not absolute", p)
		}
	}
	if c.Root != HostRoot && !path.IsAbs(c.Root) {
		return fmt.Errorf("root %q is neither %q nor an absolute path", c.Root, HostRoot)
	}
	for _, b := range c.Binds {
		if !path.IsAbs(b.Host) || !path.IsAbs(b.Target) || path.Clean(b.Target) != b.Target || b.Target == "/" {
			return fmt.Errorf("cannot bind %q on %q", b.Host, b.Target)
		}
	}
	if c.Preload && c.Shim == "" {
		return errors.New("this build has no libfsvamount.so, which the appliance needs")
	}
	switch c.Isolation {
	case IsolationProcess, IsolationVM:
	case IsolationGVisor:
		if !path.IsAbs(c.BundleDir) || !path.IsAbs(c.Runsc.Path) || c.Runsc.ContainerID == "" {
			return errors.New("incomplete runsc settings")
		}
	default:
		return fmt.Errorf("unknown isolation %q", c.Isolation)
	}
	_, err := capabilityMask(c.Capabilities)
	return err
}

// CloneFlags are the namespaces that a stage for isolation must be started in.
// runsc makes its own but for the mount namespace.
func CloneFlags(isolation string, hostNetwork bool) uintptr {
	flags := uintptr(unix.CLONE_NEWNS)
	if isolation != IsolationGVisor {
		flags |= unix.CLONE_NEWPID | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS
		if !hostNetwork {
			flags |= unix.CLONE_NEWNET
		}
	}
	return flags
}

// Main is the hidden command fs-server. It replaces the process on success;
// otherwise it returns the exit status, with the reason on standard error.
func Main() int {
	// Credentials are per thread, and the thread that execs is the one whose
	// credentials stay.
	runtime.LockOSThread()
	if err := run(); err != nil {
		fmt.Fprintf(os.Stderr, "fsva: %v\n", err)
		return StageFailed
	}
	return 0
}

func run() error {
	c, err := readConfig(os.NewFile(FDConfig, "config"))
	if err != nil {
		return err
	}
	// Before any mount: it also keeps a second mistake from reaching the host.
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	unix.Umask(0o022)
	if err := unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{}); err != nil {
		return fmt.Errorf("disable core dumps: %w", err)
	}
	t, err := newTree(c.RootDir)
	if err != nil {
		return err
	}
	if err := t.populate(&c); err != nil {
		return err
	}
	if c.Isolation == IsolationGVisor {
		return execRunsc(&c)
	}
	return execProcess(&c, t)
}

// hostFiles is RLIMIT_NOFILE outside the sandbox: the sentry holds up to two
// descriptors for one of its maxFiles, and some more for names it remembers.
const hostFiles = 4 * maxFiles

// RaiseFileLimit lets the processes of a volume, which inherit it, have as many
// open files as they may want, or as the hard limit allows without CAP_SYS_RESOURCE.
// It returns the limit.
func RaiseFileLimit() (uint64, error) {
	var l unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &l); err != nil {
		return 0, fmt.Errorf("read the limit of open files: %w", err)
	}
	limit := max(l.Max, hostFiles)
	err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: limit, Max: limit})
	if errors.Is(err, unix.EPERM) {
		limit = l.Max
		err = unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: limit, Max: limit})
	}
	if err != nil {
		return 0, fmt.Errorf("raise the limit of open files: %w", err)
	}
	return limit, nil
}

// readConfig takes ownership of f.
func readConfig(f *os.File) (Config, error) {
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxConfig+1))
	if err != nil {
		return Config{}, fmt.Errorf("read the stage's configuration: %w", err)
	}
	if len(b) > maxConfig {
		return Config{}, fmt.Errorf("the stage's configuration is longer than %d bytes", maxConfig)
	}
	var c Config
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(&c); err != nil {
		return Config{}, fmt.Errorf("decode the stage's configuration (fs-server is started by fsva serve only): %w", err)
	}
	return c, c.check()
}

// environ is the server's whole environment.
func (c *Config) environ() []string {
	env := []string{
		"PATH=" + binDir + ":/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
		"HOME=/root",
	}
	for _, e := range c.Env {
		// The helper must be found first, whatever the appliance wants.
		if p, ok := strings.CutPrefix(e, "PATH="); ok && p != binDir && !strings.HasPrefix(p, binDir+":") {
			e = "PATH=" + binDir + ":" + p
		}
		env = setenv(env, e)
	}
	if c.Preload || c.Batch && c.Shim != "" {
		env = setenv(env, "LD_PRELOAD="+shimPath)
	}
	if c.Batch {
		env = setenv(env, "FSVA_BATCH=1")
	}
	return env
}

// setenv replaces or appends one "NAME=value".
func setenv(env []string, e string) []string {
	name, _, _ := strings.Cut(e, "=")
	for i := range env {
		if n, _, _ := strings.Cut(env[i], "="); n == name {
			env[i] = e
			return env
		}
	}
	return append(env, e)
}

// passChannel moves the channel to ServerFD and leaves no other descriptor
// above standard error open across the next exec.
func passChannel() error {
	if err := unix.CloseRange(3, ^uint(0)>>1, unix.CLOSE_RANGE_CLOEXEC); err != nil {
		return fmt.Errorf("close descriptors: %w", err)
	}
	if err := unix.Dup3(FDChannel, ServerFD, 0); err != nil {
		return fmt.Errorf("place the FUSE channel at descriptor %d: %w", ServerFD, err)
	}
	return nil
}
