// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

// Package fusemount mounts the Linux kernel's FUSE: with mount(2) where that is
// allowed, else with fusermount3. Whoever serves the device must not use the mount
// itself: a process that waits for its own reply may never get it.
package fusemount

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// Options of a mount. The zero value is one that everybody who may can use.
type Options struct {
	// Source is what mount(8) shows as the device.
	Source string
	// Type is the file system's type; mount(8) shows fuse.Type.
	Type string
	// ReadOnly mounts read-only.
	ReadOnly bool
	// Flags are those of mount(2), as Parse returns them.
	Flags uintptr
}

// flags are the options of mount(8) that are flags of mount(2).
var flags = map[string]struct {
	bit   uintptr
	clear bool
}{
	"ro": {unix.MS_RDONLY, false}, "rw": {unix.MS_RDONLY, true},
	"nosuid": {unix.MS_NOSUID, false}, "suid": {unix.MS_NOSUID, true},
	"nodev": {unix.MS_NODEV, false}, "dev": {unix.MS_NODEV, true},
	"noexec": {unix.MS_NOEXEC, false}, "exec": {unix.MS_NOEXEC, true},
	"noatime": {unix.MS_NOATIME, false}, "atime": {unix.MS_NOATIME, true},
	"nodiratime": {unix.MS_NODIRATIME, false}, "relatime": {unix.MS_RELATIME, false},
	"sync": {unix.MS_SYNCHRONOUS, false}, "async": {unix.MS_SYNCHRONOUS, true},
	"dirsync": {unix.MS_DIRSYNC, false},
}

// ignored are options for mount(8) itself or for init systems.
var ignored = []string{"defaults", "auto", "noauto", "user", "nouser", "users", "owner", "group", "nofail", "_netdev", "allow_other", "default_permissions", ""}

// Flag changes f as an option of mount(8) says; known is false if it is none of the
// general ones.
func Flag(option string, f uintptr) (changed uintptr, known bool) {
	if slices.Contains(ignored, option) || strings.HasPrefix(option, "x-") || strings.HasPrefix(option, "comment=") {
		return f, true
	}
	flag, known := flags[option]
	switch {
	case !known:
		return f, false
	case flag.clear:
		return f &^ flag.bit, true
	}
	return f | flag.bit, true
}

// Mount mounts a FUSE file system on the directory mountpoint and returns the device,
// which the caller owns, close-on-exec. The kernel's first request, INIT, waits there.
// Errors are one line.
func Mount(ctx context.Context, mountpoint string, o Options) (fd int, err error) {
	fd, err = mountDirectly(mountpoint, o)
	if errors.Is(err, unix.EPERM) && os.Geteuid() != 0 {
		fd, err = mountWithHelper(ctx, mountpoint, o)
	}
	if err != nil {
		return -1, fmt.Errorf("mount %s: %w", mountpoint, err)
	}
	return fd, nil
}

func mountDirectly(mountpoint string, o Options) (int, error) {
	// Before the mount: afterwards nobody may look at it.
	var st unix.Stat_t
	if err := unix.Stat(mountpoint, &st); err != nil {
		return -1, err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFDIR {
		return -1, unix.ENOTDIR
	}
	fd, err := unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("open /dev/fuse (is the kernel module fuse loaded?): %w", err)
	}
	data := fmt.Sprintf("fd=%d,rootmode=40000,user_id=%d,group_id=%d,default_permissions", fd, os.Geteuid(), os.Getegid())
	if os.Geteuid() == 0 {
		data += ",allow_other"
	}
	f := o.Flags
	if o.ReadOnly {
		f |= unix.MS_RDONLY
	}
	if err := unix.Mount(o.Source, mountpoint, "fuse."+o.Type, f, data); err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

// mountWithHelper has fusermount3 mount, and send the device back on a socket.
func mountWithHelper(ctx context.Context, mountpoint string, o Options) (int, error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	ours, theirs := pair[0], os.NewFile(uintptr(pair[1]), "fusermount3")
	defer unix.Close(ours)
	options := []string{"fsname=" + strings.NewReplacer("\\", "\\\\", ",", "\\,").Replace(o.Source), "subtype=" + o.Type, "default_permissions"}
	for name, flag := range flags {
		if !flag.clear && o.Flags&flag.bit != 0 && flag.bit != unix.MS_RDONLY {
			options = append(options, name)
		}
	}
	if o.ReadOnly || o.Flags&unix.MS_RDONLY != 0 {
		options = append(options, "ro")
	}
	cmd := exec.CommandContext(ctx, "fusermount3", "-o", strings.Join(options, ","), "--", mountpoint)
	cmd.Env = append(os.Environ(), "_FUSE_COMMFD=3")
	cmd.ExtraFiles = []*os.File{theirs}
	out, err := cmd.CombinedOutput()
	theirs.Close()
	if err != nil {
		return -1, fmt.Errorf("fusermount3: %w: %s", err, strings.ReplaceAll(strings.TrimSpace(string(out)), "\n", "; "))
	}
	oob := make([]byte, unix.CmsgSpace(4))
	_, n, _, _, err := unix.Recvmsg(ours, make([]byte, 1), oob, unix.MSG_CMSG_CLOEXEC)
	if err != nil {
		return -1, fmt.Errorf("receive the device: %w", err)
	}
	messages, err := unix.ParseSocketControlMessage(oob[:n])
	if err != nil || len(messages) != 1 {
		return -1, errors.New("fusermount3 sent no device")
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil || len(fds) != 1 {
		return -1, errors.New("fusermount3 sent no device")
	}
	return fds[0], nil
}

// Unmount ends the mount. If it is in use (EBUSY), lazy detaches it: it ends when
// its last user does.
func Unmount(mountpoint string, lazy bool) error {
	f := unix.UMOUNT_NOFOLLOW
	if lazy {
		f |= unix.MNT_DETACH
	}
	err := unix.Unmount(mountpoint, f)
	if err == unix.EPERM && os.Geteuid() != 0 {
		args := []string{"-u"}
		if lazy {
			args = append(args, "-z")
		}
		out, herr := exec.Command("fusermount3", append(args, "--", mountpoint)...).CombinedOutput()
		if herr == nil {
			return nil
		}
		err = fmt.Errorf("fusermount3: %w: %s", herr, strings.TrimSpace(string(out)))
	}
	if err != nil {
		return fmt.Errorf("unmount %s: %w", mountpoint, err)
	}
	return nil
}

// SetReadAhead sets how far the kernel reads ahead on a mount, in bytes. It takes root,
// /proc and /sys, and does not touch the mount.
func SetReadAhead(mountpoint string, size int) error {
	device, ok, err := mountDevice(mountpoint)
	if err != nil {
		return err
	}
	if !ok {
		return fmt.Errorf("%s is no mount", mountpoint)
	}
	return os.WriteFile("/sys/class/bdi/"+device+"/read_ahead_kb", fmt.Appendf(nil, "%d", size/1024), 0)
}

// Mounted reports whether something is mounted on the directory, without touching it.
func Mounted(mountpoint string) (bool, error) {
	_, mounted, err := mountDevice(mountpoint)
	return mounted, err
}

// mountDevice returns the device of what is mounted on the directory; ok is false if
// nothing is.
func mountDevice(mountpoint string) (device string, ok bool, err error) {
	info, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return "", false, err
	}
	device, ok = findDevice(string(info), mountpoint)
	return device, ok, nil
}

// MountedElsewhere reports whether what is mounted on the directory is also mounted at
// another place, in the mount namespace of any process: a container's. It takes root.
func MountedElsewhere(mountpoint string) (bool, error) {
	device, mounted, err := mountDevice(mountpoint)
	if err != nil || !mounted {
		return false, err
	}
	processes, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return false, err
	}
	seen := map[string]bool{}
	for _, p := range processes {
		namespace, err := os.Readlink(filepath.Join(p, "ns/mnt"))
		if err != nil || seen[namespace] {
			continue // it has ended
		}
		info, err := os.ReadFile(filepath.Join(p, "mountinfo"))
		if err != nil {
			continue
		}
		seen[namespace] = true
		for line := range strings.Lines(string(info)) {
			if f := strings.Fields(line); len(f) > 4 && f[2] == device && f[4] != escape(mountpoint) {
				return true, nil
			}
		}
	}
	return false, nil
}

// escape is how mountinfo shows a path.
func escape(path string) string {
	return strings.NewReplacer("\\", `\134`, " ", `\040`, "\t", `\011`, "\n", `\012`).Replace(path)
}

// findDevice returns the device, MAJOR:MINOR, of the last mount on mountpoint in the text
// of proc_pid_mountinfo(5).
func findDevice(mountinfo, mountpoint string) (device string, ok bool) {
	want := escape(mountpoint)
	for line := range strings.Lines(mountinfo) {
		if f := strings.Fields(line); len(f) > 4 && f[4] == want {
			device, ok = f[2], true
		}
	}
	return device, ok
}
