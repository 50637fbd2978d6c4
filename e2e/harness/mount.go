// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package harness

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// mountsBelow returns the mount points at or below dir in this process's namespace.
func mountsBelow(dir string) ([]string, error) {
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	var found []string
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) > 4 && (f[4] == dir || strings.HasPrefix(f[4], dir+"/")) {
			found = append(found, f[4])
		}
	}
	return found, nil
}

// noMountsBelow returns an error that names the mounts at or below dir, if there are any.
func noMountsBelow(dir string) error {
	found, err := mountsBelow(dir)
	if err != nil {
		return err
	}
	if len(found) > 0 {
		return fmt.Errorf("mounts below %s: %s", dir, strings.Join(found, ", "))
	}
	return nil
}

// Tmpfs makes a directory for the test on a tmpfs of its own, unmounted when the test ends. Unlike the machine's disk it
// has what the suites need everywhere: large extended attributes, and a device number that it shares with nobody.
func (e *Env) Tmpfs(t testing.TB) string {
	t.Helper()
	NeedRoot(t)
	dir := e.TempDir(t)
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "mode=0755"); err != nil {
		t.Fatalf("mount a tmpfs at %s: %v", dir, err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Errorf("unmount %s: %v", dir, err)
		}
	})
	return dir
}

// Native mounts a file system on the kernel: it runs the server command, which must stay in the foreground, with
// every "MNT" in args replaced by a new directory, and returns that directory once something is mounted there. The
// test's clean-up unmounts it and waits for the server.
func (e *Env) Native(t testing.TB, args ...string) string {
	t.Helper()
	NeedRoot(t)
	NeedKernelFUSE(t)
	mnt, err := os.MkdirTemp(e.Dir, "native")
	if err != nil {
		t.Fatal(err)
	}
	args = append([]string(nil), args...)
	for i := range args {
		args[i] = strings.ReplaceAll(args[i], "MNT", mnt)
	}
	p := startProcess(t, nil, args...)
	t.Cleanup(func() {
		if err := unix.Unmount(mnt, 0); err != nil {
			t.Errorf("unmount %s: %v; detaching", mnt, err)
			if err := unix.Unmount(mnt, unix.MNT_DETACH); err != nil {
				t.Errorf("detach %s: %v", mnt, err)
			}
		}
		// Some go on for a while, to upload what they have, or because a thread of libfuse sleeps.
		if !p.waitFor(5 * time.Second) {
			if err := p.cmd.Process.Signal(unix.SIGTERM); err != nil {
				t.Errorf("stop %s: %v", args[0], err)
			}
		}
		if !p.waitFor(20 * time.Second) {
			t.Logf("%s does not end after its unmount and SIGTERM: killing it", args[0])
			p.kill()
		}
		if err := unix.Rmdir(mnt); err != nil {
			t.Error(err)
		}
	})
	if err := awaitMount(mnt, p.done, 20*time.Second); err != nil {
		t.Fatalf("%s: %v\n%s", strings.Join(args, " "), err, p.output())
	}
	return mnt
}

// awaitMount waits until something is mounted at exactly dir, or the server has ended. The kernel tells of every
// change of the mount table by POLLERR on an open mountinfo.
func awaitMount(dir string, ended <-chan struct{}, timeout time.Duration) error {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return err
	}
	defer f.Close()
	deadline := time.Now().Add(timeout)
	for {
		found, err := mountsBelow(dir)
		if err != nil {
			return err
		}
		if len(found) > 0 {
			return nil
		}
		select {
		case <-ended:
			return fmt.Errorf("the server ended before it mounted anything")
		default:
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("nothing mounted at %s after %v", dir, timeout)
		}
		step := time.Now().Add(100 * time.Millisecond) // to notice that the server ended
		pollFD(int(f.Fd()), unix.POLLPRI, step)
	}
}
