// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package confine

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// The steps change the whole process, so each case runs in a child: this test
// binary again, with the name of an action in its environment.
const actionEnv = "FSVA_CONFINE_TEST_ACTION"

var actions = map[string]func() error{
	"root":           actRoot,
	"drop-all":       func() error { return actDrop() },
	"drop-file-caps": func() error { return actDrop(FileCapabilities...) },
	"allowed":        func() error { return actFilter(Channel, work) },
	"allowed-files":  func() error { return actFilter(Files, workOnFiles) },
	"socket": func() error {
		return actFilter(Channel, func() error { _, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0); return err })
	},
	"rename": func() error { return actFilter(Channel, func() error { return os.Rename("/a", "/b") }) },
	"exec": func() error {
		return actFilter(Files, func() error { return unix.Exec("/bin/true", []string{"true"}, nil) })
	},
	"executable-mmap": func() error { return actFilter(Files, executableMapping) },
	"ptrace":          func() error { return actFilter(Files, func() error { return unix.PtraceAttach(1) }) },
}

func TestMain(m *testing.M) {
	name := os.Getenv(actionEnv)
	if name == "" {
		os.Exit(m.Run())
	}
	if err := actions[name](); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// run executes an action in a child with its own mount namespace.
func run(t *testing.T, action string, env ...string) (string, error) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root: mount namespaces and capabilities")
	}
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), append(env, actionEnv+"="+action)...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNS}
	out, err := cmd.CombinedOutput()
	return strings.TrimSpace(string(out)), err
}

func actRoot() error {
	err := EnterRoot(Root{
		Binds: []Bind{
			{Host: os.Getenv("RW"), Path: "/source"},
			{Host: os.Getenv("RO"), Path: "/a/b/file", ReadOnly: true},
		},
		Tmpfs: []Tmpfs{{Path: "/mem", Size: 1 << 20}},
	})
	if err != nil {
		return err
	}
	if err := os.WriteFile("/source/new", []byte("x"), 0o644); err != nil {
		return err
	}
	if err := os.WriteFile("/mem/new", []byte("x"), 0o644); err != nil {
		return err
	}
	if err := os.WriteFile("/mem/big", make([]byte, 2<<20), 0o644); !errors.Is(err, unix.ENOSPC) {
		return fmt.Errorf("writing more than the tmpfs holds: got %v, want ENOSPC", err)
	}
	if err := os.WriteFile("/a/b/file", []byte("x"), 0o644); !errors.Is(err, unix.EROFS) {
		return fmt.Errorf("write through a read-only bind: got %v, want EROFS", err)
	}
	if err := os.Mkdir("/x", 0o755); !errors.Is(err, unix.EROFS) {
		return fmt.Errorf("mkdir in the root: got %v, want EROFS", err)
	}
	entries, err := os.ReadDir("/")
	if err != nil {
		return err
	}
	for _, e := range entries {
		fmt.Println(e.Name())
	}
	return nil
}

func TestEnterRootShowsOnlyItsBinds(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	got, err := run(t, "root", "RW="+dir, "RO="+file)
	if err != nil {
		t.Fatalf("%v: %s", err, got)
	}
	if want := "a\nmem\nsource"; got != want {
		t.Errorf("the root holds %q, want %q", got, want)
	}
	if _, err := os.Stat(filepath.Join(dir, "new")); err != nil {
		t.Errorf("the write did not reach the host's directory: %v", err)
	}
}

func TestEnterRootNamesAMissingSource(t *testing.T) {
	got, err := run(t, "root", "RW=/does/not/exist", "RO=/dev/null")
	if err == nil || !strings.Contains(got, `"/does/not/exist"`) {
		t.Errorf("got %q, %v; want an error that names the source", got, err)
	}
}

func actDrop(keep ...int) error {
	if err := DropPrivileges(keep...); err != nil {
		return err
	}
	c, err := current()
	if err != nil {
		return err
	}
	fmt.Printf("%d %d %v %d", c.Effective, c.Permitted, c.NoNewPrivs, c.UID)
	return nil
}

func TestDropPrivileges(t *testing.T) {
	var file uint64
	for _, c := range FileCapabilities {
		file |= 1 << c
	}
	for action, want := range map[string]string{
		"drop-all":       fmt.Sprintf("0 0 true %d", Nobody),
		"drop-file-caps": fmt.Sprintf("%d %d true 0", file, file),
	} {
		t.Run(action, func(t *testing.T) {
			got, err := run(t, action)
			if err != nil || got != want {
				t.Errorf("got %q, %v; want %q", got, err, want)
			}
		})
	}
}

func actFilter(p Profile, after func() error) error {
	if err := InstallFilter(p); err != nil {
		return err
	}
	return after()
}

// work does a little of what the gofer does all day.
func work() error {
	done := make(chan error)
	go func() {
		fd, err := unix.MemfdCreate("test", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
		if err == nil {
			err = unix.Ftruncate(fd, 1<<16)
		}
		if err == nil {
			_, err = unix.Mmap(fd, 0, 1<<16, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
		}
		done <- err
	}()
	if err := <-done; err != nil {
		return err
	}
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	_, err = unix.Write(pair[0], make([]byte, 1000))
	return err
}

func workOnFiles() error {
	dir, err := os.MkdirTemp("", "confine")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	name := filepath.Join(dir, "f")
	if err := os.WriteFile(name, []byte("x"), 0o600); err != nil {
		return err
	}
	if err := os.Rename(name, name+"2"); err != nil {
		return err
	}
	_, err = os.ReadDir(dir)
	return err
}

func executableMapping() error {
	_, err := unix.Mmap(-1, 0, 4096, unix.PROT_READ|unix.PROT_EXEC, unix.MAP_ANON|unix.MAP_PRIVATE)
	return err
}

func TestFilterLetsTheGoferWork(t *testing.T) {
	for _, action := range []string{"allowed", "allowed-files"} {
		t.Run(action, func(t *testing.T) {
			if out, err := run(t, action); err != nil {
				t.Errorf("%v: %s", err, out)
			}
		})
	}
}

func TestFilterKillsOnForbiddenCalls(t *testing.T) {
	for _, action := range []string{"socket", "rename", "exec", "executable-mmap", "ptrace"} {
		t.Run(action, func(t *testing.T) {
			out, err := run(t, action)
			var exit *exec.ExitError
			if !errors.As(err, &exit) {
				t.Fatalf("got %v (%s), want a process killed by SIGSYS", err, out)
			}
			status := exit.Sys().(syscall.WaitStatus)
			if !status.Signaled() || status.Signal() != unix.SIGSYS {
				t.Errorf("got %v (%s), want a process killed by SIGSYS", exit, out)
			}
		})
	}
}

// confined is what a thread is left with.
type confined struct {
	Effective, Permitted uint64
	NoNewPrivs           bool
	UID                  int
}

// current reads the credentials of the calling thread.
func current() (confined, error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&hdr, &data[0]); err != nil {
		return confined{}, fmt.Errorf("capget: %w", err)
	}
	nnp, err := unix.PrctlRetInt(unix.PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0)
	if err != nil {
		return confined{}, fmt.Errorf("read no_new_privs: %w", err)
	}
	return confined{
		Effective:  uint64(data[1].Effective)<<32 | uint64(data[0].Effective),
		Permitted:  uint64(data[1].Permitted)<<32 | uint64(data[0].Permitted),
		NoNewPrivs: nnp == 1,
		UID:        unix.Getuid(),
	}, nil
}
