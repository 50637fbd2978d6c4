// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

// Package doctor looks at a machine and says whether FSVA works on it, and what
// to do if not. It changes nothing.
//
// A check reads what the kernel and the configuration say; it starts no volume.
// Everything is looked up below Machine.Root, so that a test can make up a
// machine.
package doctor

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	runscconfig "fsva/runsc-config"
)

// Level is how bad a finding is.
type Level string

// The levels. With a Fail, volumes in sandboxes do not work; with a Warn,
// something else does not, which may not matter.
const (
	OK   Level = "ok"
	Warn Level = "warn"
	Fail Level = "fail"
)

// Finding is the result of one check.
type Finding struct {
	Check  string `json:"check"`
	Level  Level  `json:"level"`
	Found  string `json:"found"`            // what is the case
	Advice string `json:"advice,omitempty"` // what to do, "" with OK
}

// Machine is what is looked at.
type Machine struct {
	// Root is the directory that stands for /, "" for this machine.
	Root string
	// RunDir, StateDir and Runsc are absolute paths on the machine, as is Library,
	// where libfsvamount.so should be.
	RunDir, StateDir, Runsc, Library string
	// GVisor is the version of gVisor that Runsc should be, "" for any.
	GVisor string
	// Version returns the output of a program's --version; nil runs it.
	Version func(ctx context.Context, program string) (string, error)
}

// Examine makes all checks.
func Examine(ctx context.Context, m Machine) []Finding {
	if m.Version == nil {
		m.Version = version
	}
	return []Finding{
		m.kernel(),
		m.privilege(),
		m.capabilities(),
		m.fuse(),
		m.userNamespaces(),
		m.cgroups(),
		m.pressure(),
		m.openFiles(),
		m.runsc(ctx),
		m.shim(),
		m.library(),
		m.docker(),
		m.containerd(),
		m.directory("run directory", m.RunDir),
		m.directory("state directory", m.StateDir),
		m.mmdebstrap(),
	}
}

// Healthy reports whether no finding is a Fail.
func Healthy(findings []Finding) bool {
	for _, f := range findings {
		if f.Level == Fail {
			return false
		}
	}
	return true
}

func (m Machine) path(p string) string { return filepath.Join("/", m.Root, p) }

// read returns a small file, trimmed.
func (m Machine) read(p string) (string, error) {
	b, err := os.ReadFile(m.path(p))
	return strings.TrimSpace(string(b)), err
}

func ok(check, format string, args ...any) Finding {
	return Finding{Check: check, Level: OK, Found: fmt.Sprintf(format, args...)}
}

func (f Finding) warn(advice string) Finding { f.Level, f.Advice = Warn, advice; return f }
func (f Finding) fail(advice string) Finding { f.Level, f.Advice = Fail, advice; return f }

// oldestKernel has mount_setattr(2), with which FS servers are confined.
var oldestKernel = [2]int{5, 12}

var release = regexp.MustCompile(`^(\d+)\.(\d+)`)

func (m Machine) kernel() Finding {
	const check = "kernel"
	text, err := m.read("proc/sys/kernel/osrelease")
	if err != nil {
		return ok(check, "unknown: %v", err).fail("mount /proc")
	}
	f := ok(check, "Linux %s", text)
	parts := release.FindStringSubmatch(text)
	if parts == nil {
		return f.warn(fmt.Sprintf("Linux %d.%d or later is needed", oldestKernel[0], oldestKernel[1]))
	}
	major, _ := strconv.Atoi(parts[1]) // digits
	minor, _ := strconv.Atoi(parts[2])
	if major < oldestKernel[0] || major == oldestKernel[0] && minor < oldestKernel[1] {
		return f.fail(fmt.Sprintf("Linux %d.%d or later is needed", oldestKernel[0], oldestKernel[1]))
	}
	return f
}

// status returns the words behind a key of /proc/self/status.
func (m Machine) status(key string) ([]string, error) {
	text, err := m.read("proc/self/status")
	if err != nil {
		return nil, err
	}
	for line := range strings.Lines(text) {
		if rest, ok := strings.CutPrefix(line, key+":"); ok {
			return strings.Fields(rest), nil
		}
	}
	return nil, fmt.Errorf("/proc/self/status has no %s", key)
}

func (m Machine) privilege() Finding {
	const check = "privilege"
	ids, err := m.status("Uid")
	switch {
	case err != nil:
		return ok(check, "unknown: %v", err).fail("mount /proc")
	case len(ids) < 2:
		return ok(check, "unknown").warn("run fsva doctor as root")
	case ids[1] != "0":
		return ok(check, "user %s", ids[1]).warn("fsva serve and docker's runtimes need root; run fsva doctor as root, too, to see what they see")
	}
	return ok(check, "root")
}

// capabilities looks at what root may lack, as in a container.
func (m Machine) capabilities() Finding {
	const check = "capabilities"
	words, err := m.status("CapEff")
	if err != nil || len(words) != 1 {
		return ok(check, "unknown").warn("mount /proc")
	}
	have, err := strconv.ParseUint(words[0], 16, 64)
	if err != nil {
		return ok(check, "unknown: %v", err).warn("mount /proc")
	}
	const how = "give it to fsva, docker and containerd (CapabilityBoundingSet= of a systemd unit, --cap-add of a container around them)"
	switch {
	case m.privilege().Level != OK:
		return ok(check, "not root's")
	case have&(1<<unix.CAP_SYS_ADMIN) == 0:
		return ok(check, "no CAP_SYS_ADMIN").fail("namespaces and mounts of FS servers and sandboxes need it: " + how)
	case have&(1<<unix.CAP_SYS_RESOURCE) == 0:
		return ok(check, "no CAP_SYS_RESOURCE").warn("without it the limit of open files is what it is (below), and containerd's shim does not start: " + how)
	}
	return ok(check, "CAP_SYS_ADMIN, CAP_SYS_RESOURCE")
}

func (m Machine) fuse() Finding {
	const check = "/dev/fuse"
	const advice = "only fsva mount, FUSE mounts for other runtimes and some FS servers with --isolation process need it: modprobe fuse"
	file, err := os.OpenFile(m.path("dev/fuse"), os.O_RDWR|unix.O_NONBLOCK, 0)
	if err != nil {
		return ok(check, "%v", reason(err)).warn(advice)
	}
	file.Close()
	return ok(check, "can be opened")
}

func (m Machine) userNamespaces() Finding {
	const check = "user namespaces"
	text, err := m.read("proc/sys/user/max_user_namespaces")
	if errors.Is(err, fs.ErrNotExist) {
		return ok(check, "the kernel has none").fail("gVisor needs a kernel with CONFIG_USER_NS")
	}
	if err != nil {
		return ok(check, "unknown: %v", err).warn("run fsva doctor as root")
	}
	if text == "0" {
		return ok(check, "switched off").fail("gVisor needs them: sysctl -w user.max_user_namespaces=10000, and the same in /etc/sysctl.d")
	}
	return ok(check, "at most %s", text)
}

func (m Machine) cgroups() Finding {
	const check = "cgroups"
	const advice = "volumes and containers run without limits of memory, cpu and processes"
	var missing []string
	need := []string{"cpu", "memory", "pids"}
	version := 2
	if text, err := m.read("sys/fs/cgroup/cgroup.controllers"); err == nil {
		have := " " + text + " "
		for _, c := range need {
			if !strings.Contains(have, " "+c+" ") {
				missing = append(missing, c)
			}
		}
	} else {
		version = 1
		for _, c := range need {
			if fi, err := os.Stat(m.path(filepath.Join("sys/fs/cgroup", c))); err != nil || !fi.IsDir() {
				missing = append(missing, c)
			}
		}
	}
	switch {
	case version == 1 && len(missing) == len(need):
		return ok(check, "none at /sys/fs/cgroup").warn(advice + ": mount them (systemd does)")
	case len(missing) > 0:
		return ok(check, "version %d without %s", version, strings.Join(missing, ", ")).warn(advice + " where the controller is missing")
	}
	return ok(check, "version %d", version)
}

func (m Machine) pressure() Finding {
	const check = "memory pressure (PSI)"
	const advice = "caches do not shrink by themselves when memory is short: start the kernel with psi=1 (CONFIG_PSI)"
	// The file is there with psi=0, too, and cannot be read.
	if _, err := m.read("proc/pressure/memory"); err != nil {
		return ok(check, "%v", reason(err)).warn(advice)
	}
	return ok(check, "there")
}

// goodFiles is the limit of open files that fsva serve asks for.
const goodFiles = 262_144

func (m Machine) openFiles() Finding {
	const check = "limit of open files"
	text, err := m.read("proc/self/limits")
	if err != nil {
		return ok(check, "unknown: %v", err).fail("mount /proc")
	}
	for line := range strings.Lines(text) {
		rest, found := strings.CutPrefix(line, "Max open files")
		fields := strings.Fields(rest)
		if !found || len(fields) < 2 {
			continue
		}
		hard := fields[1]
		n, err := strconv.Atoi(hard)
		if err != nil || n >= goodFiles { // "unlimited"
			return ok(check, "%s", hard)
		}
		advice := fmt.Sprintf("LimitNOFILE=%d for docker, containerd and fsva (ulimit -Hn)", goodFiles)
		if m.capabilities().Level == OK && m.privilege().Level == OK {
			advice = "fsva serve raises its own, but sandboxes have docker's or containerd's, and remember fewer names and files with a low one: " + advice
		} else {
			advice = "FS servers hold fewer files open with it, and sandboxes and gofers remember fewer names and files: " + advice
		}
		return ok(check, "%s", hard).warn(advice)
	}
	return ok(check, "unknown").warn("see ulimit -Hn")
}

func (m Machine) runsc(ctx context.Context) Finding {
	const check = "runsc"
	const advice = "build it with make build, beside fsva, or set FSVA_RUNSC"
	if m.Runsc == "" {
		return ok(check, "not found").fail(advice)
	}
	if _, err := os.Stat(m.path(m.Runsc)); err != nil {
		return ok(check, "%v", reason(err)).fail(advice)
	}
	out, err := m.Version(ctx, m.path(m.Runsc))
	if err != nil {
		return ok(check, "%s does not run: %v", m.Runsc, err).fail(advice)
	}
	first, _, _ := strings.Cut(out, "\n")
	v, isRunsc := strings.CutPrefix(strings.TrimSpace(first), "runsc version ")
	f := ok(check, "%s, version %s", m.Runsc, v)
	switch stamped, ours := strings.CutSuffix(v, "+fsva"); {
	case !isRunsc:
		return ok(check, "%s is no runsc: it says %.80q", m.Runsc, first).fail(advice)
	case !ours:
		return f.warn("it does not say that it is ours (make build stamps it with +fsva); a stock runsc runs FS servers, but its containers cannot mount volumes")
	case m.GVisor != "" && stamped != strings.TrimPrefix(m.GVisor, "v"):
		return f.warn(fmt.Sprintf("fsva was built with gVisor %s: install both from one build", m.GVisor))
	}
	return f
}

// shimPath is where containerd's shim should be.
func (m Machine) shimPath() string {
	if m.Runsc == "" {
		return ""
	}
	return runscconfig.Binaries(runscconfig.Containerd, m.Runsc)[1]
}

func (m Machine) shim() Finding {
	const check = "containerd's shim"
	path := m.shimPath()
	if path == "" {
		return ok(check, "no runsc").warn("it is made together with runsc")
	}
	if _, err := os.Stat(m.path(path)); err != nil {
		return ok(check, "%v", reason(err)).warn("only containerd and Kubernetes need it: make build")
	}
	return ok(check, "%s", path)
}

func (m Machine) library() Finding {
	const check = "libfsvamount.so"
	if _, err := os.Stat(m.path(m.Library)); err != nil {
		return ok(check, "%v", reason(err)).warn("only FS servers that call mount(2) themselves need it (exfat, fuse-overlayfs, mergerfs, ntfs): make build, with a C compiler")
	}
	return ok(check, "%s", m.Library)
}

func (m Machine) docker() Finding {
	return m.registered("docker", runscconfig.Docker, "usr/bin/dockerd", "usr/sbin/dockerd", "usr/local/bin/dockerd")
}

func (m Machine) containerd() Finding {
	return m.registered("containerd", runscconfig.Containerd, "usr/bin/containerd", "usr/local/bin/containerd")
}

// registered looks whether a daemon, which is one of programs, knows our runsc.
func (m Machine) registered(check string, target runscconfig.Target, programs ...string) Finding {
	installed := false
	for _, p := range programs {
		if _, err := os.Stat(m.path(p)); err == nil {
			installed = true
		}
	}
	if m.Runsc == "" {
		return ok(check, "no runsc that it could know").warn("see runsc")
	}
	names, err := runscconfig.Registered(target, runscconfig.Options{Prefix: m.Root, Runsc: m.Runsc})
	switch {
	case err != nil && !errors.Is(err, fs.ErrPermission):
		return ok(check, "%v", err).fail("mend the file; the daemon will not start with it either")
	case err != nil:
		return ok(check, "%v", err).warn("run fsva doctor as root")
	case len(names) > 0:
		return ok(check, "has our runsc as runtime %s", strings.Join(names, ", "))
	case !installed:
		return ok(check, "not installed")
	}
	return ok(check, "does not know %s", m.Runsc).warn("if containers of " + check + " are to mount volumes: fsva install " + string(target))
}

// directory looks at one of fsva's own directories.
func (m Machine) directory(check, dir string) Finding {
	var st unix.Stat_t
	switch err := unix.Stat(m.path(dir), &st); {
	case errors.Is(err, unix.ENOENT):
		return ok(check, "%s is not there yet: made when it is needed", dir)
	case err != nil:
		return ok(check, "%s: %v", dir, err).fail("make it a directory that root can use")
	case st.Mode&unix.S_IFMT != unix.S_IFDIR:
		return ok(check, "%s is not a directory", dir).fail("remove it")
	case int(st.Uid) != os.Geteuid() && st.Uid != 0:
		return ok(check, "%s belongs to user %d", dir, st.Uid).fail("whoever owns it owns the volumes: chown root " + dir)
	case st.Mode&0o022 != 0:
		return ok(check, "%s can be written by others (mode %#o)", dir, st.Mode&0o7777).fail("others could put volumes in it: chmod go-w " + dir)
	}
	var vfs unix.Statfs_t
	if err := unix.Statfs(m.path(dir), &vfs); err != nil {
		return ok(check, "%s: %v", dir, err).fail("make it a directory that root can use")
	}
	if vfs.Flags&unix.ST_RDONLY != 0 {
		return ok(check, "%s is on a read-only file system", dir).fail("mount it read-write, or choose another one with FSVA_RUNDIR, FSVA_STATEDIR")
	}
	return ok(check, "%s", dir)
}

func (m Machine) mmdebstrap() Finding {
	const check = "mmdebstrap"
	for _, p := range []string{"usr/bin/mmdebstrap", "usr/local/bin/mmdebstrap"} {
		if _, err := os.Stat(m.path(p)); err == nil {
			return ok(check, "/%s", p)
		}
	}
	return ok(check, "not installed").warn("only fsva image build needs it: apt-get install mmdebstrap")
}

// reason is an error without the operation, which the check's name says.
func reason(err error) string {
	if p := (*fs.PathError)(nil); errors.As(err, &p) {
		return fmt.Sprintf("%s: %v", p.Path, p.Err)
	}
	return err.Error()
}

// versionTimeout bounds a program that only prints its version.
const versionTimeout = 20 * time.Second

// version runs a program.
func version(ctx context.Context, program string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, versionTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, "--version")
	cmd.WaitDelay = time.Second
	out, err := cmd.Output()
	if err != nil {
		return "", err
	}
	return string(out), nil
}
