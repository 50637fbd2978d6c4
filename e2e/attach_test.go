// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"fsva/e2e/harness"
)

// TestMixedMounts runs one container with a volume beside what is not one: a tmpfs, a bind mount and a read-only bind
// mount. Each behaves as it would without the others.
func TestMixedMounts(t *testing.T) {
	d := env.Docker(t)
	v := serve(t, volumeName(t), "bindfs")
	rw, ro := env.TempDir(t), env.TempDir(t)
	for _, dir := range []string{rw, ro} {
		if err := os.WriteFile(filepath.Join(dir, "from-host"), []byte("host\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	out := d.Must(t, harness.Container{
		Mounts: []string{rw + ":/rw", ro + ":/ro:ro", v.Mount("/data")},
		Flags:  []string{"--tmpfs", "/scratch:size=1m"},
		Args: []string{"sh", "-ec", `
			cat /rw/from-host /ro/from-host
			for dir in /rw /data /scratch; do echo "in $dir" >$dir/f; cat $dir/f; done
			! touch /ro/f 2>/tmp/err; grep -q 'Read-only file system' /tmp/err
			! dd if=/dev/zero of=/scratch/big bs=1M count=3 2>/tmp/err; grep -q 'No space left' /tmp/err
			touch /tmp/in-root; ls -a /data; grep -c ' /data ' /proc/mounts`},
	})
	want := "host\nhost\nin /rw\nin /data\nin /scratch\n.\n..\nf\n1\n"
	if out != want {
		t.Errorf("output:\n%s\nwant:\n%s", out, want)
	}
	if b, err := os.ReadFile(filepath.Join(rw, "f")); err != nil || string(b) != "in /rw\n" {
		t.Errorf("bind mount on the host: %q, %v", b, err)
	}
}

// TestTwoVolumes mounts two volumes of different kinds in one container, one of them read-only.
func TestTwoVolumes(t *testing.T) {
	d := env.Docker(t)
	a := serve(t, volumeName(t)+"-a", "mem")
	b := serve(t, volumeName(t)+"-b", "tar")
	out := d.Must(t, harness.Container{
		Mounts: []string{a.Mount("/a"), b.Mount("/b/nested")},
		Args:   []string{"sh", "-ec", `cp -r /b/nested/dir /a/copy; cat /a/copy/sub/deep/file; ! touch /b/nested/x 2>/dev/null`},
	})
	if out != "deep" {
		t.Errorf("output %q", out)
	}
}

// TestReadOnlyMount mounts a writable volume read-only: by docker's :ro, and by fsva serve --readonly.
func TestReadOnlyMount(t *testing.T) {
	d := env.Docker(t)
	dir := env.Tmpfs(t)
	if err := os.WriteFile(filepath.Join(dir, "f"), []byte("kept\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	script := `cat /data/f; ! echo new >/data/f; ! touch /data/g; ! rm /data/f; ! chmod 600 /data/f; ls /data`
	check := func(mount string) {
		t.Helper()
		if out := d.Shell(t, "("+script+") 2>/tmp/err; grep -c 'Read-only file system' /tmp/err", mount); out != "kept\nf\n4\n" {
			t.Errorf("%s: output %q", mount, out)
		}
	}
	v := env.Serve(t, volumeName(t), "--appliance", "dir", "--source", dir)
	check(v.Mount("/data:ro"))
	v.Stop(t)
	v = env.Serve(t, volumeName(t), "--appliance", "dir", "--source", dir, "--readonly")
	check(v.Mount("/data"))
}

// TestVolumeNotRunning starts containers on the directory of a volume that nobody serves: one whose supervisor was
// killed. docker run fails, and says which volume it is and what to do.
func TestVolumeNotRunning(t *testing.T) {
	d := env.Docker(t)
	v := serve(t, volumeName(t), "mem")
	v.Kill(t)
	r := d.Run(t, harness.Container{Mounts: []string{v.Mount("/data")}, Args: []string{"true"}})
	if r.Code == 0 {
		t.Fatal("docker run succeeded on a volume that is not running")
	}
	wantLine(t, r.Stderr, v.Name, "fsva serve")
	// The next of the same name takes over what the dead one left.
	again := serve(t, v.Name, "mem")
	d.Shell(t, "echo x >/data/f", again.Mount("/data"))
}

// wantLine verifies that stderr has one line with each of the texts.
func wantLine(t *testing.T, stderr string, texts ...string) {
	t.Helper()
	for line := range strings.Lines(stderr) {
		all := true
		for _, text := range texts {
			all = all && strings.Contains(line, text)
		}
		if all {
			return
		}
	}
	t.Errorf("stderr has no line with %q:\n%s", texts, stderr)
}

// TestExclusiveRefusesSecondClient verifies that an exclusive volume has one client at a time, and that the refusal
// names the volume, the container in the way and the remedy.
func TestExclusiveRefusesSecondClient(t *testing.T) {
	d := env.Docker(t)
	v := serve(t, volumeName(t), "bindfs")
	first := d.Start(t, harness.Container{Mounts: []string{v.Mount("/data")}})
	first.Shell(t, "echo one >/data/f")
	for _, dest := range []string{"/data", "/data:ro"} {
		r := d.Run(t, harness.Container{Mounts: []string{v.Mount(dest)}, Args: []string{"cat", "/data/f"}})
		if r.Code == 0 {
			t.Errorf("a second client (%s) of an exclusive volume got in: %s", dest, r.Stdout)
			continue
		}
		wantLine(t, r.Stderr, v.Name, "exclusive", first.ID(t)[:12], "shared")
	}
	// The refused ones did not disturb the first.
	if out := first.Shell(t, "echo two >>/data/f; cat /data/f"); out != "one\ntwo\n" {
		t.Errorf("first client reads %q", out)
	}
	first.Stop(t)
	eventually(t, "the volume is free again", func() error {
		r := d.Run(t, harness.Container{Mounts: []string{v.Mount("/data")}, Args: []string{"cat", "/data/f"}})
		if r.Code != 0 || r.Stdout != "one\ntwo\n" {
			return fmt.Errorf("exit code %d: %s%s", r.Code, r.Stdout, r.Stderr)
		}
		return nil
	})
}

// eventually waits until check succeeds, at most ten seconds.
func eventually(t *testing.T, what string, check func() error) {
	t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for {
		err := check()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: %v", what, err)
		}
		time.Sleep(50 * time.Millisecond) // a poll for what has no event; the deadline bounds it
	}
}

// TestSharedVolume attaches four containers to one shared volume: each sees what the others do, at once.
func TestSharedVolume(t *testing.T) {
	d := env.Docker(t)
	for _, appliance := range []string{"dir", "bindfs"} {
		t.Run(appliance, func(t *testing.T) {
			v := serve(t, volumeName(t), appliance, "--coherence", "shared")
			var c [4]*harness.Running
			for i := range c {
				c[i] = d.Start(t, harness.Container{Mounts: []string{v.Mount("/data")}})
			}
			for i := range c {
				c[i].Shell(t, fmt.Sprintf("echo from %d >/data/f%d; echo line %d >>/data/log", i, i, i))
				for j := range c {
					want := fmt.Sprintf("from %d\n", i)
					if got := c[j].Shell(t, fmt.Sprintf("cat /data/f%d", i)); got != want {
						t.Errorf("container %d reads %q from container %d, want %q", j, got, i, want)
					}
				}
			}
			for i := range c {
				if got, want := c[i].Shell(t, "cat /data/log"), "line 0\nline 1\nline 2\nline 3\n"; got != want {
					t.Errorf("container %d: log is %q, want %q", i, got, want)
				}
			}
			c[0].Shell(t, "mkdir /data/dir; echo moved >/data/dir/x; mv /data/dir/x /data/x; rm /data/f1; echo rewritten >/data/f2; chmod 751 /data/dir")
			for i := range c {
				got := c[i].Shell(t, "cat /data/x /data/f2; ls /data; ls /data/dir; stat -c %a /data/dir")
				if want := "moved\nrewritten\ndir\nf0\nf2\nf3\nlog\nx\n751\n"; got != want {
					t.Errorf("container %d sees %q, want %q", i, got, want)
				}
			}
			if got := c[3].Exec(t, "cat", "/data/f1"); got.Code == 0 {
				t.Errorf("container 3 still reads a file that container 0 removed: %q", got.Stdout)
			}
		})
	}
}

// TestNoLeaks starts and stops a container twenty times beside three that stay, on one shared volume. Afterwards the
// volume's processes hold what they held after the first round.
func TestNoLeaks(t *testing.T) {
	d := env.Docker(t)
	v := serve(t, volumeName(t), "bindfs", "--coherence", "shared")
	for range 3 {
		d.Start(t, harness.Container{Mounts: []string{v.Mount("/data")}})
	}
	cycle := func(i int) {
		t.Helper()
		script := fmt.Sprintf(`mkdir -p /data/d; exec 5>/data/d/open; for n in 1 2 3; do echo %d >/data/d/f$n; cat /data/d/f$n >&5; done; rm /data/d/f1; ls -l /data/d >/dev/null`, i)
		d.Shell(t, script, v.Mount("/data"))
	}
	cycle(0)
	cycle(1)
	before := usage(t, v)
	for i := range 20 {
		cycle(2 + i)
	}
	eventually(t, "usage is what it was before", func() error {
		if after := usage(t, v); after != before {
			return fmt.Errorf("after 20 cycles:\n%s\nbefore:\n%s", after, before)
		}
		return nil
	})
}

// usage describes what a volume's processes hold: how many they are, their descriptors and memfds, runsc's states.
func usage(t *testing.T, v *harness.Volume) string {
	t.Helper()
	var b strings.Builder
	for _, p := range v.Processes() {
		// Inside a gVisor sandbox the number of descriptors follows the FS server's caches; only that it exists counts.
		if strings.HasPrefix(p.Comm, "runsc") || strings.HasPrefix(p.Comm, "exe") {
			fmt.Fprintf(&b, "%d %s\n", p.PID, p.Comm)
			continue
		}
		fds, err := harness.FDs(p.PID)
		if err != nil {
			continue // it ended meanwhile; then the list differs
		}
		memfds, err := harness.Memfds(p.PID)
		if err != nil {
			continue
		}
		fmt.Fprintf(&b, "%d %s: %d descriptors, %d memfds\n", p.PID, p.Comm, len(fds), memfds)
	}
	states, err := env.RunscStates()
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprintf(&b, "runsc states: %q\n", states)
	return b.String()
}

// TestServeCycles starts and stops one volume again and again; Stop verifies each time that nothing is left.
func TestServeCycles(t *testing.T) {
	dir := env.Tmpfs(t)
	for i := range 5 {
		for _, isolation := range []string{"gvisor", "process"} {
			v := env.Serve(t, volumeName(t), "--appliance", "bindfs", "--source", dir, "--isolation", isolation)
			env.Docker(t).Shell(t, fmt.Sprintf("echo %d >>/data/log; [ $(wc -l </data/log) -ge %d ]", i, 2*i+1), v.Mount("/data"))
			v.Stop(t)
		}
	}
	if states, err := env.RunscStates(); err != nil || len(states) > 0 {
		t.Errorf("runsc states: %q, %v", states, err)
	}
}

// TestStopWithClient stops a volume that a container uses: what the container wrote is there, its later requests fail,
// and the container itself lives.
func TestStopWithClient(t *testing.T) {
	d := env.Docker(t)
	dir := env.Tmpfs(t)
	v := env.Serve(t, volumeName(t), "--appliance", "bindfs", "--source", dir)
	c := d.Start(t, harness.Container{Mounts: []string{v.Mount("/data")}, Args: []string{"sh", "-c",
		"exec 5>/data/open; echo written >&5; sleep 3600"}})
	eventually(t, "the container has written", func() error {
		_, err := os.Stat(filepath.Join(dir, "open"))
		return err
	})
	c.Shell(t, "echo more >/data/more")
	v.Stop(t)
	for name, want := range map[string]string{"open": "written\n", "more": "more\n"} {
		if b, err := os.ReadFile(filepath.Join(dir, name)); err != nil || string(b) != want {
			t.Errorf("%s after the stop: %q, %v", name, b, err)
		}
	}
	if r := c.Exec(t, "sh", "-c", "echo late >/data/late"); r.Code == 0 {
		t.Error("a write after the stop succeeded")
	}
	c.Shell(t, "true")
}

// TestCommands drives a running volume by fsva ls, stat and stop.
func TestCommands(t *testing.T) {
	harness.NeedRoot(t)
	v := serve(t, volumeName(t), "mem")
	eventually(t, "one readiness line", func() error {
		if line := v.Stdout(); strings.Count(line, "\n") != 1 || !strings.Contains(line, "ready at "+v.Dir) {
			return fmt.Errorf("%q does not name %s", line, v.Dir)
		}
		return nil
	})
	for _, args := range [][]string{{"ls"}, {"stat", v.Name}, {"stat", v.Name, "--json"}} {
		r := env.FSVA(t, args...)
		if r.Code != 0 || !strings.Contains(r.Stdout, v.Name) || !strings.Contains(r.Stdout, "mem") {
			t.Errorf("fsva %q: exit code %d\n%s%s", args, r.Code, r.Stdout, r.Stderr)
		}
	}
	if r := env.FSVA(t, "stop", v.Name); r.Code != 0 {
		t.Errorf("fsva stop: exit code %d: %s", r.Code, r.Stderr)
	}
	v.Ended(t)
	if r := env.FSVA(t, "stat", v.Name); r.Code != 1 {
		t.Errorf("fsva stat of a stopped volume: exit code %d, want 1", r.Code)
	}
	if r := env.FSVA(t, "ls"); r.Code != 0 || strings.Contains(r.Stdout, v.Name) {
		t.Errorf("fsva ls after the stop: exit code %d\n%s", r.Code, r.Stdout)
	}
}

// TestKilledSupervisor kills a supervisor: its processes end with it, and fsva ls removes what it left.
func TestKilledSupervisor(t *testing.T) {
	harness.NeedRoot(t)
	for _, isolation := range []string{"gvisor", "process"} {
		t.Run(isolation, func(t *testing.T) {
			v := serve(t, volumeName(t), "bindfs", "--isolation", isolation)
			v.Kill(t)
			if r := env.FSVA(t, "ls"); r.Code != 0 || strings.Contains(r.Stdout, v.Name) {
				t.Errorf("fsva ls: exit code %d\n%s%s", r.Code, r.Stdout, r.Stderr)
			}
			if err := env.NothingLeft(v.Name); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestDeadServer kills the FS server below a running container: requests fail at once, fsva ls says why, and the volume
// still stops in order.
func TestDeadServer(t *testing.T) {
	d := env.Docker(t)
	v := serve(t, volumeName(t), "bindfs", "--isolation", "process")
	c := d.Start(t, harness.Container{Mounts: []string{v.Mount("/data")}})
	c.Shell(t, "echo x >/data/f")
	killed := 0
	for _, p := range v.Processes() {
		if p.Comm == "bindfs" {
			if err := unix.Kill(p.PID, unix.SIGKILL); err != nil {
				t.Fatal(err)
			}
			killed++
		}
	}
	if killed == 0 {
		t.Fatalf("no bindfs process: %v", v.Processes())
	}
	eventually(t, "fsva ls shows the failure", func() error {
		r := env.FSVA(t, "ls")
		if r.Code != 0 || !strings.Contains(r.Stdout, "failed") {
			return fmt.Errorf("exit code %d: %s%s", r.Code, r.Stdout, r.Stderr)
		}
		return nil
	})
	start := time.Now()
	if r := c.Exec(t, "sh", "-c", "echo y >/data/new"); r.Code == 0 {
		t.Error("a create succeeded without a server")
	}
	if took := time.Since(start); took > 20*time.Second {
		t.Errorf("the failure took %v", took)
	}
}

// TestAttributeErrors verifies that an attribute which the file system refuses to change is an error of the system call
// in both modes. In shared mode the sentry drops the failure mask of lisafs, so the reply itself has to fail.
func TestAttributeErrors(t *testing.T) {
	d := env.Docker(t)
	for _, coherence := range []string{"exclusive", "shared"} {
		t.Run(coherence, func(t *testing.T) {
			dir := env.Tmpfs(t)
			path := filepath.Join(dir, "f")
			if err := os.WriteFile(path, []byte("content"), 0o644); err != nil {
				t.Fatal(err)
			}
			setImmutable(t, path, true)
			t.Cleanup(func() { setImmutable(t, path, false) })
			flags := []string{"--appliance", "dir", "--source", dir}
			if coherence == "shared" {
				flags = append(flags, "--coherence", "shared")
			}
			v := env.Serve(t, volumeName(t), flags...)
			for _, cmd := range []string{"chmod 600 /data/f", "chown 1:1 /data/f", "touch -d 2001-01-01 /data/f", "truncate -s 1 /data/f"} {
				r := d.Run(t, harness.Container{Mounts: []string{v.Mount("/data")}, Args: []string{"sh", "-c", cmd}})
				if r.Code == 0 || !strings.Contains(r.Stderr, "not permitted") {
					t.Errorf("%s of an immutable file: exit code %d, stderr %q", cmd, r.Code, r.Stderr)
				}
			}
		})
	}
}

// setImmutable sets or clears the flag that lets not even root change a file.
func setImmutable(t *testing.T, path string, on bool) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	const immutable = 0x10 // FS_IMMUTABLE_FL
	flags := 0
	if on {
		flags = immutable
	}
	if err := unix.IoctlSetPointerInt(int(f.Fd()), unix.FS_IOC_SETFLAGS, flags); err != nil {
		t.Fatalf("FS_IOC_SETFLAGS: %v", err)
	}
}
